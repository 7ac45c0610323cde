"""Launches: BinderHub's hook announces each one, and gets the decision."""

import time

from flask import Blueprint, Response

from .. import logs
from ..decisions.rules import Launch, believed_time
from ..gate.clients import client_network, client_of
from ..model.grants import UNVERIFIED
from ..model.records import PassOutcome, Server
from ..settings import is_page_address
from ..store.errors import LaunchDecided, StoreUnavailable
from . import bodies
from .claims import came_of, claim_of
from .context import logged_network, services
from .internal import BEARER, check_bearer_token
from .openapi import Operation, json_of
from .problems import Problem

launches = Blueprint("launches", __name__)


@launches.post("/api/launches")
@Operation(
    "decideLaunch",
    "Decide a launch that BinderHub is about to make",
    body=bodies.LaunchBody,
    security=BEARER,
    answers={200: json_of("The decision", bodies.LaunchAnswer)},
    problems=["unauthorized", "refused", "unavailable"],
)
def decide_launch() -> Response:
    """Decide a launch that BinderHub is about to make, and record the decision until the pod is ready, or the launch times out."""
    now, metrics = time.time(), services().metrics
    try:
        check_bearer_token()
    except Problem:
        metrics.refused.inc()
        metrics.refused_at = now
        raise
    body = bodies.read(bodies.LaunchBody)
    launch = _launch(body, now)
    if not body.context:
        metrics.without_context.inc()
    else:
        metrics.claims.labels(claim_of(body.user_agent), "yes" if launch.token else "no").inc()
    if launch.client:
        metrics.launch_shares.note(launch.network or launch.client)
    try:
        decision = services().rules.decide(launch, now)
    except LaunchDecided:
        raise Problem("refused", "The launch comes late, and its server has a decision by now.") from None
    except StoreUnavailable:
        metrics.launches.labels(UNVERIFIED, "store-unavailable", PassOutcome.NONE).inc()
        _log(body, launch, UNVERIFIED, "store-unavailable")
        raise
    grant = decision.grant
    metrics.launches.labels(grant.tier, grant.rule, decision.pass_outcome).inc()
    _log(
        body,
        launch,
        grant.tier,
        grant.rule,
        pass_outcome=decision.pass_outcome,
        grant=grant.id,
        **({"by": grant.origin.text} if grant.origin.text else {}),
        **({"promise": launch.promise} if launch.promise else {}),
    )
    return bodies.answer(bodies.LaunchAnswer(tier=grant.tier, rule=grant.rule, pass_outcome=decision.pass_outcome, grant=grant.id))


def _launch(body: bodies.LaunchBody, now: float) -> Launch:
    """The launch that a body describes."""
    settings, hub_url = services().settings, body.hub_url or ""
    client = client_of(body.client_address, body.forwarded_for, settings.trusted_proxies).address[:255]
    return Launch(
        server=Server(body.user, body.server),
        image=body.image,
        repository=body.repository,
        token=body.token or None,
        network=client_network(client, settings.client_ipv4_prefix, settings.client_ipv6_prefix),
        requested_at=believed_time(body.requested_at, now),
        client=client,
        authenticated=body.authenticated,
        groups=tuple(body.groups),
        context=body.context,
        hub_url=hub_url if not settings.hub_url and is_page_address(hub_url) else "",
        launched_at=body.launched_at,
        came=came_of(body.user_agent, body.elsewhere) if body.context else "other",
    )


def _log(body: bodies.LaunchBody, launch: Launch, tier: str, rule: str, **more: object) -> None:
    where = {"user": body.user, "server": body.server, "repository": body.repository}
    network, claim = logged_network(launch.client), claim_of(body.user_agent) if body.context else ""
    logs.decision("launch", **where, client_network=network, claim=claim, tier=tier, rule=rule, **more)
