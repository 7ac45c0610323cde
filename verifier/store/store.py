"""What verifier and reconciler keep in Redis, and every operation on it.

| key | holds | lives |
|---|---|---|
| `epoch` | when this Redis first saw a verifier; passes and challenges issued before are refused | for ever |
| `solution:<provider>:<id>` | that a solution was used | until its challenge has expired |
| `charges:<network>` | a hash: how many passes a client network had, by when | `fairness.window` after the last |
| `rejected:<network>` | how many solutions of a client network were rejected | `REJECTIONS_WINDOW_SECONDS` after the first |
| `charges:key:<id>` | the same of an API key | a day after the last |
| `revoked` | a hash: API keys that operators revoked, by id | for ever |
| `pass:<id>` | the uses of a pass: which server holds each | until nobody can present the pass |
| `launch:<server>` | the latest decision about a launch: a waiting grant, or none | the launch timeout, or until the pod is ready |
| `unlock:<server>` | a grant for a pod that runs | `UNLOCK_TTL_SECONDS` |
| `stop:<server>` | the uid of a pod that shall be stopped | `UNLOCK_TTL_SECONDS` |
| `blocks` | a hash: what operators blocked, by id | until it is taken off, `until`, or `WITHDRAWN_TTL_SECONDS` for a server's |
| `withdrawn:<grant>` | that a grant counts no more | `WITHDRAWN_TTL_SECONDS` |
| `wake` | a list: servers that the reconciler shall look at, and what operators did, for its log | until read |
| `server:<server>` | what the reconciler knows of a server | as long as the pod |
| `reconciler` | when the reconciler last went round | `HEARTBEAT_TTL_SECONDS` |
| `wiring` | a hash: launches that the hook told of, those without its context, when the first and the last came | for ever |
| `verifiers` | a hash: each verifier's report, by host: providers, API keys, clock | `VERIFIER_TTL_SECONDS` after the last |
| `gatecheck` | what the reconciler found about policies and the canary | `GATECHECK_TTL_SECONDS` |
| `counters`, `tiers` | hashes: what the reconciler counts, for the verifier's metrics | for ever |

All keys begin with `binder-egress:`. Nothing here needs to survive: a wiped Redis costs passes their validity and waiting grants
their pods' egress, client networks are charged from the beginning, and blocks of repositories and networks are gone; running
servers keep what their annotation says, a block too. A revoked API key that is still in the values counts again;
`egress doctor` says so.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from typing import Any

import redis

from ..fairness import REJECTIONS_WINDOW_SECONDS, Charge
from ..passes import LEEWAY_SECONDS, Pass
from ..records import Block, Grant, KnownServer, Pending, Record, RevokedKey, Server, Woken
from .errors import BudgetSpent, KeyRevoked, PriceRisen, Replayed, StoreUnavailable

PREFIX = "binder-egress:"


MOVE_WINDOW_SECONDS = 600
"""Seconds after its first use in which a use may move to another server of the same repository and client network."""

MOVES = 8
"""How often one use may move: BinderHub tries a launch 4 times, and a browser may send the same URL twice."""

BUILD_LIMIT_SECONDS = 3600
"""Seconds that may lie between a launch request and its hook: passes are judged by when the request came, builds take long."""

UNLOCK_TTL_SECONDS = 60
"""Seconds that the reconciler has for an unlock. It takes less than one; after this the client was told `pending` long ago."""

WITHDRAWN_TTL_SECONDS = 7 * 86400
"""Seconds that a withdrawal is remembered, far beyond the age that a BinderHub's culler lets a pod reach (6 h on mybinder.org)."""


EVERYTHING = "*"
"""On the wake list: look at all servers. No server is called so there, for `Server.key` has a slash."""

HEARTBEAT_TTL_SECONDS = 30
"""Seconds after which a silent reconciler counts as gone. It reports every few seconds."""

VERIFIER_TTL_SECONDS = 60
"""Seconds after which a silent verifier counts as gone. It reports with each readiness probe."""

