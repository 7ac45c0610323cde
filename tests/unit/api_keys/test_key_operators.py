"""API keys and operators: the commands, the in-cluster interface, doctor, and metrics."""

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tests.support.api_keys import CREATE, LATER, ORIGIN, checked, good_entry, wrong_keys
from tests.support.apps import admit
from tests.support.public_port import assert_problem
from tests.support.reconciling import ALICE
from verifier.api_keys import DAY_SECONDS, FORM
from verifier.grants import Egress
from verifier.operators import actions
from verifier.operators.actions import ActionRefused
from verifier.records import KnownServer
from verifier.store.errors import KeyRevoked


def test_create_prints_a_key_and_its_entry_for_the_values(site, run):
    done = run(*CREATE, "--origin", ORIGIN, "--repository", "github.com/owner/*")
    assert done.exit_code == 0, done.output
    (found,) = FORM.finditer(done.output)
    values = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    entry = values["apiKeys"]["keys"]["course"]
    assert (entry["tier"], entry["serversPerDay"]) == ("small", 7)
    assert (entry["origins"], entry["repositories"]) == ([ORIGIN], ["github.com/owner/*"])
    assert entry["expires"] == str((datetime.now(UTC) + timedelta(days=90)).date())
    site.entries = values["apiKeys"]["keys"]
    site.write()
    assert site.services.api_keys.find(found[0]).name == "course"


def test_create_keeps_the_key_nowhere_and_logs_who_made_it(run, store, in_redis):
    done = run(*CREATE, "--as", "eve", "--why", "a course", "--json")
    key = json.loads(done.stdout)["key"]
    (action,) = store.woken(0.01).actions
    said = {"event": "create-key", "by": "eve", "why": "a course", "key": "course", "tier": "small"}
    assert said.items() <= action.items()
    dump = str([in_redis.dump(name) for name in in_redis.scan_iter()]) + str(action)
    assert key[-40:] not in dump


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--name", "A b"], "name"),
        (["--tier", "huge"], "there is none called 'huge'"),
        (["--expires", "tomorrow"], "not a date"),
        (["--expires", "2001-01-01"], "is in the past"),
        (["--expires", "99999999d"], "expires"),
        (["--origin", "https://a/b"], "origins"),
    ],
)
def test_create_refuses_a_useless_key(run, change, said):
    done = run(*CREATE, *change)
    assert done.exit_code != 0 and said in (done.output + str(done.exception))
    assert FORM.search(done.output) is None


def test_keys_are_listed_with_their_use(site, run):
    key = site.add(servers=9, origins=[ORIGIN])
    over = site.add("over", expires="2001-01-01")
    site.ask(key, headers={"Origin": "http://localhost"})
    for _ in range(3):
        site.store.use_key(FORM.fullmatch(key)[1], 9, DAY_SECONDS, admit)
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert (rows["course"]["used"], rows["course"]["servers_per_day"], rows["course"]["state"]) == (3, 9, "valid")
    assert rows["over"]["state"] == "expired"
    text = run("list").stdout
    assert re.search(r"^course +valid +3 +9 +small ", text, re.MULTILINE)
    for secret in (key, over, site.entries["course"]["hash"]):
        assert secret[-40:] not in text + json.dumps(rows)


def test_revoke_takes_a_name_an_id_or_the_key_itself(site, run, in_redis):
    key = site.add()
    for what in ("course", FORM.fullmatch(key)[1], key):
        in_redis.delete("binder-egress:revoked")
        done = run("revoke", what, "--why", "leaked", "--as", "eve")
        assert done.exit_code == 0, done.output
        assert "apiKeys.keys.course" in done.output
        assert_problem(site.ask(key), "key-revoked", 403)
        (revoked,) = map(json.loads, in_redis.hvals("binder-egress:revoked"))
        assert (revoked["name"], revoked["by"], revoked["why"]) == ("course", "eve", "leaked")


