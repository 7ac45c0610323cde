"""The metrics of the egress proxy, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .identities import Identities
from .limits import Usage
from .source_ports import SourcePorts
from .wanted_hosts import WantedHosts

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


class Metrics:
    """The metrics of one process.

    Attributes:
        resolved: the seconds that resolving names took.
        connected: the seconds that connecting to hosts took.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix = "binder_egress_proxy"
        self._connections = Counter(
            f"{prefix}_connections",
            "Connections that ended, by decision and group of hosts.",
            ["decision", "rule", "tier", "group"],
            registry=self._registry,
        )
        self._bytes = Counter(
            f"{prefix}_bytes", "Bytes of connections that ended, both ways.", ["tier", "group"], registry=self._registry
        )
        self._open = Gauge(f"{prefix}_open_connections", "Open connections.", ["who"], registry=self._registry)
        self._taken = Gauge(
            f"{prefix}_connections_taken", "Open connections, as a share of their limit.", ["who"], registry=self._registry
        )
        self._ports_taken = Gauge(
            f"{prefix}_source_ports_taken",
            "Source ports in use for the address with the most connections, as a share of their limit.",
            ["who"],
            registry=self._registry,
        )
        self._new_hosts = Counter(
            f"{prefix}_new_hosts",
            "Addresses that a server tried for the first time in a minute, by what became of them.",
            ["who", "outcome"],
            registry=self._registry,
        )
        self._pods = Gauge(f"{prefix}_pods", "Pods whose addresses are known.", registry=self._registry)
        self._twice = Gauge(f"{prefix}_addresses_claimed_twice", "Addresses that two pods claim.", registry=self._registry)
        self._fresh = Gauge(
            f"{prefix}_knows_pods", "1 if the reconciler was heard from in the last 30 s, else 0.", registry=self._registry
        )
        self._wanted = Gauge(
            f"{prefix}_wanted_hosts",
            "Times that unverified servers asked for a host that is not on their list; the hosts that were asked for most.",
            ["host"],
            registry=self._registry,
        )
        self.resolved = Histogram(f"{prefix}_resolve_seconds", "Seconds for a name.", buckets=_SECONDS, registry=self._registry)
        self.connected = Histogram(
            f"{prefix}_connect_seconds", "Seconds for connecting to a host.", buckets=_SECONDS, registry=self._registry
        )

    def note(self, decision: str, rule: str, tier: str, group: str, moved: int) -> None:
        """Count a connection that has ended.

        Args:
            decision: `allowed`, `refused` or `cut`.
            rule: the reason, if it was not allowed.
            tier: the tier of the pod, or `unknown`.
            group: the group by which the host is on the tier's list, as in `HostList.group`.
            moved: the bytes moved.
        """
        self._connections.labels(decision, rule, tier, group).inc()
        self._bytes.labels(tier, group).inc(moved)

    def new_host(self, who: str, outcome: str) -> None:
        """Count an address that is new to a server, as `NewHosts` notes it."""
        self._new_hosts.labels(who, outcome).inc()

    def state(self, identities: Identities, usage: Usage, ports: SourcePorts, wanted: WantedHosts) -> None:
        """Record the current state."""
        self._open.labels("verified").set(usage.connections - usage.unverified)
        self._open.labels("unverified").set(usage.unverified)
        for who, part in usage.taken().items():
            self._taken.labels(who).set(part)
        for who, part in ports.taken().items():
            self._ports_taken.labels(who).set(part)
        self._pods.set(len(identities))
        self._twice.set(len(identities.claimed_twice))
        self._fresh.set(identities.is_fresh)
        self._wanted.clear()
        for host, times in wanted.most().items():
            self._wanted.labels(host).set(times)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
