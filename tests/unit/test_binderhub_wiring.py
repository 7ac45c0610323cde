"""The snippet that BinderHub runs, chart/integration/launch_hook.py: what it sends, and what it survives.

The snippet is loaded as BinderHub loads it, between a server that plays BinderHub's build requests and one that plays
the verifier. The last tests drive BinderHub itself, where that package is installed, and the stand-in in any case: they
hold the two to the same order of calls.
"""

import asyncio
import builtins
import concurrent.futures
import contextlib
import importlib.util
import itertools
import json
import logging
import socket
import time
import types
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.web import Application, RequestHandler
from traitlets.config import Config

SNIPPET = Path(__file__).parents[2] / "chart/integration/launch_hook.py"
STANDIN = Path(__file__).parents[1] / "cluster" / "binderhub-for-tests" / "chart" / "files" / "standin.py"
PASS = "pass-that-no-log-may-hold"
API_TOKEN = "api-token-that-no-log-may-hold"
REPOSITORY = "https://example.com/fake/repo.git"
IMAGE = "registry.example.com/fake/repo:1a2b3c"
LIMIT = 1.3  # seconds: the second that the snippet has, and what a busy machine adds
ANSWER = {"tier": "verified", "rule": "valid-pass", "grant": "g1"}


@pytest.fixture(scope="module")
def snippet():
    """The text of the snippet."""
    return SNIPPET.read_text()


@pytest.fixture(autouse=True)
def _no_secret_in_any_log(caplog):
    """Whatever a test does: neither the pass nor the verifier's token may be in a log line of any level."""
    caplog.set_level(logging.DEBUG)
    yield
    for when in ("setup", "call", "teardown"):
        for record in caplog.get_records(when):
            text = logging.Formatter().format(record)
            assert PASS not in text
            assert API_TOKEN not in text


class Clock:
    """The snippet's own view of the `time` module, so that a test can let half a minute pass."""

    def __init__(self):
        self.ahead = 0.0

    def monotonic(self):
        """Seconds of the real clock, plus what the test skipped."""
        return time.monotonic() + self.ahead

    def time(self):
        """Unix seconds."""
        return time.time()


class Wiring:
    """A config object after the snippet ran on it, as BinderHub has it after reading its config file."""

    def __init__(self, snippet, monkeypatch, api, token=API_TOKEN, before=None):
        """Run the snippet. `before` is called with the config first, as an operator's earlier snippet would be."""
        for name, value in {"BINDER_EGRESS_API": api, "BINDER_EGRESS_API_TOKEN": token}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        self.clock = Clock()
        self.config = Config()
        if before:
            before(self.config)

        def import_with_own_clock(name, *args, **kwargs):
            return self.clock if name == "time" else builtins.__import__(name, *args, **kwargs)

        self.namespace = {"c": self.config, "__builtins__": {**vars(builtins), "__import__": import_with_own_clock}}
        exec(compile(snippet, SNIPPET, "exec"), self.namespace)

    def badge(self, handler):
        """As BinderHub's BaseHandler.get_badge_base_url, with a function configured."""
        url = self.config.BinderHub.badge_base_url(handler)
        return url if url.endswith("/") else url + "/"

    async def launch(self, user="fake-repo-abc", server="", image=IMAGE, repository=REPOSITORY, launcher=None):
        """As BinderHub's Launcher.launch: hook in a task of its own; returns the seconds that it took."""
        began = time.monotonic()
        result = self.config.Launcher.pre_launch_hook(launcher or object(), image, user, server, repository)
        await asyncio.ensure_future(result)
        return time.monotonic() - began


def port_of(server_socket):
    """The port that the system picked."""
    return server_socket.getsockname()[1]


@contextlib.asynccontextmanager
async def serve(*routes, **settings):
    """A real HTTP server on the loopback address; gives its address."""
    # No access log: a server that plays BinderHub would write the query there, and what counts here are our own logs.
    settings = {"base_url": "/binder/", "log_function": lambda handler: None, **settings}
    server = HTTPServer(Application(list(routes), **settings), xheaders=True)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{port_of(sockets[0])}"
    finally:
        server.stop()
        await server.close_all_connections()


