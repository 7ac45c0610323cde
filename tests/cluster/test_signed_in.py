"""BinderHub with `auth_enabled`: JupyterHub's users launch under their own names, as without us, and get egress in several ways.

The values come from BinderHub's documentation. The servers are JupyterHub's own, which ask the hub about each visitor.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.cluster.clients import SPEC, Outcomes, client, comparable, curl, launch_together, script
from tests.support.cluster.front_door import URL, FrontDoor
from tests.support.cluster.hub import ask_hub
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import QUICK, TOP, Stage
from tests.support.cluster.timeouts import HUB_ANSWER_SECONDS, HUB_SECONDS, LAUNCH_SECONDS, POD_SECONDS
from tests.support.doc_examples import SIGNED_IN, examples, run_example
from tests.support.waiting import eventually, patiently

pytestmark = pytest.mark.long

AUTH = f"--values={TOP / 'tests/cluster/binderhub-for-tests/auth-enabled.yaml'}"
PASSWORD = "a-password"
TWICE = "--set=config.Launcher.retries=2"
"""So that an error comes after one second, not after seven."""

GATE = (
    *QUICK,
    # Their servers ask the hub, which they find by name.
    "--set=base.allowHub=true",
    "--set=base.allowDns=true",
    "--set=rules.authenticatedUsers.dave=verified",
    "--set=rules.authenticatedGroups.staff=verified",
)
ALWAYS = frozenset({"hub", "DNS"})


def hub_token(stage: Stage, user: str) -> str:
    """A user's token, as from the page /hub/token after a sign-in."""
    answer = ask_hub(stage, "POST", f"users/{user}/tokens", "", json={"auth": {"username": user, "password": PASSWORD}})
    answer.raise_for_status()
    return answer.json()["token"]


def bearer(stage: Stage, user: str) -> str:
    """The header of a user's script."""
    return f"Authorization: token {hub_token(stage, user)}"


def stop_servers(stage: Stage) -> None:
    """Stop all servers as their users would, so that JupyterHub knows of it."""

    def stopped() -> bool:
        servers = [(user["name"], server) for user in ask_hub(stage, "GET", "users").json() for server in user["servers"]]
        for user, server in servers:
            ask_hub(stage, "DELETE", f"users/{user}/servers/{server}" if server else f"users/{user}/server")
        return not servers

    eventually(stopped, POD_SECONDS, "servers do not stop")


def server_of(events: list[str]) -> str:
    """The server in the last event, as `stage` names it: `user/server`."""
    found = re.search(r"/user/([^/]+/[^/]*)", json.loads(events[-1])["url"])
    assert found, events[-1]
    return found[1]


def sign_in(user: str) -> requests.Session:
    """Sign in as a browser does: BinderHub redirects it to JupyterHub's form, which redirects it back."""
    session = requests.Session()
    form = patiently(lambda: session.get(URL, timeout=HUB_ANSWER_SECONDS), HUB_SECONDS)
    found = re.search(r'name="_xsrf"\s+value="([^"]+)"', form.text)
    assert found, form.text
    data = {"username": user, "password": PASSWORD, "_xsrf": found[1]}
    home = patiently(lambda: session.post(form.url, data=data, timeout=HUB_ANSWER_SECONDS), HUB_SECONDS).json()
    assert home["user"] == user
    session.headers.update({"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors", "X-XSRFToken": home["xsrf"]})
    return session


def launch_as(session: requests.Session) -> list[str]:
    """Launch with the cookies of a session. Returns the events."""
    events = []
    with session.get(f"{URL}build/{SPEC}", stream=True, timeout=LAUNCH_SECONDS) as answer:
        for line in answer.iter_lines():
            if line.startswith(b"data:"):
                events.append(line[5:].decode().strip())
                if json.loads(events[-1])["phase"] in ("ready", "failed"):
                    break
    return events


WAYS = ("curl", "script", "token_in_address", "nobody", "second_server")
STATES = ("gate on", "verifier gone")


@pytest.fixture(scope="module")
def recorded(stage: Stage) -> Iterator[dict[str, Outcomes]]:
    """The events that a user's clients saw in each state of the gate, and without it."""
    address = f"{stage.url('binder', 80)}/build/{SPEC}"

    def record() -> Outcomes:
        found = launch_together(
            curl=lambda: curl(address, bearer(stage, "alice")),
            script=lambda: script(address, bearer(stage, "bob")),
            token_in_address=lambda: curl(f"{address}?token={hub_token(stage, 'alice')}"),
            nobody=lambda: curl(address),
        )
        found |= launch_together(second_server=lambda: curl(address, bearer(stage, "alice")))
        stop_servers(stage)
        return found

    found, values = {}, stage.binderhub_values()
    try:
        stage.install_gate(*QUICK, "--set=mode=off")
        stage.install_binderhub(AUTH, TWICE, values="{}")
        found["without us"] = record()
        stage.install_gate(*GATE)
        stage.install_binderhub(AUTH, TWICE, values=values)
        found["gate on"] = record()
        stage.scale("verifier", 0)
        found["verifier gone"] = record()
        stage.scale("verifier", 1)
        yield found
    finally:
        stage.install_gate(*QUICK)
        stage.install_binderhub()