def test_revocation_counts_whatever_its_entry_says(site, run, in_redis):
    """A verifier that is taken over may add any text."""
    key = site.add()
    for text in ("", "[", "[]", "{}", '{"id": 7}', "[" * 10_000):
        in_redis.hset("binder-egress:revoked", FORM.fullmatch(key)[1], text)
        assert_problem(site.ask(key), "key-revoked", 403)
        (row,) = json.loads(run("list", "--json").stdout)
        assert (row["name"], row["state"]) == ("course", "revoked")
        assert site.metric("binder_egress_api_key_servers", key="course") == 0
        assert [state for state, said in checked(site) if said.startswith("revoked, but still in the values: course")] == [
            "warning"
        ]


def test_revoke_says_when_there_is_no_such_key_but_takes_any_id(run, store):
    assert isinstance(run("revoke", "nothing", "--why", "x").exception, ActionRefused)
    assert run("revoke", "0123456789abcdef", "--why", "x").exit_code == 0
    with pytest.raises(KeyRevoked):
        store.use_key("0123456789abcdef", 5, DAY_SECONDS, admit)


def test_operators_have_the_same_over_http(site):
    site.internal.get("/readyz")
    body = {"by": "eve", "name": "course", "tier": "small", "servers_per_day": 5, "expires": LATER}
    answer = site.internal.post("/api/keys", json=body)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    key = answer.json["key"]
    site.entries = answer.json["values"]["apiKeys"]["keys"]
    site.write()
    assert site.ask(key).status_code == 201
    site.internal.get("/readyz")
    (row,) = site.internal.get("/api/keys").json["keys"]
    assert (row["name"], row["used"]) == ("course", 1)
    assert_problem(site.internal.post("/api/keys", json=body), "refused", 409)
    assert_problem(site.internal.post("/api/keys", json=body | {"name": "x", "tier": "huge"}), "bad-request", 400)
    answer = site.internal.post("/api/keys/revocations", json={"by": "eve", "why": "leaked", "key": "course"})
    assert (answer.status_code, answer.json["state"]) == (200, "done")
    assert_problem(site.ask(key), "key-revoked", 403)
    unknown = {"by": "eve", "why": "x", "key": "nothing"}
    assert_problem(site.internal.post("/api/keys/revocations", json=unknown), "no-such-key", 404)


def test_explain_says_by_which_key_a_server_has_network(site, store):
    key = site.add()
    origin = site.services.api_keys.find(key).origin
    grant = Egress.new("small", "api-client", time.time(), origin)
    store.publish(ALICE, KnownServer("u", grant, label="small"))
    because = f"Network of the tier small, by the rule api-client by {origin.text}."
    assert actions.explain(site.operators, ALICE)["because"] == because


def test_doctor_tells_of_keys_that_are_revoked_expired_or_wrong(site):
    assert checked(site) == [("ok", "none")]
    site.add()
    assert checked(site) == [("ok", "1, all valid")]
    actions.revoke_key(site.operators, "course", "eve", "leaked")
    site.add("over", expires="2001-01-01")
    site.entries["bad"] = good_entry(tier="huge")
    site.write()
    found = checked(site)
    assert [state for state, _ in found] == ["problem", "warning", "warning"]
    assert "no tier 'huge'" in found[0][1] and "course" in found[1][1] and "over" in found[2][1]


def test_scrape_neither_scans_redis_nor_asks_for_each_key(site, store, in_redis):
    for number in range(20):
        site.add(f"key-{number}")
    site.internal.get("/readyz")
    site.internal.get("/metrics")  # loads the script
    in_redis.config_resetstat()
    before = in_redis.info("stats")["total_reads_processed"]
    site.internal.get("/metrics")
    asked = in_redis.info("stats")["total_reads_processed"] - before
    assert "cmdstat_scan" not in in_redis.info("commandstats")
    assert asked < 15
    in_redis.config_resetstat()
    assert store.verifier_is_there()
    assert "cmdstat_scan" not in in_redis.info("commandstats")


def test_metrics_have_labels_of_known_keys_alone(site):
    key = site.add()
    for wrong in wrong_keys(key):
        site.ask(wrong)
    site.ask(key)
    text = site.internal.get("/metrics").text
    assert set(re.findall(r'binder_egress_api_key\w*\{key="(.*?)"', text)) == {"", "course"}
