"""Providers in the verifier: several at once, outages, wrong secrets, substitutes, and operators' view."""

import json
import logging
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import altcha
import pytest

from tests.support.apps import CLIENT, DIRECT, QUICK, VerifierProcess, internal_client, make_settings, public_client, run_pod, solve
from tests.support.doubles import SECRET, SITE_KEY, running
from tests.support.metrics import value
from tests.support.waiting import eventually
from verifier import captcha as captcha_module
from verifier.captcha import ROWS, Outcome, State
from verifier.captcha.siteverify import CALLS_AT_A_TIME
from verifier.settings import InvalidSettings
from verifier.web.app import create_services
from verifier.web.context import PLACES
from verifier.web.problems import TYPE

REMOTE = list(ROWS)


@pytest.fixture(scope="module")
def _double():
    with running() as double:
        yield double


@pytest.fixture
def double(_double):
    """The doubles of all providers, without any trouble."""
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


def remote(services, name):
    return services.captcha.providers[name]


def present(client, name, solution):
    return client.post("/egress/passes", json={"provider": name, "solution": solution})


def offers(client):
    return client.get("/egress/challenge").json["providers"]


def assert_problem(answer, kind, status):
    assert (answer.status_code, answer.json["type"]) == (status, TYPE + kind), answer.text


# -- solutions


@pytest.mark.parametrize("name", REMOTE)
def test_solution_gives_a_pass_once(make, double, name):
    services = make(name)
    client = public_client(services)
    token = double.token(name, action="launch")
    answer = present(client, name, token)
    assert (answer.status_code, answer.json["tier"]) == (201, "verified")
    assert_problem(present(client, name, token), "solution-refused", 403)
    assert_problem(present(client, name, double.token(name, right=False)), "solution-refused", 403)
    assert [fields.get("remoteip", fields.get("ip")) for _, fields in double.calls] == [None] * 3


@pytest.mark.parametrize("name", REMOTE)
def test_solution_is_accepted_once_even_if_the_provider_forgets(make, double, name):
    services = make(name)
    client = public_client(services)
    token = double.token(name, action="launch")
    assert present(client, name, token).status_code == 201
    double.used_tokens.clear()
    answer = present(client, name, token)
    assert_problem(answer, "solution-refused", 403)
    assert "has been used" in answer.json["detail"]
    assert (
        value(internal_client(services), "binder_egress_solutions_total", provider=name, purpose="launch", outcome="replayed") == 1
    )


def test_solution_from_before_a_wipe_is_refused_if_its_time_is_known(make, double, redis_server, store):
    client = public_client(make("turnstile", "cap"))
    old = double.token("turnstile", action="launch", time=time.time() - 5)
    redis_server.wipe()
    store.ping()
    assert "may have been" in present(client, "turnstile", old).json["detail"]


@pytest.mark.parametrize("name", ["cap", "mcaptcha", "prosopo"])
def test_solution_without_a_time_is_remembered_by_its_provider(make, double, redis_server, store, name):
    client = public_client(make(name))
    token = double.token(name)
    assert present(client, name, token).status_code == 201
    redis_server.wipe()
    store.ping()
    assert_problem(present(client, name, token), "solution-refused", 403)


def test_solution_unlocks_a_server(make, double, store, monkeypatch):
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0)
    run_pod(store)
    client = public_client(make("turnstile"))
    for action, status in (("launch", 403), ("unlock", 202)):
        body = {"provider": "turnstile", "solution": double.token("turnstile", action=action)}
        assert client.post("/egress/servers/alice", json=body).status_code == status


def test_sent_address_is_the_clients(make, double):
    client = public_client(make("hcaptcha", options={"hcaptcha": {"sendAddress": True}}))
    present(client, "hcaptcha", double.token("hcaptcha"))
    assert double.calls[0][1]["remoteip"] == CLIENT


def test_each_provider_has_its_tier(make, double):
    client = public_client(make("hcaptcha", "altcha", options={"altcha": {"tier": "small"}}))
    assert [(offer["name"], offer["tier"]) for offer in offers(client)] == [("hcaptcha", "verified"), ("altcha", "small")]
    assert present(client, "hcaptcha", double.token("hcaptcha")).json["tier"] == "verified"


