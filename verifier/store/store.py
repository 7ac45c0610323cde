"""The store: what the processes keep in Redis, and every operation on it.

| key | holds | kept |
|---|---|---|
| `epoch` | when this Redis first saw a verifier; older passes and challenges are rejected | for ever |
| `solution:<provider>:<id>` | a solution that was used | until its challenge has expired |
| `charges:<network>` | a hash: the passes that a network got, by time | `fairness.window` after the last |
| `charges:key:<id>` | the same for an API key | a day after the last |
| `rejected:<network>` | the number of rejected solutions of a client network | `REJECTIONS_WINDOW_SECONDS` after the first |
| `revoked` | a hash: API keys that operators revoked, by id | for ever |
| `pass:<id>` | the uses of a pass: which server holds each | until nobody can present the pass |
| `launch:<server>` | the latest decision about a launch, with or without egress | the launch timeout, or until the pod is ready |
| `unlock:<server>` | a grant for a running pod | `UNLOCK_TTL_SECONDS` |
| `stop:<server>` | the uid of a pod that must be stopped | `STOP_TTL_SECONDS` |
| `blocks` | a hash: the operators' blocks, by id | until removed or ended; that of a server as long as its pod, a week at most |
| `lifted:<block>` | a block that an operator removed, which pods may carry | `WITHDRAWN_TTL_SECONDS` |
| `withdrawn:<grant>` | a grant that no longer counts | `WITHDRAWN_TTL_SECONDS` |
| `wake` | a list: servers to reconcile | until read |
| `actions` | a list: actions of the command `egress`, for the reconciler's log | until read |
| `detections` | a stream: detectors' reports, `MAX_REPORTS` at most | until read, `REPORT_TTL_SECONDS` at most |
| `detected` | a stream: the outcomes of the last `KEPT_DETECTIONS` of them | `DETECTED_TTL_SECONDS` after the last |
| `lines` | a hash: the number of lines that detectors sent, by source and outcome | for ever |
| `unreadable` | the last lines of each source that the receiver could not read | `DETECTED_TTL_SECONDS` after the last |
| `agents` | a hash: the addresses of agents, and the nodes that they are on | `AGENTS_TTL_SECONDS` |
| `addresses` | a hash: the addresses of each server's pods, for the egress proxy; a channel has its changes | with the pod |
| `changes` | the number of changes to `addresses`, and when counting began | for ever |
| `wanted:<proxy>` | the hosts that servers asked one pod of the egress proxy for and did not get | `WANTED_TTL_SECONDS` |
| `server:<server>` | what the reconciler knows of a server | as long as the pod exists |
| `reconciler` | the time of the reconciler's last heartbeat | `HEARTBEAT_TTL_SECONDS` |
| `hub` | JupyterHub's address, as BinderHub's hook last reported it | for ever |
| `wiring` | a hash: numbers of announced launches and of those without context; times of the first and the last | for ever |
| `verifiers` | a hash: each verifier's report, by host: providers, API keys, clock | `VERIFIER_TTL_SECONDS` after the last |
| `gatecheck` | the reconciler's findings about policies and the canary | `GATECHECK_TTL_SECONDS` |
| `counters`, `tiers` | hashes: the reconciler's counters, for the verifier's metrics | for ever |

All keys begin with `binder-egress:`. The chart's Redis lets each process write only what `chart/files/redis.sh` allows (D-241).
Scripts do not declare keys that the verifier may only read or only write: Redis requires both rights on declared keys.

Nothing here needs to survive. When Redis is wiped, passes become invalid, waiting grants are lost, client networks are charged
from zero, and blocks of repositories and networks are gone. Running servers keep what their annotation says, including a block. A
revoked API key that is still in the values counts again; `egress doctor` says so.
"""

import json
import secrets
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis
from redis.commands.core import Script

from ..detections.reports import Report
from ..detections.share_limit import in_window
from ..fairness import REJECTIONS_WINDOW_SECONDS, Charge
from ..passes import LEEWAY_SECONDS, Pass
from ..records import (
    AddressChange,
    AddressVersion,
    Block,
    Grant,
    KnownServer,
    Pending,
    PodAddresses,
    Record,
    RevokedKey,
    Rule,
    Server,
    Woken,
)
from .connection import TIMEOUT_SECONDS
from .errors import BlocksChanged, BudgetSpent, KeyRevoked, PriceRisen, Refused, Replayed, StoreUnavailable

PREFIX = "binder-egress:"

MOVE_WINDOW_SECONDS = 600
"""Seconds after it was first given during which a use of a pass may move to another server of the same repository and client
network."""

MOVES = 8
"""How many times one use of a pass may move: BinderHub tries a launch 4 times, and a browser may send the same URL twice."""

BUILD_LIMIT_SECONDS = 3600
"""The longest time between a launch request and its hook, with a build in between. A pass is judged as of the request."""

REDEEMED = frozenset({"held", "free", "moved"})
"""The outcomes of `Store.redeem` that write the grant. All others but `OUTRANKED` reject the pass."""

