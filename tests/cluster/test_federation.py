"""Two members of a federation, as on mybinder.org.

Each has a Redis and a bearer token of its own; the signing keys are shared. In front of them is an address whose pages come from
the first, by a proxy that answers GET only, and whose build requests are redirected to either.
"""

import http.client
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from front_door import FrontDoor
from stage import QUICK, Stage
from test_launches import expect

from tests.browser.launch_page import bundle

FRONT = 8710
URL = f"http://localhost:{FRONT}"
PORTS = (8711, 8712)


class Redirector:
    """What stands at mybinder.org. `member` is where the next build request goes."""

    def __init__(self) -> None:
        self.member = 0
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
                    self.send_response(307)
                    self.send_header("Location", f"http://localhost:{PORTS[federation.member]}{self.path}")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection("localhost", PORTS[0], timeout=60)
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
    """Both members, and what stands before them."""

    members: tuple[Stage, Stage]
    front: Redirector

    def set_keys(self, *keys: str) -> None:
        """Give the members signing keys, one member after the other, oldest key first."""
        for member in self.members:
            member.install_gate(*QUICK, f"--set=secret.signingKeys={{{','.join(keys)}}}", f"--set=allowedOrigins={{{URL}}}")

    def launch(self, member: int, token: str | None, spec: str = "fake/owner/repo/main") -> str:
        """Launch through the redirector: the user at the member that it leads to."""
        self.front.member = member
        launched = self.members[member].launch(spec, token, at=URL)
        assert launched.ready["url"].startswith(f"http://localhost:{PORTS[member]}/")
        return launched.user


@pytest.fixture(scope="module")
def federation(stage: Stage) -> Iterator[Federation]:
    other = Stage(stage.context, f"{stage.namespace}-member")
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
    other.delete_user_pods()
    other.close()
    context = ["--context", stage.context] if stage.context else []
    stage.run("kubectl", *context, "delete", "namespace", other.namespace, "--wait=false")
    stage.install_gate(*QUICK)


def test_a_pass_of_one_member_is_good_at_the_other_and_counts_at_each(federation):
    first, second = federation.members
    token = first.get_pass()
    user = federation.launch(1, token)
    second.await_tier(user, "verified")
    expect(second, user, egress=True)
    # Each counts for itself: once more at the other, and no more at either.
    first.await_tier(federation.launch(0, token), "verified", 60)
    for number in (0, 1):
        user = federation.launch(number, token, "fake/owner/another/main")
        assert federation.members[number].tier(user) is None


def test_without_a_pass_a_launch_through_the_redirector_has_nothing(federation):
    assert federation.members[1].tier(federation.launch(1, None)) is None


def test_a_solution_earns_a_pass_at_the_member_that_asked_only(federation):
    first, second = federation.members
    body = {"provider": "altcha", "solution": first.solve()}
    headers = {"X-Forwarded-For": "198.51.100.7"}
    assert requests.post(f"{second.verifier}/passes", json=body, headers=headers, timeout=10).status_code == 403
    assert requests.post(f"{first.verifier}/passes", json=body, headers=headers, timeout=10).status_code == 201


def test_the_address_before_them_answers_get_only(federation):
    assert requests.get(f"{URL}/egress/challenge", timeout=10).status_code == 200
    assert requests.post(f"{URL}/egress/passes", json={}, timeout=10).status_code == 405


@pytest.mark.parametrize("member", [0, 1])
def test_a_browser_launches_through_it(federation, member, browser):
    """The page is at one address, the verifier that gives the pass at another, the server perhaps at a third. Nobody clicks."""
    federation.front.member = member
    page = browser.new_page()
    page.goto(f"{URL}/v2/fake/owner/repo-{member}/main")
    page.wait_for_url(re.compile(rf"^http://localhost:{PORTS[member]}/user/"), wait_until="commit", timeout=120_000)
    user = page.url.split("/user/")[1].partition("/")[0]
    page.close()
    federation.members[member].await_tier(user, "verified")