class Verifier(RequestHandler):
    """Plays the verifier's in-cluster port: keeps what came, answers what `settings["answer"]` says."""

    async def post(self):
        """One announced launch."""
        self.settings["seen"].append((dict(self.request.headers), json.loads(self.request.body)))
        await self.settings["answer"](self)


async def good(handler):
    """The documented answer."""
    handler.write(ANSWER)


def verifier(seen, answer=good):
    """The verifier's server, as an async context manager."""
    return serve((r"/(?:api/launches|elsewhere)", Verifier), seen=seen, answer=answer)


class Build(RequestHandler):
    """Plays BuildHandler: the badge address first, then up to four launches, each with a new user name."""

    def get_current_user(self):
        """As BinderHub's BaseHandler: JupyterHub's model of the user, or a word without auth_enabled."""
        return self.settings.get("user", "anonymous")

    async def get(self, number):
        """Answer with the badge address and the seconds that each hook took."""
        wiring, seconds = self.settings["wiring"], []
        await asyncio.sleep(self.settings.get("resolving", 0))
        url = wiring.badge(self)
        await asyncio.sleep(self.settings.get("building", 0))
        for attempt in range(int(self.get_query_argument("attempts", "1"))):
            user = f"fake-repo-{number}-{attempt}"
            seconds.append(await wiring.launch(user=user, launcher=self.settings.get("launcher")))
        self.write({"url": url, "seconds": seconds})


def binderhub(wiring, **settings):
    """BinderHub's server, as an async context manager."""
    return serve((r"/build/(.*)", Build), wiring=wiring, **settings)


