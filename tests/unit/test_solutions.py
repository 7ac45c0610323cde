"""Solutions of ALTCHA challenges: which ones are accepted, and how a second use is refused."""

import base64
import json
import math
import time

import altcha
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from binder_egress.web.problems import TYPE
from tests.support.apps import KEYS, get_pass, launch, public_client, run_pod, solve
from tests.support.charges import present

OLD, NEW = KEYS.splitlines()


def assert_refused(answer, detail=""):
    assert answer.status_code == 403, answer.text
    assert answer.json["type"] == TYPE + "solution-refused"
    assert detail in answer.json["detail"]


def opened(solution):
    return json.loads(base64.b64decode(solution))


def closed(payload, **options):
    text = payload if isinstance(payload, str) else json.dumps(payload, **options)
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def test_solution_gives_a_pass_for_one_server(public):
    answer = present(public, solve(public))
    assert answer.status_code == 201
    assert answer.json.keys() == {"token", "expires_in", "servers", "tier", "promise"}
    assert (answer.json["expires_in"], answer.json["servers"], answer.json["tier"]) == (300, 1, "verified")


PARAMETERS = {"algorithm": "SHA-256", "cost": 1, "keyLength": 32, "keyPrefix": "00", "nonce": "00", "salt": "00"}
SOLUTION = {"counter": 1, "derivedKey": "00"}


def with_parameter(field, value):
    return closed({"challenge": {"parameters": PARAMETERS | {field: value}, "signature": "aa"}, "solution": SOLUTION})


DEEP = with_parameter("data", "DEEP")
WRONG = {"algorithm": ["x"], "cost": "many", "nonce": {}, "salt": None, "keyLength": -1, "keyPrefix": 7, "data": "text"}
NO_TIMES = ["soon", 10**300, -1, math.inf, math.nan, True, [], {}]
BAD = {
    "empty": "",
    "not base64": "not base64!",
    "not ASCII": "ÄÖÜ",
    "NULs": "\x00" * 40,
    "not JSON": closed("{"),
    "not text": base64.b64encode(b"\xff\xfe\x00\xd8").decode(),
    "lists for objects": closed({"challenge": [], "solution": []}),
    "nulls for objects": closed({"challenge": {"parameters": None}, "solution": None}),
    "text for parameters": closed({"challenge": {"parameters": "x"}, "solution": SOLUTION}),
    "no signature": closed({"challenge": {"parameters": PARAMETERS}, "solution": SOLUTION}),
    "a list": closed({"challenge": {"parameters": PARAMETERS, "signature": []}, "solution": SOLUTION}),
    "half": closed({"challenge": {"parameters": PARAMETERS, "signature": "\ud800"}, "solution": SOLUTION}),
    "deep nesting": closed("[" * 3000),
    "deep data": closed(json.dumps(opened(DEEP)).replace('"DEEP"', '{"a":' * 400 + "1" + "}" * 400)),
    "a very long number": closed('{"challenge":' + "9" * 2900 + "}"),
    **{f"JSON {value!r:.30}": closed(value) for value in (None, 1, "x", [], {}, [{}], {"challenge": None})},
    **{f"{field} {value!r:.20}": with_parameter(field, value) for field, value in WRONG.items()},
    **{f"expiresAt {value!r:.12}": with_parameter("expiresAt", value) for value in NO_TIMES},
}


@pytest.mark.parametrize("solution", BAD.values(), ids=BAD)
def test_bad_payload_is_refused(public, solution):
    assert_refused(present(public, solution))


def test_oversized_or_expired_solution_is_refused(public, monkeypatch):
    solution = solve(public)
    assert_refused(present(public, closed(opened(solution) | {"padding": "x" * 4096})), "not an ALTCHA payload")
    later = time.time() + 601
    monkeypatch.setattr(time, "time", lambda: later)
    assert_refused(present(public, solution), "expired")


def changed(payload, path, change):
    """Change a field, which a dotted path names; `None` takes it away."""
    *parents, last = path.split(".")
    for parent in parents:
        payload = payload[parent]
    payload[last] = change(payload.get(last))
    if payload[last] is None:
        del payload[last]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        # The derived key of another counter may have the right prefix, too. The signed key makes it worthless.
        ("solution.counter", lambda counter: counter + 1),
        ("solution.derivedKey", str.upper),
        ("challenge.signature", str.upper),
        ("challenge.parameters.nonce", str.upper),
        ("challenge.parameters.nonce", lambda nonce: nonce + " "),
        ("challenge.parameters.expiresAt", float),
        ("solution.time", lambda _: 123456.789),
        ("solution.time", lambda _: None),
        *((f"{part}extra", lambda _: 1) for part in ("", "challenge.", "solution.", "challenge.parameters.")),
    ],
)
def test_used_solution_in_another_form_is_refused(public, path, change):
    solution = solve(public)
    assert present(public, solution).status_code == 201
    payload = opened(solution)
    changed(payload, path, change)
    assert_refused(present(public, closed(payload)))


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(lambda text: closed(json.loads(text), indent=7), id="white space"),
        pytest.param(lambda text: closed(json.loads(text), sort_keys=True), id="sorted keys"),
        pytest.param(lambda text: closed(f'{text[:-1]},"challenge":{json.dumps(json.loads(text)["challenge"])}}}'), id="key twice"),
        pytest.param(lambda text: base64.b64encode(text.encode("utf-16")).decode(), id="UTF-16"),
        pytest.param(lambda text: closed(text).rstrip("="), id="no padding"),
        pytest.param(lambda text: closed(text) + "\n", id="a line feed in base64"),
        pytest.param(lambda text: " " + closed(text), id="a space in base64"),
        pytest.param(lambda text: closed(text).replace("+", "-").replace("/", "_"), id="URL-safe base64"),
        pytest.param(lambda text: closed(text + " ")[:-1] + "!", id="rubbish in base64"),
    ],
)
def test_used_solution_in_another_encoding_is_refused(public, encode):
    solution = solve(public)
    assert present(public, solution).status_code == 201
    assert_refused(present(public, encode(base64.b64decode(solution).decode())))


