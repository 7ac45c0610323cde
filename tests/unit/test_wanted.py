"""The grant that a pod should carry, as a table: the pod's own grant, the content of Redis, mode and tiers → the grant."""

from collections import defaultdict
from dataclasses import replace

import pytest

from binder_egress.decisions.leases import STOP_GRACE_SECONDS
from binder_egress.model.grants import Block, Blocked, Egress, EndedLease, label_of
from binder_egress.model.passes import LEEWAY_SECONDS
from binder_egress.model.records import KnownServer, Pending, Reason, Record, Server
from binder_egress.model.serialization import read_origin
from binder_egress.reconciler.user_pods import Pod
from binder_egress.reconciler.wanted import wanted
from binder_egress.settings import ReconcilerSettings, load
from tests.support.apps import carried

NOW = 1_000_000
LEASE = 600
TIERS = {
    "small": {"rank": 1},
    "verified": {"rank": 2},
    "other": {"rank": 2},
    "large": {"rank": 3},
    "leased": {"rank": 2, "lease": LEASE},
    "stopped": {"rank": 2, "lease": LEASE, "on_expiry": "stop"},
}
SETTINGS = load(
    ReconcilerSettings,
    tiers=TIERS,
    allow_tier="small",
    may_stop_pods=True,
    blocked_repositories=["example.com/bad/*"],
    self_networks=["192.0.2.0/24"],
)
URL = "https://example.com/"


def grant(tier, id="own", rule="valid-pass", until=None, may_stop=False):
    return carried(tier, id, rule=rule, until=until, may_stop=may_stop)


def launch(tier, id="launch", image="image:1", repository="", client="", launched_at=None, **fields):
    return Record(grant(tier, id, **fields), image=image, repository=repository, client=client, launched_at=launched_at)


def unlock(tier, id="unlock", uid="uid-1", rule="unlock"):
    return Record(grant(tier, id, rule), uid=uid)


def known(repository="", client="", uid="uid-1"):
    return KnownServer(uid, repository=repository, client=client)


def block(kind, what="", until=None, id="block", uid=""):
    return Block(id, kind, what, read_origin("eve"), "mining", 0, until, uid)


OWN, LAUNCHED = grant("verified"), grant("verified", "launch")
THIS_POD = block("server", uid="uid-1")
MODE_ALLOW = object()  # a new grant of the tier that mode `allow` gives


def row(name, own=None, expected=None, *, pod=None, mode="captcha", redis=True, **pending):
    return pytest.param(own, expected, pod or {}, mode, redis, pending, id=name)


