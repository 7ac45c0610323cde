"""The command-line client: the real verifier behind a double of BinderHub."""

import ast
import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from binder_egress_client import Launch, LaunchFailed, NoGate, Outcome, command, keep, solving, verifier
from binder_egress_client.verifier import Server as ServerAddress
from flask import request
from werkzeug.serving import make_server

from tests.support.apps import CLIENT, internal_client, launch, make_settings, reconciler, run_pod
from tests.support.certificates import certificate
from tests.support.doc_examples import examples, run_example
from tests.support.launch_page import BinderHub
from verifier import api_keys as keys
from verifier.fairness import Charge
from verifier.records import KnownServer, Server
from verifier.web.app import create_internal_app, create_public_app, create_services

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "client/binder_egress_client"
SPEC = "gh/o/cached/HEAD"
HCAPTCHA = {"captcha_providers": {"hcaptcha": {"siteKey": "site-key"}}, "captcha_secrets": {"HCAPTCHA": "provider-secret"}}
ESCAPES = re.compile(r"\x1b[\[\]]")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """What the machine's environment says is not part of a test."""
    for name in (
        "BINDER_URL",
        "BINDER_EGRESS_KEY",
        "NO_COLOR",
        "FORCE_COLOR",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    # A machine that is busy with other tests is no fault of the verifier.
    monkeypatch.setattr("binder_egress_client.check.GRACE", 20)


@pytest.fixture
def serve(redis_server, store):
    """Starts the two apps of a site with these settings: their addresses."""
    servers = []

    def start(app):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    def serve(public_app=create_public_app, **overrides):
        services = create_services(make_settings(redis_server, **{"launch_hold": 20, **overrides}), store)
        return start(public_app(services)), start(create_internal_app(services))

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def open_hub(store):
    """A function that opens a BinderHub whose servers the verifier knows once they are ready."""
    hubs = []

    def open_hub(addresses, kind=BinderHub):
        hub = kind(addresses, b"")

        def appear(user):
            build = hub.builds[-1]
            store.publish(
                Server(user), KnownServer(f"uid-{user}", build.tier or "unverified", repository=f"https://example.com/{build.spec}")
            )

        hub.launched = appear
        hubs.append(hub)
        return hub

    yield open_hub
    for hub in hubs:
        hub.stop()


@pytest.fixture
def hub(serve, open_hub):
    return open_hub(serve())


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process: its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["binder-egress-client", *arguments])
        with pytest.raises(SystemExit) as end:
            command.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def process(*arguments, **options):
    """The command as a process."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **options.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "binder_egress_client", *arguments], env=environment, text=True, **options)


def on_a_terminal(*arguments, env=None):
    """What the command shows on a terminal, and its exit code."""
    master, slave = pty.openpty()
    running = process(
        *arguments, stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm-256color", "COLUMNS": "100", **(env or {})}
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    return shown.decode(), running.wait(20)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def charge(store, times):
    for _ in range(times):
        store.use_solution("altcha", f"{time.time_ns()}", time.time() + 1, 60, Charge(f"{CLIENT}/32", 3600, None, 0))


# -- launch


def test_a_pass_goes_with_the_launch(hub, run):
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (0, f"{hub.url}user/user-1/?token=server-token\n")
    assert [(build.spec, build.tier) for build in hub.builds] == [(SPEC, "verified")]
    for text in ("built: Found built image", "launching: Launching server", "The server has egress (verified)"):
        assert text in err
    assert hub.builds[0].token not in out + err


def test_json_is_what_binderhub_streams_and_one_object_more(hub, run):
    code, out, _ = run("launch", SPEC, "--binder", hub.url, "--json")
    *events, last = out.splitlines()
    # Byte by byte: the double makes them anew for the same build.
    assert events == [json.dumps(event) for event in hub._events(hub.builds[0])]
    url = f"{hub.url}user/user-1/?token=server-token"
    assert (code, json.loads(last)) == (0, {"binder_egress": {"url": url, "egress": True, "tier": "verified"}})


def test_a_late_challenge_keeps_no_launch_and_unlocks_the_server(hub, run, store, monkeypatch):
    monkeypatch.setattr("binder_egress_client.check.GRACE", 0.5)
    hub.gates["challenge"].close()
    hub.ready.close()

    def late():
        until(lambda: hub.builds)
        hub.gates["challenge"].open()
        until(lambda: hub.count("POST /egress/passes"))
        hub.ready.open()

    helper = threading.Thread(target=late)
    helper.start()
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", hub.url)
    helper.join()
    assert (code, hub.builds[0].token) == (0, None), err
    assert hub.count("POST /egress/servers/user-1/") == 1


def test_a_launch_waits_no_longer_than_the_verifier_says(serve, open_hub, run, store):
    slow = {"altcha": {"cost": 100_000, "counterMin": 20, "counterMax": 20}}
    hub = open_hub(serve(launch_hold=0, captcha_providers=slow))
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", hub.url)
    # It was solved all the same, once, and the pass unlocked the server.
    assert (code, hub.builds[0].token, hub.count("GET /egress/challenge")) == (0, None, 1), err


def test_a_hub_without_a_gate_launches(hub, run):
    hub.fault = "404"
    code, out, err = run("launch", SPEC, "--binder", hub.url, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["binder_egress"]["egress"] is None
    assert "no egress gate" in err


@pytest.mark.parametrize("fault", ["down", "hang", "garbage"])
def test_whatever_the_verifier_does_the_launch_goes_on(hub, run, fault, monkeypatch):
    monkeypatch.setattr(verifier, "PATIENCE", 1)
    hub.fault = fault
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (3, f"{hub.url}user/user-1/?token=server-token\n")
    assert len(hub.builds) == 1 and hub.builds[0].token is None
    assert "not known" in err and "Traceback" not in err


def test_a_verifier_that_fails_after_the_pass_leaves_it_unknown(hub, run):
    hub.fault, hub.fault_paths = "garbage", ("servers",)
    code, out, _ = run("launch", SPEC, "--binder", hub.url, "--json")
    assert (code, hub.builds[0].tier) == (3, "verified")
    assert json.loads(out.splitlines()[-1])["binder_egress"]["egress"] is None


def test_the_verifier_may_hear_of_a_server_a_moment_later(hub, run):
    appear = hub.launched
    hub.launched = lambda user: threading.Timer(1, appear, [user]).start()
    code, _, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 0, err


class Streams(BinderHub):
    """Sends what a test says in place of events."""

    events = ()

    def _events(self, build):
        yield from self.events


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([{"phase": "failed", "message": "no such repository\n"}], "no such repository"),
        ([{"phase": "fetching", "message": "a"}, {"phase": "failure", "message": "RUN: exit 1"}], "RUN: exit 1"),
        ([{"phase": "building", "message": "a"}], "ended before the server was ready"),
        (["a string"], "no BinderHub sends"),
        ([], "ended before"),
    ],
)
def test_a_failed_launch_says_so(serve, open_hub, run, events, said):
    hub = open_hub(serve(), Streams)
    hub.events = events
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (1, "") and said in err


@pytest.fixture
def chunked():
    """A server that sends a stream in chunks, as BinderHub does, the second half when it is told to: address and that word."""
    go_on = threading.Event()

    class Chunks(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            # An event in two chunks, and a comment, as to keep a connection alive.
            for part in (b'data: {"phase": "buil', b'ding"}\n\n:keepalive\n\n'):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            go_on.wait(20)
            part = b'data: {"phase": "ready"}\r\n\r\n'
            self.wfile.write((b"%x\r\n%s\r\n" % (len(part), part))[: 9 if "cut" in self.path else None])
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Chunks)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", go_on
    go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def say():
    """A function that starts a server which answers everything with these bytes: its address."""
    servers = []

    def say(body, kind):
        class Says(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Says))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield say
    for server in servers:
        server.shutdown()
        server.server_close()


RAW = "\x7f\x84\x85\x8d\x90q\x9b2J\x9c\x9d0;owned\x07\u2028\u2029\u202eträge 🦀\ud800"
"""What a terminal may obey or does not show as it is, and what is only not ASCII. BinderHub escapes all of that; JSON need not."""


def test_json_can_be_shown_on_a_terminal(say, run):
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
    # The same JSON, and the same text where nothing had to be escaped.
    assert list(map(json.loads, events)) == [json.loads(line.decode("utf-8", "replace")) for line in lines]
    assert "1.10" in events[1] and events[2] == lines[2].decode()
    assert "\\u009b" in events[0] and "\\u007f" in events[0] and "\\ud83e\\udd80" in events[0]


@pytest.mark.parametrize("one", [0, 7, 8, 9, 13, 27, 31])
def test_a_control_character_in_a_string_is_no_json(say, run, one):
    hub = say(b'data: {"phase": "building", "message": "%c"}\n\n' % one, "text/event-stream")
    code, out, err = run("launch", SPEC, "--binder", hub, "--no-egress", "--json")
    assert code == 1 and "no BinderHub sends" in err and len(out.splitlines()) == 1


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_the_address_of_a_server_cannot_steer_a_terminal(say, run, as_json):
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
    ],
)
def test_what_no_verifier_says_is_not_shown(say, run, command, answer):
    url = say(json.dumps(answer).encode(), "application/json")
    # With a key no challenge is asked for.
    arguments = ("--binder", url, "--key", "key") if command == "pass" else (f"{url}/egress/servers/alice/",)
    code, out, err = run(command, *arguments)
    assert (code, out) == (4, "") and "Traceback" not in err and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", err)


@pytest.mark.parametrize("spec", ["gh/o/whole/HEAD", "gh/o/cut/HEAD"])
def test_events_in_chunks_are_there_as_soon_as_they_are_sent(chunked, spec):
    hub, go_on = chunked
    with Launch(spec, hub, egress=False) as launched:
        events = iter(launched)
        assert next(events) == ('{"phase": "building"}', {"phase": "building"})
        go_on.set()
        if "cut" in spec:
            with pytest.raises(LaunchFailed, match="broke"):
                next(events)
        else:
            assert [event.data["phase"] for event in events] == ["ready"]


def test_events_behind_a_proxy_without_chunks_are_there_as_soon_as_they_are_sent(hub, monkeypatch):
    hub.cached = False
    told, in_time = threading.Event(), []
    monkeypatch.setattr(hub.ready, "pass_through", lambda: in_time.append(told.wait(20)))
    with Launch(SPEC, hub.url, egress=False) as launched:
        events = iter(launched)
        assert next(events).data["phase"] == "built"
        told.set()
        assert [event.data["phase"] for event in events] == ["launching", "ready"]
    assert in_time == [True]


def test_a_busy_hub_and_a_cut_stream_are_failed_launches(hub, run):
    hub.failures = 1
    code, _, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 1 and "503" in err
    hub.cuts = 1
    assert run("launch", SPEC, "--binder", hub.url)[0] == 1


def test_no_hub_at_all_is_a_failed_launch(run, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        code, out, err = run("launch", SPEC, "--binder", f"http://127.0.0.1:{nobody.getsockname()[1]}", "--json")
    assert code == 1 and "refused" in err
    assert json.loads(out)["binder_egress"]["kind"] == "launch-failed"


def test_what_goes_wrong_with_a_launch_shows_no_pass(hub, run, monkeypatch):
    """The address of the request has it, and exceptions have the address."""
    monkeypatch.setattr("binder_egress_client.launch.SILENCE", 0.5)
    hub.cached = False
    hub.ready.close()
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 1 and "no answer in time" in err
    assert hub.builds[0].token and hub.builds[0].token not in out + err


def test_a_federation_keeps_the_pass_and_the_member_is_asked(serve, open_hub, run, store):
    addresses = serve()
    prime, member = open_hub(addresses), open_hub(addresses)
    prime.redirect = member.url.replace("127.0.0.1", "localhost")
    code, _out, err = run("launch", SPEC, "--binder", prime.url)
    assert (code, [build.tier for build in member.builds], prime.builds) == (0, ["verified"], []), err
    assert prime.count("POST /egress/passes") == 1
    assert not prime.count("GET /egress/servers/") and member.count("GET /egress/servers/user-1/")


def test_a_federation_whose_first_host_has_no_verifier_unlocks_at_the_member(serve, open_hub, run, store):
    prime, member = open_hub(None), open_hub(serve())
    prime.fault = "404"
    prime.redirect = member.url.replace("127.0.0.1", "localhost")
    with reconciler(store, Server("user-1")):
        code, _, err = run("launch", SPEC, "--binder", prime.url)
    assert code == 0, err
    assert member.builds[0].token is None and member.count("POST /egress/servers/user-1/") == 1


def test_a_launch_that_wants_no_egress_asks_for_nothing(hub, run):
    code, _, err = run("launch", SPEC, "--binder", hub.url, "--no-egress")
    assert (code, hub.count("GET /egress"), hub.builds[0].token) == (0, 0, None)
    assert "egress" not in err


def test_another_address_of_the_verifier(serve, open_hub, run):
    addresses = serve()
    hub = open_hub(addresses)
    code, _, _ = run("launch", SPEC, "--binder", hub.url, "--egress", f"{addresses[0]}/egress")
    assert (code, hub.count("GET /egress/")) == (0, 0)


def test_a_refused_repository_is_not_unlocked(serve, open_hub, run):
    hub = open_hub(serve(blocked_repositories=["example.com/gh/*"]))
    code, _, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 3 and "operators" in err
    assert not hub.count("POST /egress/servers/")


def test_from_the_hubs_own_networks_nothing_is_earned(serve, open_hub, run, store):
    """A miner must not have the hub's processors pay for its network."""
    hub = open_hub(serve(self_networks=["127.0.0.0/8"]))
    code, out, err = run("launch", SPEC, "--binder", hub.url)
    assert (code, out) == (3, f"{hub.url}user/user-1/?token=server-token\n") and "network" in err
    assert (hub.builds[0].token, hub.count("POST /egress/passes"), hub.count("POST /egress/servers/")) == (None, 1, 0)
    assert run("pass", "--binder", hub.url)[:2] == (3, "")
    run_pod(store)
    assert run("unlock", f"{hub.url}egress/servers/alice/")[0] == 3 and not hub.count("POST /egress/servers/")


