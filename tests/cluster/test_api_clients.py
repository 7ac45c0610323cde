"""Clients other than browsers: they launch as without us, whatever the state of the gate, and those that ask get egress.

tests/unit/client tests the failures of our own client. This file tests its purpose, and other clients.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tests.support.cluster.clients import SPEC, Outcomes, client, comparable, curl, launch_together, script, user_of
from tests.support.cluster.front_door import URL, FrontDoor
from tests.support.cluster.installing import forget_failures
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS
from tests.support.doc_examples import SIGNED_IN, examples, run_example

API_ONLY = "--set=config.BinderHub.enable_api_only_mode=true"


@pytest.fixture(scope="module")
def door(stage: Stage) -> Iterator[FrontDoor]:
    """One host for BinderHub and the verifier."""
    door = FrontDoor(stage, b"")
    yield door
    door.close()


@pytest.fixture(scope="module")
def federation() -> Iterator[str]:
    """A host that redirects build requests to another one, as mybinder.org does. Yields its address."""

    class Redirects(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(307 if self.path.startswith("/build/") else 404)
            self.send_header("Location", URL.rstrip("/") + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.send_error(405)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def ours(hub: str) -> list[str]:
    """The events that our client passes on. Egress is not the question here."""
    done = client("launch", SPEC, "--binder", hub, "--json")
    assert done.returncode in (0, 3), done.stderr
    *events, last = done.stdout.splitlines()
    assert set(json.loads(last)) == {"binder_egress"}
    return events


WAYS = ("curl", "script", "client", "federation", "build_only", "refused")
STATES = ("gate on", "verifier gone")


@pytest.fixture(scope="module")
def recorded(stage: Stage, door: FrontDoor, federation: str) -> dict[str, Outcomes]:
    """The events that each client saw in each state of the gate, and without it."""

    def record() -> Outcomes:
        found = launch_together(
            curl=lambda: curl(f"{URL}build/{SPEC}"),
            script=lambda: script(f"{URL}build/{SPEC}"),
            client=lambda: ours(URL),
            federation=lambda: curl(f"{federation}build/{SPEC}"),
            build_only=lambda: curl(f"{URL}build/{SPEC}?build_only=true"),
            refused=lambda: curl(f"{URL}build/nowhere/owner/repo/main"),
        )
        stage.delete_user_pods()
        return found

    found = {}
    try:
        stage.install_binderhub(API_ONLY, values="{}")
        found["without us"] = record()
    finally:
        # It stays so: it has no pages in any case, and the documentation's examples are for it, too.
        stage.install_binderhub(API_ONLY)
    found["gate on"] = record()
    stage.scale("verifier", 0)
    try:
        found["verifier gone"] = record()
    finally:
        stage.scale("verifier", 1)
        forget_failures(stage)
    return found


def test_recording_has_events(recorded):
    """Otherwise two empty lists would be equal."""
    events = comparable(recorded["without us"]["curl"])
    assert events[0]["phase"] == "built"
    assert {"phase", "message", "url", "token", "image", "repo_url", "binder_launch_host"} <= events[-1].keys()
    assert [event["phase"] for event in comparable(recorded["without us"]["build_only"])] == ["ready"]
    assert [event["phase"] for event in comparable(recorded["without us"]["refused"])] == ["failed"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("way", WAYS)
def test_events_are_those_of_binderhub_alone(recorded, way, state):
    assert comparable(recorded[state][way]) == comparable(recorded["without us"][way])


def test_client_launches_with_egress(stage, recorded, door):
    done = client("launch", SPEC, "--binder", URL, "--json")
    *events, last = done.stdout.splitlines()
    assert (done.returncode, json.loads(last)["binder_egress"]["tier"]) == (0, "verified"), done.stderr
    assert stage.tier(user_of(events)) == "verified"
    assert_reaches(stage, user_of(events), egress=True)


def test_client_finds_the_member_of_a_federation(stage, recorded, door, federation):
    """There is no verifier at the first host: the running server is unlocked. If there is one, its pass goes with the launch."""
    for more in ((), ("--egress", f"{URL}egress/")):
        done = client("launch", SPEC, "--binder", federation, "--json", *more)
        *events, last = done.stdout.splitlines()
        assert (done.returncode, json.loads(last)["binder_egress"]["egress"]) == (0, True), done.stderr
        rule = stage.grant(user_of(events))["rule"]
        assert rule == ("valid-pass" if more else "unlock")


def test_terminal_unlocks_a_server_of_another_client(stage, recorded, door):
    user = user_of(curl(f"{URL}build/{SPEC}"))
    address = stage.page_address(user)
    text = requests.get(address, timeout=ANSWER_SECONDS).text
    assert "no internet access" in text and f"{address}#unlock" in text

    assert client("status", address).returncode == 3
    done = client("unlock", address)
    assert done.returncode == 0, done.stderr
    assert client("status", address).returncode == 0
    assert_reaches(stage, user, egress=True)


@pytest.mark.parametrize(("language", "code"), [each for each in examples("docs/api-users.md") if SIGNED_IN not in each.values[1]])
def test_examples_of_the_documents(stage, recorded, door, federation, tmp_path, language, code):
    address = ""
    if "BINDER_EGRESS_URL" in code:
        address = f"{URL}egress/servers/{user_of(curl(f'{URL}build/{SPEC}'))}/"
    run_example(language, code, tmp_path, URL, SPEC, federation, BINDER_EGRESS_URL=address)