ROWS = [
    # its own grant
    row("nothing"),
    row("own", OWN, OWN),
    row("own, Redis away", OWN, OWN, redis=False),
    row("own, withdrawn", OWN, None, withdrawn={"own"}),
    row("own of a tier that the settings do not have", grant("gold"), None),
    row("own without a tier", grant("unverified"), None),
    row("own, dated", grant("leased", until=NOW + 1), grant("leased", until=NOW + 1)),
    row("own, longer than a lease", grant("leased", until=NOW + 2 * LEASE), grant("leased", until=NOW + LEASE)),
    row("own, longer than a lease by the leeway", grant("leased", until=NOW + LEASE + LEEWAY_SECONDS),
        grant("leased", until=NOW + LEASE + LEEWAY_SECONDS)),
    row("own, dated, of a tier without a lease", grant("verified", until=NOW + 10**6), grant("verified", until=NOW + 10**6)),
    # its end
    row("own, over: the server stays", grant("leased", until=NOW), EndedLease("own", NOW)),
    row("own, over: the server stops after the grace", grant("stopped", until=NOW, may_stop=True),
        EndedLease("own", NOW, stop_at=NOW + STOP_GRACE_SECONDS, may_stop=True)),
    row("own, over, of an unlock: the server stays", grant("stopped", rule="unlock", until=NOW), EndedLease("own", NOW)),
    row("own, over: in mode observe the server stays", grant("stopped", until=NOW, may_stop=True),
        EndedLease("own", NOW, may_stop=True), mode="observe"),
    row("own, over and withdrawn", grant("leased", until=NOW), None, withdrawn={"own"}),
    row("own without an end, of a tier with a lease", grant("leased"), grant("leased")),
    row("own, over, of a tier that the settings do not have", grant("gold", until=NOW), None),
    row("own ended", grant("unverified", rule="expired", until=NOW - 1), grant("unverified", rule="expired", until=NOW - 1)),
    row("own ended, Redis away", grant("unverified", rule="expired"), grant("unverified", rule="expired"), redis=False),
    row("own ended, withdrawn", grant("unverified", rule="expired"), None, withdrawn={"own"}),
    # a launch
    row("launch", None, grant("verified", "launch"), launch=launch("verified")),
    row("launch, with a lease", None, grant("leased", "launch", until=NOW + LEASE, may_stop=True), launch=launch("leased")),
    row("launch of another image", None, None, launch=launch("verified", image="image:2")),
    *(
        row(f"launch, announced late, {at} s after its pod", None, expected, launch=launch("verified", launched_at=at))
        for at, expected in ((-61, None), (-60, LAUNCHED), (60, LAUNCHED), (61, None), (float("nan"), None))
    ),
    row("launch, withdrawn", None, None, launch=launch("verified"), withdrawn={"launch"}),
    row("launch without a tier", None, None, launch=launch("unverified")),
    row("launch of a tier that the settings do not have", None, None, launch=launch("gold")),
    row("launch, own counts", OWN, OWN, launch=launch("large")),
    row("launch, own withdrawn", OWN, grant("large", "launch"), launch=launch("large"), withdrawn={"own"}),
    row("launch, own over", grant("leased", until=NOW), grant("leased", "launch", until=NOW + LEASE, may_stop=True),
        launch=launch("leased")),
    row("launch that is on the pod is not dated again", grant("leased", until=NOW + 1), grant("leased", until=NOW + 1),
        launch=launch("leased", "own")),
    row("launch that is on the pod as an ended lease does not come back", grant("unverified", rule="expired"),
        grant("unverified", rule="expired"), launch=launch("leased", "own")),
    # an unlock
    row("unlock", None, grant("verified", "unlock", "unlock"), unlock=unlock("verified")),
    row("unlock, with a lease", None, grant("leased", "unlock", "unlock", NOW + LEASE), unlock=unlock("leased")),
    row("unlock of another pod", None, None, unlock=unlock("verified", uid="uid-2")),
    row("unlock, withdrawn", None, None, unlock=unlock("verified"), withdrawn={"unlock"}),
    row("unlock of a tier that the settings do not have", None, None, unlock=unlock("gold")),
    row("unlock and launch", None, grant("small", "unlock", "unlock"), unlock=unlock("small"), launch=launch("large")),
    row("unlock of the same tier renews", grant("leased", until=NOW + 1), grant("leased", "unlock", "renewal", NOW + LEASE),
        unlock=unlock("leased", rule="renewal")),
    row("unlock of the same tier, own has no end", grant("leased"), grant("leased"), unlock=unlock("leased")),
    row("grant of an operator", None, grant("stopped", "unlock", "operator", NOW + LEASE, True),
        unlock=unlock("stopped", rule="operator")),
    row("unlock stops no pod, whatever the record says", None, grant("stopped", "unlock", "unlock", NOW + LEASE),
        unlock=Record(grant("stopped", "unlock", "unlock", may_stop=True), uid="uid-1")),
    row("unlock of a tier that does not stop the pod", grant("stopped", until=NOW + 1),
        grant("stopped", "unlock", "renewal", NOW + LEASE), unlock=unlock("stopped", rule="renewal")),
    row("unlock of a tier that stops the pod", grant("stopped", until=NOW + 1, may_stop=True),
        grant("stopped", "unlock", "renewal", NOW + LEASE, True), unlock=unlock("stopped", rule="renewal")),
    row("unlock of a pod that is about to stop", grant("unverified", rule="expired", until=NOW + 1, may_stop=True),
        grant("stopped", "unlock", "unlock", NOW + LEASE, True), unlock=unlock("stopped")),
    row("unlock of a pod that has lost a tier that stops no pod", grant("unverified", rule="expired", may_stop=True),
        grant("stopped", "unlock", "unlock", NOW + LEASE), unlock=unlock("stopped")),
    row("unlock of a pod whose grant, which stops it, is withdrawn", grant("stopped", until=NOW + 1, may_stop=True),
        grant("stopped", "unlock", "unlock", NOW + LEASE), unlock=unlock("stopped"), withdrawn={"own"}),
    row("unlock of the same tier, which has no lease", OWN, grant("verified", "unlock", "unlock"), unlock=unlock("verified")),
    row("unlock of a larger tier", OWN, grant("large", "unlock", "unlock"), unlock=unlock("large")),
    row("unlock of another tier of the same rank, by an operator", OWN, grant("other", "unlock", "operator"),
        unlock=unlock("other", rule="operator")),
    row("renewal of a smaller tier", grant("large"), grant("large"), unlock=unlock("small", rule="renewal")),
    row("unlock of a smaller tier", OWN, OWN, unlock=unlock("small")),
    row("unlock of a smaller tier, by an operator", OWN, grant("small", "unlock", "operator"),
        unlock=unlock("small", rule="operator")),
    row("unlock of a smaller tier, own over", grant("leased", until=NOW), grant("small", "unlock", "unlock"),
        unlock=unlock("small")),
    row("unlock of a smaller tier, own withdrawn", OWN, grant("small", "unlock", "unlock"), unlock=unlock("small"),
        withdrawn={"own"}),
    row("unlock, own ended", grant("unverified", rule="expired"), grant("leased", "unlock", "unlock", NOW + LEASE),
        unlock=unlock("leased")),
    row("unlock that is on the pod is not dated again", grant("leased", until=NOW + 1), grant("leased", until=NOW + 1),
        unlock=unlock("leased", "own")),
    # mode allow
    row("allow", None, MODE_ALLOW, mode="allow"),
    row("allow, Redis away", None, MODE_ALLOW, mode="allow", redis=False),
    row("allow, own counts", OWN, OWN, mode="allow"),
    row("allow, own of the mode", grant("small", rule="mode-allow"), grant("small", rule="mode-allow"), mode="allow"),
    row("allow, launch waits", None, grant("large", "launch"), mode="allow", launch=launch("large")),
    row("allow, own over", grant("leased", until=NOW), MODE_ALLOW, mode="allow"),
    row("allow, own ended", grant("unverified", rule="expired"), MODE_ALLOW, mode="allow"),
    row("allow, blocked repository", None, None, mode="allow", pod={"repository": f"{URL}bad/repo"}),
    row("allow, own counts, blocked repository", OWN, OWN, mode="allow", pod={"repository": f"{URL}bad/repo"}),
    row("allow, own network", None, None, mode="allow", pod={"client": "192.0.2.7"}),
    row("captcha, own of mode allow", grant("small", rule="mode-allow"), None),
    row("observe, own of mode allow", grant("small", rule="mode-allow"), None, mode="observe"),
    row("captcha, launch of mode allow", None, None, launch=launch("small", rule="mode-allow")),
    # blocks
    row("block of this server", OWN, THIS_POD.grant, blocks=[THIS_POD]),
    row("block of another pod", OWN, OWN, blocks=[block("server", uid="uid-2")]),
    row("block that is over", OWN, OWN, blocks=[block("server", uid="uid-1", until=NOW)]),
    row("block, unlock waits", None, THIS_POD.grant, blocks=[THIS_POD], unlock=unlock("verified", rule="operator")),
    row("block, launch waits", None, THIS_POD.grant, blocks=[THIS_POD], launch=launch("verified")),
    row("block, own ended", grant("unverified", rule="expired"), THIS_POD.grant, blocks=[THIS_POD]),
    row("block, mode allow", None, THIS_POD.grant, blocks=[THIS_POD], mode="allow"),
    row("block of the launch's repository", OWN, block("repository", "example.com/a/b").grant,
        blocks=[block("repository", "example.com/a/b")], launch=launch("verified", repository=f"{URL}a/b")),
    row("block of the published repository", OWN, block("repository", "example.com/a/b").grant,
        blocks=[block("repository", "example.com/a/b")], known=known(f"{URL}a/b")),
    row("block of the repository in the pod", OWN, block("repository", "example.com/a/b").grant,
        blocks=[block("repository", "example.com/a/b")], pod={"repository": f"{URL}a/b"}),
    row("block of a repository that only the pod tells, not BinderHub", OWN, OWN, blocks=[block("repository", "example.com/a/b")],
        launch=launch("verified", repository=f"{URL}c/d"), known=known(f"{URL}a/b"), pod={"repository": f"{URL}a/b"}),
    row("block of a repository that was published for another pod", OWN, OWN, blocks=[block("repository", "example.com/a/b")],
        known=known(f"{URL}a/b", uid="uid-2")),
    row("block of the repository of another image's launch", OWN, OWN, blocks=[block("repository", "example.com/a/b")],
        launch=launch("verified", image="image:2", repository=f"{URL}a/b")),
    row("block of the launch's client", OWN, block("network", "198.51.100.0/24").grant,
        blocks=[block("network", "198.51.100.0/24")], launch=launch("verified", client="198.51.100.7")),
    row("block of the published client", OWN, block("network", "198.51.100.0/24").grant,
        blocks=[block("network", "198.51.100.0/24")], known=known(client="198.51.100.7")),
    row("block of the client in the pod", OWN, block("network", "198.51.100.0/24").grant,
        blocks=[block("network", "198.51.100.0/24")], pod={"client": "198.51.100.7"}),
    row("own block, Redis away", THIS_POD.grant, THIS_POD.grant, redis=False),
    row("own block that Redis has forgotten", THIS_POD.grant, THIS_POD.grant, unlock=unlock("verified")),
    row("own block, lifted", THIS_POD.grant, None, lifted={"block"}),
    row("own block, withdrawn by a verifier", THIS_POD.grant, THIS_POD.grant, withdrawn={"block"}),
    row("own block, lifted, unlock waits", THIS_POD.grant, grant("verified", "unlock", "unlock"), lifted={"block"},
        unlock=unlock("verified")),
    row("own block that is over", block("server", until=NOW).grant, None),
    row("two blocks: the later end", OWN, block("server", uid="uid-1", id="b", until=NOW + 9).grant,
        blocks=[block("server", uid="uid-1", id="a", until=NOW + 5), block("server", uid="uid-1", id="b", until=NOW + 9)]),
    row("two blocks: the one without an end", OWN, block("server", uid="uid-1", id="a").grant,
        blocks=[block("server", uid="uid-1", id="a"), block("server", uid="uid-1", id="b", until=NOW + 9)]),
    row("own block is shorter", block("server", id="own", until=NOW + 5).grant, THIS_POD.grant, blocks=[THIS_POD]),
    row("own block is as long", replace(THIS_POD.grant, id="own"), replace(THIS_POD.grant, id="own"), blocks=[THIS_POD]),
]  # fmt: skip


