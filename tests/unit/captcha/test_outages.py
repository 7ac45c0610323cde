"""Providers in trouble: how the verifier notices, what takes their place, and what operators see of it."""

import json
import threading
import time

import pytest
from flask import jsonify

from binder_egress import captcha as captcha_module
from binder_egress.captcha import State
from binder_egress.captcha.siteverify import CALLS_AT_A_TIME
from binder_egress.web.context import PLACES
from tests.support.apps import DIRECT, QUICK, VerifierProcess, internal_client, public_client, solve
from tests.support.doubles import SECRET
from tests.support.metrics import value
from tests.support.offers import REMOTE, names, present, remote, state
from tests.support.public_port import assert_problem
from tests.support.waiting import eventually

# -- outages


@pytest.mark.parametrize("name", REMOTE)
def test_self_check_tells_trouble_from_a_wrong_secret(make, double, name):
    services = make(name)
    internal = internal_client(services)
    for behaviour, expected in (
        ("right", "up"),
        *((trouble, "down") for trouble in ("down", "limited", "rubbish")),
        *((trouble, "misconfigured") for trouble in ("misconfigured", "accepting")),
    ):
        double.behaviour[name] = behaviour
        remote(services, name).check()
        # Prosopo says the same of a wrong solution, whatever the secret.
        current = "up" if (name, behaviour) == ("prosopo", "misconfigured") else expected
        assert state(services, name) == current, behaviour
        assert value(internal, "binder_egress_captcha_provider_up", provider=name) == (current != "down")
        assert value(internal, "binder_egress_captcha_provider_misconfigured", provider=name) == (current == "misconfigured")
        double.behaviour[name] = "right"
        remote(services, name).check()
        assert state(services, name) == "up", behaviour


@pytest.mark.parametrize("behaviours", [["accepting"], ["accepting", "down"]], ids=len)
def test_provider_that_accepts_anything_is_distrusted(make, double, behaviours):
    """An outage does not restore trust."""
    services = make("turnstile")
    for behaviour in behaviours:
        double.behaviour["turnstile"] = behaviour
        remote(services, "turnstile").check()
    double.behaviour["turnstile"] = "accepting"
    # A solution without an offer is not accepted either, and does not end the misconfiguration.
    for _ in range(2):
        assert_problem(present(public_client(services), "turnstile", "made-up"), "provider-misconfigured", 503)
    double.behaviour["turnstile"] = "right"
    remote(services, "turnstile").check()
    assert present(public_client(services), "turnstile", double.token("turnstile", action="launch")).status_code == 201


def test_request_that_waits_for_a_provider_holds_no_place(make, double, monkeypatch):
    """A request that makes the verifier calculate keeps its place, so the places limit how many calculate at a time."""
    services = make("turnstile", "altcha")
    client, places, free = public_client(services), threading.Semaphore(0), {}
    verify = services.captcha.verify

    def watched(name, *more):
        free[name] = places.acquire(blocking=False)
        if free[name]:
            places.release()
        return verify(name, *more)

    monkeypatch.setattr(services.captcha, "verify", watched)
    for name in ("turnstile", "altcha"):
        solution = double.token(name, action="launch") if name == "turnstile" else "wrong"
        client.post("/egress/passes", json={"provider": name, "solution": solution}, environ_overrides={PLACES: places})
        assert not places.acquire(blocking=False), "it has a place again"
    assert free == {"turnstile": True, "altcha": False}


def test_hanging_calls_of_clients_do_not_hold_up_the_self_check(make, double, monkeypatch):
    monkeypatch.setattr("binder_egress.captcha.siteverify.ASK_LIMIT_SECONDS", 2)
    turnstile = remote(make("turnstile"), "turnstile")
    end = threading.Event()
    for _ in range(CALLS_AT_A_TIME):
        turnstile.pool.submit(end.wait, 20)
    # A self-check that got no answer would find that the provider is down.
    double.behaviour["turnstile"] = "misconfigured"
    turnstile.check()
    end.set()
    assert turnstile.state is State.MISCONFIGURED


