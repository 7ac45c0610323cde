"""The public HTTP interface: challenges, passes, and the page of each server."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

from flask import Blueprint, Response, current_app, jsonify, make_response, request
from markupsafe import escape

from .. import logs
from ..api_keys import DAY, Keys, WrongKeys
from ..captcha import Captcha, Outcome
from ..decisions import leases
from ..decisions.refusals import REFUSALS, Facts, refusal
from ..decisions.rules import REJECTED_PASSES
from ..fairness import Fairness
from ..networks import HiddenClients, client_network
from ..passes import BadPass, Pass, Passes
from ..records import UNVERIFIED, Grant, KnownServer, Record, Rule, Server
from ..settings import VerifierSettings
from ..store.errors import BudgetSpent, KeyRevoked, PriceRisen, Replayed, StoreUnavailable
from ..store.store import UNLOCK_TTL_SECONDS, Store
from . import bodies, pages
from .assets import Assets
from .metrics import Metrics
from .openapi import public_document
from .problems import Problem

UNLOCK_WAIT = 2.0
"""Seconds for which an unlock waits for the reconciler's word before it says `pending`."""

PURPOSES = ("launch", "unlock")

THIRD_PARTY = ("third-party.js", "third-party.mjs")
"""The script for third-party pages: plain, and as a module."""

public = Blueprint("public", __name__, static_folder="static", template_folder="templates")


@dataclass(frozen=True)
class Services:
    """What the views work with; `current_app.extensions["binder-egress"]`."""

    settings: VerifierSettings
    store: Store
    passes: Passes
    keys: Keys
    wrong_keys: WrongKeys
    captcha: Captcha
    metrics: Metrics
    assets: Assets
    fairness: Fairness
    hidden_clients: HiddenClients


def services() -> Services:
    """The services of the current app."""
    return current_app.extensions["binder-egress"]


def _network() -> str:
    settings = services().settings
    return client_network(request.remote_addr, settings.client_ipv4_prefix, settings.client_ipv6_prefix)


def logged_network(address: str | None) -> str:
    """What logs say of a client's address."""
    settings = services().settings
    return client_network(address, settings.log_ipv4_prefix, settings.log_ipv6_prefix)


def _chargeable() -> str:
    """The network of a client that is charged, or `""`, which is counted, for a client that has none that we know."""
    network = _network()
    services().hidden_clients.note(network)
    if not network:
        services().metrics.without_address.inc()
    return network


@public.before_request
def _check_origin() -> Response | None:
    """Refuse what another site's page sends, unless the operator listed it, and answer its preflight."""
    if request.method == "OPTIONS":
        return Response(status=204)
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin and not _is_own(origin) and not _is_listed(origin):
        raise Problem("forbidden-origin", f"Ask the operator to add {origin!r} to allowedOrigins.")
    return None


@public.after_app_request
def _headers(answer: Response) -> Response:
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers.setdefault("Content-Security-Policy", _policy(answer))
    if request.endpoint == "public.show_server" and answer.mimetype == "text/html":
        # A provider's widget has no business with these.
        answer.headers["Permissions-Policy"] = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
    if request.endpoint in ("public.static", "public.launch_script", "public.third_party_script"):
        # A page of another host loads these, and may have asked its browser to isolate it.
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    changing = request.endpoint == "public.launch_script" or (request.view_args or {}).get("file") in THIRD_PARTY
    if changing and answer.status_code in (200, 304):
        answer.headers["Cache-Control"] = "no-cache"
    elif request.endpoint in ("public.static", "public.third_party_script") and answer.status_code in (200, 304):
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    else:
        answer.headers["Cache-Control"] = "no-store"
    answer.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin and _is_listed(origin):
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Allow-Methods"] = "GET, POST"
        keys = request.endpoint == "public.issue_pass"
        answer.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type" if keys else "Content-Type"
        answer.headers["Access-Control-Expose-Headers"] = "Retry-After"
        answer.headers["Access-Control-Max-Age"] = "600"
    return answer


_POLICY = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "connect-src": ["'self'"],
    "worker-src": ["'self'"],
    "base-uri": ["'none'"],
    "form-action": ["'none'"],
    "frame-ancestors": ["'none'"],
}


