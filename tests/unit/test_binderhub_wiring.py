"""The snippet that BinderHub runs, chart/integration/launch_hook.py: what it sends, and what stood in its place before.

The snippet is loaded as BinderHub loads it, between a server that plays BinderHub's build requests and one that plays the verifier.
"""

import asyncio
import concurrent.futures
import time
import types

import pytest
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from tests.support.launch_hook import (
    API_TOKEN,
    IMAGE,
    PASS,
    REPOSITORY,
    Wiring,
    binderhub,
    get,
    good,
    no_secret_in_any_log,
    verifier,
)
from verifier.web.bodies import LaunchBody


@pytest.fixture(autouse=True)
def _no_secret_in_any_log(caplog):
    yield from no_secret_in_any_log(caplog)


# --- the announcement -------------------------------------------------------------------------------------------------


def test_launch_is_announced_with_its_request(monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api:
            wiring = Wiring(monkeypatch, api)
            began = []
            async with binderhub(wiring, resolving=1.0, building=0.4, began=began) as hub:
                before = time.time()
                sent = {"X-Real-Ip": "203.0.113.9", "X-Forwarded-For": "198.51.100.1", "User-Agent": "curl/8.5.0"}
                await get(f"{hub}/build/1", headers=sent, egress_token=PASS)
        [(headers, body)] = seen
        assert headers["Authorization"] == f"Bearer {API_TOKEN}"
        assert headers["Content-Type"] == "application/json"
        assert "Accept-Encoding" not in headers  # a compressed answer is not unpacked, however long it would be
        # The arrival counts, not the end of the build.
        assert before - 0.1 <= body.pop("requested_at") <= began[0] + 0.1
        assert body == {
            "user": "fake-repo-1-0",
            "server": "",
            "image": IMAGE,
            "repository": REPOSITORY,
            "token": PASS,
            # Not X-Real-Ip, which BinderHub trusts.
            "client_address": "127.0.0.1",
            "forwarded_for": "198.51.100.1",
            "groups": [],
            "user_agent": "curl/8.5.0",
            "context": True,
            "authenticated": False,
            "hub_url": None,
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
def test_odd_tokens_reach_the_verifier_in_a_form_that_it_can_refuse(monkeypatch, query, token):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api)) as hub:
            client = SimpleAsyncHTTPClient(force_instance=True)
            await client.fetch(f"{hub}/build/1?{query}")
        assert [body["token"] for _, body in seen] == [token]
        assert seen[0][1]["context"] is True

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "told"),
    [("", None), ("x" * 5000, "x" * 512), ("Mozilla/5.0 (é\xff)", "Mozilla/5.0 (é\xff)")],
    ids=["none", "long", "not ASCII"],
)
def test_user_agent_is_announced(monkeypatch, sent, told):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api)) as hub:
            await get(f"{hub}/build/1", headers={"User-Agent": sent})
        assert [body["user_agent"] for _, body in seen] == [told]
        # The form that the verifier accepts.
        assert LaunchBody.model_validate(seen[0][1]).user_agent == told

    asyncio.run(main())


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"hub_url": "https://hub.example.org/"}, "https://hub.example.org/"),
        ({"hub_url": ""}, ""),
        ({"hub_url": "https://hub.example.org/" + "x" * 1024}, None),
        ({"hub_url": 1}, None),
        ({}, None),
    ],
)
def test_address_of_jupyterhub_is_announced(monkeypatch, known, told):
    async def main():
        seen = []
        launcher = types.SimpleNamespace(**known)
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api), launcher=launcher) as hub:
            await get(f"{hub}/build/1", egress_token=PASS)
        assert [body["hub_url"] for _, body in seen] == [told]
        assert LaunchBody.model_validate(seen[0][1]).hub_url == told

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ([], None),
        (["198.51.100.1"], "198.51.100.1"),
        (["198.51.100.1", "10.0.0.1"], "198.51.100.1,10.0.0.1"),
        (["x" * 5000 + ", 198.51.100.1"], "x" * 2034 + ", 198.51.100.1"),
    ],
)
def test_forwarded_addresses_are_announced(monkeypatch, sent, told):
    async def main():
        seen = []
        headers = HTTPHeaders()
        for value in sent:
            headers.add("X-Forwarded-For", value)
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api)) as hub:
            await get(f"{hub}/build/1", headers=headers)
        assert [body["forwarded_for"] for _, body in seen] == [told]

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
def test_user_who_logged_in_is_announced_with_groups(monkeypatch, create_user, user, told):
    """BinderHub creates users itself unless it has auth_enabled. The groups are in JupyterHub's model of the user."""

    async def main():
        seen = []
        launcher = types.SimpleNamespace(**({} if create_user is None else {"create_user": create_user}))
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api), launcher=launcher, user=user) as hub:
            await get(f"{hub}/build/1", egress_token=PASS)
        [(_, body)] = seen
        assert (body["authenticated"], body["groups"]) == told
        assert body["token"] == PASS

    asyncio.run(main())


def test_attempts_of_one_request_send_the_same_token(monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api)) as hub:
            await get(f"{hub}/build/1", egress_token=PASS, attempts=4)
        assert [body["user"] for _, body in seen] == [f"fake-repo-1-{attempt}" for attempt in range(4)]
        assert {body["token"] for _, body in seen} == {PASS}
        assert len({body["requested_at"] for _, body in seen}) == 1

    asyncio.run(main())


