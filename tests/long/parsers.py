"""Fuzzes every parser of untrusted text. atheris changes the text so that more and more lines of the parsers run.

A separate program: atheris instruments modules during their import, and ends the process.

    python tests/long/parsers.py FOLDER -max_total_time=60     FOLDER gets the texts, `SEEDS` first
"""

import base64
import ipaddress
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import altcha
import atheris
import h11

TOP = Path(__file__).parents[2]
sys.path[:0] = [str(TOP), str(TOP / "verifier")]

with atheris.instrument_imports(include=["binder_egress", "altcha", "itsdangerous"]):
    from flask import Flask

    from binder_egress.captcha.altcha import Altcha
    from binder_egress.captcha.base import Outcome
    from binder_egress.captcha.providers import ROWS
    from binder_egress.captcha.siteverify import Remote
    from binder_egress.detections.reports import Report, Unreadable
    from binder_egress.detections.reports import read as read_report
    from binder_egress.gate import clients
    from binder_egress.gate.api_keys import Keys
    from binder_egress.model import networks, repositories
    from binder_egress.model.grants import Egress
    from binder_egress.model.labels import START_GUARD_CONTAINER
    from binder_egress.model.passes import BadPass, Passes
    from binder_egress.model.serialization import read_grant, write_grant
    from binder_egress.proxy.hello import read_hello
    from binder_egress.proxy.hosts import normal
    from binder_egress.proxy.requests import Plain, RequestRefused, Tunnel, read_head
    from binder_egress.reconciler.user_pods import Pod
    from binder_egress.web import bodies
    from binder_egress.web.problems import Problem
    from tests.support.detections import deleted, falco, killed, killed_by_flowkiller
    from tests.support.egress_proxy.hellos import hello, hello_for, server_name
    from tests.support.fuzz import KEY, keys_file

logging.disable()
app = Flask("parsers")

PASSES = Passes(["0" * 40])
PASS = PASSES.new("verified", 1, 1_000_000.0, 300)
ALTCHA = Altcha.from_options({"tier": "verified", "cost": 1, "counterMax": 5, "lifetime": 3600}, ["0" * 40])
NETWORK = "198.51.100.7/32"
_challenge = altcha.Challenge.from_dict(ALTCHA.challenge("launch", NETWORK, 1))
SOLUTION = altcha.Payload(_challenge, altcha.solve_challenge(_challenge)).to_base64()
NONCE = _challenge.parameters.nonce
KEYS = Keys(keys_file(Path(tempfile.mkdtemp())), ["verified"])
PROVIDERS = [
    Remote.from_options(
        name, row, {"tier": "verified", "siteKey": "s", "apiUrl": "https://example.org"}, "secret", frozenset(), True
    )
    for name, row in ROWS.items()
]
BODIES = [value for value in vars(bodies).values() if isinstance(value, type) and issubclass(value, bodies._Body)]


def a_pass(text: str) -> None:
    """Only a text that we signed is a pass, and it is read as signed."""
    with suppress(BadPass):
        assert PASSES.read(text, 1_000_001.0) == PASS, "a forged pass"


def a_key(text: str) -> None:
    """Only the key itself is the key."""
    assert (KEYS.find(text) is not None) == (text == KEY), "a forged key"


def a_solution(text: str) -> None:
    """Only our own solved challenge is a solution."""
    verdict = ALTCHA.verify(text, "launch", NETWORK, "198.51.100.7")
    assert verdict.outcome is Outcome.REJECTED or verdict.solution_id == NONCE, "a forged solution"


def decoded_solution(text: str) -> None:
    """Read a solution from the JSON inside the base64."""
    a_solution(base64.b64encode(text.encode(errors="replace")).decode())


def a_body(text: str) -> None:
    """A body fits its model, or the answer says what is wrong."""
    for model in BODIES:
        with app.test_request_context(method="POST", data=text.encode(errors="replace"), content_type="application/json"):
            try:
                assert isinstance(bodies.read(model), model)
            except Problem as problem:
                assert problem.problem_type in ("bad-request", "not-json") and problem.detail


def forwarded_for(text: str) -> None:
    """X-Forwarded-For of a proxy gives a public network, or none."""
    trusts = (1, [ipaddress.ip_network("10.0.0.0/24")])
    addresses = [clients.client_of("10.0.0.1", text, trusted).address for trusted in trusts]
    for name in (*map(clients.client_network, addresses), clients.client_network(text)):
        if name:
            network = ipaddress.ip_network(name)
            assert network.prefixlen == (32 if network.version == 4 else 64)
            assert not networks.in_networks(str(network.network_address), [ipaddress.ip_network("10.0.0.0/8")])


def a_repository(text: str) -> None:
    """The name of a name is the name itself, and the exact name of a trusted repository is the same, except for case."""
    name = repositories.name(text)
    assert name is None or repositories.name(name) == name
    if exact := repositories.exact(text):
        assert repositories.name(exact) == name
    repositories.covers(text, "github.com/owner/name")
    with suppress(ValueError):  # no pattern
        repositories.within(text, "https://github.com/owner/name")


def an_annotation(text: str) -> None:
    """A grant that can be read from a pod can be written and read again."""
    if grant := read_grant(text):
        assert read_grant(write_grant(grant)) == grant


