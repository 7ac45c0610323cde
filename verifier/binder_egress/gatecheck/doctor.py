"""`doctor`: a checklist of the whole installation, with advice for each point that is not in order.

It runs in the reconciler's pod with the reconciler's rights, reads Redis and the API server, and changes nothing.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import click

from ..gate.api_keys import reported
from ..kubernetes_api import ApiServerUnavailable
from ..model.labels import GATECHECK_LABEL, JSON, USERNAME_LABEL, LabelSet, differing_labels, shared_labels
from ..model.ping import way_to_ping
from ..model.records import GateFindings, Node, VerifierReport
from ..model.starts import hindrance
from ..model.times import age
from ..settings import ReconcilerSettings, load
from ..store.connection import connect
from ..store.errors import StoreUnavailable
from ..store.health import NEARLY_FULL, SLOW_LABELS_SECONDS, RedisHealth
from ..store.reconciler_counters import (
    ACCESS,
    ACCESS_TIMES,
    ANNOUNCED_LATE,
    FAILED_AT,
    FAILURES,
    NOT_ISOLATED,
    START_GUARD,
    WITHOUT_RECORD,
    WITHOUT_RECORD_AT,
)
from ..store.saved import Lines, Restoration, lines_of
from ..store.store import ReconcilerStore
from ..store.verifiers import VERIFIER_TTL_SECONDS
from .check import Canary, Findings, Namespace, check
from .checklist import CHECKS, CRYPTNONO, FLOW_KILLER_CONTAINER
from .label_delay import LIMIT_SECONDS
from .netpol import OTHER_KINDS, Labels, admits_anybody
from .nodes import SHUT, seen_by_proxy

OK, WARNING, PROBLEM = "ok", "warning", "problem"

CLOCK_WARNING_SECONDS, CLOCK_PROBLEM_SECONDS = 3, 30
"""How far two clocks must differ for a warning, and for a problem. Passes are judged with a leeway of 60 s; the API server reports
whole seconds."""

RECONCILER_LATE_SECONDS = 15
"""The age of the reconciler's heartbeat that is a warning. It sends one every second."""

RECONCILER_FAILED_SECONDS = 60
"""The age of the reconciler's last failed attempt below which it is a warning. A server that fails is tried every second."""

PUBLIC_PORT = 8080
"""The port of the verifier's pods that faces the internet."""

VERIFIER_LABELS: Labels = {
    "app.kubernetes.io/name": None,
    "app.kubernetes.io/instance": None,
    "app.kubernetes.io/component": "verifier",
}
"""The labels by which the chart's policy selects the verifier. The first two values depend on the installation."""

SIGKILLED = 137
"""The exit code of a container that SIGKILL ended."""

PROXY_HIDDEN = "docs/proxy-reference.md has a table of what changes addresses between pods and the proxy"

MAX_PODS = 500
"""The most user pods whose labels are read."""

MAX_NAMED = 5
"""The most pods that one line names."""

NOT_ENDED, NOT_STARTED = "status.phase!=Succeeded,status.phase!=Failed", "status.phase!=Succeeded,status.phase!=Running"
"""Field selectors of pods."""


@dataclass(frozen=True)
class Line:
    """What one check found.

    Attributes:
        name: the check's id.
        state: `ok`, `warning` or `problem`.
        text: the finding, and what to do about it.
    """

    name: str
    state: str
    text: str


def _line(id: str, state: str, seen: str, do: str | None = None) -> Line:
    """A line. What is not in order gets the list's advice, unless the finding has its own."""
    advice = CHECKS[id].advice if do is None else do
    return Line(id, state, seen if state == OK or not advice else f"{seen}. {advice}")


