"""The ClientHello: its one name, or nothing."""

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.egress_proxy.hellos import encrypted_client_hello, extension, hello, hello_for, server_name
from verifier.proxy.hello import MAX_HELLO_BYTES, Hello, read_hello

GOOD = hello_for("ok.example")


def of_python(name: str) -> bytes:
    """The ClientHello of Python's own TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def longer(sent: bytes, more: bytes) -> bytes:
    """A ClientHello in one record, with more bytes in it after its extensions."""
    message = sent[9:] + more
    return sent[:3] + (len(message) + 4).to_bytes(2, "big") + sent[5:6] + len(message).to_bytes(3, "big") + message


@pytest.mark.parametrize(
    "sent",
    [
        GOOD,
        of_python("ok.example"),
        hello_for("OK.example"),
        hello(server_name("ok.example"), padding=9000),
        hello(server_name("ok.example"), record=60),
        GOOD + b"\x14\x03\x03\0\x01\x01",  # a record after it
    ],
    ids=lambda _: "bytes",  # they are random
)
def test_name_is_read(sent):
    assert read_hello(sent) == Hello(True, "ok.example", True)


@pytest.mark.parametrize(
    "sent",
    [
        hello(),
        hello(server_name("ok.example", "evil.example")),
        hello(server_name("evil.example", "ok.example")),
        hello(server_name("ok.example"), server_name("evil.example")),
        hello(server_name("ok.example"), encrypted_client_hello()),
        hello(encrypted_client_hello(), server_name("ok.example")),
        hello(server_name("ok.example", kind=1)),
        hello(server_name("")),
        hello(extension(0, b"\0\x0f\0\0\x0cok.example")),  # lengths that do not fit
        hello(extension(0, server_name("ok.example")[4:] + b"x")),
        hello(server_name("ok.example"), extension(43, b""), extension(43, b"")),
        hello(server_name("ök.example")),
        longer(GOOD, b"\0"),  # bytes after the extensions
        hello(server_name("ok.example"), after=GOOD[5:]),  # two messages in one record
    ],
    ids=lambda _: "bytes",  # they are random
)
def test_unclear_name_is_none(sent):
    assert read_hello(sent) == Hello(True, None, True)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x02\x01\0\x05hello",
        GOOD[:1] + b"\x02" + GOOD[2:],
        b"\x80\x2e\x01\0\x02" + bytes(50),  # SSL 2
        b"\x17\x03\x03\0\x01x",
        b"\x16\x03\x03\0\0",  # an empty record
        b"\x16\x03\x01\0\x04\x02\0\0\0",  # a ServerHello
        hello(server_name("ok.example"), record=1),
        hello(server_name("ok.example"), padding=MAX_HELLO_BYTES),
    ],
    ids=lambda _: "bytes",  # they are random
)
def test_other_bytes_are_no_hello(sent):
    assert read_hello(sent) == Hello(True)


@pytest.mark.parametrize("sent", [GOOD, hello(server_name("ok.example"), record=60)], ids=["one record", "many"])
def test_every_beginning_needs_more(sent):
    for length in range(len(sent)):
        assert read_hello(sent[:length]) == Hello(False), length


def in_records(first):
    """A ClientHello in records of one byte, `first` of them, and one record for the rest."""
    head = b"".join(b"\x16\x03\x01\0\x01" + GOOD[at : at + 1] for at in range(5, 5 + first))
    return head + b"\x16\x03\x01" + struct.pack(">H", len(GOOD) - 5 - first) + GOOD[5 + first :]


def test_fifth_record_of_a_hello_is_not_read():
    """Each byte that arrives means reading all records again: with 63 of them, a pod's bytes held up the proxy."""
    assert read_hello(in_records(3)) == Hello(True, "ok.example", True)
    assert read_hello(in_records(3)[:-1]) == Hello(False)
    assert read_hello(in_records(4)) == read_hello(in_records(4)[:-1]) == Hello(True)


@given(st.binary(max_size=400), st.integers(0, len(GOOD)), st.integers(0, 60))
def test_changed_hello_names_nothing_else(noise, at, dropped):
    """Whatever is inserted: the name is the one that a server would find, or there is none."""
    found = read_hello(GOOD[:at] + noise + GOOD[at + dropped :])
    assert found.name is None or found.name.encode() in (GOOD[:at] + noise + GOOD[at + dropped :]).lower()


@given(st.binary(max_size=2000))
def test_noise_is_no_fault(noise):
    read_hello(noise)
    read_hello(b"\x16\x03\x01" + noise)
    read_hello(GOOD[:43] + noise)
