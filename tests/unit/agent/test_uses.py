"""Uses: what pods' counters and sockets say, in real network namespaces. *Not used* is never said of a pod that did."""

import sys
from types import SimpleNamespace

import pytest

from binder_egress.agent import uses
from binder_egress.agent.__main__ import InvalidSetting, Settings
from binder_egress.agent.scans import Scans
from binder_egress.agent.uses import Open, Uses
from tests.support.clock import Clock
from tests.support.scan_networks import CLOSED_PORT, DROPPING, PORT, networks

ANSWERS = "198.18.0.1"

SERVER = """
import socket
kept = [socket.create_server(("", 8888)), socket.create_server(("127.0.0.1", 9000))]
print("ready", flush=True)
while True:
    with kept[0].accept()[0] as one: one.recv(10)
"""
"""What a pod runs: a server that visitors reach, which closes first, and one for itself."""

LOCAL = "import socket\nfor _ in range(5): socket.create_connection(('127.0.0.1', 9000)).close()"
REFUSED_BY_ITSELF = "import socket\nfor _ in range(5): socket.socket().connect_ex(('127.0.0.1', 9))"
TO = f"import socket\none = socket.create_connection(({ANSWERS!r}, {PORT}))\n"
CLOSES_FIRST = f"{TO}one.close()"
IS_CLOSED = f"{TO}one.sendall(b'x'); one.recv(1); one.close()"
"""The other end closes first, so the pod's kernel keeps nothing of it."""
DATAGRAMS = f"import socket\none = socket.socket(type=socket.SOCK_DGRAM)\none.sendto(b'x', ({ANSWERS!r}, 53)); one.close()"


@pytest.fixture(scope="module")
def internet():
    with networks() as made:
        yield made


@pytest.fixture
def node(internet, tmp_path):
    """A pod, and an agent that sees nothing but this pod."""
    number = len(internet.namespaces)
    pod, pause = internet.pod(number)
    (tmp_path / str(pause)).symlink_to(f"/proc/{pause}")
    made = SimpleNamespace(pod=pod, pause=pause, root=tmp_path, clock=Clock(), address=f"10.77.{number}.2")

    def agent(opened=None):
        made.uses = Uses(opened or Open(), tmp_path, made.clock, lambda: 0.0)
        made.scans = Scans(None, tmp_path, lambda text: "uid-1", clock=made.clock, spent=lambda: 0.0, uses=made.uses)
        looks(3)

    def looks(rounds=1, seconds=1):
        for _ in range(rounds):
            made.clock.now += seconds
            assert made.scans.round() == []
        return made.uses.rows()[-1][1]

    def runs(code):
        assert internet.start(pod, sys.executable, "-c", code).wait() == 0
        return looks(2, uses.IPV6_SECONDS)

    def ends():
        (tmp_path / str(pause)).unlink()
        return looks()

    server = internet.start(pod, sys.executable, "-c", SERVER, stdout=-1)
    assert server.stdout.readline() == "ready\n"
    # The pod started when the agent's clock began.
    agent()
    made.uses._pods["uid-1"].started = made.clock.now
    made.server, made.agent, made.looks, made.runs, made.ends = server, agent, looks, runs, ends
    return made


def verdict(row):
    return "used" if row["used"] else "not known" if row["missed"] or row["datagrams"] else "not used"


@pytest.mark.parametrize("code", ["", LOCAL, f"{LOCAL}\n{REFUSED_BY_ITSELF}"], ids=["nothing", "itself", "itself, refused"])
def test_pod_that_speaks_with_itself_alone_has_used_nothing(node, code):
    assert [verdict(node.runs(code)) for _ in range(2)] == ["not used"] * 2
    row = node.ends()
    assert (verdict(row), row["ended"]) == ("not used", True)


@pytest.mark.parametrize(
    ("code", "port"),
    [
        (CLOSES_FIRST, f"tcp/{PORT}"),
        (f"import socket\nsocket.create_connection(('2001:db8:5::1', {PORT})).close()", f"tcp/{PORT}"),
        (DATAGRAMS, "udp"),
        (DATAGRAMS.replace(ANSWERS, "2001:db8:5::1").replace("socket.socket(", "socket.socket(socket.AF_INET6, "), "udp"),
    ],
    ids=["TCP", "IPv6", "UDP", "UDP over IPv6"],
)
def test_pod_that_used_the_network_is_seen_with_the_port(node, code, port):
    row = node.runs(code)
    assert (verdict(row), row["ports"], row["seen"], row["first"]) == ("used", [port], 1, row["first"])
    assert row["first"] <= 60


def test_attempt_that_nobody_answers_is_a_use(internet, node):
    silent = DROPPING.partition("/")[0]
    internet.start(node.pod, sys.executable, "-c", f"import socket\nsocket.create_connection(({silent!r}, 22))")
    row = node.looks(2)
    while not row["used"]:
        row = node.looks(1)
    assert row["ports"] == ["tcp/22"]


