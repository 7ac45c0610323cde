"""Remote captcha providers: the request to each, and the meaning of each documented answer and each failure."""

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import parse_qs

import pytest
import requests
import responses

from binder_egress.captcha import ROWS, Captcha, Outcome, State
from binder_egress.captcha import siteverify as adapter
from binder_egress.logs import MAX_LINES
from binder_egress.web.gunicorn import REQUEST_LIMIT_SECONDS
from tests.support.apps import CLIENT

SITE_KEY, SECRET = "site-key-0123", "very-secret-0123"
SELF_HOSTED = {name: {"apiUrl": "https://captcha.example.org"} for name in ("cap", "mcaptcha")}
TOKENS = dict.fromkeys(ROWS, "a-token-of-a-client") | {"cap": f"{SITE_KEY}:id:a-token-of-a-client"}
NOW = "2026-01-02T03:04:05.678Z"

URLS = {
    "hcaptcha": "https://api.hcaptcha.com/siteverify",
    "turnstile": "https://challenges.cloudflare.com/turnstile/v0/siteverify",
    "recaptchaV2": "https://www.google.com/recaptcha/api/siteverify",
    "recaptchaV3": "https://www.google.com/recaptcha/api/siteverify",
    "friendlyCaptcha": "https://global.frcapi.com/api/v2/captcha/siteverify",
    "cap": f"https://captcha.example.org/{SITE_KEY}/siteverify",
    "mcaptcha": "https://captcha.example.org/api/v1/pow/siteverify",
    "prosopo": "https://api.prosopo.io/siteverify",
}

RIGHT = {
    "hcaptcha": {"success": True, "challenge_ts": NOW, "hostname": "hub.example.org"},
    "turnstile": {"success": True, "challenge_ts": NOW, "hostname": "hub.example.org", "error-codes": [], "action": "launch"},
    "recaptchaV2": {"success": True, "challenge_ts": NOW, "hostname": "hub.example.org"},
    "recaptchaV3": {"success": True, "challenge_ts": NOW, "hostname": "hub.example.org", "score": 0.9, "action": "launch"},
    "friendlyCaptcha": {"success": True, "data": {"event_id": "e", "challenge": {"timestamp": NOW, "origin": "hub.example.org"}}},
    "cap": {"success": True},
    "mcaptcha": {"valid": True},
    "prosopo": {"status": "ok", "verified": True},
}
"""The answer of each provider to a right solution."""


def make(name, captcha=(), **options):
    configured = {name: {"siteKey": SITE_KEY} | SELF_HOSTED.get(name, {}) | options}
    return Captcha(configured, ["k" * 32], {"verified"}, **{"secrets": {name.upper(): SECRET}, **dict(captcha)})


def verify(captcha, name, solution=None, purpose="launch"):
    return captcha.verify(name, TOKENS[name] if solution is None else solution, purpose, "198.51.100.7/32", CLIENT)


@pytest.fixture
def net():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture(params=ROWS)
def name(request):
    return request.param


# -- requests


def sent(call):
    body = call.request.body
    if call.request.headers["Content-Type"] == "application/json":
        return json.loads(body)
    return {field: values[0] for field, values in parse_qs(body).items()}


FIELDS = {
    "hcaptcha": {"secret": SECRET, "response": "TOKEN", "sitekey": SITE_KEY},
    "turnstile": {"secret": SECRET, "response": "TOKEN"},
    "recaptchaV2": {"secret": SECRET, "response": "TOKEN"},
    "recaptchaV3": {"secret": SECRET, "response": "TOKEN"},
    "friendlyCaptcha": {"response": "TOKEN", "sitekey": SITE_KEY},
    "cap": {"secret": SECRET, "response": "TOKEN"},
    "mcaptcha": {"secret": SECRET, "token": "TOKEN", "key": SITE_KEY},
    "prosopo": {"secret": SECRET, "token": "TOKEN"},
}


