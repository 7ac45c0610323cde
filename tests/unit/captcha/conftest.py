"""Fixtures: the doubles of all providers, and services that ask them."""

import pytest

from binder_egress.web.app import create_services
from tests.support.apps import QUICK, make_settings
from tests.support.doubles import SECRET, running


@pytest.fixture(scope="module")
def _double():
    with running() as double:
        yield double


@pytest.fixture
def double(_double):
    _double.behaviour = dict.fromkeys(_double.behaviour, "right")
    _double.calls.clear()
    return _double


@pytest.fixture
def make(redis_server, store, double):
    """Services with remote providers, and ALTCHA if `altcha` is among them."""

    def make(*names, options=None, **settings):
        providers = {name: double.options(name) | {"order": order} for order, name in enumerate(names) if name != "altcha"}
        if "altcha" in names:
            providers["altcha"] = QUICK["altcha"] | {"order": names.index("altcha")}
        for name, more in (options or {}).items():
            providers[name] |= more
        defaults = {
            "captcha_providers": providers,
            "captcha_secrets": {name.upper(): SECRET for name in names},
            "captcha_proof_of_work": QUICK["altcha"] | {"tier": "small"},
        }
        return create_services(make_settings(redis_server, **(defaults | settings)), store)

    return make
