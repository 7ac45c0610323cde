"""A model of the whole system: launches, promises, moves of uses, unlocks, renewals, blocks, leases, changes of the clock, pods
that appear and disappear, two reconcilers and a wiped Redis, in random order.

The model knows which server holds which use of which pass. After all work is done, these statements hold:

- A pod has a label only by the current grant of a use that its server holds, and only if the pod has the image or uid of the grant.
- No pod has a label that a block applies to, or that was revoked and not unblocked by an operator.
- No pod has a label for longer than a lease.
- No pod is stopped that had no time to be unlocked, or that was unlocked.
"""

import time
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from binder_egress.decisions.kept_promises import Kept, Promises
from binder_egress.decisions.leases import STOP_GRACE_SECONDS
from binder_egress.decisions.presented import REJECTED_PASSES, Judge
from binder_egress.decisions.refusals import Facts, applies
from binder_egress.decisions.rules import Launch, Rules
from binder_egress.decisions.unlocks import Unlocks
from binder_egress.gate.api_keys import Keys
from binder_egress.model.grants import UNVERIFIED, Block, Egress, Rule, label_of
from binder_egress.model.passes import LEEWAY_SECONDS, Pass, Passes
from binder_egress.model.records import PassOutcome, Record, Server
from binder_egress.model.serialization import read_origin
from binder_egress.operators import actions
from binder_egress.operators.actions import ActionRefused, CommandOperators
from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store import redeeming
from binder_egress.store.connection import connect
from binder_egress.store.pending import UNLOCK_TTL_SECONDS
from binder_egress.store.redeeming import MOVES
from binder_egress.store.saved import data_of
from tests.support.apps import admit, make_settings
from tests.support.fake_cluster import FakeCluster
from tests.support.store import Store

# Few values of each kind, so that they collide. The most common one comes first and more than once.
USERS = st.sampled_from("abc")
REPOSITORIES = st.sampled_from(["r", "r", "r", "s"])
NETWORKS = st.sampled_from(["198.51.100.7/32", "198.51.100.7/32", "198.51.100.7/32", ""])
IMAGES = st.sampled_from(["image:1", "image:1", "image:1", "image:2"])
WHICH = st.integers(0, 1)
PASSES = st.sampled_from([0, 0, 0, 1, 2])
PROMISES = st.sampled_from([f"promise-{number:032}" for number in (1, 1, 2)])

LEASE = 300
BEHIND = 30
"""Time in seconds by which the clock of the second reconciler is behind."""


class Pods(FakeCluster):
    """Records when leases end and pods are stopped. `steady` is the monotonic time, which cannot be set."""

    steady = 0.0

    def __init__(self, store):
        super().__init__()
        self.store = store
        self.expired: dict[str, float] = {}  # uid → when
        self.wrong: list[str] = []  # A list, because the reconciler survives exceptions.

    def patch(self, pod, grant):
        patched = super().patch(pod, grant)
        if grant and grant.rule == Rule.EXPIRED and not (pod.grant and pod.grant.rule == Rule.EXPIRED):
            self.expired[pod.uid] = self.steady
        return patched

    def delete(self, pod, unchanged=False):
        super().delete(pod, unchanged)
        unlock = self.store.pending(pod.server, set()).unlock
        if (pod.label, pod.grant.rule) != (None, Rule.EXPIRED):
            self.wrong.append("its lease is not over")
        elif self.steady - self.expired[pod.uid] < STOP_GRACE_SECONDS:
            self.wrong.append("there was no time to unlock it")
        elif unlock and unlock.uid == pod.uid and unlock.grant.id != pod.grant.id:
            self.wrong.append("it was unlocked")


class OneThread(Reconciler):
    """A reconciler in the test's thread. A retry becomes due when the test lets time pass."""

    def turn(self, *, fresh=True):
        if fresh:
            self.list_pods()
        else:
            self.resync()
        while self.run_once():
            pass


