"""Accounts of connections: how much memory the open ones take, and what is logged and counted of those that have ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from .. import logs
from ..model.grants import UNVERIFIED
from ..model.records import PodAddresses
from .decide import Policy, group
from .flow import Allowed, Asked, Connected, Flow
from .hosts import normal
from .limits import UNVERIFIED_SHARE
from .metrics import Metrics
from .refusals import End, Reason, Refusal
from .wanted_hosts import WantedHosts

MOST_WAITING_BYTES = 128 * 1024 * 1024
"""The most memory that the kernel may take for bytes that wait in sockets, for all servers together: half of what the chart gives
the proxy. Beyond that, connections of the server with the most are cut (D-344)."""


class OpenConnections:
    """The connections that are allowed, by pod."""

    def __init__(self) -> None:
        self._of: dict[str, set[Allowed]] = {}

    def of(self, uid: str) -> list[Allowed]:
        """The connections of a pod."""
        return list(self._of.get(uid, ()))

    @contextmanager
    def holding(self, flow: Allowed) -> Iterator[None]:
        """A connection is one of these meanwhile."""
        flows = self._of.setdefault(flow.pod.uid, set())
        flows.add(flow)
        try:
            yield
        finally:
            flows.discard(flow)
            if not flows:
                del self._of[flow.pod.uid]

    def cut_waiting(self) -> None:
        """Cut connections while too much memory waits: of unverified servers beyond their share, then of all beyond the limit. Each
        is the largest connection of the server that has the most."""
        waiting: dict[str, list[tuple[int, Allowed]]] = {}
        unverified: dict[str, list[tuple[int, Allowed]]] = {}
        for uid, flows in self._of.items():
            found = waiting[uid] = sorted(((one.waiting, one) for one in flows if not one.flow.cut), key=lambda pair: pair[0])
            if all(one.pod.tier == UNVERIFIED for one in flows):
                unverified[uid] = found
        for servers, most in ((unverified, MOST_WAITING_BYTES * UNVERIFIED_SHARE), (waiting, MOST_WAITING_BYTES)):
            held = {uid: sum(number for number, _ in found) for uid, found in servers.items()}
            total = sum(held.values())
            while total > most:
                greediest = max(held, key=lambda uid: held[uid])
                number, one = servers[greediest].pop()
                held[greediest] -= number
                total -= number
                one.flow.end(Reason.NOT_TAKEN)


class EndedConnections:
    """Logs and counts connections that have ended.

    Args:
        policy: the groups of hosts.
        metrics: counts connections.
        wanted: the hosts that unverified servers asked for and did not get.
        log_allowed: whether allowed connections are logged, too.
        clock: monotonic time in seconds.
    """

    def __init__(self, policy: Policy, metrics: Metrics, wanted: WantedHosts, log_allowed: bool, clock: Callable[[], float]):
        self._policy, self._metrics, self._wanted, self._log_allowed = policy, metrics, wanted, log_allowed
        self._refusals = logs.Refusals(clock)

    def note(self, flow: Flow, asked: Asked | None, pod: PodAddresses | None, end: Refusal | End) -> None:
        """Log and count a connection. Without a request, only a refusal counts.

        Args:
            flow: the connection.
            asked: its last phase; None: no request was read.
            pod: the pod that opened it; None: unknown.
            end: its refusal, or how it ended otherwise.
        """
        if not (asked or isinstance(end, Refusal)):
            return
        decision = "refused" if isinstance(end, Refusal) else "cut" if flow.cut else "allowed"
        why = str((end.reason if isinstance(end, Refusal) else flow.cut) or "")
        host, port = (asked.request.host, asked.request.port) if asked else ("", 0)
        moved = asked.moved if isinstance(asked, Connected) else 0
        tier, listed = pod.tier if pod else "unknown", ""
        if pod and (name := normal(host)):
            listed = group(pod, name, self._policy)
            if tier == UNVERIFIED and why in (Reason.NOT_LISTED, Reason.NO_HOSTS) and decision == "refused":
                self._wanted.note(pod.repository, name)
        self._metrics.note(decision, why, tier, listed, moved)
        if decision == "allowed" and not self._log_allowed:
            return
        fields = {
            "user": pod.user if pod else "",
            "server": pod.server if pod else "",
            "repository": pod.repository[:200] if pod else "",
            "host": quote(host, safe="[]:*")[:253],
            "port": port,
            "decision": decision,
            "rule": why or end,
            "bytes": moved,
            "milliseconds": round((time.monotonic() - flow.began) * 1000),
        }
        if decision == "refused":
            # Each rule for itself, so that many lines of one do not hide another's.
            self._refusals.decision("proxy", (pod.uid if pod else flow.address, why), **fields)
        else:
            logs.decision("proxy", **fields)
