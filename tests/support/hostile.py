"""Requests in which one field is as long and as odd as a stranger can make it, and what they cost: for tests/long/test_hostile.py,
and for `ci/bench hostile`.

Paths come from the routes of the apps, members of bodies and of the query from their OpenAPI documents, and members of a solution
from a real one. Headers are those that any of the apps reads.
"""

import base64
import copy
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import altcha
from flask import Flask
from gunicorn.config import LimitRequestLine
from werkzeug.test import create_environ, run_wsgi_app

from binder_egress.captcha.altcha import MAX_SOLUTION_BYTES
from binder_egress.gate.clients import client_network
from binder_egress.model.grants import Block
from binder_egress.model.passes import Pass
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.repositories import MAX_URL_CHARACTERS
from binder_egress.model.serialization import read_origin
from binder_egress.settings import ReceiverSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.promised_launches import promise_key
from binder_egress.web.app import create_internal_app, create_public_app, create_services
from binder_egress.web.bodies import MAX_BODY_BYTES
from binder_egress.web.gunicorn import MAX_HEAD_BYTES
from binder_egress.web.receiver import create_receiver_app, create_receiver_services
from ci.openapi_documents import DOCUMENTS
from tests.support.apps import API_TOKEN, RedisServer, make_settings
from tests.support.fuzz import KEY, keys_file
from tests.support.linear import FLOOR_SECONDS, MOST_TIMES
from tests.support.store import Store

MAX_HOOK_BYTES = 64 * 1024
"""The most bytes of a stranger that the hook passes on: Tornado reads 64 KiB of a request's address and headers."""

MAX_HEADER_BYTES = MAX_HEAD_BYTES - 1024
"""The most bytes of a header: gunicorn joins lines that have the same name."""


MOST_ORDINARY = 5
"""The most ordinary requests that a request may cost."""

Text = Callable[[int], str]


