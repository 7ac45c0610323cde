"""The owners of addresses: ages, addresses that two pods claim, and missed changes."""

import asyncio

import pytest

from binder_egress.model.records import AddressChange, AddressVersion, PodAddresses
from binder_egress.model.serialization import read_change, read_pods, read_version, write_pods
from binder_egress.proxy.identities import MAX_AGE_SECONDS, Identities


def pod(uid="a", *addresses, tier="unverified"):
    return PodAddresses(uid, uid, "", addresses or ("10.42.0.5",), tier)


@pytest.fixture
def changes():
    return []


@pytest.fixture
def identities(clock, changes):
    """Identities that have heard from the reconciler, but of no pod."""
    found = Identities(changes.append, clock)
    found.load(AddressVersion(0), {})
    assert found.apply(AddressChange(AddressVersion(0)))
    return found


def test_pod_is_known_by_each_of_its_addresses(identities):
    alice = pod("a", "10.42.0.5", "fd00::5")
    assert identities.apply(AddressChange(AddressVersion(1), "alice/", (alice,)))
    for address in ("10.42.0.5", "::ffff:10.42.0.5", "fd00::5", "fd00:0:0::5"):
        assert identities.of(address) == alice
    assert identities.of("10.42.0.6") is None and identities.of("nonsense") is None
    # A pod that spells an address twice claims it once.
    twice = pod("a", "10.42.0.5", "::ffff:10.42.0.5")
    identities.apply(AddressChange(AddressVersion(2), "alice/", (twice,)))
    assert identities.of("10.42.0.5") == twice and identities.claimed_twice == []
    identities.apply(AddressChange(AddressVersion(3), "alice/"))
    assert identities.of("10.42.0.5") is None and len(identities) == 0


def test_address_that_two_pods_claim_is_nobodys(identities, changes):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod("a"),)))
    changes.clear()
    identities.apply(AddressChange(AddressVersion(2), "bob/", (pod("b"),)))
    assert identities.of("10.42.0.5") is None and identities.claimed_twice == ["10.42.0.5"]
    # Open connections belong to one of the two pods, and nobody knows to which.
    assert set(changes) == {"a", "b"} and identities.still("a", "10.42.0.5") is None
    identities.apply(AddressChange(AddressVersion(3), "alice/"))
    assert identities.of("10.42.0.5").uid == "b"


def test_old_addresses_count_for_open_connections_alone(identities, clock):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    clock.now += MAX_AGE_SECONDS
    assert identities.of("10.42.0.5")
    clock.now += 1
    assert identities.of("10.42.0.5") is None and identities.still("a", "10.42.0.5")
    identities.load(AddressVersion(1), {"alice/": [pod()]})
    assert identities.of("10.42.0.5") is None
    identities.apply(AddressChange(AddressVersion(1)))
    assert identities.of("10.42.0.5")


def test_change_of_one_server_makes_no_other_count_again(identities, clock):
    """A reconciler that starts after a gap publishes changes before its first heartbeat. An address may be another pod's now."""
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    clock.now += MAX_AGE_SECONDS + 1
    assert identities.apply(AddressChange(AddressVersion(2), "bob/", (pod("b", "10.42.0.6"),)))
    assert identities.of("10.42.0.5") is None and identities.of("10.42.0.6") is None
    assert identities.apply(AddressChange(AddressVersion(2)))
    assert identities.of("10.42.0.5") and identities.of("10.42.0.6")


@pytest.mark.parametrize(
    "version", [AddressVersion(0), AddressVersion(3), AddressVersion(1, "after a wipe"), AddressVersion(2, "after a wipe")]
)
@pytest.mark.parametrize("server", ["bob/", ""], ids=["change", "beat"])
def test_missed_change_asks_for_a_snapshot(identities, version, server):
    bob = (pod("b", "10.42.0.6"),)
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    assert not identities.apply(AddressChange(version, server, bob if server else ()))
    # No change is applied before the snapshot.
    assert not identities.apply(AddressChange(AddressVersion(2), "bob/", bob))
    identities.load(version, {})
    assert identities.apply(AddressChange(version))


def test_change_that_the_snapshot_has_changes_nothing(identities):
    identities.load(AddressVersion(5), {"alice/": [pod(tier="verified")]})
    assert identities.apply(AddressChange(AddressVersion(5), "alice/", (pod(),)))
    assert identities.of("10.42.0.5").tier == "verified"


