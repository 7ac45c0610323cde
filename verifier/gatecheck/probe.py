"""The probe: tries from inside a pod what must be open and what must be shut. The canary and `helm test` run it.

A pod whose network is shut cannot tell anybody, so what was seen goes into the container's termination message, which Kubernetes
shows in the pod's status. The canary ends each time that what it sees has changed, and is started again by its kubelet.

It imports nothing but the standard library, and needs no privileges.
"""

import ipaddress
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ..pods import start_guard

TARGETS_VARIABLE = "BINDER_EGRESS_PROBE_TARGETS"
"""JSON: name → `tcp://host:port`, `dns://host:port/name` (without a host: the pod's own DNS server) or `link-local://:port`.
`$(NAME)` is an environment variable; a target whose variable is not there is left out."""

INTERVAL_VARIABLE = "BINDER_EGRESS_PROBE_INTERVAL"
"""Seconds between two looks of the canary."""

PATIENCE_VARIABLE = "BINDER_EGRESS_PROBE_PATIENCE"
"""Seconds for which a target that does not answer is tried again: a tier's policy may come late, too."""

TIMEOUT = 1.0
"""Seconds for one try."""

TRIES = 2
"""Tries of a target that must be shut. One that gets through is enough."""

SEEN = Path("/tmp/seen")
"""What the canary saw last, kept in a volume over the container's restarts."""

BEAT = Path("/tmp/beat")
"""Touched with each look of the canary; its liveness probe looks at the age."""

SHUT = Path("/tmp/shut")
"""There while the canary's last look found shut whatever must be; its readiness probe looks for it, if it has one."""


def reaches(target: str, timeout: float = TIMEOUT) -> bool | None:
    """Whether one try gets an answer from a target; None if this pod has no way to try it.

    A refused connection is no answer: some network plugins reject what policies forbid.
    """
    parts = urlsplit(target)
    if parts.scheme == "link-local":
        address = neighbour()
        return None if address is None else start_guard.connects((address, parts.port or 0), timeout)
    host, port = parts.hostname or "", parts.port or 53
    if parts.scheme == "dns":
        if not (host := host or own_dns_server()):
            return None
        return _resolves(host, port, parts.path.strip("/") or "kubernetes.default.svc.cluster.local", timeout)
    return start_guard.connects((host, port), timeout)


def own_dns_server(file: Path = Path("/etc/resolv.conf")) -> str:
    """The address of this pod's first DNS server; empty if there is none."""
    with suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith("nameserver"):
                return line.split()[1]
    return ""


def _resolves(server: str, port: int, name: str, timeout: float) -> bool:
    """Whether a DNS server answers anything at all to a question over UDP."""
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
    """The IPv6 link-local address of this pod's gateway, its node in most networks, as `fe80::…%eth0`.

    Nobody tells a pod that address, but it follows from the gateway's hardware address (RFC 4291, appendix A), which the kernel
    learns with the first packet. None where this pod has no link-local address itself, or no gateway to be seen.
    """
    try:
        own = {line.split()[5] for line in (proc / "if_inet6").read_text().splitlines() if line.startswith("fe80")}
        for line in (proc / "route").read_text().splitlines()[1:]:
            interface, destination, gateway = line.split()[:3]
            if destination != "00000000" or gateway == "00000000" or interface not in own:
                continue
            address = str(ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(gateway), "little")))
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.sendto(b"", (address, 9))  # so that the kernel asks for the hardware address; policies cannot stop that
            for _ in range(10):
                for entry in (proc / "arp").read_text().splitlines()[1:]:
                    known = entry.split()
                    if known[0] == address and known[5] == interface and known[3] != "00:00:00:00:00:00":
                        return f"{link_local(known[3])}%{interface}"
                time.sleep(0.05)
    except (OSError, ValueError, IndexError):
        pass
    return None


