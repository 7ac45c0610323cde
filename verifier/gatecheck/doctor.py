"""`doctor`: the whole checklist, from Redis and the API server, with what to do about each point that is not well.

It runs in the reconciler's pod, with the reconciler's rights, and changes nothing.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click

from ..api_keys import reported
from ..settings import ReconcilerSettings, load
from ..store.connection import connect
from ..store.counters import START_GUARD, WITHOUT_RECORD
from ..store.errors import StoreUnavailable
from ..store.store import VERIFIER_TTL_SECONDS, Store
from ..user_pods import kind_of
from .netpol import OTHER_KINDS, Labels
from .watch import GATECHECK_LABEL, Findings, Surroundings, Unreadable, look

OK, WARNING, PROBLEM = "ok", "warning", "problem"

CLOCK_WARNING, CLOCK_PROBLEM = 3, 30
"""Seconds that two clocks may differ. Passes are judged with a leeway of 60 s; the API server tells whole seconds."""

FULL = 0.9
"""The part of Redis' memory beyond which it is nearly full. Then no grant can be written any more."""

SAMPLE = 500
"""User pods whose labels are looked at."""


@dataclass(frozen=True)
class Check:
    """One line of the checklist.

    Attributes:
        name: what was checked.
        state: `ok`, `warning` or `problem`.
        text: what was found, and what to do.
    """

    name: str
    state: str
    text: str


def examine(
    settings: ReconcilerSettings, store: Store, surroundings: Surroundings, now: Callable[[], float] = time.time
) -> list[Check]:
    """Go through the whole checklist. What cannot be read is a line, too; nothing is raised."""
    checks = [_mode(settings)]
    try:
        health = store.health()
        seen, counters, _ = store.reconciler_state()
    except StoreUnavailable as error:
        text = f"{error}. Nobody can be granted egress, and launches go on without. See the pod of Redis, or externalRedis"
        checks.append(Check("Redis", PROBLEM, text))
    else:
        checks += _redis(health)
        checks.append(_clock("clock of Redis", health["now"] - now()))
        checks.append(_reconciler(seen, now()))
        checks += _verifiers(health["verifiers"], health["now"])
        checks += _api_keys(health["verifiers"], health["revoked_keys"], now())
        checks += _wiring(settings, health["wiring"], counters, now())
        checks.append(_start_guard(counters))
    try:
        checks.append(_clock("clock of the API server", surroundings.clock()))
    except Unreadable as error:
        checks.append(Check("clock of the API server", WARNING, f"not known: {error}"))
    return checks + _gate(settings, surroundings, now())


def _mode(settings: ReconcilerSettings) -> Check:
    tiers = ", ".join(sorted(settings.tiers))
    if settings.mode == "captcha":
        return Check("mode", OK, f"captcha: no egress without a solved captcha; tiers: {tiers}")
    if settings.mode == "allow":
        return Check(
            "mode", WARNING, f"allow: every user pod gets the tier {settings.allow_tier}. Meant for bad days: set mode: captcha"
        )
    return Check("mode", WARNING, "observe: nothing is enforced. Set mode: captcha when you have seen enough")


def _redis(health: dict) -> list[Check]:
    policy, most, used = health["maxmemory_policy"], health["maxmemory"], health["used_memory"]
    if policy is None:
        found = [
            Check("Redis", WARNING, "answers, but does not say whether it evicts: see to it that maxmemory-policy is noeviction")
        ]
    elif policy != "noeviction":
        text = f"evicts ({policy}), so used passes can be forgotten and used again: set maxmemory-policy noeviction"
        found = [Check("Redis", PROBLEM, text)]
    elif most and used and used > FULL * most:
        found = [
            Check(
                "Redis", WARNING, f"nearly full, {used} of {most} bytes: when it is, nothing can be granted. Raise redis.maxmemory"
            )
        ]
    else:
        found = [Check("Redis", OK, "answers, and never evicts")]
    if health["epoch"] is None:
        found.append(Check("epoch", WARNING, "none yet: no verifier has come to this Redis since it was started"))
    else:
        age = _age(health["now"] - health["epoch"])
        found.append(Check("epoch", OK, f"began {age} ago: passes from before are refused"))
    return found


def _clock(name: str, ahead: float) -> Check:
    state = PROBLEM if abs(ahead) >= CLOCK_PROBLEM else WARNING if abs(ahead) >= CLOCK_WARNING else OK
    if state == OK:
        return Check(name, OK, "agrees with ours")
    return Check(
        name, state, f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours: see to the nodes' time synchronisation"
    )


def _reconciler(seen: float | None, now: float) -> Check:
    if seen is None:
        text = "silent: no new grant reaches a pod. See its log; it needs the API server and Redis"
        return Check("reconciler", PROBLEM, text)
    return Check("reconciler", OK if now - seen < 15 else WARNING, f"went round {max(0, now - seen):.0f} s ago")


