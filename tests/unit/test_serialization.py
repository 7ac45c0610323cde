"""The texts in Redis and on pods, exactly: the release before, and the scripts of the store, read them too."""

import re

import pytest

from binder_egress.model import serialization
from binder_egress.model.grants import BY_RULE, NO_GRANT, Block, Blocked, Egress, EndedLease, NoEgress, Origin
from binder_egress.model.records import KnownServer, PodAddresses, Record

KEY = "key course (0123456789abcdef)"
BY_KEY, EVE = Origin("key", "0123456789abcdef", KEY), Origin("operator", "", "eve")
FALCO = Origin("detector", "falco", "detector falco")
OF_KEY, OF_EVE = '"by_kind":"key","by_id":"0123456789abcdef",', '"by_kind":"operator","by_id":"",'
OF_FALCO = '"by_kind":"detector","by_id":"falco",'
PLAIN = '"by":"","why":"","until":null,"may_stop":false'

GRANTS = {
    "egress of a launch": '{"id":"g","tier":"verified","rule":"valid-pass","at":1000,' + PLAIN + "}",
    "egress of an API key": '{"id":"g","tier":"verified","rule":"api-client","at":1000,"by":"' + KEY + '",' + OF_KEY + '"why":"",'
    '"until":2000,"may_stop":true}',
    "egress of an operator": '{"id":"g","tier":"verified","rule":"operator","at":1000,"by":"eve",' + OF_EVE + '"why":"a course",'
    '"until":2000,"may_stop":true}',
    "a block": '{"id":"b","tier":"unverified","rule":"blocked","at":1000,"by":"eve",' + OF_EVE + '"why":"mining",'
    '"until":2000,"may_stop":false}',
    "a block of a detector": '{"id":"b","tier":"unverified","rule":"blocked","at":1000,"by":"detector falco",'
    + OF_FALCO
    + '"why":"xmrig \\u00e9","until":null,"may_stop":false}',
    "an ended lease": '{"id":"g","tier":"unverified","rule":"expired","at":1000,' + PLAIN + "}",
    "an ended lease that stops the pod": '{"id":"g","tier":"unverified","rule":"expired","at":1000,"by":"'
    + KEY
    + '",'
    + OF_KEY
    + '"why":"",'
    '"until":1120,"may_stop":true}',
}

RECORDS = {
    "a launch": '{"grant":{"id":"g","tier":"verified","rule":"valid-pass","at":1000,' + PLAIN + '},"image":"image:1","uid":null,'
    '"repository":"https://example.com/a/b","client":"192.0.2.1","promise":"promise-0","launched_at":1000.5,"came":"page"}',
    "a launch without egress": '{"grant":{"id":"g","tier":"unverified","rule":"default","at":1000,' + PLAIN + "},"
    '"image":"image:1","uid":null,"repository":"","client":"","promise":"","launched_at":null,"came":""}',
    "a launch that a block refused": '{"grant":{"id":"g","tier":"unverified","rule":"blocked","at":1000,' + PLAIN + "},"
    '"image":"image:1","uid":null,"repository":"","client":"","promise":"","launched_at":null,"came":""}',
    "an unlock": '{"grant":{"id":"g","tier":"verified","rule":"renewal","at":1000,' + PLAIN + '},"image":null,"uid":"uid-1",'
    '"repository":"r","client":"c","promise":"","launched_at":null,"came":""}',
}

BLOCKS = {
    "of a server": '{"id": "b", "kind": "server", "what": "alice/", "by": "eve", "by_kind": "operator", "by_id": "", '
    '"why": "mining", "at": 1000, "until": 2000, "uid": "uid-1"}',
    "of a network, by a detector": '{"id": "b", "kind": "network", "what": "192.0.2.0/24", "by": "detector falco", '
    '"by_kind": "detector", "by_id": "falco", "why": "xmrig \\u00e9", "at": 1000, "until": null, "uid": ""}',
}

