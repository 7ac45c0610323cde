"""Each operation of the store of each process, as a function of the store."""

import time
from dataclasses import replace

from binder_egress.detections.reports import Report
from binder_egress.gate import api_keys
from binder_egress.gate.fairness import Charge
from binder_egress.model.grants import Block, Rule
from binder_egress.model.passes import Passes
from binder_egress.model.records import KnownServer, NetworkUse, PodAddresses, Record, ReportedLaunch, Server
from binder_egress.model.serialization import read_origin
from binder_egress.store.redeeming import Use
from tests.support.apps import admit, new_promise
from tests.support.reconciling import ALICE, announce, make_grant, record_decision

REPORT = Report("cryptnono", "execwhacker", "xmrig", 1000.0, uid="uid-1")
RECORD = Record(make_grant(rule="unlock"), uid="uid-1")
USE = NetworkUse(uid="uid-1", used=True, first=1.0, ports=["udp"], seen=1, missed=0, datagrams=0, ended=True)
LAUNCH = ReportedLaunch(at=1.0, came="page", had_tier=False, repository="", use="not used", why="", first=None, ports=[], seen=0)
BLOCK = Block("x", "server", ALICE.key, read_origin("eve"), "mining", 1)

SHARED_OPERATIONS = (
    lambda s: s.known(ALICE),
    lambda s: s.known_and_blocks(ALICE),
    lambda s: s.reconciler_state(),
    lambda s: s.pending(ALICE, {"x"}),
    lambda s: s.waiting(),
    lambda s: s.verifier_reports(),
    lambda s: s.charges(["key:x"], 60),
    lambda s: s.published(),
    lambda s: s.all_known(),
    lambda s: s.known_of([ALICE]),
    lambda s: s.pending_all({ALICE: {"x"}}),
    lambda s: s.blocks(),
    lambda s: s.lifted(["x"]),
    lambda s: s.revoke_key("0" * 16),
    lambda s: s.revoked_keys(),
    lambda s: s.grant(ALICE, RECORD),
    lambda s: s.withdraw(["x"]),
    lambda s: s.wake_all(),
    lambda s: s.detected(),
    lambda s: s.verifier_is_there(),
    lambda s: s.add_block(BLOCK, [ALICE]),
    lambda s: s.gatecheck(),
    lambda s: s.measured(),
    lambda s: s.ask_to_measure(["node"]),
    lambda s: s.memory_used(),
    lambda s: s.lines(),
)
OF_VERIFIER = (
    lambda s: s.ping(),
    lambda s: s.use_solution("altcha", "id", time.time() + 1, 60, admit, [Charge("192.0.2.1/32", 60, None, 0)]),
    lambda s: s.refusal(lambda _: Rule.BLOCKED),
    lambda s: s.use_key("0" * 16, 9, api_keys.DAY_SECONDS, admit),
    lambda s: s.redeem(Use(Passes.new("verified", 1, time.time() + 1, 60), ALICE, RECORD, "", 60)),
    lambda s: s.redeem(Use(Passes.new("small", 1, time.time() + 1, 60), ALICE, RECORD, "", 60, outranking=["verified"])),
    lambda s: record_decision(s, ALICE, RECORD),
    lambda s: record_decision(s, ALICE, replace(RECORD, promise=new_promise())),
    lambda s: record_decision(s, Server(new_promise()), replace(RECORD, launched_at=1.0)),
    lambda s: s.keep(new_promise(), "", Passes.new("verified", 1, time.time(), 60)),
    lambda s: s.promised("promise", ""),
    lambda s: s.charges(["192.0.2.1/32", "192.0.2.0/24"], 60),
    lambda s: s.note_rejection("192.0.2.1/32"),
    lambda s: s.rejections("192.0.2.1/32"),
    lambda s: announce(s, hub_url="https://hub.example.org/"),
    lambda s: s.hub(),
    lambda s: s.report_verifier("host", {}),
    lambda s: s.open_connections(5),
)
OF_RECONCILER = (
    lambda s: s.heartbeat(time.time(), {"verified": 1}, {"x": 1}),
    lambda s: s.publish(ALICE, KnownServer("uid-1")),
    lambda s: s.publish_gatecheck("{}"),
    lambda s: s.publish_measured("node", {}),
    lambda s: s.publish_measured("node", None),
    lambda s: s.forget_measured(),
    lambda s: s.settle(ALICE, RECORD),
    lambda s: s.health(),
    lambda s: s.add_block(BLOCK, [ALICE], replace=True),
    lambda s: s.forget_ended_blocks(time.time()),
    lambda s: s.restore({}, time.time()),
    lambda s: s.restoration(),
    lambda s: s.to_save(),
    lambda s: s.remove_block("x"),
    lambda s: s.ask_to_stop(ALICE, "uid-1"),
    lambda s: s.forget_stop(ALICE, "uid-1"),
    lambda s: s.cut_off(ALICE, "uid-1", BLOCK, True),
    lambda s: s.log({"event": "revoke"}),
    lambda s: s.woken(0.1),
    lambda s: s.forget(ALICE),
    lambda s: s.publish_addresses(ALICE, [PodAddresses("uid-1", "alice", "", ("10.42.0.5",))]),
    lambda s: s.publish_many_addresses({ALICE: [PodAddresses("uid-1", "alice", "", ("10.42.0.6",))]}),
    lambda s: s.beat_addresses(),
    lambda s: s.published_addresses(),
    lambda s: s.publish_agents({"10.42.0.7": "node-1"}),
    lambda s: s.add_report(REPORT),
    lambda s: s.waiting_reports(9),
    lambda s: s.scans(9),
    lambda s: s.answer_reports([s.waiting_reports(9)[0][0]], [{"outcome": "revoked"}]),
    lambda s: s.unreadable(),
    lambda s: s.wanted_hosts(),
    lambda s: s.take_uses(9),
    lambda s: s.keep_launches([LAUNCH], time.time(), 7),
    lambda s: list(s.launches(0)),
)
OF_RECEIVER = (
    lambda s: s.add_report(REPORT),
    lambda s: s.is_agent("10.42.0.7"),
    lambda s: s.count_lines("falco", {"report": 1, "other": 0}),
    lambda s: s.keep_unreadable([]),
    lambda s: s.add_uses([USE]),
)
OF_PROXY = (
    lambda s: s.addresses(),
    lambda s: s.address_changes().__enter__(),
    lambda s: s.publish_wanted_hosts("proxy-1", []),
    lambda s: s.report_scans(["uid-1"]),
    lambda s: s.hub(),
)