def test_provider_is_asked_as_documented(net, name):
    net.post(URLS[name], json=RIGHT[name])
    assert verify(make(name), name).outcome is Outcome.OK
    (call,) = net.calls
    fields = sent(call)
    assert len(fields.pop("idempotency_key", "")) == (36 if name == "turnstile" else 0)
    assert fields == {field: TOKENS[name] if value == "TOKEN" else value for field, value in FIELDS[name].items()}
    assert call.request.headers.get("X-API-Key") == (SECRET if name == "friendlyCaptcha" else None)
    forms = ("hcaptcha", "recaptchaV2", "recaptchaV3")
    kind = "application/x-www-form-urlencoded" if name in forms else "application/json"
    assert call.request.headers["Content-Type"] == kind
    assert SECRET not in call.request.url
    # The client's address is sent on demand alone.
    verify(make(name, sendAddress=True), name)
    named = [field for field, value in sent(net.calls[1]).items() if value == CLIENT]
    assert named == {"friendlyCaptcha": [], "cap": [], "mcaptcha": [], "prosopo": ["ip"]}.get(name, ["remoteip"])


@pytest.mark.parametrize(
    ("name", "api_url", "url"),
    [
        ("recaptchaV2", "https://www.recaptcha.net/", "https://www.recaptcha.net/recaptcha/api/siteverify"),
        ("cap", "http://cap.captcha.svc:3000", f"http://cap.captcha.svc:3000/{SITE_KEY}/siteverify"),
        ("mcaptcha", "https://example.org/m", "https://example.org/m/api/v1/pow/siteverify"),
    ],
)
def test_another_address_is_a_value(net, name, api_url, url):
    net.post(url, json=RIGHT[name])
    assert verify(make(name, apiUrl=api_url), name).outcome is Outcome.OK


def test_limits_leave_time_for_our_answer():
    assert adapter.CONNECT_SECONDS + adapter.READ_SECONDS <= 5
    assert 2 * (adapter.CONNECT_SECONDS + adapter.READ_SECONDS) <= adapter.ASK_LIMIT_SECONDS < REQUEST_LIMIT_SECONDS


# -- answers

HCAPTCHA = {
    "misconfigured": "missing-input-secret invalid-input-secret sitekey-secret-mismatch not-using-dummy-passcode bad-request "
    "missing-remoteip invalid-remoteip",
    "rejected": "missing-input-response invalid-input-response expired-input-response already-seen-response "
    "invalid-or-already-seen-response",
}
OTHERS = {
    "misconfigured": "missing-input-secret invalid-input-secret bad-request",
    "rejected": "missing-input-response invalid-input-response timeout-or-duplicate",
    "unavailable": "internal-error",
}
CODES = [
    (name, status, {"success": False, "error-codes": [code]}, outcome)
    for name, statuses, codes in (
        ("hcaptcha", [200], HCAPTCHA),
        *((name, [200, 400], OTHERS) for name in ("turnstile", "recaptchaV2", "recaptchaV3")),
    )
    for status in statuses
    for outcome, listed in codes.items()
    for code in listed.split()
]
CODES += [
    ("friendlyCaptcha", status, {"success": False, "error": {"error_code": code, "detail": "."}}, outcome)
    for status, code, outcome in (
        (401, "auth_required", "misconfigured"),
        (401, "auth_invalid", "misconfigured"),
        (400, "sitekey_invalid", "misconfigured"),
        (400, "response_missing", "misconfigured"),
        (400, "bad_request", "misconfigured"),
        (200, "response_invalid", "rejected"),
        (200, "response_timeout", "rejected"),
        (200, "response_duplicate", "rejected"),
    )
]
CODES += [
    ("cap", status, {"success": False, "error": text}, outcome)
    for status, text, outcome in (
        (400, "Missing required parameters", "misconfigured"),
        (403, "Invalid site key or secret", "misconfigured"),
        (404, "Invalid site key or secret", "misconfigured"),
        (404, "Token not found", "rejected"),
        (403, "Token expired", "rejected"),
    )
]
CODES += [("cap", 404, {"error": "Token not found"}, "rejected")]
CODES += [
    # The code that is least the client's fault counts.
    ("turnstile", 200, {"success": False, "error-codes": codes}, outcome)
    for codes, outcome in (
        ([], "rejected"),
        (["invalid-input-response", "invalid-input-secret"], "misconfigured"),
        (["invalid-input-response", "internal-error"], "unavailable"),
        (["something-new"], "unavailable"),
        (["something-new", "invalid-input-response"], "unavailable"),
    )
]
CODES += [
    # These have another shape.
    ("hcaptcha", 200, {"success": False, "error-codes": "invalid-input-response"}, "unavailable"),
    ("hcaptcha", 200, {"success": False, "error-codes": [1]}, "unavailable"),
    ("hcaptcha", 200, {"success": None}, "unavailable"),
    ("hcaptcha", 200, {"error-codes": ["invalid-input-response"]}, "unavailable"),
]
CODES += [
    ("mcaptcha", 200, {"valid": False}, "rejected"),
    ("mcaptcha", 400, {"error": "captcha"}, "rejected"),
    ("mcaptcha", 401, {"error": "Wrong password"}, "misconfigured"),
    ("mcaptcha", 404, {"error": "Not found"}, "misconfigured"),
    ("prosopo", 200, {"status": "API.USER_NOT_VERIFIED", "verified": False}, "rejected"),
    ("prosopo", 200, {"status": "ok", "verified": False}, "rejected"),
    ("prosopo", 401, {"error": {"message": "."}}, "misconfigured"),
    ("prosopo", 403, {"error": {"message": "."}}, "misconfigured"),
    ("prosopo", 400, {"error": {"message": "."}}, "unavailable"),
]