GATECHECK_TTL_SECONDS = 600
"""Seconds that findings count. They are made every minute."""


class Store:
    """All reads and writes. Each method raises `StoreUnavailable` when Redis fails.

    Args:
        client: a connection with `decode_responses`.
    """

    def __init__(self, client: redis.Redis):
        self._redis = client
        scripts = resources.files(__package__) / "lua"
        self._begin = client.register_script((scripts / "begin.lua").read_text())
        self._charges = client.register_script((scripts / "charges.lua").read_text())
        self._issue = client.register_script((scripts / "issue.lua").read_text())
        self._reject = client.register_script((scripts / "reject.lua").read_text())
        self._redeem = client.register_script((scripts / "redeem.lua").read_text())
        self._settle = client.register_script((scripts / "settle.lua").read_text())

    # -- the verifier's side

    def ping(self) -> None:
        """Return if Redis answers. A new or wiped one learns its epoch here, before a challenge is presented to it."""
        with _unavailable():
            self._begin(keys=[_key("epoch")])

    def charges(self, network: str, window: int) -> int:
        """How much a client network was charged lately.

        Args:
            network: the client's network; `""`, for clients whose network is not known, is never charged.
            window: seconds for which a charge counts.
        """
        with _unavailable():
            return self._charges(keys=[_key("epoch"), _key(f"charges:{network}")], args=[window])

    def charges_of(self, networks: list[str], window: int) -> list[int]:
        """The same for several, together."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            for network in networks:
                self._charges(keys=[_key("epoch"), _key(f"charges:{network}")], args=[window], client=pipe)
            return pipe.execute()

    def rejections(self, network: str) -> tuple[int, int]:
        """How many solutions of a client network remote providers rejected lately, and the seconds until they are forgotten."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(_key(f"rejected:{network}"))
            pipe.ttl(_key(f"rejected:{network}"))
            number, seconds = pipe.execute()
        return int(number or 0), max(1, seconds)

    def note_rejection(self, network: str) -> None:
        """Count one more."""
        with _unavailable():
            self._reject(keys=[_key(f"rejected:{network}")], args=[REJECTIONS_WINDOW_SECONDS])

    def use_solution(
        self, provider: str, solution_id: str, issued_at: float, lifetime: float, charge: Charge | None = None
    ) -> float:
        """Mark a solution as used, and charge the client's network for it.

        Args:
            provider: the provider's name.
            solution_id: `Verdict.solution_id`.
            issued_at: Unix time in seconds when its challenge was issued.
            lifetime: seconds for which the solution could be presented again.
            charge: whom to charge, and what must not be exceeded; None: nobody.

        Returns:
            Unix time in seconds by Redis' clock.

        Raises:
            Replayed: the solution was used before, or may have been, before Redis was wiped.
            PriceRisen: the network was charged so much meanwhile that the challenge was too cheap.
            BudgetSpent: the network was charged all that it may be.
        """
        request: dict[str, Any] = {
            "issued": issued_at,
            "ttl": max(1, int(lifetime) + LEEWAY_SECONDS),
            "word": secrets.token_hex(8),
        }
        if charge:
            request |= {"window": charge.window, "budget": charge.budget}
            request |= {} if charge.most is None else {"most": charge.most}
        network = charge.network if charge else ""
        with _unavailable():
            outcome, *more = self._issue(
                keys=[_key("epoch"), _key(f"solution:{provider}:{solution_id}"), _key(f"charges:{network}"), _key("revoked")],
                args=[json.dumps(request)],
            )
        if outcome in ("replayed", "before-epoch"):
            raise Replayed(outcome)
        if outcome == "price-risen":
            raise PriceRisen(outcome)
        if outcome == "budget-spent":
            raise BudgetSpent(more[0])
        return float(outcome)

    def use_key(self, key: str, budget: int, window: int) -> float:
        """Charge an API key for a pass that is good for one server.

        Args:
            key: its id.
            budget: how many it may have in the window.
            window: seconds.

        Returns:
            Unix time in seconds by Redis' clock.

        Raises:
            KeyRevoked: an operator revoked it.
            BudgetSpent: it had all that it may.
        """
        word = secrets.token_hex(8)
        request = {"key": key, "ttl": LEEWAY_SECONDS, "word": word, "window": window, "budget": budget}
        with _unavailable():
            outcome, *more = self._issue(
                keys=[_key("epoch"), _key(f"solution:key:{word}"), _key(f"charges:key:{key}"), _key("revoked")],
                args=[json.dumps(request)],
            )
        if outcome == "key-revoked":
            raise KeyRevoked(key)
        if outcome == "budget-spent":
            raise BudgetSpent(more[0])
        return float(outcome)

    def redeem(
        self, used: Pass, server: Server, record: Record, network: str, now: float, record_ttl: int, renewal: bool = False
    ) -> str:
        """Give a server one use of a pass, with the grant in `record`.

        Args:
            used: the pass.
            server: who asks.
            record: a launch (no uid) or an unlock (with uid).
            network: the client's network.
            now: Unix time in seconds.
            record_ttl: seconds that the record lives.
            renewal: the server has this tier, or a smaller one. The use is not taken from another server then, and stays: whoever
                gave it could otherwise take it on to a server of their own, and the tier would go with it.

        Returns:
            `held` (this server had it already), `free`, `moved` (taken from the server that had it), and then the record is
            written; `used-up`, `before-epoch` or `key-revoked`, and then nothing is.
        """
        request = {
            "iat": used.iat,
            "key": used.key,
            # The leeway counts twice: once for presenting the pass late, once for the clock of another replica.
            "ttl": int(max(0, used.exp - now)) + 2 * LEEWAY_SECONDS + BUILD_LIMIT_SECONDS,
            "servers": used.servers,
            "move_window": MOVE_WINDOW_SECONDS,
            "moves": MOVES,
            "renewal": renewal,
            "server": server.key,
            "repository": record.repository,
            "network": network,
            "grant": record.grant.id,
            "record": record.dumps(),
            "record_ttl": record_ttl,
            "withdrawn": _key("withdrawn:"),
            "withdrawn_ttl": WITHDRAWN_TTL_SECONDS,
        }
        kind = "unlock" if record.uid else "launch"
        with _unavailable():
            return self._redeem(
                keys=[_key("epoch"), _key(f"pass:{used.id}"), _key(f"{kind}:{server.key}"), _key("wake"), _key("revoked")],
                args=[json.dumps(request)],
            )

    def record_launch(self, server: Server, record: Record, ttl: int) -> None:
        """Write down a launch that uses no pass. It replaces what was decided for this server before."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.set(_key(f"launch:{server.key}"), record.dumps(), ex=ttl)
            pipe.rpush(_key("wake"), server.key)
            pipe.execute()

    def known(self, server: Server) -> KnownServer | None:
        """What the reconciler published about a server, or None if there is no such pod."""
        with _unavailable():
            text = self._redis.get(_key(f"server:{server.key}"))
        return KnownServer.loads(text)

    def blocks(self) -> list[Block]:
        """All blocks, the oldest first; some may have ended."""
        with _unavailable():
            return _blocks(self._redis.hgetall(_key("blocks")))

    # -- the operators' side

    def add_block(self, block: Block, servers: Iterable[Server]) -> None:
        """Block, forget blocks that have ended, and wake the reconciler: first for the servers that are known to be meant."""
        over = [old.id for old in self.blocks() if _is_over(old, block.at)]
        with _unavailable():
            pipe = self._redis.pipeline()
            if over:
                pipe.hdel(_key("blocks"), *over)
            pipe.hset(_key("blocks"), block.id, block.dumps())
            pipe.rpush(_key("wake"), *(server.key for server in servers), EVERYTHING)
            pipe.execute()

    def remove_block(self, block: str) -> None:
        """Take a block off, from the pods that carry it too."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.hdel(_key("blocks"), block)
            pipe.set(_key(f"withdrawn:{block}"), 1, ex=WITHDRAWN_TTL_SECONDS)
            pipe.rpush(_key("wake"), EVERYTHING)
            pipe.execute()

    def revoke_key(self, revoked: RevokedKey) -> None:
        """Let an API key, and the passes that were issued for it, count no more."""
        with _unavailable():
            self._redis.hset(_key("revoked"), revoked.id, revoked.dumps())

    def revoked_keys(self) -> dict[str, RevokedKey]:
        """The API keys that operators revoked, by id."""
        with _unavailable():
            found = self._redis.hgetall(_key("revoked"))
        return {key: RevokedKey.loads(text) for key, text in found.items()}

    def waiting(self) -> list[Grant]:
        """The grants that wait for their pod. An unlock that is on it already waits no more."""
        with _unavailable():
            launches, unlocks = (list(self._redis.scan_iter(_key(f"{kind}:*"), count=1000)) for kind in ("launch", "unlock"))
            servers = [_key("server:") + name.removeprefix(_key("unlock:")) for name in unlocks]
            names = launches + unlocks + servers
            texts = self._redis.mget(names) if names else []
        records = [Record.loads(text) for text in texts[: len(names) - len(servers)]]
        done = [None] * len(launches) + [known and known.grant for known in map(KnownServer.loads, texts[len(records) :])]
        return [record.grant for record, grant in zip(records, done, strict=True) if record and record.grant.id != grant]

    def wake_all(self) -> None:
        """Have the reconciler look at all servers."""
        with _unavailable():
            self._redis.rpush(_key("wake"), EVERYTHING)

    def reports(self) -> dict[str, dict[str, Any]]:
        """What the verifiers that are not silent say of themselves, by host."""
        now, texts = self._reports()
        return {host: said[1] for host, text in texts.items() if (said := _said(text)) and now - said[0] < VERIFIER_TTL_SECONDS}

    def _reports(self) -> tuple[int, dict[str, str]]:
        """Redis' time in seconds, and the reports as they are kept."""
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
        """Have a pod stopped."""
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.set(_key(f"stop:{server.key}"), uid, ex=UNLOCK_TTL_SECONDS)
            pipe.rpush(_key("wake"), server.key)
            pipe.execute()

    def log(self, action: dict[str, Any]) -> None:
        """Have the reconciler log what an operator did: what a command writes would end in the operator's terminal."""
        with _unavailable():
            self._redis.rpush(_key("wake"), json.dumps(action))

    def all_known(self) -> dict[Server, KnownServer]:
        """What the reconciler published about all servers."""
        return self.known_of(sorted(self.published(), key=lambda server: server.key))

    def known_of(self, servers: list[Server]) -> dict[Server, KnownServer]:
        """What the reconciler published about some servers; those without a pod are left out."""
        with _unavailable():
            texts = self._redis.mget([_key(f"server:{server.key}") for server in servers]) if servers else []
        return {server: KnownServer.loads(text) for server, text in zip(servers, texts, strict=True) if text}

    def reconciler_state(self) -> tuple[float | None, dict[str, int], dict[str, int]]:
        """When the reconciler last went round (Unix seconds, or None), its counters, and its pods by tier."""
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(_key("reconciler"))
            pipe.hgetall(_key("counters"))
            pipe.hgetall(_key("tiers"))
            seen, counters, tiers = pipe.execute()
        as_numbers = [{name: int(value) for name, value in found.items()} for found in (counters, tiers)]
        return (float(seen) if seen else None), *as_numbers

    # -- what doctor and metrics read

    def note_launch(self, now: float, context: bool) -> None:
        """Remember that BinderHub's hook told of a launch, for all replicas together.

        Args:
            now: Unix time in seconds.
            context: whether the hook knew of the request.
        """
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.hincrby(_key("wiring"), "launches", 1)
            pipe.hincrby(_key("wiring"), "without-context", 0 if context else 1)
            pipe.hsetnx(_key("wiring"), "first", int(now))
            pipe.hset(_key("wiring"), "last", int(now))
            pipe.execute()

    def report_verifier(self, host: str, report: dict[str, Any]) -> None:
        """Say what a verifier knows of itself; nothing secret. The reports of those that are silent are taken away.

        When it was said is Redis' time: a verifier whose clock is off must be seen.
        """
        now, texts = self._reports()
        silent = [other for other, text in texts.items() if not ((said := _said(text)) and now - said[0] < VERIFIER_TTL_SECONDS)]
        with _unavailable():
            pipe = self._redis.pipeline()
            if silent:
                pipe.hdel(_key("verifiers"), *silent)
            pipe.hset(_key("verifiers"), host, json.dumps({"seen": now, "report": report}))
            pipe.expire(_key("verifiers"), VERIFIER_TTL_SECONDS)
            pipe.execute()

    def publish_gatecheck(self, found: str) -> None:
        """Publish what the reconciler found, JSON."""
        with _unavailable():
            self._redis.set(_key("gatecheck"), found, ex=GATECHECK_TTL_SECONDS)

    def gatecheck(self) -> dict[str, Any] | None:
        """What the reconciler found last (`watch.Findings`), or None."""
        with _unavailable():
            text = self._redis.get(_key("gatecheck"))
        return json.loads(text) if text else None

    def health(self) -> dict[str, Any]:
        """What `doctor` wants to know of Redis.

        Returns:
            `wiring` (its numbers), `verifiers` (host → report), `revoked_keys` (ids), `epoch` (Unix seconds, or None), `now`
            (Redis' clock, Unix seconds), and of what Redis says of itself `maxmemory_policy`, `maxmemory` and `used_memory`
            (bytes), each None where it does not say.
        """
        with _unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(_key("wiring"))
            pipe.get(_key("epoch"))
            pipe.time()
            wiring, epoch, (seconds, micro) = pipe.execute()
            try:
                memory = self._redis.info("memory")
            except redis.ResponseError:  # Not every Redis of one's own lets us ask.
                memory = {}
        return {
            "wiring": {name: int(number) for name, number in wiring.items()},
            "verifiers": self.reports(),
            "revoked_keys": set(self.revoked_keys()),
            "epoch": float(epoch) if epoch else None,
            "now": seconds + micro / 1e6,
            **{name: memory.get(name) for name in ("maxmemory_policy", "maxmemory", "used_memory")},
        }

    # -- the reconciler's side

    def pending(self, server: Server, grants: set[str]) -> Pending:
        """What is decided about a server, and which of `grants`, and of what is decided, is withdrawn."""
        return self.pending_all({server: grants})[server]

    def pending_all(self, asked: Mapping[Server, set[str]]) -> dict[Server, Pending]:
        """The same for many servers, in two round trips."""
        kinds = ("launch", "unlock", "server", "stop")
        found: dict[Server, Pending] = {}
        grants: dict[Server, list[str]] = {}
        with _unavailable():
            # No transaction: a full Redis refuses those, even to read.
            pipe = self._redis.pipeline(transaction=False)
            pipe.mget([_key(f"{kind}:{server.key}") for server in asked for kind in kinds])
            pipe.hgetall(_key("blocks"))
            texts, blocks = pipe.execute()
            for at, (server, has) in enumerate(asked.items()):
                launch, unlock, known, stop = texts[at * len(kinds) : (at + 1) * len(kinds)]
                pending = Pending(Record.loads(launch), Record.loads(unlock), KnownServer.loads(known), stop=stop or "")
                found[server] = pending
                grants[server] = sorted(has | {record.grant.id for record in (pending.launch, pending.unlock) if record})
            names = [_key(f"withdrawn:{grant}") for has in grants.values() for grant in has]
            marks = iter(self._redis.mget(names) if names else [])
        sorted_blocks = _blocks(blocks)
        for server, has in grants.items():
            found[server].blocks = sorted_blocks
            found[server].withdrawn = {grant for grant in has if next(marks)}
        return found

    def withdraw(self, grants: Iterable[str]) -> None:
        """Let grants count no more."""
        with _unavailable():
            pipe = self._redis.pipeline()
            for grant in grants:
                pipe.set(_key(f"withdrawn:{grant}"), 1, ex=WITHDRAWN_TTL_SECONDS)
            pipe.execute()

    def settle(self, server: Server, launch: Record) -> None:
        """Forget the launch of a server whose pod is ready: a later pod of that name needs a launch of its own.

        Args:
            server: the server.
            launch: the launch that was seen; another one, written meanwhile, stays.
        """
        with _unavailable():
            self._settle(keys=[_key(f"launch:{server.key}")], args=[launch.grant.id])

    def publish(self, server: Server, known: KnownServer) -> None:
        """Tell the verifier about a server."""
        with _unavailable():
            self._redis.set(_key(f"server:{server.key}"), known.dumps())

    def forget(self, server: Server) -> None:
        """A server has no pod any more."""
        with _unavailable():
            self._redis.delete(_key(f"server:{server.key}"))

    def verifier_is_there(self) -> bool:
        """Whether any verifier has said lately that it is ready."""
        with _unavailable():
            return bool(self._redis.exists(_key("verifiers")))

    def published(self) -> set[Server]:
        """All servers that something is published about."""
        prefix = _key("server:")
        with _unavailable():
            return {Server.from_key(key.removeprefix(prefix)) for key in self._redis.scan_iter(f"{prefix}*", count=1000)}

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter that the verifier shows in its metrics."""
        with _unavailable():
            self._redis.hincrby(_key("counters"), name, number)

    def heartbeat(self, now: float, tiers: dict[str, int], counts: dict[str, int] | None = None) -> bool:
        """Say that the reconciler is alive.

        Args:
            now: Unix time in seconds.
            tiers: how many pods have which tier.
            counts: what to add to counters, as `count` does.

        Returns:
            Whether Redis still knew us: False after a wipe, and after `HEARTBEAT_TTL_SECONDS` seconds of silence.
        """
        with _unavailable():
            pipe = self._redis.pipeline()
            pipe.set(_key("reconciler"), now, ex=HEARTBEAT_TTL_SECONDS, get=True)
            self._begin(keys=[_key("epoch")], client=pipe)
            pipe.delete(_key("tiers"))
            if tiers:
                pipe.hset(_key("tiers"), mapping=tiers)
            for name, number in (counts or {}).items():
                pipe.hincrby(_key("counters"), name, number)
            return pipe.execute()[0] is not None

    def woken(self, wait: float) -> Woken:
        """Wait for servers that need a look.

        Args:
            wait: seconds, below `TIMEOUT`.

        Returns:
            What there is to do; nothing when the time is up.
        """
        found = Woken()
        with _unavailable():
            first = self._redis.blpop([_key("wake")], timeout=wait)
            if not first:
                return found
            more = self._redis.lpop(_key("wake"), 1000) or []
        for text in [first[1], *more]:
            if text == EVERYTHING:
                found.everything = True
            elif text.startswith("{"):
                found.actions.append(json.loads(text))
            else:
                found.servers.add(Server.from_key(text))
        return found


def _blocks(found: dict[str, str]) -> list[Block]:
    return sorted(map(Block.loads, found.values()), key=lambda block: block.at)


def _said(text: str) -> tuple[int, dict[str, Any]] | None:
    """When a verifier reported, and its report; None if another version wrote it, so that it cannot be read."""
    try:
        found = json.loads(text)
        said = found["seen"], found["report"]
    except (ValueError, KeyError, TypeError):
        return None
    return said if isinstance(said[0], int) and isinstance(said[1], dict) else None


def _is_over(block: Block, now: float) -> bool:
    """Whether a block has ended; that of a server, whose pod carries it, may be forgotten after a while."""
    ended = block.until is not None and block.until <= now
    return ended or (block.kind == "server" and block.at + WITHDRAWN_TTL_SECONDS < now)


def _key(name: str) -> str:
    return PREFIX + name


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turns every failure of Redis into `StoreUnavailable`."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error
