"""The public page of a server: it shows what a running server may reach, and unlocks it. `pages` renders it and has its texts."""

import time
from typing import Any, Literal
from urllib.parse import quote

from flask import Blueprint, Flask, Response, make_response, request

from ..decisions import leases
from ..decisions.kept_promises import NotUsed
from ..decisions.presented import REJECTED_PASSES, Presented
from ..decisions.refusals import REFUSALS, Facts, blocks_on, refusal
from ..model.grants import UNVERIFIED, Block, Egress, EndedLease, Rule
from ..model.passes import BadPass
from ..model.records import KnownServer, PassOutcome, Server
from ..settings import Access
from ..store.errors import StoreUnavailable
from ..store.redeeming import REDEEMED
from . import bodies, hub, pages, passes
from .context import asset_path, log_decision, log_refusal, network, own_url, services
from .headers import SERVER_PAGE
from .openapi import DocumentedAnswer, Operation, json_of
from .problems import Problem
from .server_tiers import access_of, tier_now, tiers_of

UNLOCK_WAIT_SECONDS = 2.0
"""How long an unlock waits for the reconciler's confirmation before it answers `pending`."""

UNLOCK_POLL_SECONDS = 0.02
"""How often an unlock asks Redis for that confirmation."""

servers = Blueprint("servers", __name__)


# -- show


@servers.get("/servers/<user>", defaults={"server": ""}, strict_slashes=False)
@servers.get("/servers/<user>/<server>")
@Operation(
    "showServer",
    "Show what a server may reach",
    answers={
        200: DocumentedAnswer(
            "What the server may reach", {"application/json": bodies.ServerAnswer, "text/plain": None, "text/html": None}
        )
    },
    problems=["no-such-server", "unavailable"],
    problem_pages=True,
)
def show_server(user: str, server: str) -> Response:
    """What a server may reach, as a page, as text or as JSON. Never its repository, its client's address, or why it is blocked."""
    asked = Server(user, server)
    known, blocks = _known(asked)
    now = time.time()
    larger = _larger(known, now)
    asks = not isinstance(known.grant, Egress) or known.grant.until is not None or bool(larger)
    refused = asks and _refusal(known, blocks, now) is not None
    media_type = _media_type()
    description = _description(asked, known, blocks, now, refused)
    if media_type == "application/json":
        return bodies.answer(bodies.ServerAnswer(**description))
    settings, kinds = services().settings, [provider.kind for provider in services().captcha.offered]
    text = pages.server_page(
        media_type,
        _look(),
        description,
        tiers_of(known),
        _address(asked),
        base=settings.base_path,
        back=hub.server_url(asked),
        several=len(kinds) > 1,
        widget=kinds[:1] == ["interactive"],
        observed=settings.mode == "observe",
        from_nowhere=request.headers.get("Sec-Fetch-Site") == "none",
        qr=request.args.get("qr", "0") != "0",
    )
    answer = make_response(text)
    answer.content_type = f"{media_type}; charset=utf-8"
    return answer


def show_problems_as_pages(app: Flask) -> None:
    """Show a problem as a page if a person will read it, for example after following an old link or mistyping an address.

    Args:
        app: the public app.
    """

    @app.after_request
    def _show(answer: Response) -> Response:
        media_type = "application/json"
        if request.endpoint == SERVER_PAGE:
            answer.vary.update(("Accept", "Accept-Language"))
            media_type = _media_type()
        elif request.endpoint is None and request.method == "GET":
            answer.vary.update(("Accept", "Accept-Language"))
            # Browsers ask for HTML when they open an address. Scripts, which accept anything, still get JSON.
            media_type = request.accept_mimetypes.best_match(["application/json", "text/html"], default="application/json")
        if answer.status_code >= 400 and media_type != "application/json":
            answer.set_data(pages.problem_page(media_type, _look(), answer.get_json(force=True)))
            answer.content_type = f"{media_type}; charset=utf-8"
        return answer


def _look() -> pages.Look:
    return pages.Look(pages.choose_language(request.accept_languages), asset_path, services().brand)


def _media_type() -> str:
    """The media type that the client prefers. A client that accepts anything, such as curl, gets text."""
    return request.accept_mimetypes.best_match(["text/plain", "application/json", "text/html"], default="application/json")


def _address(server: Server) -> str:
    return f"{own_url()}servers/{quote(server.user, safe='')}/{quote(server.name, safe='')}"


