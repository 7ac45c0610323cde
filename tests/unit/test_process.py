"""The command as a process, with gunicorn, two real ports and threads."""

import errno
import json
import os
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from binder_egress.web.context import place_given_back
from binder_egress.web.gunicorn import MAX_HEAD_BYTES, RECEIVE_SECONDS, Threads
from tests.support.apps import API_TOKEN, CLIENT, DIRECT, VerifierProcess


def refuse_ipv6():
    """Let a process see what it sees on a node that was booted with `ipv6.disable=1`."""
    init = socket.socket.__init__

    def refuse(self, family=-1, *others, **named):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        init(self, family, *others, **named)

    socket.socket.__init__ = refuse


@pytest.fixture(scope="module")
def process(_redis_server):
    _redis_server.start()
    process = VerifierProcess(_redis_server)
    yield process
    lines = [json.loads(line) for line in process.stop()]
    assert {"time", "level", "message"} <= lines[0].keys()
    # Malformed requests were among those that the tests sent.
    assert not [line for line in lines if "Invalid request" in line["message"]]


@pytest.fixture(scope="module")
def verifier(process):
    """The verifier's public and its in-cluster address."""
    return process.public, process.internal


@pytest.fixture(autouse=True)
def with_redis(redis_server, verifier):
    ask(f"{verifier[1]}/readyz")