def _verifiers(reports: dict[str, dict], now: float) -> list[Check]:
    if not reports:
        return [Check("verifier", PROBLEM, "none is ready: nobody can solve a captcha, and launches have no egress. See its pods")]
    found = []
    different = [what for what in ("version", "signing_keys") if len({str(report.get(what)) for report in reports.values()}) > 1]
    if different:
        text = f"replicas differ in {' and '.join(different)}. During a roll-out that is normal; else restart the Deployment"
        found.append(Check("verifier", WARNING, text))
    else:
        found.append(Check("verifier", OK, f"{len(reports)} ready"))
    keys = max(report.get("signing_keys", 0) for report in reports.values())
    more = "" if keys == 1 else ": the last one signs. Drop the older ones 10 minutes after a rotation"
    found.append(Check("keys", OK, f"{keys} signing key{'s' if keys != 1 else ''}{more}"))
    early = [host for host, report in sorted(reports.items()) if report.get("at", now) - now >= CLOCK_WARNING]
    if early:
        found.append(
            Check("clock of the verifier", WARNING, f"ahead of Redis in {', '.join(early)}: see to the time synchronisation")
        )
    # A report is forgotten when it is as old as this, so one that says to be older was written by a clock that is behind.
    late = [host for host, report in sorted(reports.items()) if now - report.get("at", now) >= VERIFIER_TTL_SECONDS + CLOCK_WARNING]
    if late:
        text = f"behind Redis in {', '.join(late)}: passes are refused as if from the future. See to the time synchronisation"
        found.append(Check("clock of the verifier", PROBLEM, text))
    states: dict[str, set[str]] = {}
    for report in reports.values():
        for name, state in report.get("providers", {}).items():
            states.setdefault(name, set()).add(state)
    for name, known in sorted(states.items()):
        if "misconfigured" in known:
            text = "does not accept our keys, and is not offered: see the verifier's log and captcha.providers"
            found.append(Check(f"provider {name}", PROBLEM, text))
        elif "down" in known:
            text = "does not answer, and is not offered: see its status page, and verifier.networkPolicy.captchaProviders"
            found.append(Check(f"provider {name}", WARNING, text))
        else:
            found.append(Check(f"provider {name}", OK, "up"))
    return found


def _api_keys(reports: dict[str, dict], revoked: set[str], now: float) -> list[Check]:
    """Keys of courses and services, as the verifiers have read them."""
    keys = {key.entry.id: key for key in reported(reports.values())}
    found = [
        Check("API keys", PROBLEM, f"apiKeys: {sentence}. It does not count")
        for sentence in sorted({sentence for report in reports.values() for sentence in report.get("api_keys_wrong", [])})
    ]
    if back := sorted(key.name for key in keys.values() if key.entry.id in revoked):
        text = f"revoked, but still in the values: {', '.join(back)}. Take them out: if Redis is wiped, they count again"
        found.append(Check("API keys", WARNING, text))
    if over := sorted(key.name for key in keys.values() if key.is_expired(now)):
        found.append(Check("API keys", WARNING, f"expired: {', '.join(over)}. Take them out of apiKeys.keys"))
    return found or [Check("API keys", OK, f"{len(keys)}, all valid" if keys else "none")]


def _wiring(settings: ReconcilerSettings, wiring: dict[str, int], counters: dict[str, int], now: float) -> list[Check]:
    launches, without = wiring.get("launches", 0), wiring.get("without-context", 0)
    if not launches:
        text = "BinderHub has told of no launch yet. If there were launches, its values lack `integration.binderhub` (see NOTES)"
        found = [Check("wiring", WARNING, text)]
    elif without == launches:
        text = f"all {launches} launches came without their request: another snippet replaced BinderHub.badge_base_url after ours"
        found = [Check("wiring", PROBLEM, text)]
    else:
        since = _age(now - wiring["first"])
        text = f"{launches} launches told of in {since}, the last {_age(now - wiring['last'])} ago"
        state = WARNING if without else OK
        found = [Check("wiring", state, text + (f"; {without} without their request" if without else ""))]
    if untold := counters.get(WITHOUT_RECORD, 0):
        text = (
            f"{untold} user pods ran whose launch nobody told us about. Started from the hub itself they are normal; else the hook "
            "failed, or is lost: see BinderHub's log for `binder-egress`"
        )
        found.append(Check("launch records", WARNING, text))
    else:
        found.append(Check("launch records", OK, "every user pod was told of"))
    return found


def _start_guard(counters: dict[str, int]) -> Check:
    seen = {name.removeprefix(START_GUARD): number for name, number in counters.items() if name.startswith(START_GUARD)}
    bad = {name: seen[name] for name in ("open", "unclear", "unable", "failed", "absent") if seen.get(name)}
    well = sum(seen.get(name, 0) for name in ("closed", "blocked"))
    if bad:
        text = ", ".join(f"{name} {number}" for name, number in bad.items())
        return Check("start guard", WARNING, f"of {sum(seen.values())} pods: {text}. docs/start-guard.md says what each means")
    return Check("start guard", OK, f"{well} pods started isolated" if seen else "no pod was seen yet")