# -- unlock


@servers.post("/servers/<user>", defaults={"server": ""}, strict_slashes=False)
@servers.post("/servers/<user>/<server>")
@Operation(
    "unlockServer",
    "Unlock a server with a pass or a solution",
    body=bodies.UnlockBody,
    answers={
        200: json_of("The tier is open", bodies.UnlockAnswer),
        202: json_of("Accepted; the reconciler has not confirmed it yet, or the tier has not opened", bodies.UnlockAnswer),
    },
    problems=["forbidden-origin", "pass-refused", "no-such-server", *passes.SOLUTION_PROBLEMS],
)
def unlock_server(user: str, server: str) -> tuple[Response, int]:
    """Give a running server the tier of a pass or of a solution: its first, a larger one, or its own with a new lease."""
    body = bodies.read(bodies.UnlockBody)
    asked = Server(user, server)
    known, blocks = _known(asked)
    now = time.time()
    unlocks = services().unlocks
    if rule := _refusal(known, blocks, now):
        _note(rule, known.repository)
        raise Problem("blocked", REFUSALS[rule])
    useful = unlocks.useful_tiers(known, now)
    # A token that is of no use is not even read: what is wrong with it does not matter.
    presented = _read_pass(body.token, known.repository, now) if body.token and useful != [] else None
    if useful is not None and _presented_tier(body, presented) not in useful:
        _note(NotUsed.HAD_IT, known.repository, known.tier)
        return _unlocked(_description(asked, known, blocks, now), confirmed=True)
    if presented is None:
        presented = Presented(passes.from_solution(body.provider or "", body.solution or "", "unlock"))
    # A second request with this pass for this server could only wait for the same grant, and each wait holds a thread (D-240).
    with services().unlocks_underway.begin((asked, presented.issued.id)) as is_first:
        if not is_first:
            return _unlocked(_description(asked, known, blocks, now), confirmed=False)
        return _unlock(asked, known, blocks, presented, now)


def _unlock(server: Server, known: KnownServer, blocks: list[Block], presented: Presented, now: float) -> tuple[Response, int]:
    """Give a server a pass's tier, wait for the reconciler, and answer.

    Args:
        server: the server.
        known: what the reconciler published about it.
        blocks: the operators' blocks.
        presented: the pass.
        now: Unix time in seconds.

    Raises:
        Problem: the pass does not count.
    """
    outcome, grant = services().unlocks.redeem(server, known, presented, network(), now)
    if outcome == PassOutcome.OUTRANKED:
        _note(outcome, known.repository)
        return _unlocked(_description(server, known, blocks, now), confirmed=False)
    if outcome not in REDEEMED:
        _note(outcome, known.repository)
        raise Problem("pass-refused", REJECTED_PASSES[outcome])
    more = {"by": grant.origin.text} if grant.origin.text else {}
    log_decision("unlock", grant.tier, grant.rule, repository=known.repository, pass_outcome=outcome, grant=grant.id, **more)
    seen = _await_grant(server, grant)
    services().metrics.unlocks.labels("granted" if seen else "pending").inc()
    # The wait took up to two seconds, and a lease may have begun meanwhile.
    return _unlocked(_description(server, seen or known, blocks, time.time()), confirmed=seen is not None)


def _unlocked(description: dict[str, Any], confirmed: bool) -> tuple[Response, int]:
    """The answer to an unlock. It is pending until the reconciler has confirmed it and the tier has opened (D-477).

    Args:
        description: the server.
        confirmed: whether its pod carries the tier.
    """
    state: Literal["granted", "pending"] = "granted" if confirmed and not description["opens_in"] else "pending"
    return bodies.answer(bodies.UnlockAnswer(state=state, **description)), 200 if state == "granted" else 202


def _note(outcome: NotUsed | Rule | PassOutcome, repository: str, tier: str = UNVERIFIED) -> None:
    """Count and log an unlock that gives nothing.

    Args:
        outcome: the reason, as metric and log name it.
        repository: the URL of the server's repository.
        tier: the tier that the server has.
    """
    services().metrics.unlocks.labels(outcome).inc()
    log_refusal("unlock", tier, outcome, repository=repository)


def _presented_tier(body: bodies.UnlockBody, presented: Presented | None) -> str | None:
    """The tier that a client requests with a pass or a solution; None for a provider that this site does not have."""
    return presented.issued.tier if presented else services().captcha.tier_of(body.provider or "")


