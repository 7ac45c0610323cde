"""A scanner behind the egress proxy: which addresses the packets of the proxy reach, out of a network where all addresses exist.

`seen` runs it in the lab's network namespace, with real sockets.
"""

import ipaddress
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.egress_proxy import attempts, lab
from tests.support.egress_proxy.attempts import ANY, LISTED, connect, get, plain, receive
from tests.support.egress_proxy.internet import start_internet
from verifier.proxy.connections import Proxy
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import Resolver

LIMIT, UNVERIFIED_LIMIT = 12, 4
"""Addresses in a minute without a wait, of a server with a tier and of one without."""

ANSWERING, REFUSING = ipaddress.ip_network("203.0.114.0/24"), ipaddress.ip_network("203.0.115.0/24")


def resolve(name: str) -> list[str]:
    """`a7.example` has the eighth address of the network that answers, and `r7.example` of the one that refuses; the only name
    of `turning.example` has another address each time."""
    if name.startswith("turning"):
        turns[name] += 1
        return [str(ANSWERING[100 + turns[name]])]
    number = int(name[1:].partition(".")[0])
    return [str((ANSWERING if name[0] == "a" else REFUSING)[number])]


turns: Counter[str] = Counter()


def seen() -> dict:
    """What packets reached, and the answers, as `main` says."""
    return lab.in_namespace(__spec__.name)


def watch(packets: socket.socket, reached: dict[str, float]) -> None:
    """Collect the addresses to which a SYN goes, and when the first did, until the process ends."""
    while True:
        packet = packets.recv(65535)
        start = (packet[0] & 15) * 4
        if packet[9] == socket.IPPROTO_TCP and packet[start + 13] & 0x12 == 0x02:
            reached.setdefault(socket.inet_ntoa(packet[16:20]), time.monotonic())


def main() -> None:
    """In the namespace: scan, and print what was seen."""
    for network in (ANSWERING, REFUSING):
        subprocess.run(["ip", "route", "add", "local", str(network), "dev", "lo"], check=True)
    attempts.answer_seconds = lab.WAIT_SECONDS
    metrics, knocked = Metrics(), dict[str, float]()
    limits = Limits(1000, 1000, new_hosts_per_minute=LIMIT, unverified_new_hosts_per_minute=UNVERIFIED_LIMIT)
    now = [0.0]  # seconds by which answers of DNS appear older
    proxy = Proxy(lab.policy("*"), limits, Resolver(resolve, lambda: time.monotonic() + now[0]), metrics)
    with tempfile.TemporaryDirectory() as folder:
        start_internet(Path(folder), [str(address) for address in list(ANSWERING)[:150]])
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    packets.bind(("lo", 0))
    threading.Thread(target=watch, args=[packets, knocked], daemon=True).start()

    running = lab.Running(proxy, {lab.PODS[ANY]: "full", lab.PODS[LISTED]: "unverified"})

    def ask(pod: str, *hosts: str) -> dict[str, int]:
        with ThreadPoolExecutor(len(hosts)) as pool:
            answers = list(pool.map(lambda host: plain(lab.PODS[pod], get(f"http://{host}/")), hosts))
        lines.extend(answers)
        return Counter(answer.split()[1] for answer in answers)

    def reached(network: ipaddress.IPv4Network) -> int:
        return sum(ipaddress.ip_address(address) in network for address in knocked)

    lines: list[str] = []
    found: dict = {}
    # One connection is open from the start: its host waits for the rest of the request.
    with connect(lab.PODS[ANY]) as held:
        text = get("http://a0.example/", more="Content-Length: 1\r\n", method="POST")
        held.sendall(text.encode())
        found["few"] = ask(ANY, *(f"a{number}.example" for number in range(1, 5)))
        for step in range(20):
            now[0] = 6.0 * step
            found["turning"] = ask(ANY, "turning.example")
        found["turning addresses"] = turns["turning.example"], reached(ANSWERING)
        began = time.monotonic()
        # Each host twice, so that the second does not pass the first.
        found["many"] = ask(ANY, *(f"a{number % 20 + 5}.example" for number in range(2 * 20)))
        found["reached"], found["last after"] = reached(ANSWERING), max(knocked.values()) - began
        found["again"] = ask(ANY, "a1.example")
        held.sendall(b"x")
        found["held"] = receive(held)
    found["refusal"] = next(line for line in lines if " 429 " in line)
    # One after the other, so that each failure counts before the next host.
    found["refusing"] = Counter(status for number in range(6) for status in ask(LISTED, f"r{number}.example"))
    found["reached that refuse"] = reached(REFUSING)
    rows = re.findall(r'^binder_egress_proxy_new_hosts_total{outcome="(.*)",who="(.*)"} (\S+)$', metrics.text().decode(), re.M)
    found["metrics"] = {f"{who} {outcome}": float(value) for outcome, who, value in rows}
    running.end(found)


if __name__ == "__main__":
    main()