def _policy(answer: Response) -> str:
    """The Content-Security-Policy: what captcha providers need in addition, only where they are shown."""
    more: dict[str, list[str]] = {}
    if request.endpoint == "public.show_server" and answer.mimetype == "text/html" and answer.status_code == 200:
        more = services().captcha.content_security_policy()
    elif request.endpoint == "public.static":
        more = services().captcha.worker_policy()
    return "; ".join(" ".join([name, *_POLICY.get(name, []), *more.get(name, [])]) for name in _POLICY | more)


@public.after_request
def _readable(answer: Response) -> Response:
    """Show a problem with a server's page as a page: whoever follows an old link is a person."""
    if request.endpoint == "public.show_server":
        answer.vary.update(("Accept", "Accept-Language"))
        kind = _kind()
        if answer.status_code >= 400 and kind != "application/json":
            language = pages.choose_language(request.accept_languages)
            answer.set_data(pages.problem_page(kind, language, answer.get_json(force=True), asset=_asset))
            answer.content_type = f"{kind}; charset=utf-8"
    return answer


def _kind() -> str:
    """The kind of answer that the client likes best. curl, which likes all of them, gets text."""
    return request.accept_mimetypes.best_match(["text/plain", "application/json", "text/html"], default="application/json")


def _is_own(origin: str) -> bool:
    # The scheme is not compared: behind an ingress that ends TLS it differs.
    try:
        host = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    public_url = services().settings.public_url
    return host in {request.host.lower(), *([urlsplit(public_url).netloc.lower()] if public_url else [])}


def _is_listed(origin: str) -> bool:
    listed = services().settings.allowed_origins
    return origin in listed or "*" in listed


@public.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return jsonify(public_document(services().settings.base_path))


@public.get("/launch.js")
def launch_script() -> Response:
    """The script for launch pages. Its address stays, so browsers ask each time whether it has changed."""
    return _script(services().assets.file("launch.js"))


@public.get("/v1/third-party.json")
def third_party() -> Response:
    """Where the script for third-party pages is, under names that are there as long as their content is, and the tag for it."""
    assets = services().assets
    address = f"{_own_url()}v1/"
    scripts = {name: {"address": address + assets.file(name), "integrity": assets.integrity(name)} for name in THIRD_PARTY}
    plain = scripts["third-party.js"]
    tag = f'<script async src="{escape(plain["address"])}" integrity="{plain["integrity"]}" crossorigin="anonymous"></script>'
    return jsonify(tag=tag, scripts=scripts)


@public.get("/v1/<file>")
def third_party_script(file: str) -> Response:
    """The script for third-party pages, under a name that stays and under one with a checksum of the content."""
    for name in THIRD_PARTY:
        now = services().assets.file(name)
        if file in (name, now):
            return _script(now)
    raise Problem("not-found", "third-party.json lists what there is.")


def _script(file: str) -> Response:
    answer = Response(services().assets.read(file), content_type="text/javascript; charset=utf-8")
    answer.set_etag(file)  # It has a checksum of the content.
    return answer.make_conditional(request)


@public.get("/challenge")
def challenge() -> Response:
    """What the client may solve: a challenge of each provider, in the operator's order."""
    purpose = request.args.get("purpose", "launch")
    if purpose not in PURPOSES:
        raise Problem("bad-request", f"purpose: send one of {', '.join(PURPOSES)}.")
    # For clients who cannot be charged too: where no solution can be used up, none shall be made.
    charges = services().store.charges(_chargeable(), services().fairness.window)
    price = services().fairness.price(charges)
    services().metrics.prices.observe(price)
    settings = services().settings
    return jsonify(
        purpose=purpose,
        hold=settings.launch_hold,
        interactive_hold=settings.launch_interactive_hold,
        providers=services().captcha.offers(purpose, _network(), price),
    )


