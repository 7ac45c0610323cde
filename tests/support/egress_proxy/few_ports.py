"""The egress proxy on a machine with few source ports: unverified servers that use up those for one host, and other servers.

`seen` runs it in the lab's network namespace, with real sockets, on a clock of its own.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.clock import Clock
from tests.support.egress_proxy import attempts, lab
from tests.support.egress_proxy.attempts import ANY, COURSE, LISTED, PUBLIC, STRANGER, Pod, get, plain
from tests.support.egress_proxy.internet import start_internet
from tests.support.waiting import eventually
from verifier.proxy import source_ports
from verifier.proxy.connections import Proxy
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import Resolver

PORTS, TRIED, VERIFIED = 800, 250, 100
"""The machine's source ports, the connections that the unverified servers try, and a verified one's."""

HOSTS = {"ok.example": [PUBLIC[0]], "other.example": [PUBLIC[1]], "both.example": list(PUBLIC)}
CROWD = (LISTED, COURSE)


def seen() -> dict:
    """Answers by status, the line of a refusal, and what the metrics say, as `main` says."""
    return lab.in_namespace(__spec__.name)


def main() -> None:
    """In the namespace: take the ports, and print what was seen."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"40000 {40000 + PORTS - 1}")
    attempts.answer_seconds = lab.WAIT_SECONDS
    source_ports.FEW = 0  # type: ignore[misc]  # they are all of the crowd here
    clock, metrics = Clock(), Metrics()
    limits = Limits(1000, 1000, 0, 4000, 0, source_ports.source_ports())
    proxy = Proxy(lab.policy(*HOSTS), limits, Resolver(HOSTS.__getitem__), metrics, identity_wait_seconds=10, clock=clock)
    with tempfile.TemporaryDirectory() as folder:
        start_internet(Path(folder), PUBLIC)
    tiers = {LISTED: "unverified", COURSE: "unverified", STRANGER: "unverified", ANY: "full"}
    running = lab.Running(proxy, {lab.PODS[name]: tier for name, tier in tiers.items()})

    def ask(number: int, *pods: str, host: str = "ok.example") -> dict[str, int]:
        return Counter(one(lab.PODS[pods[turn % len(pods)]], host).split()[1] for turn in range(number))

    def one(pod: Pod, host: str) -> str:
        return plain(pod, get(f"http://{host}/"))

    def metric(name: str) -> dict[str, float]:
        found = re.findall(rf"^binder_egress_proxy_{name}{{(.*)}} (\S+)$", metrics.text().decode(), re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    found: dict = {"crowd": ask(TRIED, *CROWD)}
    found["refusal"] = one(lab.PODS[LISTED], "ok.example")
    found["verified"] = ask(VERIFIED, ANY)
    found["other host"] = ask(1, LISTED, host="other.example")
    found["two addresses"] = ask(1, LISTED, host="both.example")
    # The proxy checks its state each second.
    eventually(lambda: metric("source_ports_taken").get('who="all"') == (PORTS // 4 + VERIFIED) / (PORTS / 2))
    found["unverified"] = metric("source_ports_taken")['who="unverified"']
    found["refusals"] = sum(value for labels, value in metric("connections_total").items() if 'rule="host-limit"' in labels)
    clock.now += source_ports.KEPT_SECONDS
    found["after"] = ask(1, LISTED)
    running.end(found)


if __name__ == "__main__":
    main()
