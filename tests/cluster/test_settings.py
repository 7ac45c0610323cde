"""The settings *balanced* and *strict* in the cluster, with their own files. All other tests install the chart as *open*."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from ci import demo_packages as packages
from tests.support.cluster.egress_proxy import ask_until, await_variables
from tests.support.cluster.hub import start_by_hub, stop_by_hub
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import TOP, Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

LEASE = 60
"""Seconds, instead of the file's hour: the shortest lease that the chart accepts."""

LISTED = f"--set=unverified.hosts.{packages.PACKAGES.replace('.', chr(92) + '.')}=true"
"""The package server of the local internet, in addition to the file's groups, whose hosts cannot be reached from here."""

CAPTCHA = (
    "--set=captcha.providers.turnstile.enabled=true",
    "--set=captcha.providers.turnstile.siteKey=0x4AAA",
    "--set=secret.captcha.turnstile=a-secret",
)
"""A provider that does not answer, because the real internet is not there."""


@contextmanager
def setting(stage: Stage, name: str, *more: str) -> Iterator[None]:
    """A setting with its file, until the end of the block."""
    with stage.installed(f"--values={TOP}/chart/settings/{name}.yaml", f"--set=publicUrl={packages.HUB}", LISTED, *more):
        await_variables(stage)
        yield


def test_balanced_gives_packages_to_everybody_and_everything_for_a_lease(stage, local_cluster):
    with setting(stage, "balanced", f"--set=tiers.verified.lease={LEASE}"), packages.server() as certificate:
        plain, solved = stage.launch().user, stage.launch().user
        # Not with a pass at the launch: on a busy machine, the lease could be over before the pod is ready.
        stage.unlock_well(solved)
        # The page gets the news after the label.
        eventually(lambda: stage.page(solved)["tier"] == "verified", TIER_SECONDS, "the page does not show the tier")
        told = stage.page(solved)
        assert (told["tier"], told["on_expiry"]) == ("verified", "end") and 0 < told["expires_in"] <= LEASE
        visitor = packages.Visitor(stage, plain, certificate)
        assert visitor.pip(packages.PACKAGES) == ""
        assert visitor.pip(packages.DATA, retries=1).startswith("403 No internet access")
        assert_reaches(stage, plain, egress=False)

        eventually(lambda: stage.tier(solved) is None, LEASE + TIER_SECONDS, "a lease does not end")
        eventually(lambda: stage.page(solved)["unlockable"], TIER_SECONDS, "it cannot be unlocked again")
        other = packages.Visitor(stage, solved, certificate)
        ask_until(stage, solved, f"http://{packages.DATA}/", "No internet access")
        assert other.pip(packages.PACKAGES) == ""

        stage.unlock_well(solved)
        assert_reaches(stage, solved, egress=True)
        with other.download() as running:
            running.kill()


def test_strict_opens_everything_for_a_login_and_nothing_for_proof_of_work(stage, local_cluster):
    with setting(stage, "strict", *CAPTCHA):
        refused = requests.post(f"{stage.verifier}/passes", json={"provider": "altcha", "solution": "e30="}, timeout=ANSWER_SECONDS)
        assert refused.status_code == 400 and "this site has turnstile" in refused.text

        def offered() -> list[dict[str, Any]]:
            return requests.get(f"{stage.verifier}/challenge", timeout=ANSWER_SECONDS).json()["providers"]

        eventually(lambda: offered() == [], TIER_SECONDS, "something takes the place of a captcha that is away")
        plain = stage.launch().user
        with packages.server() as certificate:
            assert packages.Visitor(stage, plain, certificate).pip(packages.PACKAGES) == ""
        assert_reaches(stage, plain, egress=False)

        user, image = f"someone-{secrets.token_hex(4)}", stage.pod(plain)["spec"]["containers"][0]["image"]
        body = {"user": user, "image": image, "repository": "https://example.com/a/b", "requested_at": time.time()}
        assert stage.hook()(**body, authenticated=False).json()["tier"] == "unverified"
        assert stage.hook()(**body, authenticated=True).json()["tier"] == "signed-in"
        start_by_hub(stage, user, image)
        stage.await_tier(user, "signed-in")
        assert_reaches(stage, user, egress=True)
        assert stage.page(user)["until"] is None
        stop_by_hub(stage, user)
