"""Uses: whether a user pod has used the network beyond what the base policy opens (docs/report.md).

The kernel counts the connections and the datagrams of each network namespace, also those over loopback and those to what the base
policy opens. So of each one it is asked what it was. A pod has *used* the network if something is seen that went elsewhere. It has
*not used* it if all that its counters show is explained, or they stood still. In between, what it did is not known. D-590, D-591
"""

import json
import math
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Self

from .sockets import INBOUND, LISTEN, Socket, is_loopback, sockets

LOOK_SHARE = 0.0015
"""The share of a core that looking at sockets may take, beside what `scans.LOOK_SHARE` takes."""

BUDGET_SECONDS = 60.0
"""Seconds whose budget may be saved up: the kernel shows a closed connection for as long."""

SAME_SECONDS = 60.0
"""Seconds between two rows about a pod of which nothing has changed. The reconciler may have been started again."""

MOST_PORTS = 16
"""Ports that are kept of a pod, the first that were seen."""

MOST_PAIRS = 5000
"""Connections that are remembered of a pod. If it has more, some are taken for new ones, and it is not known what it did."""

MOST_ROWS = 2000
"""Pods that have ended and wait for the receiver. The oldest are forgotten."""

MOST_COUNTERS_BYTES = 16 << 10
"""Bytes of a file of counters that are read."""

FIRST_OWN_PORT = b"8000"
"""The first port from which Linux begins connections, 32768 (ip_local_port_range, ip(7)). One at a lower port is a visitor's, or
says nothing: the pod's server may have ended before the look."""

IPV6_SECONDS = 5.0
"""Seconds between two readings of the counters of IPv6."""

DNS = b"0035"
"""Port 53, as the kernel shows it."""

TRIES = 3
"""Looks in a row, while the pod opens connections meanwhile."""

# ActiveOpens, AttemptFails and OutRsts of TCP, InDestUnreachs of ICMP, OutDatagrams of UDP in /proc/PID/net/snmp (RFC 1213, 4113)
_OPENS, _FAILS, _RESETS, _UNREACHABLE, _DATAGRAMS, _DATAGRAMS6 = 4, 6, 13, 3, 3, b"Udp6OutDatagrams"


@dataclass(frozen=True)
class Open:
    """What the base policy opens to every user pod, and what the start guard tries, from the values.

    Attributes:
        ends: addresses and ports, as `/proc/PID/net/tcp` shows them.
        ports: their ports. At another address one says nothing: some network plugins put a pod's address in place of a Service's.
        tried: what the start guard tries, addresses and ports: a connection to one of these says nothing, either.
        dns: whether every user pod may ask the DNS servers.
    """

    ends: frozenset[tuple[bytes, bytes]] = frozenset()
    ports: frozenset[bytes] = frozenset()
    tried: frozenset[tuple[bytes, bytes]] = frozenset()
    dns: bool = False

    @classmethod
    def load(cls, text: str) -> Self:
        """Read the values as JSON: `{"open": ["10.43.0.7:8081"], "tried": [], "dns": false}`, without Services that are not there.

        Raises:
            ValueError: it is something else.
        """
        try:
            found = json.loads(text)
            ends, tried = (frozenset(_end(end) for end in found[name] if "$(" not in end) for name in ("open", "tried"))
            return cls(ends, frozenset(port for _, port in ends), tried, bool(found["dns"]))
        except (TypeError, KeyError, AttributeError, OSError) as error:
            raise ValueError(str(error)) from None


class Files(NamedTuple):
    """The open files of a pod's counters and sockets. They belong to its network namespace, so they tell the rest after its end."""

    snmp: FileIO
    snmp6: FileIO
    dev: FileIO
    tcp: FileIO
    tcp6: FileIO
    udp: FileIO
    udp6: FileIO


class Counted(NamedTuple):
    """A reading of a pod's counters.

    Attributes:
        opens, datagrams: connections that it opened, and UDP packets that it sent over IPv4, since its network exists.
        refused: attempts of these that the pod itself refused.
        fails, resets, unreachable: attempts that failed, refusals that it sent, and ICMP's answers that something is out of reach.
        sent, loopback: packets that it sent to the outside, and to itself.
    """

    opens: int = 0
    refused: int = 0
    fails: int = 0
    resets: int = 0
    unreachable: int = 0
    datagrams: int = 0
    sent: int = 0
    loopback: int = 0