# -- prices


def test_a_risen_price_is_paid_once(hub, run, store, monkeypatch):
    hub.client = CLIENT
    asked = verifier.Verifier.challenge

    def meanwhile(passes):
        monkeypatch.setattr(
            verifier.Verifier, "challenge", lambda self, purpose: (asked(self, purpose), charge(store, passes.pop()))[0]
        )

    meanwhile([0, 40])
    code, _, err = run("pass", "--binder", hub.url)
    assert code == 0, err
    assert (hub.count("GET /egress/challenge"), hub.count("POST /egress/passes")) == (2, 2)
    # From 41 to 121, and to 401: each more than twice as dear.
    meanwhile([300, 120])
    code, _, err = run("pass", "--binder", hub.url)
    assert code == 3 and "many passes" in err
    assert hub.count("POST /egress/passes") == 4


def test_a_spent_budget_says_when(serve, open_hub, run):
    hub = open_hub(serve(fairness_budget=1))
    hub.client = CLIENT
    assert run("launch", SPEC, "--binder", hub.url)[0] == 0
    code, _out, err = run("launch", SPEC, "--binder", hub.url)
    assert code == 3 and hub.builds[1].token is None
    assert re.search(r"Try again in \d+ s, at \d\d:\d\d", err) and f"{hub.url}egress/servers/user-2/#unlock" in err
    # Nothing is calculated for an answer that is known.
    assert hub.count("GET /egress/challenge") == 2
    code, _, err = run("pass", "--binder", hub.url)
    assert code == 3 and "Try again in" in err


