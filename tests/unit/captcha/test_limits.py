"""How many solutions may wait for remote providers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext

from binder_egress.captcha import Captcha
from binder_egress.captcha.base import Outcome, Verdict
from binder_egress.captcha.limits import MOST_OF_A_NETWORK, MOST_WAITING, WaitingLimit
from binder_egress.captcha.siteverify import CALLS_AT_A_TIME, Remote, State
from binder_egress.web.gunicorn import PUBLIC_CONNECTIONS
from tests.support.waiting import eventually

OPTIONS = {"siteKey": "s", "tier": "verified"}


def take(limit, stack, *networks):
    return [stack.enter_context(limit.place(network)) for network in networks]


def test_each_network_has_a_limit_and_all_have_one_together():
    limit = WaitingLimit()
    with ExitStack() as stack:
        assert take(limit, stack, *["a"] * (MOST_OF_A_NETWORK + 1)) == [True] * MOST_OF_A_NETWORK + [False]
        assert take(limit, stack, "b") == [True]
    # Clients behind a proxy that hides them are many, and have the common limit alone.
    for networks in ([""] * MOST_WAITING, map(str, range(MOST_WAITING))):
        with ExitStack() as stack:
            assert all(take(limit, stack, *networks))
            assert take(limit, stack, "another", "") == [False, False]


def test_most_connections_are_left_for_others():
    assert CALLS_AT_A_TIME < MOST_OF_A_NETWORK and MOST_WAITING <= PUBLIC_CONNECTIONS / 3


def test_solution_beyond_the_limit_is_not_accepted_unchecked(monkeypatch):
    monkeypatch.setattr(WaitingLimit, "place", lambda self, network: nullcontext(False))
    captcha = Captcha({"hcaptcha": OPTIONS}, ["k" * 32], {"verified"}, secrets={"HCAPTCHA": "s"}, on_outage="allow")
    captcha.remotes[0].state = State.DOWN
    assert captcha.verify("hcaptcha", "x", "launch", "a", "").outcome is Outcome.UNAVAILABLE


def test_solutions_beyond_the_limit_are_answered_while_a_provider_hangs(monkeypatch):
    asked, go_on = [], threading.Event()

    def verify(self, solution, purpose, network, address):
        asked.append(network)
        go_on.wait(60)
        return Verdict(Outcome.REJECTED)

    monkeypatch.setattr(Remote, "verify", verify)
    captcha = Captcha({"hcaptcha": OPTIONS}, ["k" * 32], {"verified"}, secrets={"HCAPTCHA": "s"}, on_outage="deny")
    with ThreadPoolExecutor(MOST_OF_A_NETWORK + 1) as pool:

        def present(network):
            return pool.submit(captcha.verify, "hcaptcha", "x", "launch", network, "")

        try:
            waiting = [present("a") for _ in range(MOST_OF_A_NETWORK)]
            eventually(lambda: len(asked) == MOST_OF_A_NETWORK)
            answer = present("a").result(60)
            assert (answer.outcome, answer.asked, len(asked)) == (Outcome.UNAVAILABLE, False, MOST_OF_A_NETWORK)
            assert "Too many" in answer.detail and not any(each.done() for each in waiting)
            present("b")
            eventually(lambda: asked[-1] == "b")
        finally:
            go_on.set()
