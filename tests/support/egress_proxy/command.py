"""The command `binder-egress proxy`, from the sources, with the hosts of groups that the build of an image finds.

`TEST_PUBLISH_SECONDS` is the time between two publications of wanted hosts, `TEST_HUB_SECONDS` that between two looks for
JupyterHub's address, and `TEST_SOURCE_PORTS` the number of source ports that the machine seems to have.
"""

import os
import sys
from pathlib import Path

from verifier.cli import main
from verifier.proxy import hosts, process

if __name__ == "__main__":
    hosts.REGISTRIES = Path(os.environ.get("TEST_REGISTRIES", hosts.REGISTRIES))
    process.PUBLISH_SECONDS = float(os.environ.get("TEST_PUBLISH_SECONDS", process.PUBLISH_SECONDS))
    process.HUB_SECONDS = float(os.environ.get("TEST_HUB_SECONDS", process.HUB_SECONDS))
    if ports := os.environ.get("TEST_SOURCE_PORTS"):
        process.source_ports = lambda: int(ports)
    sys.argv[1:] = ["proxy"]
    main()
