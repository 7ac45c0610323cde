"""The owners of addresses: ages, addresses that two pods claim, and missed changes."""

import asyncio

import pytest

from verifier.proxy.identities import MAX_AGE_SECONDS, Identities
from verifier.records import AddressChange, AddressVersion, PodAddresses
from verifier.texts import read_change, read_pods, read_version, write_pods


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


def test_pod_that_spells_an_address_twice_claims_it_once(identities):
    alice = pod("a", "10.42.0.5", "::ffff:10.42.0.5")
    identities.apply(AddressChange(AddressVersion(1), "alice/", (alice,)))
    assert identities.of("10.42.0.5") == alice and identities.claimed_twice == []
    identities.apply(AddressChange(AddressVersion(2), "alice/"))
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


def test_snapshot_alone_is_not_fresh(clock):
    identities = Identities(clock=clock)
    identities.load(AddressVersion(7), {"alice/": [pod()]})
    assert identities.of("10.42.0.5") is None
    assert identities.apply(AddressChange(AddressVersion(7))) and identities.of("10.42.0.5") == pod()


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


@pytest.mark.parametrize("version", [0, 3, 9])
def test_missed_change_asks_for_a_snapshot(identities, version):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    assert not identities.apply(AddressChange(AddressVersion(version), "bob/", (pod("b", "10.42.0.6"),)))
    # No change is applied before the snapshot.
    assert not identities.apply(AddressChange(AddressVersion(2), "bob/", (pod("b", "10.42.0.6"),)))
    identities.load(AddressVersion(version), {})
    assert identities.apply(AddressChange(AddressVersion(version)))


def test_beat_with_another_version_asks_for_a_snapshot(identities):
    assert not identities.apply(AddressChange(AddressVersion(1)))


def test_same_number_after_a_wipe_asks_for_a_snapshot(identities):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    assert not identities.apply(AddressChange(AddressVersion(1, "later"), "bob/", (pod("b", "10.42.0.6"),)))


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


def test_vanished_pod_keeps_open_connections_for_a_while(identities, clock, changes):
    """Redis was wiped, and the reconciler publishes again."""
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    identities.load(AddressVersion(0), {})
    identities.apply(AddressChange(AddressVersion(0)))
    assert identities.of("10.42.0.5") is None and identities.still("a", "10.42.0.5") == pod()
    clock.now += MAX_AGE_SECONDS + 1
    changes.clear()
    identities.forget_missing()
    assert changes == ["a"] and identities.still("a", "10.42.0.5") is None


def test_vanished_pod_loses_its_connections_to_the_next_with_its_address(identities, changes):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    identities.load(AddressVersion(0), {})
    changes.clear()
    identities.apply(AddressChange(AddressVersion(1), "bob/", (pod("b"),)))
    assert identities.still("a", "10.42.0.5") is None and identities.of("10.42.0.5").uid == "b" and set(changes) == {"a", "b"}


def test_vanished_pod_that_comes_back_is_known_again(identities, changes):
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(),)))
    identities.load(AddressVersion(0), {})
    changes.clear()
    identities.apply(AddressChange(AddressVersion(1), "alice/", (pod(tier="verified"),)))
    assert identities.of("10.42.0.5").tier == "verified" and changes == ["a"]
    identities.forget_missing()
    assert identities.still("a", "10.42.0.5").tier == "verified"


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


def test_records_survive_json():
    listed = [pod("a", "10.42.0.5", "fd00::5", tier="verified")]
    assert read_pods(write_pods(listed)) == listed
    assert read_change('{"number": 3, "began": "1.2", "server": "", "pods": "", "new": 1}') == AddressChange(
        AddressVersion(3, "1.2")
    )
    assert read_version("1.2-3") == AddressVersion(3, "1.2") and read_version(None) == AddressVersion()
