"""The probe: tries, from inside a pod, targets that must be open and targets that must be shut. The canary and `helm test` run it.

A pod without egress cannot report to anybody, so the result goes into the container's termination message, and Kubernetes shows
it in the pod's status. The canary without a controller ends after each change in its result, and occasionally without one, and the
kubelet starts it again. The canary of a node goes on, and the reconciler asks it.

It imports only the standard library, and needs no privileges.
"""

import ipaddress
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..pods import start_guard

TARGETS_VARIABLE = "BINDER_EGRESS_PROBE_TARGETS"
"""JSON: name → `tcp://host:port`, `ping://host`, `dns://host:port/name` (without a host: the pod's own DNS server) or
`link-local://:port`.
`$(NAME)` is an environment variable; a target whose variable is not set is left out."""

INTERVAL_VARIABLE = "BINDER_EGRESS_PROBE_INTERVAL"
"""Seconds between two rounds of the canary."""

ROUNDS_UNTIL_SAID_AGAIN = 40
"""Rounds after which the canary ends even without a change, because its kubelet may lose a message (D-375): 21 minutes with the
default interval. A container that ran for ten minutes is restarted without delay."""

ROUNDS_UNTIL_SAID_TWICE = 2
"""The same after a change, which nobody would otherwise see for that long if its message was lost."""

PATIENCE_VARIABLE = "BINDER_EGRESS_PROBE_PATIENCE"
"""Seconds for which an awaited target without an answer is tried again: a tier's policy may take effect late."""

AWAITED_VARIABLE = "BINDER_EGRESS_PROBE_AWAITED"
"""JSON: the names of the awaited targets, those that must be open. Without it, all are awaited."""

PROXY_VARIABLE = "BINDER_EGRESS_PROBE_PROXY"
"""The address of the egress proxy's Service; empty, or with an unknown variable: there is no proxy to ask."""

ADDRESSES_VARIABLE = "BINDER_EGRESS_PROBE_ADDRESSES"
"""This pod's addresses, separated by commas."""

PROXY_PORT = 3128
"""The port of the egress proxy."""

PROXY_PATIENCE_SECONDS = 10.0
"""Seconds for which the egress proxy is asked again: its own policy may admit a new pod late. An answer takes 2 s, the time for
which the proxy waits for a pod that it does not know."""

MARK_PORT = 8085
"""The canary's port, on which the reconciler measures how late labels act (`label_delay`)."""

WORD_PORT = 8086
"""The port on which the canary of a node tells its last result to the reconciler (D-540)."""

TIMEOUT_SECONDS = 1.0
"""Time limit for one try, in seconds."""

TRIES = 2
"""How many times a target that does not answer is tried. One answer is enough to call it open."""

TARGETS_AT_ONCE = 16
"""Targets that are tried at the same time, each by a thread. The chart has seven of its own."""

TENTATIVE = 0x40
"""The flag in /proc/net/if_inet6 of an address that nothing can be sent from yet, because the kernel still asks whether somebody
else has it (IFA_F_TENTATIVE)."""

TENTATIVE_SECONDS = 3.0
"""How long a pod waits for its link-local address. The kernel gives it 1 to 2 s after the interface (RFC 4862, section 5.4)."""

SEEN_FILE = Path("/tmp/seen")
"""The canary's last result, in a volume that outlives the container's restarts."""

HEARTBEAT_FILE = Path("/tmp/beat")
"""The canary touches this file in each round; its liveness probe checks the age."""

SHUT_FILE = Path("/tmp/shut")
"""Exists if the canary's last round reached nothing that must be shut; its readiness probe, if it has one, checks for it."""


def reaches(target: str, timeout: float = TIMEOUT_SECONDS) -> bool | None:
    """Whether one try gets an answer from a target; None if this pod has no way to try it.

    A refused connection does not count as an answer: some network plugins reject what policies forbid.

    Args:
        target: as in `TARGETS_VARIABLE`, with variables filled in.
        timeout: seconds.
    """
    parts = urlsplit(target)
    if parts.scheme == "link-local":
        address = neighbour()
        return None if address is None else bool(start_guard.connects((address, parts.port or 0), timeout))
    if parts.scheme == "ping":
        return pings(parts.hostname or "", timeout)
    host, port = parts.hostname or "", parts.port or 53
    if parts.scheme == "dns":
        if not (host := host or own_dns_server()):
            return None
        return _resolves(host, port, parts.path.strip("/") or "kubernetes.default.svc.cluster.local", timeout)
    return bool(start_guard.connects((host, port), timeout))