def examine(
    settings: ReconcilerSettings, store: ReconcilerStore, namespace: Namespace, now: Callable[[], float] = time.time
) -> list[Line]:
    """Go through the whole checklist. Whatever cannot be read becomes a line, too; nothing is raised.

    Args:
        settings: the reconciler's settings.
        store: Redis.
        namespace: the release's namespace.
        now: Unix time in seconds.
    """
    checks = [_mode(settings), _secrets(settings), _admission(settings)]
    published: GateFindings = {}
    try:
        health, entered = store.health(), store.restoration()
        lasting = store.to_save() if entered else {}
        heartbeat, counters, _ = store.reconciler_state()
        published = store.gatecheck()
    except StoreUnavailable as error:
        checks.append(_line("Redis", PROBLEM, str(error)))
    else:
        checks += [*_redis(health), _blocks(settings, namespace, entered, lasting, health["now"])]
        checks.append(_redis_users(settings))
        checks.append(_clock("clock of Redis", health["now"] - now()))
        checks.append(_reconciler(heartbeat, counters, now()))
        checks += _verifiers(health["verifiers"], health["now"])
        checks += check_api_keys(health["verifiers"], health["revoked_keys"], now())
        checks += _wiring(health, counters, namespace, now())
        checks.append(_access(counters))
        checks.append(_start_guard(counters))
        checks.append(_label_delay(settings, published.get("label_delay") or {}))
        checks += _identities(settings, namespace)
        checks += _nodes(published.get("nodes") or {}, now(), published.get("connections"))
        checks.append(_public_port(namespace, health["verifiers"]))
    try:
        checks.append(_clock("clock of the API server", namespace.clock()))
    except ApiServerUnavailable as error:
        checks.append(_line("clock of the API server", WARNING, f"unknown: {error}"))
    checks += [_user_labels(settings, namespace), _starts(namespace)]
    checks += _pods(namespace, settings.proxy_labels, "pods of the egress proxy", CHECKS["flow killer"].advice)
    checks += _flow_killer(namespace, settings.proxy_labels)
    checks += _pods(namespace, settings.receiver_labels, "pod of the receiver")
    return checks + _gate(settings, namespace, now(), published.get("nodes") or {})


def _user_labels(settings: ReconcilerSettings, namespace: Namespace) -> Line:
    """The line about user pods that our policies do not select."""
    labels, pods = settings.user_pod_labels, {}
    try:
        # A request for each label, so that the answers are short: there may be thousands of pods that have them all.
        for label, value in labels.items():
            for pod in namespace.pods(f"{USERNAME_LABEL},{label}!={value}", MAX_PODS, NOT_ENDED):
                pods[pod["metadata"]["name"]] = differing_labels(pod["metadata"]["labels"], labels)
    except ApiServerUnavailable as error:
        return _line("user labels", WARNING, f"unknown: {error}")
    wanted = ", ".join(f"{label}={value}" for label, value in sorted(labels.items()))
    if not pods:
        return _line("user labels", OK, f"no user pod lacks {wanted}")
    text = f"our policies select {wanted}, and so leave out {_named(pods)}"
    return _line("user labels", PROBLEM if settings.policies else WARNING, text)


def _starts(namespace: Namespace) -> Line:
    """The line about user pods that cannot start because of us."""
    try:
        pods = namespace.pods(USERNAME_LABEL, MAX_PODS, NOT_STARTED)
    except ApiServerUnavailable as error:
        return _line("starts", WARNING, f"unknown: {error}")
    hindered = {pod["metadata"]["name"]: reason for pod in pods if (reason := hindrance(pod))}
    if not hindered:
        return _line("starts", OK, "no user pod waits because of what this chart adds to it")
    return _line("starts", PROBLEM, f"what this chart adds to them keeps from starting: {_named(hindered)}")


def _named(pods: dict[str, str]) -> str:
    """Some pods by name, with what is said about each."""
    shown = [f"{name} ({says})" for name, says in sorted(pods.items())[:MAX_NAMED]]
    return ", ".join([*shown, *([f"and {len(pods) - MAX_NAMED} more"] if len(pods) > MAX_NAMED else [])])


def _pods(namespace: Namespace, labels: dict[str, str], name: str, killer: str = "") -> list[Line]:
    """The line about the pods of a component, if it is on. `killer` is what is known to kill them."""
    if not labels:
        return []
    try:
        pods = namespace.pods(",".join(f"{label}={value}" for label, value in sorted(labels.items())))
    except ApiServerUnavailable as error:
        return [_line(name, WARNING, f"unknown: {error}")]
    states = [{item["type"]: item["status"] for item in pod["status"].get("conditions") or []} for pod in pods]
    ready = sum(state.get("Ready") == "True" for state in states)
    killed = sum(_was_killed(pod) for pod in pods) if killer else 0
    by = f"; something on their nodes has killed {killed}" if killed else ""
    if ready:
        return [_line(name, WARNING if killed else OK, f"{ready} of {len(pods)} ready{by}", killer)]
    return [_line(name, PROBLEM, f"none is ready{by}")]


