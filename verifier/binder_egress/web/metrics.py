"""The verifier's Prometheus metrics. Each metric is a row: of `Metrics` if this process counts it, else of `OWN` or `SHARED`."""

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field, fields
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..captcha import Captcha, State
from ..gate.clients import FEW_LAUNCHES, LaunchShares
from ..model.ping import WAYS
from ..model.records import GateFindings, Node
from ..model.serialization import reader
from ..operators import actions
from ..operators.actions import Operators
from ..operators.actions.answers import KeyRow
from ..settings import Source, VerifierSettings
from ..store.errors import StoreUnavailable
from ..store.reconciler_counters import (
    ACCESS,
    ACCESS_TIMES,
    AT_READY_SECONDS,
    DETECTIONS,
    EXPIRIES,
    FAILURES,
    GRANTS,
    HINDERED,
    LAG,
    LAG_BUCKETS,
    LAG_TIME,
    LINE_OUTCOMES,
    NOT_COVERED,
    PING,
    REPORTED,
    START_GUARD,
    START_GUARD_OUTCOMES,
    START_GUARD_TIME,
    WITHOUT_RECORD,
    DetectionOutcome,
    detection_counter,
)
from ..store.store import VerifierStore
from .claims import CLAIMS

PREFIX = "binder_egress_"

COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily

_labels = reader(tuple[str, str, str])


def _counter(name: str, labels: str, help: str) -> Any:
    return field(default_factory=lambda: Counter(PREFIX + name, help, labels.split(), registry=None))


def _histogram(name: str, labels: str, help: str, *buckets: float) -> Any:
    return field(default_factory=lambda: Histogram(PREFIX + name, help, labels.split(), buckets=buckets, registry=None))


@dataclass
class Metrics:
    """The metrics of one app, and what it counts itself: a field for each.

    Args:
        store: where the reconciler's counters are.
        captcha: the providers.
        settings: for the operators' blocks and keys, and the sources of reports.
    """

    store: InitVar[VerifierStore]
    captcha: InitVar[Captcha]
    settings: InitVar[VerifierSettings]
    launches: Counter = _counter(
        "launches", "tier rule pass_outcome",
        "Launches that BinderHub announced, by the tier and the rule that decided, and by what became of the pass (none: there "
        "was none, or an earlier rule decided; promised: its solution was still to come). In mode observe: what would be "
        "decided.",
    )  # fmt: skip
    without_context: Counter = _counter(
        "launches_without_context", "",
        "Launches whose hook had no launch request. Anything but 0 means that the wiring of badge_base_url is lost.",
    )  # fmt: skip
    refused: Counter = _counter(
        "announcements_refused", "",
        "Launches that were announced with a wrong token, so that no captcha counts for them. BinderHub has an old token.",
    )  # fmt: skip
    claims: Counter = _counter(
        "launches_by_claim", "claim brought_pass",
        "Launches by what the User-Agent of their request claims to be, which anybody can forge, and by whether they brought a "
        "pass or a promise, good or bad. client: a known program; crawler: a bot; other: anything else; none: no User-Agent.",
    )  # fmt: skip
    solutions: Counter = _counter(
        "solutions", "provider purpose outcome",
        "Captcha solutions presented. unchecked: accepted while the provider is down (captcha.onOutage: allow). rejected: the "
        "client's fault; misconfigured: ours; unavailable: the provider's; replayed: used before; before-epoch: perhaps used "
        "before Redis was wiped; price-risen: the price has risen since its challenge; budget-spent: the client's network has "
        "spent its budget of passes; too-many-rejected: the network sent so many wrong ones that the provider was not asked; "
        "blocked, own-network: this client may not have egress.",
    )  # fmt: skip
    verify_seconds: Histogram = _histogram(
        "captcha_verify_seconds", "provider outcome",
        "Time to check a solution, by outcome. For a remote captcha provider nearly all of it is the wait for its answer.",
        0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5,
    )  # fmt: skip
    passes: Counter = _counter(
        "passes", "tier",
        "Passes issued, by tier. Most are presented with a launch; binder_egress_launches shows what became of them there.",
    )  # fmt: skip
    prices: Histogram = _histogram(
        "challenge_price", "",
        "Prices of issued challenges, in multiples of the base work.",
        1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100,
    )  # fmt: skip
    without_address: Counter = _counter(
        "clients_without_address", "",
        "Challenges issued and solutions presented without a client address on the internet. If this is nearly all of them, "
        "clients are in an intranet, or a proxy hides them.",
    )  # fmt: skip
    api_keys: Counter = _counter(
        "api_key_requests", "key outcome",
        "Requests for a pass with an API key, by the key's name. issued: a pass for one server; spent: the key has had its "
        "servers of the day; other-origin: the key is for other pages; blocked, own-network: this client may not have egress. "
        "Without a name: wrong: not a key of this site; too-many: the same, from a network that had sent many.",
    )  # fmt: skip
    unlocks: Counter = _counter(
        "unlocks", "outcome",
        "Requests to unlock a running server, or to renew its lease. pending: the reconciler had not confirmed it in time; "
        "had-it: there was nothing to gain; outranked: an unlock that gives more was waiting; lease-given: by the same pass, "
        "before; blocked, blocked-repository, own-network: the rule that refuses egress.",
    )  # fmt: skip
    unlock_seconds: Histogram = _histogram(
        "unlock_seconds", "",
        "Time from an accepted unlock to the reconciler's confirmation.",
        0.02, 0.05, 0.1, 0.2, 0.5, 1, 2,
    )  # fmt: skip

    def __post_init__(self, store: VerifierStore, captcha: Captcha, settings: VerifierSettings) -> None:
        self.registry, self.launch_shares, self.refused_at = CollectorRegistry(), LaunchShares(), 0.0
        for row in fields(self):
            self.registry.register(getattr(self, row.name))
        for claim in CLAIMS:
            for brought in ("yes", "no"):
                self.claims.labels(claim, brought)
        self.registry.register(_Shown(captcha, self.launch_shares, Operators(settings, store), settings.detections))


