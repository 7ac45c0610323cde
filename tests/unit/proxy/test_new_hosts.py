"""How many addresses a server may try through the proxy in a minute."""

import pytest

from verifier.proxy.new_hosts import WAIT_SECONDS, WINDOW_SECONDS, NewHosts

LIMIT = 20


@pytest.fixture
def hosts(clock):
    return NewHosts(LIMIT, 5, clock=clock)


def wait(hosts, number, server="uid", verified=True):
    return hosts.wait(server, verified, f"{number}.example", f"203.0.113.{number}")


def scan(hosts, clock, seconds, fails=False):
    """The number of addresses that a scan tries in this time if it does nothing but wait for its turns."""
    tried, ends = 0, clock.now + seconds
    while clock.now < ends:
        pause = hosts.wait("uid", True, "", str(tried))
        clock.now += 0.5 if pause is None else pause or 0.01
        if fails and pause is not None:
            hosts.fail("uid", str(tried))
        tried += pause is not None
    return tried


def test_server_tries_its_number_of_addresses_without_a_wait(hosts):
    assert [wait(hosts, number) for number in range(LIMIT)] == [0.0] * LIMIT
    assert [wait(hosts, number) for number in range(5)] == [0.0] * 5
    assert wait(hosts, LIMIT) > 0


def test_server_beyond_its_limit_is_named(hosts):
    for number in range(LIMIT):
        wait(hosts, number)
    wait(hosts, 1, server="other")
    assert hosts.beyond == set()
    wait(hosts, LIMIT)
    assert hosts.beyond == {"uid"}


def test_unverified_server_has_a_limit_of_its_own(hosts):
    assert [wait(hosts, number, verified=False) for number in range(5)] == [0.0] * 5
    assert wait(hosts, 5, verified=False) != 0


def test_delay_doubles_with_each_quarter_of_the_limit(hosts, clock):
    for number in range(LIMIT):
        wait(hosts, number)
    pauses = []
    for number in range(LIMIT, LIMIT + 6):
        clock.now += (pause := wait(hosts, number))
        pauses.append(pause)
    assert pauses[0] == pytest.approx(60 / LIMIT)
    assert pauses[5] == pytest.approx(2 * pauses[0])


def test_second_connection_does_not_pass_the_first(hosts, clock):
    for number in range(LIMIT):
        wait(hosts, number)
    pause = wait(hosts, LIMIT)
    clock.now += 1
    assert wait(hosts, LIMIT) == pytest.approx(pause - 1)


def test_address_whose_turn_is_too_far_away_is_not_tried(hosts, clock):
    pauses = [wait(hosts, number) for number in range(3 * LIMIT)]
    assert pauses[-1] is None and max(filter(None, pauses)) <= WAIT_SECONDS
    clock.now += WINDOW_SECONDS + WAIT_SECONDS
    assert wait(hosts, 3 * LIMIT - 1) == 0


def test_scan_tries_half_as_many_again_in_a_minute_and_the_limit_in_each_later_one(hosts, clock):
    assert scan(hosts, clock, 60) <= 1.5 * LIMIT
    assert scan(hosts, clock, 600) <= 11 * LIMIT


def test_address_that_does_not_answer_counts_twice(hosts, clock):
    assert scan(hosts, clock, 60, fails=True) < LIMIT < scan(NewHosts(LIMIT, 5, clock=clock), clock, 60)


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
    clock.now += WINDOW_SECONDS
    assert hosts.of("uid", "large.example") == []


def test_servers_that_try_nothing_are_forgotten(hosts, clock):
    wait(hosts, 1)
    assert len(hosts) == 1
    clock.now += WINDOW_SECONDS
    hosts.forget_old()
    assert len(hosts) == 0


def test_without_a_limit_nobody_waits(clock):
    hosts = NewHosts(0, 0, clock=clock)
    assert [wait(hosts, number) for number in range(200)] == [0.0] * 200
    assert len(hosts) == 0
