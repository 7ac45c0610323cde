"""The operators' actions, for the command `egress` and for the in-cluster interface: a file for each.

They do not use the Kubernetes API. An action writes to Redis, the reconciler carries it out (`reconciler.wanted`), and the action
waits for the reconciler's confirmation. Each raises `ActionRefused` if it is impossible, and `StoreUnavailable` if Redis fails.
`by` is the operator, and `why` the reason.
"""

from .block import block
from .confirmation import await_acted
from .context import ActionRefused, CommandOperators, Operators
from .create_key import create_key
from .explain import explain
from .grant import grant
from .lists import blocks, counts, grants, keys, unreadable, wanted_hosts
from .report import check_source, report
from .revoke import revoke
from .revoke_key import revoke_key
from .unblock import unblock

__all__ = [
    "ActionRefused", "CommandOperators", "Operators", "await_acted", "block", "blocks", "check_source", "counts", "create_key",
    "explain", "grant", "grants", "keys", "report", "revoke", "revoke_key", "unblock", "unreadable", "wanted_hosts",
]  # fmt: skip
