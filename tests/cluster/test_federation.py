"""Two members of a federation, as on mybinder.org.

Each has its own Redis and bearer token; the signing keys are shared. In front of them is an address whose pages come from the first
member, through a proxy that answers only GET, and whose build requests are redirected to either member.
"""

import http.client
import itertools
import re
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser

from binder_egress.model.passes import BadPass, Passes
from tests.support.cluster.evidence import Evidence
from tests.support.cluster.front_door import FrontDoor
from tests.support.cluster.installing import await_tier_or_unlock
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import CLIENT, QUICK, TOP, Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS, HUB_SECONDS, LAUNCH_SECONDS, PAGE_SECONDS, TIER_SECONDS
from tests.support.doc_examples import section
from tests.support.launch_page import bundle
from tests.support.waiting import eventually, patiently

pytestmark = pytest.mark.long

FRONT = 8710
URL = f"http://localhost:{FRONT}"
PORTS = (8711, 8712)


class Redirector:
    """The redirector, as at mybinder.org.

    Attributes:
        member: the member that gets build requests.
        pinned: a repository's path → the member that gets its build requests.
    """

    def __init__(self) -> None:
        self.member = 0
        self.pinned: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("localhost", FRONT), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(federation) -> type[BaseHTTPRequestHandler]:  # `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                self.send_error(405)

            do_OPTIONS = do_POST

            def do_GET(self) -> None:
                if self.path.startswith("/build/"):
                    repository = self.path.partition("?")[0].removeprefix("/build/")
                    member = federation.pinned.get(repository, federation.member)
                    self.send_response(307)
                    self.send_header("Location", f"http://localhost:{PORTS[member]}{self.path}")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection("localhost", PORTS[0], timeout=ANSWER_SECONDS)
                connection.request("GET", self.path, headers={"Accept": self.headers.get("Accept", "*/*")})
                got = connection.getresponse()
                body = got.read()
                self.send_response(got.status)
                self.send_header("Content-Type", got.getheader("Content-Type", "text/plain"))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


@dataclass
class Federation:
    """Both members, and the redirector in front of them."""

    members: tuple[Stage, Stage]
    front: Redirector

    def set_keys(self, *keys: str) -> None:
        """Give the members signing keys, one member after the other, oldest key first."""
        for member in self.members:
            # On a busy machine, a page may need more than its usual four seconds for a solution.
            more = (f"--set=secret.signingKeys={{{','.join(keys)}}}", f"--set=allowedOrigins={{{URL}}}", "--set=launchPage.hold=60")
            member.install_gate(*QUICK, *more)

    def launch(self, member: int, token: str | None, spec: str = "fake/owner/repo/main") -> str:
        """Launch through the redirector. Returns the user at the member that it leads to."""
        self.front.member = member
        launched = self.members[member].launch(spec, token, at=URL)
        assert launched.ready["url"].startswith(f"http://localhost:{PORTS[member]}/")
        return launched.user

    def browse(self, browser: Browser, repository: str, member: int) -> str:
        """Open the page of a repository that is launched at a member, and wait. Returns the user. Nobody clicks."""
        self.front.pinned[repository] = member
        page = browser.new_page()
        page.goto(f"{URL}/v2/{repository}")
        page.wait_for_url(re.compile(rf"^http://localhost:{PORTS[member]}/user/"), wait_until="commit", timeout=PAGE_SECONDS * 1000)
        user = page.url.split("/user/")[1].partition("/")[0]
        page.close()
        return user


@pytest.fixture(scope="module")
def federation(stage: Stage) -> Iterator[Federation]:
    other = Stage(stage.context, f"{stage.namespace}-member", patient=True)
    federation = Federation((stage, other), Redirector())
    federation.set_keys(secrets.token_hex(20))
    doors = []
    for member, port in zip(federation.members, PORTS, strict=True):
        member.install_binderhub(f"--set=config.BinderHub.hub_url=http://localhost:{port}/")
        doors.append(FrontDoor(member, bundle(), port))
        doors[-1].header["binder-egress-address"] = f'<meta name="binder-egress" content="http://localhost:{port}/egress/">'
    yield federation
    for server in (*doors, federation.front):
        server.close()
    other.delete_namespace()
    stage.install_gate(*QUICK)