@dataclass(frozen=True)
class _Own:
    """What this replica sees."""

    captcha: Captcha
    shares: LaunchShares
    store_answers: bool


@dataclass(frozen=True)
class _Shared:
    """What is in Redis: the counts of reconciler and receiver too, as the reconciler has no port (D-095, D-358)."""

    seen: float | None
    counters: dict[str, int]
    tiers: dict[str, int]
    gate: GateFindings
    blocks: dict[str, int]
    keys: list[KeyRow]
    lines: dict[tuple[str, str], int]
    memory: float | None

    def counted(self, prefix: str, names: tuple[str, ...]) -> dict[str, float]:
        """A counter for each name. All are there from the start, since no increase is seen in one that appears with 1 (D-096)."""
        return {name: self.counters.get(prefix + name, 0) for name in names}


Seen = TypeVar("Seen", _Own, _Shared)
_Samples = Mapping[str, float] | Mapping[Any, float] | float | None
"""A value, or a value for each label or combination of labels; None: there is no sample."""


@dataclass(frozen=True)
class Row(Generic[Seen]):
    """A metric that is read at each scrape.

    Attributes:
        family: its type.
        name: its name, without `PREFIX`.
        labels: the names of its labels, with spaces between them.
        samples: reads its values.
        help: what it says.
    """

    family: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    labels: str
    samples: Callable[[Seen], _Samples]
    help: str

    def metric(self, seen: Seen) -> Metric:
        """The metric with its values."""
        made, samples = self.family(PREFIX + self.name, self.help, labels=self.labels.split()), self.samples(seen)
        by_label = samples if isinstance(samples, Mapping) else {} if samples is None else {(): samples}
        for labels, value in by_label.items():
            made.add_metric([labels] if isinstance(labels, str) else labels, value)
        return made


def _up(own: _Own) -> Mapping[str, float]:
    return {provider.name: provider.state is not State.DOWN for provider in own.captcha.remotes}


def _misconfigured(own: _Own) -> Mapping[str, float]:
    return {provider.name: provider.state is State.MISCONFIGURED for provider in own.captcha.remotes}


def _grants(seen: _Shared) -> dict[tuple[str, ...], float]:
    named = {name.removeprefix(GRANTS): number for name, number in seen.counters.items() if name.startswith(GRANTS)}
    return {tuple(name.split(":", 1)): number for name, number in sorted(named.items())}


def _detections(seen: _Shared) -> dict[tuple[str, ...], float]:
    counted = {name: number for name, number in seen.counters.items() if name.startswith(DETECTIONS)}
    return {labels: number for name, number in sorted(counted.items()) if (labels := _labels(name.removeprefix(DETECTIONS)))}