def test_disabled_provider_is_not_accepted(make, double):
    client = public_client(make("hcaptcha", captcha_on_outage="deny"))
    for name in ("turnstile", "altcha", "nobody"):
        answer = present(client, name, "x")
        assert_problem(answer, "bad-request", 400)
        assert answer.json["detail"] == "provider: this site has hcaptcha."


# -- offers


def test_offers_come_in_the_operators_order(make):
    for names in (["cap", "altcha", "hcaptcha"], ["hcaptcha", "cap", "altcha"], ["altcha", "hcaptcha", "cap"]):
        assert [offer["name"] for offer in offers(public_client(make(*names)))] == names


def test_equal_orders_go_by_name(make):
    names = ["turnstile", "altcha", "hcaptcha"]
    services = make(*names, options={name: {"order": 7} for name in names})
    assert [offer["name"] for offer in offers(public_client(services))] == sorted(names)


@pytest.mark.parametrize("name", REMOTE)
def test_offer_has_the_data_for_the_widget(make, double, name):
    (offer,) = offers(public_client(make(name)))
    challenge = offer["challenge"]
    assert offer["kind"] == ("automatic" if name == "recaptchaV3" else "interactive")
    assert (challenge.pop("site_key"), challenge.pop("action")) == (SITE_KEY, "launch")
    assert challenge.pop("script").startswith(f"{double.url}/{name}/")
    base = f"{double.url}/{name}"
    more = {"friendlyCaptcha": {"endpoint": base}, "cap": {"endpoint": f"{base}/{SITE_KEY}/"}}
    assert challenge == more.get(name, {})
    assert SECRET not in json.dumps(offer)


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
def test_script_address_is_that_of_the_provider_or_a_value(make, name):
    own = {"apiUrl": "https://cap.example.org" if name in ("cap", "mcaptcha") else "", "widgetUrl": ""}
    (offer,) = offers(public_client(make(name, options={name: own})))
    assert offer["challenge"]["script"] == SCRIPTS[name]


def test_offers_are_as_the_openapi_document_says(make):
    import jsonschema

    client = public_client(make(*REMOTE, "altcha"))
    document = client.get("/egress/openapi.json").json
    schema = document["paths"]["/challenge"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = schema | {"components": document["components"]}
    answer = client.get("/egress/challenge").json
    jsonschema.validate(answer, schema)
    assert len(answer["providers"]) == len(REMOTE) + 1
    answer["providers"][0]["kind"] = "proof-of-work"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema)


# -- the policy of pages


def policy(answer):
    return {part.split()[0]: part.split()[1:] for part in answer.headers["Content-Security-Policy"].split("; ")}


PLAIN = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "connect-src": ["'self'"],
    "worker-src": ["'self'"],
    "base-uri": ["'none'"],
    "form-action": ["'none'"],
    "frame-ancestors": ["'none'"],
}


