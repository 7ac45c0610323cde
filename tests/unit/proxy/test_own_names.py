"""The addresses of the hub's own names: when DNS is asked for them, and for how long an address counts."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from binder_egress.proxy import own_names
from binder_egress.proxy.own_names import AGAIN_SECONDS, KEPT_SECONDS, OwnNames
from binder_egress.proxy.resolve import Resolver
from tests.support.clock import Clock


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(own_names, "TICK_SECONDS", 0.001)


@asynccontextmanager
async def looked_up(answer):
    """Look `hub.example` up until the end of the block. Its DNS answers by the name, and by how often it was asked for it."""
    clock, asked = Clock(), Counter()

    def ask(name):
        asked[name] += 1
        return answer(name, asked[name])

    names = OwnNames(["hub.example", "*.intern.example"], Resolver(ask, clock), clock)
    looking = asyncio.create_task(names.look_up())
    async with asyncio.timeout(60):
        yield names, clock, asked
    looking.cancel()


async def until(is_so, clock, step, last=float("inf")):
    """Move the clock on until something is so, but no further than `last`."""
    while not is_so():
        await asyncio.sleep(0.001)
        clock.now = min(clock.now + step, last)


async def test_whole_names_are_looked_up_and_an_announced_one_at_once():
    """The clock stands still. Until an announced name has been looked up, an alias of it is open."""
    async with looked_up(lambda name, times: ["192.0.2.1"]) as (names, clock, asked):
        await until(lambda: "hub.example" in asked, clock, 0)
        names.add("late.example")
        await until(lambda: "late.example" in asked, clock, 0)
        assert asked.keys() == {"hub.example", "late.example"}


@pytest.mark.parametrize("failure", [None, []], ids=["no answer", "no address"])
async def test_name_that_dns_does_not_find_for_a_while_keeps_its_addresses(failure):
    async with looked_up(lambda name, times: ["192.0.2.1"] if times == 1 else failure) as (names, clock, asked):
        await until(lambda: asked["hub.example"] == 3, clock, AGAIN_SECONDS)  # the third begins after the second has ended
        assert names.addresses() == ["192.0.2.1"]


async def test_name_of_which_dns_gives_one_address_at_a_time_has_all_of_the_last_hour():
    async with looked_up(lambda name, times: [f"192.0.2.{min(times, 3)}"]) as (names, clock, _):
        await until(lambda: len(names.addresses()) == 3, clock, AGAIN_SECONDS)
        await until(lambda: len(names.addresses()) == 1, clock, AGAIN_SECONDS, clock.now + KEPT_SECONDS + AGAIN_SECONDS)
        assert names.addresses() == ["192.0.2.3"]


@pytest.mark.parametrize("name", ["hub.example", "late.example"])
async def test_name_that_dns_does_not_find_at_first_is_looked_up_again_at_once(name):
    """Without its addresses, other names that have them are open. An announced name comes after the others were found long ago."""
    async with looked_up(lambda asked, times: None if (asked, times) == (name, 1) else ["192.0.2.1"]) as (names, clock, asked):
        if name == "late.example":
            await until(lambda: asked["hub.example"] == 6, clock, 1)
            names.add(name)
        await until(lambda: asked[name], clock, 0)
        # So far that a failure is forgotten, and not so far that every name is looked up.
        await until(lambda: asked[name] == 2, clock, 0.1, clock.now + 10)