OUTRANKED = "outranked"
"""The outcome of `Store.redeem` for an unlock while another one waits that gives its pod more. The pass keeps its use."""

UNLOCK_TTL_SECONDS = 120
"""Seconds in which the reconciler must act on an unlock. It needs less than one; if a notification is lost, it sees the server at
its next resync, which is up to 90 s later. Long before they are over, the client has been told `pending`."""

STOP_TTL_SECONDS = 3600
"""Seconds in which the reconciler must stop a pod, even if the API server is down for a while. No later pod has the same uid."""

WITHDRAWN_TTL_SECONDS = 7 * 86400
"""Seconds that a withdrawal is remembered: far longer than the culler lets a pod live (6 h on mybinder.org)."""

SERVERS_AT_ONCE = 1000
"""How many servers Redis is asked about in one go for an operator. It must answer within `TIMEOUT_SECONDS`, and serves nobody else
meanwhile."""

EVERYTHING = "*"
"""On the wake list: reconcile all servers. It cannot be a server: `Server.key` has a slash."""

HEARTBEAT_TTL_SECONDS = 30
"""Seconds without a heartbeat after which the reconciler counts as gone. One comes every second."""

VERIFIER_TTL_SECONDS = 60
"""Seconds without a report after which a verifier counts as gone. One comes with each readiness probe."""

WANTED_TTL_SECONDS = 300
"""Seconds for which the table of one proxy counts. A new one comes every minute."""

MAX_REPORTS = 1000
"""The most reports that wait for the reconciler, about 1 MB. It reads them three times a second. One more evicts the oldest."""

REPORT_TTL_SECONDS = 3600
"""Seconds after the last report for which reports wait for a reconciler that is not running."""

KEPT_DETECTIONS = 200
"""The number of detections that `egress detections` and `egress explain` can show."""

DETECTED_TTL_SECONDS = 86400
"""Seconds after the last detection for which they are kept."""

AGENTS_TTL_SECONDS = 300
"""Seconds for which the addresses of agents count. The reconciler publishes them twice a minute."""

GATECHECK_TTL_SECONDS = 600
"""Seconds for which findings count. New ones come every minute."""


Judge = Callable[[Sequence[Block]], Rule | None]
"""The rule by which blocks refuse a client, or None."""


@dataclass(frozen=True)
class SeenBlocks:
    """The blocks that a script last returned (D-368).

    Attributes:
        version: the version that the script has for exactly these; empty if there are none.
        blocks: the blocks, the oldest first.
    """

    version: str
    blocks: list[Block]

    @classmethod
    def told(cls, version: str, blocks: list[str]) -> "SeenBlocks":
        """What a script returned: each block's id, followed by the block."""
        return cls(version, _blocks(dict(zip(blocks[::2], blocks[1::2], strict=True))))


@dataclass(frozen=True)
class Announced:
    """A launch that BinderHub's hook announced, for `Store` to count with its decision, for all replicas together.

    Attributes:
        at: Unix time in seconds.
        context: whether the hook knew the launch request.
        judged_by: `SeenBlocks.version` of the blocks by which it was decided.
        hub_url: JupyterHub's address, to be remembered; empty: the previous one stays.
    """

    at: float
    context: bool
    judged_by: str
    hub_url: str = ""

    def for_script(self) -> dict[str, Any]:
        """What `changed_blocks` and `count` in `common.lua` expect."""
        return {
            "blocks": _key("blocks"),
            "judged_by": self.judged_by,
            "wiring": _key("wiring"),
            "hub": _key("hub"),
            "now": int(self.at),
            "without_context": 0 if self.context else 1,
            "hub_url": self.hub_url,
        }