@pytest.mark.parametrize(("name", "status", "body", "outcome"), CODES, ids=str)
def test_each_documented_code_has_its_outcome(net, name, status, body, outcome):
    net.post(URLS[name], json=body, status=status)
    verdict = verify(make(name), name)
    assert verdict.outcome == outcome
    assert not verdict.accepted
    assert ROWS[name].title in verdict.detail


def test_each_code_of_the_table_is_tested(name):
    tested = {code for tested, status, body, _ in CODES if tested == name for code in (json.dumps(body), f"HTTP {status}")}
    assert [code for code in ROWS[name].codes if not any(code in text for text in tested)] == []


def test_token_of_another_cap_site_is_refused_without_a_question(net):
    """Cap answers such a token as it answers an unknown site key."""
    net.post(URLS["cap"], json={"success": False, "error": "Invalid site key or secret"}, status=404)
    for solution in ("x:y:z", "KEYx:y:z", "xKEY:y:z", "key:y:z", "KEY:y", "KEY:y:", "KEY::z", "KEY:y:z:more", "one"):
        solution = solution.replace("KEY", SITE_KEY).replace("key", SITE_KEY.replace("-", "_"))
        verdict = verify(make("cap"), "cap", solution)
        assert (verdict.outcome, verdict.asked) == (Outcome.REJECTED, False), solution
    assert not net.calls


def test_refused_keys_that_anybody_can_cause_are_logged_up_to_a_limit(net, caplog):
    net.post(URLS["hcaptcha"], json={"success": False, "error-codes": ["sitekey-secret-mismatch"]})
    captcha = make("hcaptcha")
    for number in range(MAX_LINES + 10):
        assert verify(captcha, "hcaptcha", f"token-{number}").outcome is Outcome.MISCONFIGURED
    assert caplog.text.count("a solution was answered with: sitekey-secret-mismatch") == MAX_LINES


# -- transport

