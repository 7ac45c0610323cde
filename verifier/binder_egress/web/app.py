"""The verifier's two Flask apps, one for each port."""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask

from .. import captcha
from ..decisions.kept_promises import Promises
from ..decisions.presented import Judge
from ..decisions.rules import Rules
from ..decisions.unlocks import Unlocks
from ..gate.api_keys import Keys, WrongKeys
from ..gate.clients import HiddenClients, client_of
from ..gate.fairness import Fairness
from ..logs import Refusals
from ..model.networks import IPNetwork
from ..model.passes import Passes
from ..settings import InvalidSettings, VerifierSettings
from ..store.connection import connect
from ..store.store import VerifierStore
from . import headers
from .assets import Assets
from .base import App
from .bodies import MAX_BODY_BYTES
from .branding import Brand
from .challenges import challenges
from .context import CLIENT, Services
from .internal import internal
from .launches import launches
from .metrics import Metrics
from .passes import passes
from .probes import probes
from .promises import promises
from .public import public
from .servers import servers, show_problems_as_pages
from .underway import Underway

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_INTERNAL_BODY_BYTES = 1 << 20
"""The longest body on the in-cluster port, in bytes. A launch must get an answer, and may name 1,000 groups of 255 characters."""


SCHEMES = ("http", "https")
"""The schemes that a proxy may name."""

PUBLIC_PARTS = (public, challenges, passes, promises, servers)
IN_CLUSTER_PARTS = (internal, launches, probes)


def create_services(settings: VerifierSettings, store: VerifierStore | None = None) -> Services:
    """The services that the views use.

    Args:
        settings: the chart's values.
        store: for tests; by default the Redis of the settings.

    Raises:
        InvalidSettings: a provider's options are wrong.
        AssetsMissing: the front end has not been built.
    """
    try:
        configured = captcha.Captcha(
            settings.captcha_providers,
            settings.challenge_keys,
            set(settings.tiers),
            secrets={name: secret.get_secret_value() for name, secret in settings.captcha_secrets.items()},
            hostnames=settings.captcha_hostnames,
            on_outage=settings.captcha_on_outage,
            proof_of_work=settings.captcha_proof_of_work,
            allow_test_keys=settings.captcha_allow_test_keys,
        )
    except ValueError as error:
        raise InvalidSettings(str(error)) from None
    store = store or VerifierStore(connect(settings))
    signer = Passes(settings.plain_signing_keys)
    api_keys = Keys(settings.api_keys_file, settings.tiers)
    judge = Judge(settings, signer, api_keys)
    unlocks = Unlocks(settings, store)
    return Services(
        settings=settings,
        store=store,
        passes=signer,
        api_keys=api_keys,
        wrong_keys=WrongKeys(),
        judge=judge,
        rules=Rules(settings, judge, store),
        unlocks=unlocks,
        promises=Promises(settings, judge, unlocks, store),
        captcha=configured,
        metrics=Metrics(store, configured, settings),
        assets=Assets(),
        brand=Brand.of(settings),
        fairness=Fairness.from_settings(settings),
        refusals=Refusals(),
        hidden_clients=HiddenClients(),
        unlocks_underway=Underway(),
        was_ready=threading.Event(),
    )


def create_public_app(services: Services) -> Flask:
    """The app that strangers reach, below `ingress.path`."""
    app = App(services, MAX_BODY_BYTES)
    # Functions that change answers run in reverse order: a problem becomes a page first, and then gets its headers.
    headers.register(app)
    show_problems_as_pages(app)
    for part in PUBLIC_PARTS:
        app.register_blueprint(part, url_prefix=services.settings.base_path.rstrip("/"))
    app.wsgi_app = _TrustedProxies(app.wsgi_app, services.settings.trusted_proxies)  # type: ignore[method-assign]
    return app


class _TrustedProxies:
    """Gives each request of a WSGI app the client's address and scheme, as trusted proxies report them.

    werkzeug's own `ProxyFix` only counts proxies, does not check who the sender is, and takes no scheme from a header with fewer
    values than there are proxies. Many proxies replace `X-Forwarded-Proto` instead of adding a value.
    """

    def __init__(self, app: "WSGIApplication", trusted: int | list[IPNetwork]):
        self._app, self._trusted = app, trusted

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        client = client_of(environ.get("REMOTE_ADDR"), environ.get("HTTP_X_FORWARDED_FOR"), self._trusted)
        environ |= {"REMOTE_ADDR": client.address, CLIENT: client}
        proxies = self._trusted if isinstance(self._trusted, int) else int(client.believed)
        told = [value.strip().lower() for value in environ.get("HTTP_X_FORWARDED_PROTO", "").split(",") if value.strip()]
        # Addresses are made with the scheme.
        if proxies and told and (scheme := told[-min(proxies, len(told))]) in SCHEMES:
            environ["wsgi.url_scheme"] = scheme
        return self._app(environ, start_response)


def create_internal_app(services: Services) -> Flask:
    """The app that only the cluster can reach."""
    app = App(services, MAX_INTERNAL_BODY_BYTES)
    for part in IN_CLUSTER_PARTS:
        app.register_blueprint(part)
    return app


def create_app(services: Services) -> WSGIApplication:
    """The WSGI application for gunicorn: the port on which a connection arrived decides which app answers.

    The listening socket has the port, which no header can change.
    """
    settings = services.settings
    apps = {str(settings.public_port): create_public_app(services), str(settings.internal_port): create_internal_app(services)}

    def dispatch(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return apps[environ["SERVER_PORT"]](environ, start_response)

    return dispatch
