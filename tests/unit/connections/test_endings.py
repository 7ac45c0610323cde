"""Whose connections the part on a node ends, which of them, and for how long: with a table and a clock of the test."""

import ipaddress
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from binder_egress.connections import process
from binder_egress.connections.opened import Opened
from binder_egress.connections.process import LEAST_SECONDS, MANY, MOST_SECONDS, Connections, look
from binder_egress.connections.table import Entry
from binder_egress.model.records import TierChange
from binder_egress.model.serialization import write_tier_changes
from binder_egress.settings import InvalidSettings

TCP, UDP, PING = 6, 17, 1
POD, NEXT, PUBLIC = "10.42.0.5", "10.42.0.6", "203.0.113.10"

CLOSED = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "203.0.113.99/32"]}


def policy(tier: str | None, *egress: dict[str, Any]) -> dict[str, Any]:
    labels = {"component": "singleuser-server"} | ({"binder-egress/tier": tier} if tier else {})
    return {"podSelector": {"matchLabels": labels}, "policyTypes": ["Egress"], "egress": list(egress)}


POLICIES = {
    "base": policy(
        None,
        {"to": [{"podSelector": {"matchLabels": {"component": "hub"}}}], "ports": [{"port": 8081, "protocol": "TCP"}]},
        {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]},
    ),
    "all": policy("verified", {"to": [{"ipBlock": CLOSED}]}, {"to": [{"ipBlock": {"cidr": "2000::/3"}}]}),
    "web": policy("web", {"to": [{"ipBlock": CLOSED}], "ports": [{"port": 80, "endPort": 90, "protocol": "TCP"}]}),
    "odd": policy("odd", {"ports": [{"port": "http", "protocol": "TCP"}, {"protocol": "UDP"}]}),
}