@dataclass
class _Use:
    """What is known of a pod.

    Attributes:
        started: when the user's own container started, in seconds since the machine started.
        files: its counters and sockets.
        raw: the last counters as the kernel shows them.
        last: the last two readings.
        datagrams6: UDP packets over IPv6 that it had sent when these were last read; `before6`: the reading before that;
            `at6`: when that was, in seconds after `started`.
        unmoved: when it was last certain that all its connections had been looked at, in seconds after `started`.
        looked: how many connections it had opened at the last look; `looked_at`: when that was.
        still: connections since then that cannot have left the pod; `refused`: as counted at the last look.
        pairs: the connections that were seen, and when last.
        served: ports that others connect to.
        used, first, ports, seen: whether it used the network, when first (None: that is not known), to which ports, and how many
            such connections were seen.
        missed, datagrams: connections and times of datagrams that nothing explains.
        ended: whether it has ended.
        told, told_at: the row that was sent last, and when.
    """

    started: float
    files: Files
    raw: bytes = b""
    last: deque[Counted] = field(default_factory=lambda: deque([Counted(), Counted()], maxlen=2))
    datagrams6: int = 0
    before6: Counted = field(default_factory=Counted)
    at6: float = 0.0
    unmoved: float = 0.0
    looked: int = 0
    looked_at: float = 0.0
    still: int = 0
    refused: int = 0
    pairs: dict[tuple[bytes, ...], float] = field(default_factory=dict)
    served: set[bytes] = field(default_factory=set)
    used: bool = False
    first: float | None = None
    ports: dict[str, None] = field(default_factory=dict)
    seen: int = 0
    missed: int = 0
    datagrams: int = 0
    ended: bool = False
    told: dict[str, object] = field(default_factory=dict)
    told_at: float = float("-inf")

    @property
    def moved(self) -> bool:
        """Whether it has opened connections since the last look."""
        return self.last[-1].opens != self.looked

    def note(self, port: str, since: float, age: float, times: int = 1) -> None:
        """Note that it used the network, at some time between these ages in seconds."""
        if not self.used:
            self.used = True
            # Only which minute it was is of interest, so the time is known if both are in the same.
            is_sure = age <= 60 or since >= 60 or age - since <= IPV6_SECONDS + 1
            self.first = round(age, 1) if is_sure else None
        self.seen += times
        if len(self.ports) < MOST_PORTS:
            self.ports[port] = None


