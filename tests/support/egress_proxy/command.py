"""The command `binder-egress proxy`, from the sources."""

import sys

from verifier.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["proxy"]
    main()