@public.post("/passes")
def issue_pass() -> tuple[Response, int]:
    """A pass for a solution, or for an API key."""
    body = bodies.read(bodies.PassRequest, optional=True)
    if body.model_fields_set:
        # Whatever Authorization there is may be a proxy's.
        issued = _solve(body.provider, body.solution, "launch")
        _log("pass", issued.tier, "solution", provider=body.provider, servers=issued.servers)
    else:
        issued = _use_key()
    services().metrics.passes.labels(issued.tier).inc()
    return (
        jsonify(
            token=services().passes.sign(issued),
            expires_in=services().settings.pass_lifetime,
            servers=issued.servers,
            tier=issued.tier,
        ),
        201,
    )


@public.get("/servers/<user>", defaults={"server": ""}, strict_slashes=False)
@public.get("/servers/<user>/<server>")
def show_server(user: str, server: str) -> Response:
    """What a server may reach, as a page, as text or as JSON. Never its repository, its address or a reason."""
    asked = Server(user, server)
    known = _known(asked)
    larger = _larger(known)
    refused = (known.tier == UNVERIFIED or known.until is not None or bool(larger)) and _refusal(known) is not None
    kind = _kind()
    if kind == "application/json":
        answer = jsonify(_description(asked, known, refused))
    else:
        settings = services().settings
        text = pages.server_page(
            kind,
            pages.choose_language(request.accept_languages),
            tier=known.tier,
            tiers=settings.tiers,
            address=_address(asked),
            base=settings.base_path,
            asset=_asset,
            observed=settings.mode == "observe",
            closed=refused and known.tier == UNVERIFIED,
            left=leases.left(known, settings, time.time(), refused),
            larger=[] if refused else larger,
            from_elsewhere=request.headers.get("Sec-Fetch-Site") == "cross-site",
            qr=request.args.get("qr", "0") != "0",
        )
        answer = make_response(text)
        answer.content_type = f"{kind}; charset=utf-8"
    return answer


@public.post("/servers/<user>", defaults={"server": ""}, strict_slashes=False)
@public.post("/servers/<user>/<server>")
def unlock_server(user: str, server: str) -> tuple[Response, int]:
    """Give a running server the tier of a pass or of a solution, or a larger one than it has, or renew the lease of that."""
    body = bodies.read(bodies.Unlock)
    asked = Server(user, server)
    known = _known(asked)
    now = time.time()
    if rule := _refusal(known):
        services().metrics.unlocks.labels(rule).inc()
        _log("unlock", UNVERIFIED, rule, repository=known.repository)
        raise Problem("blocked", REFUSALS[rule])
    has_one = known.tier != UNVERIFIED
    left = leases.left(known, services().settings, now)
    useful = [*leases.larger(known, services().settings, now), *([known.tier] if left and left.renewable_in == 0 else [])]
    worth = _is_worth(body, known.repository) if has_one and useful else None
    if has_one and worth not in useful:
        # One that is not larger could be less than what it has, and anybody who knows the address could ask for that.
        # The same one would spend a use for nothing, and whoever gave it could move it on and so take the tier away.
        services().metrics.unlocks.labels("had-it").inc()
        _log("unlock", known.tier, "had-it", repository=known.repository)
        return jsonify(state="granted", **_description(asked, known)), 200
    by = ""
    if body.token:
        used, by = _read_pass(body.token, known.repository, now)
    else:
        used = _solve(body.provider or "", body.solution or "", "unlock")
    grant = replace(Grant.new(used.tier, Rule.RENEWAL if used.tier == known.tier else Rule.UNLOCK, now), by=by)
    record = Record(grant, uid=known.uid, repository=known.repository, client=known.client)
    outcome = services().store.redeem(used, asked, record, _network(), now, UNLOCK_TTL_SECONDS, has_one)
    if outcome in REJECTED_PASSES:
        services().metrics.unlocks.labels(outcome).inc()
        _log("unlock", UNVERIFIED, outcome, repository=known.repository)
        raise Problem("pass-refused", REJECTED_PASSES[outcome])
    more = {"by": by} if by else {}
    _log("unlock", grant.tier, grant.rule, repository=known.repository, pass_outcome=outcome, grant=grant.id, **more)
    seen = _await_grant(asked, grant)
    state = "granted" if seen else "pending"
    services().metrics.unlocks.labels(state).inc()
    return jsonify(state=state, **_description(asked, seen or known)), 200 if seen else 202


