"""The limits of one server, and of all unverified servers together: connections, bytes, new hosts, source ports for one host."""

import asyncio
from heapq import heappop, heappush

import pytest

from binder_egress.proxy import source_ports as source_ports_module
from binder_egress.proxy import upstream
from binder_egress.proxy.limits import BURST_SECONDS, DEFAULT_PORTS, Bucket, Limits, Usage
from binder_egress.proxy.new_hosts import NEW_ADDRESSES, WAIT_SECONDS, WINDOW_SECONDS, NewHosts
from binder_egress.proxy.source_ports import FEW, KEPT_SECONDS, SourcePorts, source_ports

STEP = 262_144
"""Bytes that a pump moves at once."""


def test_bucket_gives_its_rate_and_tells_how_long_its_debt_lasts(clock):
    bucket = Bucket(10, clock)
    assert [bucket.has() for _ in range(int(10 * BURST_SECONDS) + 1)] == [True] * int(10 * BURST_SECONDS) + [False]
    clock.now += 0.15
    assert bucket.has() and not bucket.has()
    bucket = Bucket(100, clock)
    assert bucket.take(100 * BURST_SECONDS) == 0
    assert bucket.take(50) == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.take(0) == pytest.approx(0)
    # The usual limits of bytes are none.
    assert [bucket.take(10**12) for bucket in Usage(Limits(), clock).bytes("a", False)] == [0.0] * 3


def test_server_has_its_number_of_connections_and_of_new_ones_a_second(clock):
    usage = Usage(Limits(connections=2), clock)
    assert [usage.admit("a", True) for _ in range(3)] == [True, True, False]
    assert usage.admit("b", True)
    usage.release("a", True)
    assert usage.admit("a", True)
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
    # They get nothing if verified ones have it all.
    assert all(usage.admit("verified", True) for _ in range(6))
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
    rate = 100 * STEP
    strangers = [(f"stranger {number}", False) for number in range(1000)]
    usage = Usage(Limits(all_bytes_per_second=rate), clock)
    found = moved(usage, clock, [("verified", True), *strangers], 120)
    assert found[False] == pytest.approx(rate / 2, rel=0.2) and found[True] > rate * 0.3
    assert found[True] + found[False] < rate * 1.2


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


# -- new hosts


LIMIT = 20
"""The addresses that a verified server may try in a minute. An unverified one may try five."""


@pytest.fixture
def hosts(clock):
    return NewHosts(LIMIT, 5, clock=clock)


def wait(hosts, number, server="uid", verified=True):
    return hosts.wait(server, verified, f"{number}.example", f"203.0.113.{number}")


def scan(hosts, clock, seconds, fails=False):
    """The number of addresses that a scan tries in this time if it does nothing but wait for its turns."""
    tried, ends = 0, clock.now + seconds
    while clock.now < ends:
        pause = hosts.wait("uid", True, f"{tried}.example", str(tried))
        clock.now += 0.5 if pause is None else pause or 0.01
        if fails and pause is not None:
            hosts.fail("uid", str(tried))
        tried += pause is not None
    return tried


@pytest.mark.parametrize(("answers", "most"), [(False, NEW_ADDRESSES), (True, 1)])
def test_name_with_sixteen_other_addresses_in_each_answer_leads_to_few_in_a_minute(hosts, clock, answers, most):
    """The name's DNS server may belong to a scanner, or to somebody who wants the name's visitors to look like scanners."""
    tried = set()
    for answer in range(LIMIT):
        addresses = [*hosts.of("uid", "a.example"), *(f"{answer} {number}" for number in range(16))]
        for address in hosts.choose("uid", True, "a.example", addresses):
            assert hosts.wait("uid", True, "a.example", address) == 0
            tried.add(address)
            if answers:
                break
            hosts.fail("uid", address)
    assert len(tried) == most and hosts.beyond == set()
    clock.now += WINDOW_SECONDS
    assert len(hosts.choose("uid", True, "a.example", list("abcdefgh"))) == NEW_ADDRESSES


