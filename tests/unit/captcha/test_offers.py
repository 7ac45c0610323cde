"""Providers in the verifier, several at once: what is offered, which solutions count, the policy of pages, and settings."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import altcha
import pytest

from binder_egress.captcha import State
from binder_egress.captcha.altcha import Altcha, Options
from binder_egress.settings import InvalidSettings
from binder_egress.web.app import create_services
from tests.support.apps import CLIENT, internal_client, make_settings, public_client, run_pod, solve
from tests.support.charts import VALUES
from tests.support.doubles import SECRET, SITE_KEY
from tests.support.metrics import value
from tests.support.offers import REMOTE, offers, present, remote, state
from tests.support.public_port import assert_problem

# -- solutions


@pytest.mark.parametrize("name", REMOTE)
def test_solution_gives_a_pass_once_even_if_the_provider_forgets(make, double, name):
    services = make(name)
    client = public_client(services)
    token = double.token(name, action="launch")
    answer = present(client, name, token)
    assert (answer.status_code, answer.json["tier"]) == (201, "verified")
    double.used_tokens.clear()
    assert "has been used" in present(client, name, token).json["detail"]
    replayed = {"provider": name, "purpose": "launch", "outcome": "replayed"}
    assert value(internal_client(services), "binder_egress_solutions_total", **replayed) == 1
    for wrong in (double.token(name, right=False), f"{SITE_KEY}:junk:1" if name == "cap" else "junk-1"):
        assert_problem(present(client, name, wrong), "solution-refused", 403)
    assert state(services, name) == "up", "wrong solutions stop no offers"
    assert [fields.get("remoteip", fields.get("ip")) for _, fields in double.calls] == [None] * 4


def test_solution_from_before_a_wipe_is_refused_if_its_time_is_known(make, double, redis_server, store):
    client = public_client(make("turnstile", "cap"))
    old = double.token("turnstile", action="launch", time=time.time() - 5)
    redis_server.wipe()
    store.ping()
    assert "may have been" in present(client, "turnstile", old).json["detail"]


def test_sent_address_is_the_clients(make, double):
    client = public_client(make("hcaptcha", options={"hcaptcha": {"sendAddress": True}}))
    present(client, "hcaptcha", double.token("hcaptcha"))
    assert double.calls[0][1]["remoteip"] == CLIENT


def test_disabled_provider_is_not_accepted(make):
    client = public_client(make("hcaptcha", captcha_on_outage="deny"))
    for name in ("turnstile", "altcha", "nobody"):
        answer = present(client, name, "x")
        assert_problem(answer, "bad-request", 400)
        assert answer.json["detail"] == "provider: this site has hcaptcha."


# -- offers


def test_offers_come_in_the_operators_order(make):
    for names in (["cap", "altcha", "hcaptcha"], ["hcaptcha", "cap", "altcha"]):
        assert [offer["name"] for offer in offers(public_client(make(*names)))] == names


SCRIPTS = {
    "hcaptcha": "https://js.hcaptcha.com/1/api.js",
    "turnstile": "https://challenges.cloudflare.com/turnstile/v0/api.js",
    "recaptchaV2": "https://www.google.com/recaptcha/api.js",
    "recaptchaV3": "https://www.google.com/recaptcha/api.js",
    "friendlyCaptcha": "https://cdn.jsdelivr.net/npm/@friendlycaptcha/sdk@1.0.2/site.min.js",
    "cap": "https://cap.example.org/assets/widget.js",
    "mcaptcha": "https://cap.example.org/widget/",
    "prosopo": "https://js.prosopo.io/js/procaptcha.bundle.js",
}


@pytest.mark.parametrize("name", REMOTE)
def test_offer_has_the_data_for_the_widget(make, name):
    """Its script is the provider's. Where it comes from the values, the browser tests load it from there."""
    own = {"apiUrl": "https://cap.example.org" if name in ("cap", "mcaptcha") else "", "widgetUrl": ""}
    (offer,) = offers(public_client(make(name, options={name: own})))
    assert offer["kind"] == ("automatic" if name == "recaptchaV3" else "interactive")
    more = {"friendlyCaptcha": "https://global.frcapi.com", "cap": f"https://cap.example.org/{SITE_KEY}/"}
    endpoint = {"endpoint": more[name]} if name in more else {}
    assert offer["challenge"] == {"site_key": SITE_KEY, "action": "launch", "script": SCRIPTS[name], **endpoint}
    assert SECRET not in json.dumps(offer)


