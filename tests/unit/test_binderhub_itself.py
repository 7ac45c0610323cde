"""The real BinderHub, if its package is installed, and the stand-in of the cluster tests, with the launch hook.

Both must make the same calls in the same order.
"""

import asyncio
import contextlib
import importlib.util
import json
from urllib.request import Request

import pytest
from tornado.web import RequestHandler

from tests.support import TOP
from tests.support import launch_hook as hook
from tests.support.apps import DIRECT
from tests.support.ports import free_port

STANDIN = TOP / "tests/cluster/binderhub-for-tests/chart/files/standin.py"


@pytest.fixture(autouse=True)
def _no_secret_in_any_log(caplog):
    yield from hook.no_secret_in_any_log(caplog)


class Hub(RequestHandler):
    """Plays the part of JupyterHub's API that BinderHub's launcher uses; fails `settings["failures"]` spawns first."""

    def prepare(self):
        self.settings["calls"].append(f"{self.request.method} {self.request.path}")

    def post(self, path):
        self.set_status(201)

    def get(self, path):
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
    """The stand-in, on the repository of the real one's FakeProvider."""
    spec = importlib.util.spec_from_file_location("standin", STANDIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Provider(module.RepoProvider):
        async def get_resolved_ref(self):
            return "1a2b3c4d5e6f"

        async def get_resolved_spec(self):
            return "fake/repo/1a2b3c4d5e6f"

        def get_repo_url(self):
            return hook.REPOSITORY

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
    """One of the two, with the config of the launch hook. Yields its address."""
    port = free_port()
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


def events_until_end(url):
    """Read a build's event stream until it is ready or failed. Returns the events. BinderHub keeps the stream open afterwards."""
    events = []
    headers = {
        "Accept": "text/event-stream",
        "X-Real-Ip": "203.0.113.9",
        "X-Forwarded-For": "198.51.100.1",
        "User-Agent": "Mozilla/5.0",
    }
    with DIRECT.open(Request(url, headers=headers), timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                events.append(json.loads(line.removeprefix(b"data: ")))
                if events[-1]["phase"] in ("ready", "failed"):
                    break
    return events


@both
@pytest.mark.filterwarnings("default")
async def test_binderhub_announces_each_attempt_before_it_starts_the_server(start, monkeypatch):
    seen, calls = [], []

    async def answer(handler):
        calls.append("announced")
        await hook.good(handler)

    async with (
        hook.verifier(seen, answer) as api,
        hook.serve((r"/hub/api/(.*)", Hub), calls=calls, failures=[1]) as hub,
        running(start, hook.Wiring(monkeypatch, api), hub) as binder,
    ):
        events = await asyncio.to_thread(events_until_end, f"{binder}/build/fake/a/b/c?egress_token={hook.PASS}")
    assert events[-1]["phase"] == "ready"
    assert events[-1]["binder_launch_host"] == f"{binder}/"
    assert hook.PASS not in json.dumps(events)
    # The first server fails to start: a second attempt, under another name, with the same pass.
    first, second = (body["user"] for _, body in seen)
    assert first != second
    assert len({body["requested_at"] for _, body in seen}) == 1
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
        assert body["token"] == hook.PASS
        assert body["context"] is True
        # BinderHub itself trusts X-Real-Ip.
        assert (body["client_address"], body["forwarded_for"]) == ("127.0.0.1", "198.51.100.1")
        assert body["user_agent"] == "Mozilla/5.0"
        assert body["repository"] == hook.REPOSITORY
        assert body["image"] == events[-1]["image"]
        # The address to which browsers are sent.
        assert events[-1]["url"].startswith(body["hub_url"]) and body["hub_url"] == f"{hub}/"


@both
@pytest.mark.filterwarnings("default")
async def test_binderhub_logs_no_pass_when_a_launch_fails(start, monkeypatch, caplog):
    """BinderHub logs the URL of a failed request, and hides passes only in its access log."""

    async with (
        hook.verifier([]) as api,
        hook.serve((r"/hub/api/(.*)", Hub), calls=[], failures=[1] * 4) as hub,
        running(start, hook.Wiring(monkeypatch, api), hub) as binder,
    ):
        events = await asyncio.to_thread(events_until_end, f"{binder}/build/fake/a/b/c?a=1&egress_token={hook.PASS}&b=2")
    assert events[-1]["phase"] == "failed"
    assert "a=1&egress_token=[secret]&b=2" in caplog.text