def test_those_that_answered_come_first_then_both_families_in_turns_and_those_that_failed(hosts):
    wait(hosts, 8), wait(hosts, 9)
    hosts.fail("uid", "203.0.113.8")
    addresses = ["203.0.113.8", *(f"2001:db8::{number}" for number in range(5)), "203.0.113.5", "203.0.113.6", "203.0.113.9"]
    chosen = ["203.0.113.9", "2001:db8::0", "203.0.113.5", "2001:db8::1", "203.0.113.6", "203.0.113.8"]
    assert hosts.choose("uid", True, "both.example", addresses) == chosen
    assert sorted(NewHosts(0, 0).choose("uid", True, "both.example", addresses)) == sorted(addresses)


@pytest.mark.parametrize(("verified", "limit"), [(True, LIMIT), (False, 5)])
def test_server_tries_its_number_of_addresses_without_a_wait_and_is_named_beyond_it(hosts, verified, limit):
    for _ in range(2):
        assert [wait(hosts, number, verified=verified) for number in range(limit)] == [0.0] * limit
    wait(hosts, 1, server="other")
    assert hosts.beyond == set()
    assert wait(hosts, limit, verified=verified) != 0
    assert hosts.beyond == {"uid"}


def test_delay_doubles_with_each_quarter_of_the_limit(hosts, clock):
    for number in range(LIMIT):
        wait(hosts, number)
    pauses = []
    for number in range(LIMIT, LIMIT + 6):
        pauses.append(wait(hosts, number))
        clock.now += 1
        # A second connection does not pass the first.
        assert wait(hosts, number) == pytest.approx(pauses[-1] - 1)
        clock.now += pauses[-1] - 1
    assert pauses[0] == pytest.approx(60 / LIMIT)
    assert pauses[5] == pytest.approx(2 * pauses[0])


def test_address_whose_turn_is_too_far_away_is_not_tried(hosts, clock):
    pauses = [wait(hosts, number) for number in range(3 * LIMIT)]
    assert pauses[-1] is None and max(filter(None, pauses)) <= WAIT_SECONDS
    clock.now += WINDOW_SECONDS + WAIT_SECONDS
    assert wait(hosts, 3 * LIMIT - 1) == 0


def test_scan_tries_half_as_many_again_in_a_minute_and_the_limit_in_each_later_one(hosts, clock):
    """A name that does not answer counts twice."""
    assert LIMIT < scan(hosts, clock, 60) <= 1.5 * LIMIT
    assert scan(hosts, clock, 600) <= 11 * LIMIT
    assert scan(NewHosts(LIMIT, 5, clock=clock), clock, 60, fails=True) < LIMIT


def test_address_that_fails_again_and_again_counts_twice_only(hosts):
    for _ in range(100):
        assert wait(hosts, 1) == 0
        hosts.fail("uid", "203.0.113.1")
    assert [wait(hosts, number) for number in range(2, LIMIT)] == [0.0] * (LIMIT - 2)


def test_addresses_of_a_name_that_answered_are_known_for_a_minute(hosts, clock):
    for number in (1, 2):
        hosts.wait("uid", True, "large.example", f"203.0.113.{number}")
    hosts.fail("uid", "203.0.113.2")
    assert hosts.of("uid", "large.example") == ["203.0.113.1"]
    assert hosts.of("uid", "other.example") == hosts.of("another", "large.example") == []
    assert len(hosts) == 1
    clock.now += WINDOW_SECONDS
    assert hosts.of("uid", "large.example") == []
    hosts.forget_old()
    assert len(hosts) == 0


def test_without_a_limit_nobody_waits(clock):
    hosts = NewHosts(0, 0, clock=clock)
    assert [wait(hosts, number) for number in range(200)] == [0.0] * 200
    assert len(hosts) == 0


# -- source ports


