"""The verifier's Prometheus metrics. The counts of reconciler and receiver come from Redis: the reconciler has no port (D-095,
D-358)."""

from collections import Counter as Counts
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..captcha import Captcha, State
from ..gate.clients import FEW_LAUNCHES, LaunchShares
from ..model.ping import WAYS
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
    DETECTION_OUTCOMES,
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
    START_GUARD,
    START_GUARD_OUTCOMES,
    START_GUARD_TIME,
    WITHOUT_RECORD,
    detection_counter,
)
from ..store.store import VerifierStore
from .claims import CLAIMS

_labels = reader(tuple[str, str, str])


class Metrics:
    """The metrics of one app.

    Args:
        store: where the reconciler's counters are.
        captcha: the providers.
        settings: for the operators' blocks and keys, and the sources of reports.
    """

    def __init__(self, store: VerifierStore, captcha: Captcha, settings: VerifierSettings):
        self.registry = CollectorRegistry()
        self.launches = Counter(
            "binder_egress_launches",
            "Launches that BinderHub announced, by the tier and the rule that decided, and by what became of the pass (none: there "
            "was none, or an earlier rule decided; promised: its solution was still to come). In mode observe: what would be "
            "decided.",
            ["tier", "rule", "pass_outcome"],
            registry=self.registry,
        )
        self.without_context = Counter(
            "binder_egress_launches_without_context",
            "Launches whose hook had no launch request. Anything but 0 means that the wiring of badge_base_url is lost.",
            registry=self.registry,
        )
        self.claims = Counter(
            "binder_egress_launches_by_claim",
            "Launches by what the User-Agent of their request claims to be, which anybody can forge, and by whether they brought a "
            "pass or a promise, good or bad. client: a known program; crawler: a bot; other: anything else; none: no User-Agent.",
            ["claim", "brought_pass"],
            registry=self.registry,
        )
        for claim in CLAIMS:
            for brought in ("yes", "no"):
                self.claims.labels(claim, brought)
        self.launch_shares = LaunchShares()
        largest = Gauge(
            "binder_egress_launches_largest_share",
            f"The largest share of the last hour's launches that came from one address, 0 to 1; 0 for fewer than {FEW_LAUNCHES} "
            "launches. As this replica saw them.",
            registry=self.registry,
        )
        largest.set_function(self.launch_shares.largest)
        self.solutions = Counter(
            "binder_egress_solutions",
            "Captcha solutions presented. unchecked: accepted while the provider is down (captcha.onOutage: allow). rejected: the "
            "client's fault; misconfigured: ours; unavailable: the provider's; replayed: used before; before-epoch: perhaps used "
            "before Redis was wiped; price-risen: the price has risen since its challenge; budget-spent: the client's network has "
            "spent its budget of passes; too-many-rejected: the network sent so many wrong ones that the provider was not asked; "
            "blocked, own-network: this client may not have egress.",
            ["provider", "purpose", "outcome"],
            registry=self.registry,
        )
        self.verify_seconds = Histogram(
            "binder_egress_captcha_verify_seconds",
            "Time to check a solution, by outcome. For a remote captcha provider nearly all of it is the wait for its answer.",
            ["provider", "outcome"],
            buckets=(0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.passes = Counter(
            "binder_egress_passes",
            "Passes issued, by tier. Most are presented with a launch; binder_egress_launches shows what became of them there.",
            ["tier"],
            registry=self.registry,
        )
        self.prices = Histogram(
            "binder_egress_challenge_price",
            "Prices of issued challenges, in multiples of the base work.",
            buckets=(1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100),
            registry=self.registry,
        )
        self.without_address = Counter(
            "binder_egress_clients_without_address",
            "Challenges issued and solutions presented without a client address on the internet. If this is nearly all of them, "
            "clients are in an intranet, or a proxy hides them.",
            registry=self.registry,
        )
        self.api_keys = Counter(
            "binder_egress_api_key_requests",
            "Requests for a pass with an API key, by the key's name. issued: a pass for one server; spent: the key has had its "
            "servers of the day; other-origin: the key is for other pages; blocked, own-network: this client may not have egress. "
            "Without a name: wrong: not a key of this site; too-many: the same, from a network that had sent many.",
            ["key", "outcome"],
            registry=self.registry,
        )
        self.unlocks = Counter(
            "binder_egress_unlocks",
            "Requests to unlock a running server, or to renew its lease. pending: the reconciler had not confirmed it in time; "
            "had-it: there was nothing to gain; outranked: an unlock that gives more was waiting; lease-given: by the same pass, "
            "before; blocked, blocked-repository, own-network: the rule that refuses egress.",
            ["outcome"],
            registry=self.registry,
        )
        self.unlock_seconds = Histogram(
            "binder_egress_unlock_seconds",
            "Time from an accepted unlock to the reconciler's confirmation.",
            buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
            registry=self.registry,
        )
        self.registry.register(_Providers(captcha))
        self.registry.register(_Reconciler(store, Operators(settings, store), settings.detections))


class _Providers(Collector):
    """The state of remote captcha providers, as this replica sees it."""

    def __init__(self, captcha: Captcha):
        self._captcha = captcha

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "binder_egress_captcha_provider_up", "1 if a remote captcha provider answers, else 0.", labels=["provider"]
        )
        wrong = GaugeMetricFamily(
            "binder_egress_captcha_provider_misconfigured",
            "1 if a remote captcha provider does not accept this site's keys. It is then not offered. Else 0.",
            labels=["provider"],
        )
        for provider in self._captcha.remotes:
            up.add_metric([provider.name], provider.state is not State.DOWN)
            wrong.add_metric([provider.name], provider.state is State.MISCONFIGURED)
        yield up
        yield wrong
        yield GaugeMetricFamily(
            "binder_egress_captcha_stand_in",
            "1 while proof of work is offered in place of a remote captcha provider (captcha.onOutage). Else 0.",
            value=self._captcha.stands_in,
        )


class _Reconciler(Collector):
    """The counters of reconciler and receiver in Redis, read at each scrape. Every replica shows the same values: take the maximum,
    not the sum."""

    def __init__(self, store: VerifierStore, operators: Operators, sources: Mapping[str, Source]):
        self._store = store
        self._operators = operators
        # Shown from the start, as the outcomes of start guards are.
        rules = [(name, of) for name, source in sources.items() for of in ("", *source.lists)]
        self._no_detections = {detection_counter(*rule, outcome): 0 for rule in rules for outcome in DETECTION_OUTCOMES}
        self._no_lines = {(source, outcome): 0 for source in sources for outcome in LINE_OUTCOMES}
        if sources:
            self._no_lines["", "wrong-token"] = 0

    def describe(self) -> list[Metric]:
        return []  # Without this, registering would collect, which needs Redis.

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("binder_egress_store_up", "1 if Redis answers. Without it nothing can be granted.")
        try:
            seen, counters, tiers = self._store.reconciler_state()
            gatecheck = self._store.gatecheck()
            blocked = actions.counts(self._operators)
            keys = actions.keys(self._operators)
            lines = self._store.lines()
            memory = self._store.memory_used()
        except StoreUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily(
            "binder_egress_reconciler_last_seen_timestamp_seconds",
            "The reconciler's last heartbeat; 0 after 30 s without one. Without the reconciler no new grant reaches a pod.",
            value=seen or 0,
        )
        yield _lag(counters)
        yield CounterMetricFamily(
            "binder_egress_reconciler_failures",
            "The reconciler's attempts on servers that the API server refused or did not answer, or that met a fault. Each is "
            "repeated after a second. While they go on, decisions do not reach those servers' pods.",
            value=counters.get(FAILURES, 0),
        )
        grants = CounterMetricFamily(
            "binder_egress_grants",
            "Grants that the reconciler wrote on user pods, by tier and by the rule that decided. A pod's next grant counts again.",
            labels=["tier", "rule"],
        )
        for name, number in sorted(counters.items()):
            if name.startswith(GRANTS):
                grants.add_metric(name.removeprefix(GRANTS).split(":", 1), number)
        yield grants
        access = CounterMetricFamily(
            "binder_egress_access",
            "User pods by when they first had a tier. launch: before their containers started; start: before the server was ready; "
            f"ready: at most {AT_READY_SECONDS} s after that; later: after that; never: they ended without.",
            labels=["when"],
        )
        for when in ACCESS_TIMES:
            access.add_metric([when], counters.get(f"{ACCESS}{when}", 0))
        yield access
        yield CounterMetricFamily(
            "binder_egress_user_pods_without_launch_record",
            "User pods whose launch was not announced. On an anonymous BinderHub this means that the hook's wiring is lost.",
            value=counters.get(WITHOUT_RECORD, 0),
        )
        yield CounterMetricFamily(
            "binder_egress_user_pods_hindered",
            "User pods that could not start because of their start guard's image or limits, or because the sysctl of closePing was "
            "refused.",
            value=counters.get(HINDERED, 0),
        )
        yield GaugeMetricFamily(
            "binder_egress_user_pods_not_covered",
            "User pods that our policies do not select, and so do not shut. No sample before the reconciler has listed the pods.",
            value=tiers.pop(NOT_COVERED, None),
        )
        guards = CounterMetricFamily(
            "binder_egress_start_guards",
            "User pods by what their start guard saw. closed: the network was open, then blocked; blocked: blocked from the start; "
            "off: there is no policy to wait for; absent: there is no guard; unknown_to_proxy: the egress proxy does not serve it. "
            "open, unclear, unable, failed, mistaken_by_proxy: the pod may have had egress that nobody granted.",
            labels=["outcome"],
        )
        for outcome in START_GUARD_OUTCOMES:  # D-096
            guards.add_metric([outcome], counters.get(f"{START_GUARD}{outcome}", 0))
        yield guards
        took = counters.get(START_GUARD_TIME, 0) / 1000
        yield CounterMetricFamily("binder_egress_start_guard_seconds", "Total time that start guards took.", value=took)
        ping = CounterMetricFamily(
            "binder_egress_user_pods_with_ping",
            "User pods that can ping. no-sysctl: the sysctl of closePing is missing; privileges: the user's code may be root, or "
            "gain privileges.",
            labels=["way"],
        )
        for way in WAYS:
            ping.add_metric([way], counters.get(f"{PING}{way}", 0))
        yield ping
        expiries = CounterMetricFamily(
            "binder_egress_lease_expiries",
            "Leases that ended without a renewal. end: the server lost its tier; stop: its pod is deleted too, unless somebody "
            "unlocks it within two minutes.",
            labels=["on_expiry"],
        )
        for on_expiry in ("end", "stop"):
            expiries.add_metric([on_expiry], counters.get(f"{EXPIRIES}{on_expiry}", 0))
        yield expiries
        detections = CounterMetricFamily(
            "binder_egress_detections",
            "Reports of detectors by what became of them, source, and list where the values name it. observed: nothing else "
            "follows; revoked, stopped: the server lost its egress, or its pod too; limited: it would have, but detections had "
            "cut off too many in ten minutes; repeated: the same as before; unknown-pod, ended, elsewhere, outdated: no pod "
            "runs here that it could mean; other-node: an agent reported a pod of another node; failed: see the reconciler's log.",
            labels=["source", "list", "outcome"],
        )
        counted = {name: number for name, number in counters.items() if name.startswith(DETECTIONS)}
        for name, number in sorted((self._no_detections | counted).items()):
            if labels := _labels(name.removeprefix(DETECTIONS)):
                detections.add_metric(labels, number)
        yield detections
        reports = CounterMetricFamily(
            "binder_egress_detection_reports",
            "Lines that detectors sent, by source. report: the reconciler reads it; other: it reports nothing; unreadable: egress "
            "detections unreadable shows it; too-many: refused, the source sent too many. Without a source: wrong-token.",
            labels=["source", "outcome"],
        )
        for (source, outcome), none in self._no_lines.items():
            reports.add_metric([source, outcome], lines.get((source, outcome), none))
        yield reports
        pods = GaugeMetricFamily("binder_egress_user_pods", "User pods by tier.", labels=["tier"])
        for tier, number in sorted(tiers.items()):
            pods.add_metric([tier], number)
        yield pods
        blocks = GaugeMetricFamily("binder_egress_blocks", "Blocks, operators' and detections', by kind.", labels=["kind"])
        for what, number in blocked.items():
            blocks.add_metric([what], number)
        yield blocks
        yield from _keys(keys)
        try:
            yield from list(_gatecheck(gatecheck or {}))
        except (AttributeError, KeyError, TypeError, ValueError):  # not what the reconciler writes
            yield from _gatecheck({})
        yield _memory(memory)


def _lag(counters: dict[str, int]) -> Metric:
    """How long servers waited for the reconciler: a histogram, made from its counters."""
    total, buckets = 0, []
    for bucket in LAG_BUCKETS:
        total += counters.get(LAG + bucket, 0)
        buckets.append((bucket, total))
    return HistogramMetricFamily(
        "binder_egress_reconciler_lag_seconds",
        "Time from the reconciler's first event about a server until its pod carries the decision, with all attempts that failed. "
        "If it grows, launches start without the network that was granted, and unlocks answer pending.",
        buckets=buckets,
        sum_value=counters.get(LAG_TIME, 0) / 1000,
    )


def _keys(keys: list[KeyRow]) -> Iterator[Metric]:
    """The use of API keys and their limits."""
    used = GaugeMetricFamily(
        "binder_egress_api_key_servers", "Servers for which a key got passes in the last 24 hours.", labels=["key"]
    )
    most = GaugeMetricFamily("binder_egress_api_key_servers_per_day", "Servers that a key may have in 24 hours.", labels=["key"])
    ends = GaugeMetricFamily("binder_egress_api_key_expires_timestamp_seconds", "When a key expires.", labels=["key"])
    for row in keys:
        used.add_metric([row["name"]], row["used"])
        most.add_metric([row["name"]], row["servers_per_day"])
        ends.add_metric([row["name"]], row["until"])
    yield from (used, most, ends)


def _gatecheck(findings: dict[str, Any]) -> Iterator[Metric]:
    """The reconciler's findings about policies and the canary. Unknown values have no sample."""
    judged, canary = findings.get("judgement"), findings.get("canary")
    yield GaugeMetricFamily(
        "binder_egress_policies_read_timestamp_seconds",
        "When the reconciler last read the namespace's NetworkPolicies; 0 if it cannot. Then no bypass would be seen.",
        value=float(findings["at"]) if judged else 0,
    )
    bypasses = GaugeMetricFamily(
        "binder_egress_bypasses",
        "Rules of other NetworkPolicies that open more for an unverified user pod than the base policy, by policy and direction.",
        labels=["policy", "direction"],
    )
    found = Counts((rule["policy"], rule["direction"]) for rule in (judged or {}).get("bypasses", []))
    for (policy, direction), number in sorted(found.items()):
        bypasses.add_metric([policy, direction], number)
    yield bypasses
    yield GaugeMetricFamily(
        "binder_egress_base_policy_missing",
        "1 if no base policy isolates user pods: the gate is open for everybody. Else 0.",
        value=judged["base_missing"] if judged else None,
    )
    yield GaugeMetricFamily(
        "binder_egress_policies_wrong",
        "The chart's policies that are missing, or differ from what the chart renders.",
        value=len(judged["missing"]) + len(judged["altered"]) if judged else None,
    )
    shut = GaugeMetricFamily(
        "binder_egress_canary_shut",
        "The canary's attempts, by target: 1 if it is stopped, as a user pod without a tier must be; 0 if it gets through; no "
        "sample if that is not known.",
        labels=["target"],
    )
    for target, stopped in sorted((canary or {}).get("targets", {}).items()):
        shut.add_metric([target], stopped)
    yield shut
    yield from _nodes(findings.get("nodes") or {})
    delay = GaugeMetricFamily(
        "binder_egress_label_delay_seconds",
        "Time until a network plugin acts on a canary's label, on the slowest node, the longest of the last six measurements. on: "
        "until the first packet after it was set; off: until the first refusal after it was taken off. 60: longer than that. No "
        "sample before the first measurement.",
        labels=["change"],
    )
    for change, seconds in sorted((findings.get("label_delay") or {}).items()):
        delay.add_metric([change], seconds)
    yield delay
    seen = (canary or {}).get("proxy")
    yield GaugeMetricFamily(
        "binder_egress_proxy_addresses_hidden",
        "1 if the egress proxy sees a wrong address for the canary, and so serves nobody; 0 if it sees its own; no sample if that "
        "is not known.",
        value=seen == "hidden" if seen in ("shown", "hidden") else None,
    )


def _nodes(nodes: dict[str, Any]) -> Iterator[Metric]:
    """What the reconciler knows of each node."""
    pods = GaugeMetricFamily("binder_egress_node_user_pods", "User pods that run on a node.", labels=["node"])
    shut = GaugeMetricFamily(
        "binder_egress_node_shut",
        "1 if a node is shut for pods without a tier; 0 if something there is open; no sample if that is not known.",
        labels=["node"],
    )
    labels = GaugeMetricFamily(
        "binder_egress_node_label_delay_seconds",
        "As binder_egress_label_delay_seconds, by node.",
        labels=["node", "change"],
    )
    hidden = GaugeMetricFamily(
        "binder_egress_node_proxy_addresses_hidden",
        "As binder_egress_proxy_addresses_hidden, by node.",
        labels=["node"],
    )
    agent = GaugeMetricFamily(
        "binder_egress_node_agent", "1 if an agent runs on a node; 0 if not; no sample if agents are off.", labels=["node"]
    )
    for node, row in sorted(nodes.items()):
        pods.add_metric([node], row["user_pods"])
        if row["state"] != "not known":
            shut.add_metric([node], row["state"] == "shut")
        for change in ("on", "off"):
            if change in row["labels"]:
                labels.add_metric([node, change], row["labels"][change])
        if row["proxy"] in ("shown", "hidden"):
            hidden.add_metric([node], row["proxy"] == "hidden")
        if row["agent"] is not None:
            agent.add_metric([node], row["agent"])
    yield from (pods, shut, labels, hidden, agent)


def _memory(share: float | None) -> Metric:
    """The share of its memory that Redis uses. Redis is asked at each scrape, because a full Redis refuses what the reconciler
    publishes."""
    return GaugeMetricFamily(
        "binder_egress_redis_memory_used_ratio",
        "The share of its memory that Redis uses, 0 to 1. A full Redis accepts no grants. No sample if it has no limit, or does "
        "not reveal it.",
        value=share,
    )