# -- unlock and status


def test_a_running_server_is_unlocked(hub, run, store):
    run_pod(store)
    address = f"{hub.url}egress/servers/alice/"
    code, out, err = run("status", address)
    assert (code, out) == (3, "egress: none\n") and f"{address}#unlock" in err
    with reconciler(store):
        assert run("unlock", address)[0] == 0
    code, out, _ = run("status", address, "--json")
    assert (code, json.loads(out)["tier"]) == (0, "verified")
    # A second time nothing is solved.
    before = hub.count("GET /egress/challenge")
    code, out, _ = run("unlock", f"{address}?qr#unlock", "--json")
    assert (code, json.loads(out), hub.count("GET /egress/challenge")) == (0, {"egress": True, "tier": "verified"}, before)


def test_the_time_that_is_left_is_told(hub, run, store):
    store.publish(Server("alice"), KnownServer("uid-1", "verified", until=time.time() + 7200))
    code, out, _ = run("status", f"{hub.url}egress/servers/alice/")
    assert code == 0
    said = re.fullmatch(r"egress: verified, until (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\n", out)
    assert 7100 < time.mktime(time.strptime(said[1], "%Y-%m-%d %H:%M:%S")) - time.time() < 7300


@pytest.mark.parametrize("which", ["status", "unlock"])
def test_what_is_wrong_with_a_server_is_told_apart(hub, run, store, which, monkeypatch):
    assert run(which, f"{hub.url}egress/servers/nobody/")[0] == 5
    run_pod(store)
    address = f"{hub.url}egress/servers/alice/"
    for fault in ("down", "404", "garbage"):
        hub.fault = fault
        code, _, err = run(which, address)
        assert code == 4 and "Traceback" not in err, (fault, err)