def test_jupyter_that_waits_for_its_kernels_has_used_nothing(internet, node):
    """They refuse connections until they are up. Meanwhile there are visitors, so the pod sends packets to the outside."""
    visit = f"one = socket.create_connection(({node.address!r}, 8888)); one.send(b'x'); one.recv(1)"
    internet.start(internet.internet, sys.executable, "-c", f"import socket\n{visit}").wait()
    row = node.runs(f"{REFUSED_BY_ITSELF}\n{LOCAL}")
    assert verdict(row) == "not used"
    internet.start(internet.internet, sys.executable, "-c", f"import socket\n{visit}").wait()
    refused = f"import socket\nsocket.socket().connect_ex(({ANSWERS!r}, {CLOSED_PORT}))"
    assert verdict(node.runs(f"{REFUSED_BY_ITSELF}\n{refused}")) == "not known"


@pytest.mark.parametrize(
    "code",
    [IS_CLOSED, f"{LOCAL}\n{IS_CLOSED}", f"import socket\nsocket.socket().connect_ex(({ANSWERS!r}, {CLOSED_PORT}))"],
    ids=["closed by the other end", "among others", "refused"],
)
def test_connection_between_two_looks_makes_it_not_known(node, code):
    assert verdict(node.runs(code)) == "not known"
    assert verdict(node.runs(LOCAL)) == "not known", "for good"


def test_visitors_are_no_use(internet, node):
    visit = f"one = socket.create_connection(({node.address!r}, 8888)); one.send(b'x'); one.recv(1)"
    internet.start(internet.internet, sys.executable, "-c", f"import socket\nfor _ in range(5): {visit}").wait()
    assert verdict(node.looks(2)) == "not used"
    # The kernel still shows the visits when the server has ended.
    node.server.kill()
    node.server.wait()
    assert (verdict(node.runs(REFUSED_BY_ITSELF)), node.uses._pods["uid-1"].ports) == ("not used", {})


@pytest.mark.parametrize("elsewhere", ["198.18.0.9", "198.18.0.7"], ids=["at another address", "what the start guard tries"])
def test_what_the_base_policy_opens_is_no_use_and_its_port_elsewhere_says_nothing(node, elsewhere):
    opened = f'"{ANSWERS}:{PORT}", "$(HUB_SERVICE_HOST):8081"'
    node.agent(Open.load(f'{{"open": [{opened}], "tried": ["198.18.0.7:{PORT}"], "dns": false}}'))
    assert verdict(node.runs(CLOSES_FIRST)) == "not used"
    row = node.runs(CLOSES_FIRST.replace(ANSWERS, elsewhere))
    assert (verdict(row), row["ports"]) == ("not known", [])
    node.agent(Open.load(f'{{"open": [], "tried": ["198.18.0.7:{PORT}"], "dns": false}}'))
    assert verdict(node.runs(CLOSES_FIRST)) == "used", "it hides no other host"


@pytest.mark.parametrize(
    "text", ["x", "[]", "{}", *(f'{{"open": [{end}], "tried": [], "dns": 0}}' for end in ('"x:1"', 1, '"::1"'))]
)
def test_wrong_value_is_refused(text):
    with pytest.raises(InvalidSetting, match=r"agent\.report"):
        Settings.load({"BINDER_EGRESS_AGENT_HOST": "10.0.0.1", "BINDER_EGRESS_AGENT_USES": text})


def test_datagrams_say_nothing_where_dns_is_open(node):
    node.agent(Open(dns=True))
    assert verdict(node.runs(DATAGRAMS)) == "not known"


def test_second_agent_says_what_the_first_would_or_that_it_does_not_know(node):
    """The counters begin with the pod."""
    node.agent()
    assert verdict(node.looks()) == "not used"
    node.runs(LOCAL)
    node.agent()
    assert verdict(node.looks()) == "not used", "the kernel still shows what it was"
    node.runs(IS_CLOSED)
    node.agent()
    assert verdict(node.looks()) == "not known"
    node.runs(DATAGRAMS)
    node.agent()
    assert verdict(node.looks()) == "not known"


def test_first_minute_is_told_from_later_and_from_not_known(node):
    use = node.uses._pods["uid-1"]
    for age, since, first in ((59.0, 10.0, 59.0), (90.0, 89.0, 90.0), (61.5, 59.9, 61.5), (300.0, 0.0, None)):
        use.used = False
        use.note("udp", since, age)
        assert use.first == first


def test_last_second_counts(internet, node):
    """What a pod did after the last round is read when it has ended."""
    internet.start(node.pod, sys.executable, "-c", IS_CLOSED).wait()
    assert verdict(node.ends()) == "not known"


def test_what_is_kept_is_bounded(node, monkeypatch):
    use = node.uses._pods["uid-1"]
    monkeypatch.setattr(uses, "MOST_PAIRS", 3)
    assert node.runs(LOCAL)["missed"] == 1 and use.pairs == {}
    for port in range(100):
        use.note(f"tcp/{port}", 0.0, 1.0)
    assert len(use.ports) == uses.MOST_PORTS and use.seen == 100


def test_rows_wait_for_the_receiver_and_come_again(node, monkeypatch):
    rows = node.uses.rows()
    assert [uid for uid, _ in rows] == ["uid-1"]
    node.uses.sent(rows)
    assert node.uses.rows() == []
    node.clock.now += uses.SAME_SECONDS
    assert node.uses.rows() == rows
    node.ends()
    assert node.uses.rows()[0][1]["ended"]
    monkeypatch.setattr(uses, "MOST_ROWS", 0)
    node.uses.end("uid-1")
    assert node.uses.rows() == []