def pings(host: str, timeout: float) -> bool | None:
    """Whether a host answers an echo request; None if this pod may not send one, as with the sysctl of user pods.

    Args:
        host: its address or its name.
        timeout: seconds.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        six = family == socket.AF_INET6
        asking = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
    except PermissionError:
        return None
    except OSError:
        return False
    with asking, suppress(OSError):
        asking.settimeout(timeout)
        asking.connect(address)
        asking.send(bytes([128 if six else 8, *[0] * 7]))  # an echo request; the kernel fills in checksum and identifier
        return bool(asking.recv(64))
    return False


def own_dns_server(file: Path = Path("/etc/resolv.conf")) -> str:
    """The address of this pod's first DNS server; empty if it has none."""
    with suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith("nameserver"):
                return line.split()[1]
    return ""


def _resolves(server: str, port: int, name: str, timeout: float) -> bool:
    """Whether a DNS server sends any answer at all to a query over UDP."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.strip(".").split("."))
    question = b"\x2b\x0e\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    try:
        family, *_, address = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(timeout)
            asking.connect(address)
            asking.send(question)
            return asking.recv(512)[:2] == question[:2]
    except OSError:
        return False


def neighbour(proc: Path = Path("/proc/net")) -> str | None:
    """The IPv6 link-local address of this pod's gateway, as `fe80::…%eth0`. In most networks that is the pod's node.

    Pods are not told that address. It follows from the gateway's hardware address (RFC 4291, appendix A), which the kernel learns
    with the first packet (D-183). None if this pod itself has no link-local address that it can use, or no visible gateway.
    """
    try:
        own = _own_interfaces(proc)
        for line in (proc / "route").read_text().splitlines()[1:]:
            interface, destination, gateway = line.split()[:3]
            if destination != "00000000" or gateway == "00000000" or interface not in own:
                continue
            address = str(ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(gateway), "little")))
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.sendto(b"", (address, 9))  # so that the kernel queries the hardware address, which policies cannot stop
            for _ in range(10):
                for entry in (proc / "arp").read_text().splitlines()[1:]:
                    known = entry.split()
                    if known[0] == address and known[5] == interface and known[3] != "00:00:00:00:00:00":
                        return f"{link_local(known[3])}%{interface}"
                time.sleep(0.05)
    except (OSError, ValueError, IndexError):
        pass
    return None


def _own_interfaces(proc: Path) -> set[str]:
    """The interfaces with a link-local address. A tentative one is waited for: no packet would leave, and the target look shut."""
    deadline = time.monotonic() + TENTATIVE_SECONDS
    while True:
        own = [line.split() for line in (proc / "if_inet6").read_text().splitlines() if line.startswith("fe80")]
        usable = {interface for *_, flags, interface in own if not int(flags, 16) & TENTATIVE}
        if len(usable) == len(own) or time.monotonic() > deadline:
            return usable
        time.sleep(0.05)


def link_local(hardware: str) -> str:
    """The link-local address that an interface derives from its hardware address `aa:bb:cc:dd:ee:ff`."""
    first, *rest = bytes.fromhex(hardware.replace(":", ""))
    identifier = bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]])
    return str(ipaddress.IPv6Address(bytes([0xFE, 0x80, *[0] * 6]) + identifier))


def targets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The targets in the environment, by name, with variables filled in. A target whose variable is not set is left out."""
    targets = {}
    for name, target in json.loads(environment.get(TARGETS_VARIABLE) or "{}").items():
        parts = target.split("$(")
        whole = parts[0]
        for part in parts[1:]:
            variable, _, rest = part.partition(")")
            value = environment.get(variable)
            if not value:
                break
            whole += (f"[{value}]" if ":" in value else value) + rest
        else:
            targets[name] = whole
    return targets


