"""Wrong entries in the file of API keys are named, and the others count. Wrong keys of clients get one answer, and are counted."""

import json
import logging

import pytest

from binder_egress.gate.api_keys import MAX_WRONG_KEY_NETWORKS, MAX_WRONG_KEYS, WRONG_KEYS_WINDOW_SECONDS, Keys, WrongKeys
from binder_egress.logs import MAX_LINES
from binder_egress.model.passes import BadPass
from tests.support.api_keys import good_entry, wrong_keys
from tests.support.apps import launch, public_client
from tests.support.public_port import assert_problem

# -- the file


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tier": "huge"}, "no tier 'huge'"),
        ({"hash": "x"}, "hash"),
        ({"id": "X" * 16}, "id"),
        ({"serversPerDay": 0}, "serversPerDay"),
        ({"expires": "tomorrow"}, "not a date"),
        ({"origins": ["https://a/b"]}, "origins"),
        ({"repositories": ["10.5281/zenodo.1"]}, "host/owner/name"),
        ({"repositories": ["github.com/*"]}, "host/owner/name"),
        ({"more": 1}, "more"),
    ],
)
def test_wrong_entry_is_named_and_the_others_count(site, caplog, changes, said):
    key = site.add("good")
    site.entries["wrong"] = good_entry(**changes)
    site.write()
    with caplog.at_level(logging.ERROR):
        assert site.ask(key).status_code == 201
        assert site.ask(key).status_code == 201
    assert [key.name for key in site.services.api_keys.all().values()] == ["good"]
    (sentence,) = site.services.api_keys.wrong()
    assert sentence.startswith("wrong: ") and said in sentence
    assert len([record for record in caplog.records if said in record.getMessage()]) == 1


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, b"\xff", '{"a": 5}', '{"a": null}', '{"Ä b": {}}', None])
def test_invalid_file_means_no_keys_and_is_reported(site, content):
    key = site.add()
    assert site.ask(key).status_code == 201
    site.file.unlink()
    if content is not None:
        site.file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert site.ask(key).status_code == 401
    assert site.services.api_keys.wrong()
    assert launch(site.internal)["rule"] == "default"
    site.write()
    assert site.ask(key).status_code == 201 and not site.services.api_keys.wrong()


def test_names_and_ids_are_checked(tmp_path):
    file = tmp_path / "keys.json"
    entry = good_entry()
    file.write_text(json.dumps({"a": entry, "b": entry, "A b": good_entry(), "off": False} | {"x" * 41: good_entry()}))
    found = Keys(str(file), ["small"])
    assert [key.name for key in found.all().values()] == ["a"] and len(found.wrong()) == 3
    none = Keys("", [])
    assert (none.all(), none.wrong(), none.find("x"), none.find("\udc8a")) == ({}, [], None, None)
    with pytest.raises(BadPass):
        none.accept("0" * 16, "https://example.com/a/b", 0)


# -- clients


def test_all_wrong_keys_get_the_same_answer_and_cost_no_call_to_redis(site, redis_server):
    key = site.add()
    redis_server.stop()
    answers = [site.ask(wrong) for wrong in wrong_keys(key)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.data for answer in answers}) == 1
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert_problem(answers[0], "key-refused", 401)
    answer = site.ask(key)
    assert_problem(answer, "unavailable", 503)
    assert answer.headers["Retry-After"]


def test_wrong_keys_are_logged_up_to_a_limit_and_never_in_full(site, caplog):
    key = site.add()
    wrong = wrong_keys(key)[6]
    with caplog.at_level(logging.INFO):
        statuses = [site.ask(wrong).status_code for _ in range(MAX_WRONG_KEYS + 3)]
        assert statuses == [401] * MAX_WRONG_KEYS + [429] * 3
        answer = site.ask(wrong)
        assert_problem(answer, "too-many-wrong-keys", 429)
        assert 0 < int(answer.headers["Retry-After"]) <= WRONG_KEYS_WINDOW_SECONDS
        # Neighbours behind the same address are not shut out, and others are not counted with them.
        assert site.ask(key).status_code == 201
        assert site.ask(wrong, client=public_client(site.services, "192.0.2.8")).status_code == 401
    logged = [record.fields for record in caplog.records if record.getMessage() == "pass" and record.fields["rule"] == "wrong-key"]
    assert len(logged) == MAX_WRONG_KEYS + 1
    text = " ".join(f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records)
    assert wrong not in text and key not in text and key[-40:] not in text
    assert site.metric("binder_egress_api_key_requests_total", key="", outcome="wrong") == MAX_WRONG_KEYS + 1
    assert site.metric("binder_egress_api_key_requests_total", key="", outcome="too-many") == 4


def test_wrong_keys_from_many_networks_of_one_customer_are_logged_up_to_a_limit(site, caplog):
    wrong = wrong_keys(site.add())[6]
    caplog.set_level(logging.INFO)
    for number in range(MAX_LINES + 5):
        assert site.ask(wrong, client=public_client(site.services, f"2001:db8:1:{number:x}::1")).status_code == 401
    assert len([record for record in caplog.records if record.getMessage() == "pass"]) == MAX_LINES


def test_wrong_keys_are_forgotten_and_take_bounded_memory():
    now = [1000.0]
    counts = WrongKeys(lambda: now[0])
    assert [counts.note("a") for _ in range(MAX_WRONG_KEYS)] == [None] * MAX_WRONG_KEYS
    assert counts.note("a") == WRONG_KEYS_WINDOW_SECONDS
    now[0] += WRONG_KEYS_WINDOW_SECONDS
    assert counts.note("a") is None
    for number in range(2 * MAX_WRONG_KEY_NETWORKS):
        counts.note(str(number))
    # Of the latest networks one wrong key is known, of the one before them none.
    kept, forgotten = str(MAX_WRONG_KEY_NETWORKS), str(MAX_WRONG_KEY_NETWORKS - 1)
    assert [counts.note(kept) for _ in range(MAX_WRONG_KEYS)][-1] == WRONG_KEYS_WINDOW_SECONDS
    assert [counts.note(forgotten) for _ in range(MAX_WRONG_KEYS)] == [None] * MAX_WRONG_KEYS
