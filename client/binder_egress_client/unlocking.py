"""Gives a running server egress and renews its lease: with a pass, proof of work, a key, or a person in a browser."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from .check import PersonNeeded, calculated
from .solving import Unsolvable
from .verifier import NoAnswer, NoGate, Refused, Server, Verifier

UNVERIFIED = "unverified"

PENDING = 60.0
"""Seconds that an accepted unlock may take to reach the pod."""

APPEARS = 20.0
"""Seconds within which the verifier learns of a server that is ready."""

POLL = 2.0
"""Seconds between two requests for the status of a server that a person unlocks."""

LOOK = 60.0
"""The most seconds between two requests for the status of a server that is kept: it may end, and this computer may be suspended."""

RETRY = 30.0
"""Seconds until a failed renewal is tried again, if the verifier does not say when."""

PASSING = ("no-answer", "pending", "price-risen", "nothing-to-solve", "budget-spent", "key-spent")
"""Kinds of outcomes that may change without anybody doing anything."""


@dataclass(frozen=True)
class Outcome:
    """Whether a server has egress.

    Attributes:
        egress: whether it has egress; None if not known: there is no gate, the site only watches, or there is no answer.
        tier: the tier of the server.
        why: a sentence for people; empty if the server has egress.
        kind: the same as one word: the verifier's problem (`budget-spent`), or `no-gate` (also if the site only watches),
            `no-answer`, `closed`, `needs-person`, `other-tier`, `pending`, `unsolvable`, `not-wanted`.
        link: where a person can unlock it, or renew its lease.
        retry_after: seconds after which it makes sense to try again.
        expires_in: seconds until the lease is over; None without a lease.
        renewable_in: seconds until the lease can be renewed; None if it cannot be.
        renewed: True if the lease was renewed by this call, False if that failed (`why` says why), None if it was too early or
            there is no lease.
    """

    egress: bool | None
    tier: str | None = None
    why: str = ""
    kind: str = ""
    link: str | None = None
    retry_after: int | None = None
    expires_in: float | None = None
    renewable_in: float | None = None
    renewed: bool | None = None

    @classmethod
    def of(cls, shown: dict[str, Any], renewed: bool | None = None) -> Self:
        """The outcome for a server with a tier, from the verifier's answer."""
        return cls(True, shown["tier"], expires_in=shown.get("expires_in"), renewable_in=shown.get("renewable_in"), renewed=renewed)


def only_watches(shown: dict[str, Any]) -> bool:
    """Whether the verifier's answer about a server says that its site closes nothing (mode `observe`, D-399)."""
    return shown["tier"] == UNVERIFIED and shown.get("access", "") is None


WATCHED = Outcome(None, UNVERIFIED, why="this hub only watches, and closes nothing", kind="no-gate")
"""The outcome for a server without a tier on such a site."""


def unlock(
    server: Server,
    *,
    key: str | None = None,
    token: str | None = None,
    calculate: bool = True,
    wait: float = 0,
    on_link: Callable[[str, float], object] = lambda link, seconds: None,
) -> Outcome:
    """Give a running server egress, or renew its lease if that is possible yet.

    Repeated calls are harmless: with nothing to do, a call is one request to the verifier and uses nothing up.

    Args:
        server: the server.
        key: an API key, used instead of a calculation.
        token: a pass, tried before anything else.
        calculate: whether proof of work may be done.
        wait: seconds to wait for a person if one is needed.
        on_link: called with the link for that person and these seconds.

    Raises:
        NoGate: there is no verifier.
    """
    verifier = Verifier(server.verifier)
    had = None
    try:
        shown = verifier.show(server)
        if shown.get("opens_in") and (found := await_egress(verifier, server, PENDING)):
            return found
        if shown["tier"] != UNVERIFIED:
            had = shown
            if had.get("expires_in") is not None and had.get("renewable_in") is None:
                raise Refused("closed", "the operators of this site do not renew it")
            if had.get("renewable_in") != 0:
                return Outcome.of(had)
        elif only_watches(shown):
            return WATCHED
        elif not shown.get("unlockable", True):
            raise Refused("closed", "the operators of this site do not give this server egress")
        return _present(verifier, server, had, key, token, calculate, wait, on_link)
    except Refused as refusal:
        link = None if refusal.kind in ("no-such-server", "blocked", "closed") else server.link
        tier = UNVERIFIED if refusal.kind in ("closed", "needs-person", "pending") else None
        failed = Outcome(False, tier, str(refusal), refusal.kind, link, refusal.retry_after)
    except NoAnswer as error:
        failed = Outcome(None, None, str(error), "no-answer", server.link)
    except Unsolvable as error:
        failed = Outcome(False, UNVERIFIED, str(error), "unsolvable", server.link)
    return _not_renewed(verifier, server, had, failed) if had else failed