@dataclass
class Use:
    server: Server
    repository: str
    network: str
    grant: str
    carried: str = ""
    moves: int = 0


@dataclass
class ModelPass:
    signed: Pass
    token: str
    uses: list[Use] = field(default_factory=list)
    void: bool = False
    keeps: tuple[str, str] | None = None  # the promise and network of the promise that it keeps; it keeps one

    def redeem(self, server, repository, network, grant, is_up, has_tier=False, carried=""):
        """Returns the outcome that the store must give."""
        outcome = self._redeem(server, repository, network, grant, is_up, has_tier, carried)
        if has_tier and outcome not in REJECTED_PASSES:
            for use in self.uses:
                if use.grant == grant:
                    use.moves = MOVES
        return outcome

    def _redeem(self, server, repository, network, grant, is_up, has_tier, carried):
        if self.void:
            return "before-epoch"
        for use in self.uses:
            if use.server == server:
                if carried not in ("", use.carried):
                    return "lease-given"
                use.repository, use.network, use.grant, use.carried = repository, network, grant, carried
                return "held"
        if len(self.uses) < self.signed.servers:
            self.uses.append(Use(server, repository, network, grant, carried))
            return "free"
        for use in [] if has_tier else reversed(self.uses):
            if (use.repository, use.network) == (repository, network) and use.moves < MOVES and not is_up(use):
                use.server, use.grant, use.carried = server, grant, carried
                use.moves += 1
                return "moved"
        return "used-up"


