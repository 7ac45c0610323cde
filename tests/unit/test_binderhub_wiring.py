"""The snippet that BinderHub runs, chart/integration/launch_hook.py: what it sends, and what stood in its place before.

The snippet is loaded as BinderHub loads it, between a server that plays BinderHub's build requests and one that plays the verifier.
"""

import asyncio
import concurrent.futures
import http.client
import time
import types

import pytest
from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from binder_egress.web.bodies import LaunchBody
from tests.support import launch_hook as hook


@pytest.fixture(autouse=True)
def _no_secret_in_any_log(caplog):
    yield from hook.no_secret_in_any_log(caplog)


# --- the announcement -------------------------------------------------------------------------------------------------


async def test_launch_is_announced_with_its_request_and_has_a_line_in_the_log(monkeypatch, caplog):
    seen = []
    async with hook.verifier(seen) as api:
        wiring = hook.Wiring(monkeypatch, api)
        began = []
        async with hook.binderhub(wiring, resolving=1.0, building=0.4, began=began) as hub:
            before = time.time()
            sent = {"X-Real-Ip": "203.0.113.9", "X-Forwarded-For": "198.51.100.1", "User-Agent": "curl/8.5.0"}
            await hook.get(f"{hub}/build/1", headers=sent, egress_token=hook.PASS)
    [(headers, body)] = seen
    assert headers["Authorization"] == f"Bearer {hook.API_TOKEN}"
    assert headers["Content-Type"] == "application/json"
    assert "Accept-Encoding" not in headers  # a compressed answer is not unpacked, however long it would be
    # The arrival counts, not the end of the build.
    assert before - 0.1 <= body.pop("requested_at") <= began[0] + 0.1
    assert body == {
        "user": "fake-repo-1-0",
        "server": "",
        "image": hook.IMAGE,
        "repository": hook.REPOSITORY,
        "token": hook.PASS,
        # Not X-Real-Ip, which BinderHub trusts.
        "client_address": "127.0.0.1",
        "forwarded_for": "198.51.100.1",
        "groups": [],
        "user_agent": "curl/8.5.0",
        "elsewhere": False,
        "context": True,
        "authenticated": False,
        "hub_url": None,
    }
    lines = [record.getMessage() for record in caplog.records if "binder-egress" in record.getMessage()]
    assert lines == ["binder-egress: fake-repo-1-0/ tier=verified rule=valid-pass"]


def row(name, told, query="", headers=(), user="anonymous", **launcher):
    return pytest.param(told, query, headers, user, launcher, id=name)


ALICE = {"name": "alice", "kind": "user"}