HOST = ("203.0.113.11", 443)
PORTS = 4000
"""So all servers have 2,000 ports for one address, and unverified ones 1,000."""


@pytest.fixture
def ports(clock):
    return SourcePorts(PORTS, clock)


def opened(ports, number, server="stranger", verified=False, host=HOST):
    """The connections, of this many attempts, that were within the limits."""
    return list(filter(None, (ports.take(*host, server, verified) for _ in range(number))))


def test_unverified_servers_have_a_quarter_and_verified_ones_half(ports):
    assert len(opened(ports, PORTS)) == PORTS / 4
    assert len(opened(ports, PORTS, "verified", True)) == PORTS / 4
    before = len(ports)
    assert opened(ports, 1, "late") == opened(ports, 1, "another verified", True) == []
    assert len(ports) == before  # Refused connections are not remembered.
    # Another port is counted by itself. The kernel finds a port of the first half in a step or two.
    other = (HOST[0], 80)
    assert len(opened(ports, PORTS, "verified", True, other)) == PORTS / 2
    assert opened(ports, 1, host=other) == []


def test_unverified_server_with_few_has_a_place_beyond_the_quarter(ports):
    """A tenth of the half is for such servers, so that they get their packages. One server alone cannot fill it."""
    opened(ports, PORTS)
    assert len(opened(ports, PORTS, "student")) == FEW
    for number in range(100):
        opened(ports, FEW + 1, f"crowd {number}")
    assert ports.taken()["unverified"] == pytest.approx(1.2) and opened(ports, 1, "late") == []
    assert len(opened(ports, PORTS, "verified", True)) == pytest.approx(PORTS * 0.2)


def test_connection_that_has_ended_counts_for_a_minute_and_an_attempt_that_failed_no_longer(ports, clock):
    """The kernel keeps no port for such an attempt."""
    for taken in opened(ports, PORTS):
        ports.give_back(taken, connected=False)
    assert len(ports) == 0
    for taken in opened(ports, PORTS):
        ports.give_back(taken, connected=True)
    clock.now += KEPT_SECONDS - 1
    assert opened(ports, 1) == [] and ports.taken() == {"all": 0.5, "unverified": 1.0}
    clock.now += 1
    assert len(opened(ports, PORTS)) == PORTS / 4


def test_open_connection_counts_for_longer(ports, clock):
    (held,) = opened(ports, 1)
    clock.now += 10 * KEPT_SECONDS
    ports.forget_ended()
    assert ports.taken()["all"] == pytest.approx(1 / 2000)
    ports.give_back(held, connected=True)
    clock.now += KEPT_SECONDS
    ports.forget_ended()
    assert len(ports) == 0


async def test_connection_that_is_cut_before_its_host_answers_counts_no_longer(ports, monkeypatch):
    """Such ports would never be free again."""
    monkeypatch.setattr(upstream, "_connected", lambda *_: asyncio.sleep(60))

    opening = asyncio.create_task(upstream.connect(ports, NewHosts(0, 0), "", [HOST[0]], HOST[1], "uid-1", False))
    await asyncio.sleep(0)
    assert len(ports) > 0
    opening.cancel()
    await asyncio.wait([opening])
    assert len(ports) == 0


def test_memory_has_a_bound(ports, monkeypatch):
    monkeypatch.setattr(source_ports_module, "ENDED_MOST", 1000)
    for number in range(2000):
        taken = ports.take(f"2001:db8::{number:x}", 443, f"server {number % 100}", False)
        ports.give_back(taken, connected=True)
    assert len(ports) == 4 * 1000


def test_number_of_ports_is_that_of_the_machine_or_the_usual_one(tmp_path):
    file = tmp_path / "ip_local_port_range"
    assert source_ports(file) == DEFAULT_PORTS
    for text, number in (("32768\t60999\n", 28_232), ("", DEFAULT_PORTS), ("1 2 3", DEFAULT_PORTS)):
        file.write_text(text)
        assert source_ports(file) == number
