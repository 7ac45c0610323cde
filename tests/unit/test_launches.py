"""Launches: the decision that BinderHub's hook receives, and claims about the client, which are counted and decide nothing."""

import itertools
import json
import logging

import pytest

from binder_egress.model.grants import NoEgress
from binder_egress.model.records import Record, Server
from binder_egress.model.repositories import cut
from binder_egress.store.announcements import Announced
from binder_egress.web.claims import CLAIMS, claim_of
from binder_egress_client.verifier import USER_AGENT
from tests.support.apps import get_pass, launch
from tests.support.metrics import families, value


def test_launch_of_a_newer_hook_is_decided(public, internal):
    """After a rollback of the gate, the hook is still of the later version. Fields that the gate does not know change nothing."""
    newer = {"later": {"x": 1}, "tier": "verified"}
    assert launch(internal, user="alice", **newer)["tier"] == "unverified"
    assert launch(internal, user="bob", token=get_pass(public), **newer)["tier"] == "verified"


def test_repository_of_any_length_is_recorded_and_cut_as_that_of_its_pod(internal, store):
    """A stranger chooses the URL. Without a record, the pod would count as one whose launch was not reported."""
    url = "https://github.com/owner/name?" + "x" * 10_000
    assert launch(internal, repository=url)["rule"] == "default"
    assert store.pending(Server("alice"), set()).launch.repository == cut(url) != url


def test_times_of_the_first_and_the_last_launch_are_kept(store):
    """`doctor` names them."""
    for at in (100, 200):
        record = Record(NoEgress.new("default", at), image="image:1")
        store.record_launch(Server("alice"), record, 600, Announced(at, True, store.seen_blocks.version))
    wiring = store.health()["wiring"]
    assert (wiring["first"], wiring["last"]) == (100, 200)


# -- claims

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/604.1"


@pytest.mark.parametrize(
    ("user_agent", "claim"),
    [
        (CHROME, "browser"),
        (IPHONE, "browser"),
        (USER_AGENT, "client"),
        ("curl/8.5.0", "client"),
        ("node", "client"),
        (CHROME.replace("Chrome/", "HeadlessChrome/"), "client"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawler"),
        (f"{CHROME} (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", "crawler"),
        ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)", "crawler"),
        ("meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)", "crawler"),
        ("Mozilla/5.0 (compatible; archiver; +https://archive.example/about)", "crawler"),
        ("Mozilla/5.0 (compatible; Baiduspider/2.0)", "crawler"),
        ("Mozilla/5.0", "other"),
        ("nodes-of-somebody", "other"),
        ("unode/2.0", "other"),
        ("\x00\xff{}%s", "other"),
        ("", "none"),
        ("  ", "none"),
        (None, "none"),
    ],
)
def test_user_agent_claims_one_of_few_things(user_agent, claim):
    assert claim_of(user_agent) == claim
    assert claim in CLAIMS


def test_launches_are_counted_by_claim_and_whether_they_brought_a_pass(public, internal):
    launch(internal, "a", user_agent=CHROME, token=get_pass(public))
    launch(internal, "b", user_agent=CHROME, token="forged")
    for user in "cde":
        launch(internal, user, user_agent="curl/8.5.0")
    launch(internal, "f")
    # Its request was not seen, so nobody knows what it claims.
    launch(internal, "g", user_agent=None, context=False)
    counted = {("browser", "yes"): 2, ("client", "no"): 3, ("none", "no"): 1}
    for claim, brought in itertools.product(CLAIMS, ("yes", "no")):
        found = value(internal, "binder_egress_launches_by_claim_total", claim=claim, brought_pass=brought)
        assert found == counted.get((claim, brought), 0), (claim, brought)


def test_user_agent_is_kept_nowhere_and_one_that_is_too_long_is_not_repeated(internal, in_redis, caplog):
    caplog.set_level(logging.DEBUG)
    answer = internal.post("/api/launches", json={"user": "a", "image": "i", "user_agent": "marker-of" * 100})
    assert answer.status_code == 400 and "marker-of" not in json.dumps(answer.json)
    launch(internal, user_agent="marker-of-one-person curl/8.5.0")
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "launch"]
    assert line["claim"] == "client"
    kept = [str(vars(record)) for record in caplog.records] + [str(families(internal))]
    in_redis.config_set("rdbcompression", "no")
    kept += [str(in_redis.dump(key)) for key in in_redis.scan_iter()]
    assert [text for text in kept if "image:1" in text]
    assert not [text for text in kept if "marker-of" in text]


def test_claim_decides_nothing(public, internal):
    for user_agent in (CHROME, "curl/8.5.0", "Googlebot", None):
        decisions = [launch(internal, user_agent=user_agent, token=token)["rule"] for token in (get_pass(public), None)]
        assert decisions == ["valid-pass", "default"], user_agent
