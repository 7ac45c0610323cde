"""Heads of requests: the host that they are for, and the head that is sent on."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.proxy.decide import Kind
from binder_egress.proxy.hosts import normal
from binder_egress.proxy.requests import RequestRefused, Tunnel, WhoAmI, read_head


def read(raw: bytes):
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return read_head(event, connection)


def sent(raw: bytes) -> bytes:
    return next(read(raw).pieces)


def test_connect_is_a_tunnel():
    asked = read(b"CONNECT Ok.example:443 HTTP/1.1\r\nHost: other.example\r\n\r\n")
    assert (asked.host, asked.port, asked.kind) == ("Ok.example", 443, Kind.TUNNEL)
    assert read(b"CONNECT ok.example:443 HTTP/1.0\r\n\r\n").port == 443


def test_absolute_address_is_plain():
    asked = read(b"GET HTTP://Ok.example/a?b HTTP/1.1\r\nHost: OK.example.\r\n\r\n")
    assert (asked.host, asked.port, asked.kind) == ("ok.example", 80, Kind.PLAIN)
    for address, path in (("ok.example/a?b", "/a?b"), ("ok.example", "/"), ("ok.example?x", "/?x")):
        assert sent(f"GET http://{address} HTTP/1.1\r\nHost: ok.example\r\n\r\n".encode()).startswith(f"GET {path} HTTP".encode())
    assert read(b"GET http://ok.example:8080/ HTTP/1.1\r\nHost: ok.example:8080\r\n\r\n").port == 8080
    assert isinstance(read(b"GET / HTTP/1.1\r\nHost: 10.42.255.1:3128\r\n\r\n"), WhoAmI)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"GET http://ok.example/ HTTP/1.1\r\nHost: ok.example:8080\r\n\r\n",
        b"GET http://ok.example/#evil.example HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"GET http:///etc/passwd HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"POST http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://ok.example/ HTTP/1.0\r\nHost: ok.example\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT ok.example HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"CONNECT http://ok.example:443/ HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"CONNECT ok.example:https HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"CONNECT 2001:db8::1:443 HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: ok.example\r\n\r\n",
    ],
)
def test_other_request_is_refused(raw):
    """Others are attempts of the battery: another Host, a user, a backslash, other schemes, HTTP/2."""
    with pytest.raises(RequestRefused) as error:
        read(raw)
    assert error.value.refusal.status == 400


def test_request_goes_on_in_the_version_of_its_client():
    """A client of version 1.0 reads no chunks, and the proxy passes the answer on as it is."""
    old = b"GET http://ok.example/a%20HTTP/1.1?b HTTP/1.0\r\nHost: ok.example\r\n\r\n"
    assert sent(old).startswith(b"GET /a%20HTTP/1.1?b HTTP/1.0\r\n")
    assert sent(old.replace(b"HTTP/1.0", b"HTTP/1.1")).startswith(b"GET /a%20HTTP/1.1?b HTTP/1.1\r\n")


def test_request_goes_on_without_what_is_for_the_proxy():
    head = sent(
        b"POST http://ok.example/a HTTP/1.1\r\nHost: OK.example\r\nProxy-Authorization: Basic x\r\n"
        b"Connection: close, X-Mine, Content-Length\r\n"  # It takes no framing away.
        b"X-Mine: 1\r\nUpgrade: websocket\r\nTE: trailers\r\nExpect: 100-continue\r\nX-Kept: yes\r\nContent-Length: 0\r\n\r\n"
    )
    first, *headers = head.strip().split(b"\r\n")
    assert first == b"POST /a HTTP/1.1"
    assert sorted(line.lower() for line in headers) == [
        b"connection: close", b"content-length: 0", b"host: ok.example", b"x-kept: yes",
    ]  # fmt: skip


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40), st.sampled_from(["CONNECT", "GET", "POST"]))
def test_any_target_is_read_or_refused(target, method):
    raw = f"{method} {target} HTTP/1.1\r\nHost: ok.example\r\n\r\n".encode()
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    try:
        asked = read_head(connection.next_event(), connection)
    except (RequestRefused, h11.RemoteProtocolError):
        return
    assert isinstance(asked, WhoAmI | Tunnel) or normal(asked.host) == "ok.example" or asked.host == "ok.example"