class Store:
    """All operations on Redis. Every method raises `StoreUnavailable` if Redis fails.

    Args:
        client: a connection with `decode_responses`.

    Attributes:
        seen_blocks: the blocks that this process last saw. If there are others by now, the script that writes a decision says so.
    """

    def __init__(self, client: redis.Redis):
        self._redis = client
        folder = resources.files(__package__) / "lua"
        common = (folder / "common.lua").read_text()

        def script(name: str) -> Script:
            return client.register_script(common + (folder / f"{name}.lua").read_text())

        self._record_launch = script("record_launch")
        self._begin = script("begin")
        self._read_charges = script("read_charges")
        self._use_and_charge_script = script("use_and_charge")
        self._reject = script("reject")
        self._redeem = script("redeem")
        self._publish_addresses = script("publish_addresses")
        self._settle = script("settle")
        self.seen_blocks = SeenBlocks("", [])

    # -- for the verifier

    def ping(self) -> None:
        """Return if Redis answers. This gives a new or wiped Redis its epoch, before the first challenge is issued."""
        with _unavailable():
            self._begin(keys=[_key("epoch")])

    def charges(self, networks: Sequence[str], window: int) -> list[int]:
        """The charges of networks in the window, in one round trip.

        Args:
            networks: client networks. `""`, a client without a known network, is never charged.
            window: seconds for which a charge counts.
        """
        with _unavailable():
            found = self._read_charges(keys=[_key("epoch"), *(_key(f"charges:{network}") for network in networks)], args=[window])
        return [int(number) for number in found]

    def rejections(self, network: str) -> tuple[int, int]:
        """The number of rejected solutions of a client network, and the seconds until they are forgotten."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(_key(f"rejected:{network}"))
            pipe.ttl(_key(f"rejected:{network}"))
            number, seconds = pipe.execute()
        return int(number or 0), max(1, seconds)

    def note_rejection(self, network: str) -> None:
        """Count one more rejected solution of a client network."""
        with _unavailable():
            self._reject(keys=[_key(f"rejected:{network}")], args=[REJECTIONS_WINDOW_SECONDS])

    def refusal(self, judge: Judge) -> Rule | None:
        """The rule by which blocks refuse a client, checked before its solution.

        Redis is asked only if the blocks that this process last saw refuse the client, since they may be gone. `use_solution` and
        `use_key` judge by the blocks at the time of their call (D-368).
        """
        return judge(self.seen_blocks.blocks) and judge(self.blocks())

    def use_solution(
        self, provider: str, solution_id: str, issued_at: float, lifetime: float, judge: Judge, charges: Sequence[Charge] = ()
    ) -> float:
        """Mark a solution as used, and charge the client's networks for it, unless blocks refuse the client.

        Args:
            provider: the provider's name.
            solution_id: `Verdict.solution_id`.
            issued_at: Unix time in seconds when its challenge was issued.
            lifetime: seconds for which the solution could be presented again.
            judge: decides whether blocks refuse the client.
            charges: the networks to charge, each with its limits. All have one window.

        Returns:
            Unix time in seconds by Redis' clock.

        Raises:
            Refused: a block refuses the client.
            Replayed: the solution was used before, or may have been used before Redis was wiped.
            PriceRisen: a network has so many charges by now that the challenge was too cheap.
            BudgetSpent: a network has used its budget.
        """
        request: dict[str, Any] = {
            "issued": issued_at,
            "ttl": max(1, int(lifetime) + LEEWAY_SECONDS),
            "word": secrets.token_hex(8),
            "revoked": _key("revoked"),
            "window": charges[0].window if charges else 0,
            "limits": [{"most": charge.most, "budget": charge.budget} for charge in charges],
        }
        charged = [_key(f"charges:{charge.network}") for charge in charges]
        outcome, *more = self._use_and_charge([_key(f"solution:{provider}:{solution_id}"), *charged], request, judge)
        if outcome in ("replayed", "before-epoch"):
            raise Replayed(outcome)
        if outcome == "price-risen":
            raise PriceRisen(outcome)
        if outcome == "budget-spent":
            raise BudgetSpent(more[0])
        return float(outcome)

    def use_key(self, key: str, budget: int, window: int, judge: Judge) -> float:
        """Charge an API key for a pass that is good for one server, unless blocks refuse the client.

        Args:
            key: its id.
            budget: how many passes it may have in the window.
            window: seconds.
            judge: decides whether blocks refuse the client.

        Returns:
            Unix time in seconds by Redis' clock.

        Raises:
            Refused: a block refuses the client.
            KeyRevoked: an operator revoked it.
            BudgetSpent: it has used its budget.
        """
        word = secrets.token_hex(8)
        request = {
            "key": key,
            "ttl": LEEWAY_SECONDS,
            "word": word,
            "revoked": _key("revoked"),
            "window": window,
            "limits": [{"budget": budget}],
        }
        outcome, *more = self._use_and_charge([_key(f"solution:key:{word}"), _key(f"charges:key:{key}")], request, judge)
        if outcome == "key-revoked":
            raise KeyRevoked(key)
        if outcome == "budget-spent":
            raise BudgetSpent(more[0])
        return float(outcome)

    def _use_and_charge(self, names: list[str], request: dict[str, Any], judge: Judge) -> list[Any]:
        """What `use_and_charge.lua` returns for a client that the current blocks do not refuse."""
        seen = self.seen_blocks  # Read once: other threads replace it.
        judged_by = None if judge(seen.blocks) else seen.version
        while True:
            with _unavailable():
                answer: list[Any] = self._use_and_charge_script(
                    keys=[_key("epoch"), *names], args=[json.dumps(request | {"blocks": _key("blocks"), "judged_by": judged_by})]
                )
            try:
                return self._unless_changed(answer)
            except BlocksChanged:
                seen = self.seen_blocks
            if rule := judge(seen.blocks):
                raise Refused(rule)
            judged_by = seen.version

    def redeem(
        self,
        used: Pass,
        server: Server,
        record: Record,
        network: str,
        now: float,
        record_ttl: int,
        renewal: bool = False,
        carried: str = "",
        announced: Announced | None = None,
        outranking: Sequence[str] = (),
    ) -> str:
        """Give a server one use of a pass, with the grant in `record`.

        Args:
            used: the pass.
            server: the server that asks.
            record: a launch (no uid) or an unlock (with uid).
            network: the client's network.
            now: Unix time in seconds.
            record_ttl: seconds that the record lives.
            renewal: the server has this tier already, or a smaller one. The use is then not taken from another server, and cannot
                move on: otherwise its owner could move it to another server, and take the tier along.
            carried: the id of the grant that the server's pod carries. A use gives its server a lease only once: not again after
                the pod's grant has changed (D-355).
            announced: the launch, which is counted if it gets the use; None: it is an unlock.
            outranking: the tiers of unlocks that stay if they wait for the same pod (`leases.outranking`, D-384).

        Returns:
            `held` (this server had the use already), `free` or `moved` (another server had it, which is not up): the record is
            written. `used-up`, `lease-given` (this pass gave this server a lease before), `outranked` (such an unlock waits),
            `before-epoch` or `key-revoked`: nothing is written.

        Raises:
            BlocksChanged: the blocks have changed since the launch was decided. Nothing is written.
        """
        request = {
            "iat": used.iat,
            "key": used.key,
            # The leeway counts twice: once for a pass that is presented late, once for the clock of another replica.
            "ttl": int(max(0, used.exp - now)) + 2 * LEEWAY_SECONDS + BUILD_LIMIT_SECONDS,
            "servers": used.servers,
            "move_window": MOVE_WINDOW_SECONDS,
            "moves": MOVES,
            "renewal": renewal,
            "carried": carried,
            "server": server.key,
            "repository": record.repository,
            "network": network,
            "grant": record.grant.id,
            "record": record.dumps(),
            "record_ttl": record_ttl,
            "uid": record.uid or "",
            "outranking": list(outranking),
            "launch": _key("launch:"),
            "known": _key("server:"),
            "withdrawn": _key("withdrawn:"),
            "withdrawn_ttl": WITHDRAWN_TTL_SECONDS,
            "wake": _key("wake"),
            "revoked": _key("revoked"),
        }
        if announced:
            request["announced"] = announced.for_script()
        kind = "unlock" if record.uid else "launch"
        with _unavailable():
            answer = self._redeem(
                keys=[_key("epoch"), _key(f"pass:{used.id}"), _key(f"{kind}:{server.key}")],
                args=[json.dumps(request)],
            )
        return str(self._unless_changed(answer)[0])

    def record_launch(self, server: Server, record: Record, ttl: int, announced: Announced | None = None) -> None:
        """Write down a launch that uses no pass. It replaces every earlier decision about this server.

        Args:
            server: the server that is about to start.
            record: the decision.
            ttl: seconds that the record lives.
            announced: the launch, which is counted; None: nobody announced one.

        Raises:
            BlocksChanged: the blocks have changed since the launch was decided. Nothing is written.
        """
        counted = json.dumps(announced.for_script()) if announced else ""
        with _unavailable():
            answer = self._record_launch(
                keys=[_key(f"launch:{server.key}")], args=[record.dumps(), ttl, _key("wake"), server.key, counted]
            )
        self._unless_changed(answer)

    def _unless_changed(self, answer: list[Any]) -> list[Any]:
        """The answer of a script that compares the blocks first.

        Raises:
            BlocksChanged: the blocks have changed, and `seen_blocks` has the new ones.
        """
        outcome, *rest = answer
        if outcome == "blocks-changed":
            self.seen_blocks = SeenBlocks.told(*rest)
            raise BlocksChanged
        return answer

    def known(self, server: Server) -> KnownServer | None:
        """What the reconciler published about a server, or None if it has no pod."""
        with _unavailable():
            text = self._redis.get(_key(f"server:{server.key}"))
        return KnownServer.loads(_text(text))

    def known_and_blocks(self, server: Server) -> tuple[KnownServer | None, list[Block]]:
        """What `known` and `blocks` say, in one round trip."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(_key(f"server:{server.key}"))
            pipe.hgetall(_key("blocks"))
            text, blocks = pipe.execute()
        return KnownServer.loads(_text(text)), _blocks(blocks)

    def blocks(self) -> list[Block]:
        """All blocks, the oldest first; some may have ended."""
        with _unavailable():
            return _blocks(self._redis.hgetall(_key("blocks")))

    # -- for operators

    def add_block(self, block: Block, servers: Iterable[Server], replace: bool = False) -> None:
        """Add a block, and wake the reconciler: first for the servers that it is known to apply to, then for all servers, unless it
        is the block of a single one. Strangers' programs can cause many of those, through a detector's reports.

        Args:
            block: the block.
            servers: the servers that it is known to apply to.
            replace: whether it replaces one with the same id. The verifier may not do that.
        """
        with _unavailable():
            pipe = self._redis.pipeline()
            (pipe.hset if replace else pipe.hsetnx)(_key("blocks"), block.id, block.dumps())
            others = [block.what] if block.kind == "server" else [EVERYTHING]
            pipe.rpush(_key("wake"), *(server.key for server in servers), *others)
            pipe.execute()

    def remove_block(self, block: str) -> None:
        """Remove a block, including from the pods that carry it."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.hdel(_key("blocks"), block)
            pipe.set(_key(f"lifted:{block}"), 1, ex=WITHDRAWN_TTL_SECONDS)
            pipe.rpush(_key("wake"), EVERYTHING)
            pipe.execute()

    def forget_ended_blocks(self, now: float, pods: Container[str] | None = None) -> None:
        """Forget the blocks that have ended. The reconciler calls this from time to time.

        Args:
            now: Unix time in seconds.
            pods: the uids of all user pods; None: they are not known yet.
        """
        if over := [block.id for block in self.blocks() if _is_over(block, now, pods)]:
            with _unavailable():
                self._redis.hdel(_key("blocks"), *over)

    def revoke_key(self, revoked: RevokedKey) -> None:
        """Revoke an API key, and with it the passes that were issued for it."""
        with _unavailable():
            # The verifier may add revocations, but neither change nor remove them.
            self._redis.hsetnx(_key("revoked"), revoked.id, revoked.dumps())

    def revoked_keys(self) -> dict[str, RevokedKey]:
        """The API keys that operators revoked, by id."""
        with _unavailable():
            found = self._redis.hgetall(_key("revoked"))
        return {key: RevokedKey.loads(text) for key, text in _texts(found).items()}

    def waiting(self) -> list[Grant]:
        """The grants that wait for their pod. Unlocks that the pod already carries are left out."""
        with _unavailable():
            launches, unlocks = (list(self._redis.scan_iter(_key(f"{kind}:*"), count=1000)) for kind in ("launch", "unlock"))
            servers = [_key("server:") + name.removeprefix(_key("unlock:")) for name in unlocks]
            names = launches + unlocks + servers
            texts = self._redis.mget(names) if names else []
        records = [Record.loads(_text(text)) for text in texts[: len(names) - len(servers)]]
        known = [KnownServer.loads(_text(text)) for text in texts[len(records) :]]
        carried = [None] * len(launches) + [server and server.grant for server in known]
        return [record.grant for record, grant in zip(records, carried, strict=True) if record and record.grant.id != grant]

    def wake_all(self) -> None:
        """Have the reconciler reconcile all servers."""
        with _unavailable():
            self._redis.rpush(_key("wake"), EVERYTHING)

    def verifier_reports(self) -> dict[str, dict[str, Any]]:
        """The latest reports of all verifiers that still report, by host."""
        now, texts = self._verifier_reports()
        return {host: said[1] for host, text in texts.items() if (said := _said(text)) and now - said[0] < VERIFIER_TTL_SECONDS}

    def _verifier_reports(self) -> tuple[int, dict[str, str]]:
        """Redis' time in seconds, and the reports as they are stored."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.time()
            pipe.hgetall(_key("verifiers"))
            (now, _), texts = pipe.execute()
        return now, texts

    def grant(self, server: Server, record: Record) -> None:
        """Give a running server a grant that needs no pass."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.set(_key(f"unlock:{server.key}"), record.dumps(), ex=UNLOCK_TTL_SECONDS)
            pipe.rpush(_key("wake"), server.key)
            pipe.execute()

    def ask_to_stop(self, server: Server, uid: str) -> None:
        """Ask the reconciler to stop a pod."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.set(_key(f"stop:{server.key}"), uid, ex=STOP_TTL_SECONDS)
            pipe.rpush(_key("wake"), server.key)
            pipe.execute()

    def log(self, action: dict[str, Any]) -> None:
        """Have the reconciler log an operator's action. What a command logs itself only reaches the operator's terminal."""
        with _unavailable():
            self._redis.rpush(_key("actions"), json.dumps(action))

    def all_known(self) -> dict[Server, KnownServer]:
        """What the reconciler published about all servers."""
        return self.known_of(sorted(self.published(), key=lambda server: server.key))

    def known_of(self, servers: list[Server]) -> dict[Server, KnownServer]:
        """What the reconciler published about the given servers; those without a pod are left out."""
        texts: list[Any] = []
        for first in range(0, len(servers), SERVERS_AT_ONCE):
            with _unavailable():
                texts += self._redis.mget([_key(f"server:{server.key}") for server in servers[first : first + SERVERS_AT_ONCE]])
        known = {server: KnownServer.loads(_text(text)) for server, text in zip(servers, texts, strict=True)}
        return {server: about for server, about in known.items() if about}

    def reconciler_state(self) -> tuple[float | None, dict[str, int], dict[str, int]]:
        """The time of the reconciler's last heartbeat (Unix seconds, or None), its counters, and its pods by tier."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(_key("reconciler"))
            pipe.hgetall(_key("counters"))
            pipe.hgetall(_key("tiers"))
            seen, counters, tiers = pipe.execute()
        return (float(seen) if seen else None), _numbers(counters), _numbers(tiers)

    # -- detections

    def add_detection(self, report: Report) -> str:
        """Queue a detector's report for the reconciler. Returns its id."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.xadd(_key("detections"), {"report": report.dumps()}, maxlen=MAX_REPORTS, approximate=False)
            pipe.expire(_key("detections"), REPORT_TTL_SECONDS)
            return str(pipe.execute()[0])

    def count_lines(self, source: str, counts: Mapping[str, int]) -> None:
        """Count lines that a source sent, by outcome. The source `""` means an unknown one."""
        with _unavailable():
            pipe = self._redis.pipeline()
            for outcome, number in counts.items():
                if number:
                    pipe.hincrby(_key("lines"), f"{source}:{outcome}", number)
            pipe.execute()

    def lines(self) -> dict[tuple[str, str], int]:
        """The number of lines that detectors sent, by source and outcome."""
        with _unavailable():
            found = _numbers(self._redis.hgetall(_key("lines")))
        return {(source, outcome): number for name, number in found.items() for source, _, outcome in [name.partition(":")]}

    def keep_unreadable(self, rows: list[dict[str, Any]]) -> None:
        """Keep the last lines that could not be read (`UnreadableLines.all`), in place of the earlier ones."""
        with _unavailable():
            self._redis.set(_key("unreadable"), json.dumps(rows), ex=DETECTED_TTL_SECONDS)

    def unreadable(self) -> list[dict[str, Any]]:
        """The last lines that could not be read."""
        with _unavailable():
            text = _text(self._redis.get(_key("unreadable")))
        rows: list[dict[str, Any]] = json.loads(text) if text else []
        return rows

    def publish_agents(self, nodes: dict[str, str]) -> None:
        """Publish the agents: address → node. This replaces those published before."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.delete(_key("agents"))
            for address, node in nodes.items():
                pipe.hset(_key("agents"), address, node)
            if nodes:
                pipe.expire(_key("agents"), AGENTS_TTL_SECONDS)
            pipe.execute()

    def is_agent(self, address: str) -> bool:
        """Whether an address is an agent's."""
        with _unavailable():
            return bool(address and self._redis.hexists(_key("agents"), address))

    def waiting_detections(self, most: int) -> list[tuple[str, Report | None]]:
        """The oldest reports that wait, by id; None for an entry that this version cannot read as a report."""
        with _unavailable():
            rows: Any = self._redis.xrange(_key("detections"), count=most)
        return [(str(identity), Report.loads(fields.get("report", ""))) for identity, fields in rows]

    def answer_detections(self, reports: list[str], detected: list[dict[str, Any]]) -> None:
        """Forget reports, by id, and keep their outcomes."""
        with _unavailable():
            pipe = self._redis.pipeline()
            for row in detected:
                pipe.xadd(_key("detected"), {"row": json.dumps(row)}, maxlen=KEPT_DETECTIONS, approximate=False)
            if detected:
                pipe.expire(_key("detected"), DETECTED_TTL_SECONDS)
            pipe.xdel(_key("detections"), *reports)
            pipe.execute()

    def detected(self) -> list[dict[str, Any]]:
        """The outcomes of the last reports, the latest first."""
        with _unavailable():
            rows: Any = self._redis.xrevrange(_key("detected"), count=KEPT_DETECTIONS)
        return [json.loads(fields["row"]) for _, fields in rows]

    # -- for doctor and metrics

    def hub(self) -> str:
        """JupyterHub's address, as BinderHub's hook last reported it; empty: no launch has been announced yet."""
        with _unavailable():
            return _text(self._redis.get(_key("hub"))) or ""

    def report_verifier(self, host: str, report: dict[str, Any]) -> None:
        """Publish a verifier's report about itself, without secrets, and remove the reports of verifiers that have gone silent.

        The time of the report is Redis' time, so that a verifier whose clock is off is noticed.
        """
        now, texts = self._verifier_reports()
        silent = [other for other, text in texts.items() if not ((said := _said(text)) and now - said[0] < VERIFIER_TTL_SECONDS)]
        with _unavailable():
            pipe = self._redis.pipeline()
            if silent:
                pipe.hdel(_key("verifiers"), *silent)
            pipe.hset(_key("verifiers"), host, json.dumps({"seen": now, "report": report}))
            pipe.expire(_key("verifiers"), VERIFIER_TTL_SECONDS)
            pipe.execute()

    def publish_gatecheck(self, found: str) -> None:
        """Publish the findings of the gate check, as JSON."""
        with _unavailable():
            self._redis.set(_key("gatecheck"), found, ex=GATECHECK_TTL_SECONDS)

    def gatecheck(self) -> dict[str, Any] | None:
        """The latest findings of the gate check (`gatecheck.check.Findings`), or None."""
        with _unavailable():
            text = self._redis.get(_key("gatecheck"))
        findings: dict[str, Any] | None = json.loads(text) if text else None
        return findings

    def health(self) -> dict[str, Any]:
        """What `doctor` checks of Redis.

        Returns:
            `wiring` (its numbers), `verifiers` (host → report), `revoked_keys` (ids), `epoch` (Unix seconds, or None), `now`
            (Redis' clock, Unix seconds), and from Redis' own information `maxmemory_policy`, `maxmemory` and `used_memory` (bytes),
            each None if Redis does not reveal it.
        """
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(_key("wiring"))
            pipe.get(_key("epoch"))
            pipe.time()
            wiring, epoch, (seconds, micro) = pipe.execute()
            try:
                memory = self._redis.info("memory")
            except redis.ResponseError:  # Not every operator's own Redis allows this command.
                memory = {}
        return {
            "wiring": _numbers(wiring),
            "verifiers": self.verifier_reports(),
            "revoked_keys": set(self.revoked_keys()),
            "epoch": float(epoch) if epoch else None,
            "now": seconds + micro / 1e6,
            **{name: memory.get(name) for name in ("maxmemory_policy", "maxmemory", "used_memory")},
        }

    # -- for the egress proxy

    def addresses(self) -> tuple[AddressVersion, dict[str, list[PodAddresses]]]:
        """The version of the addresses, and the pods of all servers, by the server's key."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.get(_key("changes"))
            pipe.hgetall(_key("addresses"))
            version, found = pipe.execute()
        return AddressVersion.loads(_text(version)), {server: PodAddresses.loads(text) for server, text in _texts(found).items()}

    @contextmanager
    def address_changes(self) -> "Iterator[Callable[[float], AddressChange | None]]":
        """Subscribe to the changes of addresses.

        Yields:
            A function that waits up to the given number of seconds for the next change, and returns None if none came.
        """
        with _unavailable(), self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(_key("addresses"))
            if not subscription.get_message(timeout=TIMEOUT_SECONDS):
                raise redis.TimeoutError("no answer to SUBSCRIBE")

            def following(seconds: float) -> AddressChange | None:
                with _unavailable():
                    message = subscription.get_message(timeout=seconds)
                if message and message["type"] != "message":
                    raise StoreUnavailable("Redis: subscribed anew, messages may be missing")
                return AddressChange.loads(message["data"]) if message else None

            yield following

    def publish_wanted_hosts(self, proxy: str, rows: list[dict[str, Any]]) -> None:
        """Publish which hosts servers asked one proxy for and did not get."""
        with _unavailable():
            self._redis.set(_key(f"wanted:{proxy}"), json.dumps(rows), ex=WANTED_TTL_SECONDS)

    def wanted_hosts(self) -> list[dict[str, Any]]:
        """The rows of all proxies: `repository`, `host`, `times`, and `last` in Unix time."""
        with _unavailable():
            keys = list(self._redis.scan_iter(_key("wanted:*"), count=1000))
            texts = self._redis.mget(keys) if keys else []
        return [row for text in map(_text, texts) if text for row in json.loads(text)]

    # -- for the reconciler

    def pending(self, server: Server, grants: set[str]) -> Pending:
        """The decisions about a server, and which of them and of `grants` are withdrawn."""
        return self.pending_all({server: grants})[server]

    def pending_all(self, asked: Mapping[Server, set[str]]) -> dict[Server, Pending]:
        """The decisions about many servers, in two round trips."""
        kinds = ("launch", "unlock", "server", "stop")
        found: dict[Server, Pending] = {}
        grants: dict[Server, list[str]] = {}
        with _unavailable():
            # No transaction: a full Redis refuses transactions, even for reading.
            pipe = self._redis.pipeline(transaction=False)
            pipe.mget([_key(f"{kind}:{server.key}") for server in asked for kind in kinds])
            pipe.hgetall(_key("blocks"))
            texts, blocks = pipe.execute()
            for at, (server, has) in enumerate(asked.items()):
                launch, unlock, known, stop = texts[at * len(kinds) : (at + 1) * len(kinds)]
                pending = Pending(Record.loads(launch), Record.loads(unlock), KnownServer.loads(known), stop=stop or "")
                found[server] = pending
                grants[server] = sorted(has | {record.grant.id for record in (pending.launch, pending.unlock) if record})
            names = [_key(f"{mark}:{grant}") for has in grants.values() for mark in ("withdrawn", "lifted") for grant in has]
            marks = iter(self._redis.mget(names) if names else [])
        sorted_blocks = _blocks(blocks)
        for server, asked_for in grants.items():
            found[server].blocks = sorted_blocks
            found[server].withdrawn = {grant for grant in asked_for if next(marks)}
            found[server].lifted = {grant for grant in asked_for if next(marks)}
        return found

    def withdraw(self, grants: Iterable[str]) -> None:
        """Withdraw grants: they no longer count."""
        with _unavailable():
            pipe = self._redis.pipeline()
            for grant in grants:
                pipe.set(_key(f"withdrawn:{grant}"), 1, ex=WITHDRAWN_TTL_SECONDS)
            pipe.execute()

    def settle(self, server: Server, launch: Record) -> None:
        """Forget the launch of a server whose pod is ready. A later pod of that name needs a new launch.

        Args:
            server: the server.
            launch: the launch that was read; one written since then stays.
        """
        with _unavailable():
            self._settle(keys=[_key(f"launch:{server.key}")], args=[launch.grant.id])

    def publish(self, server: Server, known: KnownServer) -> None:
        """Publish a server, for the verifier and for operators."""
        with _unavailable():
            self._redis.set(_key(f"server:{server.key}"), known.dumps())

    def forget(self, server: Server) -> None:
        """Forget a server that has no pod any more."""
        with _unavailable():
            self._redis.delete(_key(f"server:{server.key}"))

    def publish_addresses(self, server: Server, pods: Iterable[PodAddresses]) -> None:
        """Publish the addresses of a server's pods for the egress proxy; without pods, forget them."""
        self._announce(server.key, pods, self._redis)

    def publish_many_addresses(self, pods: Mapping[Server, Iterable[PodAddresses]]) -> None:
        """The same for many servers, in two round trips."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            for server, listed in pods.items():
                self._announce(server.key, listed, pipe)
            pipe.execute()

    def beat_addresses(self) -> None:
        """Confirm to the egress proxy that the published addresses are still current."""
        self._announce("", (), self._redis)

    def _announce(self, server: str, pods: Iterable[PodAddresses], client: redis.Redis) -> None:
        listed = list(pods)
        text = PodAddresses.dumps(listed) if listed else ""
        with _unavailable():
            channel = _key("addresses")
            self._publish_addresses(keys=[_key("addresses"), _key("changes")], args=[channel, server, text], client=client)

    def published_addresses(self) -> set[Server]:
        """All servers whose addresses are published."""
        with _unavailable():
            return {Server.from_key(str(key)) for key in self._redis.hkeys(_key("addresses"))}

    def verifier_is_there(self) -> bool:
        """Whether any verifier has reported recently."""
        with _unavailable():
            return bool(self._redis.exists(_key("verifiers")))

    def published(self) -> set[Server]:
        """All published servers."""
        prefix = _key("server:")
        with _unavailable():
            return {Server.from_key(key.removeprefix(prefix)) for key in self._redis.scan_iter(f"{prefix}*", count=1000)}

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of the counters that the verifier's metrics show."""
        with _unavailable():
            self._redis.hincrby(_key("counters"), name, number)

    def heartbeat(self, now: float, tiers: dict[str, int], counts: dict[str, int] | None = None) -> bool:
        """Write the reconciler's heartbeat.

        Args:
            now: Unix time in seconds.
            tiers: the number of pods by tier.
            counts: what to add to the counters, as `count` does.

        Returns:
            Whether the last heartbeat was still there: False after a wipe, and after `HEARTBEAT_TTL_SECONDS` without one.
        """
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.set(_key("reconciler"), now, ex=HEARTBEAT_TTL_SECONDS, get=True)
            self._begin(keys=[_key("epoch")], client=pipe)
            pipe.delete(_key("tiers"))
            if tiers:
                pipe.hset(_key("tiers"), mapping=dict(tiers.items()))
            for name, number in (counts or {}).items():
                pipe.hincrby(_key("counters"), name, number)
            return pipe.execute()[0] is not None

    def woken(self, wait: float) -> Woken:
        """Wait for the lists `wake` and `actions`.

        Args:
            wait: seconds, less than the connection's time-out.

        Returns:
            Their content; nothing if the time is up first.
        """
        lists: dict[str, list[str]] = {_key("actions"): [], _key("wake"): []}
        with _unavailable():
            first = self._redis.blpop(list(lists), timeout=wait)
            if first:
                name, text = map(str, first)
                lists[name].append(text)
                for name, texts in lists.items():
                    texts += map(str, self._redis.lpop(name, 1000) or [])
        actions, woken = lists.values()
        servers = {Server.from_key(text) for text in woken if text != EVERYTHING}
        return Woken(servers, EVERYTHING in woken, [json.loads(text) for text in actions])