FAILURES = {
    "refused": {"body": requests.ConnectionError()},
    "the answer takes too long": {"body": requests.ReadTimeout()},
    "a broken answer": {"body": requests.exceptions.ChunkedEncodingError()},
    "no DNS": {"body": OSError("Name or service not known")},
    "500": {"status": 500, "json": {"error": "."}},
    "503": {"status": 503, "body": ""},
    "429": {"status": 429, "body": "slow down"},
    "429 in JSON": {"status": 429, "json": {"success": False}},
    "429 with JSON": {"status": 429, "json": {"success": True, "valid": True, "verified": True}},
    "500 that says yes": {"status": 500, "json": {"success": True, "valid": True, "verified": True}},
    "a redirect": {
        "status": 302,
        "headers": {"Location": "https://elsewhere.example.org/"},
        "json": {"success": True, "valid": True},
    },
    "no JSON": {"body": "<!doctype html><title>Welcome to our network</title>"},
    "nothing": {"body": ""},
    "not UTF-8": {"body": b"\xff\xfe{"},
    "deep nesting": {"body": "[" * 60000},
    "a huge number": {"body": '{"success": ' + "9" * 6000 + "}"},
    "a list": {"json": [True]},
    "an empty object": {"json": {}},
    "text for a boolean": {"json": {"success": "true", "valid": "true", "verified": "true"}},
    "a number for a boolean": {"json": {"success": 1, "valid": 1, "verified": 1}},
    "a huge body": {"json": {"success": True, "valid": True, "verified": True, "more": "x" * 70000}},
    "yes with 201": {"status": 201, "json": {"success": True}},
    "503 that blames the client": {"status": 503, "json": {"success": False, "valid": False, "verified": False}},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_of_the_service_is_attributed_to_the_provider(net, name, failure):
    net.post(URLS[name], **FAILURES[failure])
    net.post("https://elsewhere.example.org/", json=RIGHT[name])
    net.get("https://elsewhere.example.org/", json=RIGHT[name])
    captcha = make(name)
    assert verify(captcha, name).outcome is Outcome.UNAVAILABLE
    assert not [call for call in net.calls if "elsewhere" in call.request.url]
    assert len(net.calls) == 1 or name == "turnstile"


def test_log_has_no_request_text_that_an_error_repeats(net, name, caplog):
    caplog.set_level(logging.DEBUG)
    net.post(URLS[name], body=requests.ConnectionError(f"refused: secret={SECRET}&response={TOKENS[name]}"))
    captcha = make(name)
    verify(captcha, name)
    captcha.remotes[0].check()
    assert "is down, and not offered: ConnectionError." in caplog.text
    assert SECRET not in caplog.text and TOKENS[name] not in caplog.text


@pytest.mark.parametrize(("failure", "times"), [("refused", 2), ("503", 2), ("429", 1), ("429 in JSON", 1), ("no JSON", 2)])
def test_turnstile_is_asked_twice_with_one_key(net, failure, times):
    net.post(URLS["turnstile"], **FAILURES[failure])
    net.post(URLS["turnstile"], json=RIGHT["turnstile"])
    assert verify(make("turnstile"), "turnstile").accepted is (times == 2)
    assert len(net.calls) == times
    assert len({sent(call)["idempotency_key"] for call in net.calls}) == 1


def test_dripping_answer_times_out(monkeypatch):
    """The whole answer takes 25 s, and would be good. Only the limit of a single call ends it."""
    monkeypatch.setattr(adapter, "READ_SECONDS", 2)
    monkeypatch.setattr(adapter, "ASK_LIMIT_SECONDS", 60)

    def drip(listener):
        with listener.accept()[0] as connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 515\r\n\r\n")
            for character in '{"valid": true' + " " * 500 + "}":
                time.sleep(0.05)
                connection.sendall(character.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=[listener], daemon=True).start()
        captcha = make("mcaptcha", apiUrl=f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert verify(captcha, "mcaptcha").outcome is Outcome.UNAVAILABLE


def test_hanging_provider_has_a_limit_of_calls(net, monkeypatch):
    monkeypatch.setattr(adapter, "ASK_LIMIT_SECONDS", 0.3)
    release = threading.Event()

    def hang(request):
        release.wait(100)
        return 200, {}, json.dumps(RIGHT["hcaptcha"])

    net.add_callback(responses.POST, URLS["hcaptcha"], hang)
    captcha = make("hcaptcha")
    more = adapter.CALLS_AT_A_TIME + 5
    with ThreadPoolExecutor(more) as pool:
        outcomes = {each.result(60).outcome for each in [pool.submit(verify, captcha, "hcaptcha") for _ in range(more)]}
    assert outcomes == {Outcome.UNAVAILABLE}
    release.set()
    captcha.remotes[0].pool.shutdown()
    assert len(net.calls) == adapter.CALLS_AT_A_TIME


def test_provider_that_was_not_asked_is_not_checked(net, monkeypatch):
    """That too many calls are under way says nothing about the provider."""
    monkeypatch.setattr(adapter, "ASK_LIMIT_SECONDS", 0.1)
    captcha, release = make("hcaptcha"), threading.Event()
    (remote,) = captcha.remotes
    for _ in range(adapter.CALLS_AT_A_TIME):
        remote.pool.submit(release.wait, 100)
    outcome = verify(captcha, "hcaptcha").outcome
    release.set()
    assert (outcome, remote.state, remote.check_due.is_set()) == (Outcome.UNAVAILABLE, State.UP, False)


# -- solutions


@pytest.mark.parametrize("solution", ["", " ", "a b", "ä", "a\nb", "\x00", "\ud800", "x\x7f"])
def test_impossible_solution_is_not_sent(net, name, solution):
    assert verify(make(name), name, solution).outcome is Outcome.REJECTED
    # As long as is documented.
    assert verify(make("turnstile"), "turnstile", "x" * 2049).outcome is Outcome.REJECTED
    assert len(net.calls) == 0


def test_right_solution_gets_a_full_verdict(net, name):
    net.post(URLS[name], json=RIGHT[name])
    now = time.time()
    verdict = verify(make(name, tier="verified"), name)
    assert verdict.outcome is Outcome.OK and verdict.accepted
    assert (verdict.tier, verdict.price, verdict.detail) == ("verified", None, "")
    timed = name not in ("cap", "mcaptcha", "prosopo")
    assert verdict.issued_at == pytest.approx(1767323045.678 if timed else now, abs=2)
    assert verdict.expires_at == pytest.approx(now + ROWS[name].life, abs=2)
    assert len(verdict.solution_id) == 64
    # Solutions are told apart, and not kept.
    captcha = make("hcaptcha")
    net.post(URLS["hcaptcha"], json=RIGHT["hcaptcha"])
    ids = [verify(captcha, "hcaptcha", solution).solution_id for solution in ("one", "two", "one")]
    assert ids[0] == ids[2] != ids[1] and "one" not in ids[0]


@pytest.mark.parametrize("moment", [None, "", "yesterday", [], {}, True, 1e300, -1, "9999999999999"])
def test_invalid_time_does_no_harm(net, moment):
    net.post(URLS["hcaptcha"], json=RIGHT["hcaptcha"] | {"challenge_ts": moment})
    verdict = verify(make("hcaptcha"), "hcaptcha")
    assert verdict.outcome is Outcome.OK
    assert verdict.issued_at == pytest.approx(time.time(), abs=5)


HOSTS = {"hostnames": frozenset({"hub.example.org"})}


def with_host(name, host):
    if name == "friendlyCaptcha":
        return {"success": True, "data": {"challenge": {"origin": host}}}
    return RIGHT[name] | {"hostname": host}


@pytest.mark.parametrize("name", ["hcaptcha", "turnstile", "recaptchaV2", "recaptchaV3", "friendlyCaptcha"])
@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("hub.example.org", True),
        ("https://hub.example.org", True),
        ("hub.example.org:8443", True),
        ("evil.example.org", False),
        ("evil.hub.example.org", False),
        ("hub.example.org.evil.example", False),
        ([], None),
        (7, False),
        ("", None),
        (None, None),
        ("not-provided", None),
    ],
)
def test_solution_from_a_page_of_another_site_is_refused(net, name, host, accepted):
    net.post(URLS[name], json=with_host(name, host))
    assert verify(make(name), name).accepted
    expected = name in ("hcaptcha", "friendlyCaptcha") if accepted is None else accepted
    assert verify(make(name, HOSTS), name).outcome is (Outcome.OK if expected else Outcome.REJECTED)