def test_what_operators_refuse_is_not_solved_for(serve, open_hub, run, store):
    hub = open_hub(serve(blocked_repositories=["example.com/a/b"]))
    run_pod(store)
    code, _, err = run("unlock", f"{hub.url}egress/servers/alice/")
    assert code == 3 and "operators" in err and not hub.count("GET /egress/challenge")


def test_an_unlock_that_nobody_confirms_is_pending(hub, run, store, monkeypatch):
    run_pod(store)
    monkeypatch.setattr("binder_egress_client.unlocking.PENDING", 0.1)
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0.1)
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["kind"]) == (3, "pending") and "may still come" in err


# -- leases


LEASING = {"tiers": {"verified": {"lease": 60}, "small": {}}}


@pytest.fixture
def leasing(serve, open_hub):
    """A hub whose tier `verified` lasts for a minute."""
    return open_hub(serve(**LEASING))


def lease(store, expires_in, tier="verified"):
    """Alice's server has a tier for these seconds."""
    until = int(time.time()) + expires_in
    store.publish(Server("alice"), KnownServer("uid-1", tier, "grant-1", "https://example.com/a/b", until=until))
    return until


def test_a_lease_is_renewed_in_its_second_half(leasing, run, store):
    lease(store, 25)
    address = f"{leasing.url}egress/servers/alice/"
    assert f"To renew it: binder-egress-client unlock {address}" in run("status", address)[2]
    with reconciler(store, lease=60):
        code, out, err = run("unlock", address, "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["tier"], said["renewed"]) == (0, True, "verified", True), err
    assert 30 < said["expires_in"] <= 60 and "Renewed. The server has egress (verified), until 2" in err
    assert leasing.count("POST /egress/servers/alice/") == 1


@pytest.mark.parametrize("which", ["unlock", "status"])
def test_before_that_it_is_told_when(leasing, run, store, which):
    lease(store, 55)
    code, out, err = run(which, f"{leasing.url}egress/servers/alice/", "--json")
    said = json.loads(out)
    assert (code, said["tier"], said.get("renewed")) == (0, "verified", None)
    assert 10 < said["renewable_in"] <= 25 and 40 < said["expires_in"] <= 55
    assert not leasing.count("GET /egress/challenge") and not leasing.count("POST ")
    if which == "unlock":
        assert re.search(r"It can be renewed in \d+ s, at \d\d:\d\d:\d\d\.", err)


def test_a_launch_says_how_long_egress_lasts(leasing, run, store):
    leasing.launched = lambda user: store.publish(
        Server(user), KnownServer("uid-1", leasing.builds[-1].tier, until=int(time.time()) + 60)
    )
    code, out, err = run("launch", SPEC, "--binder", leasing.url, "--json")
    said = json.loads(out.splitlines()[-1])["binder_egress"]
    assert code == 0 and 30 < said["expires_in"] <= 60 and said["renewable_in"] > 0 and "(verified), until 2" in err


def test_what_is_worth_another_tier_is_not_presented(serve, open_hub, run, store):
    hub = open_hub(serve(tiers={"verified": {}, "small": {"lease": 60}}))
    until = lease(store, 20, "small")
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["tier"], said["renewed"], said["kind"]) == (6, True, "small", False, "other-tier")
    assert "could not be renewed" in err and said["link"] and not hub.count("POST ")
    assert store.known(Server("alice")).until == until