def _flow_killer(namespace: Namespace, proxy_labels: dict[str, str]) -> list[Line]:
    """The line about a flow killer beside the egress proxy, in this namespace: the reconciler sees no other."""
    try:
        pods = namespace.pods(CRYPTNONO) if proxy_labels else []
    except ApiServerUnavailable:
        return []
    is_there = any(FLOW_KILLER_CONTAINER in str(container) for pod in pods for container in pod["spec"]["containers"])
    check = CHECKS["flow killer"]
    return [_line(check.id, PROBLEM, check.sentence, check.do)] if is_there else []


def _was_killed(pod: JSON) -> bool:
    """Whether a container of a pod last ended by SIGKILL that was not for its memory."""
    ends = [status.get("lastState", {}).get("terminated") or {} for status in pod["status"].get("containerStatuses") or []]
    return any(end.get("exitCode") == SIGKILLED and end.get("reason") != "OOMKilled" for end in ends)


def _mode(settings: ReconcilerSettings) -> Line:
    tiers = ", ".join(sorted(settings.tiers))
    if settings.mode == "captcha":
        return _line("mode", OK, f"captcha: no egress without a solved captcha; tiers: {tiers}")
    if settings.mode == "allow":
        return _line("mode", WARNING, f"allow, for outages: every user pod gets the tier {settings.allow_tier}")
    return _line("mode", WARNING, "observe: nothing is enforced")


def _secrets(settings: ReconcilerSettings) -> Line:
    if not settings.random_secrets:
        return _line("secrets", OK, "the same in each upgrade")
    names = ", ".join(settings.random_secrets)
    return _line("secrets", WARNING, f"{names} are new in each rendering, because the tool cannot look at the cluster")


def _admission(settings: ReconcilerSettings) -> Line:
    if not settings.missing_admission_policies:
        return _line("admission policies", OK, "those that are on in the values were rendered")
    names = ", ".join(settings.missing_admission_policies)
    reason = "the cluster has no ValidatingAdmissionPolicy, or the tool that rendered named a version before 1.30"
    return _line("admission policies", WARNING, f"{names} were not rendered: {reason}")


def _redis(health: RedisHealth) -> list[Line]:
    policy, maxmemory, used = health["maxmemory_policy"], health["maxmemory"], health["used_memory"]
    if policy is None:
        redis = _line("Redis", WARNING, "answers, but does not show its maxmemory-policy", "Make sure that it is noeviction")
    elif policy != "noeviction":
        seen = f"evicts ({policy}), so it can forget a used pass, which could be used again"
        redis = _line("Redis", PROBLEM, seen, "Set maxmemory-policy noeviction")
    elif maxmemory and used and used > NEARLY_FULL * maxmemory:
        seen = (
            f"{used} of {maxmemory} bytes are used. A full Redis accepts no grants, no blocks and no reports, so reconciler and "
            "verifiers look silent"
        )
        do = "Raise redis.maxmemory, which replaces the chart's Redis (docs/operating.md)"
        redis = _line("Redis", PROBLEM if used >= maxmemory else WARNING, seen, do)
    else:
        redis = _line("Redis", OK, "answers, and never evicts")
    if health["epoch"] is None:
        epoch = _line("epoch", WARNING, "none yet: neither verifier nor reconciler has used this Redis since its start")
    else:
        epoch = _line("epoch", OK, f"began {age(health['now'] - health['epoch'])} ago: older passes are refused")
    return [redis, epoch]


def _blocks(settings: ReconcilerSettings, namespace: Namespace, entered: Restoration | None, lasting: Lines, now: float) -> Line:
    """The line about what outlives Redis: `entered` was restored, and `lasting` is to be saved."""
    name = f"the ConfigMap {settings.saved_blocks}"
    if entered is None:
        return _line("blocks", PROBLEM, f"Redis is new, or was lost, and nothing is granted until {name} is read")
    seen = f"saved in {name}"
    if entered["lost"]:
        restored = f"blocks ({entered['blocks']}) and revoked API keys ({entered['keys']}) were restored"
        seen = f"Redis was lost {age(now - entered['at'])} ago, and {restored}; {seen}"
    try:
        saved = lines_of(namespace.config_map(settings.saved_blocks))
    except ApiServerUnavailable as error:
        return _line("blocks", WARNING, f"{seen}, which cannot be read: {error}")
    if missing := sum(len(set(lines) - set(saved[name])) for name, lines in lasting.items()):
        return _line("blocks", WARNING, f"{seen}, without {missing} of them")
    if entered["unreadable"]:
        return _line("blocks", WARNING, f"{seen}. {entered['unreadable']} lines there could not be read, and were left out", "")
    return _line("blocks", OK, seen)