@pytest.mark.parametrize(
    ("name", "answer", "problem"),
    [
        # A firewall takes text for an attack.
        ("hcaptcha", lambda: ("<h1>Blocked</h1>", 403), "provider-unavailable"),
        ("turnstile", lambda: jsonify({"success": False, "error-codes": ["invalid-input-secret"]}), "provider-misconfigured"),
        # The answer of its open source to unreadable input.
        ("prosopo", lambda: (jsonify(error={"code": 500}), 500), "provider-unavailable"),
    ],
)
@pytest.mark.parametrize("on_outage", ["proofOfWork", "allow"])
def test_client_can_cause_no_trouble_but_a_self_check(make, double, monkeypatch, on_outage, name, answer, problem):
    services = make(name, captcha_on_outage=on_outage)
    client = public_client(services)
    real = double.app.view_functions[name]
    monkeypatch.setitem(double.app.view_functions, name, lambda: answer() if "junk" in str(double.calls[-1]) else real())
    for number in range(5):
        assert_problem(present(client, name, f"junk{number}"), problem, 503)
    assert remote(services, name).check_due.is_set()
    for _ in range(2):
        assert names(client) == [(name, "verified", "interactive")]
        remote(services, name).check()


@pytest.mark.parametrize(("trouble", "after"), [(State.DOWN, "up"), (State.MISCONFIGURED, "misconfigured")])
def test_rejected_solution_ends_an_outage_and_an_accepted_one_any_trouble(make, double, trouble, after):
    services = make("turnstile")
    client = public_client(services)
    remote(services, "turnstile").state = trouble
    present(client, "turnstile", double.token("turnstile", right=False))
    assert state(services, "turnstile") == after
    present(client, "turnstile", double.token("turnstile", action="launch"))
    assert state(services, "turnstile") == "up"


def test_self_checks_run_by_themselves_and_when_due(make, double, monkeypatch):
    monkeypatch.setattr(captcha_module, "CHECK_GAP_SECONDS", 0.01)
    monkeypatch.setattr(captcha_module, "CHECK_TROUBLED_SECONDS", 0.05)
    services = make("turnstile", "hcaptcha")
    # A provider that hangs does so for 20 s.
    double.behaviour["hcaptcha"] = "hanging"
    for behaviour, expected in (("down", "down"), ("misconfigured", "misconfigured"), ("right", "up")):
        double.behaviour["turnstile"] = behaviour
        if behaviour == "down":
            services.captcha.start()
        eventually(lambda expected=expected: state(services, "turnstile") == expected)
    # Up: the next would be in a quarter of an hour.
    calls = len(double.calls)
    time.sleep(0.2)
    assert "turnstile" not in [name for name, _ in double.calls[calls:]]
    double.behaviour["turnstile"] = "misconfigured"
    remote(services, "turnstile").check_due.set()
    eventually(lambda: state(services, "turnstile") == "misconfigured")