@pytest.mark.parametrize("tier", ["verified", "small"])
def test_a_lease_is_renewed_by_a_key_for_the_same_tier(keyed, run, store, monkeypatch, tier):
    keyed.verifier = keyed.start(tiers={"verified": {"lease": 60}, "small": {"lease": 60}})
    until = int(time.time()) + 20
    store.publish(Server("alice"), KnownServer("uid-1", tier, "grant-1", "https://example.com/gh/o/cached", until=until))
    with reconciler(store, lease=60):
        code, out, err = run("unlock", f"{keyed.url}egress/servers/alice/", "--key", keyed.key, "--json")
    good = tier == "verified"
    said = json.loads(out)
    assert (code, said["renewed"], said.get("kind")) == ((0, True, None) if good else (6, False, "other-tier")), err
    assert (store.known(Server("alice")).until > until) == good


@pytest.mark.parametrize("option", ["--keep", "--wait"])
def test_what_is_no_number_of_seconds_is_wrong_usage(run, option):
    code, out, err = run("unlock", "http://127.0.0.1:9/egress/servers/alice/", option, "nan")
    assert (code, out) == (2, "") and "'nan' is not a number of seconds" in err


def test_a_key_for_a_larger_tier_takes_the_place_of_a_lease(keyed, run, store):
    lease = {"lease": 60}
    keyed.verifier = keyed.start(tiers={"verified": lease | {"rank": 1}, "small": lease})
    until = int(time.time()) + 20
    store.publish(Server("alice"), KnownServer("uid-1", "small", "grant-1", "https://example.com/gh/o/cached", until=until))
    with reconciler(store, lease=60):
        code, out, err = run("unlock", f"{keyed.url}egress/servers/alice/", "--key", keyed.key, "--json")
    assert (code, json.loads(out)["tier"]) == (0, "verified"), err
    assert store.known(Server("alice")).tier == "verified"


def test_a_lease_that_a_refused_key_does_not_renew_goes_on(keyed, run, store):
    keyed.verifier = keyed.start(**LEASING)
    lease(store, 20)
    code, out, err = run("unlock", f"{keyed.url}egress/servers/alice/", "--key", keyed.key[:-1] + "_", "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["renewed"], said["kind"]) == (6, True, False, "key-refused") and "until 2" in err


@pytest.mark.parametrize("comes", [True, False])
def test_a_person_renews_where_one_is_needed(serve, open_hub, run, store, monkeypatch, comes):
    monkeypatch.setattr("binder_egress_client.unlocking.POLL", 0.1)
    hub = open_hub(serve(**HCAPTCHA, **LEASING))
    lease(store, 29)
    address = f"{hub.url}egress/servers/alice/"
    code, out, _ = run("unlock", address, "--json")
    assert (code, json.loads(out)["kind"]) == (6, "needs-person")

    def person():
        until(lambda: hub.count("GET /egress/servers/alice/") > 5)
        lease(store, 60) if comes else store.publish(Server("alice"), KnownServer("uid-1"))

    helper = threading.Thread(target=person)
    helper.start()
    code, out, err = run("unlock", address, "--json", "--wait", "20" if comes else "3")
    helper.join()
    said = json.loads(out)
    # The lease may also end meanwhile.
    assert (code, said["egress"], said.get("renewed")) == ((0, True, True) if comes else (3, False, None)), err
    assert f"{address}#unlock" in err


def test_what_operators_refuse_is_not_renewed(serve, open_hub, run, store):
    hub = open_hub(serve(blocked_repositories=["example.com/a/b"], **LEASING))
    lease(store, 20)
    code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["kind"], json.loads(out)["egress"]) == (6, "closed", True) and "operators" in err
    assert not hub.count("GET /egress/challenge") and not hub.count("POST ")


def test_a_verifier_that_fails_in_a_renewal_takes_nothing(leasing, run, store):
    lease(store, 20)
    leasing.fault, leasing.fault_paths = "down", ("challenge",)
    code, out, err = run("unlock", f"{leasing.url}egress/servers/alice/", "--json")
    said = json.loads(out)
    assert (code, said["egress"], said["renewed"], said["kind"]) == (6, True, False, "no-answer") and "until 2" in err


def test_an_answer_that_is_lost_renewed_all_the_same(leasing, run, store, monkeypatch):
    lease(store, 20)
    unlock = verifier.Verifier.unlock

    def lost(*args, **how):
        unlock(*args, **how)
        raise verifier.NoAnswer("the cable was pulled")

    monkeypatch.setattr(verifier.Verifier, "unlock", lost)
    with reconciler(store, lease=60):
        code, out, _ = run("unlock", f"{leasing.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["renewed"]) == (0, True)


def test_a_renewal_that_nobody_confirms_is_pending(leasing, run, store, monkeypatch):
    lease(store, 20)
    monkeypatch.setattr("binder_egress_client.unlocking.PENDING", 0.1)
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0.1)
    code, out, _ = run("unlock", f"{leasing.url}egress/servers/alice/", "--json")
    assert (code, json.loads(out)["kind"], json.loads(out)["egress"]) == (6, "pending", True)


def test_egress_is_kept_for_as_long_as_was_said(serve, open_hub, run, store):
    hub = open_hub(serve(tiers={"verified": {"lease": 60}}))
    lease(store, 29)
    with reconciler(store, lease=60):
        code, out, err = run("unlock", f"{hub.url}egress/servers/alice/", "--keep", "50", "--json")
    # One renewal is enough.
    assert (code, [json.loads(line)["renewed"] for line in out.splitlines()]) == (0, [True]), err


