"""The resolver: names are looked up in parallel, and late answers for one server hold up no other."""

import asyncio
import threading

import pytest

from binder_egress.proxy import resolve
from binder_egress.proxy.resolve import ADDRESSES, NAMES_OF_ONE, THREADS, TIMEOUT_SECONDS, TRIES, TRY_SECONDS, Resolver
from tests.support.egress_proxy import slow_dns
from tests.support.egress_proxy.attempts import PUBLIC

FOUND = ["192.0.2.1"]


class Dns:
    """Answers names with `late` when `answer` is set."""

    def __init__(self):
        self.answer = threading.Event()
        self.late = []

    def __call__(self, name):
        if "late" in name:
            self.late.append(name)
            self.answer.wait(120)
        return FOUND


@pytest.fixture
def dns(monkeypatch):
    monkeypatch.setattr(resolve, "TIMEOUT_SECONDS", 60)
    found = Dns()
    yield found
    found.answer.set()


async def begun(resolver, names):
    """Tasks that look names up: (name, server, whether the server is verified)."""
    tasks = [asyncio.ensure_future(resolver.addresses(*one)) for one in names]
    await asyncio.sleep(0)
    return tasks


async def test_server_with_late_answers_holds_up_nobody_else(dns):
    """One server's names wait for each other; another server's name is answered meanwhile."""
    resolver = Resolver(dns)
    late = await begun(resolver, [(f"{number}.late.example", "a") for number in range(2 * THREADS)])
    assert await resolver.addresses("ok.example", "b") == FOUND
    async with asyncio.timeout(60):
        while len(dns.late) < NAMES_OF_ONE:
            await asyncio.sleep(0.01)
    assert len(dns.late) == NAMES_OF_ONE
    dns.answer.set()
    assert await asyncio.gather(*late) == [FOUND] * len(late)


async def test_few_servers_leave_others_of_their_kind_some_threads(dns):
    resolver = Resolver(dns)
    crowd = THREADS // NAMES_OF_ONE
    late = await begun(resolver, [(f"{number}.late.example", str(number % crowd)) for number in range(THREADS)])
    assert await resolver.addresses("ok.example", "other") == FOUND
    dns.answer.set()
    assert await asyncio.gather(*late) == [FOUND] * len(late)


@pytest.mark.parametrize("verified", [True, False])
async def test_name_that_waits_for_one_group_is_resolved_at_once_for_the_other(dns, verified):
    resolver = Resolver(dns)
    late = await begun(resolver, [(f"{number}.late.example", str(number), not verified) for number in range(THREADS)])
    late += await begun(resolver, [("ok.example", "last", not verified)])
    assert await resolver.addresses("ok.example", "other", verified) == FOUND
    assert not late[-1].done()
    dns.answer.set()
    assert await asyncio.gather(*late) == [FOUND] * len(late)


async def test_name_is_asked_for_once_at_a_time():
    asked = []
    resolver = Resolver(lambda name: asked.append(name) or FOUND)
    found = await asyncio.gather(*(resolver.addresses("ok.example", server) for server in "aabb"))
    assert found == [FOUND] * 4 and asked == ["ok.example"]


async def test_name_with_thousands_of_addresses_keeps_the_first_sixteen():
    """A stranger's DNS server answers with as many as fit."""
    many = [f"198.51.{number // 256}.{number % 256}" for number in range(4000)]
    resolver = Resolver(lambda name: many)
    for _ in range(2):
        assert await resolver.addresses("many.example", "a") == many[:ADDRESSES]


def test_system_waits_for_late_answers_asks_again_and_gives_up_in_time():
    """A lost question does not cost the connection. Neither silence nor a failure of DNS is a name without an address."""
    seen = slow_dns.seen()
    unanswered, seconds = seen["never"]
    assert (seen["late"][0], seen["lost"][0], seen["again"]) == ([PUBLIC[0]],) * 3
    assert (seen["failed"][0], unanswered) == (None, None)
    assert TRIES * TRY_SECONDS <= seconds < 10 * TIMEOUT_SECONDS
