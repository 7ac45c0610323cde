"""`egress report` in mode observe: forty servers of which it is known what they did, and an agent that is away in the middle."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.support.cluster.commands import egress
from tests.support.cluster.packets import python_in
from tests.support.cluster.stage import QUICK, Stage
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

ITSELF = """server = socket.create_server(("127.0.0.1", 9000))
for _ in range(9):
    one, other = socket.create_connection(("127.0.0.1", 9000)), server.accept()[0]
    one.close()
    other.close()"""
CLOSES = "socket.create_connection(END, 5).close()"
IS_CLOSED = """one = socket.create_connection(END, 5)
one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
while one.recv(999): pass"""
REFUSED = "socket.socket().connect_ex((END[0], 9))"
SENDS = "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', END)"

KINDS = {  # what a server does: how many, which code, towards which target, after so many seconds
    "nothing": (8, "", "public HTTP", 0),
    "speaks with itself": (4, ITSELF, "public HTTP", 0),
    "TCP": (6, CLOSES, "public HTTP", 0),
    "UDP": (4, SENDS, "public UDP", 0),
    "IPv6": (4, CLOSES, "public IPv6", 0),
    "late": (4, CLOSES, "public HTTP", 63),
    "refused": (2, REFUSED, "public HTTP", 0),
    "closed by the other end": (2, IS_CLOSED, "public HTTP", 0),
}

AWAY = json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"no": "such"}}}}})


def run_servers(stage: Stage, number: int, code: str, target: str, seconds: float) -> None:
    """Launch so many servers, run something in each, and end them."""
    url = urlsplit(stage.targets()[target])
    end = (url.hostname, url.port or 80)
    with ThreadPoolExecutor(2) as pool:
        users = list(pool.map(lambda _: stage.launch().user, range(number)))
    time.sleep(max(seconds, 3))
    for user in users:
        assert python_in(stage, user, f"import socket\nEND = {end!r}\n{code}").wait() == 0
    time.sleep(3)
    stage.kubectl("delete", "pods", *(stage.pod_name(user) for user in users), "--grace-period=5")


def test_report_of_forty_servers_is_exact(stage, local_cluster):
    observing = ("--set=mode=observe", "--set=observe.withoutPolicies=true")
    with stage.installed(*QUICK, *observing, "--set=agent.enabled=true", "--set=agent.report.enabled=true"):
        stage.rollout("daemonset/binder-egress-agent")
        time.sleep(25)  # until the receiver knows the agents
        for number, code, target, seconds in KINDS.values():
            run_servers(stage, number, code, target, seconds)
        stage.kubectl("patch", "daemonset/binder-egress-agent", "--patch", AWAY)
        eventually(lambda: not stage.pods_of("agent"))
        for code in (CLOSES, ""):
            run_servers(stage, 3, code, "public HTTP", 0)

        def over() -> dict:
            return dict(egress(stage, "report")["ways"][-1])

        eventually(lambda: over()["launches"] == 40, 120, over)
        found = egress(stage, "report")
        print(stage.kubectl("exec", "deploy/binder-egress-reconciler", "--", "egress", "report"))
        assert list(over().values()) == ["all", 40, 0, 18, 14, 4, 12, 10]
        assert found["not_known"] == {"between looks": 4, "no agent": 6}
        (row,) = found["repositories"]
        assert (row["used"], set(row["ports"])) == (18, {"udp", "tcp/80"})