def _repeated(unit: str) -> Text:
    return lambda length: (unit * (length // len(unit) + 1))[:length]


def _halves(first: str, second: str) -> Text:
    return lambda length: _repeated(first)(length // 2) + _repeated(second)(length - length // 2)


def _in_base64(shape: Text) -> Text:
    return lambda length: base64.b64encode(shape(length * 3 // 4).encode()).decode()


SHAPES: dict[str, Text] = {
    "one letter": _repeated("a"),
    "digits": _repeated("9"),
    "spaces": _repeated(" "),
    "repeated suffix": _repeated(".git"),
    "repeated suffix behind nested escapes": lambda length: "%2525252541" + _repeated(".git")(length - 11),
    "nested escapes": lambda length: "%" + _repeated("25")(length - 1),
    "alternating escapes": _repeated("a%41%2f"),
    "commas": _repeated("a/b,"),
    "quotes": _repeated(';a="\\",'),
    "parameters": _repeated("&a=b"),
    "slashes": _repeated("a/"),
    "way up": _halves("a/", "../"),
    "colons": _repeated("1:"),
    "dots": _repeated("1."),
    "deep nesting": _repeated("["),
    "long list": lambda length: f"[{_repeated('1,')(length - 3)}1]",
    "deep nesting in base64": _in_base64(_repeated('{"a":')),
    "letters that normalize to eighteen": _repeated("\ufdfa"),
    "marks of two kinds": _repeated("\u0301\u0327"),
    "digits and dots of other alphabets": _repeated("\u0660\u30fb"),
}
"""What a field is filled with: name → text of a length in characters."""

ORDINARY_HEADERS = {
    "CONTENT_TYPE": "application/json;",
    "HTTP_HOST": "hub.example.org",
    "HTTP_ACCEPT": "text/html",
    "HTTP_ACCEPT_LANGUAGE": "de",
    "HTTP_AUTHORIZATION": f"Bearer {KEY}",
    "HTTP_ORIGIN": "https://hub.example.org",
    "HTTP_X_FORWARDED_PROTO": "https",
}
"""What a hostile header begins with. Other headers begin with nothing ordinary."""

PROMISE = f"promise-{'0' * 32}"

PARTS = {"user": "alice", "server": "lab", "file": "third-party.js", "filename": "third-party.js", "promise": PROMISE}
"""Parameter of a path → its part of an ordinary path. A parameter that is not listed is its own name there."""

NETWORKS = (f"2001:db8:{number // 65536:x}:{number % 65536:x}::1" for number in itertools.count())
"""Each request comes from another network, because limits apply to each network."""

LAUNCHED_FROM = "2001:db8:ffff::1"
"""The network that a launch was announced from with `PROMISE`: only that network is told of it."""


@dataclass(frozen=True)
class Request:
    """A request to an app, in the form of WSGI, and the repository of the server that runs, as BinderHub announced it."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    repository: str = "https://github.com/owner/name"
    parts: tuple[str, ...] = ()

    def environ(self, **headers: str) -> dict[str, Any]:
        """The WSGI environment."""
        made = create_environ("/", "http://hub.example.org")
        made |= {"REQUEST_METHOD": self.method, "PATH_INFO": _wsgi(self.path), "QUERY_STRING": _wsgi(self.query)}
        client = LAUNCHED_FROM if self.method == "GET" and PROMISE in self.path else next(NETWORKS)
        made |= {"HTTP_X_FORWARDED_FOR": client} | headers | {name: _wsgi(value) for name, value in self.headers}
        if self.body is not None:
            made |= {"CONTENT_LENGTH": str(len(self.body)), "wsgi.input": io.BytesIO(self.body)}
            made.setdefault("CONTENT_TYPE", "application/json")
        return made


def _wsgi(text: str) -> str:
    return text.encode().decode("latin-1")


@dataclass(frozen=True)
class Field:
    """A field that a stranger chooses, in a request that is ordinary apart from it.

    `fill` makes the request with a text, of at most `longest` characters, or bytes if `in_bytes`. If `is_new`, no two requests have
    the same text, so that nobody can remember what it led to.
    """

    name: str
    app: str
    ordinary: Request
    longest: int
    fill: Callable[[str], Request]
    begins: str = ""
    in_bytes: bool = False
    is_new: bool = True

    def filled(self, shape: Text, length: int) -> Request:
        """The request, with a text of one of the `SHAPES` and of a length in this field."""
        salt = f"x{next(_SALTS):06}" if self.is_new else ""
        text = self.begins + shape(max(3, length - len(self.begins) - len(salt)))
        if self.in_bytes:
            text = text.encode()[: length - len(salt)].decode(errors="ignore")
        return self.fill(text[: length - len(salt)] + salt)


_SALTS = itertools.count()


class _Noting(dict[str, Any]):
    """A WSGI environment that notes which headers are read."""

    def __init__(self, environ: dict[str, Any], read: set[str]):
        super().__init__(environ)
        self._read = read

    def copy(self) -> "_Noting":
        return _Noting(self, self._read)

    def __getitem__(self, name: str) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._note(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._note(str(name))
        return super().__contains__(name)

    def _note(self, name: str) -> None:
        if name.startswith("HTTP_") or name == "CONTENT_TYPE":
            self._read.add(name)


class Site:
    """A verifier with a running server, blocks, keys and rules, so that a request meets all checks."""

    def __init__(self, redis_server: RedisServer, folder: Path):
        settings = make_settings(
            redis_server,
            blocked_repositories=["github.com/bad/*"],
            trusted_repositories={"github.com/good/name": "verified"},
            repositories_with_hosts=["github.com/more/*"],
            self_networks=["203.0.113.0/24"],
            allowed_origins=["https://course.example.org"],
            authenticated_groups={"staff": "verified"},
            api_keys_file=keys_file(folder),
        )
        self._client = connect(settings)
        self.store = Store(self._client)
        self.store.ping()
        self.services = create_services(settings, self.store)
        receiving = load(ReceiverSettings, detections={"falco": {}, "agent": {}})
        self.apps: dict[str, Flask] = {
            "public": create_public_app(self.services),
            "in-cluster": create_internal_app(self.services),
            "receiver": create_receiver_app(create_receiver_services(receiving, self.store)),
        }
        for number, (kind, what) in enumerate((("repository", "github.com/mining/*"), ("network", "192.0.2.0/24"))):
            self.store.add_block(Block(f"block-{number}", kind, what, read_origin("eve"), "mining", int(time.time()), None), [])
        key = promise_key(PROMISE, client_network(LAUNCHED_FROM, settings.client_ipv4_prefix, settings.client_ipv6_prefix))
        self._client.hset(key, "server", Server("alice", "lab").key)
        self._published = ""

    def close(self) -> None:
        """Close the connections to Redis."""
        self._client.close()

    def send(self, app: str, request: Request) -> float:
        """Send a request. Returns the processor time that it took, in seconds."""
        self._publish(request.repository)
        environ = request.environ(**({"HTTP_AUTHORIZATION": f"Bearer {API_TOKEN}"} if app == "in-cluster" else {}))
        began = time.process_time()
        _, status, _ = run_wsgi_app(self.apps[app], environ)
        took = time.process_time() - began
        assert not status.startswith("5"), (status, request)
        return took

    def _publish(self, repository: str) -> None:
        if repository != self._published:
            self._published = repository
            self.store.publish(Server("alice", "lab"), KnownServer("uid-1", repository=repository, promise=PROMISE))

    def fields(self) -> Iterator[Field]:
        """Every field that a stranger chooses, of every address."""
        for app, document in DOCUMENTS.items():
            for request, operation in self.requests(app):
                yield from self._fields_of(app, request, operation, document)

    def requests(self, app: str) -> Iterator[tuple[Request, dict[str, Any]]]:
        """The ordinary requests, each with what the OpenAPI document says about it. Operators' lack most of their body."""
        document = DOCUMENTS[app]
        base = document["servers"][0]["url"].rstrip("/")
        for rule in self.apps[app].url_map.iter_rules():
            if rule.defaults:
                continue  # another address of the same view
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                operation = document["paths"].get(path.removeprefix(base), {}).get(method.lower(), {})
                headers = (("HTTP_ACCEPT", "text/html"),) if method == "GET" and "{user}" in path else ()
                parts = {name: PARTS.get(name, name) for name in sorted(rule.arguments)}
                request = Request(method, path.format(**parts), headers=headers, parts=tuple(parts.values()))
                bodies = self._bodies(operation)
                yield from ((replace(request, body=json.dumps(body).encode()), operation) for body in bodies)
                if not bodies or operation.get("operationId") == "createPass":
                    yield request, operation
        yield Request("GET", f"{base}/nowhere", headers=(("HTTP_ACCEPT", "text/html"),), parts=("nowhere",)), {}

    def stuffed(self, app: str, request: Request, shape: Text) -> Request:
        """The request with all headers and the query at once, each as long as the server takes it."""
        # In the cluster, the token leads to the view; a proxy appends the address that it saw.
        names = [name for name in self.headers if app != "in-cluster" or name != "HTTP_AUTHORIZATION"]
        headers = {name: ORDINARY_HEADERS.get(name, "") for name in names} | dict(request.headers)
        filled = {name: begins + shape(MAX_HEADER_BYTES - len(begins)) for name, begins in headers.items()}
        filled["HTTP_X_FORWARDED_FOR"] += f", {next(NETWORKS)}"
        return replace(request, query=shape(LimitRequestLine.default // 2), headers=tuple(filled.items()))

    def _bodies(self, operation: dict[str, Any]) -> list[dict[str, Any]]:
        settings = self.services.settings
        token = self.services.passes.sign(Pass("x" * 16, "verified", 1, time.time(), time.time() + settings.pass_lifetime))
        # Signed by nobody, so that it can be sent again and again.
        challenge = altcha.create_challenge("PBKDF2/SHA-256", 1, counter=1, data={"purpose": "launch"}, hmac_secret="nobody's")
        solution = altcha.Payload(challenge, altcha.solve_challenge(challenge)).to_base64()
        solved = {"provider": "altcha", "solution": solution}
        launch = {
            "user": "alice",
            "server": "lab",
            "image": "image:1",
            "repository": "https://github.com/owner/name",
            "token": token,
            "client_address": "10.0.0.1",
            "forwarded_for": "198.51.100.7",
            "requested_at": time.time(),
            "authenticated": True,
            "groups": ["students"],
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
            "hub_url": "https://hub.example.org/",
        }
        known = {
            "createPass": [solved | {"promise": PROMISE}],
            "unlockServer": [solved, {"token": f"{token}x"}],
            "keepPromise": [{"token": f"{token}x"}],
            "decideLaunch": [launch, launch | {"token": PROMISE}],
        }
        return known.get(operation["operationId"], [{}]) if "requestBody" in operation else []

    def _fields_of(self, app: str, request: Request, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[Field]:
        title = f"{request.method} {request.path}"

        def field(name: str, longest: int, fill: Callable[[str], Request], begins: str = "", **more: bool) -> Field:
            return Field(f"{title}: {name}", app, request, longest, fill, begins, **more)

        line = LimitRequestLine.default - len(f"{request.method} {request.path} HTTP/1.1")
        for part in request.parts:

            def in_path(text: str, part: str = part) -> Request:
                return replace(request, path=request.path.replace(part, text))

            yield field(f"path, {part}", line, in_path, part, in_bytes=True)
        yield field("query", line, lambda text: replace(request, query=text), in_bytes=True)
        for parameter in operation.get("parameters", []):
            name = parameter["name"]
            if parameter["in"] == "query" and app == "public":
                yield field(f"query, {name}", line, lambda text, name=name: replace(request, query=f"{name}={text}"), in_bytes=True)
        for name in self.headers:
            sent = dict(request.headers)
            yield field(
                name.removeprefix("HTTP_").lower(),
                MAX_HEADER_BYTES,
                lambda text, name=name, sent=sent: replace(request, headers=tuple((sent | {name: text}).items())),
                ORDINARY_HEADERS.get(name, ""),
                in_bytes=True,
            )
        if "alice" in request.path or (request.method == "GET" and PROMISE in request.path):
            yield field("repository", MAX_URL_CHARACTERS, lambda text: replace(request, repository=text), request.repository)
        # Operators send the other bodies, with the bearer token.
        if request.body is not None and (app != "in-cluster" or operation["operationId"] == "decideLaunch"):
            yield from self._fields_of_body(app, request, operation, document, field)

    @cached_property
    def headers(self) -> list[str]:
        """The headers that any app reads in any ordinary request, as WSGI names them."""
        read: set[str] = set()
        for app in self.apps:
            for request, _ in self.requests(app):
                self._publish(request.repository)
                run_wsgi_app(self.apps[app], _Noting(request.environ(), read))
        return sorted(read)

    def _fields_of_body(
        self, app: str, request: Request, operation: dict[str, Any], document: dict[str, Any], field: Callable[..., Field]
    ) -> Iterator[Field]:
        body = json.loads(request.body or b"")
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        longest = MAX_BODY_BYTES if app == "public" else MAX_HOOK_BYTES

        room = longest - len(request.body or b"")

        def with_member(name: str, value: str | list[str]) -> Request:
            made = json.dumps(body | {name: value}, ensure_ascii=False).encode()
            if len(made) > longest:
                # Characters may have several bytes.
                return with_member(name, value[: (len(value) - 1) * room // len(made)])
            return replace(request, body=made)

        def with_json(name: str, text: str) -> Request:
            others = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in body.items() if key != name]
            return replace(request, body=f"{{{', '.join([*others, f'{json.dumps(name)}: {text}'])}}}".encode())

        yield field("body", longest, lambda text: replace(request, body=text.encode()), in_bytes=True, is_new=False)
        for name, schema in (document["components"]["schemas"][reference]["properties"] | {"unknown": {}}).items():
            kinds = {kind["type"]: kind for kind in schema.get("anyOf", [schema]) if "type" in kind}
            begins = body.get(name, "")
            if "string" in kinds:
                most = min(kinds["string"].get("maxLength", room), room)
                yield field(f"body, {name}", most, lambda text, name=name: with_member(name, text), begins)
            if "array" in kinds:
                each, most = kinds["array"]["items"]["maxLength"], kinds["array"]["maxItems"]

                def listed(text: str, name: str = name, each: int = each) -> Request:
                    return with_member(name, [text[at : at + each] for at in range(0, len(text), each)])

                yield field(f"body, {name}", min(each * most, room), listed)
            yield field(f"body, {name}, not as a text", room, lambda text, name=name: with_json(name, text), is_new=False)
        if solution := body.get("solution"):
            payload = json.loads(base64.b64decode(solution))
            most = MAX_SOLUTION_BYTES * 3 // 4 - len(json.dumps(payload))
            for path in _leaves(payload):

                def in_solution(text: str, path: tuple[str, ...] = path) -> Request:
                    return with_member("solution", _encoded(payload, path, text))

                yield field(f"body, solution, {'.'.join(path)}", most, in_solution, in_bytes=True)


def _leaves(value: object, *path: str) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, *path, name)
    else:
        yield path


def _encoded(payload: dict[str, Any], path: tuple[str, ...], text: str) -> str:
    made = copy.deepcopy(payload)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = text
    return base64.b64encode(json.dumps(made, ensure_ascii=False).encode()).decode()


# -- what each costs

SHORTEST = 100
"""The shortest length that is tried: shorter texts cost nothing that can be measured."""

REPEATS = 15
"""How often a request is sent that seems to cost too much. The least time counts, because other processes can only add to it."""


@dataclass(frozen=True)
class Cost:
    """What a hostile field costs, in seconds of processor time, beside an ordinary request, and one for a challenge.

    `times` has the time for each length, each half of the one before: a limit may spare longer texts.
    """

    field: Field
    shape: str
    ordinary: float
    challenge: float
    times: dict[int, float]

    @property
    def is_linear(self) -> bool:
        """Whether no length adds more than `MOST_TIMES` what half of it adds."""
        added = [time - self.ordinary for time in self.times.values()]
        # On a busy machine, the times of the same long request differ by a quarter.
        floor = max(FLOOR_SECONDS, self.ordinary / 4)
        return all(whole <= MOST_TIMES * max(half, floor) for whole, half in itertools.pairwise(added))

    @property
    def ratio(self) -> float:
        """How many ordinary requests the most expensive length costs."""
        return max(self.times.values()) / max(self.ordinary, self.challenge)

    def __str__(self) -> str:
        figures = ", ".join(f"{time * 1000:.2f} ms for {length}" for length, time in self.times.items())
        return f"{self.field.name}, {self.shape}: {self.ratio:.1f} ordinary ones; {self.ordinary * 1000:.2f} ms, {figures}"


def costs(site: Site, is_fine: Callable[[Cost], bool]) -> Iterator[Cost]:
    """What each field costs in each shape. Each request is sent once; if that does not seem fine, `REPEATS` times."""

    def least(app: str, request: Request) -> float:
        return min(site.send(app, request) for _ in range(REPEATS))

    challenge, ordinary = least("public", Request("GET", "/egress/challenge")), dict[Request, float]()
    for field in site.fields():
        if field.ordinary not in ordinary:
            ordinary[field.ordinary] = least(field.app, field.ordinary)
        for name, shape in SHAPES.items():
            for begins in dict.fromkeys((field.begins, "")):
                kind = f"{name} after {begins:.20}" if begins else name
                for repeats in (1, REPEATS):
                    times = _times(site, replace(field, begins=begins), shape, repeats)
                    found = Cost(field, kind, ordinary[field.ordinary], challenge, times)
                    if is_fine(found):
                        break
                yield found


def _times(site: Site, field: Field, shape: Text, repeats: int) -> dict[int, float]:
    length, lengths = field.longest, [field.longest]
    while (length := length // 2) >= SHORTEST:
        lengths.append(length)
    times = dict.fromkeys(lengths, float("inf"))
    for _ in range(repeats):
        for length in lengths:
            times[length] = min(times[length], site.send(field.app, field.filled(shape, length)))
    return times


@contextmanager
def site() -> Iterator[Site]:
    """A site with its own Redis."""
    server = RedisServer()
    server.start()
    with TemporaryDirectory() as folder:
        made = Site(server, Path(folder))
        try:
            yield made
        finally:
            made.close()
            server.stop()
