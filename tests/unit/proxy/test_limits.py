"""The limits of one server, and of all unverified servers together."""

from heapq import heappop, heappush

import pytest

from verifier.proxy.limits import BURST_SECONDS, Bucket, Limits, Usage

STEP = 262_144
"""Bytes that a pump moves at once."""


def test_bucket_gives_its_rate(clock):
    bucket = Bucket(10, clock)
    assert [bucket.has() for _ in range(int(10 * BURST_SECONDS) + 1)] == [True] * int(10 * BURST_SECONDS) + [False]
    clock.now += 0.15
    assert bucket.has() and not bucket.has()


def test_bucket_tells_how_long_its_debt_lasts(clock):
    bucket = Bucket(100, clock)
    assert bucket.take(100 * BURST_SECONDS) == 0
    assert bucket.take(50) == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.take(0) == pytest.approx(0)
    assert Bucket(0, clock).take(10**9) == 0


def test_server_has_its_number_of_connections(clock):
    usage = Usage(Limits(connections=2), clock)
    assert [usage.admit("a", True) for _ in range(3)] == [True, True, False]
    assert usage.admit("b", True)
    usage.release("a", True)
    assert usage.admit("a", True)


def test_server_has_its_number_of_new_connections_a_second(clock):
    usage = Usage(Limits(new_per_second=3), clock)
    for _ in range(int(3 * BURST_SECONDS)):
        assert usage.admit("a", True)
        usage.release("a", True)
    assert not usage.admit("a", True) and usage.admit("b", True)
    clock.now += 1
    assert usage.admit("a", True)


def test_unverified_servers_take_half_at_most(clock):
    """And a tenth for servers without an open connection."""
    usage = Usage(Limits(all_connections=10), clock)
    assert [usage.admit("stranger", False) for _ in range(10)] == [True] * 5 + [False] * 5
    admitted = [usage.admit(f"stranger {number}", False) for number in range(20)]
    assert sum(admitted) == 1 and not usage.admit("stranger 0", False)
    assert [usage.admit(f"verified {number}", True) for number in range(7)] == [True] * 4 + [False] * 3
    for _ in range(5):
        usage.release("stranger", False)
    for number, was in enumerate(admitted):
        if was:
            usage.release(f"stranger {number}", False)
    assert usage.unverified == 0 and usage.connections == 4


def test_unverified_servers_get_nothing_if_verified_ones_have_it_all(clock):
    usage = Usage(Limits(all_connections=10), clock)
    assert all(usage.admit("verified", True) for _ in range(10))
    assert not usage.admit("stranger", False)


def test_taken_parts_are_of_all_and_of_the_half_of_the_unverified(clock):
    usage = Usage(Limits(all_connections=10), clock)
    assert [usage.admit("a", False), usage.admit("b", False), usage.admit("c", True)] == [True] * 3
    assert usage.taken() == {"all": pytest.approx(0.3), "unverified": pytest.approx(0.4)}


def moved(usage, clock, pumps, seconds):
    """The bytes that pumps move, by whether their server is verified: each moves a step, then waits as long as its buckets say."""
    turns = [(number / 100, number, server, verified) for number, (server, verified) in enumerate(pumps)]  # they begin in 10 s
    found = {True: 0, False: 0}
    began = clock.now
    while turns[0][0] < seconds:
        at, number, server, verified = heappop(turns)
        clock.now = began + at
        pauses = [bucket.take(STEP) for bucket in usage.bytes(server, verified)]
        found[verified] += STEP
        heappush(turns, (at + max(*pauses, 0.001), number, server, verified))
    return {verified: total / seconds for verified, total in found.items()}


def test_unverified_servers_take_half_of_the_bytes_at_most(clock):
    """A thousand unverified servers, and one verified server."""
    rate = 100 * STEP
    strangers = [(f"stranger {number}", False) for number in range(1000)]
    usage = Usage(Limits(all_bytes_per_second=rate), clock)
    found = moved(usage, clock, [("verified", True), *strangers], 120)
    assert found[False] == pytest.approx(rate / 2, rel=0.2) and found[True] > rate * 0.3
    assert found[True] + found[False] < rate * 1.2


def test_bytes_have_no_limit_of_all_unless_it_is_set(clock):
    usage = Usage(Limits(), clock)
    assert [bucket.take(10**12) for bucket in usage.bytes("a", False)] == [0.0] * 3


def test_idle_server_is_forgotten(clock):
    usage = Usage(Limits(bytes_per_second=10), clock)
    usage.admit("a", True)
    for bucket in usage.bytes("a", True):
        bucket.take(5)
    usage.forget_idle()
    assert len(usage) == 1
    usage.release("a", True)
    clock.now += 60
    usage.forget_idle()
    assert len(usage) == 0
