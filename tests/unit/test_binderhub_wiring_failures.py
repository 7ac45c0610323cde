"""The snippet that BinderHub runs, chart/integration/launch_hook.py: what it survives, and how long a launch waits at most."""

import asyncio
import contextlib
import json
import re
import types

import pytest
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from tests.support import launch_hook as hook
from tests.support.cluster.stage import NO_ANSWER


@pytest.fixture(autouse=True)
def _no_secret_in_any_log(caplog):
    yield from hook.no_secret_in_any_log(caplog)


def limited(monkeypatch, api, **more):
    return hook.Wiring(monkeypatch, api, limit_seconds=hook.PRODUCT_SECONDS, **more)


# --- failures ---------------------------------------------------------------------------------------------------------


async def other_json(handler):
    handler.write("[1, 2]")


async def unauthorized(handler):
    handler.set_status(401, f"wrong token {hook.API_TOKEN}")


async def huge(handler):
    with contextlib.suppress(StreamClosedError):
        for _ in range(50):
            handler.write(b"x" * 1_000_000)
            await handler.flush()


async def drip(handler):
    """A byte now and then, without an end: no single wait is long."""
    with contextlib.suppress(StreamClosedError):
        while True:
            handler.write(b" ")
            await handler.flush()
            await asyncio.sleep(0.05)


async def elsewhere(handler):
    """A redirect, which would carry the bearer token to another place."""
    handler.redirect("/elsewhere", status=307)


async def test_attempts_of_one_request_wait_one_second_together(monkeypatch, caplog):
    """The log says of the first that no answer came. Cluster tests launch again after such a line."""
    seen = []
    async with hook.verifier(seen, hook.slow) as api, hook.binderhub(limited(monkeypatch, api)) as hub:
        reply = await hook.get(f"{hub}/build/1", egress_token=hook.PASS, attempts=4)
        assert sum(reply["seconds"]) < hook.LIMIT_SECONDS
        assert len(hook.in_time(seen)) == 1
        assert len(re.findall(NO_ANSWER.format("fake-repo-1-0"), caplog.text)) == 1
        await hook.get(f"{hub}/build/2", egress_token=hook.PASS)
        assert len(hook.in_time(seen)) == 2, "the next request has a second of its own"


@contextlib.asynccontextmanager
async def raw(talk):
    """A TCP server with answers that no HTTP server gives. Yields its address."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def no_head(reader, writer):
    await reader.read(1)
    await asyncio.sleep(3)
    writer.close()


async def no_http(reader, writer):
    """Another protocol, quoting the request."""
    writer.write(await reader.read(65536) * 3)
    writer.close()


async def endless_head(reader, writer):
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(20000):
            writer.write(b"X-%d: %s\r\n" % (n, b"y" * 100))
            await writer.drain()
    writer.close()


async def closes(reader, writer):
    writer.close()


ADDRESSES = {
    "refused": "http://127.0.0.1:9",
    "no answer, or no route": "http://192.0.2.1",
    "no such name": "http://binder-egress.invalid:8081",
    "forgot http://": "binder-egress:8081",
    "another scheme": "ftp://binder-egress",
    "half an address": "http://[::1",
    "no host": "http://:0",
    "no port": "http://\u00e4\u20ac:port",
}
ANSWERS = [hook.slow, hook.garbage, other_json, hook.error, unauthorized, huge, drip, elsewhere]


@pytest.mark.parametrize(
    "serving",
    [
        *(pytest.param(lambda answer=answer: hook.verifier([], answer), id=answer.__name__) for answer in ANSWERS),
        *(pytest.param(lambda talk=talk: raw(talk), id=talk.__name__) for talk in (no_head, no_http, endless_head, closes)),
        *(pytest.param(lambda api=api: contextlib.nullcontext(api), id=what) for what, api in ADDRESSES.items()),
    ],
)
async def test_launch_survives_every_verifier_without_delay(monkeypatch, serving):
    async with serving() as api, hook.binderhub(limited(monkeypatch, api)) as hub:
        reply = await hook.get(f"{hub}/build/1", egress_token=hook.PASS)
    assert max(reply["seconds"]) < hook.LIMIT_SECONDS


async def test_launch_survives_an_api_token_that_is_not_a_header(monkeypatch):
    async with hook.verifier([]) as api:
        wiring = limited(monkeypatch, api, token=f"{hook.API_TOKEN}\r\nX: y")
        assert await wiring.launch() < hook.LIMIT_SECONDS


async def test_launch_is_not_delayed_by_a_client_without_a_limit(monkeypatch):
    """The hook keeps the limit of a second itself, beside the limits of the client."""
    monkeypatch.setattr(SimpleAsyncHTTPClient, "fetch", lambda *args, **kwargs: asyncio.Future())

    assert await limited(monkeypatch, "http://127.0.0.1:9").launch() < hook.LIMIT_SECONDS


async def test_connection_to_a_hanging_verifier_is_closed(monkeypatch):
    closed = asyncio.Event()

    async def talk(reader, writer):
        while await reader.read(65536):
            pass
        closed.set()
        writer.close()

    async with raw(talk) as api:
        await limited(monkeypatch, api).launch()
        await asyncio.wait_for(closed.wait(), 60)


async def test_many_launches_are_announced_at_once(monkeypatch):
    """No launch waits for the answer to another. BinderHub's own client would make it wait: it sends ten requests at a time."""

    seen, tiers, all_there = [], [], asyncio.Event()

    async def when_all_are_there(handler):
        if len(seen) == 30:
            all_there.set()
        await all_there.wait()
        await hook.good(handler)
        tiers.append("verified")

    async with hook.verifier(seen, when_all_are_there) as api:
        wiring = hook.Wiring(monkeypatch, api)
        await asyncio.gather(*(wiring.launch(user=f"u{n}") for n in range(30)))
    assert len(tiers) == 30