def keep(
    server: Server,
    seconds: float,
    *,
    key: str | None = None,
    calculate: bool = True,
    wait: float = 0,
    on_link: Callable[[str, float], object] = lambda link, seconds: None,
) -> Iterator[Outcome]:
    """Give a running server egress, and renew its lease until it lasts for some time from now.

    It yields the first outcome, each renewal, each failure and the last outcome, and sleeps in between. It ends as soon as the
    lease reaches that far, or if there is no lease. It also ends if the first attempt fails, or with a failure that will not pass.
    Stopping the iteration early has no effect except that the lease runs out.

    Args:
        server: the server.
        seconds: how long the lease must last from now.
        key, calculate, wait, on_link: as for `unlock`. With a key, each renewal takes one of its servers.

    Raises:
        NoGate: there is no verifier.
    """
    deadline = time.monotonic() + seconds
    before: Outcome | None = None
    while True:
        try:
            outcome = unlock(server, key=key, calculate=calculate, wait=wait, on_link=on_link)
        except NoGate as error:
            if not before:
                raise
            # The ingress in front of the verifier may be changing.
            outcome = Outcome(None, None, str(error), "no-answer", server.link)
        left = deadline - time.monotonic()
        well = outcome.egress is True and outcome.renewed is not False
        # A verifier whose Redis was wiped does not know the server for a moment.
        passing = outcome.kind in PASSING or (outcome.kind == "no-such-server" and before and before.kind != outcome.kind)
        if well:
            last = outcome.expires_in is None or outcome.expires_in >= left
            pause = min((outcome.renewable_in or 0) + 1, LOOK)
        else:
            last = not (before and passing) or left <= 0
            pause = min(outcome.retry_after or RETRY, max(left, 1))
        longer = before and (outcome.expires_in or 0) > (before.expires_in or 0)
        if last or outcome.renewed or longer or not well or not before or not before.egress:
            yield outcome
        if last:
            return
        before = outcome
        time.sleep(pause)


def _present(
    verifier: Verifier,
    server: Server,
    had: dict[str, Any] | None,
    key: str | None,
    token: str | None,
    calculate: bool,
    wait: float,
    on_link: Callable[[str, float], object],
) -> Outcome:
    """Try the pass, the key, a calculation and a person in turn. `had` is the verifier's answer about a server to renew."""
    about_the_pass = ""
    if token:
        try:
            return _confirmed(verifier, server, had, verifier.unlock(server, token=token))
        except Refused as refusal:
            # The pass may be used up or expired.
            if refusal.kind not in ("pass-refused", "other-tier"):
                raise
            about_the_pass = f"{str(refusal).rstrip('.')}; "
    if key:
        # A key's tier may be larger than the server's. The verifier compares them.
        return _confirmed(verifier, server, had, verifier.unlock(server, token=verifier.pass_for_key(key)["token"]))
    if calculate:
        try:
            return _confirmed(verifier, server, had, _by_calculation(verifier, server, had))
        except PersonNeeded:
            pass
    if not wait:
        raise Refused("needs-person", f"{about_the_pass}a person has to solve a check in a browser")
    on_link(server.link, wait)
    if found := await_egress(verifier, server, wait, POLL, had):
        return found
    raise Refused("needs-person", f"{about_the_pass}nobody {'renewed' if had else 'unlocked'} it within {wait:.0f} s")


def _by_calculation(verifier: Verifier, server: Server, had: dict[str, Any] | None) -> dict[str, Any]:
    def present(provider: str, solution: str) -> dict[str, Any]:
        return verifier.unlock(server, provider=provider, solution=solution)

    return calculated(verifier, "unlock", present, had["tier"] if had else None)


def _confirmed(verifier: Verifier, server: Server, had: dict[str, Any] | None, answer: dict[str, Any]) -> Outcome:
    if _is_done(answer, had):
        return Outcome.of(answer, True if had else None)
    if had and answer.get("state") == "granted":
        # The server keeps its tier, and nothing was used up.
        raise _other_tier(had)
    # "pending": the unlock is recorded, and the reconciler has not applied it yet.
    if found := await_egress(verifier, server, PENDING, POLL, had):
        return found
    raise Refused("pending", f"accepted, but not done after {PENDING:.0f} s; it may still come")


def _is_done(shown: dict[str, Any], had: dict[str, Any] | None) -> bool:
    """Whether a server has a tier that is open or, if it had one before, whether its lease is longer now."""
    if shown["tier"] == UNVERIFIED or shown.get("opens_in"):
        return False
    until = shown.get("until")
    return had is None or until is None or bool(until > (had.get("until") or 0))


def _other_tier(had: dict[str, Any]) -> Refused:
    return Refused("other-tier", f"this does not earn the tier {had['tier']}, which the server has; nothing else renews the lease")


def _not_renewed(verifier: Verifier, server: Server, had: dict[str, Any], failed: Outcome) -> Outcome:
    """The outcome of a failed renewal: the server keeps the rest of its lease, unless that has ended in the meantime."""
    if failed.kind == "no-such-server":
        return failed
    shown = had
    try:
        shown = verifier.show(server)
    except (NoAnswer, NoGate):
        pass
    except Refused as refusal:
        return Outcome(False, None, str(refusal), refusal.kind)
    if shown["tier"] == UNVERIFIED:
        return replace(failed, egress=False, tier=UNVERIFIED)
    if _is_done(shown, had):
        # The answer got lost, or somebody else renewed the lease.
        return Outcome.of(shown, True)
    return replace(Outcome.of(shown, False), why=failed.why, kind=failed.kind, link=failed.link, retry_after=failed.retry_after)


def await_egress(
    verifier: Verifier, server: Server, seconds: float, every: float = POLL, had: dict[str, Any] | None = None
) -> Outcome | None:
    """Wait until a server has egress, or until its lease is renewed.

    Args:
        verifier: the verifier to ask.
        server: the server.
        seconds: the longest time to wait.
        every: seconds between two requests.
        had: the verifier's earlier answer about a server to renew.

    Returns:
        The outcome; None if the time runs out.

    Raises:
        Refused: the server has ended.
        NoGate: there is no verifier.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            shown = verifier.show(server)
            if _is_done(shown, had):
                return Outcome.of(shown, True if had else None)
        except NoAnswer:
            # The verifier may come back while somebody is solving.
            pass
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(every, left))
