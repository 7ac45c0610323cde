"""Passes: which tokens a launch may present."""

import base64
import logging
import math
import time
import zlib
from dataclasses import asdict, replace

import pytest
from itsdangerous import URLSafeSerializer

from binder_egress.model.passes import LEEWAY_SECONDS, MAX_TOKEN_CHARACTERS, BadPass, Pass, Passes, serializer
from tests.support.apps import KEYS, get_pass, internal_client, launch, run_pod

OLD, NEW = KEYS.splitlines()


@pytest.fixture
def passes():
    return Passes([OLD, NEW])


def make_pass(**changes):
    return replace(Passes.new("verified", 1, time.time(), 300), **changes)


def outcome(internal, token, **fields):
    decision = launch(internal, token=token, **fields)
    granted = decision["tier"] != "unverified"
    assert granted == (decision["rule"] == "valid-pass") == (decision["pass_outcome"] in ("free", "held", "moved"))
    return decision["pass_outcome"]


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda token: token[:-1], id="truncated"),
        pytest.param(lambda token: token.rpartition(".")[0], id="no signature"),
        pytest.param(lambda token: token.rpartition(".")[0] + ".", id="empty signature"),
        pytest.param(lambda token: "." + token, id="said to be compressed"),
        pytest.param(lambda token: token + token, id="twice"),
        pytest.param(lambda token: token.swapcase(), id="other case"),
        pytest.param(lambda token: ("B" if token[0] == "A" else "A") + token[1:], id="one letter changed"),
        pytest.param(lambda token: token + "A" * 1024, id="oversized"),
        pytest.param(lambda token: "A" * 100_000, id="a hundred kilobytes"),
        pytest.param(lambda token: "ä.ö", id="not ASCII"),
        pytest.param(lambda token: "\x00", id="NUL"),
    ],
)
def test_forged_token_is_refused(internal, public, forge):
    assert outcome(internal, forge(get_pass(public))) == "invalid"


def test_token_with_a_raised_number_of_servers_is_refused(internal, passes):
    issued = make_pass()
    _, _, signature = passes.sign(issued).rpartition(".")
    body, _, _ = Passes(["x" * 32]).sign(replace(issued, servers=100)).rpartition(".")
    assert outcome(internal, f"{body}.{signature}") == "invalid"


TOKENS = {
    ".eJyrVspMUbJSSszTBdI6SiWZqUVAbllqUWZaZipIpDi1CMgrVrIy0lHKTCxRsjI0MDDQM9BRSq0oAHKMQZxaAPLCFEc"
    ".v-jK2dyH3Rx9K-c2uole0lChmOqNZKrfjBFO4EPVl-Y": Pass("an-id", "verified", 2, 1000.0, 1300.0),
    ".eJwly1sKgDAMRNG9zHeV1PrsbqpGCIJIW0QR927Er-EM3BsywyNsha5BFo7Kg6Mswt-TOKoSfGUgIcNbIirJgM9d4X6sfGlGtnJ103b9EMZp5gXPCzkvGuA"
    ".kjCRXbF4uG_kO3v6xxw2KIiq0TY1wy4JR8iBc3W_zJE": Pass("an-id", "verified", 2, 1000.0, 1300.0, "0123456789abcdef"),
}
"""Tokens as members of a federation send them to each other, and as an earlier version signed them."""


@pytest.mark.parametrize("token", TOKENS, ids=["solution", "API key"])
def test_token_of_another_version_is_read(passes, token):
    assert passes.read(token, 1100) == TOKENS[token]


def test_token_for_a_solution_has_no_field_for_a_key(passes):
    """A member of a federation whose version does not know the field would reject it."""
    assert set(serializer([NEW]).loads(passes.sign(make_pass()))) == {"id", "tier", "servers", "iat", "exp"}
    assert serializer([NEW]).loads(passes.sign(make_pass(key="0123456789abcdef")))["key"] == "0123456789abcdef"


def test_token_that_is_too_long_or_cannot_be_encoded_is_refused(passes):
    long = passes.sign(make_pass(tier="".join(map(str, range(1000)))))
    assert len(long) > MAX_TOKEN_CHARACTERS
    with pytest.raises(BadPass, match="too long"):
        passes.read(long, time.time())
    with pytest.raises(BadPass):
        passes.read(passes.sign(make_pass()) + "\udc8a", time.time())


UNLISTED = ("removed-key-0123456789abcdef0123456789", OLD + "x", OLD[:-1], "a" * 32)


@pytest.mark.parametrize(("key", "expected"), [(OLD, "free"), (NEW, "free"), *((key, "invalid") for key in UNLISTED)])
def test_token_counts_that_is_signed_by_any_listed_key_for_this_purpose(internal, key, expected):
    assert outcome(internal, Passes([key]).sign(make_pass())) == expected
    other = URLSafeSerializer([key], salt="something else").dumps(asdict(make_pass()))
    assert outcome(internal, other) == "invalid"


FIELDS = {
    "id": (1, "", "a:b"),
    "tier": (None, ["verified"]),
    "servers": ("1", 1.5),
    "iat": ("1000", math.nan, None),
    "exp": ([], math.nan, math.inf),
    "key": (1,),
    "more": (1,),
}
CONTENTS = [asdict(make_pass()) | {field: value} for field, values in FIELDS.items() for value in values]