OPENED = Opened(POLICIES, [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/9")])


@pytest.mark.parametrize(("tier", "destination", "protocol", "port", "closes"), [
    ("unverified", PUBLIC, TCP, 443, True),
    ("unverified", "2001:db8::10", TCP, 443, True),
    ("unverified", PUBLIC, PING, None, True),
    ("unverified", "10.43.0.10", UDP, 53, False),          # private: DNS, the hub, the proxy
    ("unverified", "fd00:43::10", TCP, 8081, False),
    ("unverified", "198.51.100.7", TCP, 25, False),        # open for every pod
    ("unknown", PUBLIC, TCP, 443, True),                   # no policy has this tier
    ("verified", PUBLIC, TCP, 443, False),
    ("verified", PUBLIC, PING, None, False),
    ("verified", "203.0.113.99", TCP, 443, True),          # an exception
    ("verified", "2001:db8::10", UDP, 53, False),
    ("web", PUBLIC, TCP, 80, False),
    ("web", PUBLIC, TCP, 90, False),
    ("web", PUBLIC, TCP, 91, True),
    ("web", PUBLIC, UDP, 80, True),
    ("web", PUBLIC, PING, None, True),
    ("odd", PUBLIC, UDP, 9, False),                        # every port of UDP, everywhere
    ("odd", PUBLIC, TCP, 80, True),                        # a named port is one of a pod
])  # fmt: skip
def test_a_tier_closes_what_is_public_and_no_policy_opens(
    tier: str, destination: str, protocol: int, port: int | None, closes: bool
) -> None:
    assert OPENED.closes(tier, destination, protocol, port) == closes


class FakeTable:
    """Entries that stay in place: the network plugin has not acted, and the next packet makes each again."""

    def __init__(self, *entries: Entry):
        self.entries, self.looks, self.deleted = list(entries), 0, []

    def opened_by(self, addresses: Any) -> Iterator[Entry]:
        self.looks += 1
        return (entry for entry in self.entries if entry.source in addresses)

    def delete(self, entry: Entry) -> bool:
        self.deleted.append(entry)
        return True


def entry(source: str, destination: str = PUBLIC, port: int = 443) -> Entry:
    return Entry(source, destination, TCP, port, {"of": f"{source} {destination} {port}"})


def change(uid: str = "a", address: str = POD, tier: str = "unverified", at: float = 100.0, seconds: float = 0.0) -> TierChange:
    return TierChange(uid, "node", (address,), tier, at, seconds)


class Node:
    """The part on a node, and its clock."""

    def __init__(self, *entries: Entry):
        self.now, self.table = 1000.0, FakeTable(*entries)
        self.connections = Connections(self.table, OPENED, "node", lambda: self.now)  # type: ignore[arg-type]

    def work(self, seconds: float) -> None:
        """Everything that is due within some seconds."""
        until = self.now + seconds
        while (wait := self.connections.turn()) is not None and self.now + wait <= until:
            self.now += wait
        self.now = until

    def cut(self) -> set[Entry]:
        """What was deleted since the last call."""
        found = {id(entry): entry for entry in self.table.deleted}
        self.table.deleted = []
        return set(map(lambda entry: entry.key["of"], found.values()))  # type: ignore[arg-type]


def test_entries_are_deleted_again_until_the_plugin_has_acted_and_no_longer() -> None:
    node = Node(entry(POD), entry(POD, "10.43.0.10", 53), entry(NEXT))
    node.connections.hear([change(seconds=10.0)])
    at = []
    until = node.now + 100
    while (wait := node.connections.turn()) is not None and node.now < until:
        at.append(round(node.now - 1000, 1))
        node.now += wait
    assert at[:8] == [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5]
    assert 20.0 <= node.now - 1000 <= 40.0  # twice the delay that was measured
    assert node.cut() == {f"{POD} {PUBLIC} 443"}


@pytest.mark.parametrize(("delay", "least", "most"), [(0.0, LEAST_SECONDS, 8), (60.0, MOST_SECONDS, 240), (1e9, MOST_SECONDS, 240)])
def test_it_ends_by_itself(delay: float, least: float, most: float) -> None:
    node = Node()
    node.connections.hear([change(seconds=delay)])
    while (wait := node.connections.turn()) is not None:
        node.now += wait
    assert least <= node.now - 1000 <= most


def test_a_look_that_takes_long_is_not_the_last() -> None:
    """What it deleted first may be there again."""
    node = Node(entry(POD))
    read = node.table.opened_by

    def slowly(addresses: Any) -> Iterator[Entry]:
        yield from read(addresses)
        node.now += 2 * LEAST_SECONDS

    node.table.opened_by = slowly  # type: ignore[method-assign]
    node.connections.hear([change()])
    node.work(60)
    assert node.table.looks == 2


def test_pods_that_change_together_cost_one_look_at_the_table() -> None:
    node = Node(*[entry(f"10.42.1.{n}") for n in range(50)])
    node.connections.hear([change(str(n), f"10.42.1.{n}") for n in range(50)])
    node.connections.turn()
    assert node.table.looks == 1
    assert len(node.cut()) == 50


def test_what_was_said_before_is_not_done_again_and_each_change_is() -> None:
    node = Node(entry(POD), entry(POD, port=80))
    node.connections.hear([change()])
    node.work(60)
    node.cut()
    node.connections.hear([change(), change("b", NEXT)])
    node.work(60)
    assert not node.cut()
    node.connections.hear([change(tier="web", at=200.0)])
    node.work(60)
    assert node.cut() == {f"{POD} {PUBLIC} 443"}


def test_an_unlock_right_after_a_cut_keeps_what_it_opens() -> None:
    node = Node(entry(POD))
    node.connections.hear([change()])
    node.connections.turn()
    assert node.cut()
    node.connections.hear([change(tier="verified", at=100.5)])
    node.work(60)
    assert not node.cut()


def test_after_a_restart_the_pods_whose_tier_changed_meanwhile_are_done_and_no_others() -> None:
    node = Node(entry(POD), entry(NEXT))
    node.connections.hear([change()])
    node.work(60)
    assert node.cut() == {f"{POD} {PUBLIC} 443"}


@pytest.mark.parametrize("given", [[], [change("next", tier="verified")]], ids=["the pod ended", "its address is another pod's"])
def test_nothing_of_the_next_pod_with_the_address_is_cut(given: list[TierChange]) -> None:
    node = Node(entry(POD))
    node.connections.hear([change()])
    node.connections.hear(given)
    node.work(60)
    assert not node.cut()


def test_the_next_pod_with_the_address_is_cut_by_its_own_change() -> None:
    node = Node(entry(POD))
    node.connections.hear([change()])
    node.connections.hear([change("next", at=101.0)])
    node.connections.turn()
    assert node.cut()


def test_an_address_that_two_pods_claim_is_nobodys() -> None:
    node = Node(entry(POD))
    node.connections.hear([change("a"), change("b")])
    node.work(60)
    assert not node.cut()


def test_a_pod_that_ends_while_the_table_is_read_loses_nothing() -> None:
    node = Node(entry(POD))
    read = node.table.opened_by

    def reading(addresses: Any) -> Iterator[Entry]:
        for found in read(addresses):
            node.connections.hear([])
            yield found

    node.table.opened_by = reading  # type: ignore[method-assign]
    node.connections.hear([change()])
    node.work(60)
    assert not node.cut()


def test_each_connection_is_deleted_before_the_next_is_read() -> None:
    """A pod may have hundreds of thousands, and together they would not fit into the container's memory."""
    node = Node(*[entry(POD, port=port) for port in range(9)])

    def reading(addresses: Any) -> Iterator[Entry]:
        for number, each in enumerate(node.table.entries):
            assert len(node.table.deleted) == number
            yield each

    node.table.opened_by = reading  # type: ignore[method-assign, assignment]
    node.connections.hear([change()])
    node.connections.turn()
    assert len(node.table.deleted) == 9


def test_a_pod_with_many_connections_holds_up_no_other() -> None:
    third = "10.42.0.7"
    many = [entry(POD, port=port) for port in range(3 * MANY)]
    node = Node(*many, entry(NEXT), entry(third))

    def slowly(each: Entry) -> bool:
        node.now += 0.001
        node.table.deleted.append(each)
        return True

    node.table.delete = slowly  # type: ignore[method-assign]
    node.connections.hear([change(), change("b", NEXT)])
    assert node.connections.turn() == 0.0
    cut = node.cut()
    assert f"{NEXT} {PUBLIC} 443" in cut and len(cut) == MANY + 1
    while node.now < 1000 + (MANY + 500) * 0.001:
        node.connections.turn()
    node.connections.hear([change(), change("b", NEXT), change("c", third)])
    node.connections.turn()
    cut = node.cut()
    assert f"{third} {PUBLIC} 443" in cut and len(cut) < 2 * MANY, "it waited for all connections of another"
    node.work(30)
    assert len(node.cut() | cut) == 3 * MANY + 2


def test_pods_of_other_nodes_are_none_of_its_business() -> None:
    node = Node(entry(POD))
    node.connections.hear([replace(change(), node="elsewhere")])
    assert node.connections.turn() is None
    assert not node.table.looks


def test_a_pod_has_one_line_with_a_number_and_no_address(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(entry(POD), entry(POD, port=80))
    node.connections.hear([change()])
    with caplog.at_level(logging.INFO):
        node.work(60)
    (line,) = caplog.records
    assert line.fields == {"uid": "a", "tier": "unverified", "connections": 2}  # type: ignore[attr-defined]
    assert node.connections.counted == {"unverified": 2}


@pytest.mark.parametrize(("late", "cut"), [(0, True), (599, True), (601, False)])
def test_in_deny_every_pod_has_lost_the_tier_that_was_seen_last(monkeypatch: pytest.MonkeyPatch, late: int, cut: bool) -> None:
    """Later, an address may be anybody's."""
    node, api = Node(entry(POD), entry(NEXT)), object()
    settings: Any = SimpleNamespace(namespace="ns", connections="c")
    data = {"at": str(int(time.time()) - late), "tiers": write_tier_changes([change(tier="verified")])}
    asked: list[Any] = []
    monkeypatch.setattr(process.kubernetes_api, "read", lambda *given: asked.append(given) or {"data": data})
    process.hear_of_all(api, settings, node.connections)  # type: ignore[arg-type]
    assert asked == [(api, "GET", "/api/v1/namespaces/ns/configmaps/c-tiers")]
    node.work(60)
    assert node.cut() == ({f"{POD} {PUBLIC} 443"} if cut else set())


def test_in_deny_nothing_may_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(entry(POD))
    monkeypatch.setattr(process.kubernetes_api, "read", lambda *given: {})
    process.hear_of_all(object(), SimpleNamespace(namespace="ns", connections="c"), node.connections)  # type: ignore[arg-type]
    assert node.connections.turn() is None


@pytest.mark.parametrize(("size", "said"), [(7, "tracks 7 connections"), (0, "none can be ended")])
def test_it_says_whether_anything_can_be_ended(caplog: pytest.LogCaptureFixture, size: int, said: str) -> None:
    table: Any = SimpleNamespace(size=lambda: size)
    with caplog.at_level(logging.INFO):
        look(table)
    assert said in caplog.text


def test_a_kernel_that_shows_nothing_is_an_error_with_a_sentence() -> None:
    def refuse() -> int:
        raise OSError(95, "Operation not supported")

    table: Any = SimpleNamespace(size=refuse)
    with pytest.raises(
        InvalidSettings, match=r"connections\.enabled: this node's kernel does not show its connections: .*supported"
    ):
        look(table)