def try_all(
    targets: Mapping[str, str],
    patience: float = 0.0,
    awaited: Collection[str] | None = None,
    reaches: Callable[[str], bool | None] = reaches,
) -> dict[str, bool | None]:
    """Try every target, several at a time: a target that is shut takes as long as its timeouts.

    The awaited targets come first. Once they answer, this pod's policies are in force, and the others need no patience.

    Args:
        targets: the targets by name.
        patience: seconds for which an awaited target without an answer is tried again; each target gets `TRIES` tries in any case.
        awaited: the names of the awaited targets; None or none: all are.
        reaches: tries one target.

    Returns:
        Name → whether the target was reached; None: this pod has no way to try it.
    """
    until = time.monotonic() + patience

    def try_target(name: str, until: float) -> bool | None:
        for number in itertools.count(1):
            reached = reaches(targets[name])
            if reached or reached is None or (number >= TRIES and time.monotonic() >= until):
                break
            time.sleep(0.05)
        return reached

    first = [name for name in targets if name in awaited] if awaited else list(targets)
    others = [name for name in targets if name not in first]
    with ThreadPoolExecutor(TARGETS_AT_ONCE) as pool:
        reached = dict(zip(first, pool.map(lambda name: try_target(name, until), first), strict=True))
        reached |= zip(others, pool.map(lambda name: try_target(name, 0.0), others), strict=True)
    return {name: reached[name] for name in targets}


def seen_by_proxy(
    environment: Mapping[str, str],
    ask: Callable[[start_guard.Target, float], dict[str, Any]] = start_guard.ask_proxy,
    patience: float = PROXY_PATIENCE_SECONDS,
) -> str:
    """What the egress proxy sees of this pod. It does not know the pod, which is not a server, but reports its address.

    Args:
        environment: the container's environment variables.
        ask: asks once, within a number of seconds.
        patience: seconds for which a proxy that does not answer is asked again.

    Returns:
        `shown`: it sees this pod's address; `hidden`: it sees another one, so it serves nobody; `silent`: it does not answer;
        an empty text if there is no proxy.
    """
    host = environment.get(PROXY_VARIABLE, "")
    if not host or "$" in host:
        return ""
    own = {ipaddress.ip_address(address) for address in environment[ADDRESSES_VARIABLE].split(",")}
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0:
        with suppress(OSError, ValueError):
            return "shown" if ipaddress.ip_address(ask((host, PROXY_PORT), left)["address"]) in own else "hidden"
        time.sleep(min(0.2, left))
    return "silent"


def report(reached: Mapping[str, bool | None], message: Path = Path(start_guard.MESSAGE_FILE), proxy: str = "") -> None:
    """Write a result into the termination message, and into the log."""
    text = json.dumps({"reached": reached} | ({"proxy": proxy} if proxy else {}))
    print(text, flush=True)
    with suppress(OSError):
        message.write_text(text)


def all_shut(reached: Mapping[str, bool | None]) -> bool:
    """Whether at least one target could be tried, and none was reached."""
    return True not in reached.values() and False in reached.values()


def _wait_for_isolation(environment: Mapping[str, str]) -> None:
    """Wait as user pods do. Some network plugins isolate a new pod late; the start guard handles that, so it is no finding here."""
    print(f"start guard: {json.dumps(start_guard.guard(environment, start_guard.TIMEOUT_SECONDS))}", flush=True)


