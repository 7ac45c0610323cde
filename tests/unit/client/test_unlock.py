"""The client unlocks running servers, renews their leases, shows their status, and pays the verifier's price."""

import json
import math
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from binder_egress.gate.fairness import Charge
from binder_egress.model.records import KnownServer, Server
from binder_egress_client import NoGate, Outcome, keep, verifier
from binder_egress_client.verifier import Server as ServerAddress
from tests.support.apps import CLIENT, admit, carried, reconciler, run_pod
from tests.support.client_command import HCAPTCHA, LEASING, SPEC, lease
from tests.support.clock import Clock
from tests.support.waiting import eventually


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


def test_unconfirmed_unlock_is_pending(hub, run, store, monkeypatch):
    run_pod(store)
    monkeypatch.setattr("binder_egress_client.unlocking.PENDING", 0.1)
    monkeypatch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 0.1)
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["kind"]) == (3, "pending") and "may still come" in err


# -- leases


@pytest.fixture
def leasing(serve, open_hub):
    """A hub whose tier `verified` has a lease of one minute."""
    return open_hub(serve(**LEASING))


def test_lease_is_renewed_in_its_second_half(leasing, run, store):
    lease(store, 25)
    address = f"{leasing.url}egress/servers/alice/"
    assert f"To renew it: binder-egress-client unlock {address}" in run("status", address)[2]
    with reconciler(store, lease=60):
        code, out, err = run("unlock", address, "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["tier"], said["renewed"]) == (0, True, "verified", True), err
    assert 30 < said["expires_in"] <= 60 and "Renewed. The server has egress (verified), until 2" in err
    assert leasing.count("POST /egress/servers/alice/") == 1


@pytest.mark.parametrize("which", ["unlock", "status"])
def test_time_of_the_next_renewal_is_shown_in_the_first_half(leasing, run, store, which):
    lease(store, 55)
    code, out, err = run(which, f"{leasing.url}egress/servers/alice/", "--json")
    said = json.loads(out)
    assert (code, said["tier"], said.get("renewed")) == (0, "verified", None)
    assert 10 < said["renewable_in"] <= 25 and 40 < said["expires_in"] <= 55
    assert not leasing.count("GET /egress/challenge") and not leasing.count("POST ")
    if which == "unlock":
        assert re.search(r"It can be renewed in \d+ s, at \d\d:\d\d:\d\d\.", err)


def test_launch_shows_how_long_egress_lasts(leasing, run, store):
    leasing.launched = lambda user: store.publish(
        Server(user), KnownServer("uid-1", carried(leasing.builds[-1].tier, until=int(time.time()) + 60))
    )
    code, out, err = run("launch", SPEC, "--binder", leasing.url, "--json")
    said = json.loads(out.splitlines()[-1])["binder_egress"]
    assert code == 0 and 30 < said["expires_in"] <= 60 and said["renewable_in"] > 0 and "(verified), until 2" in err


@pytest.mark.parametrize(
    ("settings", "tier", "fault", "kind", "says"),
    [
        ({"tiers": {"verified": {}, "small": {"lease": 60}}}, "small", "", "other-tier", "could not be renewed"),
        ({**LEASING, **HCAPTCHA}, "verified", "", "needs-person", "a person has to solve"),
        ({**LEASING, "blocked_repositories": ["example.com/a/b"]}, "verified", "", "closed", "operators"),
        (LEASING, "verified", "down", "no-answer", "until 2"),
    ],
)
def test_failed_renewal_sends_nothing_and_does_not_end_egress(serve, open_hub, run, store, settings, tier, fault, kind, says):
    hub = open_hub(serve(**settings))
    hub.fault, hub.fault_paths = fault, ("challenge",)
    until = lease(store, 20, tier)
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    told = json.loads(out)
    assert (code, told["egress"], told["tier"], told["renewed"], told["kind"]) == (6, True, tier, False, kind)
    assert says in err and not hub.count("POST ") and hub.count("GET /egress/challenge") == (kind != "closed")
    assert ("link" in told) == (kind != "closed") and store.known(Server("alice")).grant.until == until


@pytest.mark.parametrize("tier", ["verified", "small"])
def test_lease_is_renewed_by_a_key_for_the_same_tier(keyed, run, store, tier):
    keyed.verifier = keyed.start(tiers={"verified": {"lease": 60}, "small": {"lease": 60}})
    until = int(time.time()) + 20
    store.publish(Server("alice"), KnownServer("uid-1", carried(tier, "grant-1", until=until), "https://example.com/gh/o/cached"))
    with reconciler(store, lease=60):
        code, out, err = run("unlock", f"{keyed.url}egress/servers/alice/", "--key", keyed.key, "--json")
    good = tier == "verified"
    said = json.loads(out)
    assert (code, said["renewed"], said.get("kind")) == ((0, True, None) if good else (6, False, "other-tier")), err
    assert (store.known(Server("alice")).grant.until > until) == good


@pytest.mark.parametrize("comes", [True, False])
def test_person_renews_if_a_program_cannot(serve, open_hub, run, store, monkeypatch, comes):
    monkeypatch.setattr("binder_egress_client.unlocking.POLL", 0.1)
    hub = open_hub(serve(**HCAPTCHA, **LEASING))
    lease(store, 29)
    address = f"{hub.url}egress/servers/alice/"

    def person():
        eventually(lambda: hub.count("GET /egress/servers/alice/") > 3)
        lease(store, 60) if comes else store.publish(Server("alice"), KnownServer("uid-1"))

    helper = threading.Thread(target=person)
    helper.start()
    code, out, err = run("unlock", address, "--json", "--wait", "60" if comes else "8")
    helper.join()
    said = json.loads(out)
    # The lease may also end before somebody renews it.
    assert (code, said["egress"], said.get("renewed")) == ((0, True, True) if comes else (3, False, None)), err
    assert f"{address}#unlock" in err


def test_renewal_with_a_lost_answer_is_recognised(leasing, run, store, monkeypatch):
    lease(store, 20)
    unlock = verifier.Verifier.unlock

    def lost(*args, **how):
        unlock(*args, **how)
        raise verifier.NoAnswer("the cable was pulled")

    monkeypatch.setattr(verifier.Verifier, "unlock", lost)
    with reconciler(store, lease=60):
        code, out, _ = run("unlock", f"{leasing.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["renewed"]) == (0, True)


def test_egress_without_an_end_needs_no_renewal(hub, run, store):
    run_pod(store)
    with reconciler(store):
        code, out, _ = run("unlock", f"{hub.url}egress/servers/alice/", "--keep", "3600", "--json")
    assert (code, out) == (0, '{"egress": true, "tier": "verified"}\n')


HAS = Outcome(True, "verified", expires_in=100, renewable_in=50)
RENEWED = Outcome(True, "verified", expires_in=100, renewable_in=50, renewed=True)
SILENT = Outcome(None, kind="no-answer")
GONE = Outcome(False, kind="no-such-server")
DEAR = Outcome(True, "verified", kind="budget-spent", retry_after=40, expires_in=20, renewable_in=0, renewed=False)
LATE = Outcome(False, "unverified", kind="pending")


@pytest.mark.parametrize(
    ("looks", "seconds", "told", "took"),
    [
        ([HAS], 90, [HAS], 0),
        # Renewals after 51, 102 and 153 s; the third one reaches 250 s.
        ([HAS, RENEWED, RENEWED, RENEWED], 250, [HAS, RENEWED, RENEWED, RENEWED], 153),
        # Somebody else may renew the lease; during a long wait, the client asks each minute.
        ([replace(HAS, renewable_in=500, expires_in=1000), replace(HAS, expires_in=2000)], 1500, [..., ...], 60),
        ([replace(HAS, renewable_in=500, expires_in=1000)] * 3 + [replace(GONE)] * 2, 1500, [..., GONE, GONE], 210),
        # A failure at the first attempt is final.
        ([SILENT], 250, [SILENT], 0),
        ([GONE], 250, [GONE], 0),
        ([DEAR], 250, [DEAR], 0),
        # A later failure is retried after half a minute, or when the verifier says so.
        ([HAS, SILENT, SILENT, RENEWED], 200, [HAS, SILENT, SILENT, RENEWED], 111),
        ([HAS, DEAR, LATE, HAS], 190, [HAS, DEAR, LATE, HAS], 121),
        ([HAS, NoGate("404"), RENEWED], 180, [HAS, ..., RENEWED], 81),
        # A wiped Redis knows no server for a moment.
        ([HAS, GONE, HAS, RENEWED], 210, [HAS, GONE, HAS, RENEWED], 132),
        # The retries end.
        ([HAS, SILENT, SILENT, SILENT], 110, [HAS, SILENT, SILENT, SILENT], 110),
        # A final refusal, and a case that needs a person when nobody comes.
        ([HAS, replace(DEAR, kind="other-tier", retry_after=None)], 250, [HAS, ...], 51),
        ([HAS, replace(DEAR, kind="needs-person", retry_after=None)], 250, [HAS, ...], 51),
        ([HAS, replace(DEAR, kind="closed", retry_after=None)], 250, [HAS, ...], 51),
    ],
)
def test_keep_renews_and_retries_by_the_clock(monkeypatch, looks, seconds, told, took):
    clock, unlock = Clock(1000.0), Mock(side_effect=looks)

    def sleep(seconds):
        assert seconds >= 1
        clock.now += seconds

    monkeypatch.setattr("binder_egress_client.unlocking.time", SimpleNamespace(monotonic=clock, sleep=sleep))
    monkeypatch.setattr("binder_egress_client.unlocking.unlock", unlock)
    found = list(keep(ServerAddress("https://h/egress/", "servers/a/"), seconds))
    assert len(found) == len(told) and all(one in (..., other) for one, other in zip(told, found, strict=True))
    assert (unlock.call_count, clock.now - 1000) == (len(looks), took)
