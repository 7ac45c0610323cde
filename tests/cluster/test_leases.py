"""Leases: what happens to egress, open connections and servers when a lease ends, and what a renewal changes."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.cluster.clients import client, client_process
from tests.support.cluster.commands import egress
from tests.support.cluster.hub import ask_hub, start_by_hub
from tests.support.cluster.packets import assert_reaches, stream
from tests.support.cluster.stage import OPEN, Stage
from tests.support.cluster.timeouts import COMMAND_SECONDS, POD_SECONDS, STALLED_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually

LEASE = 60
"""Seconds: the shortest lease that the chart accepts."""

LATE = 2
"""Seconds that rounding to whole seconds can cut off."""


@pytest.fixture
def leasing(stage: Stage) -> Iterator[None]:
    """Two tiers that last a minute: then `verified` is taken away, and `visit` ends the server."""
    visit = json.dumps({"cidrs": {"0.0.0.0/0": True}, "lease": LEASE, "onExpiry": "stop"})
    values = ("--set=reconciler.mayStopPods=true", f"--set=tiers.verified.lease={LEASE}", f"--set-json=tiers.visit={visit}")
    with stage.installed(*values):
        yield


def address(stage: Stage, user: str) -> str:
    """Our client's argument for a server: the address of its page."""
    return f"{stage.verifier}/servers/{user}/"


def until(what: str, done: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    eventually(done, LEASE + TIER_SECONDS, what)


def labels_of(stage: Stage, user: str) -> tuple[dict, list]:
    """The labels of each pod."""
    name = stage.pod_name(user)
    found = json.loads(stage.kubectl("get", "pod", name, "-o", "json", "--show-managed-fields"))["metadata"]
    owners = [(entry["manager"], entry["fieldsV1"].get("f:metadata", {}).get("f:labels")) for entry in found["managedFields"]]
    return found["labels"], [(manager, fields) for manager, fields in owners if fields]


def test_leases_end_and_are_renewed(stage, leasing, network):
    """One after the other, these tests would wait for the same minutes three times."""
    with ThreadPoolExecutor(4) as pool:
        blocked, stopped, renewed, kept = (launched.user for launched in pool.map(lambda _: stage.launch(), range(4)))
    image = stage.pod(stopped)["spec"]["containers"][0]["image"]
    began = time.monotonic()
    keeping = client_process("unlock", address(stage, kept), "--keep", "150", "--json", stdout=subprocess.PIPE)
    # First the one that is to be stopped, which takes longest.
    egress(stage, "grant", stopped, "--tier", "visit", "--why", "a test")
    for user in (blocked, renewed):
        stage.unlock_well(user)
    for user, tier in ((stopped, "visit"), (kept, "verified")):
        stage.await_tier(user, tier)
    streams = {}
    try:
        for user in (blocked, stopped, renewed):
            streams[user] = stream(stage, user)
        # A page gets the news after the label.
        until("a page does not show its tier", lambda: stage.page(renewed)["tier"] == "verified")
        before, told = labels_of(stage, renewed), stage.page(renewed)
        assert (told["tier"], told["on_expiry"]) == ("verified", "end") and 0 < told["expires_in"] <= LEASE
        until("a page does not show its end", lambda: stage.page(stopped)["on_expiry"] == "stop")

        until("it cannot be renewed", lambda: stage.page(renewed)["renewable_in"] == 0)
        done = client("unlock", address(stage, renewed), "--json")
        assert (done.returncode, json.loads(done.stdout)["renewed"]) == (0, True), done.stderr
        until("a renewal does not show", lambda: stage.page(renewed)["until"] > told["until"])
        until("a renewal is not on the pod", lambda: stage.grant(renewed)["until"] == stage.page(renewed)["until"])
        assert labels_of(stage, renewed) == before, "a renewal touches no label"

        until("a lease does not end", lambda: stage.tier(blocked) is None and stage.tier(stopped) is None)
        over = time.monotonic()
        assert over - began > LEASE - LATE, "a lease ended too early"
        assert_reaches(stage, blocked, egress=False, closing=OPEN)
        until("it cannot be unlocked", lambda: stage.page(blocked)["unlockable"])
        until("a page does not show its end", lambda: stage.page(stopped)["on_expiry"] == "stop")
        assert stage.tier(kept) == "verified", "the client did not keep it"
        time.sleep(STALLED_SECONDS)  # they would have ended
        assert {streams[user].poll() is None for user in (blocked, stopped)} == {network.connections_stay}
        assert streams[renewed].poll() is None
        try:
            assert_reaches(stage, renewed, egress=True)
        except AssertionError:
            # On a busy machine, its second lease may be over, too.
            if stage.tier(renewed):
                raise
        stage.unlock_well(blocked)
        assert_reaches(stage, blocked, egress=True)

        until("the pod is not deleted", lambda: not stage.pods(stopped))
        assert time.monotonic() - over > 60, "there was no time to unlock it"
        streams[stopped].wait(timeout=POD_SECONDS)
        told = [json.loads(line) for line in keeping.communicate(timeout=COMMAND_SECONDS)[0].splitlines()]
        assert keeping.returncode == 0 and any(outcome.get("renewed") for outcome in told), told
        assert stage.pods(blocked), "a server of a tier that only blocks was stopped"
        until("JupyterHub does not notice", lambda: not ask_hub(stage, "GET", f"users/{stopped}").json()["servers"])
        start_by_hub(stage, stopped, image)
        assert stage.tier(stopped) is None
        metrics = stage.metrics()
        assert metrics['binder_egress_lease_expiries_total{on_expiry="stop"}'] >= 1
        assert metrics['binder_egress_lease_expiries_total{on_expiry="end"}'] >= 1
    finally:
        for running in (*streams.values(), keeping):
            running.kill()
            running.wait()
