"""The command `binder-egress proxy`, from the sources, with numbers, and a task that fails (`TEST_FAULT`), as a test sets them."""

import asyncio
import os
import sys
from pathlib import Path

from verifier.cli import main
from verifier.proxy import connections, hosts, own_names, process


async def fail(*_: object) -> None:
    """A task that fails once the test asks for it."""
    while not Path(os.environ["TEST_FAULT"].split()[1]).exists():
        await asyncio.sleep(0.05)
    raise RuntimeError("the test asks for it")


if __name__ == "__main__":
    hosts.REGISTRIES = Path(os.environ.get("TEST_REGISTRIES", hosts.REGISTRIES))
    process.PUBLISH_SECONDS = float(os.environ.get("TEST_PUBLISH_SECONDS", process.PUBLISH_SECONDS))
    process.HUB_SECONDS = float(os.environ.get("TEST_HUB_SECONDS", process.HUB_SECONDS))
    if ports := os.environ.get("TEST_SOURCE_PORTS"):
        process.source_ports = lambda: int(ports)
    if fault := os.environ.get("TEST_FAULT"):
        task = fault.split()[0]
        owners = (connections.Proxy, own_names.OwnNames, process)
        setattr(next(owner for owner in owners if hasattr(owner, task)), task, fail)
    sys.argv[1:] = ["proxy"]
    main()
