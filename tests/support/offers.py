"""What a verifier offers with several providers, and their state."""

from binder_egress.captcha import ROWS

REMOTE = list(ROWS)
"""The names of the remote providers."""


def remote(services, name):
    """The verifier's side of a provider."""
    return services.captcha.providers[name]


def present(client, name, solution):
    """Exchange a solution of a provider for a pass. Returns the answer."""
    return client.post("/egress/passes", json={"provider": name, "solution": solution})


def offers(client):
    """The offers in a new answer with challenges."""
    return client.get("/egress/challenge").json["providers"]


def state(services, name):
    """The state of a remote provider: `up`, `down` or `misconfigured`."""
    return remote(services, name).state


def names(client):
    """Name, tier and kind of each offer."""
    return [(offer["name"], offer["tier"], offer["kind"]) for offer in offers(client)]
