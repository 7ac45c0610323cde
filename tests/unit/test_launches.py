"""Launches: the decision that BinderHub's hook receives."""

from tests.support.apps import get_pass, launch
from verifier.grants import NoEgress
from verifier.records import Record, Server
from verifier.repositories import cut
from verifier.store.announcements import Announced


def test_launch_of_a_newer_hook_is_decided(public, internal):
    """After a rollback of the gate, the hook is still of the later version. Fields that the gate does not know change nothing."""
    newer = {"later": {"x": 1}, "tier": "verified"}
    assert launch(internal, user="alice", **newer)["tier"] == "unverified"
    assert launch(internal, user="bob", token=get_pass(public), **newer)["tier"] == "verified"


def test_repository_of_any_length_is_recorded_and_cut_as_that_of_its_pod(internal, store):
    """A stranger chooses the URL. Without a record, the pod would count as one whose launch was not reported."""
    url = "https://github.com/owner/name?" + "x" * 10_000
    assert launch(internal, repository=url)["rule"] == "default"
    assert store.pending(Server("alice"), set()).launch.repository == cut(url) != url


def test_times_of_the_first_and_the_last_launch_are_kept(store):
    """`doctor` names them."""
    for at in (100, 200):
        record = Record(NoEgress.new("default", at), image="image:1")
        store.record_launch(Server("alice"), record, 600, Announced(at, True, store.seen_blocks.version))
    wiring = store.health()["wiring"]
    assert (wiring["first"], wiring["last"]) == (100, 200)