def test_pass_of_one_member_is_good_at_the_other_and_counts_at_each(federation):
    first, second = federation.members
    token = first.get_pass()
    user = federation.launch(1, token)
    second.await_tier(user, "verified")
    assert_reaches(second, user, egress=True)
    # Each member counts by itself: the pass works once more at the other member, and then at neither.
    first.await_tier(federation.launch(0, token), "verified")
    for number in (0, 1):
        user = federation.launch(number, token, "fake/owner/another/main")
        assert federation.members[number].tier(user) is None


def test_browser_launches_through_the_front_address(federation, browser):
    """The page is at one address, the verifier that issues the pass at another, the server at a third. Nobody clicks."""
    user = federation.browse(browser, "fake/owner/repo-1/main", 1)
    federation.members[1].await_tier(user, "verified")
    assert_reaches(federation.members[1], user, egress=True)


# -- rotation of keys

PASS_SECONDS = 300
"""Seconds for which a pass is valid: the chart's default, and its maximum."""

LAUNCH_ROOM_SECONDS = 30
"""Seconds from the look at the clock to the launch's request."""

KEYS, *STEPS = section("docs/maintenance.md", "Changing the signing keys")
"""The commands of docs/maintenance.md: the lines that set `old` and `new`, and the three steps."""


def typed(member: Stage, commands: str, **variables: str) -> str:
    """Run the document's commands from the top of the project, in another namespace. Returns their output."""
    for program, option in (("kubectl", "--context"), ("helm", "--kube-context")):
        context = f" {option} {member.context}" if member.context else ""
        commands = re.sub(rf"\b{program} ", f"{program}{context} --namespace {member.namespace} ", commands)
    assert "--namespace binder " in commands
    commands = commands.replace("--namespace binder ", "")
    return member.run("env", *(f"{name}={value}" for name, value in variables.items()), "bash", "-euc", f"cd {TOP}\n{commands}")


def is_signed(token: str, key: str) -> bool:
    """Whether a pass is signed with a key."""
    try:
        Passes([key]).read(token, time.time())
    except BadPass:
        return False
    return True


def pods_that_stay(member: Stage) -> set[str]:
    """A member's pods except the verifier's and the users'."""
    pods = member.get("pods", "-l", "component!=singleuser-server,app.kubernetes.io/component!=verifier")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def invalid(member: Stage) -> float:
    """Passes that a member refused because of their signature."""
    name = "binder_egress_launches_total{"
    return sum(value for key, value in member.metrics().items() if key.startswith(name) and 'pass_outcome="invalid"' in key)


class Launching:
    """Two people who keep launching through the redirector while this is open, each with passes of one member at the other."""

    def __init__(self, federation: Federation) -> None:
        self._done = [0, 0]
        self._federation = federation
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self._running = [self._pool.submit(self._run, giver) for giver in (0, 1)]

    def launched(self, member: int, user: str, token: str | None = None, client: str = CLIENT) -> None:
        """Make sure that a server has its tier, and remove it."""
        stage = self._federation.members[member]
        await_tier_or_unlock(stage, user, token, client)
        stage.kubectl("delete", "pod", stage.pod_name(user), "--grace-period=0", "--force")

    def another_round(self) -> None:
        """Wait until both current launches are done, and also launches with passes that were issued after this call."""
        before = list(self._done)

        def are_done() -> bool:
            for running in self._running:
                if running.done():
                    running.result()
                    raise AssertionError("somebody launches no more")
            return all(done >= number + 2 for done, number in zip(self._done, before, strict=True))

        eventually(are_done, 2 * LAUNCH_SECONDS, lambda: (before, self._done), no_answer=())

    def close(self) -> None:
        """End, and raise the first error."""
        self._stop.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def _run(self, giver: int) -> None:
        members, member = self._federation.members, 1 - giver
        repository = f"fake/owner/of-{giver}-at-{member}/main"
        self._federation.front.pinned[repository] = member
        while not self._stop.is_set():
            client = f"198.51.100.{secrets.randbelow(250) + 1}"
            token = patiently(lambda client=client: members[giver].get_pass(client), HUB_SECONDS)
            launched = members[member].launch(repository, token, client, at=URL)
            assert launched.ready["url"].startswith(f"http://localhost:{PORTS[member]}/")
            self.launched(member, launched.user, token, client)
            self._done[giver] += 1


