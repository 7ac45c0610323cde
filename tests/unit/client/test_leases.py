"""Renewals by the client: once, or for a given time."""

import json
import re
import threading
import time
from dataclasses import replace

import pytest
from binder_egress_client import NoGate, Outcome, keep, verifier
from binder_egress_client.verifier import Server as ServerAddress

from tests.support.apps import carried, reconciler, run_pod
from tests.support.client_command import HCAPTCHA, LEASING, SPEC, lease
from tests.support.waiting import eventually
from verifier.records import KnownServer, Server


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


def test_solution_for_another_tier_is_not_sent(serve, open_hub, run, store):
    hub = open_hub(serve(tiers={"verified": {}, "small": {"lease": 60}}))
    until = lease(store, 20, "small")
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["tier"], said["renewed"], said["kind"]) == (6, True, "small", False, "other-tier")
    assert "could not be renewed" in err and said["link"] and not hub.count("POST ")
    assert store.known(Server("alice")).grant.until == until


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
    code, out, _ = run("unlock", address, "--json")
    assert (code, json.loads(out)["kind"]) == (6, "needs-person")

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


def test_repository_that_operators_refuse_is_not_renewed(serve, open_hub, run, store):
    hub = open_hub(serve(blocked_repositories=["example.com/a/b"], **LEASING))
    lease(store, 20)
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["kind"], json.loads(out)["egress"]) == (6, "closed", True) and "operators" in err
    assert not hub.count("GET /egress/challenge") and not hub.count("POST ")


def test_failed_renewal_does_not_end_egress(leasing, run, store):
    lease(store, 20)
    leasing.fault, leasing.fault_paths = "down", ("challenge",)
    code, out, err = run("unlock", f"{leasing.url}egress/servers/alice/", "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["renewed"], said["kind"]) == (6, True, False, "no-answer") and "until 2" in err


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
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            assert seconds >= 1
            self.now += seconds

    clock, looks = Clock(), list(looks)

    def look(server, **how):
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("binder_egress_client.unlocking.time", clock)
    monkeypatch.setattr("binder_egress_client.unlocking.unlock", look)
    found = list(keep(ServerAddress("https://h/egress/", "servers/a/"), seconds))
    assert len(found) == len(told) and all(one in (..., other) for one, other in zip(told, found, strict=True))
    assert (looks, clock.now - 1000) == ([], took)


@pytest.mark.parametrize("fault", ["404", "unrouted"])
def test_keep_without_a_gate_ends_at_once(hub, run, fault):
    hub.fault = fault
    code, _, err = run("unlock", f"{hub.url}egress/servers/alice/", "--keep", "60")
    assert code == 4 and "no verifier" in err
