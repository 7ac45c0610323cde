"""Launch BinderHub servers with network egress, from terminals and scripts.

A hub with binder-egress gives egress to servers whose launch carried a solved challenge. `Launch` launches like any client,
solves the challenge meanwhile, and reports the outcome. `unlock` gives a running server egress or renews its lease; `keep` does so
for a while. `Verifier` is the client of the HTTP interface that they use. The command is in `command`.
"""

from importlib.metadata import PackageNotFoundError, version

__version__: str
try:
    __version__ = version("binder-egress-client")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0.0.0"

from .launch import Event, Launch, LaunchFailed
from .unlocking import Outcome, await_egress, keep, unlock
from .verifier import NoAnswer, NoGate, Refused, Server, Verifier

__all__ = [
    "Event",
    "Launch",
    "LaunchFailed",
    "NoAnswer",
    "NoGate",
    "Outcome",
    "Refused",
    "Server",
    "Verifier",
    "await_egress",
    "keep",
    "unlock",
]
