"""How attempts at an escape are judged: without an answer of the proxy, nothing was refused."""

import socket

import pytest

from tests.support.egress_proxy import attempts
from tests.support.egress_proxy.attempts import NOT_EVIL, PUBLIC, Attempt, Pod, act, direct, plain, receive

REFUSED = Attempt("kind", "name", str)
PART = Attempt("kind", "name", str, reaches=NOT_EVIL)
PAST = Attempt("kind", "name", str, past=True)
MUST = Attempt("kind", "name", str, reaches="host=ok.example")
EVERY = (REFUSED, PART, PAST, MUST)


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        ("HTTP/1.1 403 Use a host name: addresses are refused", (REFUSED, PART)),
        ("HTTP/1.1 503 The egress proxy does not know this server yet, try again", (REFUSED, PART)),
        ("<closed>", (REFUSED, PART)),
        ("<ConnectionResetError>", (REFUSED, PART, PAST)),
        ("BrokenPipeError: [Errno 32] Broken pipe", (REFUSED, PART)),
        # Nothing answers.
        ("<TimeoutError>", (PAST,)),
        ("TimeoutError: timed out", (PAST,)),
        ("ConnectionRefusedError: [Errno 111] Connection refused", (PAST,)),
        ("OSError: [Errno 101] Network is unreachable", (PAST,)),
        ("urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>", (PAST,)),
        # Nothing was tried.
        ("", ()),
        ("IndexError: tuple index out of range", ()),
        # Another limit than the one that is tried.
        ("HTTP/1.1 429 This server opens too many connections, try again", ()),
        ("HTTP/1.1 503 Too many connections to this host in the last minute, try again", ()),
        ("HTTP/1.1 502 The host does not answer", ()),
        ("HTTP/1.1 504 DNS does not answer, try again", ()),
        # Something answers.
        ("HTTP/1.1 200 OK", (PART,)),
        ("HTTP/1.1 200 OK | REACHED host=ok.example name=-", (PART, MUST)),
        ("HTTP/1.1 200 OK | REACHED host=ok.example | REACHED host=evil.example", (MUST,)),
        ("HTTP/1.1 403 Not on the list | REACHED host=evil.example", ()),
        ("ServerHello", ()),
        ("REACHED? b'x'", ()),
    ],
)
def test_result_is_as_it_must_be(seen, good):
    assert tuple(attempt for attempt in EVERY if attempt.judge(seen)) == good


def test_dead_proxy_refuses_nothing():
    made = Attempt("kind", "name", lambda pod: plain(pod, attempts.EVIL))
    as_it_must, seen = act(made, Pod("127.0.0.127"))
    assert not as_it_must and seen.startswith("ConnectionRefusedError")


def test_silent_proxy_refuses_nothing(monkeypatch):
    monkeypatch.setattr(attempts, "answer_seconds", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert receive(ours) == "TimeoutError"
        theirs.close()
        assert receive(ours) == "closed"


@pytest.mark.parametrize(("answers", "times"), [(["TimeoutError", "closed"], 2), (["HTTP/1.1 200 OK", "closed"], 1)])
def test_late_answer_is_asked_for_again_and_a_wrong_one_is_not(answers, times):
    left = list(answers)
    as_it_must, seen = act(Attempt("kind", "name", lambda _: left.pop(0)), None)
    assert (as_it_must, seen, len(answers) - len(left)) == (times == 2, answers[times - 1], times)


def test_attempt_past_the_proxy_ends_without_an_answer():
    assert PAST.judge(direct("127.0.0.127", 9)(Pod("")))
    past = {attempt.name for attempt in attempts.attempts() if attempt.past}
    assert {f"{PUBLIC[1]}:443", "a DNS server", "8082 of a pod", "NO_PROXY=*, a name"} <= past
    assert not past & {"no_proxy that names nothing", "another host, by a pod's address"}
