"""What is known of each node: is it shut, open, or not known, and since when.

Three parts tell something that the others cannot. The node's canary tries what must be shut. The label delay shows that the network
plugin still acts, which pods that it knows already do not show. The start guards saw how the node's user pods began.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from ..kubernetes_api import ApiServerUnavailable
from ..model.records import Measured, Node
from ..model.times import age
from ..store.health import SLOW_LABELS_SECONDS
from ..store.reconciler_counters import NOT_ISOLATED
from .canaries import Canaries, Word, ask_all, is_of_node
from .label_delay import LIMIT_SECONDS, LabelDelays

log = logging.getLogger("binder-egress")

ASK_PERIOD_SECONDS = 10.0
"""Seconds between two questions to each canary."""

FRESH_SECONDS = 60.0
"""The age up to which a canary's word counts. It tries its targets every 15 s by default."""

SHUT, OPEN, NOT_KNOWN = "shut", "open", "not known"


def judged(word: Word | None, has_canary: bool, labels: Measured, guards: Mapping[str, int], now: float) -> tuple[str, str]:
    """Whether a node is shut, and what says otherwise.

    Args:
        word: what the node's canary said last; None: nothing.
        has_canary: whether a canary runs there.
        labels: how long labels take to act there.
        guards: the start guards of its user pods, by outcome.
        now: Unix time in seconds.
    """
    opened = sum(guards.get(outcome, 0) for outcome in NOT_ISOLATED)
    is_fresh = word is not None and now - word.at <= FRESH_SECONDS
    if word and is_fresh and (reached := sorted(name for name, shut in word.targets.items() if not shut)):
        return OPEN, f"its canary reached {', '.join(reached)}"
    if opened and not is_fresh:
        return OPEN, f"the start guards of {opened} pods saw no isolation, and no canary says otherwise"
    if not word or not is_fresh:
        return NOT_KNOWN, "its canary does not answer" if has_canary else "it has no canary"
    if not word.targets:
        return NOT_KNOWN, "its canary can try none of its targets"
    # A change that has no effect for longer than usual: twice as long as ever before, on a node whose labels are late.
    usual = max(labels.get("on", 0.0), labels.get("off", 0.0))
    if (seconds := now - labels.get("since", now)) > min(max(SLOW_LABELS_SECONDS, 2 * usual), LIMIT_SECONDS):
        return NOT_KNOWN, f"the network plugin has not acted on a label for {age(seconds)}: new pods may be open"
    if reason := labels.get("reason"):
        return NOT_KNOWN, f"{reason}: new pods may be open"
    return SHUT, ""


def seen_by_proxy(single: str, nodes: Mapping[str, Node]) -> str:
    """What the egress proxy sees of canaries (`probe.seen_by_proxy`): what is wrong on any node comes first.

    Args:
        single: what the canary without a controller says, which repeats what it saw before while the proxy is silent.
        nodes: what is known of each node; without a fresh word of one, the single canary's counts.
    """
    words = {row["proxy"] for row in nodes.values()}
    return next((word for word in ("hidden", "shown", "silent") if word in words), single)


class Nodes:
    """Asks the canaries, and puts together what is known of each node.

    Args:
        canaries: the canaries' pods.
        delays: how long labels take to act.
        user_pods: returns node → its running user pods by the outcome of their start guards.
        agents: returns the nodes with an agent, or None if agents are off or were not listed yet.
        now: Unix time in seconds.
        ask: asks canaries.
    """

    def __init__(
        self,
        canaries: Canaries,
        delays: LabelDelays,
        user_pods: Callable[[], Mapping[str, Counter[str]]],
        agents: Callable[[], Iterable[str] | None] = lambda: None,
        now: Callable[[], float] = time.time,
        ask: Callable[..., dict[str, Word]] = ask_all,
    ):
        self._canaries, self._delays, self._user_pods, self._agents = canaries, delays, user_pods, agents
        self._now, self._ask = now, ask
        self._running: set[str] = set()  # nodes whose canary runs
        self._words: dict[str, Word] = {}
        self._states: dict[str, tuple[str, float]] = {}  # by node, and since when

    def run(self) -> None:
        """Ask all canaries again and again, for ever. A fault here does not stop the reconciler."""
        while True:
            try:
                self.turn()
            except ApiServerUnavailable as error:
                log.warning("the canaries cannot be listed: %s", error)
            except Exception:
                log.exception("fault while asking the canaries")
            time.sleep(ASK_PERIOD_SECONDS)

    def turn(self) -> None:
        """Ask each canary once.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        pods = [pod for pod in self._canaries.running() if is_of_node(pod)]
        self._running = {pod["spec"]["nodeName"] for pod in pods}
        words = {node: word for node, word in self._words.items() if node in self._running}
        self._words = words | self._ask(pods)

    def rows(self) -> dict[str, Node]:
        """Each node that has user pods or a canary, by name."""
        now, user_pods, agents = self._now(), self._user_pods(), self._agents()
        rows = {}
        for node in sorted(user_pods.keys() | self._running):
            guards, word, labels = user_pods.get(node, Counter()), self._words.get(node), self._delays.of(node)
            state, why = judged(word, node in self._running, labels, guards, now)
            before, since = self._states.get(node, ("", now))
            rows[node] = Node(
                state=state,
                since=since if state == before else now,
                why=why,
                user_pods=guards.total(),
                guards={outcome: number for outcome, number in sorted(guards.items()) if outcome},
                said=word.at if word else None,
                targets=word.targets if word else {},
                proxy=word.proxy if word and now - word.at <= FRESH_SECONDS else "",
                agent=None if agents is None else node in agents,
                labels=labels,
            )
        self._states = {node: (row["state"], row["since"]) for node, row in rows.items()}
        return rows
