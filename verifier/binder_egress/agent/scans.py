"""Scans: which user pods open connections as a scan does (docs/scans.md).

The kernel shows the TCP counters and the sockets of each network namespace to everybody who sees one of its processes, without
capabilities. The counters are read each second, and the table of sockets only where they ask for it: Linux walks the whole table
of the machine for each read.
"""

import json
import math
import os
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Self

from .cgroups import pod_uid
from .lists import Match
from .sockets import INBOUND, LISTEN, MOST_BYTES, SYN_SENT, is_loopback, read_socket, whole_rows
from .uses import Uses

LIST = "scan"
"""The list under which scans are reported."""

WINDOW_SECONDS = 60.0
"""Seconds for which a connection counts."""

LOOKED_AT_FROM = 10
"""Connections that a pod opens in a minute before its sockets are looked at."""

LOOK_SHARE = 0.005
"""The share of a core that looking at sockets may take."""

RESENT_SHARE = 0.2
"""The share of all segments from which on SYNs that are sent again are attempts that nobody answers. A bad line resends a few in a
hundred, and of an attempt every second segment is one."""

MOST_REMEMBERED = 5000
"""Ports of addresses that are remembered of a pod. Far fewer are a scan."""

MOST_LISTENING = 1000
"""A pod of which so many sockets listen is reported. The kernel shows these first, so more would hide the others from the agent."""

MOST_COUNTERS_BYTES = 16 << 10
"""Bytes of a file of counters that are read; they have four."""

TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks in a second, in which `/proc` has the start of a process."""

_STARTED = 19  # starttime in /proc/PID/stat, counted after the name of the program (proc(5))
# ActiveOpens, AttemptFails, OutSegs and RetransSegs among the numbers of TCP in /proc/PID/net/snmp (RFC 1213)
_OPENS, _FAILS, _SENT, _RESENT = 4, 6, 10, 11
# In /proc/PID/net/netstat: handshakes that strangers began and broke off; SYNs and answers to SYNs that were sent again; time-outs
# of sockets, while a handshake that a stranger began has no socket yet
_ABOUT_HANDSHAKES = b"EmbryonicRsts", b"TCPSynRetrans", b"TcpTimeoutRehash"
_UID = re.compile(rb"^Uid:\t(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Unusual:
    """What is reported, from `agent.scans` in the values. Two numbers decide together.

    Attributes:
        failed: connections that failed in a minute,
        failed_share: if they are at least this share of those that were opened.
        destinations: distinct addresses in a minute, or ports of one address,
        connections_each: if no more connections than this are seen to each.
    """

    failed: int = 40
    failed_share: float = 0.5
    destinations: int = 100
    connections_each: int = 3

    @classmethod
    def load(cls, text: str) -> Self:
        """Read the values as JSON.

        Raises:
            ValueError: it is something else.
        """
        try:
            found = json.loads(text)
            return cls(found["failed"], found["failedShare"], found["destinations"], found["connectionsEach"])
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from None


@dataclass
class _Peer:
    """An address that a pod connects to: when it was last seen, its ports and when each was last seen, the most connections to it
    at a time, whether it ever answered."""

    at: float = 0.0
    ports: dict[bytes, float] = field(default_factory=dict)
    connections: int = 0
    answered: bool = False


@dataclass
class _Pod:
    """A pod: the oldest process in it, which is its pause process, and what was seen through it.

    Attributes:
        process: its number.
        started: when it started, in ticks.
        namespace: the inode by which its network namespace is known.
        snmp, netstat, dev: the open files of these names in `/proc/PID/net`. To open one takes three times as long as to read it
            (D-491).
        is_user, began: whether it has a process of the agent's user, and when the first of these started, in ticks.
        last: opened, failed and resent, as last read.
        counters: opened, sent, loopback's packets, and what `_own` returns, when opened or failed last changed; None: not yet read.
        steps: when, opened, certainly opened and certainly failed outside of loopback.
        opened, outside, failed: the sums of these. To add them up each time costs more than to read the counters.
        peers: by address.
        served: the ports to which others came, or may come.
        listening: how many of its sockets listen.
        looked: when its sockets were last looked at, and how many were opened by then.
    """

    process: str
    started: int
    namespace: int
    snmp: FileIO
    netstat: FileIO
    dev: FileIO
    is_user: bool = False
    began: float = math.inf
    last: tuple[bytes, ...] = ()
    counters: tuple[int, ...] | None = None
    steps: deque[tuple[float, float, float, float]] = field(default_factory=deque)
    opened: float = 0.0
    outside: float = 0.0
    failed: float = 0.0
    peers: dict[bytes, _Peer] = field(default_factory=dict)
    served: set[bytes] = field(default_factory=set)
    listening: int = 0
    looked: tuple[float, int] = (0.0, 0)

    def count(self, opened: float, outside: float, failed: float) -> None:
        """Add to the sums. All of these are halves or whole, so nothing is rounded."""
        self.opened += opened
        self.outside += outside
        self.failed += failed

    def close(self) -> None:
        """Close the files, which keep the network namespace."""
        for file in (self.snmp, self.netstat, self.dev):
            file.close()


class Scans:
    """Looks at the connections of a node's user pods. Pods in the node's network are left out.

    Args:
        unusual: what is reported; None: nothing is.
        root: the path of `/proc`.
        pod_of: returns the pod that a process is in, from the content of its `cgroup`.
        clock: monotonic time in seconds.
        spent: processor time of this thread in seconds.
        uses: is told of each user pod, and has its turn in each round; None: nobody asks what pods used.
    """

    def __init__(
        self,
        unusual: Unusual | None,
        root: Path = Path("/proc"),
        pod_of: Callable[[str], str | None] = pod_uid,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
        uses: Uses | None = None,
    ):
        self._uses = uses
        self._unusual, self._root, self._pod_of, self._clock, self._spent = unusual, root, pod_of, clock, spent
        self._uid = str(os.getuid()).encode()
        self._before: set[str] = set()
        self._pod_by_process: dict[str, str | None] = {}
        self._pods: dict[str, _Pod] = {}
        self._at, self._allowed = clock(), WINDOW_SECONDS * LOOK_SHARE

    @property
    def pods(self) -> set[str]:
        """The uids of the user pods whose connections are seen."""
        return {uid for uid, pod in self._pods.items() if pod.is_user}

    def round(self) -> list[tuple[str, Match]]:
        """Look once. Returns the uids of the pods that scan, and what was unusual."""
        now = self._clock()
        self._allowed = min(WINDOW_SECONDS * LOOK_SHARE, self._allowed + (now - self._at) * LOOK_SHARE)
        self._at = now
        self._find()
        if self._uses:
            self._uses.round()
        if not self._unusual:
            return []
        waiting = []
        for uid in self.pods:
            pod = self._pods[uid]
            with suppress(OSError):  # it has just ended
                self._count(pod, now)
            if pod.counters and pod.counters[0] != pod.looked[1] and pod.opened >= LOOKED_AT_FROM:
                waiting.append(pod)
        # Whoever has waited longest, so that no pod can keep the agent from looking at another (D-473).
        for pod in sorted(waiting, key=lambda pod: pod.looked[0]):
            if self._allowed <= 0:
                break
            began = self._spent()
            with suppress(OSError):
                self._look(pod, now)
            self._allowed -= self._spent() - began
        limits, pods = self._unusual, sorted(self.pods)
        return [(uid, Match(LIST, label)) for uid in pods for label in self._unusual_in(self._pods[uid], limits, now)]

    def _find(self) -> None:
        """Find new pods, and forget those that have ended. A process is judged once, a round after it was first seen: it is then in
        its own cgroup and namespace."""
        processes = {name for name in os.listdir(self._root) if name.isdigit()}
        for uid in [uid for uid, pod in self._pods.items() if pod.process not in processes]:
            self._pods.pop(uid).close()
            if self._uses:
                self._uses.end(uid)
            self._pod_by_process = {process: of for process, of in self._pod_by_process.items() if of != uid}
        self._pod_by_process = {process: of for process, of in self._pod_by_process.items() if process in processes}
        for process in (processes & self._before) - self._pod_by_process.keys():
            with suppress(OSError, ValueError):
                self._pod_by_process[process] = self._judge(process)
        self._before = processes
        for uid in self.pods:
            if self._uses:
                self._uses.begin(uid, self._pods[uid].process, self._pods[uid].began / TICKS)

    def _judge(self, process: str) -> str | None:
        folder = self._root / process
        uid = self._pod_of((folder / "cgroup").read_bytes().decode(errors="surrogateescape"))
        if not uid:
            return None
        started = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[_STARTED])
        pod = self._pods.get(uid)
        if not pod or started < pod.started:  # D-474
            # Each namespace has its own files in /proc, so a number of one says which namespace it is. The link that says so may
            # only be read of processes of the same user, and the pause process is another's.
            namespace = os.stat(folder / "net/snmp").st_ino
            snmp, netstat, dev = (FileIO(folder / "net" / name) for name in ("snmp", "netstat", "dev"))
            was_user, began = (pod.is_user, pod.began) if pod else (False, math.inf)
            if pod:
                pod.close()
            pod = self._pods[uid] = _Pod(process, started, namespace, snmp, netstat, dev, was_user, began)
        owner = _UID.search((folder / "status").read_bytes())
        if owner and owner[1] == self._uid:
            pod.began = min(pod.began, started)
        pod.is_user = (pod.is_user or pod.began < math.inf) and pod.namespace != self._host()
        return uid

    def _host(self) -> int:
        """The node's own network namespace."""
        with suppress(OSError):
            return os.stat(self._root / "1/net/snmp").st_ino
        return 0

    def _read(self, pod: _Pod, name: str) -> bytes:
        with open(self._root / pod.process / "net" / name, "rb") as file:
            return file.read(MOST_BYTES)

    def _count(self, pod: _Pod, now: float) -> None:
        """Read the counters. Loopback's packets are at least two for each of its connections; the rest is outside (D-472)."""
        while pod.steps and pod.steps[0][0] <= now - WINDOW_SECONDS:
            _, opened, outside, failed = pod.steps.popleft()
            pod.count(-opened, -outside, -failed)
        numbers = os.pread(pod.snmp.fileno(), MOST_COUNTERS_BYTES, 0).split(b"Tcp:", 2)[2].split(None, _RESENT + 1)
        last = numbers[_OPENS], numbers[_FAILS], numbers[_RESENT]
        if last[:2] == pod.last[:2]:
            return
        # Loopback is the first interface.
        loopback = os.pread(pod.dev.fileno(), MOST_COUNTERS_BYTES, 0).partition(b"lo:")[2].split(None, 2)[1]
        own = pod.counters[3:] if pod.counters and last[1:] == pod.last[1:] else _own(pod, *map(int, last[1:]))
        pod.last, read = last, (int(last[0]), int(numbers[_SENT]), int(loopback), *own)
        if pod.counters:
            new, sent, inside, refused, syns, timed_out = (after - then for after, then in zip(read, pod.counters, strict=True))
            outside = max(0.0, new - inside / 2)
            resent = min(syns, timed_out)
            # Those that nobody answers; nothing is sent again over loopback.
            silent = min(outside, resent) if resent >= RESENT_SHARE * sent else 0.0
            step = float(new), outside, max(silent, refused - inside / 2)
            pod.steps.append((now, *step))
            pod.count(*step)
        pod.counters = read

    def _look(self, pod: _Pod, now: float) -> None:
        """Look at the sockets of a pod."""
        pod.looked = now, pod.counters[0] if pod.counters else 0
        if os.stat(self._root / pod.process / "net/snmp").st_ino != pod.namespace:  # The number is another process's by now.
            raise FileNotFoundError
        tables = [self._read(pod, name) for name in ("tcp", "tcp6")]
        sockets = [read_socket(row) for table in tables for row in whole_rows(table)]
        listening = [port for _, port, _, _, state in sockets if state == LISTEN]
        pod.listening = len(listening)
        # A server's connections outlive it. A port from which the pod begins connections is no server's, or it would hide a scan.
        pod.served = set(listening) | (pod.served & {port for _, port, *_ in sockets})
        pod.served -= {port for _, port, _, _, state in sockets if state == SYN_SENT}
        pod.peers = {address: peer for address, peer in pod.peers.items() if peer.at > now - WINDOW_SECONDS}
        for peer in pod.peers.values():
            peer.ports = {port: at for port, at in peer.ports.items() if at > now - WINDOW_SECONDS}
        remembered = sum(len(peer.ports) for peer in pod.peers.values())
        connections: defaultdict[bytes, int] = defaultdict(int)
        for own, own_port, address, port, state in sockets:
            # Who has come to a server in the pod is not a destination.
            if is_loopback(address) or address == own or state in INBOUND or own_port in pod.served:
                continue
            is_new = address not in pod.peers or port not in pod.peers[address].ports
            if is_new and remembered >= MOST_REMEMBERED:
                continue
            remembered += is_new
            peer = pod.peers.setdefault(address, _Peer())
            peer.at, peer.answered = now, peer.answered or state != SYN_SENT
            peer.ports[port] = now
            connections[address] += 1
        for address, number in connections.items():
            pod.peers[address].connections = max(pod.peers[address].connections, number)

    def _unusual_in(self, pod: _Pod, limits: Unusual, now: float) -> list[str]:
        """What is unusual in a pod. The texts do not change from round to round, so that each is reported once."""
        if not pod.steps and not pod.peers:
            return []
        found = []
        peers = [peer for peer in pod.peers.values() if peer.at > now - WINDOW_SECONDS]
        silent = sum(len(peer.ports) for peer in peers if not peer.answered)
        failed = max(silent, min(pod.failed, pod.outside))
        opened = max(failed, pod.outside)
        if failed >= limits.failed and failed >= limits.failed_share * opened:
            found.append(f"{limits.failed} connections failed in a minute")
        few = sum(peer.connections <= limits.connections_each for peer in peers)
        ports = max((len(peer.ports) for peer in peers if peer.connections <= limits.connections_each * len(peer.ports)), default=0)
        if max(few, ports) >= limits.destinations:
            found.append(f"{limits.destinations} destinations in a minute")
        if pod.listening >= MOST_LISTENING:
            found.append(f"{MOST_LISTENING} sockets listen")
        return found


def _own(pod: _Pod, failed: int, resent: int) -> tuple[int, int, int]:
    """What failed of the attempts that the pod itself began, since its network exists (D-505).

    Args:
        pod: the pod.
        failed: attempts that failed, its own and strangers'.
        resent: its segments that were sent again.

    Returns:
        The attempts that were refused, and two upper limits for its SYNs that were sent again: SYNs and answers to strangers' SYNs
        that were sent again; time-outs of sockets, less the data that was sent again.
    """
    names, values = os.pread(pod.netstat.fileno(), MOST_COUNTERS_BYTES, 0).split(b"\n", 2)[:2]
    read = dict(zip(names.split(), values.split(), strict=False))
    broken_off, syns, timed_out = (int(read.get(name, 0)) for name in _ABOUT_HANDSHAKES)
    # Read after `failed`, so it may be ahead: no step counts less than nothing.
    refused = max(failed - broken_off, pod.counters[3] if pod.counters else 0)
    return refused, syns, timed_out - (resent - syns)