@pytest.mark.parametrize("name", ["turnstile", "recaptchaV3"])
@pytest.mark.parametrize("action", ["unlock", "", None, ["launch"], 1])
def test_solution_for_another_purpose_is_refused(net, name, action):
    net.post(URLS[name], json=RIGHT[name] | {"action": action})
    assert verify(make(name), name).outcome is Outcome.REJECTED


@pytest.mark.parametrize(
    ("score", "threshold", "accepted"),
    [
        (0.5, None, True),
        (0.49, None, False),
        (0.3, 0.3, True),
        (0.9, 0.95, False),
        (0, 0, True),
        (1, 1, True),
        (None, None, False),
        ("0.9", None, False),
        (True, None, False),
        (float("nan"), None, False),
        ([], None, False),
    ],
)
def test_low_score_is_refused(net, score, threshold, accepted):
    net.post(URLS["recaptchaV3"], body=json.dumps(RIGHT["recaptchaV3"] | {"score": score}))
    captcha = make("recaptchaV3", **({} if threshold is None else {"score": threshold}))
    assert verify(captcha, "recaptchaV3").outcome is (Outcome.OK if accepted else Outcome.REJECTED)


# -- settings


def refusal(name, captcha=(), **options):
    with pytest.raises(ValueError) as caught:
        make(name, captcha, **options)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"siteKey": ""}, "siteKey"),
        ({"siteKey": "a/../b"}, "siteKey"),
        ({"apiUrl": "challenges.cloudflare.com"}, "apiUrl"),
        ({"apiUrl": "https://user:password@captcha.example.org"}, "apiUrl"),
        ({"widgetUrl": "https://a; script-src *"}, "widgetUrl"),
        ({"tier": "gold"}, "tier"),
        ({"secret": SECRET}, "secret"),
    ],
)
def test_wrong_option_is_named(name, options, named):
    assert refusal(name, **options).startswith(f"captcha.providers.{name}.{named}: ")