def test_egress_without_an_end_needs_no_keeping(hub, run, store):
    run_pod(store)
    with reconciler(store):
        code, out, _ = run("unlock", f"{hub.url}egress/servers/alice/", "--keep", "3600", "--json")
    assert (code, out) == (0, '{"egress": true, "tier": "verified"}\n')


HAS = Outcome(True, "verified", expires_in=100, renewable_in=50)
RENEWED = Outcome(True, "verified", expires_in=100, renewable_in=50, renewed=True)
SILENT = Outcome(None, kind="no-answer")
GONE = Outcome(False, kind="no-such-server")
DEAR = Outcome(True, "verified", kind="budget-spent", retry_after=40, expires_in=20, renewable_in=0, renewed=False)
LATE = Outcome(False, "unverified", kind="pending")


@pytest.mark.parametrize(
    ("looks", "seconds", "told", "took"),
    [
        ([HAS], 90, [HAS], 0),
        # After 51, 102 and 153 s it is renewed; 250 s are reached with the third.
        ([HAS, RENEWED, RENEWED, RENEWED], 250, [HAS, RENEWED, RENEWED, RENEWED], 153),
        # Somebody else may renew it, and a long time is looked at each minute.
        ([replace(HAS, renewable_in=500, expires_in=1000), replace(HAS, expires_in=2000)], 1500, [..., ...], 60),
        ([replace(HAS, renewable_in=500, expires_in=1000)] * 3 + [replace(GONE)] * 2, 1500, [..., GONE, GONE], 210),
        # What fails at first is the end.
        ([SILENT], 250, [SILENT], 0),
        ([GONE], 250, [GONE], 0),
        ([DEAR], 250, [DEAR], 0),
        # Later it is tried again: after half a minute, or when the verifier says.
        ([HAS, SILENT, SILENT, RENEWED], 200, [HAS, SILENT, SILENT, RENEWED], 111),
        ([HAS, DEAR, LATE, HAS], 190, [HAS, DEAR, LATE, HAS], 121),
        ([HAS, NoGate("404"), RENEWED], 180, [HAS, ..., RENEWED], 81),
        # A Redis that was wiped knows no server for a moment.
        ([HAS, GONE, HAS, RENEWED], 210, [HAS, GONE, HAS, RENEWED], 132),
        # Not for ever.
        ([HAS, SILENT, SILENT, SILENT], 110, [HAS, SILENT, SILENT, SILENT], 110),
        # What is refused for good, and where a person has to come and nobody does.
        ([HAS, replace(DEAR, kind="other-tier", retry_after=None)], 250, [HAS, ...], 51),
        ([HAS, replace(DEAR, kind="needs-person", retry_after=None)], 250, [HAS, ...], 51),
        ([HAS, replace(DEAR, kind="closed", retry_after=None)], 250, [HAS, ...], 51),
    ],
)
def test_keeping_by_the_clock(monkeypatch, looks, seconds, told, took):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            assert seconds >= 1
            self.now += seconds

    clock, looks = Clock(), list(looks)

    def look(server, **how):
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("binder_egress_client.unlocking.time", clock)
    monkeypatch.setattr("binder_egress_client.unlocking.unlock", look)
    found = list(keep(ServerAddress("https://h/egress/", "servers/a/"), seconds))
    assert len(found) == len(told) and all(one in (..., other) for one, other in zip(told, found, strict=True))
    assert (looks, clock.now - 1000) == ([], took)


def test_there_is_nothing_to_keep_without_a_gate(hub, run):
    hub.fault = "404"
    assert run("unlock", f"{hub.url}egress/servers/alice/", "--keep", "60")[0] == 4


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


@pytest.fixture
def keyed(serve, open_hub, tmp_path):
    """A hub with a key, bound to the repository that is launched, and what came in `Authorization`, by path.

    Nothing can be calculated there, so that it is the key that did it.
    """
    hub = open_hub(None)
    hub.key, entry = keys.create("verified", 3, "2999-12-31", [], ["example.com/gh/o/*"])
    (tmp_path / "keys.json").write_text(json.dumps({"course": entry.model_dump()}))
    hub.sent = []

    def app(services):
        made = create_public_app(services)

        @made.before_request
        def note():
            if "Authorization" in request.headers:
                hub.sent.append((request.path, request.headers["Authorization"], request.get_json()))

        return made

    hub.start = partial(serve, public_app=app, api_keys_file=str(tmp_path / "keys.json"), **HCAPTCHA)
    hub.verifier = hub.start()
    return hub


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