async def get(url, client=None, headers=None, **query):
    """One build request; returns the decoded answer."""
    client = client or SimpleAsyncHTTPClient(force_instance=True, max_clients=100)
    request = HTTPRequest(f"{url}?{urlencode(query)}", headers=HTTPHeaders(headers or {}), request_timeout=30)
    return json.loads((await client.fetch(request)).body)


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_launch_is_announced_with_what_the_request_brought(snippet, monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            async with binderhub(wiring, resolving=0.4, building=0.4) as hub:
                before = time.time()
                await get(f"{hub}/build/1", headers={"X-Real-Ip": "203.0.113.9"}, egress_token=PASS)
        [(headers, body)] = seen
        assert headers["Authorization"] == f"Bearer {API_TOKEN}"
        assert headers["Content-Type"] == "application/json"
        # The arrival counts, not the end of the build.
        assert before - 0.1 <= body.pop("requested_at") <= before + 0.3
        assert body == {
            "user": "fake-repo-1-0",
            "server": "",
            "image": IMAGE,
            "repository": REPOSITORY,
            "token": PASS,
            "client_address": "203.0.113.9",
            "groups": [],
            "context": True,
            "authenticated": False,
        }

    asyncio.run(main())


@pytest.mark.parametrize(
    ("query", "token"),
    [
        ("", None),
        ("egress_token=", None),
        ("egress_token=%20%20", None),
        ("egress_token=a&egress_token=b", "b"),
        ("egress_token=%ff%fe", "\ufffd\ufffd"),
        ("egress_token=" + "x" * 20000, "x" * 4096),
    ],
)
def test_odd_tokens_arrive_as_what_the_verifier_can_refuse(snippet, monkeypatch, query, token):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            client = SimpleAsyncHTTPClient(force_instance=True)
            await client.fetch(f"{hub}/build/1?{query}")
        assert [body["token"] for _, body in seen] == [token]
        assert seen[0][1]["context"] is True

    asyncio.run(main())


@pytest.mark.parametrize(
    ("create_user", "user", "told"),
    [
        (True, "anonymous", (False, [])),
        (False, {"name": "alice", "kind": "user", "groups": ["staff", "x" * 300]}, (True, ["staff", "x" * 255])),
        (False, {"name": "alice", "kind": "user"}, (True, [])),
        (False, {"name": "alice", "groups": None}, (True, [])),
        (None, {"name": "alice", "groups": ["g"] * 2000}, (False, ["g"] * 1000)),
    ],
)
def test_who_logged_in_is_told_with_their_groups(snippet, monkeypatch, create_user, user, told):
    """BinderHub's launcher makes users itself unless auth_enabled; the groups come with JupyterHub's model of the user."""

    async def main():
        seen = []
        launcher = types.SimpleNamespace(**({} if create_user is None else {"create_user": create_user}))
        async with verifier(seen) as api, binderhub(Wiring(snippet, monkeypatch, api), launcher=launcher, user=user) as hub:
            await get(f"{hub}/build/1", egress_token=PASS)
        [(_, body)] = seen
        assert (body["authenticated"], body["groups"]) == told
        assert body["token"] == PASS

    asyncio.run(main())


def test_each_attempt_of_one_request_posts_the_same_token(snippet, monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            await get(f"{hub}/build/1", egress_token=PASS, attempts=4)
        assert [body["user"] for _, body in seen] == [f"fake-repo-1-{attempt}" for attempt in range(4)]
        assert {body["token"] for _, body in seen} == {PASS}
        assert len({body["requested_at"] for _, body in seen}) == 1

    asyncio.run(main())


def test_a_launch_without_a_request_says_that_the_context_is_lost(snippet, monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api:
            await Wiring(snippet, monkeypatch, api).launch()
        [(_, body)] = seen
        assert body["context"] is False
        assert (body["token"], body["client_address"], body["requested_at"]) == (None, None, None)

    asyncio.run(main())


def test_forty_requests_at_once_never_mix_their_tokens(snippet, monkeypatch):
    """Two in three carry a token."""

    async def main():
        seen = []
        async with (
            verifier(seen) as api,
            binderhub(Wiring(snippet, monkeypatch, api), building=0.05) as hub,
        ):
            queries = [{"egress_token": f"{PASS}-{n}"} if n % 3 else {} for n in range(40)]
            await asyncio.gather(*(get(f"{hub}/build/{n}", **query) for n, query in enumerate(queries)))
        got = {body["user"]: body["token"] for _, body in seen}
        assert got == {f"fake-repo-{n}-0": query.get("egress_token") for n, query in enumerate(queries)}

    asyncio.run(main())


def test_a_token_does_not_outlive_its_request_on_a_kept_connection(snippet, monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(hub.rsplit(":", 1)[1]))
            for path in (f"/build/1?egress_token={PASS}", "/build/2"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: hub.example\r\n\r\n".encode())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                length = next(line for line in head.decode().splitlines() if line.lower().startswith("content-length"))
                await reader.readexactly(int(length.split(":")[1]))
            writer.close()
        assert [body["token"] for _, body in seen] == [PASS, None]

    asyncio.run(main())


# --- what was configured before ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "url"),
    [
        (None, "https://hub.example/binder/"),
        ("", "https://hub.example/binder/"),
        (lambda handler: "", "https://hub.example/binder/"),
        ("https://badges.example/", "https://badges.example/"),
        ("https://badges.example", "https://badges.example/"),
        (lambda handler: f"https://{handler.request.host}/own", "https://hub.example/own/"),
    ],
    ids=["nothing", "empty", "function-empty", "text", "text-without-slash", "function"],
)
def test_the_badge_address_stays_what_it_was(snippet, monkeypatch, before, url):
    def configure(c):
        if before is not None:
            c.BinderHub.badge_base_url = before

    async def main():
        async with (
            verifier([]) as api,
            binderhub(Wiring(snippet, monkeypatch, api, before=configure)) as hub,
        ):
            answer = await get(f"{hub}/build/1", headers={"Host": "hub.example", "X-Forwarded-Proto": "https"})
        assert answer["url"] == url

    asyncio.run(main())


def test_traits_that_were_only_read_before_count_as_not_set(snippet, monkeypatch):
    """Reading a missing trait leaves a placeholder in the config object, which is neither text nor function."""

    def configure(c):
        assert c.BinderHub.badge_base_url is not None
        assert c.Launcher.pre_launch_hook is not None

    async def main():
        seen = []
        async with (
            verifier(seen) as api,
            binderhub(Wiring(snippet, monkeypatch, api, before=configure)) as hub,
        ):
            assert (await get(f"{hub}/build/1", egress_token=PASS))["url"] == f"{hub}/binder/"
        assert len(seen) == 1

    asyncio.run(main())


def hooks_before():
    """Every kind of hook that BinderHub accepts; each keeps its arguments."""
    calls = []
    pool = concurrent.futures.ThreadPoolExecutor(1)

    def plain(*args):
        calls.append(args)

    async def coroutine(*args):
        await asyncio.sleep(0.1)
        calls.append(args)

    def late(*args):
        time.sleep(0.1)
        calls.append(args)

    def thread(*args):
        return pool.submit(late, *args)

    return calls, [plain, coroutine, thread]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["plain", "coroutine", "thread"])
def test_the_hook_from_before_is_called_first(snippet, monkeypatch, kind):
    calls, hooks = hooks_before()

    async def main():
        async def announced(handler):
            calls.append("announced")
            await good(handler)

        async with verifier([], announced) as api:
            await Wiring(snippet, monkeypatch, api, before=lambda c: c.Launcher.update(pre_launch_hook=hooks[kind])).launch()

    asyncio.run(main())
    (_, *arguments), announced = calls
    assert arguments == [IMAGE, "fake-repo-abc", "", REPOSITORY]
    assert announced == "announced"


class Refused(Exception):
    """What an operator's own hook may raise."""


def refuse_plain(*args):
    """A plain hook that lets nothing start."""
    raise Refused("hook says no")


async def refuse_coroutine(*args):
    """The same as a coroutine."""
    raise Refused("hook says no")


@pytest.mark.parametrize("hook", [refuse_plain, refuse_coroutine])
def test_a_refusal_by_the_hook_from_before_passes_through(snippet, monkeypatch, hook):
    """It is not for us to change, and a launch that will not happen is not announced."""

    async def main():
        seen = []
        async with verifier(seen) as api:
            wiring = Wiring(snippet, monkeypatch, api, before=lambda c: c.Launcher.update(pre_launch_hook=hook))
            with pytest.raises(Refused, match="hook says no"):
                await wiring.launch()
        assert seen == []

    asyncio.run(main())


def test_arguments_that_a_later_binderhub_may_add_reach_the_hook_from_before(snippet, monkeypatch):
    calls = []

    async def main():
        async with verifier([]) as api:
            wiring = Wiring(
                snippet,
                monkeypatch,
                api,
                before=lambda c: c.Launcher.update(pre_launch_hook=lambda *args, **named: calls.append((args, named))),
            )
            await wiring.config.Launcher.pre_launch_hook(None, IMAGE, "u", "s", REPOSITORY, {"a": 1}, extra=2)
        assert calls == [((None, IMAGE, "u", "s", REPOSITORY, {"a": 1}), {"extra": 2})]

    asyncio.run(main())


def test_config_snippets_that_follow_find_no_name_of_ours(snippet, monkeypatch):
    wiring = Wiring(snippet, monkeypatch, "http://127.0.0.1:9")
    assert set(wiring.namespace) == {"c", "__builtins__"}


@pytest.mark.parametrize(("api", "token"), [(None, None), ("http://v", None), (None, "t"), ("", ""), ("http://v", " ")])
def test_without_its_two_variables_it_changes_nothing(snippet, monkeypatch, caplog, api, token):
    wiring = Wiring(snippet, monkeypatch, api, token)
    assert "badge_base_url" not in wiring.config.BinderHub
    assert "pre_launch_hook" not in wiring.config.Launcher
    assert [record.getMessage() for record in caplog.records if "binder-egress" in record.getMessage()] == [
        "binder-egress: idle, BINDER_EGRESS_API or BINDER_EGRESS_API_TOKEN is not set"
    ]


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def slow(handler):
    """Ten seconds; in the end nobody listens."""
    await asyncio.sleep(10)


async def garbage(handler):
    """200, and not JSON."""
    handler.write(b"\x00\xff<html>")


async def other_json(handler):
    """200, and JSON of another shape."""
    handler.write("[1, 2]")


async def echo(handler):
    """200, and what was sent, which holds the pass."""
    handler.write(handler.request.body)


async def error(handler):
    """500, quoting what was sent."""
    handler.set_status(500)
    handler.write(handler.request.body)


async def unauthorized(handler):
    """The bearer token is wrong."""
    handler.set_status(401, f"wrong token {API_TOKEN}")


async def huge(handler):
    """50 MB in one answer."""
    with contextlib.suppress(StreamClosedError):
        for handler.settings["megabytes"] in range(50):
            handler.write(b"x" * 1_000_000)
            await handler.flush()


async def halfway(handler):
    """The head and half a body, then silence."""
    handler.set_header("Content-Length", "100")
    handler.write(b'{"tier": "ver')
    await handler.flush()
    await asyncio.sleep(10)


async def drip(handler):
    """A byte now and then, for ever: no single wait is long."""
    with contextlib.suppress(StreamClosedError):
        while True:
            handler.write(b" ")
            await handler.flush()
            await asyncio.sleep(0.05)


async def elsewhere(handler):
    """A redirect, which would carry the bearer token to another place."""
    handler.redirect("/elsewhere", status=307)


FAULTS = [slow, garbage, other_json, echo, error, unauthorized, huge, halfway, drip, elsewhere]


@pytest.mark.parametrize("answer", FAULTS)
def test_no_answer_of_the_verifier_fails_or_delays_a_launch(snippet, monkeypatch, answer):
    async def main():
        seen = []
        async with verifier(seen, answer) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            reply = await get(f"{hub}/build/1", egress_token=PASS)
        assert len(seen) == 1
        assert max(reply["seconds"]) < LIMIT

    asyncio.run(main())


def test_all_attempts_of_one_request_wait_one_second_together(snippet, monkeypatch):
    async def main():
        seen = []
        async with verifier(seen, slow) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            reply = await get(f"{hub}/build/1", egress_token=PASS, attempts=4)
            assert sum(reply["seconds"]) < LIMIT
            reply = await get(f"{hub}/build/2", egress_token=PASS)
            assert reply["seconds"][0] > 0.5, "the next request has a second of its own"

    asyncio.run(main())


@contextlib.asynccontextmanager
async def raw(talk):
    """A TCP server that says what no HTTP server would; gives its address."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port_of(server.sockets[0])}"
    finally:
        server.close()


async def no_head(reader, writer):
    """Accepts and says nothing."""
    await reader.read(1)
    await asyncio.sleep(3)
    writer.close()


async def no_http(reader, writer):
    """Another protocol, quoting what was sent."""
    writer.write(await reader.read(65536) * 3)
    writer.close()


async def endless_head(reader, writer):
    """Headers without an end."""
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(20000):
            writer.write(b"X-%d: %s\r\n" % (n, b"y" * 100))
            await writer.drain()
    writer.close()


async def closes(reader, writer):
    """Hangs up."""
    writer.close()


@pytest.mark.parametrize("talk", [no_head, no_http, endless_head, closes])
def test_no_connection_fails_or_delays_a_launch(snippet, monkeypatch, talk):
    async def main():
        async with raw(talk) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            reply = await get(f"{hub}/build/1", egress_token=PASS)
        assert max(reply["seconds"]) < LIMIT

    asyncio.run(main())


@pytest.mark.parametrize(
    "api",
    [
        "http://127.0.0.1:9",  # refused
        "http://192.0.2.1",  # no answer, or no route
        "http://binder-egress.invalid:8081",  # no such name
        "binder-egress:8081",  # forgot http://
        "ftp://binder-egress",
        "http://[::1",
        "http://:0",
        "http://\u00e4\u20ac:port",
    ],
)
def test_no_address_fails_or_delays_a_launch(snippet, monkeypatch, api):
    async def main():
        async with binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            reply = await get(f"{hub}/build/1", egress_token=PASS)
        assert max(reply["seconds"]) < LIMIT

    asyncio.run(main())


def test_a_token_that_is_no_header_fails_no_launch(snippet, monkeypatch):
    async def main():
        async with verifier([]) as api:
            wiring = Wiring(snippet, monkeypatch, api, token=f"{API_TOKEN}\r\nX: y")
            assert await wiring.launch() < LIMIT

    asyncio.run(main())


def test_a_name_server_that_hangs_delays_no_launch(snippet, monkeypatch):
    real = socket.getaddrinfo

    def hang(host, *args, **kwargs):
        if host == "binder-egress":
            time.sleep(2)
            raise socket.gaierror("timed out")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async def main():
        async with binderhub(Wiring(snippet, monkeypatch, "http://binder-egress:8081")) as hub:
            ticks = []

            async def tick():
                while True:
                    ticks.append(time.monotonic())
                    await asyncio.sleep(0.02)

            ticking = asyncio.create_task(tick())
            replies = await asyncio.gather(*(get(f"{hub}/build/{n}") for n in range(3)))
            ticking.cancel()
        assert max(second for reply in replies for second in reply["seconds"]) < LIMIT
        # The look-up waits in a thread: everything else that BinderHub does goes on.
        assert max(b - a for a, b in itertools.pairwise(ticks)) < 0.5

    asyncio.run(main())


def test_a_huge_answer_is_not_taken_in(snippet, monkeypatch):
    async def main():
        megabytes = []

        async def answer(handler):
            await huge(handler)
            megabytes.append(handler.settings["megabytes"])

        async with verifier([], answer) as api:
            await Wiring(snippet, monkeypatch, api).launch()
            await asyncio.sleep(0.1)
        # The sockets between the two hold a few without being read.
        assert megabytes[0] < 20

    asyncio.run(main())


def test_a_client_that_keeps_no_limit_delays_no_launch(snippet, monkeypatch):
    """The limits inside the client are one thing; the second in all is kept outside of it."""
    monkeypatch.setattr(SimpleAsyncHTTPClient, "fetch", lambda *args, **kwargs: asyncio.Future())

    async def main():
        assert await Wiring(snippet, monkeypatch, "http://127.0.0.1:9").launch() < LIMIT

    asyncio.run(main())


def test_a_connection_is_not_left_open_to_a_hanging_verifier(snippet, monkeypatch):
    async def main():
        closed = asyncio.Event()

        async def talk(reader, writer):
            while await reader.read(65536):
                pass
            closed.set()
            writer.close()

        async with raw(talk) as api:
            await Wiring(snippet, monkeypatch, api).launch()
            await asyncio.wait_for(closed.wait(), 0.5)

    asyncio.run(main())


def test_a_rush_of_launches_is_announced_at_once(snippet, monkeypatch):
    """None waits for another's answer, as in BinderHub's own client where ten requests are the most at a time."""

    async def main():
        seen, tiers, all_there = [], [], asyncio.Event()

        async def when_all_are_there(handler):
            if len(seen) == 30:
                all_there.set()
            await all_there.wait()
            await good(handler)
            tiers.append("verified")

        async with verifier(seen, when_all_are_there) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            await asyncio.gather(*(wiring.launch(user=f"u{n}") for n in range(30)))
        assert len(tiers) == 30

    asyncio.run(main())


def test_forty_launches_at_once_into_a_hanging_verifier_wait_no_longer_than_one(snippet, monkeypatch):
    async def main():
        async with verifier([], slow) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            seconds = await asyncio.gather(*(wiring.launch(user=f"u{n}") for n in range(40)))
        assert max(seconds) < LIMIT

    asyncio.run(main())


def test_a_handler_that_cannot_be_read_gets_its_address_all_the_same(snippet, monkeypatch):
    """Only what is ours is caught: the address itself comes from where it always came from."""

    async def main():
        seen = []
        async with verifier(seen) as api:
            wiring = Wiring(
                snippet, monkeypatch, api, before=lambda c: c.BinderHub.update(badge_base_url="https://badges.example/")
            )
            assert wiring.badge(types.SimpleNamespace()) == "https://badges.example/"
            await wiring.launch()
        assert seen[0][1]["context"] is False

    asyncio.run(main())


def test_a_launch_that_is_cancelled_stays_cancelled(snippet, monkeypatch):
    async def main():
        async with verifier([], slow) as api:
            task = asyncio.ensure_future(Wiring(snippet, monkeypatch, api).launch())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


# --- the rest after repeated failures ---------------------------------------------------------------------------------


def test_after_three_failures_in_a_row_no_call_for_half_a_minute(snippet, monkeypatch, caplog):
    async def main():
        seen, answers = [], [error] * 4 + [good] * 10

        async def answer(handler):
            await answers.pop(0)(handler)

        async with verifier(seen, answer) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            for _ in range(3):
                await wiring.launch()
            assert len(seen) == 3
            for _ in range(20):
                assert await wiring.launch() < 0.1
            assert len(seen) == 3
            wiring.clock.ahead += 29
            await wiring.launch()
            assert len(seen) == 3
            # The rest is over: one call, which fails again, and the next rest begins at once.
            wiring.clock.ahead += 2
            await wiring.launch()
            await wiring.launch()
            assert len(seen) == 4
            wiring.clock.ahead += 31
            for _ in range(5):
                await wiring.launch()
            assert len(seen) == 9

    asyncio.run(main())
    assert sum("no calls for 30 s" in record.getMessage() for record in caplog.records) == 2


def test_a_success_ends_the_count(snippet, monkeypatch):
    async def main():
        seen, answers = [], [error, error, good, error, error, good]

        async def answer(handler):
            await answers.pop(0)(handler)

        async with verifier(seen, answer) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            for _ in range(6):
                await wiring.launch()
        assert len(seen) == 6

    asyncio.run(main())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refusals_of_one_launch_do_not_stop_the_others(snippet, monkeypatch, status):
    """A visitor may be able to cause these, so they must not be a switch that turns egress off for everybody."""

    async def refuse(handler):
        handler.set_status(status)

    async def main():
        seen = []
        async with verifier(seen, refuse) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            for _ in range(8):
                await wiring.launch()
        assert len(seen) == 8

    asyncio.run(main())


@pytest.mark.parametrize("answer", [garbage, other_json, unauthorized, elsewhere])
def test_answers_that_only_a_broken_verifier_gives_do_count(snippet, monkeypatch, answer):
    async def main():
        seen = []
        async with verifier(seen, answer) as api:
            wiring = Wiring(snippet, monkeypatch, api)
            for _ in range(6):
                await wiring.launch()
        assert len(seen) == 3

    asyncio.run(main())


def test_one_line_for_each_launch(snippet, monkeypatch, caplog):
    async def main():
        async with verifier([]) as api, binderhub(Wiring(snippet, monkeypatch, api)) as hub:
            await get(f"{hub}/build/1", egress_token=PASS)

    asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if "binder-egress" in record.getMessage()]
    assert lines == ["binder-egress: fake-repo-1-0/ tier=verified rule=valid-pass"]


# --- the real BinderHub, and the stand-in that the cluster tests use without it ---------------------------------------


class Hub(RequestHandler):
    """Plays the part of JupyterHub's API that BinderHub's launcher uses; fails `settings["failures"]` spawns first."""

    def prepare(self):
        """Keep the order of the calls."""
        self.settings["calls"].append(f"{self.request.method} {self.request.path}")

    def post(self, path):
        """A user, or a server."""
        self.set_status(201)

    def get(self, path):
        """The progress stream: one event."""
        event = {"progress": 100, "message": "Server ready", "ready": True}
        if self.settings["failures"]:
            self.settings["failures"].pop()
            event = {"progress": 100, "message": "Spawn failed", "failed": True}
        self.set_header("content-type", "text/event-stream")
        self.write(f"data: {json.dumps(event)}\n\n")


def real_binderhub(config):
    """The real BinderHub, on images that are always there."""
    app = pytest.importorskip("binderhub.app", reason="the Python package binderhub is not installed")
    from binderhub.registry import FakeRegistry
    from binderhub.repoproviders import FakeProvider

    class Built(FakeRegistry):
        async def get_image_manifest(self, image, tag):
            return {"image": image}

    config.BinderHub.update(builder_required=False, registry_class=Built, repo_providers={"fake": FakeProvider})
    app.BinderHub.clear_instance()
    binder = app.BinderHub.instance(config=config)
    binder.initialize([])
    binder.start(run_loop=False)
    return binder


def standin(config):
    """The stand-in, on the same repository that the real one's FakeProvider has."""
    spec = importlib.util.spec_from_file_location("standin", STANDIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Provider(module.RepoProvider):
        async def get_resolved_ref(self):
            return "1a2b3c4d5e6f"

        async def get_resolved_spec(self):
            return "fake/repo/1a2b3c4d5e6f"

        def get_repo_url(self):
            return REPOSITORY

        async def get_resolved_ref_url(self):
            return "https://example.com/fake/repo/tree/1a2b3c4d5e6f"

        def get_build_slug(self):
            return "Rick-Morty"

    config.BinderHub.repo_providers = {"fake": Provider}
    binder = module.BinderHub(config=config)
    binder.serving = asyncio.ensure_future(binder.serve())
    return binder


@contextlib.asynccontextmanager
async def running(start, wiring, hub):
    """One of the two, with the config that the snippet left; gives its address."""
    port = port_of(bind := bind_sockets(0, "127.0.0.1")[0])
    bind.close()
    wiring.config.BinderHub.update(port=port, base_url="/binder/", hub_url=f"{hub}/", hub_api_token="t")
    wiring.config.Launcher.retry_delay = 0
    binder = start(wiring.config)
    await asyncio.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}/binder"
    finally:
        binder.http_server.stop()
        await binder.http_server.close_all_connections()
        if start is standin:
            binder.serving.cancel()


both = pytest.mark.parametrize("start", [real_binderhub, standin])


async def events_until(url, *phases, seconds=20):
    """Read a build's event stream up to a phase; returns the events. BinderHub holds the stream open after the last."""
    events, buffer = [], b""
    reached = asyncio.get_running_loop().create_future()

    def chunk(data):
        nonlocal buffer
        *lines, buffer = (buffer + data).split(b"\n\n")
        events.extend(json.loads(line[6:]) for line in lines if line.startswith(b"data: "))
        if events and events[-1]["phase"] in phases and not reached.done():
            reached.set_result(None)

    request = HTTPRequest(url, headers={"Accept": "text/event-stream"}, streaming_callback=chunk, request_timeout=seconds)
    fetching = asyncio.ensure_future(SimpleAsyncHTTPClient(force_instance=True).fetch(request))
    await asyncio.wait({fetching, reached}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    fetching.cancel()
    with contextlib.suppress(asyncio.CancelledError, HTTPClientError):
        await fetching
    return events


@both
@pytest.mark.filterwarnings("default")
def test_binderhub_announces_each_attempt_before_it_starts_the_server(start, snippet, monkeypatch):
    async def main():
        seen, calls = [], []

        async def answer(handler):
            calls.append("announced")
            await good(handler)

        async with (
            verifier(seen, answer) as api,
            serve((r"/hub/api/(.*)", Hub), calls=calls, failures=[1]) as hub,
            running(start, Wiring(snippet, monkeypatch, api), hub) as binder,
        ):
            events = await events_until(f"{binder}/build/fake/a/b/c?egress_token={PASS}", "ready", "failed")
        assert events[-1]["phase"] == "ready"
        assert events[-1]["binder_launch_host"] == f"{binder}/"
        assert PASS not in json.dumps(events)
        # The first server fails to start: a second attempt, under another name, with the same pass.
        first, second = (body["user"] for _, body in seen)
        assert first != second
        assert calls == [
            f"POST /hub/api/users/{first}",
            "announced",
            f"POST /hub/api/users/{first}/servers/",
            f"GET /hub/api/users/{first}/server/progress",
            f"POST /hub/api/users/{second}",
            "announced",
            f"POST /hub/api/users/{second}/servers/",
            f"GET /hub/api/users/{second}/server/progress",
        ]
        for _, body in seen:
            assert body["token"] == PASS
            assert body["context"] is True
            assert body["client_address"] == "127.0.0.1"
            assert body["repository"] == REPOSITORY
            assert body["image"] == events[-1]["image"]

    asyncio.run(main())


@both
@pytest.mark.filterwarnings("default")
def test_binderhub_logs_no_pass_when_a_launch_fails(start, snippet, monkeypatch, caplog):
    """It logs the address of a failed request, and hides only what its access log writes."""

    async def main():
        async with (
            verifier([]) as api,
            serve((r"/hub/api/(.*)", Hub), calls=[], failures=[1] * 4) as hub,
            running(start, Wiring(snippet, monkeypatch, api), hub) as binder,
        ):
            events = await events_until(f"{binder}/build/fake/a/b/c?a=1&egress_token={PASS}&b=2", "ready", "failed")
        assert events[-1]["phase"] == "failed"

    asyncio.run(main())
    assert "a=1&egress_token=[secret]&b=2" in caplog.text


@both
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("answer", [slow, error, garbage])
def test_binderhub_launches_without_the_verifier(start, snippet, monkeypatch, answer):
    async def main():
        seen, calls = [], []
        async with (
            verifier(seen, answer) as api,
            serve((r"/hub/api/(.*)", Hub), calls=calls, failures=[]) as hub,
            running(start, Wiring(snippet, monkeypatch, api), hub) as binder,
        ):
            began = time.monotonic()
            events = await events_until(f"{binder}/build/fake/a/b/c?egress_token={PASS}", "ready", "failed")
            assert events[-1]["phase"] == "ready"
            assert time.monotonic() - began < 1 + LIMIT
        assert len(seen) == 1

    asyncio.run(main())
