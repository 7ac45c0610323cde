"""The command `binder-egress proxy`, from the sources, with the hosts of groups that an image's build has found."""

import os
import sys
from pathlib import Path

from verifier.cli import main
from verifier.proxy import hosts

if __name__ == "__main__":
    hosts.REGISTRIES = Path(os.environ.get("TEST_REGISTRIES", hosts.REGISTRIES))
    sys.argv[1:] = ["proxy"]
    main()