def rejected(evidence: Evidence, member: Stage) -> list[str]:
    """The launches whose pass a member found invalid, from the logs of all its verifiers."""
    return [line for line in evidence.lines(member.namespace, "binder-egress-verifier") if '"invalid"' in line]


@pytest.mark.timeout(3600)  # On a busy machine, the steps under launches take most of the usual limit.
def test_key_rotation_under_launches_rejects_no_pass(federation, browser, evidence):
    """The commands of docs/maintenance.md: accept, sign, drop, each at one member after the other."""
    assert len(STEPS) == 3
    members = federation.members
    old, new = typed(members[0], f'{KEYS}\necho "$old $new"').split()
    assert all(member.secret("signing-keys") == old for member in members)
    others = [pods_that_stay(member) for member in members]
    browsed, before = itertools.count(), [len(rejected(evidence, member)) for member in members]

    def step(commands: str) -> None:
        """At both members, while a browser launches."""
        with ThreadPoolExecutor(1) as pool:
            typing = pool.submit(lambda: [typed(member, commands, old=old, new=new) for member in members])
            while not typing.done():
                number = next(browsed)
                user = federation.browse(browser, f"fake/owner/browsed-{number}/main", number % 2)
                launching.launched(number % 2, user)
            typing.result()

    def await_signer(expected: bool) -> None:
        """Wait until each member signs with the new key, or with the old one: an earlier verifier may answer for a moment."""
        eventually(lambda: [is_signed(member.get_pass(), new) for member in members] == [expected] * 2, TIER_SECONDS)

    def launch_with(number: int, token: str, issued: float, repository: str) -> None:
        """Launch with an earlier pass, or without one: a busy machine may take longer for the steps than passes are valid."""

        def while_valid() -> str | None:
            return token if time.monotonic() - issued < PASS_SECONDS - LAUNCH_ROOM_SECONDS else None

        user = federation.launch(number, while_valid(), f"fake/owner/{repository}/main")
        launching.launched(number, user, while_valid())

    launching = Launching(federation)
    try:
        launching.another_round()
        began = time.monotonic()
        early = [member.get_pass() for member in members]
        step(STEPS[0])
        await_signer(False)
        # Each pass is valid at the member that did not issue it, whichever key that member signs with.
        launch_with(0, early[1], began, "early")
        later = time.monotonic()
        late = [member.get_pass() for member in members]
        step(STEPS[1])
        await_signer(True)
        launch_with(1, early[0], began, "late-0")
        launch_with(0, late[1], later, "late-1")
        launch_with(1, late[0], later, "late-2")
        launching.another_round()  # for passes of the old key that are still in use; the document has the time in minutes
        step(STEPS[2])
        await_signer(True)
        launching.another_round()
    finally:
        launching.close()
    assert next(browsed) >= len(STEPS)
    assert [rejected(evidence, member)[number:] for member, number in zip(members, before, strict=True)] == [[], []]
    assert [pods_that_stay(member) for member in members] == others
    # Passes that the old key signs now are refused at both members, for that reason.
    for number, member in enumerate(members):
        refused, token = invalid(member), Passes([old]).sign(Passes.new("verified", 1, time.time(), 300))
        user = federation.launch(number, token, "fake/owner/dropped/main")
        assert member.tier(user) is None
        eventually(lambda member=member, refused=refused: invalid(member) == refused + 1, TIER_SECONDS, "not counted")
        assert len(rejected(evidence, member)) > before[number], "a rejected pass is in the logs, or the check above says nothing"
