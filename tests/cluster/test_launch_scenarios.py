"""People launch in real browsers, in parallel: BinderHub's own client, builds that take time, and pods of a real kubelet.

tests/browser/launch_page has everything that can happen on the page. These scenarios end well only if browser, client, verifier,
hub and reconciler agree. Packets show what each pod reaches.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from playwright.sync_api import Browser, Error, Page, expect

from binder_egress.model.promise_token import is_promise
from tests.support.cluster.front_door import URL, FrontDoor
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import OPEN, Stage
from tests.support.cluster.timeouts import PAGE_SECONDS
from tests.support.launch_page import bundle


class Visit:
    """Somebody who launches, with their own browser profile and front door.

    Attributes:
        door: leads to the BinderHub, verifier and hub that all share.
        context: the browser profile.
        path: the repository, `owner/name/ref`.
        users: the users of the servers that they reached, in order.
        tiers: the tiers of the pods of `users`, in the same order.
        reached: the targets that those pods reach, in the same order.
        error: the error, if the scenario failed.
    """

    def __init__(self, stage: Stage, browser: Browser, script: bytes, path: str) -> None:
        self.door = FrontDoor(stage, script, 0)
        self.context = browser.new_context()
        self.context.set_default_timeout(PAGE_SECONDS * 1000)
        self.path = path
        self.users: list[str] = []
        self.tiers: list[str | None] = []
        self.reached: list[dict[str, bool]] = []
        self.error: Exception | None = None

    def close_gate(self, prefix: str) -> threading.Event:
        """Make requests whose path begins so wait. Returns the function that ends that."""
        self.door.gates[prefix] = threading.Event()
        return self.door.gates[prefix]

    def open(self, page: Page) -> None:
        """Open the launch page."""
        page.goto(f"{self.door.url}v2/fake/{self.path}", wait_until="commit")

    def open_and_solve(self, *pages: Page) -> None:
        """Open the launch page. Its own script, which launches, arrives when there is a pass."""
        # The stand-in's page, or BinderHub's own.
        scripts = [self.close_gate("stand-in.js"), self.close_gate("static/dist/bundle.js")]
        for page in pages:
            self.open(page)
        for page in pages:
            self.solve(page)
        for script in scripts:
            script.set()

    def solve(self, page: Page) -> None:
        """Wait until the launch page has its pass.

        The page gives the verifier ten seconds. On a busy machine that may be too short, so the page is opened again.
        """
        for _ in range(3):
            page.wait_for_function("!['checking', 'holding', undefined].includes(window.binderEgress?.state)")
            if (state := page.evaluate("window.binderEgress.state")) != "unanswered":
                break
            self.open(page)
        assert state == "checked"

    def arrive(self, page: Page) -> None:
        """Wait until the page has left for the server."""
        page.wait_for_url(f"{URL}user/**", wait_until="commit")
        self.users.append(page.url.removeprefix(f"{URL}user/").partition("/")[0])

    def seen(self) -> str:
        """What its pages show at this moment, for the report of a failure."""
        pages = [f"{len(self.door.builds)} build requests, {time.time():.0f}"]
        for page in self.context.pages:
            try:
                pages.append(str(page.wait_for_function(SEEN, timeout=5000).json_value()))
            except Error as error:
                pages.append(str(error))
        return "\n".join(pages)


SEEN = """() => [
  document.readyState, window.binderEgress?.state, `clock ${Date.now() / 1000}`, location.href,
  ...performance.getEntriesByType("resource").map(({ name }) => name),
].join(" ")"""


# Each scenario yields when it waits for the cluster; meanwhile the others begin.


def before(visit: Visit) -> Iterator[None]:
    page = visit.context.new_page()
    visit.open_and_solve(page)
    yield
    visit.arrive(page)


def during(visit: Visit) -> Iterator[None]:
    visit.door.on_build = visit.close_gate("egress/challenge").set
    page = visit.context.new_page()
    visit.open(page)
    yield
    visit.arrive(page)


def after(visit: Visit) -> Iterator[None]:
    challenge = visit.close_gate("egress/challenge")
    page = visit.context.new_page()
    visit.open(page)
    yield
    visit.arrive(page)
    challenge.set()


def retry(visit: Visit) -> Iterator[None]:
    """The client gives up when a stream ends early; the person presses the button again."""
    visit.door.cuts = 1
    page = visit.context.new_page()
    page.goto(visit.door.url)
    page.get_by_role("textbox", name="repository").first.fill(visit.path)
    page.get_by_role("button", name="launch", exact=True).click()
    yield
    expect(page.get_by_text(re.compile("^failed$", re.IGNORECASE)).first).to_be_visible(timeout=PAGE_SECONDS * 1000)
    page.get_by_role("button", name="launch", exact=True).click()
    yield
    visit.arrive(page)


def two_tabs(visit: Visit) -> Iterator[None]:
    pages = [visit.context.new_page(), visit.context.new_page()]
    visit.open_and_solve(*pages)
    yield
    for page in pages:
        visit.arrive(page)


def going_back(visit: Visit) -> Iterator[None]:
    page = visit.context.new_page()
    visit.open_and_solve(page)
    yield
    visit.arrive(page)
    page.wait_for_load_state()
    page.go_back(wait_until="commit")
    yield
    visit.arrive(page)


def wrong_clock(hours: int, visit: Visit) -> Iterator[None]:
    page = visit.context.new_page()
    page.clock.install(time=time.time() + hours * 3600)
    visit.open_and_solve(page)
    yield
    visit.arrive(page)


def hanging(visit: Visit) -> Iterator[None]:
    visit.close_gate("egress/")
    page = visit.context.new_page()
    visit.open(page)
    yield
    visit.arrive(page)


def blocked(visit: Visit) -> Iterator[None]:
    visit.context.route("**/egress/**", lambda route: route.abort("blockedbyclient"))
    page = visit.context.new_page()
    visit.open(page)
    yield
    visit.arrive(page)


SCENARIOS: dict[str, tuple[Callable[[Visit], Iterator[None]], int, int, bool]] = {
    "a solution before the build": (before, 1, 1, True),
    "a solution during the build": (during, 1, 1, True),
    "a solution after the launch": (after, 1, 1, False),
    "a stream that ends early": (retry, 2, 1, True),
    "a server that fails to start once": (before, 1, 1, True),
    "two tabs": (two_tabs, 2, 2, True),
    "going back": (going_back, 2, 2, True),
    "a clock that is an hour slow": (partial(wrong_clock, -1), 1, 1, True),
    "a clock that is an hour fast": (partial(wrong_clock, 1), 1, 1, True),
    "a verifier that hangs": (hanging, 1, 1, False),
    "a verifier that is blocked": (blocked, 1, 1, False),
}
"""Scenario → its function; the number of build requests; the number of different promises in them; whether each pod has egress."""

WAVE = 4
"""The number of scenarios at once. With more, on two cores, a server may take longer than the hub waits."""


@pytest.fixture(scope="module")
def visits(stage: Stage, browser: Browser) -> Iterator[dict[str, Visit]]:
    """All scenarios, finished, with builds that take some seconds."""
    stage.install_binderhub(f"--set=config.BinderHub.hub_url={URL}", "--set=cached=false")
    script, visits = bundle(), {}
    servers = FrontDoor(stage, b"")
    names = list(SCENARIOS)
    for wave in (names[at : at + WAVE] for at in range(0, len(names), WAVE)):
        steps = {}
        for name in wave:
            # For the owner `flaky`, the first server of a repository fails.
            owner = f"flaky/{secrets.token_hex(2)}" if "fails" in name else "owner/"
            visits[name] = Visit(stage, browser, script, f"{owner}{name.replace(' ', '-')}/main")
            steps[name] = SCENARIOS[name][0](visits[name])
        while steps:
            for name, step in list(steps.items()):
                try:
                    next(step)
                except StopIteration:
                    del steps[name]
                except Exception as error:
                    error.add_note(visits[name].seen())
                    visits[name].error = error
                    del steps[name]
        with ThreadPoolExecutor(WAVE) as pool:
            list(pool.map(lambda name: look(stage, visits[name], SCENARIOS[name][3]), wave))
        for name in wave:
            visits[name].context.close()
            visits[name].door.close()
        stage.delete_user_pods()
    servers.close()
    yield visits
    stage.install_binderhub()


def look(stage: Stage, visit: Visit, egress: bool) -> None:
    """Record the tiers of a visit's pods, and what they reach."""
    try:
        for user in visit.users:
            if egress:
                stage.await_tier(user, "verified")
            visit.tiers.append(stage.tier(user))
            visit.reached.append(assert_reaches(stage, user, egress))
    except Exception as error:
        visit.error = visit.error or error


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_ends_as_listed(name, visits):
    visit = visits[name]
    if visit.error:
        raise visit.error
    _, builds, promises, egress = SCENARIOS[name]
    assert len(visit.door.builds) == builds and all(is_promise(token or "") for token in visit.door.builds)
    assert len(set(visit.door.builds)) == promises
    assert visit.tiers == ["verified" if egress else None] * len(visit.users) and visit.users
    assert visit.reached == [{target: egress and target in OPEN for target in reached} for reached in visit.reached]