def test_offers_are_as_the_openapi_document_says(make):
    import jsonschema

    client = public_client(make(*REMOTE, "altcha"))
    document = client.get("/egress/openapi.json").json
    schema = document["paths"]["/challenge"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = schema | {"components": document["components"]}
    answer = client.get("/egress/challenge").json
    jsonschema.validate(answer, schema)
    assert len(answer["providers"]) == len(REMOTE) + 1


# -- the policy of pages


def directives(text):
    return {part.split()[0]: part.split()[1:] for part in text.split("; ")}


def policy(answer):
    return directives(answer.headers["Content-Security-Policy"])


def page(client):
    answer = client.get("/egress/servers/alice", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    return answer


PLAIN = directives(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OF_HCAPTCHA = "https://hcaptcha.com https://*.hcaptcha.com https://js.hcaptcha.com"
OF_RECAPTCHA = (
    "script-src https://www.google.com/recaptcha/ https://www.gstatic.com/recaptcha/ https://www.gstatic.cn/recaptcha/; "
    "frame-src https://www.google.com/recaptcha/ https://recaptcha.google.com/recaptcha/"
)
POLICIES = {
    "hcaptcha": "; ".join(f"{name} {OF_HCAPTCHA}" for name in ("script-src", "frame-src", "style-src", "connect-src")),
    "turnstile": "script-src https://challenges.cloudflare.com; frame-src https://challenges.cloudflare.com",
    "recaptchaV2": OF_RECAPTCHA,
    "recaptchaV3": OF_RECAPTCHA,
    "mcaptcha": "frame-src https://cap.example.org",
    "cap": "script-src https://cap.example.org/c/assets/ 'wasm-unsafe-eval'; worker-src blob:; style-src 'unsafe-inline'; "
    "connect-src https://cap.example.org https://cdn.jsdelivr.net/npm/@cap.js/",
    "friendlyCaptcha": "script-src https://cdn.jsdelivr.net/npm/@friendlycaptcha/; "
    "frame-src https://global.frcapi.com https://*.frcapi.com; connect-src https://global.frcapi.com https://*.frcapi.com",
    "prosopo": "script-src https://js.prosopo.io; connect-src https://*.prosopo.io https://api.prosopo.io; "
    "img-src https://*.prosopo.io data:; style-src 'unsafe-inline'; worker-src blob:",
}
"""What each provider's widget needs besides."""


@pytest.mark.parametrize("name", POLICIES)
def test_csp_of_the_server_page_allows_offered_providers_alone(make, store, name):
    run_pod(store)
    own = {"apiUrl": {"cap": "https://cap.example.org/c", "mcaptcha": "https://cap.example.org"}.get(name, ""), "widgetUrl": ""}
    services = make(name, options={name: own})
    client = public_client(services)
    more = directives(POLICIES[name])
    expected = {directive: [*PLAIN.get(directive, []), *more.get(directive, [])] for directive in PLAIN | more}
    assert policy(page(client)) == expected
    for path in ("/egress/challenge", "/egress/openapi.json", "/egress/servers/alice", "/egress/nothing"):
        assert policy(client.get(path, headers={"Accept": "application/json"})) == PLAIN
    remote(services, name).state = State.DOWN
    assert policy(page(client)) == PLAIN


@pytest.mark.parametrize("name", ["cap", "prosopo", "turnstile"])
def test_colour_of_a_site_leaves_inline_styles_to_the_widgets_that_need_them(make, store, name):
    """With a checksum, browsers ignore 'unsafe-inline' (Content Security Policy Level 3)."""
    run_pod(store)
    services = make(name, branding={"accentColor": "#f5a252"})
    client = public_client(services)
    checksum = services.brand.csp["style-src"]
    inline = ["'unsafe-inline'"] if name != "turnstile" else checksum
    assert policy(page(client))["style-src"] == ["'self'", *inline]
    # The widget is not on the page of an error, nor on any while its provider is down.
    missing = client.get("/egress/servers/bob", headers={"Accept": "text/html"})
    assert policy(missing)["style-src"] == ["'self'", *checksum]
    remote(services, name).state = State.DOWN
    assert policy(page(client))["style-src"] == ["'self'", *checksum]


def test_webassembly_is_allowed_if_the_algorithm_needs_it(make, store):
    run_pod(store)
    hard = {"algorithm": "SCRYPT", "cost": 16, "memoryCost": 1, "counterMax": 2}
    services = make("altcha", options={"altcha": hard})
    client = public_client(services)
    assert policy(page(client))["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    worker = client.get(f"/egress/static/{services.assets.file('worker-scrypt.js')}")
    assert policy(worker)["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    assert policy(client.get("/egress/challenge")) == PLAIN


# -- settings


def test_secrets_come_from_a_variable_for_each_provider(redis_server, double, monkeypatch):
    monkeypatch.setenv("BINDER_EGRESS_CAPTCHA_SECRET_RECAPTCHAV3", f"{SECRET}\n")
    settings = make_settings(redis_server, captcha_providers={"recaptchaV3": double.options("recaptchaV3")})
    assert SECRET not in repr(settings)
    services = create_services(settings)
    remote(services, "recaptchaV3").check()
    assert state(services, "recaptchaV3") == "up"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"captcha_secrets": {}}, "captcha.providers.turnstile: there is no secret"),
        ({"captcha_proof_of_work": {"tier": "gold"}}, "captcha.providers.altcha.tier: "),
        ({"captcha_proof_of_work": {"cost": 0}}, "captcha.providers.altcha.cost: "),
    ],
)
def test_wrong_options_are_named_at_the_start(make, changed, named):
    with pytest.raises(InvalidSettings) as caught:
        make("turnstile", **changed)
    assert str(caught.value).startswith(named)


# -- ALTCHA

HARD = [
    {"algorithm": "SCRYPT", "cost": 16, "memoryCost": 2, "parallelism": 2},
    {"algorithm": "ARGON2ID", "cost": 1, "memoryCost": 32, "parallelism": 2},
]


@pytest.mark.parametrize("options", [*HARD, {"algorithm": "SHA-256", "cost": 3}, {"algorithm": "PBKDF2/SHA-512", "cost": 3}])
def test_each_algorithm_is_solved_and_accepted(make, options):
    client = public_client(make("altcha", options={"altcha": options}))
    parameters = offers(client)[0]["challenge"]["parameters"]
    hard = options["algorithm"] in ("SCRYPT", "ARGON2ID")
    assert (parameters["algorithm"], parameters["cost"]) == (options["algorithm"], options["cost"])
    assert ("memoryCost" in parameters, "parallelism" in parameters) == (hard, hard)
    solution = solve(client)
    assert present(client, "altcha", solution).status_code == 201
    assert_problem(present(client, "altcha", solution), "solution-refused", 403)


def test_few_hard_derivations_run_at_a_time(make, monkeypatch):
    services = make("altcha", options={"altcha": HARD[0]})
    running_now, most = [], []
    # Each waits for another one, so two have to run at a time.
    pairs = threading.Barrier(2, timeout=60)
    real = altcha.create_challenge

    def slow(*args, **kwargs):
        running_now.append(1)
        pairs.wait()
        most.append(len(running_now))
        time.sleep(0.02)
        running_now.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(altcha, "create_challenge", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: services.captcha.offered[0].challenge("launch", "198.51.100.7/32", 1), range(16)))
    assert max(most) == 2


# -- the work: all answers are equally likely, so no order of trying them is cheaper than counting (D-210)

SIGNING_KEY = "0" * 40


@pytest.mark.parametrize(("price", "most"), [(1, 4001), (1.5, 6001), (2, 8001)])
def test_answer_is_a_random_number_below_a_bound(monkeypatch, price, most):
    monkeypatch.setattr("secrets.randbelow", lambda bound: 7 if bound == most else None)
    made = Altcha.from_options({"cost": 1}, [SIGNING_KEY]).challenge("launch", "198.51.100.7/32", price)
    assert altcha.solve_challenge(altcha.Challenge.from_dict(made)).counter == 7


@pytest.mark.parametrize("price", [1e9, 1e300])
def test_answer_fits_its_four_bytes_at_any_price(price, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda bound: bound - 1)
    challenge = Altcha.from_options({"cost": 1}, [SIGNING_KEY]).challenge("launch", "198.51.100.7/32", price)
    assert challenge["parameters"]["keyPrefix"]


def test_defaults_are_those_of_the_chart():
    """Measurements of the default work do not read the chart."""
    of_chart = VALUES["captcha"]["providers"]["altcha"]
    assert Options().model_dump() == {name: value for name, value in of_chart.items() if name != "enabled"}
