"""The resolver: names are asked for side by side, and one server holds up nobody else."""

import asyncio
import threading

from verifier.proxy.resolve import NAMES_OF_ONE, THREADS, Resolver


def test_server_with_late_answers_holds_up_nobody_else():
    """Its names wait for each other; another server's is answered meanwhile."""
    answer, asked = threading.Event(), []

    def ask(name):
        asked.append(name)
        if "late" in name:
            answer.wait(100)
        return ["192.0.2.1"]

    async def main():
        resolver = Resolver(ask)
        late = [asyncio.ensure_future(resolver.addresses(f"{number}.late.example", "a")) for number in range(2 * THREADS)]

        async def asked_for():
            while sum("late" in name for name in asked) < NAMES_OF_ONE:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(asked_for(), 60)
        assert await asyncio.wait_for(resolver.addresses("ok.example", "b"), 60) == ["192.0.2.1"]
        assert sum("late" in name for name in asked) == NAMES_OF_ONE
        answer.set()
        assert await asyncio.gather(*late) == [["192.0.2.1"]] * len(late)

    asyncio.run(main())


def test_name_is_asked_for_once_at_a_time():
    asked = []

    async def main():
        resolver = Resolver(lambda name: asked.append(name) or ["192.0.2.1"])
        found = await asyncio.gather(*(resolver.addresses("ok.example", server) for server in "aabb"))
        assert found == [["192.0.2.1"]] * 4 and asked == ["ok.example"]

    asyncio.run(main())