SERVERS = {
    "with egress": '{"uid": "uid-1", "tier": "verified", "grant": "g", "repository": "r", "client": "c", "pod": "p", '
    '"label": "verified", "promise": "promise-0", "opens_at": 0, "announced": true, '
    '"reason": "kept", "refused_by": "own-network", "node": "n", "came": "key", '
    '"rule": "api-client", "at": 1000, "by": "'
    + KEY
    + '", "by_kind": "key", "by_id": "0123456789abcdef", "why": "", "until": 2000, "may_stop": true}',
    "with a block": '{"uid": "uid-1", "tier": "unverified", "grant": "b", "repository": "r", "client": "c", "pod": "p", '
    '"label": "", "promise": "", "opens_at": 0, "announced": false, '
    '"reason": "", "refused_by": "", "node": "", "came": "", "rule": "blocked", "at": 1000, '
    '"by": "eve", '
    '"by_kind": "operator", "by_id": "", "why": "mining", "until": 2000, "may_stop": false}',
    "with an ended lease": '{"uid": "uid-1", "tier": "unverified", "grant": "g", "repository": "", "client": "", "pod": "", '
    '"label": "", "promise": "", "opens_at": 0, "announced": false, '
    '"reason": "", "refused_by": "", "node": "", "came": "", "rule": "expired", "at": 1000, '
    '"by": "' + KEY + '", "by_kind": "key", "by_id": "0123456789abcdef", "why": "", "until": 1120, "may_stop": true}',
    "with nothing": '{"uid": "uid-1", "tier": "unverified", "grant": "", "repository": "", "client": "", "pod": "", "label": "", '
    '"promise": "", "opens_at": 0, "announced": false, "reason": "", "refused_by": "", "node": "", "came": "", "rule": "", '
    '"at": 0, "by": "", "why": "", "until": null, "may_stop": false}',
}

PODS = (
    '[{"uid":"u","user":"alice","server":"","addresses":["10.0.0.1","fd00::1"],"tier":"unverified","blocked":false,'
    '"repository":""},{"uid":"v","user":"\\u00e9","server":"lab","addresses":["10.0.0.2"],"tier":"verified","blocked":true,'
    '"repository":"r"}]'
)

TYPES = {
    "egress of a launch": Egress("g", "verified", "valid-pass", 1000),
    "egress of an API key": Egress("g", "verified", "api-client", 1000, BY_KEY, until=2000, may_stop=True),
    "egress of an operator": Egress("g", "verified", "operator", 1000, EVE, "a course", 2000, True),
    "a block": Blocked("b", 1000, EVE, "mining", 2000),
    "a block of a detector": Blocked("b", 1000, FALCO, "xmrig é"),
    "an ended lease": EndedLease("g", 1000),
    "an ended lease that stops the pod": EndedLease("g", 1000, BY_KEY, stop_at=1120, may_stop=True),
    "a launch": Record(
        Egress("g", "verified", "valid-pass", 1000),
        "image:1",
        None,
        "https://example.com/a/b",
        "192.0.2.1",
        "promise-0",
        1000.5,
        "page",
    ),
    "a launch without egress": Record(NoEgress("g", "default", 1000), "image:1"),
    "a launch that a block refused": Record(NoEgress("g", "blocked", 1000), "image:1"),
    "an unlock": Record(Egress("g", "verified", "renewal", 1000), uid="uid-1", repository="r", client="c"),
    "of a server": Block("b", "server", "alice/", EVE, "mining", 1000, 2000, "uid-1"),
    "of a network, by a detector": Block("b", "network", "192.0.2.0/24", FALCO, "xmrig é", 1000),
    "with egress": KnownServer(
        "uid-1",
        Egress("g", "verified", "api-client", 1000, BY_KEY, "", 2000, True),
        "r",
        "c",
        "p",
        "verified",
        "promise-0",
        announced=True,
        reason="kept",
        refused_by="own-network",
        node="n",
        came="key",
    ),
    "with a block": KnownServer("uid-1", Blocked("b", 1000, EVE, "mining", 2000), "r", "c", "p"),
    "with an ended lease": KnownServer("uid-1", EndedLease("g", 1000, BY_KEY, stop_at=1120, may_stop=True)),
    "with nothing": KnownServer("uid-1", NO_GRANT),
}

