"""Passes by a person's solution and by an API key."""

import json
import re
import threading

import pytest

from tests.support.apps import internal_client, launch, reconciler, run_pod
from tests.support.client_command import HCAPTCHA, SPEC, on_a_terminal, until
from verifier.records import KnownServer, Server

# -- where a person is needed


@pytest.fixture
def interactive(serve, open_hub):
    return open_hub(serve(**HCAPTCHA))


def test_where_a_person_is_needed_the_launch_goes_at_once_and_shows_the_link(interactive, run):
    code, _, err = run("launch", SPEC, "--binder", interactive.url)
    assert code == 3 and f"{interactive.url}egress/servers/user-1/#unlock" in err
    assert "█" not in err and "waiting" not in err


def test_it_waits_until_a_person_has_solved(interactive, run, store, monkeypatch):
    monkeypatch.setattr("binder_egress_client.unlocking.POLL", 0.1)

    def person():
        until(lambda: interactive.count("GET /egress/servers/user-1/") > 3)
        store.publish(Server("user-1"), KnownServer("uid-user-1", "verified"))

    helper = threading.Thread(target=person)
    helper.start()
    code, _, err = run("launch", SPEC, "--binder", interactive.url, "--wait", "30")
    helper.join()
    assert code == 0 and f"{interactive.url}egress/servers/user-1/#unlock" in err and "has egress (verified)" in err


def test_the_waiting_ends(interactive, run, store, monkeypatch):
    monkeypatch.setattr("binder_egress_client.unlocking.POLL", 0.1)
    run_pod(store)
    code, _, err = run("unlock", f"{interactive.url}egress/servers/alice/", "--wait", "0.3")
    assert code == 3 and "nobody unlocked it" in err


def test_a_person_may_be_asked_though_a_program_could(hub, run, store):
    run_pod(store)
    code, _, err = run("unlock", f"{hub.url}egress/servers/alice/", "--in-browser")
    assert code == 3 and "#unlock" in err and not hub.count("GET /egress/challenge")
    code, _, _ = run("launch", SPEC, "--binder", hub.url, "--in-browser")
    assert (code, hub.count("GET /egress/challenge"), hub.builds[0].token) == (3, 0, None)


def test_a_terminal_gets_a_qr_code_and_colours_unless_it_wants_none(interactive, run, store):
    run_pod(store)
    arguments = ("unlock", f"{interactive.url}egress/servers/alice/", "--wait", "1")
    shown, code = on_a_terminal(*arguments)
    assert code == 3 and "█" in shown and "\x1b[97;40m" in shown
    shown, _ = on_a_terminal(*arguments, env={"NO_COLOR": "1"})
    # The cursor is moved for what is in progress, but nothing has a colour.
    assert "█" in shown and not re.search(r"\x1b\[[0-9;]*(?:3|4|9|10)[0-7][0-9;]*m", shown)


def test_no_pass_where_a_person_is_needed(interactive, run):
    code, out, err = run("pass", "--binder", interactive.url)
    assert (code, out) == (3, "") and "hcaptcha" in err


# -- pass and key


def test_a_pass_is_good_for_a_launch(hub, run, services):
    code, out, _ = run("pass", "--binder", hub.url)
    assert code == 0
    assert launch(internal_client(services), token=out.strip(), client_address="127.0.0.1")["tier"] == "verified"
    assert json.loads(run("pass", "--binder", hub.url, "--json")[1])["expires_in"] > 0


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_key_is_sent_to_post_passes_and_nowhere_else(keyed, run, store, monkeypatch, by):
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
    # The server is of another repository.
    assert code == 3 and keyed.key not in out + err
    assert run("pass", "--binder", keyed.url, *more)[0] == 0
    # That were three servers.
    code, out, err = run("pass", "--binder", keyed.url, *more)
    assert (code, out) == (3, "") and "Try again in" in err


def test_a_server_is_unlocked_by_a_key(keyed, run, store):
    store.publish(Server("alice"), KnownServer("uid-1", repository="https://example.com/gh/o/cached"))
    with reconciler(store):
        code, _, err = run("unlock", f"{keyed.url}egress/servers/alice/", "--key", keyed.key)
    assert code == 0, err


def test_netrc_does_not_take_the_place_of_a_key(keyed, run, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert run("pass", "--binder", keyed.url, "--key", keyed.key)[0] == 0


def test_a_refused_key_is_told_and_nothing_else_is_tried(keyed, run):
    wrong = keyed.key[:-1] + "_"
    code, out, err = run("launch", SPEC, "--binder", keyed.url, "--key", wrong)
    assert (code, out) == (3, f"{keyed.url}user/user-1/?token=server-token\n") and "Copy the key" in err
    assert wrong not in err and not keyed.count("GET /egress/challenge") and len(keyed.sent) == 1


def test_a_launch_costs_one_of_the_servers_of_a_key(keyed, run, monkeypatch):
    """Even if it was for a repository that the key is not for, and the pass gave nothing."""
    monkeypatch.setattr("binder_egress_client.launch.LABELLED", 0.5)
    code, _, _ = run("launch", "gh/somebody/else/HEAD", "--binder", keyed.url, "--key", keyed.key)
    assert (code, keyed.builds[0].tier, len(keyed.sent)) == (3, "unverified", 1)


def test_a_key_does_not_follow_a_redirect(keyed, open_hub, run):
    """A hub's redirect may name any host; what travels is the pass."""
    prime = open_hub(None)
    prime.fault = "404"
    prime.redirect = keyed.url.replace("127.0.0.1", "localhost")
    code, _, _ = run("launch", SPEC, "--binder", prime.url, "--key", keyed.key)
    assert (code, keyed.sent, len(keyed.builds)) == (3, [], 1)
