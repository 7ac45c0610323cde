"""Scans: what the agent sees of pods' connections, in real network namespaces."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from binder_egress.agent import scans
from binder_egress.agent.lists import Match
from binder_egress.agent.scans import LOOK_SHARE, WINDOW_SECONDS, Scans, Unusual, _Peer
from tests.support.clock import Clock
from tests.support.scan_networks import ANSWERING, CLOSED_PORT, DROPPING, PORT, networks
from tests.support.waiting import eventually

FAILED, MANY = Match("scan", "40 connections failed in a minute"), Match("scan", "100 destinations in a minute")

LISTENING = Match("scan", "1000 sockets listen")

ANSWERED = f"{ANSWERING}:{PORT}"
REFUSED = f"{ANSWERING}:{CLOSED_PORT}"


SERVER_PORT = 8888
"""A server in each pod listens on it, as Jupyter does."""

SERVER = f"import socket; server = socket.create_server(('', {SERVER_PORT}), backlog=500); print('ready', flush=True); input()"

KNOCK = f"""
import socket, struct, sys
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
source, target = map(socket.inet_aton, sys.argv[1:])
for number in range(200):
    begin = [20000 + number, {SERVER_PORT}, number, 0, 0x5002, 1000]
    total = sum(struct.unpack("!14H", source + target + struct.pack("!HHHHIIHH", 6, 20, *begin)))
    total = (total & 0xffff) + (total >> 16)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, target)
    raw.sendto(ip + struct.pack("!HHIIHHHH", *begin, ~((total & 0xffff) + (total >> 16)) & 0xffff, 0), (sys.argv[2], 0))
"""
"""Begins handshakes with the server. The sender's kernel breaks them off if the source is its own address."""

NOBODY = "198.19.0.1"
"""An address of which nobody answers: handshakes that come from it never end."""


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
    server = internet.start(pod, sys.executable, "-c", SERVER, stdin=-1, stdout=-1)
    assert server.stdout.readline() == "ready\n"
    clock = Clock()
    agent = Scans(Unusual(), tmp_path, lambda text: "uid-1", clock=clock, spent=lambda: 0.0)
    for _ in range(3):  # it is seen, judged, and counted for the first time
        assert agent.round() == []
    assert agent.pods == {"uid-1"}

    def scan(*arguments):
        internet.scan(pod, *arguments).wait()
        return looks()

    def looks(seconds=1):
        clock.now += seconds
        return [what for _, what in agent.round()]

    def python(code):
        internet.start(pod, sys.executable, "-c", code).wait()
        return looks()

    def knock(source=f"10.77.{number}.1"):
        internet.start(internet.internet, sys.executable, "-c", KNOCK, source, f"10.77.{number}.2").wait()
        if source == NOBODY:
            eventually(lambda: resent() >= 200)

    def resent():
        numbers = Path(f"/proc/{pause}/net/snmp").read_text().split("Tcp:")[2].split()
        return int(numbers[11])

    made = SimpleNamespace(pod=pod, address=f"10.77.{number}.2", pause=pause, root=tmp_path, knock=knock)
    made.clock, made.scans, made.scan, made.looks, made.python = clock, agent, scan, looks, python
    return made


def few(network, number):
    """The first addresses of a network: 128 of a /25."""
    address, _, port = network.rpartition(":")
    return f"{address.partition('/')[0]}/{number}:{port}"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([few(REFUSED, 26)], [FAILED]),
        ([few(ANSWERED, 25)], [MANY]),
        ([few(f"{DROPPING}:80", 25), "--hold", "4"], [FAILED, MANY]),
        ([f"198.18.0.0/30:{CLOSED_PORT}", "--ports", "60"], [FAILED]),
        ([f"2001:db8:5::/121:{PORT}"], [MANY]),
        ([f"2001:db8:5::/121:{CLOSED_PORT}"], [FAILED]),
    ],
    ids=["refused", "answered", "dropped", "many ports", "IPv6", "IPv6 refused"],
)
def test_scan_is_found(internet, node, arguments, found):
    if "--hold" in arguments:
        scanner = internet.scan(node.pod, *arguments)
        eventually(lambda: scanner.poll() is None and node.looks(0) == found)
        scanner.kill()
    else:
        assert node.scan(*arguments) == found


def test_attempts_that_nobody_answers_are_seen_in_the_counters(internet, node):
    """They are sent again, also where the sockets were not looked at."""
    node.scans._allowed = -1e9
    node.knock(NOBODY)
    scanner = internet.scan(node.pod, f"{DROPPING}:80", "--rate=40", "--hold=1.5", "--seconds=4")
    eventually(lambda: node.looks(1) == [FAILED])
    scanner.wait()