def _gate(settings: ReconcilerSettings, surroundings: Surroundings, now: float) -> list[Check]:
    """Policies, bypasses and the canary."""
    if not settings.policies:
        return [Check("policies", OK, "none of ours in this mode")]
    selector = ",".join(f"{name}={value}" for name, value in sorted(settings.user_pod_labels.items()))
    try:
        pods = surroundings.pods(f"{selector},!{GATECHECK_LABEL}", SAMPLE)
    except Unreadable:
        pods = []
    kinds: list[Labels] = [dict(kind) for kind in {kind_of(pod["metadata"]["labels"]) for pod in pods}]
    found = look(settings, surroundings, kinds, now)
    return _policies(found) + _other_kinds(surroundings, found) + _canary(settings, found)


def _policies(found: Findings) -> list[Check]:
    judged = found.judgement
    if judged is None:
        text = f"cannot be read ({found.unread['policies']}): the reconciler needs to list NetworkPolicies (rbac.create)"
        return [Check("policies", PROBLEM, text)]
    checks = []
    again = "`helm upgrade` puts them back as the values say"
    if judged.base_missing:
        checks.append(Check("policies", PROBLEM, f"the base policy does not isolate user pods, so the gate is open: {again}"))
    if judged.missing:
        checks.append(Check("policies", PROBLEM, f"missing: {', '.join(judged.missing)}; {again}"))
    if judged.altered:
        checks.append(Check("policies", PROBLEM, f"changed by hand: {', '.join(judged.altered)}; {again}"))
    if judged.by_tier:
        text = f"{', '.join(judged.by_tier)}: selects by our tier, and so gives a tier more than the values say"
        checks.append(Check("policies", WARNING, text))
    checks = checks or [Check("policies", OK, "are there, as the chart renders them")]
    for bypass in judged.bypasses:
        way = "lets every user pod reach" if bypass.direction == "egress" else "lets others reach every user pod:"
        text = f"{bypass.policy}, {bypass.direction} rule {bypass.rule}, {way} {bypass.opens}. To change: {bypass.change}"
        checks.append(Check("bypass", PROBLEM, text))
    return checks if judged.bypasses else [*checks, Check("bypass", OK, "no other NetworkPolicy opens anything for user pods")]


def _other_kinds(surroundings: Surroundings, found: Findings) -> list[Check]:
    try:
        groups = surroundings.other_kinds()
    except Unreadable as error:
        return [Check("other policies", WARNING, f"which kinds this cluster has is not known: {error}")]
    if not groups:
        return [Check("other policies", OK, "this cluster has no kind of policy but NetworkPolicy that we know of")]
    kinds = "; ".join(f"{OTHER_KINDS[group]} ({group})" for group in groups)
    proved = found.canary is not None and found.canary.state == "running" and not found.canary.open
    text = f"cannot be judged: {kinds}. " + (
        "The canary's packets are stopped all the same" if proved else "Only packets tell: `helm test`"
    )
    return [Check("other policies", OK if proved else WARNING, text)]


def _canary(settings: ReconcilerSettings, found: Findings) -> list[Check]:
    if not settings.canary:
        return [Check("canary", WARNING, "is off (canary.enabled): only `helm test` proves with packets that the gate is shut")]
    canary = found.canary
    if canary is None:
        return [Check("canary", WARNING, f"cannot be read: {found.unread['canary']}")]
    if canary.state == "missing":
        return [Check("canary", WARNING, "is gone, with its node perhaps: `helm upgrade` with the same values makes a new one")]
    if canary.open:
        text = f"{canary.pod} reached {', '.join(canary.open)}, which must be shut: docs/gatecheck.md says what to do"
        return [Check("canary", PROBLEM, text)]
    if canary.state == "starting":
        return [Check("canary", WARNING, f"{canary.pod} has not said anything yet; see `kubectl describe pod {canary.pod}`")]
    return [Check("canary", OK, f"{canary.pod} is stopped at: {', '.join(sorted(canary.targets))}")]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def show(as_json: bool) -> bool:
    """Print the checklist, as lines or as one JSON list; whether there is no problem."""
    settings = load(ReconcilerSettings)
    checks = examine(settings, Store(connect(settings)), Surroundings(settings.namespace))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks]))
    else:
        width = max(len(check.name) for check in checks)
        colours = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
        for check in checks:
            click.echo(f"{click.style(check.state.ljust(7), fg=colours[check.state])}  {check.name.ljust(width)}  {check.text}")
    return all(check.state != PROBLEM for check in checks)