def decided(own, fields, mode, redis, pending):
    pod = Pod(
        name="jupyter-alice", uid="uid-1", version="1", server=Server("alice"), image="image:1", grant=own,
        annotated=own is not None, label=label_of(own), created=0, ready=False, ended=False, **fields,
    )  # fmt: skip
    return wanted(pod, Pending(**pending) if redis else None, SETTINGS.model_copy(update={"mode": mode}), NOW)


@pytest.mark.parametrize(("own", "expected", "fields", "mode", "redis", "pending"), ROWS)
def test_pod_carries(own, expected, fields, mode, redis, pending):
    found = decided(own, fields, mode, redis, pending).grant
    if expected is MODE_ALLOW:
        assert found == Egress(found.id, "small", "mode-allow", NOW)
    else:
        assert found == expected


def test_reason_is_the_row_of_the_table_that_decides():
    found = defaultdict(set)
    for own, _, fields, mode, redis, pending in (row.values for row in ROWS):
        what = decided(own, fields, mode, redis, pending)
        found[what.reason].add(type(what.grant))
        if what.reason in (Reason.KEPT, Reason.ENDED):
            assert what.grant.id == own.id
        elif what.reason in (Reason.UNLOCK, Reason.LAUNCH):
            assert what.grant.id == pending[what.reason].grant.id
    assert found == {
        **{key: {Egress} for key in (Reason.UNLOCK, Reason.KEPT, Reason.LAUNCH, Reason.MODE_ALLOW)},
        **{key: {EndedLease} for key in (Reason.ENDED, Reason.ENDS)},
        Reason.BLOCK: {Blocked},
        Reason.NOTHING: {type(None)},
    }
