"""What proves that the gate is shut, gathered by the reconciler every minute: policies, bypasses and the canary.

It reads the API server beside the reconciler's own work, publishes what it found in Redis for the metrics, and logs what has
changed. `doctor` uses the same functions, at once.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from ..settings import ReconcilerSettings
from ..store.errors import StoreUnavailable
from ..store.store import Store
from .netpol import OTHER_KINDS, Judgement, Labels, judge, supposed

log = logging.getLogger("binder-egress")

PERIOD = 60.0
"""Seconds between two looks. Each is three small requests to the API server."""

WAIT = 10
"""Seconds that a request may take."""

KINDS = 50
"""Different sets of labels of user pods that are judged at most. JupyterHub makes one for each profile."""

GATECHECK_LABEL = "binder-egress/gatecheck"
"""The label of pods that are not a user's but stand in for one: `canary` or `test`."""


class Unreadable(Exception):
    """The API server does not answer, or does not let us read this."""


@dataclass(frozen=True)
class Canary:
    """What is known of the canary.

    Attributes:
        state: `running`, `missing` (there is none), or `starting` (it has said nothing yet, or is not running).
        targets: what it tried → whether that was shut.
        pod: its name.
    """

    state: str
    targets: dict[str, bool] = field(default_factory=dict)
    pod: str = ""

    @property
    def open(self) -> list[str]:
        """What it reached although it must be shut."""
        return sorted(name for name, shut in self.targets.items() if not shut)


