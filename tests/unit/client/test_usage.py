"""The command: usage, proxies, certificates, terminals and Ctrl-C."""

import re
import select
import signal
import ssl
import subprocess
import time

import pytest

from binder_egress.model.records import Server
from binder_egress_client.verifier import Server as ServerAddress
from tests.support.apps import run_pod
from tests.support.certificates import certificate
from tests.support.client_command import HCAPTCHA, LEASING, SPEC, Streams, lease, on_a_terminal, process
from tests.support.waiting import eventually

# -- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["launch"],
        ["launch", "owner"],
        ["launch", "https://hub.example.org/v2/gh/o/r/HEAD"],
        ["launch", SPEC, "--binder", "hub.example.org"],
        ["launch", SPEC, "--binder", "ftp://hub.example.org"],
        ["launch", SPEC, "--binder", "http://[::1"],
        ["launch", SPEC, "--binder", "https://ada:secret@hub.example.org"],
        ["launch", SPEC, "--wait", "-1"],
        ["unlock", "https://hub.example.org/user/alice/"],
        ["status", "servers/alice/"],
        ["status", "https://ada:secret@hub.example.org/egress/servers/alice/"],
        ["launch", SPEC, "--key", "a secret\nkey"],
        ["unlock", "https://hub.example.org/egress/servers/alice/", "--keep", "0"],
        ["unlock", "https://hub.example.org/egress/servers/alice/", "--keep", "86401"],
        ["unlock", "https://hub.example.org/egress/servers/alice/", "--keep", "nan"],
        ["unlock", "https://hub.example.org/egress/servers/alice/", "--wait", "nan"],
        ["solve"],
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and "Error: " in err and "secret" not in err


def test_impossible_host_is_no_address(run):
    code, out, err = run("status", "http://hub..example.org/egress/servers/alice/")
    assert (code, out) == (4, "") and "this is not an address" in err


@pytest.mark.parametrize("arguments", [("launch", SPEC, "--no-egress", "--binder", "{}"), ("status", "{}/egress/servers/alice/")])
def test_redirect_to_no_address_is_an_error_in_words(say, run, arguments):
    url = say(b"", "text/plain", 302, Location="http://[::1")
    code, out, err = run(*(argument.format(url) for argument in arguments))
    assert (code, out) == (1 if arguments[0] == "launch" else 4, "")
    assert "it redirects to something that is not an address" in err


@pytest.mark.parametrize(
    ("address", "verifier", "path"),
    [
        ("https://h/egress/servers/a/", "https://h/egress/", "servers/a/"),
        ("https://h/egress/servers/a", "https://h/egress/", "servers/a"),
        ("https://h/b/egress/servers/a/lab?qr#unlock", "https://h/b/egress/", "servers/a/lab"),
        ("https://h/egress/servers/a/lab/", "https://h/egress/", "servers/a/lab"),
        ("https://h/egress/servers/servers/", "https://h/egress/", "servers/servers/"),
        ("https://h/egress/servers/a%2Fb/", "https://h/egress/", "servers/a%2Fb/"),
    ],
)
def test_server_addresses_are_parsed(address, verifier, path):
    assert ServerAddress.of_unlock_address(address) == (verifier, path)


# -- environment


def test_authority_comes_from_the_environment(hub, run, monkeypatch, tmp_path):
    certificate(tmp_path, "ca")
    certificate(tmp_path, "hub", "-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hub.crt", tmp_path / "hub.key")
    hub.server.socket = context.wrap_socket(hub.server.socket, server_side=True, do_handshake_on_connect=False)
    hub.server.handle_error = lambda *about: None  # clients that do not trust it close the connection
    launch = ("launch", SPEC, "--binder", f"https://127.0.0.1:{hub.port}")
    code, _, err = run(*launch)
    assert code == 1 and "certificate" in err
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.crt"))
    code, _, err = run(*launch)
    assert (code, hub.builds[-1].tier) == (0, "verified"), err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("{proxy}", "the proxy in the environment: Tunnel connection failed: 407"),
        ("http://127.0.0.1:1", "the proxy in the environment: Connection refused"),
        ("socks5h://127.0.0.1:1", "pip install PySocks"),
        ("http://", "the proxy in the environment is not an address"),
    ],
)
def test_failing_proxy_is_named(say, run, monkeypatch, address, said):
    monkeypatch.setenv("https_proxy", address.format(proxy=say(b"", "text/plain", 407).replace("//", "//me:mine@")))
    for arguments, expected in (("launch", SPEC), 1), (("pass",), 4):
        code, out, err = run(*arguments, "--binder", "https://127.0.0.1:1")
        assert (code, out) == (expected, "") and said in err and "Traceback" not in err and "mine" not in err