def link_local(hardware: str) -> str:
    """The link-local address that an interface makes of its hardware address `aa:bb:cc:dd:ee:ff`."""
    first, *rest = bytes.fromhex(hardware.replace(":", ""))
    identifier = bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]])
    return str(ipaddress.IPv6Address(bytes([0xFE, 0x80, *[0] * 6]) + identifier))


def targets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The targets, with variables filled in, without those whose variables are not there."""
    found = {}
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
            found[name] = whole
    return found


def look(
    targets: Mapping[str, str], patience: float = 0.0, reaches: Callable[[str], bool | None] = reaches
) -> dict[str, bool | None]:
    """Try every target.

    Args:
        targets: name → target.
        patience: seconds for which one that does not answer is tried again; `TRIES` times in any case.
        reaches: tries one target.

    Returns:
        name → whether it was reached; None: this pod has no way to try it.
    """
    found: dict[str, bool | None] = {}
    until = time.monotonic() + patience
    for name, target in targets.items():
        tries = 0
        while True:
            tries += 1
            found[name] = reaches(target)
            if found[name] or found[name] is None or (tries >= TRIES and time.monotonic() >= until):
                break
            time.sleep(0.05)
    return found


def say(reached: Mapping[str, bool | None], message: Path = Path(start_guard.MESSAGE)) -> None:
    """Leave what was seen where Kubernetes looks for it, and in the log."""
    text = json.dumps({"reached": reached})
    print(text, flush=True)
    with suppress(OSError):
        message.write_text(text)


def all_shut(reached: Mapping[str, bool | None]) -> bool:
    """Whether nothing was reached, of something that could be tried."""
    return True not in reached.values() and False in reached.values()


def _wait_for_isolation(environment: Mapping[str, str]) -> None:
    """Some network plugins isolate a new pod late; that is the start guard's business, and no finding here."""
    print(f"start guard: {json.dumps(start_guard.guard(environment, start_guard.TIMEOUT))}", flush=True)


def canary(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE)) -> None:
    """Look every so often, until something has changed."""
    before = SEEN.read_text() if SEEN.exists() else ""
    if not before:
        _wait_for_isolation(environment)
    targets, interval = targets_of(environment), float(environment.get(INTERVAL_VARIABLE) or 30)
    SHUT.unlink(missing_ok=True)  # that of the container before, which may have hung
    while True:
        BEAT.touch()
        if not start_guard.able():
            raise SystemExit("not even a connection to this container itself comes about")
        reached = look(targets)
        say(reached, message)
        if all_shut(reached):
            SHUT.touch()
        else:
            SHUT.unlink(missing_ok=True)
        now = json.dumps(reached)
        if now != before:
            SEEN.write_text(now)
            return
        time.sleep(interval)


def once(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE)) -> dict[str, bool | None]:
    """Look once, for `helm test`: what was reached."""
    if not start_guard.able():
        raise SystemExit("not even a connection to this container itself comes about")
    _wait_for_isolation(environment)
    reached = look(targets_of(environment), float(environment.get(PATIENCE_VARIABLE) or 0))
    say(reached, message)
    return reached


def shut(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE)) -> None:
    """Look once, and fail if anything is open: `helm test` where nothing runs that may read what other pods saw."""
    reached = once(environment, message)
    if through := sorted(name for name, got in reached.items() if got):
        raise SystemExit(f"FAILED: must be shut, and is open: {', '.join(through)}. docs/gatecheck.md says what to do")
    if not all_shut(reached):
        raise SystemExit("FAILED: nothing could be tried, so nothing is proved: see gatecheck.shut")
    print("All is shut.")


def control(environment: Mapping[str, str], message: Path = Path(start_guard.MESSAGE)) -> None:
    """The same from a pod that no policy isolates, and fail if nothing answers: then `shut` could not be told from dead."""
    if True not in once(environment, message).values():
        raise SystemExit(
            "FAILED: this pod, which is not isolated, reaches nothing either, so nothing is proved: see gatecheck.shut"
        )


if __name__ == "__main__":
    {"canary": canary, "once": once, "shut": shut, "control": control}[sys.argv[1]](os.environ)