class Machine(RuleBasedStateMachine):
    redis_server = None

    def __init__(self):
        super().__init__()
        self.redis_server.wipe()
        made = make_settings(self.redis_server, pass_servers=2)
        self.client = connect(made)
        self.store = Store(self.client)
        self.store.ping()
        self.passes = Passes(made.plain_signing_keys)
        judge = Judge(made, self.passes, Keys("", []))
        self.rules = Rules(made, judge, self.store)
        self.promises = Promises(made, judge, Unlocks(made, self.store), self.store)
        self.store.report_verifier("verifier", {})
        self.cluster = Pods(self.store)
        self.ahead = 0.0  # seconds by which the clocks of the reconcilers, and so the leases, are ahead
        self.reconcilers = [self._reconciler(which) for which in range(2)]
        self.model: list[ModelPass] = []
        self.keepers: dict[tuple[str, str], ModelPass] = {}  # promise and network → the pass that keeps it
        self.purpose: dict[str, tuple] = {}  # grant → image or uid that it is for
        self.kept: dict[str, str] = {}  # uid → grant of the pod when Redis was wiped
        self.operators = CommandOperators(made, self.store)
        self.revoked: dict[str, bool] = {}  # uid → whether Redis also knows of it
        self.uids = 0
        self.quiet = self.published = True

    def teardown(self):
        self.client.close()

    def _reconciler(self, which):
        tiers = {"verified": {"lease": LEASE, "on_expiry": "stop"}}
        return OneThread(
            load(ReconcilerSettings, tiers=tiers, may_stop_pods=True), self.cluster, self.store,
            lambda: self._now() - which * BEHIND, lambda: self.cluster.steady,
        )  # fmt: skip

    def _now(self):
        return time.time() + self.ahead

    def _is_up(self, use):
        """Returns whether the server that holds a use is published and its launch is settled."""
        pending = self.store.pending(use.server, set())
        return pending.known is not None and not (pending.launch and pending.launch.grant.id == use.grant)

    # -- clients

    @rule(servers=st.integers(1, 2))
    def issue(self, servers):
        now = self.store.use_solution("altcha", f"id-{len(self.model)}-{time.time_ns()}", time.time() + 1, 60, admit)
        signed = Passes.new("verified", servers, now, 300)
        self.model.append(ModelPass(signed, self.passes.sign(signed)))

    def _pass(self, which):
        if not self.model:
            self.issue(1)
        return self.model[-1 - which % len(self.model)]

    @rule(reconciler=WHICH, which=PASSES, user=USERS)
    def server_starts(self, reconciler, which, user):
        """All steps of a launch at once, so that later steps have a running server to disturb."""
        self.launch(which, user, "r", "198.51.100.7/32", "image:1")
        self.pod_appears_or_is_replaced(user, "image:1")
        self.all_work_is_done(reconciler)

    @rule(which=PASSES, user=USERS, repository=REPOSITORIES, network=NETWORKS, image=IMAGES)
    def launch(self, which, user, repository, network, image):
        used = self._pass(which)
        self._launch(used.token, used, user, repository, network, image)

    @rule(promise=PROMISES, user=USERS, repository=REPOSITORIES, network=NETWORKS)
    def launch_with_promise(self, promise, user, repository, network):
        self._launch(promise, self.keepers.get((promise, network)), user, repository, network, "image:1")

    def _launch(self, presented, used, user, repository, network, image):
        """Launch with a token or a promise; `used` is its pass, or None for a promise that no pass keeps."""
        self.quiet = False
        server, now = Server(user), time.time()
        decision = self.rules.decide(Launch(server, image, repository, presented, network, now), now)
        if any(block.kind == "repository" and block.what == repository for block in self.store.blocks()):
            assert (decision.grant.rule, decision.pass_outcome) == (Rule.BLOCKED, "none")
        elif used is None:
            assert (decision.grant.tier, decision.pass_outcome) == (UNVERIFIED, "promised")
        else:
            assert decision.pass_outcome == used.redeem(server, repository, network, decision.grant.id, self._is_up)
            self.purpose[decision.grant.id] = (server, "image", image)

    @rule(which=PASSES, promise=PROMISES, network=NETWORKS)
    def keep_promise(self, which, promise, network):
        """A pass keeps a promise. A grant that follows is one that the pass could have given in another way."""
        self.quiet = False
        used, now = self._pass(which), time.time()
        kept = self.promises.keep(promise, used.signed, "", network, now)
        if used.keeps not in (None, (promise, network)):
            assert kept == Kept(PassOutcome.USED_UP)
            return
        used.keeps = promise, network
        self.keepers[promise, network] = used
        if kept.grant is None:
            assert kept.outcome in ("early", "had-it", Rule.BLOCKED, *REJECTED_PASSES)
            return
        known = self.store.known(kept.server)
        if known and known.promise == promise:
            has_tier, carried = known.tier != UNVERIFIED, known.grant.id
            outcome = used.redeem(kept.server, known.repository, network, kept.grant.id, self._is_up, has_tier, carried)
            self.purpose[kept.grant.id] = (kept.server, "uid", known.uid)
        else:
            launch = self.store.pending(kept.server, set()).launch
            outcome = used.redeem(kept.server, launch.repository, network, kept.grant.id, self._is_up)
            self.purpose[kept.grant.id] = (kept.server, "image", launch.image)
        assert kept.outcome == outcome

    @rule(user=USERS)
    def launch_without_pass(self, user):
        self.quiet = False
        now = time.time()
        assert self.rules.decide(Launch(Server(user), "image:1", "r", None, "", now), now).grant.tier == "unverified"

    @rule(which=PASSES, user=USERS, network=NETWORKS)
    def unlock(self, which, user, network):
        self.quiet = False
        used, server, now = self._pass(which), Server(user), time.time()
        known = self.store.known(server)
        if known is None:
            return
        has_tier = known.tier != UNVERIFIED
        grant = Egress.new("verified", "renewal" if has_tier else "unlock", now)
        record = Record(grant, uid=known.uid, repository=known.repository)
        outcome = self.store.redeem(
            redeeming.Use(used.signed, server, record, network, UNLOCK_TTL_SECONDS, has_tier, known.grant.id)
        )
        assert outcome == used.redeem(server, known.repository, network, grant.id, self._is_up, has_tier, known.grant.id)
        assert (outcome in REJECTED_PASSES) == (outcome in ("used-up", "lease-given", "before-epoch"))
        self.purpose[grant.id] = (server, "uid", known.uid)

    @rule(which=PASSES, user=USERS, repository=REPOSITORIES, network=NETWORKS)
    def launch_between_read_and_patch(self, which, user, repository, network):
        self.cluster.before_patch = lambda: self.launch(which, user, repository, network, "image:1")

    # -- operators

    @rule(user=USERS)
    def revoke(self, user):
        self.quiet = False
        known = self.store.known(Server(user))
        if known:
            actions.revoke(self.operators, Server(user), "eve", "mining")
            self.revoked.setdefault(known.uid, any(block.uid == known.uid for block in self.store.blocks()))

    @rule(user=USERS)
    def revoke_between_read_and_patch(self, user):
        self.cluster.before_patch = lambda: self.revoke(user)

    @rule(user=USERS, block=st.sampled_from(["", "block-r", "block-s"]))
    def unblock(self, user, block):
        self.quiet = False
        known = self.store.known(Server(user))
        try:
            actions.unblock(self.operators, block or user, "eve")
        except ActionRefused:
            return
        if known and not block:
            self.revoked.pop(known.uid, None)

    @rule(repository=REPOSITORIES)
    def block_repository(self, repository):
        self.quiet = False
        self.store.add_block(Block(f"block-{repository}", "repository", repository, read_origin("eve"), "mining", 0), [])
        self.client.delete(f"binder-egress:lifted:block-{repository}")  # real blocks have a new name each time

    # -- pods

    @rule(user=USERS, image=IMAGES)
    def pod_appears_or_is_replaced(self, user, image):
        self.quiet = False
        self.uids += 1
        self.cluster.add(user, f"uid-{self.uids}", image=image, created=self.uids)

    @rule(user=USERS, image=IMAGES)
    def pod_is_replaced_between_read_and_patch(self, user, image):
        self.cluster.before_patch = lambda: self.pod_appears_or_is_replaced(user, image)

    @precondition(lambda self: self.cluster.pods)
    @rule(data=st.data(), change=st.sampled_from(["ready", "label lost", "label forged", "annotation lost", "ended", "gone"]))
    def pod_changes(self, data, change):
        self.quiet = False
        pod = self.cluster.pods[data.draw(st.sampled_from(sorted(self.cluster.pods)))]
        if change == "gone":
            self.cluster.remove(pod)
            return
        if change == "annotation lost" and not self.revoked.get(pod.uid, True):
            del self.revoked[pod.uid]  # Neither Redis nor a pod knows of the revocation any more.
        fields = {
            "ready": {"ready": True},
            "label lost": {"label": None},
            "label forged": {"label": "verified"},
            "annotation lost": {"grant": None, "annotated": False},
            "ended": {"ended": True},
        }[change]
        self.cluster.change(pod, **fields)

    @rule(number=st.integers(1, 7))
    def pods_keep_changing(self, number):
        self.cluster.conflicts = number

    # -- reconcilers

    @rule(which=WHICH, fresh=st.booleans())
    def reconciler_takes_a_turn(self, which, fresh):
        # A reconciler that missed events may publish an old state until the other lists the pods. It may not grant from it.
        self.published = self.published and fresh
        self.reconcilers[which].turn(fresh=fresh)

    @rule(which=WHICH)
    def reconciler_restarts(self, which):
        self.reconcilers[which] = self._reconciler(which)

    @rule(which=WHICH)
    def all_work_is_done(self, which):
        for _ in range(3):
            self.reconcilers[which].turn()
        self.cluster.before_patch, self.cluster.conflicts = None, 0
        self.reconcilers[which].turn()
        self.quiet = self.published = True

    @rule(which=WHICH)
    def redis_is_wiped(self, which):
        self.all_work_is_done(which)
        self.kept = {pod.uid: pod.grant.id for pod in self.cluster.pods.values() if pod.grant}
        saved, blocked = data_of(self.store.to_save()), self._lasting()
        self.client.flushall()
        self.reconcilers[which].turn()
        assert self.store.restore(saved, time.time()) and self._lasting() == blocked
        self.store.ping()
        self.store.report_verifier("verifier", {})
        for used in self.model:
            used.void, used.keeps = True, None
        self.keepers.clear()
        self.revoked = dict.fromkeys(self.revoked, False)
        self.reconcilers[which].turn()

    def _lasting(self):
        return {block.id for block in self.store.blocks() if block.kind != "server"}

    # -- time

    @rule(seconds=st.sampled_from([STOP_GRACE_SECONDS, STOP_GRACE_SECONDS, LEASE // 2, LEASE]))
    def time_passes(self, seconds):
        self.quiet = False
        self.ahead += seconds
        self.cluster.steady += seconds

    @rule(seconds=st.sampled_from([-10 * LEASE, -LEASE, -10, 10, LEASE, 10 * LEASE]))
    def clock_is_set(self, seconds):
        self.quiet = False
        self.ahead += seconds

    @rule(seconds=st.sampled_from([-10 * LEASE, 10 * LEASE]), which=WHICH)
    def clock_is_set_and_reconciler_notices(self, seconds, which):
        self.clock_is_set(seconds)
        self.all_work_is_done(which)

    @rule(which=WHICH)
    def leases_end_without_renewal(self, which):
        """All steps up to the end of the leases at once, so that some pods are stopped."""
        for seconds in (LEASE, STOP_GRACE_SECONDS, STOP_GRACE_SECONDS):
            self.time_passes(seconds)
            self.reconcilers[which].turn()

    # -- invariants

    @invariant()
    def pods_are_stopped_only_after_the_grace_period(self):
        assert self.cluster.wrong == []

    @invariant()
    def no_label_lasts_longer_than_a_lease(self):
        if not self.quiet:
            return
        for pod in self.cluster.pods.values():
            if pod.label and not pod.ended:
                assert -BEHIND - 2 <= pod.grant.until - self._now() <= LEASE + LEEWAY_SECONDS

    @invariant()
    def labels_follow_from_uses_of_their_servers(self):
        if not self.quiet:
            return
        current = {use.grant: use for used in self.model if not used.void for use in used.uses}
        for pod in self.cluster.pods.values():
            if pod.ended:
                continue
            assert pod.label == label_of(pod.grant)
            if pod.label is None or self.kept.get(pod.uid) == pod.grant.id:
                continue
            assert pod.grant.id in current, "nobody holds this use, or another server does"
            assert current[pod.grant.id].server == pod.server
            server, kind, value = self.purpose[pod.grant.id]
            assert (server, getattr(pod, kind)) == (pod.server, value)

    @invariant()
    def blocked_pods_have_no_label(self):
        if not (self.quiet and self.published):
            return
        now, blocks = time.time(), self.store.blocks()
        for pod in self.cluster.pods.values():
            if pod.ended:
                continue
            known = self.store.known(pod.server)
            blocked = any(applies(block, Facts(known.repository, (known.client,), pod.uid), now) for block in blocks)
            if blocked or pod.uid in self.revoked:
                assert (pod.label, pod.grant.rule) == (None, Rule.BLOCKED)

    @invariant()
    def published_state_matches_the_pods(self):
        if not (self.quiet and self.published):
            return
        for pod in self.cluster.pods.values():
            if not pod.ended:
                known = self.store.known(pod.server)
                assert (known.uid, known.grant.id) == (pod.uid, pod.grant.id if pod.grant else "")

    @invariant()
    def passes_are_held_by_at_most_their_number_of_servers(self):
        for used in self.model:
            assert len({use.server for use in used.uses}) == len(used.uses) <= used.signed.servers


def test_labels_follow_from_uses_after_any_sequence_of_steps(redis_server, impatient):
    Machine.redis_server = redis_server
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=100, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    )
