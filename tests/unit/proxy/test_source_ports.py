"""Source ports for one address of a host: how many all servers may take together, and how many unverified ones."""

import asyncio

import pytest

from verifier.proxy import source_ports as source_ports_module
from verifier.proxy import upstream
from verifier.proxy.limits import DEFAULT_PORTS
from verifier.proxy.new_hosts import NewHosts
from verifier.proxy.source_ports import FEW, KEPT_SECONDS, SourcePorts, source_ports

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
        opened(ports, FEW + 1, f"crowd {number}")
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


def test_memory_has_a_bound(ports, monkeypatch):
    monkeypatch.setattr(source_ports_module, "ENDED_MOST", 1000)
    for number in range(2000):
        taken = ports.take(f"2001:db8::{number:x}", 443, f"server {number % 100}", False)
        ports.give_back(taken, connected=True)
    assert len(ports) == 4 * 1000


@pytest.mark.parametrize(
    ("text", "number"),
    [("32768\t60999\n", 28_232), ("10000\t65535\n", 55_536), ("", DEFAULT_PORTS), ("1 2 3", DEFAULT_PORTS), (None, DEFAULT_PORTS)],
)
def test_number_of_ports_is_that_of_the_machine_or_the_usual_one(tmp_path, text, number):
    file = tmp_path / "ip_local_port_range"
    if text is not None:
        file.write_text(text)
    assert source_ports(file) == number
