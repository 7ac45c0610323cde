"""The command `binder-egress proxy`, from the sources, with numbers as a test sets them."""

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