def _reported(seen: _Shared) -> dict[tuple[str, ...], int]:
    counted = {name.removeprefix(REPORTED): number for name, number in seen.counters.items() if name.startswith(REPORTED)}
    found = {tuple(name.split(":")): number for name, number in counted.items()}
    return {labels: number for labels, number in found.items() if len(labels) == 3}


def _bypasses(seen: _Shared) -> Mapping[tuple[str, str], int]:
    judged = seen.gate.get("judgement")
    return Counts((rule["policy"], rule["direction"]) for rule in (judged["bypasses"] if judged else ()))


def _wrong_policies(seen: _Shared) -> float | None:
    judged = seen.gate.get("judgement")
    return len(judged["missing"]) + len(judged["altered"]) if judged else None


def _base_missing(seen: _Shared) -> float | None:
    judged = seen.gate.get("judgement")
    return judged["base_missing"] if judged else None


def _canary_shut(seen: _Shared) -> Mapping[str, float]:
    canary = seen.gate.get("canary")
    return canary["targets"] if canary else {}


def _canary_hidden(seen: _Shared) -> float | None:
    canary = seen.gate.get("canary")
    return {"shown": 0, "hidden": 1}.get(canary["proxy"]) if canary else None


def _by_node(read: Callable[[Node], float | None]) -> Callable[[_Shared], dict[str, float]]:
    """A value for each node of which it is known."""

    def samples(seen: _Shared) -> dict[str, float]:
        values = {name: read(node) for name, node in seen.gate.get("nodes", {}).items()}
        return {name: value for name, value in values.items() if value is not None}

    return samples


def _node_delays(seen: _Shared) -> dict[tuple[str, ...], float]:
    nodes = seen.gate.get("nodes", {}).items()
    return {(name, way): node["labels"][way] for name, node in nodes for way in ("on", "off") if way in node["labels"]}


def _ended(seen: _Shared) -> dict[tuple[str, ...], float]:
    ended = seen.gate.get("ended", {}).items()
    return {(node, tier): number for node, counts in ended for tier, number in counts.items()}


OWN: tuple[Row[_Own], ...] = (
    Row(GAUGE, "launches_largest_share", "", lambda own: own.shares.largest(),
     f"The largest share of the last hour's launches that came from one address, 0 to 1; 0 for fewer than {FEW_LAUNCHES} "
     "launches. As this replica saw them."),
    Row(GAUGE, "captcha_provider_up", "provider", _up,
     "1 if a remote captcha provider answers, else 0."),
    Row(GAUGE, "captcha_provider_misconfigured", "provider", _misconfigured,
     "1 if a remote captcha provider does not accept this site's keys. It is then not offered. Else 0."),
    Row(GAUGE, "captcha_stand_in", "", lambda own: own.captcha.stands_in,
     "1 while proof of work is offered in place of a remote captcha provider (captcha.onOutage). Else 0."),
    Row(GAUGE, "store_up", "", lambda own: own.store_answers,
     "1 if Redis answers. Without it nothing can be granted."),
)  # fmt: skip
"""What this replica sees of itself."""

