"""The client unlocks running servers, shows their status, and solves challenges at the price of the verifier."""

import json
import math
import re
import time

import pytest
from binder_egress_client import verifier

from tests.support.apps import CLIENT, admit, carried, reconciler, run_pod
from tests.support.client_command import HCAPTCHA, SPEC
from verifier.fairness import Charge
from verifier.records import KnownServer, Server


def charge(store, times):
    for _ in range(times):
        store.use_solution("altcha", f"{time.time_ns()}", time.time() + 1, 60, admit, [Charge(f"{CLIENT}/32", 3600, None, 0)])


# -- prices


def test_risen_price_is_paid_once(hub, run, store, monkeypatch):
    hub.client = CLIENT
    asked = verifier.Verifier.challenge

    def meanwhile(passes):
        monkeypatch.setattr(
            verifier.Verifier, "challenge", lambda self, purpose: (asked(self, purpose), charge(store, passes.pop()))[0]
        )

    meanwhile([0, 40])
    code, _, err = run("pass", "--binder", hub.url)
    assert code == 0, err
    assert (hub.count("GET /egress/challenge"), hub.count("POST /egress/passes")) == (2, 2)
    # The price rises from 41 to 121 and to 401, more than double each time.
    meanwhile([300, 120])
    code, _, err = run("pass", "--binder", hub.url)
    assert code == 3 and "many passes" in err
    assert hub.count("POST /egress/passes") == 4


def test_spent_budget_shows_when_to_retry(serve, open_hub, run):
    hub = open_hub(serve(fairness_budget=1))
    hub.client = CLIENT
    assert run("launch", SPEC, "--binder", hub.url)[0] == 0
    code, _out, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 3 and hub.builds[1].token is None
    assert re.search(r"Try again in \d+ s, at \d\d:\d\d", err) and f"{hub.url}egress/servers/user-2/#unlock" in err
    # The client requests no further challenge if the answer is known.
    assert hub.count("GET /egress/challenge") == 2
    code, _, err = run("pass", "--binder", hub.url)
    assert code == 3 and "Try again in" in err


# -- unlock and status


def test_running_server_is_unlocked(hub, run, store):
    run_pod(store)
    address = f"{hub.url}egress/servers/alice/"
    code, out, err = run("status", address)
    assert (code, out) == (3, "egress: none\n") and f"{address}#unlock" in err
    with reconciler(store):
        assert run("unlock", address)[0] == 0
    code, out, _ = run("status", address, "--json")
    assert (code, json.loads(out)["tier"]) == (0, "verified")
    # The second unlock solves nothing.
    before = hub.count("GET /egress/challenge")
    code, out, _ = run("unlock", f"{address}?qr#unlock", "--json")
    assert (code, json.loads(out), hub.count("GET /egress/challenge")) == (0, {"egress": True, "tier": "verified"}, before)


@pytest.mark.parametrize(("listed", "said"), [(["python"], "packages"), (["python", "api.example.org"], "some hosts")])
def test_status_says_what_the_egress_proxy_gives(serve, open_hub, run, store, listed, said):
    hub = open_hub(serve(unverified_hosts=listed))
    run_pod(store)
    code, out, err = run("status", f"{hub.url}egress/servers/alice/")
    assert (code, out) == (3, f"egress: none but {said}\n") and "To unlock it" in err


def test_server_of_a_site_that_only_watches_is_not_without_egress(serve, open_hub, run, store):
    hub = open_hub(serve(mode="observe", **HCAPTCHA))
    run_pod(store)
    address = f"{hub.url}egress/servers/alice/"
    for arguments in (("status", address), ("unlock", address), ("launch", SPEC, "--binder", hub.url)):
        code, out, err = run(*arguments)
        assert (code, "only watches" in out + err, "#unlock" in err) == (0, True, False), (arguments, out, err)
    assert not hub.count("POST /egress/servers/")


def test_status_shows_the_end_of_egress(hub, run, store):
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified", until=int(time.time()) + 7200)))
    code, out, _ = run("status", f"{hub.url}egress/servers/alice/")
    assert code == 0
    said = re.fullmatch(r"egress: verified, until (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\n", out)
    assert 7100 < time.mktime(time.strptime(said[1], "%Y-%m-%d %H:%M:%S")) - time.time() < 7300


@pytest.mark.parametrize("which", ["status", "unlock"])
def test_unknown_server_and_failed_verifier_have_own_exit_codes(hub, run, store, which):
    assert run(which, f"{hub.url}egress/servers/nobody/")[0] == 5
    run_pod(store)
    address = f"{hub.url}egress/servers/alice/"
    for fault in ("down", "404", "garbage", "unrouted"):
        hub.fault = fault
        code, _, err = run(which, address)
        assert code == 4 and "Traceback" not in err, (fault, err)
        assert ("no verifier" in err) == (fault in ("404", "unrouted")), (fault, err)


def test_unlock_waits_until_the_network_has_opened_the_tier(hub, run, store):
    opens_at = math.ceil(time.time()) + 2
    for known in (
        KnownServer("uid-1", carried("verified", "g"), opens_at=opens_at),
        KnownServer("uid-1", carried("verified", "g")),
    ):
        store.publish(Server("alice"), known)
        code, out, _ = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
        assert (code, json.loads(out)["tier"]) == (0, "verified") and time.time() >= opens_at


def test_unlock_that_operators_refuse_is_not_solved_for(serve, open_hub, run, store):
    hub = open_hub(serve(blocked_repositories=["example.com/a/b"]))
    run_pod(store)
    code, _, err = run("unlock", f"{hub.url}egress/servers/alice/")
    assert code == 3 and "operators" in err and not hub.count("GET /egress/challenge")


def test_unconfirmed_unlock_is_pending(hub, run, store, monkeypatch):
    run_pod(store)
    monkeypatch.setattr("binder_egress_client.unlocking.PENDING", 0.1)
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0.1)
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["kind"]) == (3, "pending") and "may still come" in err