def test_solution_in_another_form_uses_up_the_original(public):
    solution = solve(public)
    payload = opened(solution)
    for part in ("", "challenge.", "solution.", "challenge.parameters."):
        changed(payload, f"{part}extra", lambda _: 1)
    assert present(public, closed(payload, indent=1)).status_code == 201
    assert_refused(present(public, solution), "has been used")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        *((f"challenge.parameters.data.{field}", lambda _: "unlock") for field in ("purpose", "network", "issued")),
        ("challenge.parameters.expiresAt", lambda expiry: expiry + 10_000),
        ("solution.derivedKey", lambda _: "00" * 32),
    ],
)
def test_changed_challenge_and_wrong_solution_are_refused(public, path, change):
    payload = opened(solve(public))
    changed(payload, path, change)
    assert_refused(present(public, closed(payload)), "The solution is wrong or its challenge was not issued here.")


def test_challenge_is_for_its_purpose(public, store):
    assert_refused(present(public, solve(public, "unlock")), "purpose=launch")
    run_pod(store)
    answer = public.post("/egress/servers/alice", json={"provider": "altcha", "solution": solve(public)})
    assert_refused(answer, "purpose=unlock")


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        ("198.51.100.7", "198.51.100.8", False),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("198.51.100.7", "10.0.0.1", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("198.51.100.7", "::ffff:198.51.100.7", True),
        ("10.0.0.1", "192.168.3.4", True),
    ],
)
def test_solution_is_accepted_from_its_network_alone(services, here, there, same):
    answer = present(public_client(services, there), solve(public_client(services, here)))
    if same:
        assert answer.status_code == 201
    else:
        assert_refused(answer, "another network")


def test_challenge_signed_by_an_older_key_is_accepted_and_by_a_removed_one_refused(make_services, public):
    old = public_client(make_services(signing_keys=OLD))
    assert present(public, solve(old)).status_code == 201
    assert_refused(present(old, solve(public)), "not issued here")


def test_challenge_signed_by_somebody_else_is_refused(public):
    data = {"purpose": "launch", "network": "198.51.100.7/32", "issued": time.time()}
    named = {"expires_at": int(time.time()) + 600, "data": data, "hmac_secret": "a" * 64, "hmac_key_secret": "b" * 64}
    challenge = altcha.create_challenge("SHA-256", 1, counter=1, **named)
    payload = altcha.Payload(challenge, altcha.solve_challenge(challenge))
    assert_refused(present(public, payload.to_base64()), "not issued here")


def test_pass_and_solution_are_not_interchangeable(public, internal):
    assert_refused(present(public, get_pass(public)))
    assert launch(internal, token=solve(public))["pass_outcome"] == "invalid"


def test_spent_solution_gives_no_second_pass_after_a_wipe_and_a_new_one_does(public, redis_server):
    solution = solve(public)
    assert present(public, solution).status_code == 201
    redis_server.wipe()
    # Without a readiness probe in between.
    assert present(public, solve(public)).status_code == 201
    assert_refused(present(public, solution), "may have been")


# -- random input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


CHANGES = st.dictionaries(
    st.sampled_from([*PARAMETERS, *SOLUTION, "expiresAt", "data", "keySignature", "memoryCost", "time", "x"]), JSON, max_size=4
)


def changed_by(changes):
    return closed({"challenge": {"parameters": PARAMETERS | changes, "signature": "aa"}, "solution": SOLUTION | changes})


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300).map(lambda raw: base64.b64encode(raw).decode()) | JSON.map(closed) | CHANGES.map(changed_by))
@example(changed_by({"data": {"__proto__": 1}}))
def test_random_solution_causes_no_fault(public, solution):
    answer = present(public, solution)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.content_type == "application/problem+json"


def test_solution_is_accepted_by_one_member_of_a_federation_only(make_services):
    """Members share signing keys, but not the list of used solutions."""
    member = public_client(make_services())
    other = public_client(make_services(api_token="another-token-of-another-member-00"))
    solution = solve(member)
    assert_refused(present(other, solution), "not issued here")
    assert present(member, solution).status_code == 201
