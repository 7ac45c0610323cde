"""Measures how long this cluster's network plugin takes to act on a changed label, which nobody can read from the API server.

The reconciler gives the canary the tier label with a value that no tier can have, and connects to it until that succeeds; then it
takes the label off, and connects until that fails. The chart has a policy for that value, which opens one port of the canary to
the reconciler alone. A pod's label selects the policies of both directions, so what is measured holds for egress too.

Decisions: D-475, D-476.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from kubernetes import client

from .. import kubernetes_api
from ..kubernetes_api import ApiServerUnavailable
from ..model.labels import GATECHECK_LABEL, TIER_LABEL
from ..pods import start_guard
from ..store.errors import StoreUnavailable
from ..store.health import SLOW_LABELS_SECONDS, Health
from .probe import MARK_PORT

log = logging.getLogger("binder-egress")

MARK = "label.delay"
"""The value of the tier label while the reconciler measures. The names of tiers have no dots."""

LIMIT_SECONDS = 60.0
"""Seconds after which a measurement ends: twice the longest wait that Cilium has by default."""

PERIOD_SECONDS = 600.0
"""Seconds between two measurements."""

HURRY_SECONDS = 30.0
"""Seconds between two attempts until `REMEMBERED` of them have measured something."""

REMEMBERED = 6
"""How many measurements count, the latest ones. Cilium waits for a random time, so one of them says little."""

TRY_SECONDS = 0.3
"""Time limit for one connection: some plugins drop packets without an answer."""

PAUSE_SECONDS = 0.05
"""Seconds between two connections."""

REFUSALS = 3
"""How many connections in a row must fail before the label counts as gone. On a busy node one may fail by chance."""


class NotMeasured(Exception):
    """Why nothing was measured, as a sentence without a full stop."""


@dataclass(frozen=True)
class LabelDelay:
    """How long a change of a label took to act. `LIMIT_SECONDS` stands for more.

    Attributes:
        on: seconds from the label to the first packet.
        off: seconds from taking it off to the first refusal.
    """

    on: float
    off: float

    @property
    def longest(self) -> float:
        """The longer of the two, in seconds."""
        return max(self.on, self.off)


class Canary:
    """The canary's pod, as it is measured with. Every method may raise `ApiServerUnavailable`.

    Args:
        namespace: the release's namespace.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, api: client.ApiClient | None = None):
        self._api = api or kubernetes_api.in_cluster_client()
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    def read(self) -> dict[str, Any]:
        """The pod as JSON.

        Raises:
            NotMeasured: none runs.
        """
        pods = kubernetes_api.read(self._api, "GET", self._path, query={"labelSelector": f"{GATECHECK_LABEL}=canary"})["items"]
        for pod in pods:
            statuses = pod["status"].get("containerStatuses") or []
            if "deletionTimestamp" not in pod["metadata"] and any("running" in status["state"] for status in statuses):
                return dict(pod)
        raise NotMeasured("the canary does not run")

    def mark(self, pod: dict[str, Any], value: str | None) -> None:
        """Give the pod the tier label with a value; None takes it off."""
        metadata = {"uid": pod["metadata"]["uid"], "labels": {TIER_LABEL: value}}
        path = f"{self._path}/{pod['metadata']['name']}"
        kubernetes_api.read(self._api, "PATCH", path, body={"metadata": metadata}, content_type=kubernetes_api.MERGE_PATCH)

    def answers(self, pod: dict[str, Any]) -> bool:
        """Whether the pod accepts a connection now."""
        return start_guard.connects((pod["status"]["podIP"], MARK_PORT), TRY_SECONDS)