@pytest.mark.parametrize("opened", [0, 60])
def test_strangers_make_no_scanner_of_a_server(node, opened):
    """They break handshakes off, or never end them; the pod opens nothing, or as many connections, all of which are answered."""
    opens = f"import socket\nfor _ in range({opened}): socket.create_connection(('198.18.0.1', {PORT}))"
    node.knock()
    assert node.python(opens) == []
    node.knock(NOBODY)
    assert node.python(opens) == []


def test_attempts_fail_at_most_as_often_as_the_pod_opened_connections(node, monkeypatch):
    """Also where the kernel does not say which handshakes strangers began."""
    monkeypatch.setattr(scans, "_ABOUT_HANDSHAKES", (b"no", b"such", b"counters"))
    node.knock()
    assert node.python(f"import socket\nfor _ in range(30): socket.create_connection(('198.18.0.1', {PORT}))") == []


def test_friends_who_knock_at_a_scanners_server_hide_nothing(node):
    node.knock()
    node.knock(NOBODY)
    assert node.scan(few(REFUSED, 26)) == [FAILED]


@pytest.fixture
def hold(internet, node):
    """Runs a program in the pod until the test has ended; what follows `print` in it, after the test's next line to it."""
    started = []

    def hold(code):
        started.append(internet.start(node.pod, sys.executable, "-c", code, stdin=-1, stdout=-1))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield hold
    for program in started:
        program.communicate("\n")


def test_scan_from_the_port_of_a_server_is_found(node, hold):
    """One of its attempts has no answer yet."""
    hold(f"""
import socket
def bound():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("", 8889))
    return one
server, waiting = bound(), bound()
server.listen()
kept = [bound() for _ in range(120)]
for number, one in enumerate(kept, 1): one.connect((f"198.18.0.{{number}}", {PORT}))
waiting.setblocking(False)
waiting.connect_ex(("{NOBODY}", 80))
print("ready", flush=True)
input()
""")
    assert node.looks() == [MANY]


def test_scan_does_not_hide_behind_sockets_that_listen(node, hold):
    """The kernel shows these first, and the agent does not read that far."""
    hold("""
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))
kept = [socket.create_server(("", 0)) for _ in range(1800)]
print("ready", flush=True)
input()
""")
    assert node.scan(few(ANSWERED, 25)) == [LISTENING]


def test_table_that_is_too_long_is_read_to_its_last_whole_line(node, monkeypatch):
    monkeypatch.setattr(scans, "MOST_BYTES", 150 * 120 + 20)  # lines of 150 bytes
    assert node.scan(few(ANSWERED, 24)) == [MANY]


def test_fewer_in_a_minute_are_not_found(node):
    assert node.scan(few(ANSWERED, 26)) == node.scan(few(REFUSED, 27)) == []
    assert node.looks(WINDOW_SECONDS) == []
    assert node.scan(few(REFUSED, 27)) == []
    assert node.scan(few(REFUSED, 27)) == [FAILED]


@pytest.mark.parametrize(
    "code",
    [
        # A page of a notebook's server asks until the server is up. Loopback's packets tell.
        "for _ in range(200): socket.socket().connect_ex(('127.0.0.1', 9))",
        "for _ in range(200): socket.socket().connect_ex((OWN, 9))",
        # Many connections to one host.
        f"kept = [socket.create_connection(('198.18.0.1', {PORT})) for _ in range(300)]",
        # Failures among many connections: the share decides, too.
        f"for number in range(150): socket.socket().connect_ex(('198.18.0.1', {CLOSED_PORT} if number % 3 == 2 else {PORT}))",
    ],
)
def test_other_programs_are_no_scan(node, code):
    assert node.python(f"import socket\nOWN = {node.address!r}\n{code}") == []


def test_many_connections_to_each_of_many_hosts_are_no_scan(node, hold):
    reads = "import socket\nkept = [socket.create_connection((f'198.18.9.{n}', 80)) for n in range(1, 120) for _ in range(4)]"
    hold(f"{reads}\nprint('ready', flush=True)\ninput()")
    assert node.looks() == []


def test_ports_of_one_host_count_as_hosts_do(node):
    peer = _Peer(node.clock.now, {b"%04X" % port: node.clock.now for port in range(100)}, connections=301, answered=True)
    node.scans._pods["uid-1"].peers[b"x"] = peer
    assert node.looks() == []
    peer.connections = 300
    assert node.looks() == [MANY]


