"""Source ports for one address of a host: how many all servers may take together, and how many unverified ones."""

import asyncio

import pytest

from tests.support.egress_proxy import few_ports
from verifier.proxy import upstream
from verifier.proxy.limits import DEFAULT_PORTS
from verifier.proxy.new_hosts import NewHosts
from verifier.proxy.source_ports import ENDED_MOST, FEW, KEPT_SECONDS, SourcePorts, source_ports

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


def test_all_servers_together_have_half(ports):
    """The kernel finds a port of the first half in a step or two; the verified ones may take all of it."""
    assert len(opened(ports, PORTS, "verified", True)) == PORTS / 2
    assert opened(ports, 1) == []


def test_another_port_of_an_address_is_counted_by_itself(ports):
    opened(ports, PORTS)
    assert len(opened(ports, 10, host=(HOST[0], 80))) == 10


def test_unverified_server_with_few_has_a_place_beyond_the_quarter(ports):
    """A tenth of the half is for such servers, so that they get their packages. One server alone cannot fill it."""
    opened(ports, PORTS)
    assert len(opened(ports, PORTS, "student")) == FEW
    for number in range(100):
        opened(ports, PORTS, f"crowd {number}")
    assert ports.taken()["unverified"] == pytest.approx(1.2) and opened(ports, 1, "late") == []
    assert len(opened(ports, PORTS, "verified", True)) == pytest.approx(PORTS * 0.2)


def test_connection_that_has_ended_counts_for_a_minute(ports, clock):
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


def test_attempt_that_failed_counts_no_longer(ports):
    """The kernel keeps no port for such a connection."""
    for taken in opened(ports, PORTS):
        ports.give_back(taken, connected=False)
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


def test_refused_connection_is_not_remembered(ports):
    opened(ports, PORTS)
    before = len(ports)
    opened(ports, PORTS, "another verified", True)
    opened(ports, 1, "late")
    assert len(ports) == before


def test_memory_has_a_bound(clock):
    ports = SourcePorts(DEFAULT_PORTS, clock)
    for number in range(ENDED_MOST + 1000):
        taken = ports.take(f"2001:db8::{number:x}", 443, f"server {number % 100}", False)
        ports.give_back(taken, connected=True)
    assert len(ports) == 4 * ENDED_MOST


@pytest.mark.parametrize(
    ("text", "number"), [("32768\t60999\n", 28_232), ("10000\t65535\n", 55_536), ("", 28_232), ("1 2 3", 28_232)]
)
def test_number_of_ports_is_that_of_the_machine(tmp_path, text, number):
    file = tmp_path / "ip_local_port_range"
    file.write_text(text)
    assert source_ports(file) == number


def test_number_of_ports_has_a_default(tmp_path):
    assert source_ports(tmp_path / "none") == DEFAULT_PORTS


@pytest.fixture(scope="module")
def seen():
    return few_ports.seen()


def test_proxy_refuses_unverified_servers_that_take_a_hosts_ports(seen):
    """With real sockets, and so few ports that a test can take them."""
    assert seen["crowd"] == {"200": few_ports.PORTS // 4, "503": few_ports.TRIED - few_ports.PORTS // 4}
    assert "503 Too many connections to this host in the last minute, try again" in seen["refusal"]


@pytest.mark.parametrize(
    ("who", "number"), [("verified", few_ports.VERIFIED), ("other host", 1), ("two addresses", 1), ("after", 1)]
)
def test_others_are_served_meanwhile_and_all_after_a_minute(seen, who, number):
    """A verified server, another host, another address of a host that is full at one."""
    assert seen[who] == {"200": number}


def test_metrics_have_the_part_that_is_taken_and_the_refusals(seen):
    assert (seen["unverified"], seen["refusals"]) == (1.0, few_ports.TRIED - few_ports.PORTS // 4 + 1)