def _log(event: str, tier: str, rule: str, **more: object) -> None:
    """Log a decision about the server of the request's path, if it names one."""
    path = request.view_args or {}
    logs.decision(event, **path, client_network=logged_network(request.remote_addr), tier=tier, rule=rule, **more)


def _known(server: Server) -> KnownServer:
    known = services().store.known(server)
    if known is None:
        raise Problem("no-such-server", "No server of this name is running. Check the address, or launch it again.")
    return known


def _is_worth(body: bodies.Unlock, repository: str) -> str | None:
    """The tier of what a client presents for a server of a repository."""
    return (
        _read_pass(body.token, repository, time.time())[0].tier if body.token else services().captcha.tier_of(body.provider or "")
    )


def _larger(known: KnownServer) -> list[str]:
    """The tiers that a provider's solution could give a server in place of the one that it has."""
    offered = {services().captcha.tier_of(name) for name in services().captcha.names}
    return [tier for tier in leases.larger(known, services().settings, time.time()) if tier in offered]


def _description(server: Server, known: KnownServer, refused: bool = False) -> dict[str, Any]:
    left = leases.left(known, services().settings, time.time(), refused)
    return {
        "user": server.user,
        "server": server.name,
        "tier": known.tier,
        "until": left and left.until,
        "expires_in": left and left.expires_in,
        "on_expiry": left and left.on_expiry,
        "unlockable": known.tier == UNVERIFIED and not refused,
        "larger": [] if refused else _larger(known),
        "renewable_in": left and left.renewable_in,
    }


def _refusal(known: KnownServer | None) -> Rule | None:
    """The rule that keeps a running server, or None for a new one, from what this client asks for."""
    now, clients = time.time(), (request.remote_addr or "",)
    if known is None:
        return refusal(Facts(clients=clients), services().store.blocks(), services().settings, now)
    facts = Facts.of(known, *clients)
    return Rule.BLOCKED if known.is_blocked(now) else refusal(facts, services().store.blocks(), services().settings, now)


def _address(server: Server) -> str:
    return f"{_own_url()}servers/{quote(server.user, safe='')}/{quote(server.name, safe='')}"


def _own_url() -> str:
    """Where clients see us, ending in `/`."""
    host = services().settings.public_url or f"{request.scheme}://{request.host}"
    return host + services().settings.base_path


def _asset(name: str) -> str:
    return f"{services().settings.base_path}static/{services().assets.file(name)}"


def _read_pass(token: str, repository: str, now: float) -> tuple[Pass, str]:
    """A pass that may count for a server of a repository, and what its grants are by."""
    by = ""
    try:
        found = services().passes.read(token, now)
        if found.key:
            by = services().keys.accept(found.key, repository, now).label
    except BadPass as error:
        services().metrics.unlocks.labels(error.outcome).inc()
        _log("unlock", UNVERIFIED, error.outcome)
        raise Problem("pass-refused", str(error)) from None
    if found.tier not in services().settings.tiers:
        services().metrics.unlocks.labels("unknown-tier").inc()
        _log("unlock", UNVERIFIED, "unknown-tier")
        raise Problem("pass-refused", "The pass is for a tier that this site does not have.")
    return found, by


def _use_key() -> Pass:
    """Check the API key of the request, charge it, and make the pass that it earns."""
    kind, _, presented = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer":
        raise Problem("bad-request", "Send provider and solution, or a key as Authorization: Bearer.")
    key = services().keys.find(presented.strip())
    if key is None:
        wait = services().wrong_keys.note(_network())
        services().metrics.api_keys.labels("", "wrong" if wait is None else "too-many").inc()
        if wait is not None:
            raise Problem("too-many-wrong-keys", "Do not repeat a key that was refused. See what it should be.", wait)
        _log("pass", UNVERIFIED, "wrong-key")
        raise Problem("key-refused", "Copy the key as a whole. If it is whole, ask the operators of this site for another one.")

    def count(outcome: str, tier: str = UNVERIFIED) -> None:
        services().metrics.api_keys.labels(key.name, outcome).inc()
        _log("pass", tier, outcome, key=key.name)

    # From here on the client has shown that it has the key, and may know what is wrong with it.
    if rule := _refusal(None):
        count(rule)
        raise Problem("blocked", REFUSALS[rule])
    if key.is_expired(time.time()):
        count("expired")
        raise Problem("key-expired", "Ask the operators of this site for another one.")
    if key.entry.origins and request.headers.get("Origin") not in key.entry.origins:
        count("other-origin")
        raise Problem("key-elsewhere", "The key is for pages of certain origins only.")
    try:
        issued_at = services().store.use_key(key.entry.id, key.entry.serversPerDay, DAY)
    except KeyRevoked:
        count("revoked")
        raise Problem("key-revoked", "Ask the operators of this site for another one.") from None
    except BudgetSpent as error:
        count("spent")
        detail = "You can launch, without internet access, and unlock your server by a captcha."
        raise Problem("key-spent", detail, error.retry_after) from None
    count("issued", key.entry.tier)
    return Passes.new(key.entry.tier, 1, issued_at, services().settings.pass_lifetime, key.entry.id)


