"""The operators' actions, for the command `egress` and for the in-cluster interface.

They do not use the Kubernetes API. An action writes to Redis, the reconciler carries it out (`reconciler.wanted`), and the action
waits for the reconciler's confirmation.
"""

import ipaddress
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, cast
from urllib.parse import urlsplit

from .. import api_keys, logs
from ..decisions.refusals import Facts, applies, refusal
from ..detections.reports import Report
from ..grants import BLOCK_KINDS, UNVERIFIED, Block, Blocked, Egress, EndedLease, Grant, Origin, Rule, block_in, new_id
from ..networks import in_networks
from ..records import KnownServer, Record, RevokedKey, Server
from ..repositories import block_pattern, covers, name
from ..settings import CommonSettings
from ..store.store import ReconcilerStore, SharedStore
from ..texts import fields_of

CONFIRMATION_WAIT_SECONDS = 2.0
"""Seconds for which an action waits for the reconciler's confirmation before it answers `pending`."""

CONFIRMATION_POLL_SECONDS = 0.05
"""Seconds between two questions to Redis for that confirmation. An unlock has its own (`web.servers.UNLOCK_POLL_SECONDS`)."""

WIDEST_BLOCK = {4: 8, 6: 16}
"""The shortest prefix of a network that an operator may block, by the version of IP."""


