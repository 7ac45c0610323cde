"""Launches by the client: the pass is sent along, and events are printed as text or JSON."""

import json
import re
import threading

import pytest
from rich.console import Console

from binder_egress.model.records import Server
from binder_egress_client import Launch, LaunchFailed, command, verifier
from binder_egress_client import launch as launching
from tests.support.apps import reconciler, run_pod
from tests.support.client_command import HCAPTCHA, SPEC, Streams
from tests.support.linear import is_linear
from tests.support.waiting import eventually


def test_launch_sends_a_pass(hub, run):
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (0, f"{hub.url}user/user-1/?token=server-token\n")
    assert [(build.spec, build.tier) for build in hub.builds] == [(SPEC, "verified")]
    for text in ("built: Found built image", "launching: Launching server", "The server has egress (verified)"):
        assert text in err
    assert hub.builds[0].token not in out + err


def test_json_output_is_the_stream_of_binderhub_and_one_more_object(hub, run):
    code, out, _ = run("launch", SPEC, "--binder", hub.url, "--json")
    *events, last = out.splitlines()
    # Compared byte by byte; the double generates the same events again for the same build.
    assert events == [json.dumps(event) for event in hub.events_of(hub.builds[0])]
    url = f"{hub.url}user/user-1/?token=server-token"
    assert (code, json.loads(last)) == (0, {"binder_egress": {"url": url, "egress": True, "tier": "verified"}})


def test_late_challenge_delays_no_launch_and_unlocks_the_server(hub, run, store, monkeypatch):
    monkeypatch.setattr("binder_egress_client.check.GRACE", 0.5)
    hub.gates["challenge"].close()
    hub.ready.close()

    def late():
        eventually(lambda: hub.builds)
        hub.gates["challenge"].open()
        eventually(lambda: hub.count("POST /egress/passes"))
        hub.ready.open()

    helper = threading.Thread(target=late)
    helper.start()
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", hub.url)
    helper.join()
    assert (code, hub.builds[0].token) == (0, None), err
    assert hub.count("POST /egress/servers/user-1/") == 1


def test_launch_waits_no_longer_than_the_verifier_allows(serve, open_hub, run, store):
    slow = {"altcha": {"cost": 300_000, "counterMax": 4}}
    hub = open_hub(serve(launch_hold=0, captcha_providers=slow))
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", hub.url)
    # The challenge was still solved, once, and the pass unlocked the server.
    assert (code, hub.builds[0].token, hub.count("GET /egress/challenge")) == (0, None, 1), err


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        *((fault, 0, "no egress gate") for fault in ("404", "unrouted")),
        *((fault, 3, "not known") for fault in ("down", "hang", "garbage")),
    ],
)
def test_launch_continues_without_a_verifier(hub, run, fault, code, said, monkeypatch):
    monkeypatch.setattr(verifier, "PATIENCE", 1)
    hub.fault = fault
    ended, out, err = run("launch", SPEC, "--binder", hub.url, "--json")
    told = json.loads(out.splitlines()[-1])["binder_egress"]
    assert (ended, told["egress"], told["url"]) == (code, None, f"{hub.url}user/user-1/?token=server-token")
    assert [build.token for build in hub.builds] == [None]
    assert said in err and "Traceback" not in err


def test_verifier_failure_after_the_pass_leaves_egress_unknown(hub, run):
    hub.fault, hub.fault_paths = "garbage", ("servers",)
    code, out, _ = run("launch", SPEC, "--binder", hub.url, "--json")
    assert (code, hub.builds[0].tier) == (3, "verified")
    assert json.loads(out.splitlines()[-1])["binder_egress"]["egress"] is None


def test_server_may_become_known_to_the_verifier_later(hub, run):
    appear = hub.launched
    hub.launched = lambda user: threading.Timer(1, appear, [user]).start()
    code, _, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 0, err


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([{"phase": "failed", "message": "no such repository\n"}], "no such repository"),
        ([{"phase": "fetching", "message": "a"}, {"phase": "failure", "message": "RUN: exit 1"}], "RUN: exit 1"),
        ([{"phase": "building", "message": "a"}], "ended before the server was ready"),
        (["a string"], "no BinderHub sends"),
        ([{"phase": "ready", "url": 5}], "not a text"),
        ([{"phase": "ready", "url": ["http://h/user/a/"]}], "not a text"),
        ([], "ended before"),
    ],
)
def test_failed_launch_is_reported(serve, open_hub, run, events, said):
    hub = open_hub(serve(), Streams)
    hub.events = events
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (1, "") and said in err


