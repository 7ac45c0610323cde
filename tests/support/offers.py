"""What a verifier offers with several providers, and their state."""

from verifier.captcha import ROWS

REMOTE = list(ROWS)
"""The names of the remote providers."""


def remote(services, name):
    return services.captcha.providers[name]


def present(client, name, solution):
    return client.post("/egress/passes", json={"provider": name, "solution": solution})


def offers(client):
    return client.get("/egress/challenge").json["providers"]


def state(services, name):
    return remote(services, name).state


def names(client):
    return [(offer["name"], offer["tier"], offer["kind"]) for offer in offers(client)]
