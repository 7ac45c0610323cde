"""Which pods the reconciler tells the nodes of, so that they end connections."""

import json
from dataclasses import replace
from typing import Any

import pytest

from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.grants import Blocked, Egress, EndedLease, Origin, Rule
from binder_egress.model.records import Server
from binder_egress.model.serialization import read_tier_changes
from binder_egress.reconciler import changed_tiers
from binder_egress.reconciler.cache import PodCache
from binder_egress.reconciler.changed_tiers import ChangedTiers
from binder_egress.reconciler.user_pods import Pod

OPERATOR = Origin("operator", text="eve")
BLOCKED = Blocked("b", 1, OPERATOR, "")


def pod(uid: str = "a", label: str | None = None, **more: Any) -> Pod:
    grant = Egress.new(label, Rule.OPERATOR, 1, OPERATOR, "") if label else None
    fields = {"grant": grant, "addresses": ("10.42.0.5", "fd00::5"), "node": "node"} | more
    return Pod(uid, uid, "1", Server(uid), "image", fields.pop("grant"), True, label, 0.0, True, False, **fields)


class Told:
    """The cache, and what the nodes are told."""

    def __init__(self) -> None:
        api: Any = object()
        self.tiers = ChangedTiers("ns", "connections", lambda node: {"off": 0.5}, lambda: 7.0, api)
        self.cache = PodCache(self.tiers)

    def rows(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        """The tier by uid, from what is written."""
        sent: list[Any] = []
        monkeypatch.setattr(changed_tiers.kubernetes_api, "read", lambda *given, **more: sent.append((given, more)))
        self.tiers.write()
        ((given, more),) = sent
        assert given[1:] == ("PATCH", "/api/v1/namespaces/ns/configmaps/connections")
        changes = read_tier_changes(more["body"]["data"]["changes"])
        assert changes is not None
        assert all((change.node, change.at, change.seconds) == ("node", 7.0, 0.5) for change in changes)
        return {change.uid: change.tier for change in changes}


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.mark.parametrize(("states", "expected"), [
    ([pod(label="verified"), pod()], "unverified"),
    ([pod(label="verified"), pod(label="small")], "small"),
    ([pod(label="verified"), pod(), pod(label="verified")], "verified"),      # the part must not go on
    ([pod(), pod(label="verified")], None),                                   # a launch: nothing has to end
    ([pod(label="verified"), pod(label="verified")], None),
    ([pod()], None),
    ([pod(grant=BLOCKED)], "unverified"),                                     # before this process began, perhaps just then
    ([pod(grant=EndedLease("l", 1))], "unverified"),
    ([pod(label="verified"), pod(), replace(pod(), ended=True)], None),       # its address is free
    ([pod(label="verified"), pod(), replace(pod(), differing="x")], None),    # not ours any more
    ([pod(label="verified", addresses=()), pod(addresses=())], None),         # on its node's network
])  # fmt: skip
def test_told_are_pods_whose_tier_went_or_changed(
    monkeypatch: pytest.MonkeyPatch, told: Told, states: list[Pod], expected: str | None
) -> None:
    for state in states:
        told.cache.put(state)
    assert told.rows(monkeypatch) == ({} if expected is None else {"a": expected})


def test_changes_are_written_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    done: list[float] = []  # 0: written; else the seconds of a pause

    def do(seconds: float = 0.0) -> None:
        done.append(seconds)
        told.tiers._is_new.set()
        if len(done) == 8:
            raise SystemExit

    monkeypatch.setattr(changed_tiers.time, "sleep", do)
    monkeypatch.setattr(changed_tiers.kubernetes_api, "read", lambda *given, **more: None)
    monkeypatch.setattr(told.tiers, "write", do)
    told.tiers._is_new.set()
    with pytest.raises(SystemExit):
        told.tiers.run()
    assert done == [0, changed_tiers.GATHER_SECONDS] * 4


def test_all_pods_with_a_tier_are_written_for_mode_deny(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    states = {"a": ["verified"], "b": [None], "c": ["verified", None], "d": ["verified", "small"], "e": ["small"]}
    for uid, labels in states.items():
        for label in labels:
            told.cache.put(pod(uid, label=label))
    told.cache.remove("e")
    sent: list[Any] = []
    monkeypatch.setattr(changed_tiers.kubernetes_api, "read", lambda *given, **more: sent.append((given[1:], more["body"]["data"])))
    told.tiers.write_all()
    ((asked, data),) = sent
    assert asked == ("PATCH", "/api/v1/namespaces/ns/configmaps/connections-tiers") and data["at"] == "7"
    written = read_tier_changes(data["tiers"])
    assert written and {change.uid: change.tier for change in written} == {"a": "verified", "d": "small"}


@pytest.mark.parametrize(("rows", "expected"), [
    ({"one": '{"unverified": 3, "small": 1}', "two": '{"small": 2}'}, {"one": {"unverified": 3, "small": 1}, "two": {"small": 2}}),
    ({"one": "{}", "two": "nonsense", "three": '{"small": "2"}', "four": '["small"]'}, {}),  # somebody took over a part on a node
    ({str(number): '{"small": 1}' for number in range(9000)}, {str(number): {"small": 1} for number in range(5000)}),
    (None, {}),
])  # fmt: skip
def test_what_nodes_ended_is_read(
    monkeypatch: pytest.MonkeyPatch, told: Told, rows: dict[str, str] | None, expected: dict[str, dict[str, int]]
) -> None:
    monkeypatch.setattr(changed_tiers.kubernetes_api, "read", lambda api, method, path: {"data": rows})
    assert told.tiers.ended() == expected


def test_the_api_server_is_away_while_what_nodes_ended_is_read(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    def fail(*given: Any) -> Any:
        raise ApiServerUnavailable("away")

    monkeypatch.setattr(changed_tiers.kubernetes_api, "read", fail)
    assert told.tiers.ended() == {}


def test_a_pod_that_is_gone_is_no_longer_told(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    for uid in ("a", "b"):
        told.cache.put(pod(uid, label="verified"))
        told.cache.put(pod(uid))
    told.cache.remove("a")
    assert told.rows(monkeypatch) == {"b": "unverified"}
    told.cache.begin_list()
    told.cache.replace([])
    assert told.rows(monkeypatch) == {}


def test_a_list_shows_a_change_too(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    told.cache.replace([pod(label="verified")])
    told.cache.begin_list()
    told.cache.replace([pod()])
    assert told.rows(monkeypatch) == {"a": "unverified"}


def test_the_latest_changes_fit_into_the_config_map(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    monkeypatch.setattr(changed_tiers, "MOST", 3)
    for number in range(5):
        told.cache.put(pod(str(number), label="verified"))
        told.cache.put(pod(str(number)))
    assert list(told.rows(monkeypatch)) == ["2", "3", "4"]


def test_the_most_that_is_written_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigMap can hold a million bytes."""
    long = pod("0" * 36, label="t" * 63, node="n" * 63, addresses=("10.142.100.100", "2001:db8:1111:2222:3333:4444:5555:6666"))
    written = changed_tiers.write_tier_changes([])
    assert written == "[]"
    told = Told()
    told.cache.put(long)
    told.cache.put(replace(long, label="s" * 63))
    one = len(json.dumps([changed_tiers.write_tier_changes(told.tiers._changes.values())]))
    assert one * changed_tiers.MOST < 1_000_000