@pytest.mark.parametrize("content", [None, [], {}, "text", 1, {"id": "x"}, *CONTENTS])
def test_signed_token_of_another_shape_or_with_a_field_of_another_type_is_refused(internal, content):
    """A member of a federation signs with its own program."""
    assert outcome(internal, serializer([NEW]).dumps(content)) == "invalid"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut"),
        pytest.param("[" * 100_000, id="nested"),
        pytest.param("\udc8a", id="bytes that are not UTF-8"),
        pytest.param(r'{"id": "\ud800", "tier": "verified", "servers": 1, "iat": 0, "exp": 9e9}', id="half a character"),
    ],
)
def test_signed_text_that_no_verifier_writes_is_refused(internal, text):
    signer = serializer([NEW]).make_signer("binder-egress pass")
    body = base64.urlsafe_b64encode(zlib.compress(text.encode(errors="surrogateescape"))).rstrip(b"=")
    assert outcome(internal, signer.sign(b"." + body).decode()) == "invalid"


def test_leeway_of_a_minute_is_reached_to_the_second(passes):
    issued = Pass("an-id", "verified", 1, 1000.0, 1300.0)
    token = passes.sign(issued)
    for within in (issued.iat - LEEWAY_SECONDS, issued.exp + LEEWAY_SECONDS):
        assert passes.read(token, within) == issued
    for without in (issued.iat - LEEWAY_SECONDS - 0.1, issued.exp + LEEWAY_SECONDS + 0.1):
        with pytest.raises(BadPass):
            passes.read(token, without)


@pytest.mark.parametrize(
    ("age", "lifetime", "expected"), [(100, 86400, "free"), (350, 86400, "free"), (370, 86400, "expired"), (200, 60, "expired")]
)
def test_pass_of_a_member_counts_for_the_shorter_of_both_lifetimes(internal, passes, old_epoch, age, lifetime, expected):
    iat = time.time() - age
    assert outcome(internal, passes.sign(make_pass(iat=iat, exp=iat + lifetime))) == expected


def test_uses_of_a_pass_with_a_longer_lifetime_are_remembered_no_longer(internal, passes, in_redis):
    used = make_pass(exp=time.time() + 10 * 86400)
    assert outcome(internal, passes.sign(used)) == "free"
    assert in_redis.ttl(f"binder-egress:pass:{used.id}") < 86400


def test_pass_of_a_member_with_more_servers_counts_for_as_many_as_the_sites_own(make_services, passes):
    internal = internal_client(make_services(pass_servers=2))
    token = passes.sign(make_pass(servers=5))
    assert [outcome(internal, token, user=user, repository=user) for user in "abc"] == ["free", "free", "used-up"]
    token = passes.sign(make_pass(servers=1))
    assert [outcome(internal, token, user=user, repository=user) for user in "ab"] == ["free", "used-up"]


@pytest.fixture
def old_epoch(services, in_redis):
    in_redis.set("binder-egress:epoch", time.time() - 86400)


@pytest.mark.parametrize(
    ("expired", "requested", "expected"),
    [
        pytest.param(1800, 1900, "free", id="requested before it expired, half an hour of build"),
        pytest.param(3500, 3550, "free", id="just within the limit"),
        pytest.param(1800, 1700, "expired", id="requested after it expired"),
        pytest.param(3700, 3900, "expired", id="the build took longer than the limit"),
        pytest.param(86000, 86100, "expired", id="a lie: requested a day ago"),
        pytest.param(7200, 1e9, "expired", id="a lie: requested decades ago"),
    ],
)
def test_pass_is_judged_by_the_time_of_the_launch_request(internal, passes, old_epoch, expired, requested, expected):
    now = time.time()
    token = passes.sign(make_pass(iat=now - expired - 300, exp=now - expired))
    assert outcome(internal, token, requested_at=max(0, now - requested)) == expected


def test_new_pass_counts_whatever_the_clock_of_binderhub_says(internal, public):
    for requested_at in (*(time.time() + seconds for seconds in (-1e9, -600, -65, 65, 600)), 0, 1, 1e11, None):
        assert outcome(internal, get_pass(public), requested_at=requested_at) == "free", requested_at


def test_request_from_the_future_does_not_validate_a_future_pass(internal, passes):
    ahead = time.time() + 7200
    token = passes.sign(make_pass(iat=ahead, exp=ahead + 300))
    assert outcome(internal, token, requested_at=ahead) == "invalid"


@pytest.mark.parametrize("tier", ["gold", "unverified"])
def test_pass_for_a_tier_that_this_site_does_not_give_is_refused(internal, passes, tier):
    assert outcome(internal, passes.sign(make_pass(tier=tier))) == "unknown-tier"


def test_refused_unlock_is_logged_with_the_repository(public, store, caplog):
    run_pod(store)
    with caplog.at_level(logging.INFO):
        public.post("/egress/servers/alice", json={"token": "rubbish"})
    (fields,) = [record.fields for record in caplog.records if record.getMessage() == "unlock"]
    assert (fields["rule"], fields["repository"]) == ("invalid", "https://example.com/a/b")
