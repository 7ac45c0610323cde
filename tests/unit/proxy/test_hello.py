"""The ClientHello: its one name, or nothing. The host's answer: whether it asks for a second one."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.proxy.hello import MAX_HELLO_BYTES, Hello, HelloAnswer, read_answer, read_hello
from tests.support.egress_proxy.hellos import (
    CHANGE_CIPHER_SPEC,
    RETRY,
    encrypted_client_hello,
    extension,
    hello,
    hello_for,
    server_hello,
    server_name,
)

GOOD = hello_for("ok.example")
EARLY_DATA = b"\x17\x03\x03\0\x05early"


def longer(sent: bytes, more: bytes) -> bytes:
    """A ClientHello in one record, with more bytes in it after its extensions."""
    message = sent[9:] + more
    return sent[:3] + (len(message) + 4).to_bytes(2, "big") + sent[5:6] + len(message).to_bytes(3, "big") + message


@pytest.mark.parametrize(
    "sent",
    [GOOD, hello_for("OK.example"), hello(server_name("ok.example"), padding=9000), hello(server_name("ok.example"), record=60)],
    ids=lambda _: "bytes",  # they are random
)
@pytest.mark.parametrize("after", [b"", CHANGE_CIPHER_SPEC, bytes(MAX_HELLO_BYTES)], ids=len)
def test_name_is_read(sent, after):
    assert read_hello(sent + after) == Hello(True, "ok.example", True, len(sent))


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
    assert read_hello(sent) == Hello(True, None, True, len(sent))


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


@pytest.mark.parametrize(
    "sent",
    [GOOD, hello(server_name("ok.example"), record=60), hello(server_name("ok.example"), after=GOOD[5:])],
    ids=["one record", "many", "two messages"],
)
def test_every_beginning_needs_more(sent):
    for length in range(len(sent)):
        assert read_hello(sent[:length]) == Hello(False), length


def in_records(first):
    """A ClientHello in records of one byte, `first` of them, and one record for the rest."""
    head = b"".join(b"\x16\x03\x01\0\x01" + GOOD[at : at + 1] for at in range(5, 5 + first))
    return head + b"\x16\x03\x01" + struct.pack(">H", len(GOOD) - 5 - first) + GOOD[5 + first :]


def test_fifth_record_of_a_hello_is_not_read():
    """Each byte that arrives means reading all records again: with 63 of them, a pod's bytes held up the proxy."""
    assert read_hello(in_records(3)) == Hello(True, "ok.example", True, len(in_records(3)))
    assert read_hello(in_records(3)[:-1]) == Hello(False)
    assert read_hello(in_records(4)) == read_hello(in_records(4)[:-1]) == Hello(True)


@pytest.mark.parametrize(
    "before",
    [b"", CHANGE_CIPHER_SPEC, EARLY_DATA, CHANGE_CIPHER_SPEC + 2 * EARLY_DATA],
    ids=["nothing", "compatible", "early", "all"],
)
def test_second_hello_is_read_after_what_servers_skip(before):
    assert read_hello(before + GOOD, again=True) == Hello(True, "ok.example", True, len(before + GOOD))
    for length in range(len(before + GOOD)):
        assert read_hello((before + GOOD)[:length], again=True) == Hello(False), length
    assert before == b"" or read_hello(before + GOOD) == Hello(True)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x15\x03\x03\0\x02\x02\x28",  # an alert
        4 * EARLY_DATA + GOOD,
        b"\x17\x03\x03\x40\0",  # a longer record than is kept
        b"\x16\x03\x01\0\x01\x01" + EARLY_DATA + GOOD,
        EARLY_DATA + b"GET /",
    ],
)
def test_other_bytes_are_no_second_hello(sent):
    assert read_hello(sent, again=True) == Hello(True)


ASKS = server_hello(RETRY)
WARNING, FATAL = b"\x15\x03\x03\0\x02\x01\x70", b"\x15\x03\x03\0\x02\x02\x70"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (ASKS, HelloAnswer(True, True, len(ASKS))),
        (ASKS + CHANGE_CIPHER_SPEC, HelloAnswer(True, True, len(ASKS))),
        (CHANGE_CIPHER_SPEC + ASKS, HelloAnswer(True, True, len(CHANGE_CIPHER_SPEC + ASKS))),
        (WARNING + ASKS, HelloAnswer(True, True, len(WARNING + ASKS))),
        (server_hello(RETRY, record=30), HelloAnswer(True, True, len(server_hello(RETRY, record=30)))),
        (server_hello(), HelloAnswer(True, True)),
        (server_hello()[:43], HelloAnswer(True, True)),
        (server_hello(after=bytes(9000)), HelloAnswer(True, True)),
        (WARNING + server_hello(), HelloAnswer(True, True)),
        (FATAL, HelloAnswer(True, True)),
        (WARNING + FATAL, HelloAnswer(True, True)),
        (server_hello(RETRY, after=b"\0"), HelloAnswer(True)),
        (server_hello(RETRY, after=bytes(MAX_HELLO_BYTES))[:60], HelloAnswer(True)),
        (server_hello(RETRY, record=1), HelloAnswer(True)),
        (4 * WARNING + ASKS, HelloAnswer(True)),
        (b"\x15\x03\x03\x40\0", HelloAnswer(True)),
        (b"\x16\x03\x03\0\x04\0\0\0\0", HelloAnswer(True)),  # a HelloRequest
        (b"\x16\x03\x03\0\x01\x02" + WARNING + ASKS, HelloAnswer(True)),
        (EARLY_DATA, HelloAnswer(True)),
        (b"HTTP/1.1 400 Bad Request\r\n", HelloAnswer(True)),
        (b"SSH-2.0-x\r\n", HelloAnswer(True)),
        (b"\0", HelloAnswer(True)),
    ],
    ids=lambda _: "bytes",  # they are random
)
def test_answer_asks_for_a_second_hello_or_not(sent, answer):
    assert read_answer(sent) == answer


@pytest.mark.parametrize("sent", [ASKS, WARNING + server_hello(RETRY, record=30)], ids=["one record", "many"])
def test_every_beginning_of_a_hello_retry_request_needs_more(sent):
    for length in range(len(sent)):
        assert read_answer(sent[:length]) == HelloAnswer(False), length


@given(st.binary(max_size=400), st.integers(0, len(GOOD)), st.integers(0, 60))
def test_changed_hello_names_nothing_else(noise, at, dropped):
    """Whatever is inserted: the name is the one that a server would find, or there is none."""
    found = read_hello(GOOD[:at] + noise + GOOD[at + dropped :])
    assert found.name is None or found.name.encode() in (GOOD[:at] + noise + GOOD[at + dropped :]).lower()


@given(st.binary(max_size=2000))
def test_noise_is_no_fault(noise):
    for sent in (noise, b"\x16\x03\x01" + noise, GOOD[:43] + noise):
        read_hello(sent)
    read_hello(noise, again=True)
    read_answer(noise)
    assert not read_answer(server_hello()[:43] + noise).retry_end