STEERING = [
    "\x1b]52;c;aGk=\x07 \x1b[2J \x1b]0;title\x07 \x1bc \x9b2J",
    "\x1b]8;;x\x07\x1b]52;c;aGk=\x07\x1b]0;owned\x07\x1b\\hello",  # in a link
    "\x1b]52;c;aGk=\x1b\\ \x1b]0;owned\x1b\\ \x1bPq#0\x1b\\ \x1b_x\x1b\\",  # ended by ST
    "\x9d52;c;aGk=\x9c \x9d0;owned\x07 \x90q#0\x9c \x84\x85\x8d",
    "\x00\x0e\x0f\x1a\x08\x0b\x7f\x1b(0\x1b#8",
    "\x1b\x1b[31m]52;c;aGk=\x07 \x1b[\x1b[0m2J \x1b]0;\x1b[0mowned",  # around a colour
]


def test_build_output_cannot_control_the_terminal(serve, open_hub):
    hub = open_hub(serve(), Streams)
    said = [f"\x1b[31mred\x1b[0m {steering} end" for steering in STEERING]
    # A closing tag would be an error if rich parsed it.
    hub.events = [
        *({"phase": f"building{steering}[/b]", "message": f"{line}\n"} for steering, line in zip(STEERING, said, strict=True)),
        {"phase": "failed", "message": "\n".join(said)},
    ]
    shown, code = on_a_terminal("launch", SPEC, "--binder", hub.url)
    all_of_them = 3 * len(STEERING)
    assert (code, shown.count("red"), shown.count("end")) == (1, all_of_them, all_of_them)
    assert shown.count("[/b]") >= len(STEERING)
    # The progress display of the client moves the cursor.
    assert not re.search(r"\x1b(?!\[)|\x1b\[2J|[\x00-\x08\x0b\x0c\x0e-\x1a\x7f-\x9f]", shown)
    assert "]8;" not in shown


def interrupted(condition, *arguments):
    """Sends Ctrl-C to the command once a condition is met; returns its exit code and standard error."""
    # A shell that runs the tests in the background may ignore SIGINT, and child processes inherit that.
    heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    running = process(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **heeded)
    try:
        eventually(condition)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    return running.returncode, err


NEVER = {"captcha_providers": {"altcha": {"cost": 100_000, "counterMax": 1_000_000}}}
"""A challenge that takes longer than any test."""


def test_ctrl_c_leaves_nothing_behind(serve, open_hub):
    """Neither the calculation nor the stream."""
    hub = open_hub(serve(launch_hold=0, **NEVER))
    hub.ready.close()
    code, err = interrupted(lambda: hub.builds, "launch", SPEC, "--binder", hub.url)
    assert code == 130 and "Traceback" not in err


def test_address_is_printed_before_the_outcome_is_known(serve, open_hub):
    hub = open_hub(serve(launch_hold=0, **NEVER))
    running = process("launch", SPEC, "--binder", hub.url, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        # The request for the status follows the address; the calculation never ends.
        eventually(lambda: hub.count("GET /egress/servers/user-1/"))
        assert select.select([running.stdout], [], [], 20)[0], "no address"
        assert running.stdout.readline() == f"{hub.url}user/user-1/?token=server-token\n"
        assert running.poll() is None
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(
    ("settings", "lasts", "seen", "how"),
    [
        pytest.param(NEVER, 0, "challenge", (), id="calculation"),
        pytest.param(HCAPTCHA, 0, "challenge", ("--wait", "60"), id="person"),
        pytest.param({}, 59, "servers/alice/", ("--keep", "3600"), id="keeping"),
    ],
)
def test_ctrl_c_ends_an_unlock(serve, open_hub, store, settings, lasts, seen, how):
    hub = open_hub(serve(**settings, **LEASING))
    lease(store, lasts) if lasts else run_pod(store)
    known = store.known(Server("alice"))
    code, err = interrupted(lambda: hub.count(f"GET /egress/{seen}"), "unlock", f"{hub.url}egress/servers/alice/", *how)
    assert code == 130 and "Traceback" not in err
    assert store.known(Server("alice")) == known and not hub.count("POST ")