def measure(
    canary: Canary, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
) -> LabelDelay:
    """Measure once. The label is off afterwards, whatever happens.

    Args:
        canary: the pod to measure with.
        clock: monotonic time in seconds.
        sleep: waits for a number of seconds.

    Raises:
        NotMeasured: there is nothing to measure with.
        ApiServerUnavailable: the API server does not answer, or refuses the request.
    """

    def until(done: Callable[[], bool], began: float, in_a_row: int = 1) -> float:
        """Seconds from `began` to the first of so many successes in a row, `LIMIT_SECONDS` at most."""
        first, count = 0.0, 0
        while clock() - began < LIMIT_SECONDS:
            now = clock()
            if not done():
                count = 0
            elif (count := count + 1) == 1:
                # A connection that succeeds is seen when it does; one that fails failed from its beginning on.
                first = clock() if in_a_row == 1 else now
            if count == in_a_row:
                return round(first - began, 2)
            sleep(PAUSE_SECONDS)
        return LIMIT_SECONDS

    pod = canary.read()
    if TIER_LABEL in pod["metadata"]["labels"]:
        canary.mark(pod, None)
        raise NotMeasured("an earlier measurement had not ended")
    if canary.answers(pod):
        raise NotMeasured("no policy keeps the reconciler from the canary")
    try:
        began = clock()
        canary.mark(pod, MARK)
        on = until(lambda: canary.answers(pod), began)
    finally:
        began = clock()
        canary.mark(pod, None)
    off = until(lambda: not canary.answers(pod), began, REFUSALS) if on < LIMIT_SECONDS else LIMIT_SECONDS
    # The canary's container ends after each change of its results, and then nobody listens.
    if _restarts(canary.read()) != _restarts(pod):
        raise NotMeasured("the canary started again meanwhile")
    return LabelDelay(on, off)


def _restarts(pod: dict[str, Any]) -> tuple[str, int]:
    return pod["metadata"]["uid"], sum(status["restartCount"] for status in pod["status"].get("containerStatuses") or [])


class LabelDelays:
    """Measures again and again, and remembers the latest results.

    Args:
        canary: the pod to measure with; None: there is no canary, and nothing is measured.
        store: Redis, which has what an earlier process published last. That counts as one measurement.
    """

    def __init__(self, canary: Canary | None, store: Health):
        self._canary = canary
        self._measured: deque[LabelDelay] = deque(maxlen=REMEMBERED)
        if canary:
            with suppress(StoreUnavailable, KeyError, TypeError, ValueError):
                before = (store.gatecheck() or {})["label_delay"]
                self._measured.append(LabelDelay(float(before["on"]), float(before["off"])))
        self.reason = "" if canary else "there is no canary"
        """Why the last attempt measured nothing; empty: it did, or there was none yet."""

    def worst(self) -> LabelDelay | None:
        """The longest times of the latest measurements; None: nothing was measured yet."""
        measured = list(self._measured)
        return LabelDelay(max(one.on for one in measured), max(one.off for one in measured)) if measured else None

    def opening_seconds(self) -> int:
        """Seconds for which people are told to wait after a label was set; 0 where labels are not slow.

        More than `LIMIT_SECONDS` is not known, so nobody is told to wait for that.
        """
        worst = self.worst()
        return round(worst.on) if worst and SLOW_LABELS_SECONDS < worst.on < LIMIT_SECONDS else 0

    def findings(self) -> dict[str, Any]:
        """What the gate check publishes: `on` and `off`, or the reason why nothing was measured."""
        worst = self.worst()
        return asdict(worst) if worst else {"reason": self.reason}

    def run(self) -> None:
        """Measure every `PERIOD_SECONDS`, for ever. A fault here does not stop the reconciler."""
        while self._canary:
            self.run_once(self._canary)
            time.sleep(PERIOD_SECONDS if len(self._measured) == REMEMBERED else HURRY_SECONDS)

    def run_once(self, canary: Canary, measure: Callable[[Canary], LabelDelay] = measure) -> None:
        """Measure once, and log it if labels turn out to be slow."""
        before = self.worst()
        try:
            self._measured.append(measure(canary))
            self.reason = ""
        except (NotMeasured, ApiServerUnavailable) as error:
            self.reason = str(error)
        except Exception:
            log.exception("fault while measuring the delay of labels")
            self.reason = "a fault: see the reconciler's log"
        worst = self.worst()
        if worst and worst.longest > SLOW_LABELS_SECONDS and not (before and before.longest > SLOW_LABELS_SECONDS):
            log.warning("labels act late: docs/gatecheck.md says what to do", extra={"fields": asdict(worst)})
