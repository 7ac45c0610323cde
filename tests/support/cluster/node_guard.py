"""The node guard of docs/node-guard.yaml, installed on the node and removed again with the commands of docs/link-local.md."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import TOP
from tests.support.cluster.timeouts import COMMAND_SECONDS, POD_SECONDS
from tests.support.doc_examples import section
from tests.support.waiting import eventually

TABLE = ("table", "ip6", "binder-egress-node-guard")


def rules() -> str:
    """The guard's table as nft lists it on the node; empty without one."""
    return subprocess.run(("nft", "list", *TABLE), capture_output=True, text=True, check=False).stdout


def is_whole() -> bool:
    """Whether the table drops what it should."""
    dropped = ("ip6 saddr fe80::/10", "ip6 daddr fe80::/10", "ip6 daddr ff00::/8", "fib saddr . iif oif missing")
    return all(f"{each} drop" in rules() for each in dropped)


@contextmanager
def node_guard() -> Iterator[None]:
    """The guard, from the moment that its rules are in place. Afterwards nothing is left."""
    on, off = section("docs/link-local.md", "How to close them")
    try:
        on = on.replace("registry.example.org/", "localhost/")
        subprocess.run(["bash", "-euc", on], cwd=TOP, check=True, timeout=COMMAND_SECONDS)
        eventually(is_whole, POD_SECONDS, rules)
        yield
    finally:
        subprocess.run(["bash", "-euc", off], cwd=TOP, check=True, timeout=COMMAND_SECONDS)
        eventually(lambda: not rules(), POD_SECONDS)