# -- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["launch"],
        ["launch", "owner"],
        ["launch", "https://hub.example.org/v2/gh/o/r/HEAD"],
        ["launch", SPEC, "--binder", "hub.example.org"],
        ["launch", SPEC, "--binder", "ftp://hub.example.org"],
        ["launch", SPEC, "--wait", "-1"],
        ["unlock", "https://hub.example.org/user/alice/"],
        ["status", "servers/alice/"],
        ["launch", SPEC, "--key", "a secret\nkey"],
        ["unlock", "https://hub.example.org/egress/servers/alice/", "--keep", "0"],
        ["unlock", "https://hub.example.org/egress/servers/alice/", "--keep", "86401"],
        ["solve"],
    ],
)
def test_wrong_usage(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and "Error: " in err and "secret" not in err


@pytest.mark.parametrize(
    ("address", "verifier", "path"),
    [
        ("https://h/egress/servers/a/", "https://h/egress/", "servers/a/"),
        ("https://h/egress/servers/a", "https://h/egress/", "servers/a"),
        ("https://h/b/egress/servers/a/lab?qr#unlock", "https://h/b/egress/", "servers/a/lab"),
        ("https://h/egress/servers/servers/", "https://h/egress/", "servers/servers/"),
        ("https://h/egress/servers/a%2Fb/", "https://h/egress/", "servers/a%2Fb/"),
    ],
)
def test_addresses_of_servers(address, verifier, path):
    assert ServerAddress.of_unlock_address(address) == (verifier, path)


# -- its surroundings


def test_proxies_of_the_environment_are_used(hub, run, monkeypatch):
    monkeypatch.setenv("http_proxy", hub.url)
    code, _out, err = run("launch", SPEC, "--binder", "http://hub.example.org")
    assert code == 0, err
    assert hub.builds[0].tier == "verified"


@pytest.fixture
def tunnel(hub, tmp_path):
    """`hub` by https, and a proxy with a password that leads there whatever it is asked for: its address, and a list of that.

    The authority is in `ca.crt`.
    """
    certificate(tmp_path, "ca")
    certificate(tmp_path, "hub", "-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hub.crt", tmp_path / "hub.key")
    # Before anybody has come. The handshake is the handler's, not the listener's.
    hub._server.socket = context.wrap_socket(hub._server.socket, server_side=True, do_handshake_on_connect=False)
    hub._server.handle_error = lambda *about: None  # who does not trust it hangs up
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_CONNECT(self):
            asked.append(self.path)
            if "Proxy-Authorization" not in self.headers:
                self.send_error(407)
                return
            self.send_response(200)
            self.end_headers()
            with socket.create_connection(("127.0.0.1", hub.port)) as there:
                ends = {self.connection: there, there: self.connection}
                while True:
                    for readable in select.select(list(ends), [], [], 20)[0]:
                        data = readable.recv(65536)
                        if not data:
                            return
                        ends[readable].sendall(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_https_through_a_proxy(hub, tunnel, run, monkeypatch, tmp_path):
    proxy, asked = tunnel
    nowhere = "https://127.0.0.1:1"
    monkeypatch.setenv("https_proxy", f"http://me:mine@{proxy}")
    code, _, err = run("launch", SPEC, "--binder", nowhere)
    assert code == 1 and "certificate" in err and "mine" not in err
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.crt"))
    code, _, err = run("launch", SPEC, "--binder", nowhere, "--egress", f"{nowhere}/egress/")
    # BinderHub is asked by the proxy, and so is the verifier.
    assert (hub.builds[-1].tier, hub.count("POST /egress/passes")) == ("verified", 1), err
    assert code == 0 and set(asked) == {"127.0.0.1:1"}

    before = len(asked)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    code, _, err = run("launch", SPEC, "--binder", nowhere)
    assert code == 1 and "refused" in err and len(asked) == before


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://{proxy}", "the proxy in the environment: Tunnel connection failed: 407"),
        ("http://127.0.0.1:1", "the proxy in the environment: Connection refused"),
        ("socks5h://127.0.0.1:1", "pip install PySocks"),
        ("http://", "the proxy in the environment is no address"),
    ],
)
def test_a_proxy_that_does_not_work_is_named(tunnel, run, monkeypatch, address, said):
    monkeypatch.setenv("https_proxy", address.format(proxy=tunnel[0]))
    for arguments, expected in (("launch", SPEC), 1), (("pass",), 4):
        code, out, err = run(*arguments, "--binder", "https://127.0.0.1:1")
        assert (code, out) == (expected, "") and said in err and "Traceback" not in err


@pytest.mark.parametrize(
    "steering",
    [
        "\x1b]52;c;aGk=\x07 \x1b[2J \x1b]0;title\x07 \x1bc \x9b2J",
        "\x1b]8;;x\x07\x1b]52;c;aGk=\x07\x1b]0;owned\x07\x1b\\hello",  # in a link
        "\x1b]52;c;aGk=\x1b\\ \x1b]0;owned\x1b\\ \x1bPq#0\x1b\\ \x1b_x\x1b\\",  # ended by ST
        "\x9d52;c;aGk=\x9c \x9d0;owned\x07 \x90q#0\x9c \x84\x85\x8d",
        "\x00\x0e\x0f\x1a\x08\x0b\x7f\x1b(0\x1b#8",
        "\x1b\x1b[31m]52;c;aGk=\x07 \x1b[\x1b[0m2J \x1b]0;\x1b[0mowned",  # around a colour
    ],
)
def test_what_a_build_prints_cannot_steer_the_terminal(serve, open_hub, steering):
    hub = open_hub(serve(), Streams)
    said = f"\x1b[31mred\x1b[0m {steering} end"
    # A closing tag of rich's would be an error where it is read as one.
    hub.events = [{"phase": f"building{steering}[/b]", "message": f"{said}\n"}, {"phase": "failed", "message": said}]
    shown, code = on_a_terminal("launch", SPEC, "--binder", hub.url)
    assert code == 1 and shown.count("red") == 3 and shown.count("end") == 3 and "[/b]" in shown
    # The cursor is moved for what is in progress; that is ours.
    assert not re.search(r"\x1b(?!\[)|\x1b\[2J|[\x00-\x08\x0b\x0c\x0e-\x1a\x7f-\x9f]", shown)
    assert "]8;" not in shown


