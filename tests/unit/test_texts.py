"""The texts in Redis and on pods, exactly: the release before, and the scripts of the store, read them too."""

import pytest

from verifier import texts

KEY = "key course (0123456789abcdef)"
PLAIN = '"by":"","why":"","until":null,"may_stop":false'

GRANTS = {
    "egress of a launch": '{"id":"g","tier":"verified","rule":"valid-pass","at":1000,' + PLAIN + "}",
    "egress of an API key": '{"id":"g","tier":"verified","rule":"api-client","at":1000,"by":"' + KEY + '","why":"","until":2000,'
    '"may_stop":true}',
    "egress of an operator": '{"id":"g","tier":"verified","rule":"operator","at":1000,"by":"eve","why":"a course","until":2000,'
    '"may_stop":true}',
    "a block": '{"id":"b","tier":"unverified","rule":"blocked","at":1000,"by":"eve","why":"mining","until":2000,"may_stop":false}',
    "a block of a detector": '{"id":"b","tier":"unverified","rule":"blocked","at":1000,"by":"detector falco",'
    '"why":"xmrig \\u00e9","until":null,"may_stop":false}',
    "an ended lease": '{"id":"g","tier":"unverified","rule":"expired","at":1000,' + PLAIN + "}",
    "an ended lease that stops the pod": '{"id":"g","tier":"unverified","rule":"expired","at":1000,"by":"' + KEY + '","why":"",'
    '"until":1120,"may_stop":true}',
}

RECORDS = {
    "a launch": '{"grant":{"id":"g","tier":"verified","rule":"valid-pass","at":1000,' + PLAIN + '},"image":"image:1","uid":null,'
    '"repository":"https://example.com/a/b","client":"192.0.2.1","promise":"promise-0"}',
    "a launch without egress": '{"grant":{"id":"g","tier":"unverified","rule":"default","at":1000,' + PLAIN + "},"
    '"image":"image:1","uid":null,"repository":"","client":"","promise":""}',
    "a launch that a block refused": '{"grant":{"id":"g","tier":"unverified","rule":"blocked","at":1000,' + PLAIN + "},"
    '"image":"image:1","uid":null,"repository":"","client":"","promise":""}',
    "an unlock": '{"grant":{"id":"g","tier":"verified","rule":"renewal","at":1000,' + PLAIN + '},"image":null,"uid":"uid-1",'
    '"repository":"r","client":"c","promise":""}',
}

BLOCKS = {
    "of a server": '{"id": "b", "kind": "server", "what": "alice/", "by": "eve", "why": "mining", "at": 1000, "until": 2000, '
    '"uid": "uid-1"}',
    "of a network, by a detector": '{"id": "b", "kind": "network", "what": "192.0.2.0/24", "by": "detector falco", '
    '"why": "xmrig \\u00e9", "at": 1000, "until": null, "uid": ""}',
}

SERVERS = {
    "with egress": '{"uid": "uid-1", "tier": "verified", "grant": "g", "repository": "r", "client": "c", "pod": "p", '
    '"label": "verified", "promise": "promise-0", "rule": "api-client", "at": 1000, "by": "' + KEY + '", "why": "", '
    '"until": 2000, "may_stop": true}',
    "with a block": '{"uid": "uid-1", "tier": "unverified", "grant": "b", "repository": "r", "client": "c", "pod": "p", '
    '"label": "", "promise": "", "rule": "blocked", "at": 1000, "by": "eve", "why": "mining", "until": 2000, "may_stop": false}',
    "with an ended lease": '{"uid": "uid-1", "tier": "unverified", "grant": "g", "repository": "", "client": "", "pod": "", '
    '"label": "", "promise": "", "rule": "expired", "at": 1000, "by": "' + KEY + '", "why": "", "until": 1120, "may_stop": true}',
    "with nothing": '{"uid": "uid-1", "tier": "unverified", "grant": "", "repository": "", "client": "", "pod": "", "label": "", '
    '"promise": "", "rule": "", "at": 0, "by": "", "why": "", "until": null, "may_stop": false}',
}

PODS = (
    '[{"uid":"u","user":"alice","server":"","addresses":["10.0.0.1","fd00::1"],"tier":"unverified","blocked":false,'
    '"repository":""},{"uid":"v","user":"\\u00e9","server":"lab","addresses":["10.0.0.2"],"tier":"verified","blocked":true,'
    '"repository":"r"}]'
)

EXACT = [
    *(pytest.param(texts.read_grant, texts.write_grant, text, id=name) for name, text in GRANTS.items()),
    *(pytest.param(texts.read_record, texts.write_record, text, id=name) for name, text in RECORDS.items()),
    *(pytest.param(texts.read_block, texts.write_block, text, id=name) for name, text in BLOCKS.items()),
    *(pytest.param(texts.read_known, texts.write_known, text, id=name) for name, text in SERVERS.items()),
    pytest.param(texts.read_pods, texts.write_pods, PODS, id="pods"),
]


@pytest.mark.parametrize(("read", "write", "text"), EXACT)
def test_text_that_was_read_is_written_again_exactly(read, write, text):
    assert write(read(text)) == text


@pytest.mark.parametrize(("read", "write", "text"), EXACT)
def test_field_of_a_newer_version_is_left_out(read, write, text):
    assert write(read(text.replace("{", '{"new": [1], '))) == text


def test_reason_that_is_not_utf_8_is_read():
    """Python gives an operator's command half of a surrogate pair for each such byte, and the block must count."""
    text = BLOCKS["of a server"].replace("mining", r"caf\udce9")
    assert texts.write_block(texts.read_block(text)) == text