class Uses:
    """Keeps what is known of each user pod, and says what of it is to be sent.

    Args:
        opened: what the base policy opens.
        root: the path of `/proc`.
        clock: seconds since the machine started.
        spent: processor time of this thread in seconds.
    """

    def __init__(
        self,
        opened: Open,
        root: Path = Path("/proc"),
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        spent: Callable[[], float] = time.thread_time,
    ):
        self._open, self._root, self._clock, self._spent = opened, root, clock, spent
        self._pods: dict[str, _Use] = {}
        self._at, self._allowed = clock(), BUDGET_SECONDS * LOOK_SHARE
        self._at6 = -math.inf

    def begin(self, uid: str, process: str, started: float) -> None:
        """A pod has a user's process, which started so many seconds after the machine."""
        with suppress(OSError):
            folder = self._root / process / "net"
            known = self._pods.get(uid)
            if known is None:
                files = Files(*(FileIO(folder / name) for name in Files._fields))
                self._pods[uid] = _Use(started, files)
            elif not known.ended:
                known.started = min(known.started, started)

    def end(self, uid: str) -> None:
        """A pod has ended. Its counters are read once more."""
        use = self._pods.get(uid)
        if use and not use.ended:
            self._count(use)
            self._count6(use)
            if use.moved:
                self._look(use)
            use.ended = True
            use.pairs.clear()
            for file in use.files:
                file.close()
        ended = [uid for uid, use in self._pods.items() if use.ended]
        for uid in ended[: max(0, len(ended) - MOST_ROWS)]:
            del self._pods[uid]

    def round(self) -> None:
        """Read all counters, and look at the sockets where they moved, those that have waited longest first."""
        now = self._clock()
        self._allowed = min(BUDGET_SECONDS * LOOK_SHARE, self._allowed + (now - self._at) * LOOK_SHARE)
        self._at = now
        running = [use for use in self._pods.values() if not use.ended]
        is_due6 = now - self._at6 >= IPV6_SECONDS
        self._at6 = now if is_due6 else self._at6
        for use in running:
            self._count(use)
            if is_due6:
                self._count6(use)
        waiting = [use for use in running if use.moved and not (use.used and len(use.ports) >= MOST_PORTS)]
        for use in sorted(waiting, key=lambda use: (use.used, use.looked_at)):
            if self._allowed <= 0:
                break
            began = self._spent()
            self._look(use)
            self._allowed -= self._spent() - began

    def rows(self) -> list[tuple[str, dict[str, object]]]:
        """What is to be sent: of each pod what has changed, and from time to time that nothing has."""
        now, found = self._clock(), []
        for uid, use in self._pods.items():
            row = {
                "uid": uid, "used": use.used, "first": use.first, "ports": list(use.ports), "seen": use.seen,
                "missed": use.missed, "datagrams": use.datagrams, "ended": use.ended,
            }  # fmt: skip
            if _news(row) != _news(use.told) or now - use.told_at >= SAME_SECONDS:
                found.append((uid, row))
        return found

    def sent(self, rows: Iterable[tuple[str, dict[str, object]]]) -> None:
        """The receiver has these rows. Pods that have ended are forgotten."""
        for uid, row in rows:
            if row["ended"]:
                del self._pods[uid]
            else:
                self._pods[uid].told, self._pods[uid].told_at = row, self._clock()

    def _age(self, use: _Use) -> float:
        return max(0.0, self._clock() - use.started)

    def _count(self, use: _Use) -> None:
        """Read the counters. Packets count from the reading before the last one, because the kernel sends a packet a moment before
        it counts the connection."""
        before, last = use.last
        if not use.moved:
            use.unmoved = self._age(use)
        raw = os.pread(use.files.snmp.fileno(), MOST_COUNTERS_BYTES, 0)
        # Most pods do nothing most of the time.
        now = last if raw == use.raw else _counted(raw, use.files.dev, last)
        use.raw = raw
        use.last.append(now)
        use.still += (now.opens - last.opens) if now.sent == before.sent else 0
        self._note_datagrams(use, now.datagrams - last.datagrams, before, self._age(use) - 1)

    def _count6(self, use: _Use) -> None:
        """Read the datagrams over IPv6, whose counters are long, and which are rare."""
        numbers = os.pread(use.files.snmp6.fileno(), MOST_COUNTERS_BYTES, 0).partition(_DATAGRAMS6)[2].split(None, 1)
        datagrams = int(numbers[0]) if numbers else 0
        if datagrams > use.datagrams6:
            use.last.append(_counted(use.raw, use.files.dev, use.last[-1]))
            self._note_datagrams(use, datagrams - use.datagrams6, use.before6, use.at6)
        use.datagrams6, use.before6, use.at6 = datagrams, use.last[0], self._age(use)

    def _note_datagrams(self, use: _Use, number: int, before: Counted, since: float) -> None:
        """Note so many UDP packets that the pod sent after a reading and an age in seconds. To itself, each is one of loopback."""
        now = use.last[-1]
        if number > 0 and now.sent != before.sent:
            if number > now.loopback - before.loopback and not self._open.dns:
                use.note("udp", since, self._age(use), number)
            else:
                use.datagrams += 1

    def _look(self, use: _Use) -> None:
        """Look at the sockets of a pod, and compare them with the connections that it has opened."""
        for _ in range(TRIES):
            opens = use.last[-1].opens
            rows, is_whole = sockets(use.files.tcp, use.files.tcp6)
            self._count(use)
            if opens == use.last[-1].opens:
                break
        opens, refused = use.last[-1].opens, use.last[-1].refused - use.refused
        age, now = self._age(use), self._clock()
        listening = {row.own_port for row in rows if row.state == LISTEN}
        # A server's connections outlive it.
        use.served = listening | (use.served & {row.own_port for row in rows})
        new = 0
        for pair, port in self._begun(use, rows):
            if pair not in use.pairs:
                new += 1
                if port:
                    use.note(f"tcp/{int(port, 16)}", use.unmoved, age)
            use.pairs[pair] = now
        # The kernel may leave out one that changes its state during the look, so only what was long gone may be new again.
        use.pairs = {pair: at for pair, at in use.pairs.items() if at > now - 2 * BUDGET_SECONDS}
        use.missed += max(0, opens - use.looked - max(new + refused, use.still)) + (not is_whole)
        if len(use.pairs) > MOST_PAIRS:
            use.pairs.clear()
            use.missed += 1
        use.looked, use.looked_at, use.still, use.refused = opens, now, 0, use.last[-1].refused
        for row in sockets(use.files.udp, use.files.udp6)[0]:
            is_outside = row.port != b"0000" and not is_loopback(row.address) and row.address != row.own
            if is_outside and not (self._open.dns and row.port == DNS):
                use.note(f"udp/{int(row.port, 16)}", use.unmoved, age)
        use.unmoved = age

    def _begun(self, use: _Use, rows: Iterable[Socket]) -> Iterable[tuple[tuple[bytes, ...], bytes]]:
        """The connections that the pod itself began, each with its port if it went beyond what is open."""
        for row in rows:
            if row.state == LISTEN:
                continue
            one, other = (row.own, row.own_port), (row.address, row.port)
            pair = (*min(one, other), *max(one, other))
            is_visit = row.state in INBOUND or row.own_port < FIRST_OWN_PORT or row.own_port in use.served
            if is_loopback(row.address) or row.address == row.own or other in self._open.ends:
                yield pair, b""
            elif not (is_visit or row.port in self._open.ports or other in self._open.tried):
                yield pair, row.port


