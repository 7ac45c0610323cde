"""Helpers for the views of both ports: the services, the network of a client, and the log of decisions."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flask import current_app, request

from .. import logs
from ..captcha import Captcha
from ..decisions.kept_promises import Promises
from ..decisions.presented import Judge
from ..decisions.rules import Rules
from ..decisions.unlocks import Unlocks
from ..gate.api_keys import Keys, WrongKeys
from ..gate.clients import Client, HiddenClients, charged_network, client_network
from ..gate.fairness import Fairness
from ..model.passes import Passes
from ..settings import VerifierSettings
from ..store.store import VerifierStore
from .assets import Assets
from .branding import Brand
from .metrics import Metrics
from .underway import Underway


@dataclass(frozen=True)
class Services:
    """The services that the views use. Each app has one instance, under `extensions["binder-egress"]`.

    Attributes:
        settings: the chart's values.
        store: Redis.
        passes: signs passes, and reads tokens.
        api_keys: the API keys of this site.
        wrong_keys: counts wrong API keys by client network.
        judge: judges presented passes.
        rules: decides launches.
        unlocks: decides unlocks.
        promises: keeps promises.
        captcha: the captcha providers.
        metrics: the Prometheus metrics.
        assets: the built files of the front end.
        brand: the site's look.
        fairness: the prices and budgets of client networks.
        refusals: logs the refusals of strangers, up to a limit for each client network.
        hidden_clients: warns when a proxy hides the clients' addresses.
        unlocks_underway: the unlocks that are under way, by server and pass.
        was_ready: set once the process was ready.
    """

    settings: VerifierSettings
    store: VerifierStore
    passes: Passes
    api_keys: Keys
    wrong_keys: WrongKeys
    judge: Judge
    rules: Rules
    unlocks: Unlocks
    promises: Promises
    captcha: Captcha
    metrics: Metrics
    assets: Assets
    brand: Brand
    fairness: Fairness
    refusals: logs.Refusals
    hidden_clients: HiddenClients
    unlocks_underway: Underway
    was_ready: threading.Event


def services() -> Services:
    """The services of the current app."""
    found = current_app.extensions["binder-egress"]
    assert isinstance(found, Services)
    return found


def own_url() -> str:
    """The address of the public interface, ending in `/`: `publicUrl`, or else the address that the request names."""
    host = services().settings.public_url or f"{request.scheme}://{request.host}"
    return host + services().settings.base_path


def asset_path(name: str) -> str:
    """The path of a file of the front end, given its source name."""
    return f"{services().settings.base_path}static/{services().assets.file(name)}"


CLIENT = "binder-egress.client"
"""The name under which the WSGI environment has the request's `Client`. `REMOTE_ADDR` is its address."""


PLACES = "binder-egress.places"
"""The name under which the WSGI environment of a request to the public port has the semaphore of the port's places."""


@contextmanager
def place_given_back() -> Iterator[None]:
    """A context in which the current request holds no place of the public port, because it waits for a captcha provider (D-386)."""
    places: threading.Semaphore = request.environ.get(PLACES) or threading.Semaphore(0)
    places.release()
    try:
        yield
    finally:
        places.acquire()


def network() -> str:
    """The network of the current request's client; `""` if its address is not on the internet."""
    settings = services().settings
    return client_network(request.remote_addr, settings.client_ipv4_prefix, settings.client_ipv6_prefix)


def paying_network() -> str:
    """The network that pays for the current request. Clients without an address on the internet are counted here."""
    found = network()
    services().hidden_clients.note(found)
    if not found:
        services().metrics.without_address.inc()
    settings, client = services().settings, request.environ[CLIENT]
    assert isinstance(client, Client)
    return charged_network(client, settings.client_ipv4_prefix, settings.client_ipv6_prefix)


def logged_network(address: str | None) -> str:
    """A client's address as the logs show it: its network."""
    settings = services().settings
    return client_network(address, settings.log_ipv4_prefix, settings.log_ipv6_prefix)


def log_decision(event: str, tier: str, rule: str, **more: object) -> None:
    """Log a decision about the current client, and about the server in the request's path if there is one.

    Args:
        event: what was decided, one of the names in docs/logs.md.
        tier: the tier that follows; empty: none.
        rule: the rule or the reason.
        more: further fields of the line.
    """
    path = request.view_args or {}
    logs.decision(event, **path | {"client_network": logged_network(request.remote_addr), "tier": tier, "rule": rule} | more)


def log_refusal(event: str, tier: str, rule: str, **more: object) -> None:
    """Log a refusal as `log_decision` does, up to a limit for each client network."""
    path, client_network = request.view_args or {}, logged_network(request.remote_addr)
    fields = path | {"client_network": client_network, "tier": tier, "rule": rule} | more
    services().refusals.decision(event, client_network, **fields)