RAW = "\x7f\x84\x85\x8d\x90q\x9b2J\x9c\x9d0;owned\x07\u2028\u2029\u202eträge 🦀\ud800"
"""Characters that a terminal may obey or not show, and others outside ASCII. BinderHub escapes all; JSON does not require it."""


def test_json_output_is_safe_on_a_terminal(say, run):
    raw = RAW.replace("\x07", "").encode("utf-8", "surrogatepass")
    lines = [
        b'{"phase": "building", "message": "' + raw + b'"}',
        b'{\t"phase":\r"building", \r"\xc2\x9b2J": 1.10, "message": "\\u001b[2J\\r\\n \\ud83e\\udd80 \xff"\t}',
        b'{"phase": "ready", "url": "http://h/user/a/"}',
    ]
    hub = say(b"".join(b"data: " + line + b"\n\n" for line in lines), "text/event-stream")
    code, out, _ = run("launch", SPEC, "--binder", hub, "--no-egress", "--json")
    *events, last = out.split("\n")[:-1]
    assert code == 0 and set(last) <= set(map(chr, range(32, 127)))
    assert len(events) == len(lines) and set("".join(events)) <= set(map(chr, range(32, 127)))
    # The JSON has the same content, and the same text if nothing had to be escaped.
    assert list(map(json.loads, events)) == [json.loads(line.decode("utf-8", "replace")) for line in lines]
    assert "1.10" in events[1] and events[2] == lines[2].decode()
    assert "\\u009b" in events[0] and "\\u007f" in events[0] and "\\ud83e\\udd80" in events[0]


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_server_address_cannot_control_a_terminal(say, run, as_json):
    ready = {"phase": "ready", "url": f"http://h/user/a{RAW}\x1b]0;owned\x07 \n/", "token": RAW}
    hub = say(f"data: {json.dumps(ready)}\n\n".encode(), "text/event-stream")
    code, out, _ = run("launch", SPEC, "--binder", hub, "--no-egress", *as_json)
    *_, last = out.splitlines()
    address = json.loads(last)["binder_egress"]["url"] if as_json else last
    assert code == 0 and address.isprintable() and " " not in address and address.startswith("http://h/user/a%7F%C2%84")
    assert len(out.splitlines()) == (2 if as_json else 1)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("status", {"tier": "\x1b]0;owned\x07"}),
        ("status", {"tier": "verified\u202e"}),
        ("status", {"tier": "verified", "expires_in": 1e300}),
        ("status", {"tier": "verified", "expires_in": float("nan")}),
        ("status", {"tier": "verified", "expires_in": 60, "renewable_in": "soon"}),
        ("status", {"tier": "verified", "expires_in": 60, "renewable_in": -1}),
        ("unlock", {"tier": "verified", "expires_in": True, "renewable_in": 0}),
        ("pass", {"token": "\x9b2J", "expires_in": 60}),
        ("pass", {"token": "a b", "expires_in": 60}),
        ("pass", {"token": "", "expires_in": 60}),
        ("pass", {"token": "a"}),
        ("pass", {"token": "a", "expires_in": True}),
        ("pass", {"token": "a", "expires_in": 10**400}),
    ],
)
def test_impossible_answer_of_a_verifier_is_not_shown(say, run, command, answer):
    url = say(json.dumps(answer).encode(), "application/json")
    # With a key, the client requests no challenge.
    arguments = ("--binder", url, "--key", "key") if command == "pass" else (f"{url}/egress/servers/alice/",)
    code, out, err = run(command, *arguments)
    assert (code, out) == (4, "") and "Traceback" not in err and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", err)