def test_verifier_process_checks_its_providers(redis_server, double):
    """Threads do not survive gunicorn's fork, so this is about the real process."""
    double.behaviour["turnstile"] = "misconfigured"
    process = VerifierProcess(redis_server, **double.settings("turnstile", "hcaptcha", with_altcha=QUICK["altcha"]))
    try:

        def after_a_check():
            with DIRECT.open(f"{process.internal}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
            return lines if 'binder_egress_captcha_provider_misconfigured{provider="turnstile"} 1.0' in lines else []

        lines = eventually(after_a_check, what="no self-check")
        assert 'binder_egress_captcha_provider_misconfigured{provider="hcaptcha"} 0.0' in lines
        with DIRECT.open(f"{process.public}/egress/challenge", timeout=60) as answer:
            assert [offer["name"] for offer in json.load(answer)["providers"]] == ["hcaptcha", "altcha"]
    finally:
        log = process.stop()
    (line,) = [json.loads(line) for line in log if "captcha.providers" in line]
    assert line["level"] == "error" and "captcha.providers.turnstile is set up wrong" in line["message"]
    assert SECRET not in "\n".join(log)


def test_proxy_of_the_environment_is_used(make, double, monkeypatch):
    """`verifier.extraEnv` in the chart."""
    monkeypatch.setenv("http_proxy", double.url)
    client = public_client(make("mcaptcha", options={"mcaptcha": {"apiUrl": "http://captcha.example.org/mcaptcha"}}))
    assert present(client, "mcaptcha", double.token("mcaptcha")).status_code == 201


# -- substitutes

STAND_IN = ("altcha", "small", "proof-of-work")


@pytest.mark.parametrize("trouble", [State.DOWN, State.MISCONFIGURED])
@pytest.mark.parametrize(("on_outage", "in_place"), [("deny", []), ("proofOfWork", [STAND_IN]), ("allow", [STAND_IN])])
def test_proof_of_work_replaces_a_provider_in_trouble(make, on_outage, in_place, trouble):
    services = make("turnstile", captcha_on_outage=on_outage)
    client, internal = public_client(services), internal_client(services)
    assert names(client) == [("turnstile", "verified", "interactive")]
    assert value(internal, "binder_egress_captcha_stand_in") == 0
    remote(services, "turnstile").state = trouble
    assert names(client) == in_place
    assert value(internal, "binder_egress_captcha_stand_in") == len(in_place)
    if in_place:
        answer = present(client, "altcha", solve(client))
        assert (answer.status_code, answer.json["tier"]) == (201, "small")


def test_proof_of_work_is_offered_once(make):
    services = make("turnstile", "cap", "hcaptcha")
    client = public_client(services)
    remote(services, "cap").state = remote(services, "turnstile").state = State.DOWN
    assert [name for name, *_ in names(client)] == ["altcha", "hcaptcha"]
    # A proof of work that is offered anyway takes no place twice.
    services = make("turnstile", "altcha")
    remote(services, "turnstile").state = State.DOWN
    assert names(public_client(services)) == [("altcha", "verified", "proof-of-work")]
    assert value(internal_client(services), "binder_egress_captcha_stand_in") == 0


def test_replacement_counts_after_the_outage_and_at_other_replicas(make):
    services, other = make("turnstile"), make("turnstile")
    client = public_client(services)
    remote(services, "turnstile").state = State.DOWN
    solutions = [solve(client), solve(client)]
    remote(services, "turnstile").state = State.UP
    assert present(client, "altcha", solutions[0]).status_code == 201
    assert present(public_client(other), "altcha", solutions[1]).status_code == 201
    # A federation member with the same keys may always offer ALTCHA; here it is for outages only.
    elsewhere = solve(public_client(make("altcha")))
    assert_problem(present(client, "altcha", elsewhere), "solution-refused", 403)


@pytest.mark.parametrize("on_outage", ["deny", "proofOfWork", "allow"])
def test_unchecked_solution_counts_only_if_the_operator_chose_that(make, double, on_outage):
    services = make("turnstile", captcha_on_outage=on_outage, pass_servers=3)
    client, internal = public_client(services), internal_client(services)
    double.behaviour["turnstile"] = "down"
    # It counts only once the self-check has found the outage.
    assert_problem(present(client, "turnstile", double.token("turnstile", action="launch")), "provider-unavailable", 503)
    remote(services, "turnstile").check()
    token = double.token("turnstile", action="launch")
    answer = present(client, "turnstile", token)
    labels = {"provider": "turnstile", "purpose": "launch"}
    if on_outage == "allow":
        assert (answer.status_code, answer.json["tier"], answer.json["servers"]) == (201, "verified", 3)
        assert value(internal, "binder_egress_solutions_total", outcome="unchecked", **labels) == 1
        assert value(internal, "binder_egress_solutions_total", outcome="ok", **labels) == 0
        assert_problem(present(client, "turnstile", token), "solution-refused", 403)
    else:
        assert_problem(answer, "provider-unavailable", 503)
        assert value(internal, "binder_egress_solutions_total", outcome="unavailable", **labels) == 2


def test_misconfigured_provider_and_a_rejected_solution_are_no_outage(make, double):
    services = make("turnstile", captcha_on_outage="allow")
    client = public_client(services)
    remote(services, "turnstile").state = State.DOWN
    assert_problem(present(client, "turnstile", double.token("turnstile", right=False)), "solution-refused", 403)
    double.behaviour["turnstile"] = "misconfigured"
    remote(services, "turnstile").check()
    assert_problem(present(client, "turnstile", double.token("turnstile", action="launch")), "provider-misconfigured", 503)