def _redis_users(settings: ReconcilerSettings) -> Line:
    if settings.redis_user_password:
        return _line("users of Redis", OK, "verifier and reconciler each have their own, with only the rights that it needs")
    return _line("users of Redis", WARNING, "verifier and reconciler share one password, or none")


def _clock(name: str, ahead: float) -> Line:
    difference = abs(ahead)
    state = PROBLEM if difference >= CLOCK_PROBLEM_SECONDS else WARNING if difference >= CLOCK_WARNING_SECONDS else OK
    if state == OK:
        return _line(name, OK, "agrees with ours")
    direction = "ahead of" if ahead > 0 else "behind"
    return _line(name, state, f"{difference:.0f} s {direction} ours")


def _reconciler(heartbeat: float | None, counters: dict[str, int], now: float) -> Line:
    if heartbeat is None:
        return _line("reconciler", PROBLEM, "silent")
    age = max(0.0, now - heartbeat)
    text = f"last heartbeat {age:.0f} s ago"
    failed = now - counters.get(FAILED_AT, 0)
    if failed < RECONCILER_FAILED_SECONDS:
        text += f"; an attempt on a server failed {max(0.0, failed):.0f} s ago, {counters.get(FAILURES, 0)} in all"
        return _line("reconciler", WARNING, text)
    return _line("reconciler", OK if age < RECONCILER_LATE_SECONDS else WARNING, text)


def _verifiers(reports: dict[str, VerifierReport], now: float) -> list[Line]:
    if not reports:
        return [_line("verifier", PROBLEM, "none is ready")]
    checks = []
    different = [what for what in ("version", "signing_keys") if len({str(report.get(what)) for report in reports.values()}) > 1]
    if different:
        do = "This is normal during a rollout; otherwise restart the Deployment"
        checks.append(_line("verifier", WARNING, f"replicas differ in {' and '.join(different)}", do))
    else:
        checks.append(_line("verifier", OK, f"{len(reports)} ready"))
    keys = max(report.get("signing_keys", 0) for report in reports.values())
    more = "" if keys == 1 else f". {CHECKS['keys'].advice}"
    checks.append(_line("keys", OK, f"{keys} signing key{'s' if keys != 1 else ''}{more}"))
    early = [host for host, report in sorted(reports.items()) if report.get("at", now) - now >= CLOCK_WARNING_SECONDS]
    if early:
        checks.append(_line("clock of the verifier", WARNING, f"ahead of Redis in {', '.join(early)}"))
    # Redis forgets a report at this age, by its own clock. An older date means that the verifier's clock is behind.
    oldest = now - VERIFIER_TTL_SECONDS - CLOCK_WARNING_SECONDS
    late = [host for host, report in sorted(reports.items()) if report.get("at", now) <= oldest]
    if late:
        checks.append(_line("clock of the verifier", PROBLEM, f"behind Redis in {', '.join(late)}"))
    states: dict[str, set[str]] = {}
    for report in reports.values():
        for name, state in report.get("providers", {}).items():
            states.setdefault(name, set()).add(state)
    return checks + [_provider(name, reported) for name, reported in sorted(states.items())]


def _provider(name: str, states: set[str]) -> Line:
    if "misconfigured" in states:
        return _line("provider", PROBLEM, f"{name} does not accept our keys")
    if "down" in states:
        do = "Check its status page, and verifier.networkPolicy.captchaProviders"
        return _line("provider", WARNING, f"{name} does not answer, and is not offered", do)
    return _line("provider", OK, f"{name} is up")


def check_api_keys(reports: dict[str, VerifierReport], revoked: set[str], now: float) -> list[Line]:
    """The lines about API keys.

    Args:
        reports: the verifiers' reports, by host.
        revoked: the ids of revoked keys.
        now: Unix time in seconds.
    """
    keys = {key.entry.id: key for key in reported(reports.values())}
    checks = [
        _line("API keys", PROBLEM, f"apiKeys: {sentence}", "The key is not accepted")
        for sentence in sorted({sentence for report in reports.values() for sentence in report.get("api_keys_wrong", [])})
    ]
    if back := sorted(key.name for key in keys.values() if key.entry.id in revoked):
        checks.append(_line("API keys", WARNING, f"revoked, but still in the values: {', '.join(back)}"))
    if expired := sorted(key.name for key in keys.values() if key.is_expired(now)):
        checks.append(_line("API keys", WARNING, f"expired: {', '.join(expired)}"))
    return checks or [_line("API keys", OK, f"{len(keys)}, all valid" if keys else "none")]


