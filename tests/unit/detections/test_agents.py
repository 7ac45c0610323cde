"""The agent's reports: accepted by the address of its pod, and only about the pods of its node."""

from dataclasses import replace

import pytest

from binder_egress.detections.reporters import REPORTS_PER_MINUTE, Allowance
from binder_egress.detections.reports import Report
from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.records import Server
from binder_egress.reconciler.agents import Agents
from binder_egress.settings import ReceiverSettings, load
from binder_egress.web.receiver import create_receiver_app, create_receiver_services
from tests.support.reconciling import granted, list_and_converge, make_grant

LINE = '{"uid": "uid-1", "source": "cryptnono", "list": "miners", "label": "xmrig"}'


def pod(address, node="node-1", phase="Running", **more):
    status = {"phase": phase, "podIPs": [{"ip": address}, {"ip": f"fd42::{address.rsplit('.', 1)[1]}"}]}
    return {"metadata": more.pop("metadata", {}), "spec": {"nodeName": node} | more, "status": status}


class API:
    def __init__(self, *pods):
        self.pods, self.down, self.asked = list(pods), False, []

    def list(self, method, path, query):
        self.asked.append((method, path, query["labelSelector"]))
        if self.down:
            raise ApiServerUnavailable("down")
        return self.pods


@pytest.fixture
def agents(store, monkeypatch):
    monkeypatch.setattr("binder_egress.kubernetes_api.read", lambda api, *args, **more: {"items": api.list(*args, **more)})

    def make(*pods):
        api = API(*pods)
        return Agents("binder", {"component": "agent", "app": "x"}, store, api), api

    return make


def receiver(store, *sources):
    services = create_receiver_services(load(ReceiverSettings, detections={source: {} for source in sources}), store)
    # This clock stands still. Otherwise used-up limits would come back on a slow machine.
    return create_receiver_app(replace(services, allowance=Allowance(lambda: 0.0))).test_client()


@pytest.fixture
def send(store):
    client = receiver(store, "agent")

    def send(address, *lines, **headers):
        base = {"REMOTE_ADDR": address}
        return client.post("/api/detections", data="\n".join(lines or [LINE]), headers=headers, environ_base=base)

    return send


@pytest.fixture
def agent(store):
    store.publish_agents({"10.42.0.7": "node-1"})


def waiting(store):
    return [report for _, report in store.waiting_reports(1000)]


def test_report_is_taken_from_the_address_of_an_agent(send, store):
    """This also holds if the port is open to both families, and IPv4 addresses come as IPv6 ones."""
    store.publish_agents({"10.42.0.7": "node-1", "fd42::7": "node-1"})
    for address in ("10.42.0.7", "::ffff:10.42.0.7", "fd42::7", "fd42:0::7"):
        assert send(address).status_code == 202
    assert [(one.source, one.sender) for one in waiting(store)] == [("agent", "10.42.0.7")] * 2 + [("agent", "fd42::7")] * 2


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        *((address, {}) for address in ("10.42.0.8", "", "nonsense", "::1")),
        ("10.42.0.8", {"X-Forwarded-For": "10.42.0.7", "X-Real-IP": "10.42.0.7"}),  # A header can claim anything.
        ("10.42.0.7", {"Authorization": "Bearer x"}),  # The address does not make a wrong token right.
    ],
)
def test_report_from_another_address_or_with_a_wrong_token_is_refused(send, store, address, headers, agent):
    assert send(address, **headers).status_code == 401 and waiting(store) == []


def test_address_counts_only_with_an_agent_in_the_values_and_no_line_names_another(send, store, agent):
    client = receiver(store, "cryptnono")
    assert client.post("/api/detections", data=LINE, environ_base={"REMOTE_ADDR": "10.42.0.7"}).status_code == 401
    send("10.42.0.7", '{"uid": "uid-1", "sender": "10.42.0.9", "list": "a", "label": "b"}')
    assert [report.sender for report in waiting(store)] == ["10.42.0.7"]


def test_agent_that_is_not_listed_yet_sent_no_wrong_token(send, store):
    """The reconciler lists agents every 20 s, and an agent reports at once."""
    assert send("10.42.0.7").status_code == 401 and store.lines() == {}
    assert send("10.42.0.7", Authorization="Bearer x").status_code == 401 and store.lines() == {("", "wrong-token"): 1}


