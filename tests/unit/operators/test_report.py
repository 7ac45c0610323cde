"""`egress report`: forty launches of which it is known what they did, and an agent that ends in the middle."""

import json
import time
from dataclasses import replace

import pytest

from binder_egress.model.records import NetworkUse, Record, Server
from binder_egress.model.serialization import by_key
from binder_egress.operators.report import report
from binder_egress.reconciler.launch_report import LAST_WORD_SECONDS
from tests.support.egress_command import run_egress
from tests.support.reconciling import SAYS_NOTHING as NOTHING
from tests.support.reconciling import Agents, list_and_converge, make_grant, record_decision


def used(first, *ports, **more):
    return NOTHING | {"used": True, "first": first, "ports": list(ports), "seen": 2} | more


COURSE, TOOLS, DATA = "https://github.com/Course/One", "https://github.com/tools/two", "https://gitlab.com/data/three"
KINDS = [  # number, how it came, whether it had a tier, repository, what the agent says last; None: nothing
    (6, "page", True, COURSE, used(3.0, "tcp/443")),
    (2, "key", True, COURSE, NOTHING),
    (4, "page", False, COURSE, NOTHING),
    (6, "page", False, COURSE, used(5.0, "udp", "tcp/443")),  # data at start
    (3, "third-party page", False, TOOLS, used(400.0, "udp", "tcp/443")),  # pip, late
    (2, "script", False, DATA, used(None, "tcp/22")),
    (3, "script", False, DATA, used(10.0, "udp/443")),
    (2, "client", False, DATA, NOTHING),
    (1, "anything", False, "", NOTHING),
    (3, "page", False, TOOLS, NOTHING | {"missed": 1}),
    (2, "page", False, TOOLS, NOTHING | {"datagrams": 2}),
    (4, "page", False, TOOLS, NOTHING | {"ended": False}),  # the agent was killed
    (2, None, False, TOOLS, None),
]


@pytest.fixture
def launched(make_reconciler, cluster, store, steady, operators):
    """Lets the forty servers run and end."""
    worker = make_reconciler(agents=Agents(), report_days=7, clock=time.time)
    uses = {}
    for at, (number, came, has_tier, repository, row) in enumerate(KINDS):
        for each in range(number):
            server, uid = Server(f"user-{at}-{each}"), f"{at}-{each}"
            grant = make_grant() if has_tier else make_grant("unverified", "default")
            grant = replace(grant, origin=by_key("course", "0" * 16)) if came == "key" else grant
            if came:
                record_decision(store, server, Record(grant, image="image:1", repository=repository, came=came))
            cluster.add(server.user, uid, node="node-1", created=time.time(), guard=("off", 0.0), repository=repository)
            uses[uid] = row
    list_and_converge(worker)
    assert len(uses) == 40
    store.add_uses([NetworkUse(uid=uid, **row) for uid, row in uses.items() if row])
    for name in list(cluster.pods):
        worker.observe("DELETED", cluster.pods.pop(name))
    for seconds in (1, 1, LAST_WORD_SECONDS + 1):
        steady.now += seconds
        worker.take_uses()
    return replace(operators, settings=operators.settings.model_copy(update={"report_days": 7, "mode": "observe"}))


def test_report_of_forty_launches_is_exact(launched):
    found = report(launched, 3600)
    ways = {row.pop("came"): tuple(row.values()) for row in map(dict, found["ways"])}
    # launches, with a tier; without one: used, in the first minute, later, not used, not known
    assert ways == {
        "page": (25, 6, 6, 6, 0, 4, 9),
        "third-party page": (3, 0, 3, 0, 3, 0, 0),
        "client": (2, 0, 0, 0, 0, 2, 0),
        "script": (5, 0, 5, 3, 0, 0, 0),
        "key": (2, 2, 0, 0, 0, 0, 0),
        "hub": (2, 0, 0, 0, 0, 0, 2),
        "other": (1, 0, 0, 0, 0, 1, 0),
        "all": (40, 8, 14, 9, 3, 7, 11),
    }
    assert found["not_known"] == {"between looks": 5, "agent ended": 4, "no agent": 2}
    rows = [(row["repository"], row["used"], row["ports"], row["saved_by"]) for row in found["repositories"]]
    assert rows == [
        ("github.com/course/one", 6, ["udp", "tcp/443"], "rule"),
        ("gitlab.com/data/three", 5, ["udp/443", "tcp/22"], "API key"),
        ("github.com/tools/two", 3, ["udp", "tcp/443"], "rule"),
    ]
    trusted = {"github.com/course/one": "verified", "github.com/tools/two": "verified"}
    assert (found["values"], found["saved"]) == ({"rules": {"trustedRepositories": trusted}}, 9)


def test_hosts_that_the_proxy_refused_are_proposed(launched, store):
    store.publish_wanted_hosts("proxy-1", [{"repository": COURSE, "host": "data.example.org", "times": 3, "last": 1.0}])
    found = report(launched, 3600, "github.com/course/*")
    assert [(row["hosts"], row["saved_by"]) for row in found["repositories"]] == [(["data.example.org"], "host list")]
    assert found["values"] == {"unverified": {"hosts": {"data.example.org": True}}}
    assert found["ways"][-1]["launches"] == 18


def test_report_says_what_it_does_not_know(launched, redis_server, monkeypatch, capsys):
    settings = {"BINDER_EGRESS_REDIS_URL": redis_server.url, "BINDER_EGRESS_MODE": "observe", "BINDER_EGRESS_REPORT_DAYS": "7"}
    _, said, _ = run_egress(monkeypatch, capsys, "report", **settings)
    assert "14 of 40 servers (35%) would have lost something.\nOf 11 more it is not known:\n" in said
    assert "  4: the agent, or the receiver of its reports, was away when the server ended" in said
    assert "In mode observe" in said and '    "github.com/course/one": "verified"\n' in said
    assert max(map(len, said.splitlines())) <= 132
    _, said, _ = run_egress(monkeypatch, capsys, "report", "--since", "1m", "--json", **settings)
    assert json.loads(said)["ways"][-1]["launches"] == 40
    settings["BINDER_EGRESS_REPORT_DAYS"] = "0"
    assert run_egress(monkeypatch, capsys, "report", **settings)[0] == 4