class ActionRefused(Exception):
    """An action that was refused. `kind` is a problem type: `no-such-server`, `no-such-block`, `no-such-key`, `refused` or
    `bad-request`."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


class Operators:
    """The operators' actions. Each raises `ActionRefused` if it is impossible, and `StoreUnavailable` if Redis fails.

    Args:
        settings: mode, tiers and rules.
        store: Redis.
        clock: Unix time in seconds.
        in_verifier: whether the verifier acts, through its in-cluster port. It can take egress away, but cannot remove or replace
            a block or stop a pod, and it logs by itself: the chart's Redis does not let it do more (D-241, D-242).
    """

    def __init__(
        self, settings: CommonSettings, store: SharedStore, clock: Callable[[], float] = time.time, in_verifier: bool = False
    ):
        self._settings = settings
        self._store = store
        self._commands = cast(ReconcilerStore, store)  # for what the verifier does not ask for
        self._clock = clock
        self._in_verifier = in_verifier

    # -- reading

    def wanted_hosts(self) -> list[dict[str, Any]]:
        """What unverified servers asked the egress proxy for and did not get, the most wanted first.

        The record goes back to the start of the proxy's pods, or a day at most.
        """
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self._commands.wanted_hosts():
            known = found.setdefault((row["repository"], row["host"]), row | {"times": 0})
            known["times"] += row["times"]
            known["last"] = max(known["last"], row["last"])
        return sorted(found.values(), key=lambda row: -row["times"])

    def grants(self, user: str = "", tier: str = "", repository: str = "", network: str = "") -> list[dict[str, Any]]:
        """The running servers, each with its grant.

        Args:
            user: only users with this name; `*` stands for any text.
            tier: only servers with this tier; `unverified`: those without one.
            repository: only servers of this repository or pattern.
            network: only servers launched from this CIDR.

        Returns:
            A row for each server, as `egress grants --json` prints it.
        """
        networks = [_network(network)] if network else []
        pattern = _pattern(repository) if repository else ""
        return [
            self._row(server, known)
            for server, known in self._store.all_known().items()
            if (not user or fnmatchcase(server.user, user))
            and (not tier or known.tier == tier)
            and (not pattern or covers(pattern, name(known.repository)))
            and (not networks or in_networks(known.client, networks))
        ]

    def find(self, text: str) -> Server:
        """The server that an operator names: `user`, `user/server`, the name of its pod, or the address of its page."""
        if text.startswith(("https://", "http://")):
            try:
                path = urlsplit(text).path
            except ValueError:  # `https://[`, for instance
                path = ""
            named = Server.from_key(path.partition("/servers/")[2].rstrip("/"))
        else:
            user, _, server = text.partition("/")
            named = Server(user, server)
        if self._store.known(named):
            return named
        for candidate, known in self._store.all_known().items():
            if known.pod == text:
                return candidate
        raise ActionRefused("no-such-server", self._missing(text))

    def explain(self, server: Server) -> dict[str, Any]:
        """Why a server has egress, or has none.

        Returns:
            Its row in `grants`, with `because`, a sentence, and what `egress explain --json` prints besides.
        """
        known = self._known(server)
        pending = self._store.pending(server, set())
        because = self._because(known)
        if pending.stop == known.uid:
            because += " Its pod is to be stopped, but the API server has not accepted that yet: see the reconciler's log."
        blocks = [block for block in pending.blocks if applies(block, Facts.of(known), self._clock())]
        return self._row(server, known) | {
            "because": because,
            "mode": self._settings.mode,
            "uid": known.uid,
            "label": known.label or None,
            "waiting": [
                _waiting(kind, record) for kind, record in (("launch", pending.launch), ("unlock", pending.unlock)) if record
            ],
            "blocks": [_block(block) for block in blocks],
            "detections": [row for row in self._store.detected() if row["uid"] == known.uid],
            "reconciler_seen": self._store.reconciler_state()[0],
        }

    def reconciler_is_silent(self) -> bool:
        """Whether the reconciler is silent, so that what is known about servers may be old, or lost in a wipe of Redis."""
        return self._store.reconciler_state()[0] is None

    def blocks(self) -> list[dict[str, Any]]:
        """All blocks of repositories, networks and running servers. Includes those that Redis has forgotten but pods still
        carry, and not those that an operator removed."""
        now, known = self._clock(), self._store.all_known()
        found = {block.id: _block(block) for block in self._store.blocks() if self._stands(block, now, known)}
        carried = [_carried(server, has, block) for server, has in known.items() if (block := block_in(has.grant, now))]
        forgotten = {block.id: _block(block) | {"only_on_pods": True} for block in carried if block.id not in found}
        removed = self._store.lifted(forgotten)
        found |= {identity: row for identity, row in forgotten.items() if identity not in removed}
        return list(found.values())

    def counts(self) -> dict[str, int]:
        """The number of blocks in Redis, by kind."""
        blocks = self._store.blocks()
        known = self._store.known_of([Server.from_key(block.what) for block in blocks if block.kind == "server"])
        standing = [block.kind for block in blocks if self._stands(block, self._clock(), known)]
        return {kind: standing.count(kind) for kind in BLOCK_KINDS}

    def keys(self) -> list[dict[str, Any]]:
        """The API keys that the verifiers have read from the values, by name, with their use. Without hashes."""
        now, revoked = self._clock(), self._store.revoked_keys()
        found = api_keys.reported(self._store.verifier_reports().values())
        used = self._store.charges([f"key:{key.entry.id}" for key in found], api_keys.DAY_SECONDS)
        return [
            {
                "name": key.name,
                "id": key.entry.id,
                "state": "revoked" if key.entry.id in revoked else "expired" if key.is_expired(now) else "valid",
                "tier": key.entry.tier,
                "used": number,
                "servers_per_day": key.entry.serversPerDay,
                "expires": key.entry.expires,
                "until": api_keys.ends(key.entry.expires),
                "origins": key.entry.origins,
                "repositories": key.entry.repositories,
            }
            for key, number in zip(found, used, strict=True)
        ]

    def detected(self) -> list[dict[str, Any]]:
        """The outcomes of the last reports of detectors, the latest first."""
        return self._store.detected()

    def unreadable(self) -> list[dict[str, Any]]:
        """The last lines of each source that the receiver could not read: `at`, `source`, `why`, `line`, the latest first."""
        found = self._commands.unreadable()
        return sorted(found, key=lambda row: -row["at"])

    def own_block(self, server: Server, known: KnownServer) -> Block | None:
        """The block that only this server has; of several, the one that ends last. One that only its pod remembers counts as its
        own, unless it was removed."""
        return next(iter(self._own_blocks(server, known)), None)

    def _own_blocks(self, server: Server, known: KnownServer) -> list[Block]:
        """The blocks that only this server has, the one that ends last first."""
        blocks, now = self._store.blocks(), self._clock()
        own = [block for block in blocks if block.kind == "server" and block.uid == known.uid and not block.is_over(now)]
        if own:
            return sorted(own, key=lambda block: -math.inf if block.until is None else -block.until)
        carried = self._carried_block(known)
        return [_carried(server, known, carried)] if carried and carried.id not in {block.id for block in blocks} else []

    # -- acting

    def check_source(self, source: str) -> None:
        """Check that the values have this source of reports; for an empty name, that they have any.

        Raises:
            ActionRefused: they have not.
        """
        known = self._settings.detections
        if not (source in known if source else known):
            raise ActionRefused(
                "refused", f"There is no source {source!r} in detections.sources: {', '.join(sorted(known)) or 'none'}."
            )

    def report(self, report: Report) -> dict[str, Any] | None:
        """Queue a detector's report, and wait for the reconciler.

        Returns:
            The row of `egress detections list` about it, or None if there is none in time.

        Raises:
            ActionRefused: the report names no source, or one that the values do not have.
        """
        if not report.source:
            raise ActionRefused("refused", "The report names no source: use --source.")
        self.check_source(report.source)
        entered = self._commands.add_report(report)
        found: list[dict[str, Any]] = []

        def done() -> bool:
            found[:] = [row for row in self._store.detected() if row["report"] == entered]
            return bool(found)

        return found[0] if self._until(done) else None

    def grant(self, server: Server, tier: str, by: str, why: str) -> dict[str, Any]:
        """Give a running server a tier. A block is stronger and must be removed first.

        Args:
            server: the server.
            tier: a tier of the values.
            by: the operator.
            why: the reason.

        Returns:
            `state`, `done` or `pending`, and the server's row in `grants`.

        Raises:
            ActionRefused: no such server runs, there is no such tier, or a rule gives this server no egress.
        """
        known = self._known(server)
        self._tier_exists(tier)
        if rule := self._refusal(known):
            raise ActionRefused("refused", f"The rule {rule} applies to the server, and is stronger than a grant: remove it first.")
        given = Egress.new(tier, Rule.OPERATOR, self._clock(), Origin("operator", text=by), why)
        self._store.grant(server, Record(given, uid=known.uid, repository=known.repository, client=known.client))
        self._log("grant", by, why, user=server.user, server=server.name, tier=tier, grant=given.id)
        return self._answer(self._await([server], given.id), server)

    def revoke(self, server: Server, by: str, why: str, stop: bool = False) -> dict[str, Any]:
        """Take a server's tier away and block it.

        Args:
            server: the server.
            by: the operator.
            why: the reason.
            stop: whether to delete its pod too.

        Returns:
            `state`, `done` or `pending`, and the server's row in `grants`.

        Raises:
            ActionRefused: no such server runs, or the reconciler may not stop pods.
        """
        if stop and not self._settings.may_stop_pods:
            raise ActionRefused(
                "refused", "The reconciler may not stop pods: set reconciler.mayStopPods: true in the chart's values."
            )
        own = self.cut_off(server, self._known(server), Origin("operator", text=by), why, stop)
        return self._answer(self._await([server], own.id, stop), server)

    def cut_off(self, server: Server, known: KnownServer, origin: Origin, why: str, stop: bool = False) -> Block:
        """Do what `revoke` does, without checks and without waiting. Returns the block that the server then has.

        Args:
            server: the server.
            known: what is known about it. Only its present pod is meant, not a later one (D-062).
            origin: the operator, or the detector.
            why: the reason.
            stop: whether to delete its pod too.
        """
        own = self.own_block(server, known)
        # A block with an end, or one that it shares with other servers, may end before an operator removes it (D-070).
        if own is None or own.until is not None:
            replace = own is not None and not self._in_verifier
            identity = own.id if own and replace else new_id()
            own = Block(identity, "server", server.key, origin, why, int(self._clock()), uid=known.uid)
            self._store.add_block(own, [server], replace)
        if stop:
            self._commands.ask_to_stop(server, known.uid)
        self._log("revoke", origin.text, why, user=server.user, server=server.name, stop=stop, block=own.id)
        return own

    def block(self, kind: str, what: str, by: str, why: str, until: float | None = None) -> dict[str, Any]:
        """Block a server, a repository or a client network: no server that it applies to keeps its tier or gets one.

        Args:
            kind: one of `BLOCK_KINDS`.
            what: a server as in `find`, a repository or `…/*`, or an address or CIDR.
            by: the operator.
            why: the reason.
            until: Unix time in seconds of its end; None: it has none.

        Returns:
            `state`, `done` or `pending`; `block`, its id; `what`; and `servers`, the number of running servers that it applies to.

        Raises:
            ActionRefused: no such server runs, `what` cannot be read, or it is blocked already.
        """
        uid = ""
        if kind == "server":
            server = self.find(what)
            known = self._known(server)
            what, uid, own = server.key, known.uid, self.own_block(server, known)
            same = [own] if own else []
        else:
            what = str(_clients(what)) if kind == "network" else _pattern(what)
            same = [old for old in self._store.blocks() if (old.kind, old.what) == (kind, what) and not old.is_over(self._clock())]
        # Two operators at the same moment make two blocks. Each holds until it is removed, so nothing opens too early.
        if same:
            old = same[0]
            raise ActionRefused(
                "refused", f"It is already blocked, by {old.origin.text}: {old.id}. Remove that block to change it."
            )
        origin, ends = Origin("operator", text=by), None if until is None else int(until)
        new = Block(new_id(), kind, what, origin, why, int(self._clock()), ends, uid)
        servers = [server for server, known in self._store.all_known().items() if applies(new, Facts.of(known), self._clock())]
        self._store.add_block(new, servers)
        self._log("block", by, why, kind=kind, what=what, until=until, block=new.id, servers=len(servers))
        done = self._await(servers, new.id)
        return {"state": "done" if done else "pending", "block": new.id, "what": _block(new)["what"], "servers": len(servers)}

    def unblock(self, block: str, by: str, why: str = "") -> dict[str, Any]:
        """Remove a block. Its servers then have no egress, but can be unlocked. The tier that they had before does not come back.

        Args:
            block: the block's id, or a server that has a block of its own; if it has several, all of them are removed.
            by: the operator.
            why: the reason.

        Returns:
            `state`, `done` or `pending`, and `block`, the id of the block, of several the one that would have ended last.

        Raises:
            ActionRefused: there is no such block, or the server has none of its own.
        """
        standing = {found["id"]: found for found in self.blocks()}
        removed = [block]
        if block not in standing:
            try:
                server = self.find(block)
            except ActionRefused:
                raise ActionRefused(
                    "no-such-block", f"There is no block {block!r}, and no such server. `egress blocks` lists them."
                ) from None
            known = self._known(server)
            own = self._own_blocks(server, known)
            # A block may not be on the pod yet.
            applying = own or [found for found in self._store.blocks() if applies(found, Facts.of(known), self._clock())]
            block = next((found.id for found in applying), known.grant.id)
            removed = [found.id for found in own] or [block]
            if block not in standing:
                raise ActionRefused("no-such-block", f"{server.title} is not blocked.")
            if standing[block]["kind"] != "server":
                raise ActionRefused("refused", f"The server shares its block with others: remove {block}.")
        for identity in removed:
            self._commands.remove_block(identity)
            self._log("unblock", by, why, block=identity, kind=standing[block]["kind"], what=standing[block]["what"])
        return {"state": "done" if self._await_end(set(removed)) else "pending", "block": block}

    def create_key(
        self,
        name: str,
        tier: str,
        servers_per_day: int,
        expires: str,
        origins: list[str],
        repositories: list[str],
        by: str,
        why: str,
    ) -> dict[str, Any]:
        """Make an API key. The key takes effect when its entry is in the chart's values. The key itself is not stored.

        Args:
            name: its name.
            tier: the tier of its servers.
            servers_per_day: the number of servers in any 24 hours.
            expires: the last day, as in `2027-01-31`, or the days from now, as in `90d`.
            origins: origins of the pages that may send it; none: any client may.
            repositories: the repositories of its servers, `host/owner/name` or `…/*`; none: any.
            by: the operator.
            why: its purpose.

        Returns:
            `key`, shown this once, and `values`, its entry.
        """
        if not api_keys.NAME.fullmatch(name):
            raise ActionRefused("bad-request", f"name: {name!r} is not lower-case letters, digits and dashes, 40 at most.")
        self._tier_exists(tier)
        if days := re.fullmatch(r"([1-9]\d{0,4})d", expires):
            expires = str(datetime.fromtimestamp(self._clock() + int(days[1]) * 86400, UTC).date())
        try:
            key, entry = api_keys.create(tier, servers_per_day, expires, origins, repositories)
        except ValueError as error:
            raise ActionRefused("bad-request", f"{error}.") from None
        if self._clock() >= api_keys.ends(entry.expires):
            raise ActionRefused("bad-request", f"expires: {entry.expires} is in the past.")
        if any(row["name"] == name for row in self.keys()):
            raise ActionRefused(
                "refused", f"There is already a key called {name}. Choose another name, or take its entry out of the values."
            )
        self._log("create-key", by, why, key=name, id=entry.id, tier=tier)
        values = entry.model_dump(exclude_defaults=True)
        return {"name": name, "id": entry.id, "key": key, "values": {"apiKeys": {"keys": {name: values}}}}

    def revoke_key(self, key: str, by: str, why: str, servers: bool = False) -> dict[str, Any]:
        """Revoke an API key, along with the passes that were issued for it and the grants that wait for their pod.

        Args:
            key: its name, its id, or the key itself.
            by: the operator.
            why: the reason.
            servers: whether its running servers also lose their tier. They can then be unlocked.
        """
        form = api_keys.FORM.fullmatch(key)
        wanted = form[1] if form else key
        found = [row for row in self.keys() if wanted in (row["name"], row["id"])]
        if not found and not re.fullmatch(r"[0-9a-f]{16}", wanted):
            raise ActionRefused(
                "no-such-key", "No verifier has a key of this name. `egress keys list` lists them; an id always works."
            )
        meant = {row["id"]: row["name"] for row in found} or {wanted: ""}
        for identity, called in meant.items():
            self._store.revoke_key(RevokedKey(identity, called, by, why, int(self._clock())))
            self._log("revoke-key", by, why, key=called, id=identity, servers=servers)
        # From now on Redis grants nothing for it, so this list is complete.
        given: list[Grant] = list(self._store.waiting())
        if servers:
            given += [known.grant for known in self._store.all_known().values() if isinstance(known.grant, Egress)]
        grants = {grant.id for grant in given if grant.origin.kind == "key" and grant.origin.id in meant}
        if grants:
            self._store.withdraw(grants)
            self._store.wake_all()
        return {
            "state": "done" if self._await_end(grants) else "pending",
            "keys": list(meant),
            "withdrawn": len(grants),
            "remove": [f"apiKeys.keys.{called}" for called in meant.values() if called],
        }

    # -- helpers

    def _tier_exists(self, tier: str) -> None:
        if tier not in self._settings.tiers:
            raise ActionRefused(
                "bad-request", f"tier: there is none called {tier!r}, only {', '.join(sorted(self._settings.tiers))}."
            )

    def _known(self, server: Server) -> KnownServer:
        known = self._store.known(server)
        if known is None:
            raise ActionRefused("no-such-server", self._missing(server.title))
        return known

    def _missing(self, text: str) -> str:
        if self.reconciler_is_silent():
            return f"No server {text!r} is known, but the reconciler is silent, so it may still be running."
        return f"No server {text!r} is running. Name a pod, user or user/server as JupyterHub calls them, or a server's page."

    def _carried_block(self, known: KnownServer) -> Blocked | None:
        """The block that a pod carries, if it was not removed. The reconciler takes a removed one from each pod a little later."""
        carried = block_in(known.grant, self._clock())
        return carried if carried and not self._store.lifted([carried.id]) else None

    def _refusal(self, known: KnownServer) -> Rule | None:
        facts = Facts(known.repository, (known.client,), known.uid, self._carried_block(known))
        return refusal(facts, self._store.blocks(), self._settings, self._clock())

    def _because(self, known: KnownServer) -> str:
        """One sentence for an operator."""
        rule, grant = self._refusal(known), known.grant
        block = block_in(grant, self._clock())
        if rule == Rule.BLOCKED and not block:
            return "A block applies to it, but the reconciler has not put it on the pod yet."
        if block:
            if rule != Rule.BLOCKED:
                return "Its block was removed, but the reconciler has not taken it from the pod yet."
            return f"No network: blocked by {block.origin.text or 'an operator'}: {block.why or 'no reason given'}."
        if (known.label or UNVERIFIED) != grant.tier:
            return f"Its label is {known.label or 'none'}, its grant says {grant.tier}: the reconciler has not caught up."
        if isinstance(grant, Egress):
            watches = self._settings.mode == "observe"
            watched = " In mode observe every server has the network that it would have without us." if watches else ""
            later = f" The rule {rule} would refuse it now, but does not act on running servers." if rule else ""
            by = grant.origin.text
            who = f" by {by}{f': {grant.why}' if grant.why else ''}" if by else ""
            ends = f" Its lease ends at {_utc(grant.until)}." if grant.until is not None else ""
            return f"Network of the tier {grant.tier}, by the rule {grant.rule}{who}.{ends}{later}{watched}"
        if rule:
            return f"No network: the rule {rule} refuses it."
        if isinstance(grant, EndedLease):
            stops_at = grant.stop_at if self._settings.mode == "captcha" else None
            ends = f" Its pod is stopped after {_utc(stops_at)}, unless somebody renews the lease." if stops_at is not None else ""
            return f"No network: its lease ended at {_utc(grant.at)}, and nobody has renewed it.{ends}"
        if self._settings.mode == "observe":
            return "No tier. In mode observe no policy isolates it."
        return "No network: it was launched without a pass, and nobody has unlocked it."

    def _row(self, server: Server, known: KnownServer) -> dict[str, Any]:
        grant = fields_of(known.grant)
        return {
            "user": server.user, "server": server.name, "pod": known.pod, "tier": grant["tier"], "rule": grant["rule"],
            "blocked": block_in(known.grant, self._clock()) is not None, "at": grant["at"] or None, "until": grant["until"],
            "by": grant["by"], "why": grant["why"], "grant": grant["id"], "repository": known.repository, "client": known.client,
        }  # fmt: skip

    def _stands(self, block: Block, now: float, known: dict[Server, KnownServer]) -> bool:
        """Whether a block is in force. A server's block ends with its pod."""
        runs = block.kind != "server" or getattr(known.get(Server.from_key(block.what)), "uid", "") == block.uid
        return runs and not block.is_over(now)

    def _answer(self, done: bool, server: Server) -> dict[str, Any]:
        known = self._store.known(server)
        return {"state": "done" if done else "pending"} | (self._row(server, known) if known else {"user": server.user})

    def _await(self, servers: list[Server], grant: str, stop: bool = False) -> bool:
        """Whether, within `CONFIRMATION_WAIT_SECONDS`, each pod carries this grant or a block of its own, or is gone. With `stop`,
        the API server has to have accepted the deletion of each, too (D-390)."""

        def done() -> bool:
            found = self._store.known_of(servers)
            blocked = {known.grant.id for known in found.values() if block_in(known.grant, self._clock())} - {grant}
            wanted = {grant} | blocked - self._store.lifted(blocked)
            if not all(known.grant.id in wanted for known in found.values()):
                return False
            return not stop or all(self._store.pending(server, set()).stop != known.uid for server, known in found.items())

        return self._confirmed(done)

    def _await_end(self, grants: set[str]) -> bool:
        """Whether no pod carries one of these grants any more, within `CONFIRMATION_WAIT_SECONDS`."""
        # Listed once: there may be thousands of servers, and this checks twenty times a second.
        carry = [server for server, known in self._store.all_known().items() if known.grant.id in grants]
        return self._confirmed(lambda: not any(known.grant.id in grants for known in self._store.known_of(carry).values()))

    def _confirmed(self, done: Callable[[], bool]) -> bool:
        """As `_until`. Ctrl-C ends the wait, and cannot end what is recorded already."""
        try:
            return self._until(done)
        except KeyboardInterrupt:
            return False

    @staticmethod
    def _until(done: Callable[[], bool]) -> bool:
        ends = time.monotonic() + CONFIRMATION_WAIT_SECONDS
        while not done():
            if time.monotonic() > ends:
                return False
            time.sleep(CONFIRMATION_POLL_SECONDS)
        return True

    def _log(self, event: str, by: str, why: str, **fields: object) -> None:
        if self._in_verifier:
            logs.decision(event, by=by, why=why, **fields)
        else:
            self._commands.log({"event": event, "by": by, "why": why, **fields})