def test_ports_of_one_host_count_for_a_minute_and_what_is_remembered_of_a_pod_is_bounded(node, monkeypatch):
    """A host that is seen all the time, each time at other ports, as a server of files is; then many such hosts."""
    monkeypatch.setattr(scans, "MOST_REMEMBERED", 150)
    pod = node.scans._pods["uid-1"]

    def remembered(hosts, first):
        rows = [b"0: 0100000A:9999 %08X:%04X 01 rest\n" % (host, port) for host in hosts for port in range(first, first + 20)]
        node.scans._read = lambda pod, name: b"head\n" + b"".join(rows) if name == "tcp" else b""
        node.clock.now += 20
        node.scans._look(pod, node.clock())
        return sum(len(peer.ports) for peer in pod.peers.values())

    assert max(remembered([256], first) for first in range(0, 200, 20)) == 60
    assert remembered(range(256, 266), 0) == 150


def test_visitors_of_a_server_in_the_pod_are_no_destinations(internet, node, hold):
    """Each has another address or port of its own. They stay after the server has ended, too."""
    opens = f"for number in range(12): socket.create_connection(('198.18.0.1', {PORT}))"
    server = hold(f"""
import socket
server = socket.create_server(("", 8889), backlog=500)
{opens}
print("ready", flush=True)
kept = [server.accept() for _ in range(150)]
print("accepted", flush=True)
input()
server.close()
{opens}
print("closed", flush=True)
input()
""")
    visits = f"import socket\nkept = [socket.create_connection(({node.address!r}, 8889)) for _ in range(150)]\ninput()"
    visitors = internet.start(internet.internet, sys.executable, "-c", visits, stdin=-1)
    for said in ("accepted\n", "closed\n"):
        assert server.stdout.readline() == said
        assert node.looks() == [] and node.scans._pods["uid-1"].peers.keys() == {b"010012C6"}
        server.stdin.write("\n")
        server.stdin.flush()
    visitors.communicate("\n")


def test_process_that_leaves_the_namespace_hides_nothing(internet, node):
    """The pause process is the oldest; what starts later is in whichever namespace it likes."""
    other = internet.start(node.pod, "unshare", "--net", "sleep", "60")
    (node.root / str(other.pid)).symlink_to(f"/proc/{other.pid}")
    node.looks()
    assert node.looks() == [] and node.scan(few(REFUSED, 26)) == [FAILED]


def test_pod_in_the_nodes_network_and_pods_of_other_users_are_left_out(node, tmp_path):
    # The pod's own namespace is the node's if process 1 is in it.
    (tmp_path / "1").symlink_to(f"/proc/{node.pause}")
    for uid, process in ((str(os.getuid()), 1), ("12345", 2)):
        agent = Scans(Unusual(), tmp_path, lambda text: "uid-1")
        agent._uid = uid.encode()
        if process == 2:
            (tmp_path / "1").unlink()
        for _ in range(3):
            agent.round()
        assert agent.pods == set()


def test_sockets_of_a_process_that_got_the_number_are_not_the_pods(internet, node):
    (node.root / str(node.pause)).unlink()
    (node.root / str(node.pause)).symlink_to("/proc/self")
    node.scan(few(ANSWERED, 25))
    assert node.scans._pods["uid-1"].opened > 0 and node.scans._pods["uid-1"].peers == {}


def test_older_process_takes_the_place_of_a_younger_one_and_a_pod_that_has_ended_is_forgotten(internet, node):
    """The files of both are closed, or the network namespace would stay."""
    younger = node.scans._pods["uid-1"]
    older = internet.start(node.pod, "sleep", "60")
    (node.root / str(older.pid)).symlink_to(f"/proc/{older.pid}")
    younger.started = 1 << 60
    node.looks()
    assert node.looks() == [] and node.scans._pods["uid-1"].process == str(older.pid) and younger.snmp.closed
    pod = node.scans._pods["uid-1"]
    for number in (older.pid, node.pause):
        (node.root / str(number)).unlink()
    assert node.looks() == [] and node.scans.pods == set()
    assert pod.snmp.closed and pod.dev.closed


def test_sockets_are_looked_at_within_a_budget(internet, node):
    """Each look takes a second of processor time here, so the first uses up the budget of many minutes."""
    node.scans._spent = iter(range(100)).__next__
    node.scan(few(ANSWERED, 26))
    assert node.scan("198.18.7.0/25:80") == []
    assert node.looks(1 / LOOK_SHARE) == [] or node.scan("198.18.8.0/25:80") == [MANY]
