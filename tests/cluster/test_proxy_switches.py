"""The egress proxy when the mode is switched, with running pods that have its variables."""

from collections.abc import Iterator

import pytest

from tests.support.cluster.egress_proxy import (
    LISTED,
    OTHER,
    VALUES,
    ask,
    ask_until,
    await_variables,
    launch,
    pod_variables,
    tunnel,
)
from tests.support.cluster.stage import QUICK, Failed, Stage

pytestmark = pytest.mark.long

ONE = ("--set=proxy.replicas=1", "--set=proxy.drain=4")

NAMES = """
import os
print(sorted(name for name in os.environ if name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "NODE_USE_ENV_PROXY")))
"""
"""The proxy's variables in a pod."""


def switch(stage: Stage, mode: str, *more: str) -> None:
    stage.install_gate(*QUICK, *VALUES, *ONE, f"--set=mode={mode}", *more)


@pytest.fixture(scope="module", autouse=True)
def _restored(stage: Stage) -> Iterator[None]:
    yield
    stage.install_gate(*QUICK)


@pytest.fixture(autouse=True)
def captcha(stage: Stage) -> None:
    """Each test begins in mode captcha, with one replica of the proxy: each upgrade replaces one pod after the other."""
    switch(stage, "captcha")
    await_variables(stage)


def names(stage: Stage, user: str) -> str:
    return stage.inside(user, "python3", "-c", NAMES).strip()


def no_variables(stage: Stage) -> bool:
    try:
        return not pod_variables(stage)
    except Failed:
        return True


def test_allow_and_back_end_no_connection(stage):
    user = launch(stage)
    with tunnel(stage, user) as held:
        switch(stage, "allow")
        ask_until(stage, user, f"http://{OTHER}/", "The host name has no address")
        switch(stage, "captcha")
        ask_until(stage, user, f"http://{OTHER}/", "No internet access")
        assert ask(stage, user, f"http://{LISTED}/") == "200" and held.poll() is None
    await_variables(stage)


def test_observe_refuses_running_pods_nothing_and_gives_new_ones_no_variables(stage):
    user = launch(stage)
    switch(stage, "observe", "--set=observe.withoutPolicies=true")
    assert no_variables(stage)
    ask_until(stage, user, f"http://{OTHER}/", "The host name has no address")
    assert names(stage, stage.launch().user) == "[]"
    switch(stage, "captcha")
    await_variables(stage)
    ask_until(stage, user, f"http://{OTHER}/", "No internet access")


def test_variables_can_go_before_the_proxy(stage):
    """docs/proxy.md says how. Running pods keep the proxy."""
    user = launch(stage)
    stage.kubectl("delete", "configmap", "binder-egress-proxy-variables")
    assert names(stage, stage.launch().user) == "[]"
    assert ask(stage, user, f"http://{LISTED}/") == "200"


@pytest.mark.parametrize("to", ["deny", "off", "captcha without the proxy"])
def test_proxy_that_goes_ends_its_connections(stage, to):
    """Running pods lose everything that uses the variables, even if their network is open. New pods have no variables."""
    user = launch(stage)
    with tunnel(stage, user) as held:
        switch(stage, to.split()[0], *(["--set=proxy.enabled=false"] if "without" in to else []))
        assert held.stdout.readline().startswith("ended")
    assert no_variables(stage) and not stage.pods_of("proxy")
    assert ask(stage, user, f"http://{LISTED}/").startswith("URLError")
    assert names(stage, stage.launch().user) == "[]"