def ask(address, body=None, **headers):
    """Sends a GET, or a POST of JSON if there is a body; returns status and body."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "X-Forwarded-For": CLIENT, "Authorization": f"Bearer {API_TOKEN}"} | headers
    try:
        with DIRECT.open(urllib.request.Request(address, data, sent), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_verifier_serves_where_the_kernel_has_no_ipv6(_redis_server):
    process = VerifierProcess(_redis_server, prepare=refuse_ipv6)
    assert ask(f"{process.public}/egress/challenge")[0] == 200
    process.stop()


def test_verifier_serves_both_families_where_the_kernel_has_them(verifier):
    public = verifier[0].replace("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else verifier[0]
    assert ask(f"{public}/egress/challenge")[0] == 200


@pytest.mark.parametrize("headers", [{}, {"Host": "HOST"}, {"X-Forwarded-Port": "PORT", "X-Forwarded-Host": "HOST"}])
def test_headers_cannot_select_the_other_port(verifier, headers):
    public, internal = verifier
    for address, other, path in ((public, internal, "/metrics"), (internal, public, "/egress/challenge")):
        host = other.removeprefix("http://")
        sent = {name: value.replace("HOST", host).replace("PORT", host.rpartition(":")[2]) for name, value in headers.items()}
        assert ask(address + path, **sent)[0] == 404
        assert ask(other + path)[0] == 200


def raw(address, request):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(4096).partition(b"\r\n")[0].decode()


POST = b"POST /egress/passes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def chunks(body, each=4096):
    parts = [body[at : at + each] for at in range(0, len(body), each)] + [b""]
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def test_body_of_a_megabyte_is_refused_before_it_is_sent(verifier):
    assert raw(verifier[0], POST + b"Content-Length: 1048576\r\n\r\n").startswith("HTTP/1.1 413 ")


def test_chunked_body_is_read_up_to_a_limit(verifier):
    body = b'{"provider": "altcha", "solution": "%s"}'
    assert raw(verifier[0], chunks(body % b"x")).startswith("HTTP/1.1 403 ")
    # The body is not read to its end, so it is not valid JSON.
    assert raw(verifier[0], chunks(body % (b"x" * 20_000))).startswith("HTTP/1.1 400 ")


def test_chunks_have_a_number_that_a_body_needs(verifier):
    """Reading one takes as long as reading thousands of bytes."""
    body = b'{"provider": "altcha", "solution": "%s"}' % (b"x" * 1000)
    assert raw(verifier[0], chunks(body, 2)).startswith("HTTP/1.1 403 ")
    assert raw(verifier[0], chunks(body, 1)).startswith("HTTP/1.1 400 ")


def test_malformed_request_does_not_disturb_others(verifier):
    host, port = verifier[0].removeprefix("http://").split(":")
    for garbage in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\r\n" * 50):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(garbage)
    assert ask(f"{verifier[0]}/egress/challenge")[0] == 200


SLOW = {
    "in headers": b"GET /egress/challenge HTTP/1.1\r\nHost: x\r\nX-",
    "in a body": POST + b"Content-Length: 1000\r\n\r\n{",
    "in a chunked body": POST + b"Transfer-Encoding: chunked\r\n\r\n100\r\n{",
    "in a body that is too large": POST + b"Content-Length: 1048576\r\n\r\n{",
    "closing": b"GET /egress/challenge HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.fixture
def open_slow(verifier):
    """Opens connections to the public port, each of which sends these bytes and then nothing, and reads nothing."""
    host, port = verifier[0].removeprefix("http://").split(":")
    connections = []

    def open_slow(number, sent):
        for _ in range(number):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect((host, int(port)))
            connection.sendall(sent)
            connections.append(connection)
        return connections

    yield open_slow
    for connection in connections:
        connection.close()


def assert_prompt(verifier):
    """Sends requests to both ports, also a launch: the fastest of five answers comes before the limit that ends a slow request."""
    public, internal = verifier
    body = {"user": "alice", "image": "image:1", "repository": "r", "token": None, "client_address": CLIENT}
    for address, sent in ((f"{public}/egress/challenge", None), (f"{internal}/api/launches", body), (f"{internal}/healthz", None)):
        times = []
        for _ in range(5):
            began = time.monotonic()
            assert ask(address, sent)[0] == 200
            times.append(time.monotonic() - began)
        assert min(times) < 0.75 * RECEIVE_SECONDS


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_slow_public_clients_delay_nobody(verifier, open_slow, sent):
    """Open six times as many connections as there are threads."""
    for _ in range(3):
        connections = open_slow(64, sent)
        assert_prompt(verifier)
    for _ in range(3):
        time.sleep(0.3)
        for connection in connections:
            with suppress(OSError):
                connection.sendall(b"x")
        assert_prompt(verifier)


@pytest.mark.parametrize(
    ("sent", "answer"), [(SLOW["in a body"], b"HTTP/1.1 408 "), (SLOW["in headers"], b"")], ids=["body", "headers"]
)
def test_request_that_does_not_arrive_in_time_is_ended_on_the_public_port_alone(verifier, open_slow, sent, answer):
    host, port = verifier[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as inside:
        inside.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        # Taken before the connection opens: on a busy machine, the verifier's time may begin long before this test goes on.
        began = time.monotonic()
        (connection,) = open_slow(1, sent)
        assert connection.recv(4096)[:13] == answer
        # Any other limit is at least ten seconds.
        assert RECEIVE_SECONDS <= time.monotonic() - began < 10
        inside.sendall(b"\r\n")
        assert inside.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    # Kept connections have had their answer and wait for another request, as browsers and proxies do.
    [SLOW["in a body"], b"", b"GET /egress/openapi HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["with half a request", "with nothing", "kept"],
)
def test_thousand_public_connections_delay_nobody(process, verifier, open_slow, sent):
    """Open as many connections as gunicorn accepts on all ports together."""
    before = process.processes()
    open_slow(1100, sent)
    assert_prompt(verifier)
    assert process.processes() == before


def test_headers_have_a_limit(verifier):
    """A browser with many cookies stays within it. Without it, the headers of many connections would fill memory."""
    address = f"{verifier[0]}/egress/challenge"
    assert ask(address, Cookie="x" * 8000)[0] == 200
    half = {f"X-{number}": "x" * 4000 for number in range(MAX_HEAD_BYTES // 4000 // 2)}
    assert ask(address, **half)[0] == 200
    more = {f"X-{number}": "x" * 4000 for number in range(MAX_HEAD_BYTES // 4000 * 2)}
    assert ask(address, **more)[0] == 431


def test_request_that_waits_for_somebody_else_holds_no_place():
    """There is one place, and the first request goes on only once the second was worked on."""
    app, go_on, threads = Flask("places"), threading.Event(), Threads(1, internal_port=81)

    @app.get("/waits")
    def waits():
        with place_given_back():
            return "", 200 if go_on.wait(60) else 500

    @app.get("/goes")
    def goes():
        go_on.set()
        return ""

    wsgi = threads.whole_requests(app)

    def status(path, connection):
        environ = EnvironBuilder(path).get_environ() | {"gunicorn.socket": connection.sock}
        return run_wsgi_app(wsgi, environ, buffered=True)[1]

    first, second = socket.socketpair()
    with first, second, threads:
        # What `Threads` uses of gunicorn's connections.
        connections = [SimpleNamespace(sock=sock, server=("::", 80)) for sock in (first, second)]
        sent = [threads.submit(partial(status, path), each) for path, each in zip(("/waits", "/goes"), connections, strict=True)]
        assert [done.result(timeout=100) for done in sent] == ["200 OK"] * 2