class Surroundings:
    """What else is in the namespace. Only read.

    Args:
        namespace: the namespace.
        api: the client; by default one with the pod's own ServiceAccount.
    """

    def __init__(self, namespace: str, api: client.ApiClient | None = None):
        if api is None:
            config.load_incluster_config()
            api = client.ApiClient()
        self._namespace = namespace
        self._core = client.CoreV1Api(api)
        self._networking = client.NetworkingV1Api(api)
        self._apis = client.ApisApi(api)

    def policies(self) -> list[dict[str, Any]]:
        """All NetworkPolicies of the namespace, or `Unreadable`."""
        return self._read(self._networking.list_namespaced_network_policy, self._namespace)["items"]

    def other_kinds(self) -> list[str]:
        """API groups of this cluster with policies that are not judged (`OTHER_KINDS`), or `Unreadable`."""
        return sorted({group["name"] for group in self._read(self._apis.get_api_versions)["groups"]} & set(OTHER_KINDS))

    def pods(self, selector: str, most: int = 100) -> list[dict[str, Any]]:
        """The first pods of the namespace that a label selector selects, or `Unreadable`."""
        return self._read(self._core.list_namespaced_pod, self._namespace, label_selector=selector, limit=most)["items"]

    def canary(self) -> Canary:
        """The canary, or `Unreadable`."""
        return canary_of(self.pods(f"{GATECHECK_LABEL}=canary"))

    def clock(self) -> float:
        """Seconds that the API server's clock is ahead of ours, to the second, or `Unreadable`."""
        answer = self._call(self._apis.get_api_versions)
        try:
            return parsedate_to_datetime(answer.headers["Date"]).timestamp() - int(time.time())
        except (KeyError, TypeError, ValueError):
            raise Unreadable("its answers have no date") from None

    def _read(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return json.loads(self._call(method, *args, **kwargs).data)
        except ValueError:
            raise Unreadable("no JSON") from None

    def _call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, _preload_content=False, _request_timeout=WAIT, **kwargs)
        except ApiException as error:
            raise Unreadable(f"{error.status} {error.reason}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from None


def canary_of(pods: list[dict[str, Any]]) -> Canary:
    """What the canary says, read off its pod: it ends with a message whenever what it sees changes, and is started again."""
    alive = [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") not in ("Succeeded", "Failed")
    ]
    if not alive:
        return Canary("missing")
    pod = max(alive, key=lambda pod: pod["metadata"]["creationTimestamp"])
    name = pod["metadata"]["name"]
    for status in pod["status"].get("containerStatuses") or []:
        # It is not running for a moment after each change, and longer if it changes often.
        between = status.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        if "waiting" in status.get("state", {}) and not between:
            continue
        for when in ("state", "lastState"):
            try:
                reached = json.loads(status[when]["terminated"]["message"])["reached"]
                return Canary("running", {str(target): got is False for target, got in reached.items()}, name)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return Canary("starting", {}, name)


@dataclass
class Findings:
    """What one look found. What could not be read is in `unread`, and then the rest of it says nothing.

    Attributes:
        at: Unix time in seconds.
        judgement: of the NetworkPolicies; None if they could not be read.
        canary: None if it could not be read, or none is expected.
        unread: what could not be read, and why.
    """

    at: float
    judgement: Judgement | None = None
    canary: Canary | None = None
    unread: dict[str, str] = field(default_factory=dict)

    def dumps(self) -> str:
        """This as JSON, for Redis."""
        return json.dumps(asdict(self))


def look(settings: ReconcilerSettings, surroundings: Surroundings, kinds: list[Labels], now: float) -> Findings:
    """Read everything and judge it.

    Args:
        settings: ours.
        surroundings: the namespace.
        kinds: the labels of the user pods that run; empty if none do.
        now: Unix time in seconds.
    """
    found = Findings(now)
    try:
        pods = kinds[:KINDS] or [supposed(settings.user_pod_labels)]
        found.judgement = judge(surroundings.policies(), settings.policies, pods)
    except Unreadable as error:
        found.unread["policies"] = str(error)
    if settings.canary:
        try:
            found.canary = surroundings.canary()
        except Unreadable as error:
            found.unread["canary"] = str(error)
    return found


class Watcher:
    """Looks, again and again.

    Args:
        settings: ours.
        surroundings: the namespace.
        store: Redis.
        labels: the labels of each user pod that runs.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        settings: ReconcilerSettings,
        surroundings: Surroundings,
        store: Store,
        labels: Callable[[], list[frozenset[tuple[str, str | None]]]],
        clock: Callable[[], float] = time.time,
    ):
        self._settings = settings
        self._surroundings = surroundings
        self._store = store
        self._labels = labels
        self._clock = clock
        self._said: dict[str, object] = {}

    def run(self, stop: threading.Event) -> None:
        """Look every `PERIOD` seconds until `stop`. Nothing here can stop the reconciler."""
        while not stop.is_set():
            try:
                self.once()
            except Exception:
                log.exception("fault in the gate check")
            stop.wait(PERIOD)

    def once(self) -> Findings:
        """Look once, publish it, and log what is not as it was at the last look."""
        kinds: list[Labels] = [dict(kind) for kind in set(self._labels())]
        found = look(self._settings, self._surroundings, kinds, self._clock())
        self._tell(found)
        try:
            self._store.publish_gatecheck(found.dumps())
        except StoreUnavailable as error:
            log.warning("%s", error)
        return found

    def _tell(self, found: Findings) -> None:
        for what in ("policies", "canary"):
            why = found.unread.get(what)
            self._say(f"unread {what}", why, f"cannot read {what}, so what is wrong with it is not seen", reason=why)
        judged = found.judgement
        if judged is not None:
            self._say("base", judged.base_missing, "the base policy does not isolate user pods: the gate is open")
            self._say("missing", tuple(judged.missing), "policies are missing", policies=judged.missing)
            self._say("altered", tuple(judged.altered), "policies are not as the chart renders them", policies=judged.altered)
            self._say("by tier", tuple(judged.by_tier), "policies of others select by our tier", policies=judged.by_tier)
            self._say(
                "bypasses", tuple(judged.bypasses), "policies open the gate", rules=[asdict(rule) for rule in judged.bypasses]
            )
        if found.canary is not None:
            opened = found.canary.open
            self._say("open", tuple(opened), "the canary reached what must be shut", targets=opened, pod=found.canary.pod)
            self._say("canary", found.canary.state == "missing", "there is no canary: `helm upgrade` makes a new one")

    def _say(self, about: str, now: object, text: str, **fields: object) -> None:
        """Log a finding once, and once that it is over."""
        before = self._said.get(about)
        self._said[about] = now
        if now and now != before:
            log.error(text, extra={"fields": fields})
        elif before and not now:
            log.info("over: %s", text)
