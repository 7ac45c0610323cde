"""Nobody can reduce a server's access: every state of a server, with everything that a stranger can present for it.

Each case is played twice by the real verifier and the real reconciler, with and without the stranger, until all leases are over.
At no moment may the server have less with the stranger than without.
"""

import time

import pytest
import redis

from binder_egress.decisions.leases import STOP_GRACE_SECONDS
from binder_egress.model.grants import UNVERIFIED, Rule
from binder_egress.model.passes import Passes
from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.web.app import create_services
from tests.support.apps import admit, make_settings, public_client
from tests.support.fake_cluster import FakeCluster
from tests.support.reconciling import ALICE, granted, make_grant, record_launch, record_unlock

pytestmark = pytest.mark.usefixtures("impatient")

LEASE = 600
TIERS = {
    "verified": {},
    "large": {"rank": 1},
    "ends": {"lease": LEASE},
    "stops": {"lease": LEASE, "on_expiry": "stop"},
    "soon": {"lease": LEASE // 2, "on_expiry": "stop"},
    "large-stops": {"rank": 1, "lease": LEASE, "on_expiry": "stop"},
}
LEASED = [name for name, tier in TIERS.items() if "lease" in tier]
ALWAYS = {name: {key: tier[key] for key in tier if key not in ("lease", "on_expiry")} for name, tier in TIERS.items()}
"""The same tiers before they had leases."""

STEP = 120
END = 2 * LEASE + 2 * STOP_GRACE_SECONDS
"""Seconds that a case is played for, in steps: a lease, one after it, and the deletion of the pod."""


class Story:
    """A server, from its launch to the end of its last lease. The verifier's clock is the machine's, the reconciler's a test's."""

    def __init__(self, redis_server, store):
        self.store = store
        self.now = time.time()
        self.steady = 0.0
        self.cluster = FakeCluster()
        self.redis_server = redis_server
        self.reconciler = self.make_reconciler(TIERS)
        store.report_verifier("verifier", {})

    def make_reconciler(self, tiers):
        settings = load(ReconcilerSettings, redis_url=self.redis_server.url, tiers=tiers, may_stop_pods=True)
        made = Reconciler(settings, self.cluster, self.store, lambda: self.now, lambda: self.steady)
        made.heartbeat()
        return made

    def turn(self, reconciler=None):
        reconciler = reconciler or self.reconciler
        reconciler.list_pods()
        reconciler.enqueue_due()
        while reconciler.run_once():
            pass

    def advance(self, seconds):
        for _ in range(seconds // STEP):
            self.now += STEP
            self.steady += STEP
            self.turn()

    def begin(self, by, tier, seconds):
        """The server got a tier so many seconds ago."""
        self.now -= seconds // STEP * STEP
        if by == "launch":
            record_launch(self.store, make_grant(tier))
        self.cluster.add(ready=True, repository="r")
        self.turn(self.make_reconciler(ALWAYS) if by == "values without leases" else None)
        if by == "stranger":
            record_unlock(self.store, make_grant(tier, Rule.UNLOCK))
            self.turn()
            with redis.Redis.from_url(self.redis_server.url) as client:
                client.delete(f"binder-egress:unlock:{ALICE.key}")
        elif by == "values without leases":
            self.cluster.change("jupyter-alice--", **granted(make_grant(tier)))
            self.turn(self.make_reconciler(ALWAYS))
        self.advance(seconds)

    def present(self, tier, how):
        """A stranger presents a pass, or did so a moment ago, when the server was in another state."""
        if how == "pass":
            self.unlock(tier)
        else:
            record_unlock(self.store, make_grant(tier, how))
        self.turn()

    def unlock(self, tier):
        """Somebody presents a pass, and the reconciler has not acted yet."""
        verifier = create_services(make_settings(self.redis_server, tiers=TIERS, may_stop_pods=True), self.store)
        token = verifier.passes.sign(Passes.new(tier, 1, self.store.use_key("k", 10**6, 60, admit), 300))
        answer = public_client(verifier).post("/egress/servers/alice", json={"token": token})
        assert answer.status_code in (200, 202), answer.text

    def rest(self):
        """The server's tier from now on, step by step, and whether it runs."""
        seen = []
        for _ in range(END // STEP):
            pod = self.cluster.pods["jupyter-alice--"]
            seen.append((pod.label or UNVERIFIED, not pod.ended))
            self.advance(STEP)
        return seen


STATES = [
    ("nobody", UNVERIFIED, 0),
    *((by, tier, 0) for by in ("launch", "stranger") for tier in TIERS if tier not in LEASED),
    *((by, tier, age) for by in ("launch", "stranger") for tier in LEASED for age in (0, LEASE - STEP, LEASE)),
    *(("values without leases", tier, STEP) for tier in LEASED),
]
"""The origin of the server's tier, and how many seconds ago it was given. For some the lease is over, and the pod stops soon."""


def is_no_less(now, without):
    (tier, runs), (other, ran) = now, without
    rank = {UNVERIFIED: -1} | {name: values.get("rank", 0) for name, values in TIERS.items()}
    return runs >= ran and (not ran or tier == other or rank[tier] > rank[other])


@pytest.mark.parametrize("gets", TIERS)
def test_nobody_lowers_what_a_server_is_about_to_get(redis_server, store, gets):
    """The stranger's pass comes after the owner's, and before the reconciler acts."""

    def play(*presented):
        redis_server.wipe()
        store.ping()
        story = Story(redis_server, store)
        story.begin("nobody", UNVERIFIED, 0)
        for tier in presented:
            story.unlock(tier)
        story.turn()
        return story.rest()

    without = play(gets)
    assert without[0] == (gets, True)
    assert [tier for tier in TIERS if not all(map(is_no_less, play(gets, tier), without))] == []


@pytest.mark.parametrize(("by", "has", "seconds"), STATES)
def test_nobody_lowers_what_a_server_has(redis_server, store, by, has, seconds):
    def play(presented=None, how=""):
        redis_server.wipe()
        store.ping()
        story = Story(redis_server, store)
        story.begin(by, has, seconds)
        if presented:
            story.present(presented, how)
        return story.rest()

    without = play()
    less = []
    for tier in TIERS:
        for how in ("pass", Rule.UNLOCK, Rule.RENEWAL):
            if how == Rule.RENEWAL and tier != has:
                continue
            found = play(tier, how)
            less += [(tier, str(how), step * STEP, now, was) for step, (now, was) in enumerate(zip(found, without, strict=True))
                     if not is_no_less(now, was)][:1]  # fmt: skip
    assert less == []