def test_one_agent_takes_no_report_from_another(send, store):
    store.publish_agents({"10.42.0.7": "node-1", "10.42.0.8": "node-2"})
    for _ in range(REPORTS_PER_MINUTE // 100):
        assert send("10.42.0.7", *[LINE] * 100).status_code == 202
    assert send("10.42.0.7", *[LINE] * 100).status_code == 429
    assert send("10.42.0.8", *[LINE] * 100).status_code == 202


def test_agents_are_published_with_both_addresses_until_they_are_gone(agents, store, caplog):
    made, api = agents(
        pod("10.42.0.7"),
        pod("10.42.1.7", "node-2"),
        pod("10.42.2.7", phase="Failed"),
        pod("10.42.3.7", node=""),
        pod("10.42.4.7", metadata={"deletionTimestamp": "x"}),
        pod("10.42.5.7", hostNetwork=True),
    )
    assert made.attempts.attempt() > 5
    assert [made.node_of(f"10.42.{number}.7") for number in range(6)] == ["node-1", "node-2", None, None, None, None]
    assert made.node_of("fd42::7") == "node-2"
    assert [store.is_agent(f"10.42.{number}.7") for number in range(6)] == [True, True, False, False, False, False]
    assert not store.is_agent("") and api.asked == [("GET", "/api/v1/namespaces/binder/pods", "app=x,component=agent")]
    # An API server that is down changes nothing, and is logged once.
    api.down, api.pods = True, []
    assert made.attempts.attempt() == made.attempts.attempt() < 20
    assert made.node_of("10.42.0.7") == "node-1" and store.is_agent("10.42.0.7")
    assert caplog.text.count("new agents are not known") == 1
    api.down = False
    made.publish()
    assert made.node_of("10.42.0.7") is None and not store.is_agent("10.42.0.7")


@pytest.fixture
def worker(make_reconciler, cluster, agents):
    listed, _ = agents(pod("10.42.0.7"), pod("10.42.0.8", "node-2"))
    listed.publish()
    made = make_reconciler(detections={"agent": {"on_match": "revoke", "lists": {"hidden": "observe"}}}, agents=listed)
    cluster.add("alice", "uid-1", node="node-1", **granted(make_grant()))
    cluster.add("bob", "uid-2", node="node-2", **granted(make_grant()))
    cluster.add("carol", "uid-0", **granted(make_grant()))
    list_and_converge(made)
    return made


@pytest.mark.parametrize(
    ("uid", "sender", "list_name", "outcome"),
    [
        ("uid-1", "10.42.0.7", "miners", "revoked"),
        ("uid-1", "10.42.0.7", "hidden", "observed"),
        ("uid-2", "10.42.0.7", "miners", "other-node"),
        ("uid-1", "10.42.0.8", "miners", "other-node"),
        ("uid-1", "10.42.0.9", "miners", "other-node"),
        ("uid-1", "", "miners", "other-node"),
        ("uid-0", "10.42.0.9", "miners", "other-node"),  # The pod has no node yet, and the agent is unknown.
        ("uid-3", "10.42.0.7", "miners", "unknown-pod"),
    ],
)
def test_report_counts_for_pods_of_the_agents_own_node(worker, store, cluster, uid, sender, list_name, outcome):
    store.add_report(Report("agent", list_name, "xmrig", 1.0, uid=uid, sender=sender))
    worker.respond()
    assert [row["outcome"] for row in store.detected()] == [outcome]
    worker.take(store.woken(0.01))
    while worker.run_once():
        pass
    assert cluster.labelled() == {Server("bob"), Server("carol")} | (set() if outcome == "revoked" else {Server("alice")})


def test_reports_wait_until_the_agents_are_known(make_reconciler, cluster, store, agents):
    """An agent repeats a report only after ten minutes."""
    listed, api = agents(pod("10.42.0.7"))
    api.down = True
    made = make_reconciler(detections={"agent": {"on_match": "revoke"}}, agents=listed)
    cluster.add("alice", "uid-1", node="node-1", **granted(make_grant()))
    list_and_converge(made)
    store.add_report(Report("agent", "miners", "xmrig", 1.0, uid="uid-1", sender="10.42.0.7"))
    listed.attempts.attempt()
    made.respond()
    assert store.detected() == []
    api.down = False
    listed.attempts.attempt()
    made.respond()
    assert [row["outcome"] for row in store.detected()] == ["revoked"]
