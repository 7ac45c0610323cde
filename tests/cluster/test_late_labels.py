"""A network plugin that acts late on labels, as Cilium does by default: what people read meanwhile, and when packets pass.

The plugin's process is stopped before a label changes, and goes on later. `ci/test --long` runs this file.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from binder_egress.gatecheck.canaries import SELECTOR
from binder_egress.gatecheck.label_delay import REMEMBERED
from binder_egress.store.health import SLOW_LABELS_SECONDS
from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import OTHER, VALUES, ask, ask_until, await_variables
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import CLIENT, OPEN, QUICK, Stage, signal_component
from tests.support.cluster.timeouts import ANSWER_SECONDS, RECONCILER_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

LATE_SECONDS = 8
"""For this long the plugin is stopped while the reconciler measures: more than what counts as late. The tests stop it for less, so
a page that waits for what was measured says *has internet access* later than the plugin acts."""

LATE_SENTENCE = "s late, except in the egress proxy"

LEASE = 60
"""Seconds: the shortest lease that the chart accepts."""


@contextmanager
def stopped() -> Iterator[None]:
    """The network plugin does nothing meanwhile."""
    signal_component("netpol", "STOP")
    try:
        yield
    finally:
        signal_component("netpol", "CONT")


@pytest.fixture(scope="module", autouse=True)
def late(stage: Stage, local_cluster: str) -> Iterator[None]:
    """The reconciler has measured that labels act late, in both directions."""
    with stage.installed(f"--set=tiers.verified.lease={LEASE}"):
        assert any(measured(stage) for _ in range(REMEMBERED)), f"labels are not seen to act late: {delays(stage)}"
        yield


def measured(stage: Stage) -> bool:
    """Stop the plugin while the reconciler measures its next two changes. Returns whether a long time was published for both."""
    for _ in range(2):
        before = is_marked(stage)
        with stopped():
            eventually(lambda before=before: is_marked(stage) != before, RECONCILER_SECONDS, "nothing is measured")
            time.sleep(LATE_SECONDS)
        # Stopped again before it has acted, the plugin would keep the canary as it is, and nothing more would be measured.
        time.sleep(LATE_SECONDS)
    return all(seconds > SLOW_LABELS_SECONDS for seconds in delays(stage))


def is_marked(stage: Stage) -> bool:
    """Whether the canary has the label with which the reconciler measures."""
    return bool(stage.get("pods", "-l", f"{SELECTOR},binder-egress/tier")["items"])


def delays(stage: Stage) -> list[float]:
    """Seconds that labels took to act when they were set, and when they were taken off, as the metrics have them."""
    found = stage.metrics()
    return [found.get(f'binder_egress_label_delay_seconds{{change="{change}"}}', 0) for change in ("on", "off")]


def connects(stage: Stage, user: str) -> bool:
    """Whether a server opens a connection to the internet."""
    return stage.battery(user, {"public TCP": stage.targets()["public TCP"]})["public TCP"]


def assert_said_when_it_opens(stage: Stage, user: str) -> None:
    """While the plugin is stopped: a server has a tier, nothing passes, and its page says when it will."""
    eventually(lambda: stage.page(user)["opens_in"], TIER_SECONDS, lambda: stage.page(user))
    assert (stage.page(user)["tier"], stage.page(user)["access"]) == ("verified", "none")
    assert not connects(stage, user)


def assert_opens(stage: Stage, user: str) -> None:
    """Once the plugin goes on: the page says that there is access, and there is."""
    eventually(lambda: stage.page(user)["access"] == "network", TIER_SECONDS, lambda: stage.page(user))
    assert connects(stage, user), "the page says internet access, and nothing passes"


def test_unlocked_server_says_when_it_opens(stage):
    user = stage.launch().user
    with stopped():
        answer = stage.unlock(user)
        assert (answer.status_code, answer.json()["state"], answer.json()["access"]) == (202, "pending", "none"), answer.text
        stage.await_tier(user, "verified")
        assert_said_when_it_opens(stage, user)
    assert_opens(stage, user)


def test_launch_page_does_not_call_a_kept_promise_access_before(stage):
    promise = f"promise-{secrets.token_hex(16)}"
    address = f"{stage.verifier}/promises/{promise}"
    user = stage.launch(token=promise).user
    with stopped():
        token, came_from = stage.get_pass(), {"X-Forwarded-For": CLIENT}
        requests.post(address, json={"token": token}, headers=came_from, timeout=ANSWER_SECONDS)
        stage.await_tier(user, "verified")
        said = requests.get(address, headers=came_from, timeout=ANSWER_SECONDS).json()
        assert (said["state"], said["access"]) == ("announced", "none")
        # The page presents the pass once the server is ready.
        answer = stage.unlock(user, token=token).json()
        assert (answer["state"], answer["access"]) == ("pending", "none")
        assert_said_when_it_opens(stage, user)
    assert_opens(stage, user)
    said = requests.get(address, headers=came_from, timeout=ANSWER_SECONDS).json()
    assert (said["state"], said["access"]) == ("granted", "network")


def test_lease_that_ended_is_called_over_while_packets_pass(stage):
    """The page promises less than there is."""
    user = stage.launch_verified()
    eventually(lambda: connects(stage, user), TIER_SECONDS)
    eventually(lambda: stage.page(user)["expires_in"] <= LEASE / 10, LEASE + TIER_SECONDS)
    with stopped():
        stage.await_tier(user, None)
        eventually(lambda: stage.page(user)["tier"] == "unverified", TIER_SECONDS)
        page = stage.page(user)
        assert (page["access"], page["opens_in"], page["unlockable"]) == ("none", 0, True)
        assert connects(stage, user)
    assert_reaches(stage, user, egress=False, closing=OPEN)


def test_operators_read_for_how_long_a_block_stays_open(stage):
    user = stage.launch_verified()
    eventually(lambda: connects(stage, user), TIER_SECONDS)
    with stopped():
        said = egress(stage, "revoke", user, "--why", "a test")
        assert said["state"] == "pending" and LATE_SENTENCE in said["not_acted"][0]["why"]
        stage.await_tier(user, None)
        assert (stage.page(user)["access"], stage.page(user)["unlockable"]) == ("none", False)
        assert connects(stage, user)
    assert_reaches(stage, user, egress=False, closing=OPEN)


def test_egress_proxy_waits_for_no_label(stage):
    """The reconciler, which is another one after the upgrade, still knows that labels act late."""
    stage.install_gate(*QUICK, *VALUES)
    await_variables(stage)
    user = stage.launch().user
    assert "403" in ask(stage, user, f"http://{OTHER}/")
    with stopped():
        stage.unlock(user)
        stage.await_tier(user, "verified")
        eventually(lambda: stage.page(user)["opens_in"], TIER_SECONDS, lambda: stage.page(user))
        assert stage.page(user)["access"] == "hosts"
        ask_until(stage, user, f"http://{OTHER}/", "502")
        egress(stage, "revoke", user, "--why", "a test")
        ask_until(stage, user, f"http://{OTHER}/", "403")
    assert_reaches(stage, user, egress=False)