def _wiring(health: RedisHealth, counters: dict[str, int], namespace: Namespace, now: float) -> list[Line]:
    """The lines about announcements: whether they come, with their request, and for each server that BinderHub started."""
    wiring, launches = health["wiring"], health["wiring"].get("launches", 0)
    without, last = wiring.get("without-context", 0), wiring.get("last", 0)
    text = "BinderHub has announced no launch yet"
    if launches:
        text = f"{launches} launches announced in {age(now - wiring['first'])}, the last one {age(now - last)} ago"
    line = _line("wiring", OK if launches else WARNING, text)
    if launches and without == launches:
        do = "Another snippet replaced BinderHub.badge_base_url after ours"
        line = _line("wiring", PROBLEM, f"all {launches} launches came without their request", do)
    elif without:
        line = _line("wiring", WARNING, f"{text}; {without} without their request", "")
    lost = _lost_wiring(namespace, last, counters.get(WITHOUT_RECORD_AT, 0), health["verifiers"].values(), now)
    return [lost or line, _launch_records(wiring.get("before"), counters)]


def _lost_wiring(
    namespace: Namespace, last: float, unannounced: float, reports: Collection[VerifierReport], now: float
) -> Line | None:
    """The line about a BinderHub whose announcements do not come, or are refused. The latest event says what is so now (D-575).

    Args:
        namespace: where BinderHub's pod may be.
        last: when a launch was last announced, Unix time in seconds; 0: never.
        unannounced: when a server of BinderHub was last seen that nobody had announced; 0: never.
        reports: the verifiers' reports.
        now: Unix time in seconds.
    """
    binder: JSON | None = None
    with suppress(ApiServerUnavailable):
        binder = max(namespace.pods("component=binder"), key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
    variables = [entry["name"] for each in binder["spec"]["containers"] for entry in each.get("env") or []] if binder else []
    if binder and "BINDER_EGRESS_API" not in variables:
        seen = f"BinderHub does not announce launches: its pod {binder['metadata']['name']} has no BINDER_EGRESS_API"
        do = "Give it the values of `integration.binderhub` (see NOTES). If it has them, write its extraEnv as a map, not as a list"
        return _line("wiring", PROBLEM, seen, do)
    began = datetime.fromisoformat(binder["metadata"]["creationTimestamp"]).timestamp() if binder else 0
    if (refused := max((report.get("refused_at", 0) for report in reports), default=0)) > max(last, began):
        seen = f"BinderHub's announcements are refused, the last one {age(now - refused)} ago: their token is wrong"
        do = "Restart BinderHub, which then reads api-token of the Secret, unless its values name another token"
        return _line("wiring", PROBLEM, seen, do)
    if unannounced <= max(last, began):
        return None
    since = f"since its start {age(now - began)} ago" if began > last else f"for {age(now - last)}" if last else "ever"
    seen = f"BinderHub has announced no launch {since}, and started a server {age(now - unannounced)} ago"
    if any(report.get("signed_in") for report in reports):
        do = "This is normal if its user started it again from the hub. Otherwise see BinderHub's log"
        return _line("wiring", WARNING, seen, do)
    do = "Its values lack `integration.binderhub`, or another Launcher.pre_launch_hook replaced ours. See BinderHub's log"
    return _line("wiring", PROBLEM, seen, do)


def _launch_records(before: int | None, counters: dict[str, int]) -> Line:
    """The line about servers that BinderHub did not announce, or late; `before` of them started before its first announcement."""
    unannounced, late = counters.get(WITHOUT_RECORD, 0), counters.get(ANNOUNCED_LATE, 0)
    before = unannounced if before is None else before
    lost = max(0, unannounced - before - late)
    seen = f"BinderHub did not announce {lost} servers" if lost else "BinderHub has announced every server since its wiring"
    seen += f"; it announced {late} late" if late else ""
    seen += f"; {before} were there before the first announcement" if before else ""
    return _line("launch records", WARNING if lost else OK, seen)


def _access(counters: dict[str, int]) -> Line:
    """How many servers got a tier, and when. In mode `observe`: how many would have."""
    launch, start, ready, later, never = (counters.get(f"{ACCESS}{when}", 0) for when in ACCESS_TIMES)
    if not (servers := launch + start + ready + later + never):
        return _line("access", OK, "no server has had a tier or ended yet")
    text = f"of {servers} servers {launch} had a tier when they started, {start} soon after, {ready} when they were ready"
    return _line("access", OK, f"{text}, {later} later, {never} never")


def _public_port(namespace: Namespace, reports: dict[str, VerifierReport]) -> Line:
    """Who may connect to the verifier's public port, and so state a client's address (D-214)."""
    try:
        anybody = admits_anybody(namespace.policies(), VERIFIER_LABELS, PUBLIC_PORT)
    except ApiServerUnavailable as error:
        return _line("public port", WARNING, f"it is unknown who reaches it: {error}")
    if not anybody:
        return _line("public port", OK, "open only to those that a policy names")
    if reports and all(report.get("proxies") == "networks" for report in reports.values()):
        return _line("public port", OK, "open to pods of every namespace, but only proxies in trustedProxies are believed")
    return _line("public port", WARNING, "open to pods of every namespace")


def _start_guard(counters: dict[str, int]) -> Line:
    outcomes = {name.removeprefix(START_GUARD): number for name, number in counters.items() if name.startswith(START_GUARD)}
    bad = {name: outcomes[name] for name in (*NOT_ISOLATED, "absent", "unknown_to_proxy") if outcomes.get(name)}
    if bad:
        text = ", ".join(f"{name} {number}" for name, number in bad.items())
        return _line("start guard", WARNING, f"of {sum(outcomes.values())} pods: {text}")
    isolated = sum(outcomes.get(name, 0) for name in ("closed", "blocked"))
    return _line("start guard", OK, f"{isolated} pods started isolated" if outcomes else "no user pod has started yet")


def _label_delay(settings: ReconcilerSettings, found: dict[str, Any]) -> Line:
    """How long the network plugin takes to act on a label, as the reconciler measured it."""
    if not settings.canary:
        return _line("labels", WARNING, "how long they take to act is not measured, as there is no canary", "See canary.enabled")
    if not found:
        return _line("labels", WARNING, "how long they take to act is not measured yet", "")
    on, off = (_delay(found.get(way)) for way in ("on", "off"))
    text = f"act {on} after they were set, and {off} after they were taken off"
    return _line("labels", OK if max(found.values()) <= SLOW_LABELS_SECONDS else WARNING, text)


def _identities(settings: ReconcilerSettings, namespace: Namespace) -> list[Line]:
    """The line about Cilium's identities of user pods, where there is Cilium (D-619)."""
    try:
        if "cilium.io" not in namespace.other_kinds():
            return []
        endpoints = namespace.cilium_endpoints(USERNAME_LABEL, MAX_PODS)
    except ApiServerUnavailable as error:
        return [_line("identities", WARNING, f"unknown: {error}", "The reconciler needs to list CiliumEndpoints (rbac.create)")]
    # One that is new has no identity yet.
    seen = [identity for each in endpoints if (identity := (each.get("status") or {}).get("identity"))]
    keys = [{label.partition(":")[2].partition("=")[0] for label in identity.get("labels") or []} for identity in seen]
    text = f"{len({identity['id'] for identity in seen})} of {len(seen)} user pods"
    if left_out := sorted(label for label in settings.user_pod_labels if any(label not in known for known in keys)):
        text += f". Cilium leaves out {', '.join(left_out)}, by which our policies select, so they select no user pod"
        return [_line("identities", PROBLEM if settings.policies else WARNING, text, "See labels in the values of Cilium's chart")]
    if any(USERNAME_LABEL in known for known in keys):
        return [_line("identities", WARNING, f"{text}: each server has its own")]
    return [_line("identities", OK, text)]


def _delay(seconds: float | None) -> str:
    """A time that a label takes to act."""
    if seconds is None:
        return "in an unknown time"
    return f"more than {LIMIT_SECONDS:.0f} s" if seconds >= LIMIT_SECONDS else f"{seconds:.1f} s"


def _nodes(nodes: dict[str, Node], now: float, connections: list[str] | None = None) -> list[Line]:
    """A line for each node with user pods that is not shut or lacks a part, or one if all are well. `connections` names those on
    which open connections are ended; None: nobody is to."""
    with_pods = {name: row for name, row in nodes.items() if row["user_pods"]}
    checks = []
    for name, row in with_pods.items():
        seen, since = f"{name} ({row['user_pods']} user pods)", f"for {age(now - row['since'])}"
        if row["state"] != SHUT:
            checks.append(_line("nodes", PROBLEM, f"{seen} is {row['state']} {since}: {row['why']}"))
        if row["proxy"] == "hidden":
            checks.append(_line("nodes", PROBLEM, f"{seen}: the egress proxy sees another address than a pod's", PROXY_HIDDEN))
        elif row["proxy"] == "silent":
            text = "pods do not reach the egress proxy, or its policy refuses them, because the node hides their addresses"
            checks.append(_line("nodes", PROBLEM, f"{seen}: {text}", PROXY_HIDDEN))
        if row["agent"] is False:
            checks.append(_line("nodes", WARNING, f"{seen} has no agent", "See agent.tolerations and agent.nodeSelector"))
        if connections is not None and name not in connections:
            text, do = "nothing ends open connections when a tier goes", "See gatecheck.tolerations and gatecheck.nodeSelector"
            checks.append(_line("nodes", WARNING, f"{seen}: {text}", do))
    if not checks and with_pods:
        checks.append(_line("nodes", OK, f"{len(with_pods)} with user pods, and each is shut"))
    return checks


def table(nodes: dict[str, Node], now: float) -> list[list[str]]:
    """What is known of each node, as rows of words, with a head.

    Args:
        nodes: the nodes (`nodes.Nodes.rows`).
        now: Unix time in seconds.
    """
    rows = [["node", "user pods", "state", "canary", "label acts, ends", "start guards", "agent"]]
    for name, row in nodes.items():
        labels = row["labels"]
        delays = "not acting" if "reason" in labels else f"{_delay(labels.get('on'))}, {_delay(labels.get('off'))}"
        guards = ", ".join(f"{outcome} {number}" for outcome, number in row["guards"].items())
        said = "silent" if row["said"] is None else f"{age(now - row['said'])} ago"
        agent = "" if row["agent"] is None else "yes" if row["agent"] else "none"
        rows.append([name, str(row["user_pods"]), row["state"], said, delays if labels else "", guards, agent])
    return rows


def _gate(settings: ReconcilerSettings, namespace: Namespace, now: float, nodes: dict[str, Node]) -> list[Line]:
    """The lines about policies, bypasses and the canary."""
    if not settings.policies:
        return [_line("policies", OK, "none of ours in this mode")]
    selector = ",".join(f"{name}={value}" for name, value in sorted(settings.user_pod_labels.items()))
    try:
        pods = namespace.pods(f"{selector},!{GATECHECK_LABEL}", MAX_PODS)
    except ApiServerUnavailable:
        pods = []
    label_sets: set[LabelSet] = {shared_labels(pod["metadata"]["labels"]) for pod in pods}
    findings = check(settings, namespace, label_sets, now)
    return _policies(findings) + _other_kinds(namespace, findings) + _canary(settings, findings, nodes) + [_ping(pods, findings)]


def _policies(findings: Findings) -> list[Line]:
    judgement = findings.judgement
    if judgement is None:
        do = "The reconciler needs to list NetworkPolicies (rbac.create)"
        return [_line("policies", PROBLEM, f"cannot be read ({findings.unread['policies']})", do)]
    checks = []
    if judgement.base_missing:
        checks.append(_line("policies", PROBLEM, "the base policy does not isolate user pods, so the gate is open"))
    if judgement.missing:
        checks.append(_line("policies", PROBLEM, f"missing: {', '.join(judgement.missing)}"))
    if judgement.altered:
        checks.append(_line("policies", PROBLEM, f"changed by hand: {', '.join(judgement.altered)}"))
    if judgement.by_tier:
        text = f"{', '.join(judgement.by_tier)}: selects by our tier, and so gives a tier more than the values say"
        checks.append(_line("policies", WARNING, text, ""))
    checks = checks or [_line("policies", OK, "as the chart renders them")]
    for bypass in judgement.bypasses:
        checks.append(_line("bypass", PROBLEM, bypass.sentence, f"To change: {bypass.change}"))
    return checks if judgement.bypasses else [*checks, _line("bypass", OK, "no other NetworkPolicy opens anything for user pods")]


def _other_kinds(namespace: Namespace, findings: Findings) -> list[Line]:
    try:
        groups = namespace.other_kinds()
    except ApiServerUnavailable as error:
        return [_line("other policies", WARNING, f"the kinds of policy in this cluster are unknown: {error}")]
    if not groups:
        return [_line("other policies", OK, "this cluster has no kind of policy that we know except NetworkPolicy")]
    kinds = "; ".join(f"{OTHER_KINDS[group]} ({group})" for group in groups)
    canary = findings.canary
    shut = canary is not None and canary.state == "running" and bool(canary.targets) and not canary.open
    if shut:
        return [_line("other policies", OK, f"cannot be judged: {kinds}. The canary's packets are stopped nevertheless")]
    return [_line("other policies", WARNING, f"cannot be judged: {kinds}")]


def _canary(settings: ReconcilerSettings, findings: Findings, nodes: dict[str, Node]) -> list[Line]:
    if not settings.canary:
        return [_line("canary", WARNING, "off (canary.enabled)")]
    canary = findings.canary
    if canary is None:
        return [_line("canary", WARNING, f"cannot be read: {findings.unread['canary']}")]
    if canary.state == "missing":
        return [_line("canary", WARNING, "gone, perhaps with its node", "`helm upgrade` with the same values makes a new one")]
    if canary.state == "ended":
        repair = f"Run `kubectl delete pod {canary.pod}`, then `helm upgrade` with the same values makes a new one"
        return [_line("canary", WARNING, f"{canary.pod} has ended, perhaps evicted from its node", repair)]
    return [*_canary_targets(canary), *_seen_by_proxy(seen_by_proxy(canary.proxy, nodes))]


def _canary_targets(canary: Canary) -> list[Line]:
    if canary.open:
        return [_line("canary", PROBLEM, f"{canary.pod} reached {', '.join(canary.open)}, which must be shut")]
    if canary.state == "starting":
        return [_line("canary", WARNING, f"{canary.pod} has reported nothing yet", f"Run `kubectl describe pod {canary.pod}`")]
    if not canary.targets:
        return [_line("canary", WARNING, f"{canary.pod} can try none of its targets, so it proves nothing", "See gatecheck.shut")]
    return [_line("canary", OK, f"{canary.pod} is stopped at: {', '.join(sorted(canary.targets))}")]


def _seen_by_proxy(seen: str) -> list[Line]:
    if seen == "hidden":
        text = "sees another address than a canary's: the network hides the addresses of pods from Services"
        return [_line("egress proxy", PROBLEM, text)]
    if seen == "silent":
        return [_line("egress proxy", WARNING, "answers no canary")]
    return [_line("egress proxy", OK, "saw a canary's own address when it last answered")] if seen else []


def _ping(pods: list[JSON], findings: Findings) -> Line:
    ways = Counter(filter(None, (way_to_ping(pod["spec"]) for pod in pods)))
    if not ways:
        return _line("ping", OK, "closed in every user pod" if pods else "no user pod runs")
    numbers = f"open in {ways.total()} of {len(pods)} user pods"
    if findings.canary is not None and findings.canary.targets.get("ping"):
        return _line("ping", OK, f"{numbers}, but the network stops the canary's pings")
    advice = {
        "no-sysctl": "without the sysctl: is BinderHub wired with its present values, and closePing on?",
        "privileges": "may be root or gain privileges: set singleuser.uid, and singleuser.allowPrivilegeEscalation to false",
    }
    return _line("ping", WARNING, "; ".join([numbers, *(f"{number} {advice[way]}" for way, number in sorted(ways.items()))]))


def show(as_json: bool) -> bool:
    """Print the checklist.

    Args:
        as_json: whether to print one JSON list; otherwise one line for each check.

    Returns:
        Whether no check found a problem.

    Raises:
        InvalidSettings: the environment does not have valid settings.
    """
    settings = load(ReconcilerSettings)
    store = ReconcilerStore(connect(settings))
    checks = examine(settings, store, Namespace(settings.namespace))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks]))
    else:
        width = max(len(check.name) for check in checks)
        colours = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
        for check in checks:
            click.echo(f"{click.style(check.state.ljust(7), fg=colours[check.state])}  {check.name.ljust(width)}  {check.text}")
        _echo_table(store)
    return all(check.state != PROBLEM for check in checks)


def _echo_table(store: ReconcilerStore) -> None:
    with suppress(StoreUnavailable):
        if nodes := store.gatecheck().get("nodes"):
            rows = table(nodes, time.time())
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            click.echo()
            for row in rows:
                click.echo("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