def test_score_and_an_empty_address_are_for_those_that_can_have_them(name):
    if name in SELF_HOSTED:
        assert refusal(name, apiUrl="").startswith(f"captcha.providers.{name}.apiUrl: ")
    if name == "recaptchaV3":
        assert refusal(name, score=1.1).startswith("captcha.providers.recaptchaV3.score: ")
    else:
        assert refusal(name, score=0.5) == f"captcha.providers.{name}.score: {ROWS[name].title} has no score."


@pytest.mark.parametrize("secrets", [{}, {"OTHER": SECRET}, {"NAME": ""}, {"NAME": SECRET + "\nmore"}, {"NAME": SECRET + " x"}])
def test_missing_or_impossible_secret_is_refused(name, secrets):
    secrets = {name.upper() if key == "NAME" else key: value for key, value in secrets.items()}
    assert refusal(name, {"secrets": secrets}).startswith(f"captcha.providers.{name}: ")


TEST_KEYS = [
    *((name, key, SECRET) for name, row in ROWS.items() for key in sorted(row.test_site_keys)),
    *((name, SITE_KEY, secret) for name, row in ROWS.items() for secret in sorted(row.test_secrets)),
]


@pytest.mark.parametrize(("name", "site_key", "secret"), TEST_KEYS)
def test_public_test_keys_are_refused_unless_allowed(net, caplog, monkeypatch, name, site_key, secret):
    secrets = {"secrets": {name.upper(): secret}}
    assert "captcha.allowTestKeys" in refusal(name, secrets, siteKey=site_key)
    captcha = make(name, secrets | HOSTS | {"allow_test_keys": True}, siteKey=site_key)
    monkeypatch.setattr("binder_egress.captcha.keep_checking", lambda provider: None)
    captcha.start()
    assert f"captcha.providers.{name}: public test keys; anybody gets through" in caplog.text
    # The answers to test keys name a host of the provider's, and no purpose.
    body = RIGHT[name] | ({"hostname": "testkey.google.com"} if "hostname" in RIGHT[name] else {})
    body.pop("action", None)
    net.post(URLS[name], json=body)
    assert verify(captcha, name).accepted
    captcha.remotes[0].check()
    assert captcha.remotes[0].state is State.UP


def test_self_check_of_test_keys_proves_nothing(net):
    """hCaptcha says this about every solution but the one of its test keys."""
    (secret,) = ROWS["hcaptcha"].test_secrets
    captcha = make("hcaptcha", {"secrets": {"HCAPTCHA": secret}, "allow_test_keys": True})
    net.post(URLS["hcaptcha"], json={"success": False, "error-codes": ["not-using-dummy-passcode"]})
    captcha.remotes[0].check()
    assert captcha.remotes[0].state is State.UP
