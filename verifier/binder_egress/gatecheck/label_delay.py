"""Measures how long each node's network plugin takes to act on a changed label, which nobody can read from the API server.

The reconciler gives a canary the tier label with a value that no tier can have, and connects to it until that succeeds; at its next
turn it takes the label off, and connects until that fails. The chart has a policy for that value, which opens one port of a canary
to the reconciler alone. A pod's label selects the policies of both directions, so what is measured holds for egress too.

A network plugin that hangs changes nothing for pods that it knows, so no canary's packets show it. A label does.

Decisions: D-475, D-476, D-541.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ..kubernetes_api import ApiServerUnavailable
from ..model.labels import TIER_LABEL
from ..model.records import Measured
from ..store.errors import StoreUnavailable
from ..store.health import SLOW_LABELS_SECONDS, ReconcilerHealth
from .canaries import Canaries

log = logging.getLogger("binder-egress")

MARK = "label.delay"
"""The value of the tier label while the reconciler measures. The names of tiers have no dots."""

LIMIT_SECONDS = 60.0
"""Seconds after which a measurement ends: twice the longest wait that Cilium has by default."""

PERIOD_SECONDS = 20.0
"""Seconds between two measurements on a node, if there are few nodes."""

PATCH_SECONDS = 1.0
"""Seconds between two changes of a label, wherever: with 500 nodes, each is measured every eight minutes."""

REMEMBERED = 6
"""How many measurements of each direction count, the latest ones. Cilium waits for a random time, so one of them says little."""

PAUSE_SECONDS = 0.05
"""Seconds between two connections."""

REFUSALS = 3
"""How many connections in a row must fail before the label counts as gone. On a busy node one may fail by chance."""


class NotMeasured(Exception):
    """Why nothing was measured, as a sentence without a full stop."""


def measure(
    canaries: Canaries,
    pod: dict[str, Any],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[str, float]:
    """Change a canary's label once: set it, or take it off if it is on.

    Args:
        canaries: the canaries.
        pod: the one to measure with, as it was listed.
        clock: monotonic time in seconds.
        sleep: waits for a number of seconds.

    Returns:
        `on` or `off`, and the seconds until that acted, `LIMIT_SECONDS` at most.

    Raises:
        NotMeasured: an earlier change has not acted yet, or nothing keeps the reconciler from the canary.
        ApiServerUnavailable: the API server does not answer, or refuses the request.
    """
    marked = pod["metadata"]["labels"].get(TIER_LABEL) == MARK
    if canaries.answers(pod) != marked:
        raise NotMeasured(
            "the network plugin has not acted on the label" if marked else "nothing keeps the reconciler from the canary's port"
        )
    began = clock()
    canaries.mark(pod, None if marked else MARK)
    in_a_row, first, count = REFUSALS if marked else 1, 0.0, 0
    while clock() - began < LIMIT_SECONDS:
        now = clock()
        if canaries.answers(pod) == marked:
            count = 0
        elif (count := count + 1) == 1:
            # A connection succeeds when its answer comes. One that fails was refused from its first packet on.
            first = now if marked else clock()
        if count == in_a_row:
            return ("off" if marked else "on"), round(first - began, 2)
        sleep(PAUSE_SECONDS)
    return ("off" if marked else "on"), LIMIT_SECONDS


class LabelDelays:
    """Measures on each node again and again, at once where somebody waits for that, and remembers and publishes the latest results.

    Args:
        canaries: the pods to measure with; None: there are none, and nothing is measured.
        store: Redis, which has what an earlier process published last. That counts as one measurement.
        now: Unix time in seconds.
    """

    def __init__(self, canaries: Canaries | None, store: ReconcilerHealth, now: Callable[[], float] = time.time):
        self._canaries = canaries
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._measured: dict[str, dict[str, deque[float]]] = {}  # by node and direction
        self._states: dict[str, Measured] = defaultdict(Measured)  # `at`, `since` and `reason` by node
        self._measuring: set[str] = set()  # nodes
        self._nodes: set[str] = set()  # nodes with a canary
        self._asked: set[str] = set()  # nodes with a canary that somebody waits for
        self._is_asked = threading.Event()
        with suppress(StoreUnavailable):
            store.forget_measured()
            for node, row in store.gatecheck().get("nodes", {}).items() if canaries else ():
                for way, seconds in (("on", row["labels"].get("on")), ("off", row["labels"].get("off"))):
                    if seconds is not None:
                        self._remember(node, way, seconds)
                if since := row["labels"].get("since"):
                    self._states[node]["since"] = since

    def _remember(self, node: str, way: str, seconds: float) -> None:
        ways = self._measured.setdefault(node, {})
        ways.setdefault(way, deque(maxlen=REMEMBERED)).append(seconds)

    def of(self, node: str) -> Measured:
        """What is known of a node."""
        with self._lock:
            state = Measured(**self._states.get(node, {}))
            for way, measured in self._measured.get(node, {}).items():
                state[way] = max(measured)  # type: ignore[literal-required]
            return state

    def worst(self) -> dict[str, float]:
        """The longest times of all nodes, `on` and `off`; a direction that was measured nowhere is missing."""
        with self._lock:
            ways = [(way, max(measured)) for node in self._measured.values() for way, measured in node.items()]
        return {way: max(seconds for other, seconds in ways if other == way) for way, _ in ways}

    def opening_seconds(self) -> int:
        """Seconds for which people are told to wait after a label was set; 0 where labels are not slow.

        More than `LIMIT_SECONDS` is not known, so nobody is told to wait for that.
        """
        with self._lock:
            on = [seconds for ways in self._measured.values() for seconds in ways.get("on", ()) if seconds < LIMIT_SECONDS]
        return round(max(on)) if on and max(on) > SLOW_LABELS_SECONDS else 0

    def soon(self, nodes: Iterable[str]) -> None:
        """Measure on these nodes before others, as far as they have a canary: somebody waits for the result."""
        with self._lock:
            self._asked |= self._nodes & set(nodes)
            if self._asked:
                self._is_asked.set()

    def run(self) -> None:
        """Measure, for ever. A fault here does not stop the reconciler."""
        while self._canaries:
            ends = time.monotonic() + PERIOD_SECONDS
            try:
                self.turn(self._canaries)
            except ApiServerUnavailable as error:
                log.warning("the canaries cannot be listed: %s", error)
            except Exception:
                log.exception("fault while measuring the delay of labels")
            while (left := ends - time.monotonic()) > 0:
                if self._is_asked.wait(left):
                    self.begin_asked(self._canaries)

    def turn(self, canaries: Canaries, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin to measure on each node that is not being measured, one after the other, and in between on those asked for.

        Args:
            canaries: the pods to measure with.
            sleep: waits for a number of seconds.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        nodes = {str(pod["spec"]["nodeName"]) for pod in canaries.running()}
        with self._lock:
            self._nodes = nodes
            gone = [node for node in self._measured.keys() | self._states.keys() if node not in nodes]
            for node in gone:
                self._measured.pop(node, None)
                self._states.pop(node, None)
            due = sorted(nodes - self._measuring)
        for node in gone:
            self._publish(node, None)
        for node in due:
            self.begin(node, canaries)
            sleep(PATCH_SECONDS)
            self.begin_asked(canaries, sleep)

    def begin_asked(self, canaries: Canaries, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin to measure on one of the nodes that somebody waits for. One that is being measured has its result soon."""
        with self._lock:
            self._asked -= self._measuring
            node = self._asked.pop() if self._asked else None
            if not self._asked:
                self._is_asked.clear()
        if node:
            self.begin(node, canaries)
            sleep(PATCH_SECONDS)

    def begin(self, node: str, canaries: Canaries) -> None:
        """Begin to measure on a node, in a thread of its own: one whose network plugin hangs takes `LIMIT_SECONDS`.

        As one begins every `PATCH_SECONDS`, there are hardly more threads than `LIMIT_SECONDS`. A pool's threads are no daemons, so
        the process would wait for a measurement before it ends (D-574).
        """
        with self._lock:
            if node in self._measuring:
                return
            self._measuring.add(node)
        threading.Thread(target=self.measure, args=(node, canaries), name=f"label-delay {node}", daemon=True).start()

    def measure(self, node: str, canaries: Canaries, measure: Callable[..., tuple[str, float]] = measure) -> None:
        """Measure on a node once, publish the result, and log it if labels turn out to be slow there."""
        before, way, seconds = self.of(node), "", LIMIT_SECONDS
        with self._lock:
            tried = Measured(**{"since": self._now(), **self._states[node]})
            untried, self._states[node] = self._states[node], tried
        self._publish(node, self.of(node))
        try:
            way, seconds = measure(canaries, _canary_of(node, canaries))
            reason = "" if seconds < LIMIT_SECONDS else "the network plugin has not acted on the label"
        except NotMeasured as error:
            reason = str(error)
        except Exception as error:
            # Nothing was tried, so this says nothing about the network plugin.
            tried, reason = untried, str(error)
            if not isinstance(error, ApiServerUnavailable):
                log.exception("fault while measuring the delay of labels")
                reason = "a fault: see the reconciler's log"
        with self._lock:
            self._measuring.discard(node)
            if way:
                self._remember(node, way, seconds)
            self._states[node] = Measured(**{**tried, "reason": reason}) if reason else Measured(at=self._now())
        self._publish(node, self.of(node))
        if way and seconds > SLOW_LABELS_SECONDS >= max(before.get("on", 0.0), before.get("off", 0.0)):
            log.warning("labels act late: docs/gatecheck.md says what to do", extra={"fields": {"node": node, way: seconds}})

    def _publish(self, node: str, measured: Measured | None) -> None:
        with suppress(StoreUnavailable):
            self._store.publish_measured(node, measured)


def _canary_of(node: str, canaries: Canaries) -> dict[str, Any]:
    """The canary of a node as it is now. The list of a turn may be minutes old."""
    for pod in canaries.running(node):
        return pod
    raise ApiServerUnavailable("no canary runs there")
