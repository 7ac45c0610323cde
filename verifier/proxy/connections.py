"""The connections of pods: each is accepted and judged, and its bytes are moved until it ends or is cut."""

import asyncio
import itertools
import json
import logging
import select
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import h11

from .. import logs
from ..records import UNVERIFIED, PodAddresses
from .decide import Kind, Policy, Reason, Refusal, decide, decide_address, decide_hello, group
from .flow import Flow
from .hello import HEADER_BYTES, MAX_HELLO_BYTES, read_answer, read_hello
from .hosts import normal
from .identities import WAIT_SECONDS, Identities, same
from .limits import UNVERIFIED_SHARE, Bucket, Limits, Usage
from .metrics import Metrics
from .requests import READ_BYTES, Refused, WhoAmI, read_request
from .resolve import Resolver
from .source_ports import SourcePorts
from .splice import Pump, take
from .wanted_hosts import WantedHosts

log = logging.getLogger("binder-egress")

ACCEPTED_A_TURN = 10
"""Connections that are accepted before other tasks get a turn. One would let a few busy tunnels keep new connections waiting."""

HEAD_SECONDS = 10.0
"""Time limit for the head of a request, in seconds."""

HELLO_SECONDS = 10.0
"""Time limit for the ClientHello after the answer to CONNECT, and for another one that the host asks for, in seconds."""

ANSWER_SECONDS = 60.0
"""Time limit for a host to answer a ClientHello, in seconds. Until the host answers, the proxy does not
notice that the client has left, so it waits as long as it serves any client that has ended its side (D-403)."""

CONNECT_SECONDS = 10.0
"""Time limit for connecting to the host, for all of its addresses together, in seconds."""

IDLE_SECONDS = 3600.0
"""Seconds without a byte after which a connection ends."""

LEFT_SECONDS = 60.0
"""Seconds without a byte after which a connection ends whose client has ended its side."""

PIECE_SECONDS = 60.0
"""Time limit for a host to take a piece of a plain request, of `READ_BYTES` at most, in seconds."""

PIECES_A_TURN = 16
"""Pieces of a plain request that are sent before other tasks get a turn: of `READ_BYTES` each, as many bytes as one step of a pump
moves."""

POD_BUFFER_BYTES = 128 * 1024
"""The buffer for bytes that a pod has not taken yet; Linux makes it twice as large. A pod is near, so more would only hold memory:
without a limit, Linux lets it grow to 4 MiB."""

MOST_WAITING_BYTES = 128 * 1024 * 1024
"""The most memory that the kernel may take for bytes that wait in sockets, for all servers together: half of what the chart gives
the proxy. Beyond that, connections of the server with the most are cut (D-344)."""

LAST_BYTES = 4096
"""The memory of unconfirmed bytes up to which a connection closes without waiting: its last packet, or its end, takes as much."""

LINGER_SECONDS = 1.0
"""Seconds that a client has for reading a refusal before the connection closes."""

LINGER_BYTES = 262_144
"""Bytes of a refused request that are read and dropped. Closing with unread bytes would keep the refusal from reaching the
client."""

LIMIT_ANSWERS_PER_SECOND = 50
"""Answers, and log lines, for connections beyond a limit; further ones are closed without an answer. Otherwise a pod that opens
thousands would hold just as many sockets while it reads, and fill the log."""

OWN_NAMES_SECONDS = 30.0
"""Seconds between two lookups of the hub's own names."""

OWN_ADDRESS_SECONDS = 3600.0
"""Seconds for which an address counts as the hub's after DNS last gave it for one of its names: DNS may give a few of many at a
time, in turns."""

TICK_SECONDS = 1.0
"""Seconds between two rounds of `Proxy.watch`."""

NAME = "binder-egress"
"""The proxy's name in `Proxy-Status`."""