def page(client):
    answer = client.get("/egress/servers/alice", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    return answer


def test_csp_is_plain_with_proof_of_work_alone(make, store):
    run_pod(store)
    assert policy(page(public_client(make("altcha")))) == PLAIN


POLICIES = {
    "hcaptcha": {
        directive: ["https://hcaptcha.com", "https://*.hcaptcha.com", "https://js.hcaptcha.com"]
        for directive in ("script-src", "frame-src", "style-src", "connect-src")
    },
    "turnstile": {directive: ["https://challenges.cloudflare.com"] for directive in ("script-src", "frame-src")},
    "recaptchaV2": {
        "script-src": ["https://www.google.com/recaptcha/", "https://www.gstatic.com/recaptcha/"],
        "frame-src": ["https://www.google.com/recaptcha/", "https://recaptcha.google.com/recaptcha/"],
    },
    "mcaptcha": {"frame-src": ["https://cap.example.org"]},
    "cap": {
        "script-src": ["https://cap.example.org/c/assets/", "'wasm-unsafe-eval'"],
        "connect-src": ["https://cap.example.org", "https://cdn.jsdelivr.net/npm/@cap.js/"],
        "worker-src": ["blob:"],
        "style-src": ["'unsafe-inline'"],
    },
    "friendlyCaptcha": {
        "script-src": ["https://cdn.jsdelivr.net/npm/@friendlycaptcha/"],
        "frame-src": ["https://global.frcapi.com", "https://*.frcapi.com"],
        "connect-src": ["https://global.frcapi.com", "https://*.frcapi.com"],
    },
}
POLICIES["recaptchaV3"] = POLICIES["recaptchaV2"]


@pytest.mark.parametrize("name", POLICIES)
def test_csp_of_the_server_page_allows_offered_providers_alone(make, store, name):
    run_pod(store)
    own = {"apiUrl": {"cap": "https://cap.example.org/c", "mcaptcha": "https://cap.example.org"}.get(name, ""), "widgetUrl": ""}
    services = make(name, options={name: own})
    client = public_client(services)
    expected = {directive: [*PLAIN.get(directive, []), *POLICIES[name].get(directive, [])] for directive in PLAIN | POLICIES[name]}
    assert policy(page(client)) == expected
    for path in ("/egress/challenge", "/egress/openapi.json", "/egress/servers/alice", "/egress/nothing"):
        assert policy(client.get(path, headers={"Accept": "application/json"})) == PLAIN
    remote(services, name).state = State.DOWN
    assert policy(page(client)) == PLAIN


@pytest.mark.parametrize("name", ["cap", "prosopo", "turnstile"])
def test_colour_of_a_site_leaves_inline_styles_to_the_widgets_that_need_them(make, store, name):
    """With a checksum, browsers ignore 'unsafe-inline' (Content Security Policy Level 3, "Does element match source list")."""
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


def test_csp_of_a_provider_opens_no_script_or_frame_to_all(make):
    services = make(*REMOTE, options={name: {"widgetUrl": ""} for name in REMOTE})
    sources = [source for listed in services.captcha.page_csp().values() for source in listed]
    assert not {"*", "https:", "http:", "'unsafe-eval'"} & set(sources)
    assert [source for source in sources if source.startswith("https://cdn.jsdelivr.net") and source.count("/") < 4] == []
    assert "'unsafe-inline'" not in services.captcha.page_csp()["script-src"]


def test_webassembly_is_allowed_if_the_algorithm_needs_it(make, store):
    run_pod(store)
    hard = {"algorithm": "SCRYPT", "cost": 16, "memoryCost": 1, "counterMax": 2}
    services = make("altcha", options={"altcha": hard})
    client = public_client(services)
    assert policy(page(client))["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    worker = client.get(f"/egress/static/{services.assets.file('worker-scrypt.js')}")
    assert policy(worker)["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    assert policy(client.get("/egress/challenge")) == PLAIN


# -- outages


def state(services, name):
    return remote(services, name).state


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [("right", "up"), ("down", "down"), ("limited", "down"), ("rubbish", "down"), ("misconfigured", "misconfigured")],
)
def test_self_check_tells_trouble_from_a_wrong_secret(make, double, name, behaviour, expected):
    services = make(name)
    double.behaviour[name] = behaviour
    remote(services, name).check()
    # Prosopo says the same of a wrong solution, whatever the secret.
    assert state(services, name) == ("up" if (name, behaviour) == ("prosopo", "misconfigured") else expected)
    internal = internal_client(services)
    current = state(services, name)
    assert value(internal, "binder_egress_captcha_provider_up", provider=name) == (current != "down")
    assert value(internal, "binder_egress_captcha_provider_misconfigured", provider=name) == (current == "misconfigured")
    double.behaviour[name] = "right"
    remote(services, name).check()
    assert state(services, name) == "up"


def test_provider_that_accepts_anything_is_distrusted(make, double, monkeypatch):
    services = make("turnstile")
    monkeypatch.setattr(type(double), "_judge", lambda *_: {"time": time.time(), "host": "h"})
    client = public_client(services)
    remote(services, "turnstile").check()
    assert state(services, "turnstile") == "misconfigured"
    # A solution without an offer is not accepted either, and does not end the misconfiguration.
    assert_problem(present(client, "turnstile", "made-up"), "provider-misconfigured", 503)
    assert state(services, "turnstile") == "misconfigured"
    monkeypatch.undo()
    remote(services, "turnstile").check()
    assert state(services, "turnstile") == "up"
    assert present(client, "turnstile", double.token("turnstile", action="launch")).status_code == 201


def test_provider_with_vague_answers_that_accepts_anything_is_distrusted(make, double, monkeypatch):
    services = make("prosopo")
    monkeypatch.setattr(type(double), "_judge", lambda *_: {"time": time.time(), "host": "h"})
    remote(services, "prosopo").check()
    assert state(services, "prosopo") == "misconfigured"


def test_log_names_the_change_and_no_secret(make, double, caplog):
    caplog.set_level(logging.INFO)
    services = make("turnstile")
    for behaviour in ("misconfigured", "down", "right"):
        double.behaviour["turnstile"] = behaviour
        remote(services, "turnstile").check()
        remote(services, "turnstile").check()  # nothing new, no line
    first, second, third = (record.getMessage() for record in caplog.records if record.name.startswith("verifier"))
    assert "invalid-input-secret" in first and "secret.captcha.turnstile" in first
    assert "HTTP 503" in second and "verifier.networkPolicy.captchaProviders" in second
    assert third == "captcha.providers.turnstile answers, and is offered again"
    assert SECRET not in caplog.text


def test_outage_that_clients_meet_is_confirmed_by_the_self_check(make, double):
    services = make("hcaptcha", "turnstile")
    client = public_client(services)
    hcaptcha = remote(services, "hcaptcha")
    double.behaviour["hcaptcha"] = "down"
    assert_problem(present(client, "hcaptcha", double.token("hcaptcha")), "provider-unavailable", 503)
    assert state(services, "hcaptcha") == "up" and hcaptcha.check_due.is_set()
    hcaptcha.check()
    assert state(services, "hcaptcha") == "down"
    double.behaviour["hcaptcha"] = "right"
    assert present(client, "hcaptcha", double.token("hcaptcha")).status_code == 201
    assert state(services, "hcaptcha") == "up"


def test_request_that_waits_for_a_provider_holds_no_place(make, double, monkeypatch):
    """One that calculates keeps its own: so many calculate at a time, and no more."""
    services = make("turnstile", "altcha")
    client, places, free = public_client(services), threading.Semaphore(0), {}
    verify = services.captcha.verify

    def watched(name, *more):
        free[name] = places.acquire(blocking=False)
        if free[name]:
            places.release()
        return verify(name, *more)

    monkeypatch.setattr(services.captcha, "verify", watched)
    for name in ("turnstile", "altcha"):
        solution = double.token(name, action="launch") if name == "turnstile" else "wrong"
        client.post("/egress/passes", json={"provider": name, "solution": solution}, environ_overrides={PLACES: places})
        assert not places.acquire(blocking=False), "it has a place again"
    assert free == {"turnstile": True, "altcha": False}


def test_hanging_calls_of_clients_do_not_hold_up_the_self_check(make, double, monkeypatch):
    monkeypatch.setattr("verifier.captcha.siteverify.ASK_LIMIT_SECONDS", 2)
    turnstile = remote(make("turnstile"), "turnstile")
    end = threading.Event()
    for _ in range(CALLS_AT_A_TIME):
        turnstile.pool.submit(end.wait, 20)
    double.behaviour["turnstile"] = "down"
    turnstile.check()
    end.set()
    assert turnstile.state is State.DOWN


@pytest.mark.parametrize("on_outage", ["proofOfWork", "allow"])
def test_client_cannot_cause_an_outage(make, double, monkeypatch, on_outage):
    """For example with text that a firewall takes for an attack, or that makes the provider fail."""
    services = make("hcaptcha", captcha_on_outage=on_outage)
    client = public_client(services)
    answer = double.app.view_functions["hcaptcha"]

    def firewall():
        from flask import request

        return ("<h1>Blocked</h1>", 403) if "<script>" in request.form["response"] else answer()

    monkeypatch.setitem(double.app.view_functions, "hcaptcha", firewall)
    for number in range(5):
        assert_problem(present(client, "hcaptcha", f"<script>{number}"), "provider-unavailable", 503)
    assert names(client) == [("hcaptcha", "verified", "interactive")]
    remote(services, "hcaptcha").check()
    assert names(client) == [("hcaptcha", "verified", "interactive")]


@pytest.mark.parametrize("name", REMOTE)
def test_wrong_solutions_do_not_stop_offers(make, double, name):
    services = make(name)
    client = public_client(services)
    for number in range(5):
        present(client, name, f"{SITE_KEY}:junk:{number}" if name == "cap" else f"junk-{number}")
    assert state(services, name) == "up"


def test_client_cannot_cause_a_misconfiguration_but_a_self_check(make, double):
    services = make("turnstile")
    client = public_client(services)
    double.behaviour["turnstile"] = "misconfigured"
    for _ in range(5):
        assert_problem(present(client, "turnstile", double.token("turnstile")), "provider-misconfigured", 503)
    assert state(services, "turnstile") == "up"
    assert remote(services, "turnstile").check_due.is_set()


def test_provider_with_vague_answers_stays_offered_whatever_clients_send(make, double, monkeypatch):
    from flask import jsonify

    services = make("prosopo")
    client = public_client(services)
    # The answer of its open source to unreadable input.
    monkeypatch.setitem(double.app.view_functions, "prosopo", lambda: (jsonify(error={"code": 500}), 500))
    for _ in range(5):
        assert_problem(present(client, "prosopo", "junk"), "provider-unavailable", 503)
    assert state(services, "prosopo") == "up"
    remote(services, "prosopo").check()
    assert state(services, "prosopo") == "up"


def test_only_an_accepted_solution_ends_a_misconfiguration(make, double):
    services = make("turnstile")
    client = public_client(services)
    remote(services, "turnstile").state = State.MISCONFIGURED
    present(client, "turnstile", double.token("turnstile", right=False))
    assert state(services, "turnstile") == "misconfigured"
    present(client, "turnstile", double.token("turnstile", action="launch"))
    assert state(services, "turnstile") == "up"


def test_self_checks_run_by_themselves_and_when_due(make, double, monkeypatch):
    monkeypatch.setattr(captcha_module, "CHECK_GAP_SECONDS", 0.01)
    monkeypatch.setattr(captcha_module, "CHECK_TROUBLED_SECONDS", 0.05)
    services = make("turnstile", "hcaptcha")
    double.behaviour["turnstile"] = "down"
    double.behaviour["hcaptcha"] = "hanging"
    began = time.monotonic()
    services.captcha.start()
    # A provider that hangs does so for 20 s.
    assert time.monotonic() - began < 15

    def await_state(name, expected):
        eventually(lambda: state(services, name) == expected, what=lambda: (name, state(services, name)))

    await_state("turnstile", "down")
    double.behaviour["turnstile"] = "misconfigured"
    await_state("turnstile", "misconfigured")
    double.behaviour["turnstile"] = "right"
    await_state("turnstile", "up")
    # Up: the next would be in a quarter of an hour.
    calls = len(double.calls)
    time.sleep(0.2)
    assert [name for name, _ in double.calls[calls:]].count("turnstile") == 0
    double.behaviour["turnstile"] = "misconfigured"
    remote(services, "turnstile").check_due.set()
    await_state("turnstile", "misconfigured")
    double.behaviour["hcaptcha"] = double.behaviour["turnstile"] = "right"
    await_state("hcaptcha", "up")


def test_verifier_process_checks_its_providers(redis_server, double):
    """Threads do not survive gunicorn's fork, so this is about the real process."""
    double.behaviour["turnstile"] = "misconfigured"
    process = VerifierProcess(redis_server, **double.settings("turnstile", "hcaptcha", with_altcha=QUICK["altcha"]))
    try:

        def after_a_check():
            with DIRECT.open(f"{process.internal}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
            return lines if 'binder_egress_captcha_provider_misconfigured{provider="turnstile"} 1.0' in lines else []

        lines = eventually(after_a_check, what="no self-check")
        assert 'binder_egress_captcha_provider_misconfigured{provider="hcaptcha"} 0.0' in lines
        with DIRECT.open(f"{process.public}/egress/challenge", timeout=60) as answer:
            assert [offer["name"] for offer in json.load(answer)["providers"]] == ["hcaptcha", "altcha"]
    finally:
        log = process.stop()
    (line,) = [json.loads(line) for line in log if "captcha.providers" in line]
    assert line["level"] == "error" and "captcha.providers.turnstile is set up wrong" in line["message"]
    assert SECRET not in "\n".join(log)


def test_proxy_of_the_environment_is_used(make, double, monkeypatch):
    """`verifier.extraEnv` in the chart."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"valid": true}')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        client = public_client(make("mcaptcha", options={"mcaptcha": {"apiUrl": "http://captcha.example.org"}}))
        assert present(client, "mcaptcha", "token").status_code == 201
        proxy.shutdown()
    assert asked == ["http://captcha.example.org/api/v1/pow/siteverify"]


def test_checks_come_as_often_as_documented():
    assert (captcha_module.CHECK_TROUBLED_SECONDS, captcha_module.CHECK_UP_SECONDS) == (60, 900)


# -- substitutes


def names(client):
    return [(offer["name"], offer["tier"], offer["kind"]) for offer in offers(client)]


STAND_IN = ("altcha", "small", "proof-of-work")


@pytest.mark.parametrize("trouble", [State.DOWN, State.MISCONFIGURED])
@pytest.mark.parametrize(("on_outage", "in_place"), [("deny", []), ("proofOfWork", [STAND_IN]), ("allow", [STAND_IN])])
def test_proof_of_work_replaces_a_provider_in_trouble(make, on_outage, in_place, trouble):
    services = make("turnstile", captcha_on_outage=on_outage)
    client, internal = public_client(services), internal_client(services)
    assert names(client) == [("turnstile", "verified", "interactive")]
    assert value(internal, "binder_egress_captcha_stand_in") == 0
    remote(services, "turnstile").state = trouble
    assert names(client) == in_place
    assert value(internal, "binder_egress_captcha_stand_in") == len(in_place)
    if in_place:
        answer = present(client, "altcha", solve(client))
        assert (answer.status_code, answer.json["tier"]) == (201, "small")


def test_proof_of_work_replaces_several_providers_once(make):
    services = make("turnstile", "cap", "hcaptcha")
    client = public_client(services)
    remote(services, "cap").state = remote(services, "turnstile").state = State.DOWN
    assert [name for name, *_ in names(client)] == ["altcha", "hcaptcha"]


def test_enabled_proof_of_work_is_not_offered_twice(make):
    services = make("turnstile", "altcha")
    client = public_client(services)
    remote(services, "turnstile").state = State.DOWN
    assert names(client) == [("altcha", "verified", "proof-of-work")]
    assert value(internal_client(services), "binder_egress_captcha_stand_in") == 0


def test_replacement_counts_after_the_outage_and_at_other_replicas(make):
    services, other = make("turnstile"), make("turnstile")
    client = public_client(services)
    remote(services, "turnstile").state = State.DOWN
    solutions = [solve(client), solve(client)]
    remote(services, "turnstile").state = State.UP
    assert present(client, "altcha", solutions[0]).status_code == 201
    assert present(public_client(other), "altcha", solutions[1]).status_code == 201


def test_proof_of_work_from_elsewhere_replaces_no_provider(make):
    """A federation member with the same keys may always offer ALTCHA; here it is for outages only."""
    solution = solve(public_client(make("altcha")))
    assert_problem(present(public_client(make("turnstile")), "altcha", solution), "solution-refused", 403)


def test_unchecked_solution_does_not_count_without_an_outage(make, double):
    services = make("turnstile", captcha_on_outage="allow")
    client = public_client(services)
    double.behaviour["turnstile"] = "down"
    for _ in range(2):
        assert_problem(present(client, "turnstile", double.token("turnstile", action="launch")), "provider-unavailable", 503)


@pytest.mark.parametrize("on_outage", ["deny", "proofOfWork", "allow"])
def test_unchecked_solution_counts_only_if_the_operator_chose_that(make, double, on_outage):
    services = make("turnstile", captcha_on_outage=on_outage, pass_servers=3)
    client, internal = public_client(services), internal_client(services)
    double.behaviour["turnstile"] = "down"
    remote(services, "turnstile").check()
    token = double.token("turnstile", action="launch")
    answer = present(client, "turnstile", token)
    labels = {"provider": "turnstile", "purpose": "launch"}
    if on_outage == "allow":
        assert (answer.status_code, answer.json["tier"], answer.json["servers"]) == (201, "verified", 3)
        assert value(internal, "binder_egress_solutions_total", outcome="unchecked", **labels) == 1
        assert value(internal, "binder_egress_solutions_total", outcome="ok", **labels) == 0
        assert_problem(present(client, "turnstile", token), "solution-refused", 403)
    else:
        assert_problem(answer, "provider-unavailable", 503)
        assert value(internal, "binder_egress_solutions_total", outcome="unavailable", **labels) == 1


def test_misconfigured_provider_accepts_nothing_unchecked(make, double):
    services = make("turnstile", captcha_on_outage="allow")
    client = public_client(services)
    double.behaviour["turnstile"] = "misconfigured"
    remote(services, "turnstile").check()
    assert_problem(present(client, "turnstile", double.token("turnstile", action="launch")), "provider-misconfigured", 503)


def test_rejected_solution_is_rejected_during_an_outage(make, double):
    services = make("turnstile", captcha_on_outage="allow")
    remote(services, "turnstile").state = State.DOWN
    assert_problem(present(public_client(services), "turnstile", double.token("turnstile", right=False)), "solution-refused", 403)


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
        (
            {"captcha_providers": {"turnstile": {"siteKey": "1x00000000000000000000AA"}}},
            "captcha.providers.turnstile: these are public",
        ),
    ],
)
def test_wrong_options_are_named_at_the_start(make, changed, named):
    with pytest.raises(InvalidSettings) as caught:
        make("turnstile", **changed)
    assert str(caught.value).startswith(named)


def test_unused_options_are_not_read(make):
    make("turnstile", captcha_on_outage="deny", captcha_proof_of_work={"tier": "gold"})
    make("altcha", captcha_proof_of_work={"tier": "gold"})


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"algorithm": "SCRYPT", "cost": 5000}, "cost must be a power of 2 for SCRYPT"),
        ({"algorithm": "SCRYPT", "cost": 65536, "memoryCost": 8}, "cost x memoryCost x parallelism must be at most 262144"),
        ({"algorithm": "ARGON2ID", "cost": 5000, "memoryCost": 1024}, "cost must be at most 10 for ARGON2ID"),
        ({"algorithm": "ARGON2ID", "cost": 1, "memoryCost": 8, "parallelism": 2}, "memoryCost must be at least 8 x parallelism"),
        ({"memoryCost": 32769}, "Input should be less than or equal to 32768"),
    ],
)
def test_unaffordable_cost_is_refused(make, options, sentence):
    with pytest.raises(InvalidSettings, match=re.escape(sentence)) as caught:
        make("altcha", options={"altcha": options})
    assert str(caught.value).startswith("captcha.providers.altcha")


def test_argon2id_without_its_package_is_refused_by_name(make, monkeypatch):
    monkeypatch.setattr("verifier.captcha.altcha.find_spec", lambda name: None)
    with pytest.raises(InvalidSettings, match=r"captcha\.providers\.altcha: algorithm ARGON2ID needs .*argon2-cffi"):
        make("altcha", options={"altcha": HARD[1]})


def test_few_hard_derivations_run_at_a_time(make, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

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
        list(pool.map(lambda _: services.captcha.offers("launch", "198.51.100.7/32", 1), range(16)))
    assert max(most) == 2


def test_outcomes_have_fixed_names():
    assert [outcome.value for outcome in Outcome] == ["ok", "unchecked", "rejected", "misconfigured", "unavailable"]