def _news(row: Mapping[str, object]) -> tuple[object, ...]:
    """What is sent at once if it changes; numbers alone wait."""
    return row.get("used"), row.get("ports"), row.get("ended"), bool(row.get("missed")), bool(row.get("datagrams"))


def _counted(snmp: bytes, devices: FileIO, last: Counted) -> Counted:
    tcp = snmp.split(b"Tcp:", 2)[2].split(None, _RESETS + 1)
    opens, fails, resets = (int(tcp[at]) for at in (_OPENS, _FAILS, _RESETS))
    datagrams = int(snmp.split(b"Udp:", 2)[2].split(None, _DATAGRAMS + 1)[_DATAGRAMS])
    unreachable = int(snmp.split(b"Icmp:", 2)[2].split(None, _UNREACHABLE + 1)[_UNREACHABLE])
    # Whoever refuses sends a reset. One from another host is not among those that the pod sent, and neither is a policy's.
    is_own = resets - last.resets >= fails - last.fails and unreachable == last.unreachable
    refused = last.refused + (fails - last.fails if is_own else 0)
    dev = os.pread(devices.fileno(), MOST_COUNTERS_BYTES, 0)
    sent = loopback = 0
    for line in dev.split(b"\n")[2:-1]:
        name, _, numbers = line.partition(b":")
        if name.strip() == b"lo":
            loopback = int(numbers.split()[9])
        else:
            sent += int(numbers.split()[9])
    # When the pod ends, its interfaces go, and with them their counters: it then cannot be shown that nothing was sent.
    return Counted(
        opens,
        refused,
        fails,
        resets,
        unreachable,
        datagrams,
        sent if sent >= last.sent else last.sent + 1,
        max(loopback, last.loopback),
    )


def _end(text: str) -> tuple[bytes, bytes]:
    """An address and a port as `/proc/PID/net/tcp` shows them: 32-bit numbers of a little-endian machine."""
    address, _, port = text.rpartition(":")
    address = address.strip("[]")
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return b"".join(b"%08X" % word for word in struct.unpack(f"<{len(packed) // 4}I", packed)), b"%04X" % int(port)