def _carried(server: Server, known: KnownServer, carried: Blocked) -> Block:
    """The block that a pod carries, as a block of its server."""
    return Block(carried.id, "server", server.key, carried.origin, carried.why, carried.at, carried.until, known.uid)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that a text names. IPv4 within IPv6 counts as IPv4, as it does for clients (`networks.parse_address`)."""
    try:
        found = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ActionRefused("bad-request", f"network: {text!r} is no address and no CIDR.") from None
    inner = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    return ipaddress.ip_network((inner, found.prefixlen - 96)) if inner and found.prefixlen >= 96 else found


def _clients(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network that may be blocked. What a wrong prefix (`/2` for `/24`) takes from everybody does not come back."""
    network = _network(text)
    if network.prefixlen < (widest := WIDEST_BLOCK[network.version]):
        raise ActionRefused("bad-request", f"network: {network} is wider than a /{widest}. `mode: deny` closes the gate for all.")
    return network


def _pattern(text: str) -> str:
    pattern = block_pattern(text)
    if pattern is None:
        raise ActionRefused("bad-request", f"repository: {text!r} is not host/owner/name, or host/owner/*.")
    return pattern


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _waiting(kind: str, record: Record) -> dict[str, Any]:
    return {"kind": kind, "tier": record.grant.tier, "rule": record.grant.rule, "image": record.image}


def _block(block: Block) -> dict[str, Any]:
    what = Server.from_key(block.what).title if block.kind == "server" else block.what
    return {
        "id": block.id,
        "kind": block.kind,
        "what": what,
        "by": block.origin.text,
        "why": block.why,
        "at": block.at,
        "until": block.until,
    }