class Proxy:
    """The egress proxy of one process.

    Args:
        policy: decides what tiers may reach.
        limits: how much a server may use.
        resolver: turns names into addresses.
        metrics: counts connections.
        log_connections: whether allowed connections are logged, too.
        identity_wait_seconds: seconds for which a connection from an unknown pod waits.
        clock: monotonic time in seconds.

    Attributes:
        identities: which pod has which address. The feed keeps them up to date.
        wanted: the hosts that unverified servers asked for and did not get.
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        resolver: Resolver,
        metrics: Metrics,
        log_connections: bool = False,
        identity_wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._policy = policy
        self._usage = Usage(limits, clock)
        self._source_ports = SourcePorts(limits.source_ports, clock)
        self._limit_answers = Bucket(LIMIT_ANSWERS_PER_SECOND, clock)
        self._refusals = logs.Refusals(clock)
        self._resolver = resolver
        self._metrics = metrics
        self._log_connections = log_connections
        self._wait_seconds = identity_wait_seconds
        self._clock = clock
        self._flows: dict[str, set[Flow]] = {}  # by uid of the pod
        self._tasks: set[asyncio.Task[None]] = set()
        self._own_addresses: dict[str, dict[str, float]] = {}  # by name: its addresses, and when DNS last gave each
        self._looked_up = -OWN_NAMES_SECONDS
        self.identities = Identities(self._judge_again, clock)
        self.wanted = WantedHosts()

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._tasks)

    # -- accepting

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. Open connections go on."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        for number in itertools.count():
            if number % ACCEPTED_A_TURN == 0:
                await asyncio.sleep(0)  # D-401
            try:
                client, peer = await loop.sock_accept(listener)
            except OSError as error:  # No file descriptors are left, or the client is gone.
                log.warning("accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            flow = Flow(same(peer[0]), client)
            flow.task = loop.create_task(self._serve(flow))
            self._tasks.add(flow.task)
            flow.task.add_done_callback(self._tasks.discard)

    async def watch(self) -> None:
        """Do what connections do not do themselves, until cancelled: forget what is over, record the metrics, cut connections
        while too much memory waits, and look up the hub's own names."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_up_own_names())
            while True:
                self.identities.forget_missing()
                self._usage.forget_idle()
                self._source_ports.forget_ended()
                self._metrics.state(self.identities, self._usage, self._source_ports, self.wanted)
                self._cut_waiting()
                await asyncio.sleep(TICK_SECONDS)

    async def _look_up_own_names(self) -> None:
        """Look up the hub's own names again and again. It is a separate task, because an answer may take seconds."""
        again, pause = 0.0, TICK_SECONDS
        while True:
            due, missing = self._clock() - self._looked_up >= OWN_NAMES_SECONDS, self._clock() >= again
            if due:
                self._looked_up = self._clock()
            for name in self._policy.own_names:
                # Without an address so far, other names of its addresses are open, so it is looked up again sooner.
                if name.startswith("*.") or not (due or (missing and name not in self._own_addresses)):
                    continue
                # A name that cannot be resolved for a while keeps its last addresses.
                if found := await self._resolver.addresses(name):
                    now, known = self._clock(), self._own_addresses.get(name, {})
                    recent = {address: at for address, at in known.items() if now - at <= OWN_ADDRESS_SECONDS}
                    self._own_addresses[name] = recent | dict.fromkeys(found, now)
            if missing:
                lacking = [name for name in self._policy.own_names if name not in self._own_addresses and not name.startswith("*.")]
                pause = min(2 * pause, OWN_NAMES_SECONDS) if lacking else TICK_SECONDS
                again = self._clock() + pause
            await asyncio.sleep(TICK_SECONDS)

    def refuse(self, name: str) -> None:
        """Add a name, in its form from `normal`, to the hub's own names; it applies from the next connection on."""
        if name not in self._policy.own_names:
            self._policy = replace(self._policy, own_names=self._policy.own_names | {name})
            self._looked_up = -OWN_NAMES_SECONDS

    async def drain(self, seconds: float) -> None:
        """Wait until all connections have ended, but no longer than the given seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    # -- one connection

    async def _serve(self, flow: Flow) -> None:
        known = self.identities.of(flow.address)
        who, verified = (known.uid, known.tier != UNVERIFIED) if known else (flow.address, False)
        refusal: Refusal | None = None
        end = "ended"
        admitted = False
        try:
            flow.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            flow.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, POD_BUFFER_BYTES)
            admitted = self._usage.admit(who, verified)
            if not admitted:
                flow.pod = known
                if not self._limit_answers.has():
                    self._metrics.note("refused", str(Reason.LIMIT), known.tier if known else "unknown", "", 0)
                    raise ConnectionError
                too_many = "This server opens too many connections, try again"
                raise Refused(Refusal(Reason.LIMIT, 429, too_many, "connection_limit_reached"))
            await self._allow(flow, known)
            await self._connect(flow)
            await self._move(flow)
        except Refused as error:
            refusal = error.refusal
            # Their frames would hold the request until the client has read the refusal.
            error.__traceback__ = error.__context__ = None
            await self._refuse(flow, refusal)
        except WhoAmI:
            await self._who_am_i(flow)
            end = "who am I"
        except asyncio.CancelledError:
            end = flow.cut or "stopped"
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            end = type(error).__name__
        except Exception:
            log.exception("fault in a connection")
            end = "fault"
        finally:
            if flow.cut or end == TimeoutError.__name__:
                flow.reset()
            self._close(flow)
            if admitted:
                self._usage.release(who, verified)
            self._note(flow, refusal, end)

    async def _allow(self, flow: Flow, known: PodAddresses | None) -> None:
        """Read the request, and judge it. `known` is the pod that had the address when the connection came."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                asked = await read_request(flow.client)
        except TimeoutError:
            raise Refused(Refusal(Reason.REQUEST, 408, "No request came in time", "http_request_error")) from None
        except WhoAmI:
            flow.pod = await self.identities.wait_for(flow.address, self._wait_seconds)
            raise
        if asked is None:
            raise ConnectionError
        flow.asked = asked
        flow.pod = await self.identities.wait_for(flow.address, self._wait_seconds)
        # While it waited, the address may have become another pod's, which must not answer for this request. A client of a pod that
        # was not known yet has to keep its side open until then.
        if flow.pod and (known.uid != flow.pod.uid if known else _has_ended(flow.client)):
            flow.pod = None
        if refusal := decide(flow.pod, asked.host, asked.port, asked.kind, self._policy):
            raise Refused(refusal)
        assert flow.pod
        # From now on a change to the pod can cut the connection.
        self._flows.setdefault(flow.pod.uid, set()).add(flow)

    async def _connect(self, flow: Flow) -> None:
        """Resolve the name, judge its addresses, connect to one of them, and let the hellos through."""
        pod, asked, loop = flow.pod, flow.asked, asyncio.get_running_loop()
        assert pod and asked
        began = self._clock()
        found = await self._resolver.addresses(normal(asked.host) or "", pod.uid, pod.tier != UNVERIFIED)
        self._metrics.resolved.observe(self._clock() - began)
        judged = decide_address(pod, found, self._policy, self._all_own_addresses())
        if isinstance(judged, Refusal):
            raise Refused(judged)
        # Before the answer to CONNECT, so that the client learns if the host does not answer.
        began = self._clock()
        flow.upstream = await self._open(flow, judged, asked.port)
        self._metrics.connected.observe(self._clock() - began)
        if asked.kind is Kind.TUNNEL:
            await loop.sock_sendall(flow.client, b"HTTP/1.1 200 Connection established\r\n\r\n")
        # The pod may have changed since the addresses were judged. From now on, a change finds them here.
        if why := self._no_longer(flow, flow.pod):
            raise Refused(Refusal(why, 0, ""))
        if asked.kind is Kind.TUNNEL:
            try:
                await self._pass_hellos(flow)
            except (ConnectionError, Refused) as error:
                # Its frames would hold what was judged until the client has got what the host has sent.
                error.__traceback__ = error.__context__ = None
                await self._deliver(flow)
                raise

    async def _pass_hellos(self, flow: Flow) -> None:
        """Pass the ClientHello on, and a second one if the host asks for it (HelloRetryRequest). Both are judged, so the host gets
        nothing else until it has answered (D-403)."""
        assert flow.asked and flow.upstream
        host, answer = flow.upstream[0], b""
        sent, flow.asked.early = flow.asked.early, b""
        for _ in range(2):
            end, sent = await self._read_hello(flow, sent)
            await self._pass(flow, host, sent[:end])
            sent = sent[end:]
            retried, answer = await self._pass_answer(flow, answer)
            if not retried:
                if sent:
                    await self._pass(flow, host, sent)
                return
        # A host asks once at most (RFC 8446, section 4.1.4).
        raise Refused(Refusal(Reason.NOT_TLS, 0, ""))

    async def _read_hello(self, flow: Flow, received: bytes) -> tuple[int, bytes]:
        """Read the ClientHello, or the second one, and end the tunnel if it is not for the host. Returns where it ends in all bytes
        received, and these."""
        assert flow.pod and flow.asked
        loop, before = asyncio.get_running_loop(), flow.server_name
        async with asyncio.timeout(HELLO_SECONDS):
            while not (hello := read_hello(received, again=bool(before))).complete:
                # No more than a hello may have, because what follows it stays in memory until the host answers (D-403).
                more = await loop.sock_recv(flow.client, MAX_HELLO_BYTES + HEADER_BYTES - len(received))
                if not more:
                    raise ConnectionError
                received += more
        flow.server_name = hello.name, hello.is_tls
        reason = decide_hello(flow.pod, flow.asked.host, hello.name, hello.is_tls, self._policy)
        if not reason and before and before != flow.server_name:
            reason = Reason.SERVER_NAME  # Where both are allowed, one names the host, the other none.
        if reason:
            # TLS has no message for this. The client sees a closed connection, and operators see the reason.
            raise Refused(Refusal(reason, 0, ""))
        return hello.end, received

    async def _pass_answer(self, flow: Flow, received: bytes) -> tuple[bool, bytes]:
        """Pass on what the host sends, until it is clear whether the host asks for a second ClientHello (HelloRetryRequest).
        Returns whether it does and, if so, the bytes that came after the HelloRetryRequest."""
        assert flow.upstream
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ANSWER_SECONDS):
            while not (answer := read_answer(received)).complete:
                # What comes after a HelloRetryRequest stays in memory until the client has answered it. A read of 0 bytes would
                # look like the host's end.
                more = await loop.sock_recv(flow.upstream[0], max(1, MAX_HELLO_BYTES + HEADER_BYTES - len(received)))
                if not more:
                    return False, b""  # A host that has ended its side answers nothing any more. The pumps end the other side.
                await self._pass(flow, flow.client, more)
                received += more
        if not answer.is_tls:
            raise Refused(Refusal(Reason.NOT_TLS, 0, ""))
        return bool(answer.retry_end), received[answer.retry_end :]

    async def _pass(self, flow: Flow, target: socket.socket, content: bytes) -> None:
        """Send bytes to one side before the pumps move them."""
        assert flow.pod
        await asyncio.get_running_loop().sock_sendall(target, content)
        flow.sent += len(content)
        # The pumps wait as long as the limits of bytes require.
        take(self._usage.bytes(flow.pod.uid, flow.pod.tier != UNVERIFIED), len(content))

    async def _open(self, flow: Flow, addresses: list[str], port: int) -> tuple[socket.socket, str]:
        """Connect to the first address that answers, among those that may have more connections."""
        pod, full = flow.pod, False
        assert pod
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for number, address in enumerate(addresses):
                    taken = self._source_ports.take(address, port, pod.uid, pod.tier != UNVERIFIED)
                    if not taken:
                        full = True
                        continue
                    last = number == len(addresses) - 1
                    try:
                        upstream = await _connected(address, port, None if last else CONNECT_SECONDS / 4)
                    except (OSError, TimeoutError):
                        self._source_ports.give_back(taken, connected=False)
                    except BaseException:
                        self._source_ports.give_back(taken, connected=False)
                        raise
                    else:
                        flow.source_port = taken
                        return upstream, address
        except TimeoutError:
            pass
        if full:
            too_many = "Too many connections to this host in the last minute, try again"
            raise Refused(Refusal(Reason.HOST_LIMIT, 503, too_many, "connection_limit_reached"))
        raise Refused(Refusal(Reason.UNREACHABLE, 502, "The host does not answer", "destination_unavailable"))

    async def _move(self, flow: Flow) -> None:
        """Move bytes until both directions have ended; for a plain request, until the answer has ended."""
        assert flow.asked and flow.upstream and flow.pod
        upstream = flow.upstream[0]
        buckets = flow.buckets = self._usage.bytes(flow.pod.uid, flow.pod.tier != UNVERIFIED)
        try:
            if flow.asked.kind is Kind.TUNNEL:
                flow.pumps += [Pump(flow.client, upstream, buckets), Pump(upstream, flow.client, buckets)]
            else:
                await self._send(flow, upstream, buckets)
                flow.asked.forget_head()
            await self._until_ended(flow)
        except (ConnectionError, h11.ProtocolError) as error:
            # Many hosts reset a connection once they have sent everything, and the client is still to get it. What the request and
            # the frames hold is of no more use, and the client decides how long that takes.
            error.__traceback__ = error.__context__ = None
            flow.asked.forget_head()
            await self._deliver(flow)
            raise
        await self._deliver(flow)

    async def _until_ended(self, flow: Flow) -> None:
        """Wait until all pumps have ended, or nothing has moved for too long."""
        waiting = {pump.ended for pump in flow.pumps}
        moved, quiet_seconds = flow.moved, 0.0
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=LEFT_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            for pump in done:
                pump.result()
            quiet_seconds = 0.0 if done or moved != flow.moved else quiet_seconds + LEFT_SECONDS
            if quiet_seconds >= _patience(flow.client):
                raise TimeoutError
            moved = flow.moved

    async def _deliver(self, flow: Flow) -> None:
        """Wait until both sides have taken the last bytes. If the connection ended earlier, the kernel would keep these bytes for
        minutes, and nothing would count them. Bytes that a limit holds back after the host has ended would be lost."""
        pause, quiet_seconds, before = 0.005, 0.0, (-1, -1)
        while (left := (flow.sending, flow.moved))[0] > LAST_BYTES or self._is_answering(flow):
            quiet_seconds = quiet_seconds + pause if left == before else 0.0
            if quiet_seconds >= _patience(flow.client):
                raise TimeoutError
            before, pause = left, min(2 * pause, TICK_SECONDS)
            await asyncio.sleep(pause)

    def _is_answering(self, flow: Flow) -> bool:
        """Whether the host has ended, and the pump toward the client, always the last one, is not done with what it sent."""
        assert flow.upstream
        return bool(flow.pumps) and not flow.pumps[-1].ended.done() and _has_ended(flow.upstream[0])

    async def _send(self, flow: Flow, upstream: socket.socket, buckets: list[Bucket]) -> None:
        """Send a plain request with its body, and begin to move the answer: a host may answer before it has the body, and close."""
        assert flow.asked and flow.asked.connection
        loop, theirs, ours = asyncio.get_running_loop(), flow.asked.connection, h11.Connection(h11.CLIENT)
        sent = 0

        async def send(content: bytes) -> None:
            nonlocal sent
            async with asyncio.timeout(PIECE_SECONDS):
                await loop.sock_sendall(upstream, content)
            flow.sent += len(content)
            sent += 1
            # Also without a pause: while bytes and room are there, nothing else in here gives up the turn (D-401).
            if (pause := take(buckets, len(content))) or sent % PIECES_A_TURN == 0:
                await asyncio.sleep(pause)

        await send(flow.asked.upstream_head(ours))
        if theirs.they_are_waiting_for_100_continue:
            go_on = theirs.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            await loop.sock_sendall(flow.client, go_on or b"")
        flow.pumps.append(Pump(upstream, flow.client, buckets))
        while True:
            event = theirs.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(IDLE_SECONDS):
                    theirs.receive_data(await loop.sock_recv(flow.client, READ_BYTES))
            elif isinstance(event, h11.Data):
                await send(ours.send(event) or b"")
            elif isinstance(event, h11.EndOfMessage):
                # Without trailers, which could declare another framing.
                await send(ours.send(h11.EndOfMessage()) or b"")
                return
            else:
                raise ConnectionError

    # -- answers

    async def _refuse(self, flow: Flow, refusal: Refusal) -> None:
        if not refusal.status:
            return
        detail = refusal.sentence.replace("\\", "").replace('"', "'")
        status = f'{NAME}; error={refusal.error}; details="{detail}"'
        await self._answer(flow, refusal.status, refusal.sentence, "text/plain", f"{refusal.sentence}\n", ("Proxy-Status", status))

    async def _who_am_i(self, flow: Flow) -> None:
        pod = flow.pod
        known = {"uid": pod.uid, "user": pod.user, "server": pod.server, "tier": pod.tier} if pod else {}
        text = json.dumps({"address": flow.address, **known})
        await self._answer(flow, 200 if pod else 503, "OK" if pod else "Unknown", "application/json", f"{text}\n")

    async def _answer(self, flow: Flow, status: int, phrase: str, kind: str, body: str, *headers: tuple[str, str]) -> None:
        content = body.encode("ascii", "replace")
        answer = h11.Response(
            status_code=status,
            reason=phrase.encode("ascii", "replace"),
            headers=[("Content-Type", kind), ("Content-Length", str(len(content))), ("Connection", "close"), *headers],
        )
        # A new h11 connection: the one whose request could not be read no longer sends anything.
        state = h11.Connection(h11.SERVER)
        out = (state.send(answer) or b"") + content
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await loop.sock_sendall(flow.client, out)
                flow.client.shutdown(socket.SHUT_WR)
                dropped = 0
                while dropped < LINGER_BYTES and (more := len(await loop.sock_recv(flow.client, READ_BYTES))):
                    dropped += more
        except (OSError, TimeoutError):
            pass

    # -- cut and closed

    def _judge_again(self, uid: str) -> None:
        """Cut the connections of a changed pod that are no longer allowed. Missing information alone cuts nothing."""
        for flow in list(self._flows.get(uid, ())):
            pod = self.identities.still(uid, flow.address)
            if why := self._no_longer(flow, pod):
                flow.end(why)
            elif pod:
                flow.pod = pod
                flow.buckets[:] = self._usage.bytes(uid, pod.tier != UNVERIFIED)

    def _cut_waiting(self) -> None:
        """Cut connections while too much memory waits: of unverified servers beyond their share, then of all beyond the limit. Each
        is the largest connection of the server that has the most."""
        waiting: dict[str, list[tuple[int, Flow]]] = {}
        unverified: dict[str, list[tuple[int, Flow]]] = {}
        for uid, flows in self._flows.items():
            found = waiting[uid] = sorted(((flow.waiting, flow) for flow in flows if not flow.cut), key=lambda one: one[0])
            if all(flow.pod and flow.pod.tier == UNVERIFIED for flow in flows):
                unverified[uid] = found
        for servers, most in ((unverified, MOST_WAITING_BYTES * UNVERIFIED_SHARE), (waiting, MOST_WAITING_BYTES)):
            held = {uid: sum(number for number, _ in found) for uid, found in servers.items()}
            total = sum(held.values())
            while total > most:
                greediest = max(held, key=lambda uid: held[uid])
                number, flow = servers[greediest].pop()
                held[greediest] -= number
                total -= number
                flow.end(Reason.NOT_TAKEN)

    def _no_longer(self, flow: Flow, pod: PodAddresses | None) -> Reason | None:
        """The reason why a connection must end; None if it may go on."""
        if pod is None:
            return Reason.UNKNOWN
        assert flow.asked
        if refusal := decide(pod, flow.asked.host, flow.asked.port, flow.asked.kind, self._policy):
            return refusal.reason
        if flow.server_name and (reason := decide_hello(pod, flow.asked.host, *flow.server_name, self._policy)):
            return reason
        if flow.upstream:
            judged = decide_address(pod, [flow.upstream[1]], self._policy, self._all_own_addresses())
            return judged.reason if isinstance(judged, Refusal) else None
        return None

    def _all_own_addresses(self) -> list[str]:
        return [address for found in self._own_addresses.values() for address in found]

    def _close(self, flow: Flow) -> None:
        for pump in flow.pumps:
            pump.stop()
        if flow.pod and (flows := self._flows.get(flow.pod.uid)):
            flows.discard(flow)
            if not flows:
                del self._flows[flow.pod.uid]
        if flow.upstream:
            flow.upstream[0].close()
        if flow.source_port:
            self._source_ports.give_back(flow.source_port, connected=True)
        flow.client.close()

    def _note(self, flow: Flow, refusal: Refusal | None, end: str) -> None:
        """Log and count a connection that has ended."""
        if flow.asked is None and refusal is None:
            return
        decision = "refused" if refusal else "cut" if flow.cut else "allowed"
        why = str(refusal.reason) if refusal else flow.cut
        tier, listed = flow.pod.tier if flow.pod else "unknown", ""
        if flow.pod and flow.asked and (name := normal(flow.asked.host)):
            listed = group(flow.pod, name, self._policy)
            if tier == UNVERIFIED and why in (Reason.NOT_LISTED, Reason.NO_HOSTS) and decision == "refused":
                self.wanted.note(flow.pod.repository, name)
        self._metrics.note(decision, why, tier, listed, flow.moved)
        if decision == "allowed" and not self._log_connections:
            return
        pod = flow.pod
        fields = {
            "user": pod.user if pod else "",
            "server": pod.server if pod else "",
            "repository": pod.repository[:200] if pod else "",
            "host": quote(flow.asked.host, safe="[]:*")[:253] if flow.asked else "",
            "port": flow.asked.port if flow.asked else 0,
            "decision": decision,
            "rule": why or end,
            "bytes": flow.moved,
            "milliseconds": round((time.monotonic() - flow.began) * 1000),
        }
        if refusal:
            # Each rule for itself, so that many lines of one do not hide another's.
            self._refusals.decision("proxy", (pod.uid if pod else flow.address, why), **fields)
        else:
            logs.decision("proxy", **fields)


def _patience(client: socket.socket) -> float:
    """Seconds for which a connection may be quiet: fewer if the client has ended its side, or the connection is broken."""
    return LEFT_SECONDS if _has_ended(client) else IDLE_SECONDS


def _has_ended(one: socket.socket) -> bool:
    """Whether the other end of a socket has ended its side, or the connection is broken."""
    poll = select.poll()
    poll.register(one, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _connected(address: str, port: int, seconds: float | None) -> socket.socket:
    """A socket, connected within the given seconds; None: no limit."""
    upstream = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(upstream, (address, port))
    except BaseException:
        upstream.close()
        raise
    return upstream