async def test_handler_that_cannot_be_read_gets_its_address_and_its_launch_says_that_the_context_is_lost(monkeypatch):
    """Only our own errors are caught. The address comes from the earlier setting."""
    seen = []
    async with hook.verifier(seen) as api:
        wiring = hook.Wiring(monkeypatch, api, before=lambda c: c.BinderHub.update(badge_base_url="https://badges.example/"))
        assert wiring.badge(types.SimpleNamespace()) == "https://badges.example/"
        await wiring.launch()
    [(_, body)] = seen
    assert body["context"] is False
    assert {body[name] for name in ("token", "client_address", "forwarded_for", "requested_at", "user_agent")} == {None}


async def test_cancelled_launch_stays_cancelled(monkeypatch):
    async with hook.verifier([], hook.slow) as api:
        task = asyncio.ensure_future(hook.Wiring(monkeypatch, api).launch())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- the pause after repeated failures --------------------------------------------------------------------------------


async def test_three_failures_in_a_row_stop_calls_for_half_a_minute(monkeypatch, caplog):
    """Those in the background go on, and fail here."""
    seen, answers = [], [hook.error] * 4 + [hook.good] * 5 + [hook.error, hook.error, hook.good] * 2

    async def answer(handler):
        is_late = hook.is_late(json.loads(handler.request.body))
        await (hook.error if is_late else answers.pop(0))(handler)

    async with hook.verifier(seen, answer) as api:
        wiring = hook.Wiring(monkeypatch, api)
        for _ in range(3):
            await wiring.launch()
        assert len(hook.in_time(seen)) == 3
        for _ in range(20):
            assert await wiring.launch() < 0.1
        assert len(hook.in_time(seen)) == 3
        wiring.clock.ahead += 29
        await wiring.launch()
        assert len(hook.in_time(seen)) == 3
        # The pause is over: one call, which fails again, and the next pause begins at once.
        wiring.clock.ahead += 2
        await wiring.launch()
        await wiring.launch()
        assert len(hook.in_time(seen)) == 4
        wiring.clock.ahead += 31
        for _ in range(5):
            await wiring.launch()
        assert len(hook.in_time(seen)) == 9
        # A success ends the count.
        for _ in range(6):
            await wiring.launch()
        assert len(hook.in_time(seen)) == 15
    assert sum("do not wait for it for 30 s" in record.getMessage() for record in caplog.records) == 2


def refuse(status):
    async def answer(handler):
        handler.set_status(status)

    return answer


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        # A visitor may be able to cause these, so they must not turn egress off for everybody.
        *((refuse(status), 6) for status in (400, 413, 422, 500)),
        *((answer, 3) for answer in (hook.garbage, other_json, unauthorized, elsewhere)),
    ],
)
async def test_answers_of_a_broken_verifier_stop_calls_and_refused_launches_do_not(monkeypatch, caplog, answer, calls):
    seen = []
    async with hook.verifier(seen, answer) as api:
        wiring = hook.Wiring(monkeypatch, api)
        for _ in range(6):
            await wiring.launch()
    assert len(hook.in_time(seen)) == calls
    # In the log, no answer is another line than a wrong one.
    assert len(re.findall(NO_ANSWER.format("fake-repo-abc"), caplog.text)) == 6 - calls