def _read_pass(token: str, repository: str, now: float) -> Presented:
    """Read a token as a pass that may count for a server of a repository.

    Raises:
        Problem: the token is not a pass, or the pass does not count for this server.
    """
    try:
        return services().judge.judge(token, repository, now, now)
    except BadPass as error:
        _note(error.outcome, repository)
        raise Problem("pass-refused", str(error)) from None


def _await_grant(server: Server, grant: Egress) -> KnownServer | None:
    """Wait until the reconciler confirms that the pod carries a grant, for `UNLOCK_WAIT_SECONDS` at most.

    Returns:
        The server with its grant; None if that was not confirmed in time.
    """
    began = time.monotonic()
    while True:
        try:
            known = services().store.known(server)
        except StoreUnavailable:
            return None  # The grant is stored; whether it reaches the pod is not known.
        if known and known.grant.id == grant.id:
            services().metrics.unlock_seconds.observe(time.monotonic() - began)
            return known
        if time.monotonic() - began > UNLOCK_WAIT_SECONDS:
            return None
        time.sleep(UNLOCK_POLL_SECONDS)


# -- what is known of a server


def _known(server: Server) -> tuple[KnownServer, list[Block]]:
    known, blocks = services().store.known_and_blocks(server)
    if known is None:
        raise Problem("no-such-server", "No server of this name is running. Check the address, or launch it again.")
    return known, blocks


def _refusal(known: KnownServer, blocks: list[Block], now: float) -> Rule | None:
    return refusal(Facts.of(known, request.remote_addr or ""), blocks, services().settings, now)


def _larger(known: KnownServer, now: float) -> list[str]:
    """The tiers that a captcha provider's solution could give a server instead of its own."""
    offered = {services().captcha.tier_of(name) for name in services().captcha.names}
    larger = leases.larger_than(known.grant, services().settings, now)
    return [tier for tier in larger if tier in offered]


def _reach(known: KnownServer, access: Access | None, more: bool, now: float) -> str:
    """What a server reaches, as a sentence in the visitor's language; empty for a tier that the site no longer has.

    Args:
        known: what the reconciler published about the server.
        access: what it reaches, in one word.
        more: whether the client that asks can get more for it.
        now: Unix time in seconds.
    """
    language = pages.choose_language(request.accept_languages)
    if services().settings.mode == "observe":
        return pages.reach_observed(language)
    tier = tier_now(known, now)
    return pages.reach(None if access == "none" else tier, language, more) if tier else ""


def _why(known: KnownServer, blocks: list[Block], now: float, refused: bool) -> str:
    """Why a server has no tier, and since when (D-425), or when its tier opens, in the visitor's language; may be empty.

    Args:
        known: what the reconciler published about the server.
        blocks: the operators' blocks.
        now: Unix time in seconds.
        refused: whether the client that asks would be refused an unlock.
    """
    if services().settings.mode == "observe":
        return ""
    grant = next(iter(blocks_on(Facts.of(known), blocks, now)), known.grant)
    language = pages.choose_language(request.accept_languages)
    ending = services().store.gatecheck().get("connections") if isinstance(grant, EndedLease) else None
    return pages.why(grant, now, refused, language, known.opens_in(now), known.node in (ending or []))


def _description(server: Server, known: KnownServer, blocks: list[Block], now: float, refused: bool = False) -> dict[str, Any]:
    """A server as JSON.

    Args:
        server: the server.
        known: what the reconciler published about it.
        blocks: the operators' blocks.
        now: Unix time in seconds.
        refused: whether the client that asks would be refused an unlock.
    """
    settings = services().settings
    left = leases.left(known.grant, settings, now, refused)
    access = access_of(known, blocks, now)
    unlockable = known.tier == UNVERIFIED and not refused
    larger = [] if refused else _larger(known, now)
    return {
        "user": server.user,
        "server": server.name,
        "tier": known.tier,
        "access": access,
        "reach": _reach(known, access, unlockable or bool(larger), now),
        "why": _why(known, blocks, now, refused),
        "opens_in": known.opens_in(now),
        "contact": settings.branding.contact,
        "until": left and left.until,
        "expires_in": left and left.expires_in,
        "on_expiry": left and left.on_expiry,
        "unlockable": unlockable,
        "larger": larger,
        "renewable_in": left and left.renewable_in,
    }