def test_launch_without_a_request_says_that_the_context_is_lost(monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api:
            await Wiring(monkeypatch, api).launch()
        [(_, body)] = seen
        assert body["context"] is False
        assert {body[name] for name in ("token", "client_address", "forwarded_for", "requested_at", "user_agent")} == {None}

    asyncio.run(main())


def test_concurrent_requests_do_not_mix_tokens(monkeypatch):
    """Two in three carry a token."""

    async def main():
        seen = []
        async with (
            verifier(seen) as api,
            binderhub(Wiring(monkeypatch, api), building=0.05) as hub,
        ):
            queries = [{"egress_token": f"{PASS}-{n}"} if n % 3 else {} for n in range(40)]
            await asyncio.gather(*(get(f"{hub}/build/{n}", **query) for n, query in enumerate(queries)))
        got = {body["user"]: body["token"] for _, body in seen}
        assert got == {f"fake-repo-{n}-0": query.get("egress_token") for n, query in enumerate(queries)}

    asyncio.run(main())


def test_token_ends_with_its_request_on_a_kept_connection(monkeypatch):
    async def main():
        seen = []
        async with verifier(seen) as api, binderhub(Wiring(monkeypatch, api)) as hub:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(hub.rsplit(":", 1)[1]))
            for path in (f"/build/1?egress_token={PASS}", "/build/2"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: hub.example\r\n\r\n".encode())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
                length = next(line for line in head.decode().splitlines() if line.lower().startswith("content-length"))
                await reader.readexactly(int(length.split(":")[1]))
            writer.close()
        assert [body["token"] for _, body in seen] == [PASS, None]

    asyncio.run(main())


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
    ids=["nothing", "empty", "function-empty", "text", "text-without-slash", "function"],
)
def test_badge_address_stays_the_same(monkeypatch, before, url):
    def configure(c):
        if before is not None:
            c.BinderHub.badge_base_url = before

    async def main():
        async with (
            verifier([]) as api,
            binderhub(Wiring(monkeypatch, api, before=configure)) as hub,
        ):
            answer = await get(f"{hub}/build/1", headers={"Host": "hub.example", "X-Forwarded-Proto": "https"})
        assert answer["url"] == url

    asyncio.run(main())


def test_traits_that_were_only_read_count_as_not_set(monkeypatch):
    """Reading a missing trait leaves a placeholder in the config object, which is neither text nor function."""

    def configure(c):
        assert c.BinderHub.badge_base_url is not None
        assert c.Launcher.pre_launch_hook is not None

    async def main():
        seen = []
        async with (
            verifier(seen) as api,
            binderhub(Wiring(monkeypatch, api, before=configure)) as hub,
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
def test_earlier_hook_is_called_first(monkeypatch, kind):
    calls, hooks = hooks_before()

    async def main():
        async def announced(handler):
            calls.append("announced")
            await good(handler)

        async with verifier([], announced) as api:
            await Wiring(monkeypatch, api, before=lambda c: c.Launcher.update(pre_launch_hook=hooks[kind])).launch()

    asyncio.run(main())
    (_, *arguments), announced = calls
    assert arguments == [IMAGE, "fake-repo-abc", "", REPOSITORY]
    assert announced == "announced"


class Refused(Exception):
    """An error of an operator's own hook."""


def refuse_plain(*args):
    """A plain hook that lets nothing start."""
    raise Refused("hook says no")


async def refuse_coroutine(*args):
    """The same as a coroutine."""
    raise Refused("hook says no")


@pytest.mark.parametrize("hook", [refuse_plain, refuse_coroutine])
def test_earlier_hook_can_refuse_a_launch(monkeypatch, hook):
    """The refusal reaches BinderHub unchanged, and a launch that will not happen is not announced."""

    async def main():
        seen = []
        async with verifier(seen) as api:
            wiring = Wiring(monkeypatch, api, before=lambda c: c.Launcher.update(pre_launch_hook=hook))
            with pytest.raises(Refused, match="hook says no"):
                await wiring.launch()
        assert seen == []

    asyncio.run(main())


def test_earlier_hook_gets_arguments_of_a_later_binderhub(monkeypatch):
    calls = []

    async def main():
        async with verifier([]) as api:
            wiring = Wiring(
                monkeypatch,
                api,
                before=lambda c: c.Launcher.update(pre_launch_hook=lambda *args, **named: calls.append((args, named))),
            )
            await wiring.config.Launcher.pre_launch_hook(None, IMAGE, "u", "s", REPOSITORY, {"a": 1}, extra=2)
        assert calls == [((None, IMAGE, "u", "s", REPOSITORY, {"a": 1}), {"extra": 2})]

    asyncio.run(main())


def test_later_snippets_find_no_name_of_this_one(monkeypatch):
    wiring = Wiring(monkeypatch, "http://127.0.0.1:9")
    assert set(wiring.namespace) == {"c", "__builtins__"}


@pytest.mark.parametrize(("api", "token"), [(None, None), ("http://v", None), (None, "t"), ("", ""), ("http://v", " ")])
def test_snippet_without_its_variables_changes_nothing(monkeypatch, caplog, api, token):
    wiring = Wiring(monkeypatch, api, token)
    assert "badge_base_url" not in wiring.config.BinderHub
    assert "pre_launch_hook" not in wiring.config.Launcher
    messages = [record.getMessage() for record in caplog.records if "binder-egress" in record.getMessage()]
    lost = "binder-egress: BINDER_EGRESS_API is missing. If extraEnv is a list in the values of BinderHub, write it as a map"
    assert messages == [lost] * (api is None) + ["binder-egress: idle, BINDER_EGRESS_API or BINDER_EGRESS_API_TOKEN is not set"]
