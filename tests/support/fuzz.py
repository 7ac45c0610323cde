"""Malformed requests for a running verifier: by schemathesis from the OpenAPI documents, and valid ones with changed bytes."""

import hashlib
import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from tests.support.apps import API_TOKEN, CLIENT, VerifierProcess, solution

REFUSALS = (501,)
"""The only correct status from 500 on: gunicorn's answer to an unknown transfer coding (RFC 9112, section 6.1)."""

WORDS = (
    b"%00", b"%2f..%2f", b"\xff", b"\r\n", b"\r\n\r\n", b" ", b"{", b"[[[[[[[[", b'"', b"null", b"1e999", b"-1", b"9" * 400,
    b"\x00", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Expect: 100-continue\r\n", b"Host: [\r\n", b"\xd8\x00",
    b"\\ud800", b"Origin: null\r\n", b"Accept: text/html\r\n", b"Cookie: a=b\r\n", b"X-Forwarded-For: ::1, x\r\n",
)  # fmt: skip
"""Texts to insert, besides random bytes."""


KEY = f"binder_egress_{'0' * 16}_{'0' * 40}"


def keys_file(folder: Path) -> str:
    """A file of API keys with `KEY`, valid until the last day of the calendar."""
    entry = {"id": "0" * 16, "hash": hashlib.sha256(KEY.encode()).hexdigest(), "tier": "verified", "serversPerDay": 1_000_000}
    file = folder / "keys.json"
    file.write_text(json.dumps({"last": entry | {"expires": "9999-12-31"}}))
    return str(file)


def by_document(verifier: VerifierProcess, number: int) -> Counter[int]:
    """Send about `number` requests made from the OpenAPI documents. Returns how often each status came."""
    seen: Counter[int] = Counter()
    headers = {"X-Forwarded-For": CLIENT, "Authorization": f"Bearer {API_TOKEN}"}
    schemas = (
        schemathesis.openapi.from_url(f"{verifier.public}/egress/openapi.json"),
        schemathesis.openapi.from_url(f"{verifier.internal}/openapi.json"),
    )
    operations = [result.ok() for schema in schemas for result in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    each = settings(
        max_examples=number // (len(operations) * len(modes)),
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with requests.Session() as session:
        for operation in operations:
            for mode in modes:

                @each
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: schemathesis.Case) -> None:
                    seen[case.call(headers=headers, session=session).status_code] += 1

                try:
                    ask()
                except Unsatisfiable:
                    # An operation without parameters and body has no invalid request.
                    if mode is GenerationMode.POSITIVE:
                        raise
    return seen


def corpus(verifier: VerifierProcess) -> list[tuple[str, bytes]]:
    """Valid requests, each as address and bytes."""
    public, internal = verifier.public, verifier.internal
    offered = requests.get(f"{public}/egress/challenge", headers={"X-Forwarded-For": CLIENT}, timeout=10).json()
    solved = {"provider": "altcha", "solution": solution(offered["providers"][0]["challenge"])}
    launch = {"user": "alice", "server": "", "image": "i", "repository": "https://example.com/a/b", "token": "x",
              "client_address": CLIENT, "requested_at": time.time(), "context": True}  # fmt: skip
    operator = {"by": "eve", "why": "a test"}
    asked = [
        (public, "GET", "/egress/challenge?purpose=unlock", None),
        (public, "GET", "/egress/launch.js", None),
        (public, "GET", "/egress/servers/alice/lab?lang=de", None),
        (public, "POST", "/egress/passes", solved),
        (public, "POST", "/egress/passes", None),
        (public, "POST", "/egress/servers/alice", solved),
        (public, "POST", "/egress/servers/alice/", {"token": "x"}),
        (public, "OPTIONS", "/egress/passes", None),
        (internal, "POST", "/api/launches", launch),
        (internal, "GET", "/metrics", None),
        (internal, "GET", "/api/grants?user=alice", None),
        (internal, "POST", "/api/grants", {"user": "alice", "tier": "verified", **operator}),
        (internal, "POST", "/api/revocations", {"user": "alice", **operator}),
        (internal, "POST", "/api/blocks", {"kind": "network", "what": "198.51.100.0/24", **operator}),
        (internal, "GET", "/api/keys", None),
        (internal, "POST", "/api/keys", {"name": "k", "tier": "verified", "servers_per_day": 5, "expires": "90d", **operator}),
        (internal, "POST", "/api/keys/revocations", {"key": "0123456789abcdef", **operator}),
    ]
    made = []
    for address, method, path, body in asked:
        content = json.dumps(body).encode() if body else b""
        headers = {
            "Host": "hub.example.org",
            "X-Forwarded-For": CLIENT,
            "Authorization": f"Bearer {KEY if address == public else API_TOKEN}",
            "Content-Type": "application/json",
            "Content-Length": len(content),
            "Connection": "close",
        }
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        made.append((address, head.encode() + content))
    return made


def changed(request: bytes, luck: random.Random) -> bytes:
    """A request with some bytes changed, removed, repeated or inserted."""
    for _ in range(luck.choice((1, 1, 1, 2, 3, 8))):
        at = luck.randrange(len(request) + 1)
        to = min(len(request), at + luck.choice((1, 1, 4, 20)))
        part = luck.choice((b"", luck.randbytes(luck.choice((1, 4))), luck.choice(WORDS), request[at:to] * luck.choice((2, 30))))
        request = request[:at] + part + request[to:]
        # Half of the requests get a correct Content-Length, so that the verifier reads the body.
        head, end, body = request.partition(b"\r\n\r\n")
        if end and luck.random() < 0.5:
            request = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + end + body
    return request


def answer(address: str, request: bytes) -> int:
    """Send bytes and close. Returns the status of the first answer, or 0 if the connection ends without one."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            line = connection.makefile("rb").readline()
    except ConnectionError:
        return 0
    except TimeoutError:
        raise AssertionError(f"no answer to {request!r}") from None
    match = re.match(rb"HTTP/1\.\d (\d{3}) ", line)
    assert match or not line, line
    return int(match[1]) if match else 0


def by_bytes(verifier: VerifierProcess, number: int, seed: int) -> Counter[int]:
    """Send `number` requests with changed bytes. Returns how often each status came. The same seed makes the same changes."""

    def some(luck: random.Random, share: int) -> Iterator[int]:
        known = corpus(verifier)
        for at in range(share):
            if at % 500 == 499:
                known = corpus(verifier)  # with a fresh challenge and its solution
            address, request = luck.choice(known)
            yield answer(address, changed(request, luck))

    with ThreadPoolExecutor(4) as pool:
        shares = [pool.submit(lambda part: Counter(some(random.Random(seed + part), number // 4)), part) for part in range(4)]
        return sum((share.result() for share in shares), Counter())


def faults(seen: Counter[int], log: list[str]) -> list[object]:
    """The faults: statuses of 500 and above with how often each came, and log lines of level `error` and above."""
    statuses = [(status, count) for status, count in seen.items() if status >= 500 and status not in REFUSALS]
    return statuses + [line for line in log if json.loads(line)["level"] in ("error", "critical")]