def interrupted(condition, *arguments):
    """The exit code and standard error of the command after Ctrl-C, when a condition is met."""
    # Whoever runs the tests in the background may have SIGINT ignored, and that is inherited.
    heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    running = process(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **heeded)
    try:
        until(condition)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=15)
    finally:
        running.kill()
    return running.returncode, err


NEVER = {"captcha_providers": {"altcha": {"cost": 100_000, "counterMin": 100_000, "counterMax": 100_000}}}
"""A challenge that takes longer than any test."""


@pytest.mark.parametrize("busy", [True, False])
def test_ctrl_c_leaves_nothing_behind(serve, open_hub, busy):
    """While it calculates and the stream is open, and while only the stream is."""
    hub = open_hub(serve(launch_hold=0, **(NEVER if busy else {})))
    hub.cached = False
    hub.ready.close()
    code, err = interrupted(lambda: hub.builds, "launch", SPEC, "--binder", hub.url)
    assert code == 130 and "Traceback" not in err


@pytest.mark.parametrize("during", ["calculation", "person", "keeping"])
def test_ctrl_c_ends_an_unlock(serve, open_hub, store, during):
    settings = {"calculation": NEVER, "person": HCAPTCHA, "keeping": {}}[during]
    hub = open_hub(serve(**settings, **LEASING))
    if during == "keeping":
        lease(store, 59)
    else:
        run_pod(store)
    known = store.known(Server("alice"))
    seen = {"calculation": "GET /egress/challenge", "person": "GET /egress/challenge", "keeping": "GET /egress/servers/alice/"}
    how = {"calculation": (), "person": ("--wait", "60"), "keeping": ("--keep", "3600")}[during]
    code, err = interrupted(lambda: hub.count(seen[during]), "unlock", f"{hub.url}egress/servers/alice/", *how)
    assert code == 130 and "Traceback" not in err
    assert store.known(Server("alice")) == known and not hub.count("POST ")


# -- solving


CHALLENGE = {
    "parameters": {
        "algorithm": "PBKDF2/SHA-256",
        "nonce": "00" * 16,
        "salt": "00" * 16,
        "cost": 1000,
        "keyLength": 32,
        "keyPrefix": "ff" * 16,
    },
    "signature": "00",
}


def test_a_calculation_stops_when_it_is_told_to():
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(solving.Cancelled):
        solving.solve(CHALLENGE, cancelled)


def test_a_calculation_has_a_limit():
    with pytest.raises(solving.Unsolvable, match="not solved within"):
        solving.solve(CHALLENGE, threading.Event(), limit=0.1)


@pytest.mark.parametrize(
    "parameters",
    [
        {"cost": 10**12},
        {"cost": -1},
        {"cost": "1"},
        {"keyLength": 10**9},
        {"algorithm": "ROT13"},
        {"algorithm": "SCRYPT", "cost": 2**19, "memoryCost": 8},
        {"nonce": "xyz"},
        {"nonce": None},
        {"keyPrefix": 7},
    ],
)
def test_a_challenge_that_asks_too_much_or_is_none_is_refused(parameters):
    with pytest.raises(solving.Unsolvable):
        solving.solve(CHALLENGE | {"parameters": CHALLENGE["parameters"] | parameters}, threading.Event())


@pytest.mark.parametrize("challenge", [None, {}, "x", {"parameters": None}, {"parameters": []}])
def test_garbage_is_no_challenge(challenge):
    with pytest.raises(solving.Unsolvable):
        solving.solve(challenge, threading.Event())


@pytest.mark.parametrize(
    "algorithm", [{"algorithm": "SHA-512"}, {"algorithm": "SCRYPT", "cost": 16}, {"algorithm": "ARGON2ID", "cost": 1}]
)
def test_every_algorithm_of_the_verifier_is_solved(serve, open_hub, run, algorithm):
    hub = open_hub(serve(captcha_providers={"altcha": {"cost": 1, "counterMin": 1, "counterMax": 5} | algorithm}))
    assert run("pass", "--binder", hub.url)[0] == 0


# -- the package


def test_it_needs_what_it_says_and_nothing_of_the_server():
    names = {
        alias.name.partition(".")[0]
        for file in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module)])
    }
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    declared = {re.split("[<>=]", needed)[0] for needed in project["dependencies"]}
    assert names - sys.stdlib_module_names == declared


def test_the_readme_names_every_exit_code_and_option():
    text = (PACKAGE.parent / "README.md").read_text()
    codes = set(map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE)))
    assert codes == {int(code) for code in command.Exit}
    for each in command.cli.commands.values():
        assert f"binder-egress-client {each.name}" in text
        for parameter in each.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in text


@pytest.mark.parametrize(
    ("language", "code"), [*examples("docs/api-users.md"), *examples("docs/leases.md"), *examples("client/README.md")]
)
def test_the_examples_of_the_documents(hub, store, tmp_path, language, code):
    run_pod(store, "user-1")
    # Which also unlocks what is launched, should the machine be so busy that the pass comes late.
    with reconciler(store, Server("user-1")):
        run_example(language, code, tmp_path, hub.url, BINDER_EGRESS_URL=f"{hub.url}egress/servers/user-1/")
