"""Passes that a person's solution or an API key gives."""

import json
import re
import threading

import pytest

from binder_egress.model.records import KnownServer, Server
from tests.support.apps import carried, internal_client, launch, reconciler, run_pod
from tests.support.client_command import HCAPTCHA, SPEC, on_a_terminal
from tests.support.waiting import eventually

# -- providers that need a person


@pytest.fixture
def interactive(serve, open_hub):
    return open_hub(serve(**HCAPTCHA))


def test_launch_that_needs_a_person_starts_at_once_and_shows_the_link(interactive, run):
    code, _, err = run("launch", SPEC, "--binder", interactive.url)
    assert code == 3 and f"{interactive.url}egress/servers/user-1/#unlock" in err
    assert "█" not in err and "waiting" not in err


def test_client_waits_until_a_person_has_solved(interactive, run, store, monkeypatch):
    monkeypatch.setattr("binder_egress_client.unlocking.POLL", 0.1)

    def person():
        eventually(lambda: interactive.count("GET /egress/servers/user-1/") > 3)
        store.publish(Server("user-1"), KnownServer("uid-user-1", carried("verified")))

    helper = threading.Thread(target=person)
    helper.start()
    code, _, err = run("launch", SPEC, "--binder", interactive.url, "--wait", "30")
    helper.join()
    assert code == 0 and f"{interactive.url}egress/servers/user-1/#unlock" in err and "has egress (verified)" in err


def test_wait_for_a_person_times_out(interactive, run, store, monkeypatch):
    monkeypatch.setattr("binder_egress_client.unlocking.POLL", 0.1)
    run_pod(store)
    code, _, err = run("unlock", f"{interactive.url}egress/servers/alice/", "--wait", "0.3")
    assert code == 3 and "nobody unlocked it" in err


def test_option_in_browser_asks_a_person(hub, run, store):
    run_pod(store)
    code, _, err = run("unlock", f"{hub.url}egress/servers/alice/", "--in-browser")
    assert code == 3 and "#unlock" in err and not hub.count("GET /egress/challenge")
    code, _, _ = run("launch", SPEC, "--binder", hub.url, "--in-browser")
    assert (code, hub.count("GET /egress/challenge"), hub.builds[0].token) == (3, 0, None)


def test_terminal_gets_a_qr_code_and_respects_no_color(interactive, store):
    run_pod(store)
    arguments = ("unlock", f"{interactive.url}egress/servers/alice/", "--wait", "1")
    shown, code = on_a_terminal(*arguments)
    assert code == 3 and "█" in shown and "\x1b[97;40m" in shown
    shown, _ = on_a_terminal(*arguments, NO_COLOR="1")
    # The progress display moves the cursor, but nothing has a colour.
    assert "█" in shown and not re.search(r"\x1b\[[0-9;]*(?:3|4|9|10)[0-7][0-9;]*m", shown)


def test_pass_command_fails_if_a_person_is_needed(interactive, run):
    code, out, err = run("pass", "--binder", interactive.url)
    assert (code, out) == (3, "") and "hcaptcha" in err


# -- pass and key


def test_pass_is_accepted_for_a_launch(hub, run, services):
    code, out, _ = run("pass", "--binder", hub.url)
    assert code == 0
    assert launch(internal_client(services), token=out.strip(), client_address="127.0.0.1")["tier"] == "verified"
    assert json.loads(run("pass", "--binder", hub.url, "--json")[1])["expires_in"] > 0


@pytest.mark.parametrize("by", ["option", "environment"])
def test_key_is_sent_only_to_post_passes(keyed, run, store, monkeypatch, by):
    if by == "environment":
        monkeypatch.setenv("BINDER_EGRESS_KEY", keyed.key)
    more = ("--key", keyed.key) if by == "option" else ()
    code, out, err = run("launch", SPEC, "--binder", keyed.url, *more)
    sent = ("/egress/passes", f"Bearer {keyed.key}", {})
    assert (code, keyed.builds[0].tier, keyed.sent) == (0, "verified", [sent]), err
    assert keyed.key not in out + err + str(keyed.builds) + "".join(keyed.seen)
    assert not keyed.count("GET /egress/challenge")

    run_pod(store)
    code, out, err = run("unlock", f"{keyed.url}egress/servers/alice/", *more)
    # The server runs another repository.
    assert code == 3 and keyed.key not in out + err
    assert run("pass", "--binder", keyed.url, *more)[0] == 0
    # The key has no server left after three.
    code, out, err = run("pass", "--binder", keyed.url, *more)
    assert (code, out) == (3, "") and "Try again in" in err


def test_server_is_unlocked_by_a_key(keyed, run, store):
    store.publish(Server("alice"), KnownServer("uid-1", repository="https://example.com/gh/o/cached"))
    with reconciler(store):
        code, _, err = run("unlock", f"{keyed.url}egress/servers/alice/", "--key", keyed.key)
    assert code == 0, err


def test_netrc_does_not_replace_a_key(keyed, run, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert run("pass", "--binder", keyed.url, "--key", keyed.key)[0] == 0


def test_refused_key_is_reported_and_nothing_else_is_tried(keyed, run):
    wrong = keyed.key[:-1] + "_"
    code, out, err = run("launch", SPEC, "--binder", keyed.url, "--key", wrong)
    assert (code, out) == (3, f"{keyed.url}user/user-1/?token=server-token\n") and "Copy the key" in err
    assert wrong not in err and not keyed.count("GET /egress/challenge") and len(keyed.sent) == 1


def test_launch_uses_one_server_of_a_key(keyed, run, monkeypatch):
    """This also holds for a repository that the key does not cover, where the pass grants nothing."""
    monkeypatch.setattr("binder_egress_client.launch.LABELLED", 0.5)
    code, _, err = run("launch", "gh/somebody/else/HEAD", "--binder", keyed.url, "--key", keyed.key)
    assert (code, keyed.builds[0].tier, len(keyed.sent)) == (3, "unverified", 1)
    assert "for a key that is for other repositories; a person has to solve a check in a browser." in err


@pytest.mark.parametrize("by", ["key", "calculation"])
def test_pass_of_a_launch_that_was_not_reported_unlocks_the_server(by, keyed, hub, run, store, monkeypatch):
    """BinderHub's hook rests after failures. Nothing more is calculated, and the key has one server less."""
    monkeypatch.setattr("binder_egress_client.launch.LABELLED", 0.5)
    launching = keyed if by == "key" else hub
    launching.rests = True
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", launching.url, *(("--key", keyed.key) if by == "key" else ()))
    assert (code, launching.builds[0].tier, launching.count("POST /egress/passes")) == (0, None, 1), err
    assert launching.count("GET /egress/challenge") == (by == "calculation")


@pytest.mark.parametrize("fault", ["404", "unrouted"])
def test_key_does_not_follow_a_redirect(keyed, open_hub, run, fault):
    """A redirect of the hub can name any host, so only the pass follows it."""
    prime = open_hub(None)
    prime.fault = fault
    prime.redirect = keyed.url.replace("127.0.0.1", "localhost")
    code, _, _ = run("launch", SPEC, "--binder", prime.url, "--key", keyed.key)
    assert (code, keyed.sent, len(keyed.builds)) == (3, [], 1)
