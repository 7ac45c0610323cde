"""The kernel's real table of connections, in a network namespace that is this test's node: what is read, and what is deleted."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from binder_egress.connections import table as table_module
from binder_egress.connections.table import Entry, Table

CLONE_NEWNET = 0x40000000

POD, OTHER, PUBLIC, PRIVATE = "10.42.0.5", "10.42.0.6", "203.0.113.10", "10.9.9.9"
POD6, PUBLIC6 = "fd00:42::5", "2001:db8::10"
TCP, UDP, SCTP = 6, 17, 132

Row = tuple[str, str, int, int]  # source, destination, protocol, port


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    """A network namespace with an empty table, in which the test is."""
    name = f"connections-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{name}") as there:
        try:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)
            subprocess.run(["ip", "netns", "del", name], check=True)


def opened(*rows: Row) -> None:
    """Connections of which the kernel knows."""
    for at, (source, destination, protocol, port) in enumerate(rows):
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with NFCTSocket(nfgen_family=family) as kernel:
            there = NFCTAttrTuple(family, source, destination, protocol, 20_000 + at, port)
            kernel.entry("add", timeout=600, tuple_orig=there, tuple_reply=there.reverse())


def left() -> set[tuple[str, str]]:
    """Source and destination of all that are in the table."""
    pairs = set()
    for family, version in ((socket.AF_INET, "V4"), (socket.AF_INET6, "V6")):
        with NFCTSocket(nfgen_family=family) as kernel:
            for message in kernel.dump():
                address = message.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_IP")
                pairs.add((address.get_attr(f"CTA_IP_{version}_SRC"), address.get_attr(f"CTA_IP_{version}_DST")))
    return pairs


def seen(entries: list[Entry]) -> set[Row]:
    return {(entry.source, entry.destination, entry.protocol, entry.port) for entry in entries}


MINE: set[Row] = {(POD, PUBLIC, TCP, 443), (POD, PUBLIC, UDP, 53), (POD, PRIVATE, TCP, 8081), (POD6, PUBLIC6, TCP, 443)}
OTHERS: set[Row] = {(OTHER, PUBLIC, TCP, 443), (PUBLIC, POD, TCP, 8888), (PUBLIC6, POD6, TCP, 8888), (OTHER, POD, UDP, 9)}


@pytest.mark.parametrize("few", [0, 8], ids=["the whole table at once", "each address by itself"])
def test_of_a_pod_are_the_connections_that_it_opened(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(table_module, "FEW", few)
    opened(*sorted(MINE | OTHERS))
    table = Table()
    assert table.size() == len(MINE | OTHERS)
    assert seen(list(table.opened_by([POD, POD6]))) == MINE
    assert seen(list(table.opened_by(["10.42.0.99"]))) == set()
    assert seen(list(table.opened_by([POD, POD6]))) == MINE  # as often as it is asked


@pytest.mark.parametrize("few", [0, 8], ids=["the whole table at once", "each address by itself"])
def test_of_an_address_that_is_taken_out_no_more_comes(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(table_module, "FEW", few)
    opened(*[(source, PUBLIC, TCP, 1000 + n) for n in range(300) for source in (POD, OTHER)])
    wanted = {POD: 0, OTHER: 0}
    found = []
    for entry in Table().opened_by(wanted):
        found.append(entry)
        if entry.source == POD:
            wanted.pop(POD)
    assert [entry.source for entry in found].count(POD) == 1
    assert len(seen(found)) == 301


def test_one_entry_is_deleted_and_nothing_beside_it() -> None:
    opened(*sorted(MINE | OTHERS))
    table = Table()
    for entry in list(table.opened_by([POD, POD6])):
        if entry.destination in (PUBLIC, PUBLIC6):
            assert table.delete(entry)
            assert not table.delete(entry)  # it is gone
    assert left() == {(source, destination) for source, destination, *_ in OTHERS} | {(POD, PRIVATE)}


def test_an_entry_of_a_zone_is_deleted_there() -> None:
    """Some network plugins have zones of their own."""
    there = NFCTAttrTuple(socket.AF_INET, POD, PUBLIC, TCP, 20_000, 443)
    with NFCTSocket() as kernel:
        kernel.entry("add", timeout=600, zone=5, tuple_orig=there, tuple_reply=there.reverse())
    table = Table()
    (entry,) = table.opened_by([POD])
    assert table.delete(entry)
    assert left() == set()


def test_a_thousand_entries_of_others_hide_none() -> None:
    """They come in many messages, most of which have none of the pod's."""
    opened(*[(f"10.42.1.{n % 250}", PUBLIC, TCP, 1000 + n) for n in range(1000)], (POD, PUBLIC, TCP, 443))
    table = Table()
    many = [POD, *[f"10.42.2.{n}" for n in range(table_module.FEW)]]
    assert seen(list(table.opened_by(many))) == {(POD, PUBLIC, TCP, 443)}


def test_a_protocol_without_ports_is_one_too() -> None:
    with NFCTSocket() as kernel:
        ping = NFCTAttrTuple(socket.AF_INET, POD, PUBLIC, 1, icmp_id=7, icmp_type=8, icmp_code=0)
        answer = NFCTAttrTuple(socket.AF_INET, PUBLIC, POD, 1, icmp_id=7, icmp_type=0, icmp_code=0)
        kernel.entry("add", timeout=600, tuple_orig=ping, tuple_reply=answer)
    table = Table()
    (entry,) = table.opened_by([POD])
    assert (entry.protocol, entry.port) == (1, None)
    assert table.delete(entry)
    assert left() == set()
