"""A process judges clients by the blocks that it saw last, and Redis tells it when they have changed (D-368)."""

import time

import pytest

from binder_egress.gate.fairness import Charge
from binder_egress.model.grants import Block, Rule
from binder_egress.model.serialization import read_origin
from binder_egress.store.connection import connect
from binder_egress.store.errors import BlocksChanged, ClientRefused
from tests.support.apps import CLIENT, NETWORK, admit, get_pass, internal_client, launch, solve
from tests.support.charges import present
from tests.support.reconciling import announce
from tests.support.store import Store

REPOSITORY = "https://example.com/a/b"


@pytest.fixture
def elsewhere(settings):
    """The store of another process: of the reconciler, or of another verifier."""
    client = connect(settings)
    yield Store(client)
    client.close()


def block(name="b", what=f"{CLIENT}/32", kind="network", until=None):
    return Block(name, kind, what, read_origin("eve"), "mining", int(time.time()), until)


def refusing(blocks):
    """Judges as if each block of a network applied to the client."""
    return Rule.BLOCKED if any(found.kind == "network" for found in blocks) else None


def test_new_block_counts_at_once_and_costs_the_client_nothing(public, store, elsewhere):
    get_pass(public)  # This process has seen that there are no blocks.
    solution = solve(public)
    before = store.charges([NETWORK], 3600)
    elsewhere.add_block(block(), [])
    answer = present(public, solution)
    assert answer.status_code == 403 and answer.json["type"].endswith("#blocked")
    assert store.charges([NETWORK], 3600) == before
    elsewhere.remove_block("b")
    elsewhere.add_block(block(what="192.0.2.0/24"), [])  # It applies to others.
    assert present(public, solution).status_code == 201


def test_block_that_ends_counts_no_more_without_a_change_in_redis(public, elsewhere, monkeypatch):
    solution = solve(public)
    elsewhere.add_block(block(until=int(time.time()) + 300), [])
    assert present(public, solution).status_code == 403
    now = time.time
    monkeypatch.setattr("binder_egress.web.passes.time.time", lambda: now() + 301)
    assert present(public, solution).status_code == 201


def test_known_block_is_judged_before_the_solution_until_redis_is_wiped(public, elsewhere, redis_server, store):
    """The solution is not looked at, so a captcha provider is not asked about it."""
    elsewhere.add_block(block(), [])
    for solution in (solve(public), "no solution at all"):
        assert present(public, solution).json["type"].endswith("#blocked")
    redis_server.wipe()
    store.ping()
    assert present(public, solve(public)).status_code == 201


def test_key_is_not_charged_for_a_blocked_client(store, elsewhere):
    elsewhere.add_block(block(), [])
    for _ in range(2):
        with pytest.raises(ClientRefused) as refused:
            store.use_key("k", 5, 60, refusing)
        assert refused.value.rule is Rule.BLOCKED
    assert store.charges(["key:k"], 60) == [0]


def test_blocks_that_another_thread_saw_do_not_pass_for_judged(store, elsewhere):
    """A thread judges by older blocks while another thread learns of newer ones: the solution is judged again by the newer."""
    judged = []

    def judge(blocks):
        if not judged:
            elsewhere.add_block(block(), [])
            with pytest.raises(BlocksChanged):
                announce(store)
            assert store.seen_blocks.blocks == [block()]
        judged.append(len(blocks))
        return refusing(blocks)

    with pytest.raises(ClientRefused):
        store.use_solution("altcha", "id", time.time() + 1, 60, judge, [Charge(NETWORK, 60, None, 0)])
    assert judged == [0, 1] and store.charges([NETWORK], 60) == [0]


@pytest.mark.parametrize("number", [1, 3000])
def test_all_blocks_are_seen(store, elsewhere, number):
    for one in range(number):
        elsewhere.add_block(block(f"b{one}", f"10.{one >> 8}.{one & 255}.0/24"), [])
    seen = []
    store.use_solution("altcha", "id", time.time() + 1, 60, lambda blocks: seen.append(len(blocks)), [])
    assert seen == [0, number]
    assert {found.id for found in store.seen_blocks.blocks} == {found.id for found in store.blocks()}
    elsewhere.remove_block("b0")
    with pytest.raises(BlocksChanged):
        announce(store)
    assert len(store.seen_blocks.blocks) == number - 1
    announce(store)
    store.use_solution("altcha", "other", time.time() + 1, 60, admit)


def test_launch_is_judged_by_the_blocks_of_its_moment_and_counted_once(public, services, store, elsewhere):
    hub, token = internal_client(services), get_pass(public)
    for rule in ("default", "blocked", "default"):
        assert launch(hub, repository=REPOSITORY)["rule"] == rule
        if rule == "default":
            elsewhere.add_block(block(what="example.com/a/b", kind="repository"), [])
        else:
            elsewhere.remove_block("b")
    elsewhere.remove_block("b")
    elsewhere.add_block(block(what="192.0.2.0/24"), [])  # Not known to this process, so the launch is decided twice.
    launch(hub)
    launch(hub, token=token)  # It gets the pass's use.
    launch(hub, token=token, user="other")  # It does not.
    assert store.health()["wiring"]["launches"] == 6