@pytest.mark.parametrize("digits", [20, 5000])
def test_impossible_time_to_wait_is_ignored(say, run, digits):
    url = say(b'{"type": "problems#budget-spent", "detail": "Enough."}', "application/json", 429, Retry_After="9" * digits)
    code, out, err = run("status", f"{url}/egress/servers/alice/")
    assert (code, out) == (3, "") and "Enough." in err and "Try again" not in err


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_chunked_events_arrive_as_soon_as_they_are_sent(start, cut):
    """As BinderHub sends them: an event may be in two chunks, and a comment keeps the connection alive."""
    go_on = threading.Event()

    def hub(_, start_response):
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield from (b'data: {"phase": "buil', b'ding"}\n\n:keepalive\n\n')
        go_on.wait(20)
        yield b'data: {"phase": '
        if cut:
            raise ConnectionError
        yield b'"ready"}\r\n\r\n'

    with Launch(SPEC, start(hub), egress=False) as launched:
        events = iter(launched)
        assert next(events) == ('{"phase": "building"}', {"phase": "building"})
        go_on.set()
        if cut:
            with pytest.raises(LaunchFailed, match="broke"):
                next(events)
        else:
            assert [event.data["phase"] for event in events] == ["ready"]


def test_unchunked_events_arrive_as_soon_as_they_are_sent(hub, monkeypatch):
    told, in_time = threading.Event(), []
    monkeypatch.setattr(hub.ready, "pass_through", lambda: in_time.append(told.wait(20)))
    with Launch(SPEC, hub.url, egress=False) as launched:
        events = iter(launched)
        assert next(events).data["phase"] == "built"
        told.set()
        assert [event.data["phase"] for event in events] == ["launching"] * 3 + ["ready"]
    assert in_time == [True]


def test_busy_hub_or_cut_stream_is_a_failed_launch(hub, run):
    hub.failures = 1
    code, _, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 1 and "503" in err
    hub.cuts = 1
    assert run("launch", SPEC, "--binder", hub.url)[0] == 1


def test_error_of_a_launch_does_not_show_the_pass(hub, run, monkeypatch):
    """The address of the request contains the pass, and exceptions contain the address."""
    monkeypatch.setattr("binder_egress_client.launch.SILENCE", 0.5)
    hub.ready.close()
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 1 and "no answer in time" in err
    assert hub.builds[0].token and hub.builds[0].token not in out + err


def test_federation_redirect_keeps_the_pass_and_asks_the_member(serve, open_hub, run):
    addresses = serve()
    prime, member = open_hub(addresses), open_hub(addresses)
    prime.redirect = member.url.replace("127.0.0.1", "localhost")
    code, _out, err = run("launch", SPEC, "--binder", prime.url)
    assert (code, [build.tier for build in member.builds], prime.builds) == (0, ["verified"], []), err
    assert prime.count("POST /egress/passes") == 1
    assert not prime.count("GET /egress/servers/") and member.count("GET /egress/servers/user-1/")


@pytest.mark.parametrize("fault", ["404", "unrouted"])
def test_federation_without_a_first_verifier_unlocks_at_the_member(serve, open_hub, run, store, fault):
    prime, member = open_hub(None), open_hub(serve())
    prime.fault = fault
    prime.redirect = member.url.replace("127.0.0.1", "localhost")
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", prime.url)
    assert code == 0, err
    assert member.builds[0].token is None and member.count("POST /egress/servers/user-1/") == 1


def test_launch_without_egress_sends_no_request_to_the_verifier(hub, run):
    code, _, err = run("launch", SPEC, "--binder", hub.url, "--no-egress")
    assert (code, hub.count("GET /egress"), hub.builds[0].token) == (0, 0, None)
    assert "egress" not in err


def test_given_verifier_address_outlives_a_redirect(serve, open_hub, run):
    addresses = serve()
    prime, member = open_hub(addresses), open_hub(addresses)
    prime.redirect = member.url.replace("127.0.0.1", "localhost")
    code, _, err = run("launch", SPEC, "--binder", prime.url, "--egress", f"{addresses[0]}/egress")
    assert (code, [build.tier for build in member.builds]) == (0, ["verified"]), err
    assert (prime.count("GET /egress/"), member.count("GET /egress/")) == (0, 0)


