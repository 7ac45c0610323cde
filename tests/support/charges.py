"""Charges of client networks, and requests that are charged."""

import time

from binder_egress.gate.fairness import Charge
from tests.support.apps import NETWORK, admit, another


def charge(store, network=NETWORK, times=1, window=3600):
    """Charge a network for that many passes."""
    for _ in range(times):
        store.use_solution("altcha", f"{time.time_ns()}", time.time() + 1, 60, admit, [Charge(network, window, None, 0)])


def counted(store, network, window=3600):
    """Returns the charges of one network."""
    (number,) = store.charges([network], window)
    return number


def charges(store, in_redis):
    """Returns the charges of each network."""
    prefix = "binder-egress:charges:"
    return {key.removeprefix(prefix): counted(store, key.removeprefix(prefix)) for key in in_redis.keys(f"{prefix}*")}


def price(client, purpose="launch"):
    """The price of a new challenge, in multiples of the base work."""
    return client.get(f"/egress/challenge?purpose={purpose}").json["providers"][0]["challenge"]["parameters"]["data"]["price"]


def present(client, solution, **options):
    """Exchange a solution for a pass. Returns the answer."""
    return client.post("/egress/passes", json={"provider": "altcha", "solution": solution}, **options)


def unlock(client, **body):
    """Send an unlock of Alice's server. Returns the answer."""
    return client.post("/egress/servers/alice", json=body)


class Clock:
    """Makes charges that are some seconds old, in the buckets of that time."""

    def __init__(self, in_redis, window):
        self.in_redis, self.window = in_redis, window
        self.width = -(-window // 12)
        self.key = f"binder-egress:charges:{NETWORK}"

    def charged(self, ago):
        """Add one charge, that many seconds ago."""
        at = int(time.time()) - ago
        self.in_redis.hincrby(self.key, str(at - at % self.width), 1)


def public_client_of(client, address):
    """A client of the same app with another address."""
    other = another(client)
    other.environ_base["HTTP_X_FORWARDED_FOR"] = address
    return other