SHARED: tuple[Row[_Shared], ...] = (
    Row(GAUGE, "reconciler_last_seen_timestamp_seconds", "", lambda seen: seen.seen or 0,
     "The reconciler's last heartbeat; 0 after 30 s without one. Without the reconciler no new grant reaches a pod."),
    Row(COUNTER, "reconciler_failures", "", lambda seen: seen.counters.get(FAILURES, 0),
     "The reconciler's attempts on servers that the API server refused or did not answer, or that met a fault. Each is "
     "repeated after a second. While they go on, decisions do not reach those servers' pods."),
    Row(COUNTER, "grants", "tier rule", _grants,
     "Grants that the reconciler wrote on user pods, by tier and by the rule that decided. A pod's next grant counts again."),
    Row(COUNTER, "access", "when", lambda seen: seen.counted(ACCESS, ACCESS_TIMES),
     "User pods by when they first had a tier. launch: before their containers started; start: before the server was ready; "
     f"ready: at most {AT_READY_SECONDS} s after that; later: after that; never: they ended without."),
    Row(COUNTER, "user_pods_without_launch_record", "", lambda seen: seen.counters.get(WITHOUT_RECORD, 0),
     "User pods of BinderHub whose launch was not announced, or late. If users sign in, some may have been started again "
     "from the hub; otherwise this means that the hook's wiring is lost."),
    Row(COUNTER, "user_pods_hindered", "", lambda seen: seen.counters.get(HINDERED, 0),
     "User pods that could not start because of their start guard's image or limits, or because the sysctl of closePing was "
     "refused."),
    Row(GAUGE, "user_pods_not_covered", "", lambda seen: seen.tiers.get(NOT_COVERED),
     "User pods that our policies do not select, and so do not shut. No sample before the reconciler has listed the pods."),
    Row(COUNTER, "start_guards", "outcome", lambda seen: seen.counted(START_GUARD, START_GUARD_OUTCOMES),
     "User pods by what their start guard saw. closed: the network was open, then blocked; blocked: blocked from the start; "
     "off: there is no policy to wait for; absent: there is no guard; unknown_to_proxy: the egress proxy does not serve it. "
     "open, unclear, unable, failed, mistaken_by_proxy: the pod may have had egress that nobody granted."),
    Row(COUNTER, "start_guard_seconds", "", lambda seen: seen.counters.get(START_GUARD_TIME, 0) / 1000,
     "Total time that start guards took."),
    Row(COUNTER, "user_pods_with_ping", "way", lambda seen: seen.counted(PING, WAYS),
     "User pods that can ping. no-sysctl: the sysctl of closePing is missing; privileges: the user's code may be root, or "
     "gain privileges."),
    Row(COUNTER, "lease_expiries", "on_expiry", lambda seen: seen.counted(EXPIRIES, ("end", "stop")),
     "Leases that ended without a renewal. end: the server lost its tier; stop: its pod is deleted too, unless somebody "
     "unlocks it within two minutes."),
    Row(COUNTER, "reported_launches", "came had_tier use", _reported,
     "Launches that are over, by how they came, whether they ever had a tier, and whether they used the network beyond what the "
     "base policy opens: used, not used, not known (agent.report)."),
    Row(COUNTER, "detections", "source list outcome", _detections,
     "Reports of detectors by what became of them, source, and list where the values name it. observed: nothing else "
     "follows; revoked, stopped: the server lost its egress, or its pod too; limited: it would have, but detections had "
     "cut off too many in ten minutes; repeated: the same as before; unknown-pod, ended, elsewhere, outdated: no pod "
     "runs here that it could mean; other-node: an agent reported a pod of another node; failed: see the reconciler's log."),
    Row(COUNTER, "detection_reports", "source outcome", lambda seen: seen.lines,
     "Lines that detectors sent, by source. report: the reconciler reads it; other: it reports nothing; unreadable: egress "
     "detections unreadable shows it; too-many: refused, the source sent too many. Without a source: wrong-token."),
    Row(GAUGE, "user_pods", "tier", lambda seen: {tier: number for tier, number in seen.tiers.items() if tier != NOT_COVERED},
     "User pods by tier."),
    Row(GAUGE, "blocks", "kind", lambda seen: seen.blocks,
     "Blocks, operators' and detections', by kind."),
    Row(GAUGE, "api_key_servers", "key", lambda seen: {row["name"]: row["used"] for row in seen.keys},
     "Servers for which a key got passes in the last 24 hours."),
    Row(GAUGE, "api_key_servers_per_day", "key", lambda seen: {row["name"]: row["servers_per_day"] for row in seen.keys},
     "Servers that a key may have in 24 hours."),
    Row(GAUGE, "api_key_expires_timestamp_seconds", "key", lambda seen: {row["name"]: row["until"] for row in seen.keys},
     "When a key expires."),
    Row(GAUGE, "policies_read_timestamp_seconds", "", lambda seen: seen.gate.get("at", 0) if seen.gate.get("judgement") else 0,
     "When the reconciler last read the namespace's NetworkPolicies; 0 if it cannot. Then no bypass would be seen."),
    Row(GAUGE, "bypasses", "policy direction", _bypasses,
     "Rules of other NetworkPolicies that open more for an unverified user pod than the base policy, by policy and direction."),
    Row(GAUGE, "base_policy_missing", "", _base_missing,
     "1 if no base policy isolates user pods: the gate is open for everybody. Else 0."),
    Row(GAUGE, "policies_wrong", "", _wrong_policies,
     "The chart's policies that are missing, or differ from what the chart renders."),
    Row(GAUGE, "canary_shut", "target", _canary_shut,
     "The canary's attempts, by target: 1 if it is stopped, as a user pod without a tier must be; 0 if it gets through; no "
     "sample if that is not known."),
    Row(GAUGE, "proxy_addresses_hidden", "", _canary_hidden,
     "1 if the egress proxy sees a wrong address for the canary, and so serves nobody; 0 if it sees its own; no sample if that "
     "is not known."),
    Row(GAUGE, "label_delay_seconds", "change", lambda seen: seen.gate.get("label_delay", {}),
     "Time until a network plugin acts on a canary's label, on the slowest node, the longest of the last six measurements. on: "
     "until the first packet after it was set; off: until the first refusal after it was taken off. 60: longer than that. No "
     "sample before the first measurement."),
    Row(GAUGE, "node_user_pods", "node", _by_node(lambda node: node["user_pods"]),
     "User pods that run on a node."),
    Row(GAUGE, "node_shut", "node", _by_node(lambda node: {"shut": 1, "open": 0}.get(node["state"])),
     "1 if a node is shut for pods without a tier; 0 if something there is open; no sample if that is not known."),
    Row(GAUGE, "node_label_delay_seconds", "node change", _node_delays,
     "As binder_egress_label_delay_seconds, by node."),
    Row(GAUGE, "node_proxy_serves", "node", _by_node(lambda node: {"shown": 1, "hidden": 0, "silent": 0}.get(node["proxy"])),
     "1 if the egress proxy sees the own address of a node's canary; 0 if it sees another, or does not answer, or its policy "
     "refuses the canary; no sample if that is not known."),
    Row(GAUGE, "node_user_pods_unknown_to_proxy", "node", _by_node(lambda node: node["guards"].get("unknown_to_proxy", 0)),
     "User pods that run on a node, and that the egress proxy did not know when they started."),
    Row(COUNTER, "connections_ended", "node tier", _ended,
     "Open connections of user pods that the part on a node ended, by the tier that the pods then had."),
    Row(GAUGE, "node_agent", "node", _by_node(lambda node: node["agent"]),
     "1 if an agent runs on a node; 0 if not; no sample if agents are off."),
    # Redis is asked at each scrape, because a full one refuses what the reconciler publishes.
    Row(GAUGE, "redis_memory_used_ratio", "", lambda seen: seen.memory,
     "The share of its memory that Redis uses, 0 to 1. A full Redis accepts no grants. No sample if it has no limit, or does "
     "not reveal it."),
)  # fmt: skip
"""What is in Redis. Every replica shows the same values: take the maximum, not the sum."""


