"""A verifier whose API keys a test writes."""

import json
import os
import time

from binder_egress.gate import api_keys as keys
from binder_egress.gatecheck import doctor
from binder_egress.operators.actions import CommandOperators
from binder_egress.web.app import create_services
from tests.support import TOP
from tests.support.apps import internal_client, make_settings, public_client
from tests.support.metrics import value

DOCUMENT = TOP / "docs/api-keys.md"
ORIGIN = "https://course.example.org"
LATER = "2999-12-31"

CREATE = ["create", "--name", "course", "--tier", "small", "--servers-per-day", "7", "--expires", "90d"]
"""Arguments of `egress keys` that create a key."""


class Site:
    """A verifier, and the file of API keys that it reads."""

    def __init__(self, file, redis_server, store, **settings):
        self.file = file
        self.entries = {}
        self.file.write_text("{}")
        self.services = create_services(make_settings(redis_server, api_keys_file=str(file), **settings), store)
        self.public = public_client(self.services)
        self.internal = internal_client(self.services)
        self.store = store

    def add(self, name="course", tier="small", servers=5, expires=LATER, origins=(), repositories=()):
        """Create a key, and write its entry into the file."""
        key, entry = keys.create(tier, servers, expires, list(origins), list(repositories))
        self.entries[name] = entry.model_dump()
        self.write()
        return key

    def write(self):
        """Replace the file, as the kubelet does after a change of the Secret."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.entries))
        os.replace(new, self.file)

    def ask(self, key, client=None, **options):
        headers = {"Authorization": f"Bearer {key}"} | options.pop("headers", {})
        return (client or self.public).post("/egress/passes", headers=headers, **options)

    def get_pass(self, key):
        answer = self.ask(key)
        assert answer.status_code == 201, answer.text
        return answer.json["token"]

    def metric(self, name, **labels):
        return value(self.internal, name, **labels)

    @property
    def operators(self):
        assert self.internal.get("/readyz").status_code == 200  # The probe makes the verifier report its keys.
        return CommandOperators(self.services.settings, self.store)


def wrong_keys(key):
    """Keys that are almost valid."""
    other, _ = keys.create("small", 5, LATER, [], [])
    identity, secret = key.split("_")[2:]
    changed = ("0" if secret[0] != "0" else "1") + secret[1:]
    return [
        "", "x", key[:-1], key + "0", key.upper(), other, f"binder_egress_{identity}_{changed}",
        f"binder_egress_{'0' * 16}_{secret}", f"{key}\u00e9", "\u00ff" * 2000,
    ]  # fmt: skip


def good_entry(**changes):
    return keys.create("small", 5, LATER, [], [])[1].model_dump() | changes


def checked(site):
    health = (site.operators, site.store.health())[1]
    checks = doctor.check_api_keys(health["verifiers"], health["revoked_keys"], time.time())
    return [(check.state, check.text) for check in checks]