def a_guard_message(text: str) -> None:
    """The termination message of a start guard, or any other text in its place."""
    status = {"name": START_GUARD_CONTAINER, "state": {"terminated": {"message": text}}}
    pod = Pod.from_json(
        {
            "metadata": {
                "name": "jupyter-alice",
                "uid": "uid-1",
                "resourceVersion": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"hub.jupyter.org/username": "alice"},
            },
            "spec": {"initContainers": [{"name": START_GUARD_CONTAINER}], "containers": [{"name": "notebook", "image": "image:1"}]},
            "status": {"initContainerStatuses": [status]},
        }
    )
    assert pod and pod.guard and isinstance(pod.guard[0], str) and isinstance(pod.guard[1], float)


def an_answer(text: str) -> None:
    """The answer of a captcha provider, or of another server in its place."""
    for provider in PROVIDERS:
        for status in (200, 400, 503):
            answer = provider.judge(status, text.encode(errors="replace"))
            assert answer.outcome is not Outcome.OK or (status == 200 and '"' in text), "a yes out of nothing"


def a_hello(text: str) -> None:
    """A text that names a host is a whole ClientHello."""
    found = read_hello(text.encode("latin-1", "replace"))
    assert found.name is None or (found.is_tls and found.complete)


def a_request(text: str) -> None:
    """A request to the egress proxy is for one host, or is refused."""
    connection = h11.Connection(h11.SERVER)
    with suppress(h11.RemoteProtocolError, RequestRefused):
        connection.receive_data(text.encode("latin-1", "replace"))
        event = connection.next_event()
        if isinstance(event, h11.Request):
            asked = read_head(event, connection)
            if not isinstance(asked, Tunnel | Plain):
                return
            assert 0 <= asked.port <= 99999 and not set(asked.host) & set(" /@?#\\\r\n\0")
            if isinstance(asked, Plain):
                with suppress(h11.LocalProtocolError):
                    sent = next(asked.pieces)
                    # As the host reads it: one request, for the host that was judged.
                    again = h11.Connection(h11.SERVER)
                    again.receive_data(sent)
                    read = again.next_event()
                    assert isinstance(read, h11.Request) and read.target[:1] == b"/" and event.target.endswith(read.target[1:])
                    (named,) = (value.decode() for name, value in read.headers if name == b"host")
                    assert named in (asked.host, f"{asked.host}:{asked.port}")


def a_host(text: str) -> None:
    """A host's name has one spelling, and no address is a name."""
    name = normal(text)
    assert name is None or (normal(name) == name and networks.parse_address(name) is None)


def a_report(text: str) -> None:
    """A detector's line is about one pod, in printable words, or says why not."""
    with suppress(Unreadable):
        if report := read_report(text, 2000.0):
            assert report.about and report.reason.isprintable() and len(report.reason) <= 302
            assert report.uid or 0 < report.at <= 2060.0
            assert Report.loads(report.dumps()) == report


SEEDS: dict[Callable[[str], None], list[str]] = {
    a_pass: [PASSES.sign(PASS)],
    a_key: [KEY],
    a_solution: [SOLUTION],
    decoded_solution: [base64.b64decode(SOLUTION).decode()],
    a_body: [
        json.dumps({"provider": "altcha", "solution": "x"}),
        json.dumps({"token": "x"}),
        json.dumps({"user": "alice", "server": "", "image": "i", "token": "x", "requested_at": time.time(), "groups": ["a"]}),
        json.dumps({"by": "eve", "why": "a test", "kind": "network", "what": "198.51.100.0/24", "until": 1.0}),
    ],
    forwarded_for: ["203.0.113.9, 198.51.100.7", "2001:db8::1", "::ffff:10.0.0.1", "fe80::1%eth0"],
    a_repository: ["https://github.com/Owner/name.git", "git@github.com:owner/name", "10.5281/zenodo.1", "github.com/owner/*"],
    an_annotation: [write_grant(Egress.new("verified", "valid-pass", 1.0))],
    a_guard_message: [json.dumps({"outcome": "closed", "seconds": 0.33, "tries": 5, "through": 2})],
    a_hello: [sent.decode("latin-1") for sent in (hello_for("ok.example"), hello(server_name("ok.example"), record=60))],
    a_request: [
        "CONNECT ok.example:443 HTTP/1.1\r\nHost: ok.example\r\n\r\n",
        "GET http://ok.example:80/ HTTP/1.1\r\nHost: OK.example\r\nX: a\r\n b\r\n\r\n",
        "POST http://ok.example/a HTTP/1.1\r\nHost: ok.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://ok.example/a?b HTTP/1.1\r\nHost: ok.example\r\nContent-Length: 1\r\nConnection: x\r\n\r\nx",
    ],
    a_report: [
        killed(),
        killed_by_flowkiller(addresses={}),
        f"1970-01-01T00:16:40Z {deleted()}",
        falco(),
        json.dumps({"date": 1000.0, "log": deleted()}),
        '{"server": "alice/lab", "list": "l", "label": "x", "source": "agent"}',
    ],
    a_host: ["ok.example", "bücher.example", "10.0.0.1", "0x0a.1"],
    an_answer: [json.dumps({"success": True, "error-codes": ["bad-request"], "challenge_ts": "2026-01-01T00:00:00Z"})],
}

PARSERS = list(SEEDS)


def one(data: bytes) -> None:
    """The first byte chooses the parser, the rest is its text. Bytes that are not UTF-8 become lone surrogates."""
    if data:
        PARSERS[data[0] % len(PARSERS)](data[1:].decode("utf-8", "surrogateescape"))


def main() -> None:
    """Run until the time is up, or until the first fault."""
    folder = Path(sys.argv[1])
    for parser, texts in SEEDS.items():
        for number, text in enumerate(texts):
            seed = bytes([PARSERS.index(parser)]) + text.encode()
            one(seed)
            (folder / f"{parser.__name__}-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