def test_snapshot_tells_of_pods_that_others_of_their_server_replaced(identities, changes):
    """A change was missed. Each pod has its own address, so news about the new pod is not news about the old one."""
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod("a", "10.42.0.5"),)))
    changes.clear()
    identities.load(AddressVersion(3), {"alice/": [pod("b", "10.42.0.6")]})
    assert set(changes) == {"a", "b"} and identities.still("a", "10.42.0.5") is None


@pytest.fixture
def vanished(identities, changes):
    """Identities of which alice's pod has vanished: Redis was wiped, and the reconciler publishes again."""
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    identities.load(AddressVersion(0), {})
    changes.clear()
    return identities


def test_vanished_pod_keeps_open_connections_for_a_while(vanished, clock, changes):
    vanished.apply(AddressChange(AddressVersion(0)))
    assert vanished.of("10.42.0.5") is None and vanished.still("a", "10.42.0.5") == pod()
    clock.now += MAX_AGE_SECONDS + 1
    vanished.forget_missing()
    assert changes == ["a"] and vanished.still("a", "10.42.0.5") is None


def test_vanished_pod_loses_its_connections_to_the_next_with_its_address(vanished, changes):
    vanished.apply(AddressChange(AddressVersion(1), "bob/", (pod("b"),)))
    assert vanished.still("a", "10.42.0.5") is None and vanished.of("10.42.0.5").uid == "b" and set(changes) == {"a", "b"}


def test_vanished_pod_that_comes_back_is_known_again(vanished, changes):
    vanished.apply(AddressChange(AddressVersion(1), "alice/", (pod(tier="verified"),)))
    assert vanished.of("10.42.0.5").tier == "verified" and changes == ["a"]
    vanished.forget_missing()
    assert vanished.still("a", "10.42.0.5").tier == "verified"


def test_change_of_addresses_ends_connections_from_the_old_one(identities):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod("a", "10.42.0.5"),)))
    identities.apply(AddressChange(AddressVersion(2), "alice/", (pod("a", "10.42.0.6"),)))
    assert identities.still("a", "10.42.0.5") is None and identities.still("a", "10.42.0.6")
    identities.apply(AddressChange(AddressVersion(3), "bob/", (pod("b", "10.42.0.5"),)))
    assert identities.still("a", "10.42.0.5") is None


async def test_connection_waits_for_its_own_pod_alone(identities, monkeypatch):
    """Many clients may wait, and there are many changes: each change is not a reason to look again."""
    looks, of = [], identities.of
    monkeypatch.setattr(identities, "of", lambda address: looks.append(1) or of(address))
    waiting = asyncio.create_task(identities.wait_for("10.42.0.5", 60))
    for number in range(1, 101):
        await asyncio.sleep(0)
        identities.apply(AddressChange(AddressVersion(number), f"{number}/", (pod(str(number), f"10.42.1.{number}"),)))
    assert len(looks) <= 2
    identities.apply(AddressChange(AddressVersion(101), "alice/", (pod(),)))
    assert await waiting == pod()
    assert await identities.wait_for("10.42.0.6", 0.05) is None


BEAT = AddressChange(AddressVersion(0))
BOB = AddressChange(AddressVersion(1), "bob/", (pod("b"),))


@pytest.mark.parametrize(
    ("before", "news"),
    [
        # The known pods count again.
        ([], lambda identities: identities.apply(BEAT)),
        # The other pod that claims the address has ended.
        ([BEAT, BOB], lambda identities: identities.apply(AddressChange(AddressVersion(2), "bob/"))),
        ([BEAT, BOB], lambda identities: identities.load(AddressVersion(1), {"alice/": [pod()]})),
    ],
    ids=["fresh", "claimed once", "snapshot"],
)
async def test_connection_that_waits_hears_of_what_makes_its_pod_known(before, news):
    identities = Identities()
    identities.load(AddressVersion(0), {"alice/": [pod()]})
    for change in before:
        assert identities.apply(change)
    waiting = asyncio.create_task(identities.wait_for("10.42.0.5", 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    news(identities)
    assert await waiting == pod()


def test_common_fields_of_pods_are_in_memory_once():
    text = write_pods([PodAddresses("a", "a", "", ("10.42.0.5",), "a-tier", repository="https://example.org/a/b")])
    one, other = read_pods(text) + read_pods(text)
    assert one == other and one.tier is other.tier and one.repository is other.repository


def test_changes_are_read():
    assert read_change('{"number": 3, "began": "1.2", "server": "", "pods": "", "new": 1}') == AddressChange(
        AddressVersion(3, "1.2")
    )
    assert read_version("1.2-3") == AddressVersion(3, "1.2") and read_version(None) == AddressVersion()