def test_recording_has_events(recorded):
    events = {way: comparable(events)[-1] for way, events in recorded["without us"].items()}
    assert [event["phase"] for event in events.values()] == ["ready", "ready", "failed", "failed", "failed"]
    assert events["curl"]["url"] == f"{URL}user/alice/"
    assert events["script"]["url"] == f"{URL}user/bob/"
    # JupyterHub accepts no tokens in addresses since version 5.
    for way in ("nobody", "token_in_address"):
        assert (events[way]["status_code"], events[way]["message"]) == (403, "Forbidden\n")
    last = events["second_server"]
    assert (last["status_code"], last["message"]) == (409, "User alice already has a running server.\n")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("way", WAYS)
def test_events_are_those_of_binderhub_alone(recorded, way, state):
    assert comparable(recorded[state][way]) == comparable(recorded["without us"][way])


@pytest.fixture(scope="module")
def door(stage: Stage, recorded: dict) -> Iterator[FrontDoor]:
    """The gate is on, and users may have more than one server."""
    stage.install_binderhub(AUTH, TWICE, "--set=config.Launcher.allow_named_servers=true")
    door = FrontDoor(stage, b"")
    yield door
    door.close()


def test_named_servers_have_the_same_events_and_a_name(stage, recorded, door):
    named = launch_together(curl=lambda: curl(f"{stage.url('binder', 80)}/build/{SPEC}", bearer(stage, "alice")))["curl"]
    assert re.fullmatch(r"alice/owner-repo-[a-z0-9]{8}", server_of(named.result()))
    plain = json.dumps(comparable(recorded["without us"]["curl"]))
    assert comparable(named) == json.loads(plain.replace("/user/alice/", "/user/alice/owner-repo-NAME/"))


def test_pass_gives_egress_to_one_server_and_an_unlock_to_another(stage, door):
    alice = bearer(stage, "alice")
    launched = launch_together(
        solved=lambda: curl(f"{URL}build/{SPEC}?egress_token={stage.get_pass()}", alice),
        plain=lambda: curl(f"{URL}build/{SPEC}", alice),
    )
    with_pass, without = (server_of(done.result()) for done in launched.values())
    assert with_pass.startswith("alice/") and with_pass != without
    stage.await_tier(with_pass, "verified")
    assert_reaches(stage, with_pass, egress=True, always=ALWAYS)
    assert stage.tier(without) is None
    assert_reaches(stage, without, egress=False, always=ALWAYS)

    done = client("unlock", stage.page_address(without))
    assert done.returncode == 0, done.stderr
    assert_reaches(stage, without, egress=True, always=ALWAYS)


def test_users_named_by_the_operator_get_egress_without_a_pass(stage, door):
    """dave by his name, with a token; carol by her group, which JupyterHub reports to BinderHub when she signs in."""
    session, dave = sign_in("carol"), bearer(stage, "dave")
    launched = launch_together(carol=lambda: launch_as(session), dave=lambda: curl(f"{URL}build/{SPEC}", dave))
    for user, done in launched.items():
        server = server_of(done.result())
        assert server.startswith(f"{user}/")
        stage.await_tier(server, "verified")
        assert stage.grant(server)["rule"] == "authenticated"
        assert_reaches(stage, server, egress=True, always=ALWAYS)


def test_server_started_at_jupyterhub_has_no_egress(stage, door):
    """Whatever the user claims: without a launch there is no decision."""
    options = {"image": "localhost/user-server:1", "repo_url": "https://example.com/owner/repo.git", "egress_grant": "verified"}
    assert ask_hub(stage, "POST", "users/dave/servers/own", hub_token(stage, "dave"), json=options).ok

    def is_ready() -> bool:
        statuses = [status for pod in stage.pods("dave/own") for status in pod["status"].get("containerStatuses") or []]
        return bool(statuses) and all(status["ready"] for status in statuses)

    eventually(is_ready, POD_SECONDS, lambda: stage.pods("dave/own"))
    assert stage.tier("dave/own") is None
    assert_reaches(stage, "dave/own", egress=False, always=ALWAYS)


@pytest.mark.parametrize(("language", "code"), [each for each in examples("docs/api-users.md") if SIGNED_IN in each.values[1]])
def test_examples_of_the_documents(stage, door, tmp_path: Path, language, code):
    assert '"phase": "ready"' in run_example(language, code, tmp_path, URL, SPEC, **{SIGNED_IN: hub_token(stage, "bob")})
    (pod,) = stage.pods("bob")
    server = f"bob/{pod['metadata']['annotations']['hub.jupyter.org/servername']}"
    stage.await_tier(server, "verified")