def _blocks(stored: Mapping[Any, Any]) -> list[Block]:
    return sorted(filter(None, map(Block.loads, _texts(stored).values())), key=lambda block: block.at)


def _text(answer: Any) -> str | None:
    """A text in an answer from Redis, whose types also allow bytes. The connection decodes them."""
    return answer if isinstance(answer, str) else None


def _texts(answer: Mapping[Any, Any]) -> dict[str, str]:
    """A hash in an answer from Redis, whose types also allow bytes."""
    return {str(name): str(value) for name, value in answer.items()}


def _numbers(answer: Mapping[Any, Any]) -> dict[str, int]:
    """A hash of numbers in an answer from Redis."""
    return {str(name): int(value) for name, value in answer.items()}


def _said(text: str) -> tuple[int, dict[str, Any]] | None:
    """The time and content of a verifier's report; None if another version wrote it in a form that cannot be read."""
    try:
        found = json.loads(text)
        said = found["seen"], found["report"]
    except (ValueError, KeyError, TypeError):
        return None
    return said if isinstance(said[0], int) and isinstance(said[1], dict) else None


def _is_over(block: Block, now: float, pods: Container[str] | None) -> bool:
    """Whether a block has ended. The block of a server may be forgotten after a while, because its pod carries it, and soon after
    its pod ends, because it applies to no other. Until then the share limit counts it."""
    if block.grant.is_expired(now):
        return True
    is_gone = pods is not None and block.uid not in pods and not in_window(block.at, now)
    return block.kind == "server" and (is_gone or block.at + WITHDRAWN_TTL_SECONDS < now)


def _key(name: str) -> str:
    return PREFIX + name


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turn every failure of Redis into `StoreUnavailable`."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error