@pytest.mark.parametrize(
    ("told", "query", "headers", "user", "launcher"),
    [
        row("nothing", {"token": None, "user_agent": None, "hub_url": None, "forwarded_for": None}, headers=[("User-Agent", "")]),
        row("an empty token", {"token": None, "context": True}, "egress_token="),
        row("white space", {"token": None}, "egress_token=%20%20"),
        row("two tokens", {"token": "b"}, "egress_token=a&egress_token=b"),
        row("no UTF-8", {"token": "\ufffd\ufffd"}, "egress_token=%ff%fe"),
        row("a long token", {"token": "x" * 4096}, "egress_token=" + "x" * 20000),
        row("a long user agent", {"user_agent": "x" * 512}, headers=[("User-Agent", "x" * 5000)]),
        row("another site's page", {"elsewhere": True}, headers=[("Origin", "https://course.example.org")]),
        row("an own page that says so", {"elsewhere": False},
            headers=[("Origin", "https://binder.example.org"), ("Host", "binder.example.org")]),
        row("not ASCII", {"user_agent": "Mozilla/5.0 (é\xff)"}, headers=[("User-Agent", "Mozilla/5.0 (é\xff)")]),
        row("two proxies", {"forwarded_for": "198.51.100.1,10.0.0.1"},
            headers=[("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "10.0.0.1")]),
        row("a forged header", {"forwarded_for": "x" * 2034 + ", 198.51.100.1"},
            headers=[("X-Forwarded-For", "x" * 5000 + ", 198.51.100.1")]),
        row("an address of JupyterHub", {"hub_url": "https://hub.example.org/"}, hub_url="https://hub.example.org/"),
        row("an empty address", {"hub_url": ""}, hub_url=""),
        row("a long address", {"hub_url": None}, hub_url="https://hub.example.org/" + "x" * 1024),
        row("a number for an address", {"hub_url": None}, hub_url=1),
        # BinderHub creates users itself unless it has auth_enabled. The groups are in JupyterHub's model of the user.
        row("nobody logged in", {"authenticated": False, "groups": []}, create_user=True),
        row("groups", {"authenticated": True, "groups": ["staff", "x" * 255]}, user=ALICE | {"groups": ["staff", "x" * 300]},
            create_user=False),
        row("no groups", {"authenticated": True, "groups": []}, user=ALICE, create_user=False),
        row("None for groups", {"authenticated": True, "groups": []}, user=ALICE | {"groups": None}, create_user=False),
        row("many groups", {"authenticated": False, "groups": ["g"] * 1000}, user=ALICE | {"groups": ["g"] * 2000}),
    ],
)  # fmt: skip
async def test_request_is_announced_in_a_form_that_the_verifier_reads(monkeypatch, told, query, headers, user, launcher):
    seen, sent = [], HTTPHeaders()
    for name, value in headers:
        sent.add(name, value)
    wiring = {"launcher": types.SimpleNamespace(**launcher), "user": user}
    async with hook.verifier(seen) as api, hook.binderhub(hook.Wiring(monkeypatch, api), **wiring) as hub:
        await SimpleAsyncHTTPClient(force_instance=True).fetch(HTTPRequest(f"{hub}/build/1?{query}", headers=sent))
    [(_, body)] = seen
    assert {name: body[name] for name in told} == told
    LaunchBody.model_validate(body)


async def test_concurrent_requests_do_not_mix_tokens(monkeypatch):

    seen = []
    async with hook.verifier(seen) as api, hook.binderhub(hook.Wiring(monkeypatch, api), building=0.05) as hub:
        queries = [{"egress_token": f"{hook.PASS}-{n}"} if n % 3 else {} for n in range(40)]
        await asyncio.gather(*(hook.get(f"{hub}/build/{n}", **query) for n, query in enumerate(queries)))
    got = {body["user"]: body["token"] for _, body in seen}
    assert got == {f"fake-repo-{n}-0": query.get("egress_token") for n, query in enumerate(queries)}


async def test_token_ends_with_its_request_on_a_kept_connection(monkeypatch):
    seen = []
    async with hook.verifier(seen) as api, hook.binderhub(hook.Wiring(monkeypatch, api)) as hub:
        browser = http.client.HTTPConnection(hub.removeprefix("http://"), timeout=60)
        for path in (f"/build/1?egress_token={hook.PASS}", "/build/2"):
            browser.request("GET", path)
            await asyncio.to_thread(lambda: browser.getresponse().read())
        browser.close()
    assert [body["token"] for _, body in seen] == [hook.PASS, None]


# --- earlier configuration --------------------------------------------------------------------------------------------


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
    ids=["only read", "empty", "function-empty", "text", "text-without-slash", "function"],
)
async def test_badge_address_stays_the_same(monkeypatch, before, url):
    """Reading a missing trait leaves a placeholder in the config object, which is neither text nor function."""
    seen = []

    def configure(c):
        assert c.BinderHub.badge_base_url is not None
        assert c.Launcher.pre_launch_hook is not None
        if before is not None:
            c.BinderHub.badge_base_url = before

    async with hook.verifier(seen) as api, hook.binderhub(hook.Wiring(monkeypatch, api, before=configure)) as hub:
        answer = await hook.get(f"{hub}/build/1", headers={"Host": "hub.example", "X-Forwarded-Proto": "https"})
    assert (answer["url"], len(seen)) == (url, 1)


@pytest.mark.parametrize("kind", ["plain", "coroutine", "thread"])
async def test_earlier_hook_is_called_first(monkeypatch, kind):
    """BinderHub accepts each kind. A later BinderHub may give it more arguments."""
    calls = []

    def plain(*args, **named):
        calls.append((args, named))

    async def coroutine(*args, **named):
        await asyncio.sleep(0.1)
        plain(*args, **named)

    def late(*args, **named):
        time.sleep(0.1)
        plain(*args, **named)

    pool = concurrent.futures.ThreadPoolExecutor(1)
    hooks = {"plain": plain, "coroutine": coroutine, "thread": lambda *args, **named: pool.submit(late, *args, **named)}

    async def announced(handler):
        calls.append("announced")
        await hook.good(handler)

    async with hook.verifier([], announced) as api:
        wiring = hook.Wiring(monkeypatch, api, before=lambda c: c.Launcher.update(pre_launch_hook=hooks[kind]))
        await wiring.config.Launcher.pre_launch_hook(None, hook.IMAGE, "u", "s", hook.REPOSITORY, {"a": 1}, extra=2)
    assert calls == [((None, hook.IMAGE, "u", "s", hook.REPOSITORY, {"a": 1}), {"extra": 2}), "announced"]


async def test_earlier_hook_can_refuse_a_launch(monkeypatch):
    """The refusal reaches BinderHub unchanged, and a launch that will not happen is not announced."""
    seen = []

    async def earlier(*args):
        raise ZeroDivisionError("hook says no")

    async with hook.verifier(seen) as api:
        wiring = hook.Wiring(monkeypatch, api, before=lambda c: c.Launcher.update(pre_launch_hook=earlier))
        with pytest.raises(ZeroDivisionError, match="hook says no"):
            await wiring.launch()
    assert seen == []


def test_later_snippets_find_no_name_of_this_one(monkeypatch):
    wiring = hook.Wiring(monkeypatch, "http://127.0.0.1:9")
    assert set(wiring.namespace) == {"c", "__builtins__"}


@pytest.mark.parametrize(("api", "token"), [(None, None), ("http://v", None), (None, "t"), ("", ""), ("http://v", " ")])
def test_snippet_without_its_variables_changes_nothing(monkeypatch, caplog, api, token):
    wiring = hook.Wiring(monkeypatch, api, token)
    assert "badge_base_url" not in wiring.config.BinderHub
    assert "pre_launch_hook" not in wiring.config.Launcher
    messages = [record.getMessage() for record in caplog.records if "binder-egress" in record.getMessage()]
    lost = "binder-egress: BINDER_EGRESS_API is missing. If extraEnv is a list in your values, let `egress plan` write it anew"
    assert messages == [lost] * (api is None) + ["binder-egress: idle, BINDER_EGRESS_API or BINDER_EGRESS_API_TOKEN is not set"]