EXACT = [
    pytest.param(read, write, text, TYPES[name], id=name)
    for read, write, found in (
        (serialization.read_grant, serialization.write_grant, GRANTS),
        (serialization.read_record, serialization.write_record, RECORDS),
        (serialization.read_block, serialization.write_block, BLOCKS),
        (serialization.read_known, serialization.write_known, SERVERS),
    )
    for name, text in found.items()
]


@pytest.mark.parametrize(("read", "write", "text", "meant"), EXACT)
def test_text_is_read_and_written_exactly(read, write, text, meant):
    assert (read(text), write(meant)) == (meant, text)


@pytest.mark.parametrize(("read", "write", "text", "meant"), EXACT)
def test_text_of_a_version_that_wrote_no_kind_means_the_same(read, write, text, meant):
    old = re.sub(r'"by_(kind|id)": ?"[^"]*", ?', "", text)
    assert ("by_" in old, read(old)) == (False, meant)


@pytest.mark.parametrize("words", ["detector agent", KEY, "", "eve"])
@pytest.mark.parametrize("kind", ["operator", "detector", "key"])
def test_kind_of_an_origin_is_written_whatever_its_words_say(kind, words):
    """Operators choose theirs: `egress revoke --as "detector agent"`."""
    origin = Origin(kind, "" if kind == "operator" else "0123456789abcdef", words)
    grant = Egress("g", "verified", "operator", 1000, origin)
    block = Block("b", "server", "alice/", origin, "mining", 1000)
    assert serialization.read_grant(serialization.write_grant(grant)) == grant
    assert serialization.read_record(serialization.write_record(Record(grant, uid="u"))).grant == grant
    assert serialization.read_known(serialization.write_known(KnownServer("u", grant))).grant == grant
    assert serialization.read_block(serialization.write_block(block)) == block


@pytest.mark.parametrize(("read", "write", "text", "meant"), EXACT)
def test_field_of_a_newer_version_is_left_out(read, write, text, meant):
    assert read(text.replace("{", '{"new": [1], ')) == meant


def test_pods_of_a_server_are_read_and_written_exactly():
    pods = [
        PodAddresses("u", "alice", "", ("10.0.0.1", "fd00::1")),
        PodAddresses("v", "é", "lab", ("10.0.0.2",), "verified", True, "r"),
    ]
    assert (serialization.read_pods(PODS), serialization.write_pods(pods)) == (pods, PODS)


@pytest.mark.parametrize(
    ("by", "origin"),
    [
        ("", BY_RULE),
        ("eve", EVE),
        (KEY, serialization.by_key("course", "0123456789abcdef")),
        (f"{KEY} ", Origin("operator", "", f"{KEY} ")),
        ("key of mine (0123456789abcdef)", Origin("operator", "", "key of mine (0123456789abcdef)")),
        ("detector falco", serialization.by_detector("falco")),
        ("detectors", Origin("operator", "", "detectors")),
    ],
)
def test_origin_of_a_decision_is_read_from_its_words_if_its_kind_is_not_known(by, origin):
    assert serialization.read_origin(by) == serialization.read_origin(by, "of a newer version") == origin
    assert origin.text == by


def test_launch_without_egress_is_none_on_a_pod():
    assert serialization.read_grant('{"id":"g","tier":"unverified","rule":"default","at":1000}') is None


def test_reason_that_is_not_utf_8_is_read():
    """Python gives an operator's command half of a surrogate pair for each such byte, and the block must count."""
    text = BLOCKS["of a server"].replace("mining", r"caf\udce9")
    assert serialization.write_block(serialization.read_block(text)) == text
