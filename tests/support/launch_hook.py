"""Runs the launch hook, chart/integration/launch_hook.py, between doubles of BinderHub's requests and of the verifier."""

import asyncio
import builtins
import contextlib
import json
import logging
import time
from types import SimpleNamespace
from urllib.parse import urlencode

from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.netutil import bind_sockets
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.web import Application, RequestHandler
from traitlets.config import Config

from tests.support import TOP

SNIPPET = TOP / "chart/integration/launch_hook.py"
PASS = "pass-that-no-log-may-hold"
API_TOKEN = "api-token-that-no-log-may-hold"
REPOSITORY = "https://example.com/fake/repo.git"
IMAGE = "registry.example.com/fake/repo:1a2b3c"
ANSWER = {"tier": "verified", "rule": "valid-pass", "grant": "g1"}

PRODUCT_SECONDS = 1.0
"""The longest that a launch may wait."""

LIMIT_SECONDS = 1.3
"""The same with room for the rest of a launch, measured with a `Stopwatch`."""


class Stopwatch:
    """Measures seconds of an event loop, without the delays of a busy machine."""

    def __init__(self):
        self._began = self._at = time.monotonic()
        self._late = 0.0
        self._ticking = asyncio.ensure_future(self._tick())

    async def _tick(self):
        while True:
            self._at = time.monotonic()
            await asyncio.sleep(0.01)
            self._late += self._late_now()

    def _late_now(self):
        return max(0.0, time.monotonic() - self._at - 0.01)

    def stop(self):
        self._ticking.cancel()
        return time.monotonic() - self._began - self._late - self._late_now()


def no_secret_in_any_log(caplog):
    """A generator for a fixture: neither the pass nor the verifier's token may be in a log line of any level."""
    caplog.set_level(logging.DEBUG)
    yield
    for when in ("setup", "call", "teardown"):
        for record in caplog.get_records(when):
            text = logging.Formatter().format(record)
            assert PASS not in text
            assert API_TOKEN not in text


class Wiring:
    """A config object with the hook, as in BinderHub after it has read its config file.

    `before` is called first, with the config, as an operator's earlier snippet would be. Tests of the limit use the product's; all
    others leave time for a slow machine.
    """

    def __init__(self, monkeypatch, api, token=API_TOKEN, before=None, limit_seconds=30.0):
        for name, value in {"BINDER_EGRESS_API": api, "BINDER_EGRESS_API_TOKEN": token}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        # The hook's view of the `time` module, in which a test can let half a minute pass.
        self.clock = SimpleNamespace(ahead=0.0, time=time.time, monotonic=lambda: time.monotonic() + self.clock.ahead)
        self.config = Config()
        if before:
            before(self.config)

        def import_with_own_clock(name, *args, **kwargs):
            return self.clock if name == "time" else builtins.__import__(name, *args, **kwargs)

        self.namespace = {"c": self.config, "__builtins__": {**vars(builtins), "__import__": import_with_own_clock}}
        text = SNIPPET.read_text()
        product = f"    limit_seconds = {PRODUCT_SECONDS}\n"
        assert text.count(product) == 1
        exec(compile(text.replace(product, f"    limit_seconds = {limit_seconds}\n"), SNIPPET, "exec"), self.namespace)

    def badge(self, handler):
        """The same as BinderHub's BaseHandler.get_badge_base_url with a configured function."""
        url = self.config.BinderHub.badge_base_url(handler)
        return url if url.endswith("/") else url + "/"

    async def launch(self, user="fake-repo-abc", server="", image=IMAGE, repository=REPOSITORY, launcher=None):
        """The same as BinderHub's Launcher.launch: runs the hook in its own task. Returns its seconds."""
        watch = Stopwatch()
        try:
            await asyncio.ensure_future(self.config.Launcher.pre_launch_hook(launcher or object(), image, user, server, repository))
        finally:
            seconds = watch.stop()
        return seconds


@contextlib.asynccontextmanager
async def serve(*routes, port=0, **settings):
    """A real HTTP server on loopback, by default on a free port. Yields its address."""
    # No access log, because a server that plays BinderHub would write the query into it, and the tests are about our own logs.
    settings = {"base_url": "/binder/", "log_function": lambda handler: None, **settings}
    server = HTTPServer(Application(list(routes), **settings), xheaders=True)
    sockets = bind_sockets(port, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()


class Verifier(RequestHandler):
    """Plays the verifier's in-cluster port: keeps the requests, and answers with `settings["answer"]`."""

    async def post(self):
        self.settings["seen"].append((dict(self.request.headers), json.loads(self.request.body)))
        await self.settings["answer"](self)


async def good(handler):
    handler.write(ANSWER)


def verifier(seen, answer=good, port=0):
    """The verifier's server, as an async context manager."""
    return serve((r"/(?:api/launches|elsewhere)", Verifier), port=port, seen=seen, answer=answer)


def is_late(body):
    """Whether a launch is announced in the background, because it could not be announced in time."""
    return "launched_at" in body


def in_time(seen):
    """The launches among the requests that were announced in time."""
    return [body for _, body in seen if not is_late(body)]


class Build(RequestHandler):
    """Plays BuildHandler: the badge address first, then up to four launches, each with a new user name."""

    def get_current_user(self):
        """The same as in BinderHub's BaseHandler: JupyterHub's model of the user, or a word without auth_enabled."""
        return self.settings.get("user", "anonymous")

    async def get(self, number):
        """Answer with the badge address and the seconds that each hook took."""
        wiring, seconds = self.settings["wiring"], []
        self.settings.setdefault("began", []).append(time.time())
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


async def get(url, headers=None, **query):
    """One build request; returns the decoded answer."""
    client = SimpleAsyncHTTPClient(force_instance=True, max_clients=100)
    request = HTTPRequest(f"{url}?{urlencode(query)}", headers=HTTPHeaders(headers or {}), request_timeout=30)
    return json.loads((await client.fetch(request)).body)


async def slow(handler):
    await asyncio.sleep(10)


async def garbage(handler):
    handler.write(b"\x00\xff<html>")


async def error(handler):
    """Status 503, as without Redis, with the request in the answer."""
    handler.set_status(503)
    handler.write(handler.request.body)