def listen(port: int = MARK_PORT, say: Callable[[], str] = str) -> int:
    """Accept connections on a port of every address from now on, say something to each, and close it. Returns the port.

    Args:
        port: the port; 0 chooses one.
        say: what is said, some hundred bytes; by default nothing.
    """
    both = socket.has_dualstack_ipv6()  # not where the kernel has no IPv6
    listener = socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)

    def serve() -> None:
        while True:
            with suppress(OSError), listener.accept()[0] as connection:
                connection.sendall(say().encode())

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def canary(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE_FILE)) -> None:
    """Try all targets again and again until the result changes or is due to be repeated.

    A silent proxy is reported with its last known result. Otherwise a proxy that comes and goes would end the canary so often
    that its kubelet restarts it with ever longer delays, and nobody would test the gate.

    Args:
        environment: the container's environment, which has the targets and the interval.
        message: the file for the result, which the kubelet puts into the pod's status.

    Raises:
        SystemExit: this container cannot connect to itself, so every target would look shut.
    """
    before = json.loads(SEEN_FILE.read_text()) if SEEN_FILE.exists() else {}
    if not before:
        _wait_for_isolation(environment)
    targets, interval = targets_of(environment), float(environment.get(INTERVAL_VARIABLE) or 30)
    SHUT_FILE.unlink(missing_ok=True)  # from the previous container, which may have hung
    for number in itertools.count(1):
        HEARTBEAT_FILE.touch()
        if not start_guard.able():
            raise SystemExit("this container cannot even connect to itself")
        reached, proxy = try_all(targets), seen_by_proxy(environment)
        if proxy == "silent" and before:
            proxy = before["proxy"] or proxy
        report(reached, message, proxy)
        if all_shut(reached):
            SHUT_FILE.touch()
        else:
            SHUT_FILE.unlink(missing_ok=True)
        same = (reached, proxy) == (before.get("reached"), before.get("proxy"))
        if not same or number >= (ROUNDS_UNTIL_SAID_AGAIN if before["twice"] else ROUNDS_UNTIL_SAID_TWICE):
            SEEN_FILE.write_text(json.dumps({"reached": reached, "proxy": proxy, "twice": same}))
            return
        time.sleep(interval)


def node(environment: Mapping[str, str], port: int = WORD_PORT, rounds: Callable[[], Iterable[int]] = itertools.count) -> None:
    """Try all targets again and again, and tell the reconciler the last result, and its age, when it asks.

    Args:
        environment: the container's environment, which has the targets and the interval.
        port: the port at which it asks.
        rounds: one item for each round.

    Raises:
        SystemExit: as `canary`.
    """
    _wait_for_isolation(environment)
    targets, interval = targets_of(environment), float(environment.get(INTERVAL_VARIABLE) or 30)
    last: dict[str, Any] = {}
    listen(port, lambda: json.dumps(last | {"age": round(time.monotonic() - last["at"], 1)}) if last else "")
    for _ in rounds():
        HEARTBEAT_FILE.touch()
        if not start_guard.able():
            raise SystemExit("this container cannot even connect to itself")
        began = time.monotonic()
        reached, proxy = try_all(targets), seen_by_proxy(environment)
        tried = {name: not got for name, got in reached.items() if got is not None}
        last = {"shut": tried, "proxy": proxy, "at": began}
        time.sleep(interval)


def once(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE_FILE)) -> dict[str, bool | None]:
    """Try all targets once, for `helm test`. Takes what `canary` takes.

    Returns:
        The result, as `try_all` gives it.

    Raises:
        SystemExit: as `canary`.
    """
    if not start_guard.able():
        raise SystemExit("this container cannot even connect to itself")
    _wait_for_isolation(environment)
    awaited = json.loads(environment.get(AWAITED_VARIABLE) or "[]")
    reached = try_all(targets_of(environment), float(environment.get(PATIENCE_VARIABLE) or 0), awaited)
    report(reached, message, seen_by_proxy(environment))
    return reached


def shut(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE_FILE)) -> None:
    """Try all targets once, and fail if one is open. `helm test` uses it in modes without a pod that may read other pods'
    results. Takes what `canary` takes.

    Raises:
        SystemExit: a target is open, or none could be tried.
    """
    reached = once(environment, message)
    if through := sorted(name for name, got in reached.items() if got):
        raise SystemExit(f"FAILED: must be shut, and is open: {', '.join(through)}. docs/gatecheck.md says what to do")
    if not all_shut(reached):
        raise SystemExit("FAILED: nothing could be tried, so nothing is proved: see gatecheck.shut")
    print("All is shut.")


def control(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE_FILE)) -> None:
    """Try all targets once from a pod that no policy isolates. Takes what `canary` takes.

    Raises:
        SystemExit: no target answers, so an isolated pod's failure to reach them proves nothing.
    """
    if True not in once(environment, message).values():
        raise SystemExit(
            "FAILED: this pod, which is not isolated, reaches nothing either, so nothing is proved: see gatecheck.shut"
        )


def main() -> None:
    """Run the command that the last argument names."""
    command = sys.argv[-1]
    if command in ("canary", "node"):
        listen()
    run: dict[str, Callable[[Mapping[str, str]], object]] = {"canary": canary, "node": node, "once": once, "shut": shut}
    (run | {"control": control})[command](os.environ)