def _solve(name: str, solution: str, purpose: str) -> Pass:
    """Check a solution, use it up, charge the client's network, and make the pass that it earns."""
    if name not in services().captcha.names:
        raise Problem("bad-request", f"provider: this site has {', '.join(services().captcha.names)}.")

    def count(outcome: str) -> None:
        services().metrics.solutions.labels(name, purpose, outcome).inc()
        if outcome not in (Outcome.OK, Outcome.UNCHECKED):
            _log("solution", UNVERIFIED, outcome, provider=name, purpose=purpose)

    if rule := _refusal(None):
        count(rule)
        raise Problem("blocked", REFUSALS[rule])
    network, most = _network(), services().settings.fairness_rejections
    if network and most and name in [remote.name for remote in services().captcha.remotes]:
        rejected, forgotten_in = services().store.rejections(network)
        if rejected >= most:
            count("too-many-rejected")
            raise Problem("too-many-rejected", "Try again when they are forgotten, or solve another challenge.", forgotten_in)
    began = time.monotonic()
    verdict = services().captcha.verify(name, solution, purpose, network, request.remote_addr or "")
    services().metrics.verify_seconds.labels(name, verdict.outcome).observe(time.monotonic() - began)
    if verdict.asked and network and verdict.outcome is Outcome.REJECTED:
        with suppress(StoreUnavailable):  # It is rejected all the same.
            services().store.note_rejection(network)
    if not verdict.accepted:
        count(verdict.outcome)
        raise Problem(_PROBLEMS[verdict.outcome], verdict.detail)
    charge = services().fairness.charge(_chargeable(), verdict.price)
    lifetime = verdict.expires_at - time.time()
    try:
        issued_at = services().store.use_solution(name, verdict.solution_id, verdict.issued_at, lifetime, charge)
    except Replayed as error:
        count(str(error))
        raise Problem("solution-refused", "This solution has been used, or may have been. Ask for a new challenge.") from None
    except PriceRisen:
        count("price-risen")
        raise Problem("price-risen", "Your network had many passes since the challenge was made. Ask for a new one.") from None
    except BudgetSpent as error:
        count("budget-spent")
        detail = "You can launch, without internet access, and unlock your server later."
        raise Problem("budget-spent", detail, error.retry_after) from None
    count(verdict.outcome)
    settings = services().settings
    return Passes.new(verdict.tier, settings.pass_servers, issued_at, settings.pass_lifetime)


_PROBLEMS = {
    Outcome.REJECTED: "solution-refused",
    Outcome.MISCONFIGURED: "provider-misconfigured",
    Outcome.UNAVAILABLE: "provider-unavailable",
}


def _await_grant(server: Server, grant: Grant) -> KnownServer | None:
    """Wait until the reconciler says that the pod carries a grant, `UNLOCK_WAIT` seconds at most."""
    began = time.monotonic()
    while True:
        try:
            known = services().store.known(server)
        except StoreUnavailable:
            return None  # The grant is written down; whether it reaches the pod is not known.
        if known and known.grant == grant.id:
            services().metrics.unlock_seconds.observe(time.monotonic() - began)
            return known
        if time.monotonic() - began > UNLOCK_WAIT:
            return None
        time.sleep(0.02)