class _Shown(Collector):
    """The rows of `OWN`, and of `SHARED` while Redis answers."""

    def __init__(self, captcha: Captcha, shares: LaunchShares, operators: Operators, sources: Mapping[str, Source]):
        self._captcha, self._shares, self._operators = captcha, shares, operators
        # Shown from the start, as the outcomes of start guards are.
        rules = [(name, of) for name, source in sources.items() for of in ("", *source.lists)]
        self._no_detections = {detection_counter(*rule, outcome): 0 for rule in rules for outcome in DetectionOutcome}
        self._no_lines = {(source, outcome): 0 for source in sources for outcome in LINE_OUTCOMES}
        if sources:
            self._no_lines["", "wrong-token"] = 0

    def describe(self) -> list[Metric]:
        return []  # Without this, registering would collect, which needs Redis.

    def collect(self) -> Iterator[Metric]:
        shared = self._shared()
        for row in OWN:
            yield row.metric(_Own(self._captcha, self._shares, shared is not None))
        if shared:
            for shown in SHARED:
                yield shown.metric(shared)
            yield _lag(shared.counters)

    def _shared(self) -> _Shared | None:
        store = self._operators.store
        try:
            seen, counters, tiers = store.reconciler_state()
            return _Shared(
                seen,
                self._no_detections | counters,
                tiers,
                store.gatecheck(),
                actions.counts(self._operators),
                actions.keys(self._operators),
                {of: number for of, number in (self._no_lines | store.lines()).items() if of in self._no_lines},
                store.memory_used(),
            )
        except StoreUnavailable:
            return None


def _lag(counters: dict[str, int]) -> Metric:
    """How long servers waited for the reconciler: a histogram, made from its counters."""
    total, buckets = 0, []
    for bucket in LAG_BUCKETS:
        total += counters.get(LAG + bucket, 0)
        buckets.append((bucket, total))
    return HistogramMetricFamily(
        f"{PREFIX}reconciler_lag_seconds",
        "Time from the reconciler's first event about a server until its pod carries the decision, with all attempts that failed. "
        "If it grows, launches start without the network that was granted, and unlocks answer pending.",
        buckets=buckets,
        sum_value=counters.get(LAG_TIME, 0) / 1000,
    )
