"""The file of API keys: wrong entries are named, and the others are valid."""

import json
import logging

import pytest

from tests.support.api_keys import good_entry
from tests.support.apps import launch
from verifier.api_keys import Keys
from verifier.passes import BadPass


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
    assert [key.name for key in found.all().values()] == ["a"]
    assert len(found.wrong()) == 3


def test_no_file_means_no_keys():
    found = Keys("", [])
    assert (found.all(), found.wrong(), found.find("x"), found.find("\udc8a")) == ({}, [], None, None)
    with pytest.raises(BadPass):
        found.accept("0" * 16, "https://example.com/a/b", 0)