def test_error_of_a_key_is_told_at_the_hub_that_a_redirect_names(keyed, open_hub, run):
    prime = open_hub(keyed.verifier)
    prime.fault = "garbage"
    prime.redirect = keyed.url.replace("127.0.0.1", "localhost")
    code, _, err = run("launch", SPEC, "--binder", prime.url, "--key", keyed.key)
    assert code == 3 and "not as a verifier does" in err and "person" not in err, err


def test_colours_in_ci_are_no_reason_to_wait_for_a_person(serve, open_hub, run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(command, "err", Console(stderr=True, highlight=False, soft_wrap=True))
    monkeypatch.setattr(command, "WAIT", 1)
    code, _, err = run("launch", SPEC, "--binder", open_hub(serve(**HCAPTCHA)).url)
    assert code == 3 and "#unlock" in err and "waiting" not in err, err


def test_refused_repository_is_not_unlocked(serve, open_hub, run):
    hub = open_hub(serve(blocked_repositories=["example.com/gh/*"]))
    code, _, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 3 and "operators" in err
    assert not hub.count("POST /egress/servers/")


def test_client_in_the_networks_of_the_hub_gets_no_pass(serve, open_hub, run, store):
    """A miner must not use the hub's processors to pay for network access."""
    hub = open_hub(serve(self_networks=["127.0.0.0/8"]))
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (3, f"{hub.url}user/user-1/?token=server-token\n") and "network" in err
    assert (hub.builds[0].token, hub.count("POST /egress/passes"), hub.count("POST /egress/servers/")) == (None, 1, 0)
    assert run("pass", "--binder", hub.url)[:2] == (3, "")
    run_pod(store)
    assert run("unlock", f"{hub.url}egress/servers/alice/")[0] == 3 and not hub.count("POST /egress/servers/")


# -- a hostile hub


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/user/alice", "servers/alice/"),
        ("/user/alice/", "servers/alice/"),
        ("/user/alice/lab", "servers/alice/lab"),
        ("/hub-a/user/alice/lab/", "servers/alice/lab"),
        ("/user/user/user", "servers/user/user"),
        ("/user/a%2Fb/c%20d/", "servers/a%2Fb/c%20d"),
        *((path, None) for path in ("", "/", "/user", "/user/", "/user//lab", "/user/a/b/c", "/users/a")),
    ],
)
def test_address_of_a_server_has_its_names_at_the_end(path, found):
    if found:
        assert verifier.Server.of_server_address("https://h/egress/", f"https://h{path}?token=x") == ("https://h/egress/", found)
    else:
        with pytest.raises(ValueError, match="is not the address of a server"):
            verifier.Server.of_server_address("https://h/egress/", f"https://h{path}?token=x")


def test_time_to_read_an_address_grows_with_its_length_and_no_faster():
    def read(address):
        with pytest.raises(ValueError, match="is not the address of a server"):
            verifier.Server.of_server_address("https://h/egress/", address)

    assert is_linear(read, lambda length: f"https://h/user/{'a' * length}/b/c/d", 4000)


class Trickle:
    """An answer that arrives byte by byte, as in chunks of one byte."""

    def __init__(self, text):
        self.raw, self._left = self, iter(text)

    def read1(self, size, decode_content):
        return bytes([byte]) if (byte := next(self._left, None)) is not None else b""


def test_time_to_read_a_line_grows_with_its_length_and_no_faster():
    def read(text):
        assert list(launching._lines(Trickle(text.encode()))) == [text.strip().encode()]

    assert is_linear(read, lambda length: "a" * (length - 2) + "\r\n", 40_000)


def test_line_that_is_too_long_ends_the_launch(monkeypatch):
    monkeypatch.setattr(launching, "MAX_LINE", 10)
    assert list(launching._lines(Trickle(b"012345678\r\n\nab\n"))) == [b"012345678", b"", b"ab"]
    with pytest.raises(LaunchFailed, match="not a stream of events"):
        list(launching._lines(Trickle(b"0123456789ab")))
