"""The connections of pods: each is accepted and judged, and its bytes are moved until it ends or is cut."""

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import h11

from ..model.grants import UNVERIFIED
from ..model.records import PodAddresses
from . import answers, plain, refusals, tunnels, upstream
from .accounting import EndedConnections, OpenConnections
from .closing import deliver, has_ended, until_ended
from .decide import Policy, decide, decide_address, decide_hello
from .flow import Allowed, Asked, Connected, Flow, drop_unsent
from .hosts import normal
from .identities import WAIT_SECONDS, Identities, same
from .limits import Bucket, Limits, Usage
from .metrics import Metrics
from .new_hosts import NewHosts
from .own_names import OwnNames
from .refusals import End, Reason, Refusal
from .requests import RequestRefused, Tunnel, WhoAmI, read_request
from .resolve import Resolver
from .source_ports import SourcePorts
from .wanted_hosts import WantedHosts

log = logging.getLogger("binder-egress")

ACCEPTED_A_TURN = 10
"""Connections that are accepted before other tasks get a turn. One would let a few busy tunnels keep new connections waiting."""

HEAD_SECONDS = 10.0
"""Time limit for the head of a request, in seconds."""

POD_BUFFER_BYTES = 128 * 1024
"""The buffer for bytes that a pod has not taken yet; Linux makes it twice as large. A pod is near, so more would only hold memory:
without a limit, Linux lets it grow to 4 MiB."""

LIMIT_ANSWERS_PER_SECOND = 50
"""Answers, and log lines, for connections beyond a limit; further ones are closed without an answer. Otherwise a pod that opens
thousands would hold just as many sockets while it reads, and fill the log."""

TICK_SECONDS = 1.0
"""Seconds between two rounds of `Proxy.watch`."""


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
        new_hosts: the addresses that servers tried.
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
        self.new_hosts = NewHosts(limits.new_hosts_per_minute, limits.unverified_new_hosts_per_minute, metrics.new_host, clock)
        self._limit_answers = Bucket(LIMIT_ANSWERS_PER_SECOND, clock)
        self._resolver = resolver
        self._metrics = metrics
        self._wait_seconds = identity_wait_seconds
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._own_names = OwnNames(policy.own_names, resolver, clock)
        self.identities = Identities(self._judge_again, clock)
        self.wanted = WantedHosts()
        self._allowed = OpenConnections()
        self._ended = EndedConnections(policy, metrics, self.wanted, log_connections, clock)

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
            tasks.create_task(self._own_names.look_up())
            while True:
                self.identities.forget_missing()
                self._usage.forget_idle()
                self._source_ports.forget_ended()
                self.new_hosts.forget_old()
                self._metrics.state(self.identities, self._usage, self._source_ports, self.wanted)
                self._allowed.cut_waiting()
                await asyncio.sleep(TICK_SECONDS)

    def refuse(self, name: str) -> None:
        """Add a name, in its form from `normal`, to the hub's own names; it applies from the next connection on."""
        if name not in self._policy.own_names:
            self._policy = replace(self._policy, own_names=self._policy.own_names | {name})
            self._own_names.add(name)

    async def drain(self, seconds: float) -> None:
        """Wait until all connections have ended, but no longer than the given seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    # -- the phases of one connection

    async def _serve(self, flow: Flow) -> None:
        known = self.identities.of(flow.address)
        who, verified = (known.uid, _is_verified(known)) if known else (flow.address, False)
        asked: Asked | None = None
        end: Refusal | End = End.ENDED
        with flow.client:
            if not self._usage.admit(who, verified):
                await self._turn_away(flow, known)
                return
            try:
                try:
                    flow.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    flow.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, POD_BUFFER_BYTES)
                    asked = await self._ask(flow, known)
                    if not asked:
                        return
                    asked = allowed = self._allow(asked)
                    with self._allowed.holding(allowed):
                        asked = connected = await self._connect(allowed)
                    with self._allowed.holding(connected), connected:
                        await self._establish(connected)
                        end = await self._move(connected)
                except RequestRefused as error:
                    end = error.refusal
                except asyncio.CancelledError:
                    end = End.STOPPED
                except TimeoutError:
                    end = End.TIMEOUT
                except (OSError, h11.ProtocolError):
                    end = End.BROKEN
                except Exception:
                    log.exception("fault in a connection")
                    end = End.FAULT
                # Not in an `except` clause: until that ends, the exception keeps the frames that it passed, and these the request.
                if isinstance(end, Refusal):
                    await answers.refuse(flow.client, end)
                if flow.cut or end is End.TIMEOUT:
                    drop_unsent(flow.client)
            finally:
                self._usage.release(who, verified)
                self._ended.note(flow, asked, asked.pod if asked else None, end)

    async def _turn_away(self, flow: Flow, known: PodAddresses | None) -> None:
        """Refuse a connection beyond a limit."""
        if not self._limit_answers.has():
            self._metrics.note("refused", str(Reason.LIMIT), known.tier if known else "unknown", "", 0)
            return
        await answers.refuse(flow.client, refusals.LIMIT)
        self._ended.note(flow, None, known, refusals.LIMIT)

    async def _ask(self, flow: Flow, known: PodAddresses | None) -> Asked | None:
        """Read the request. `known` is the pod that had the address when the connection came. Returns None if the request was for
        the proxy itself, which has answered."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                request = await read_request(flow.client)
        except TimeoutError:
            raise RequestRefused(refusals.TOO_LATE) from None
        pod = await self.identities.wait_for(flow.address, self._wait_seconds)
        if isinstance(request, WhoAmI):
            await answers.who_am_i(flow.client, flow.address, pod)
            return None
        # While it waited, the address may have become another pod's, which must not answer for this request. A client of a pod that
        # was not known yet has to keep its side open until then.
        is_other = known.uid != pod.uid if known and pod else has_ended(flow.client)
        return Asked(flow, request, None if is_other else pod)

    def _allow(self, asked: Asked) -> Allowed:
        """Judge the name."""
        request, pod = asked.request, asked.pod
        if not pod:
            raise RequestRefused(refusals.UNKNOWN)
        if refusal := decide(pod, request.host, request.port, request.kind, self._policy):
            raise RequestRefused(refusal)
        return Allowed(asked.flow, request, pod)

    async def _connect(self, allowed: Allowed) -> Connected:
        """Resolve the name, judge its addresses, and connect to one of them."""
        pod, request = allowed.pod, allowed.request
        began, name = self._clock(), normal(request.host) or ""
        found = await self._resolver.addresses(name, pod.uid, _is_verified(pod))
        self._metrics.resolved.observe(self._clock() - began)
        found = found and [*self.new_hosts.of(pod.uid, name), *found]
        judged = decide_address(pod, found, self._policy, self._own_names.addresses())
        if isinstance(judged, Refusal):
            raise RequestRefused(judged)
        # Before the answer to CONNECT, so that the client learns if the host does not answer.
        began = self._clock()
        host = await upstream.connect(self._source_ports, self.new_hosts, name, judged, request.port, pod.uid, _is_verified(pod))
        self._metrics.connected.observe(self._clock() - began)
        return Connected(allowed.flow, request, allowed.pod, *host, self._buckets(allowed.pod))

    async def _establish(self, flow: Connected) -> None:
        """Tell the client that its host is connected, and judge again: the pod may have changed since the addresses were judged.
        From now on, a change finds them."""
        if isinstance(flow.request, Tunnel):
            established = b"HTTP/1.1 200 Connection established\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(flow.client, established)
        if why := self._no_longer(flow, flow.pod):
            raise RequestRefused(Refusal(why, 0, ""))

    async def _move(self, flow: Connected) -> Refusal | End:
        """Move bytes until both directions have ended; for a plain request, until the answer has ended. Returns how it ended."""
        end: Refusal | End = End.ENDED
        try:
            if isinstance(flow.request, Tunnel):
                await tunnels.begin(flow, flow.request, self._policy)
            else:
                await plain.send(flow, flow.request)
            await until_ended(flow)
        except RequestRefused as error:
            end = error.refusal
        except (ConnectionError, h11.ProtocolError):
            # Many hosts reset a connection once they have sent everything, and the client is still to get it.
            end = End.BROKEN
        await deliver(flow)
        return end

    def _buckets(self, pod: PodAddresses) -> list[Bucket]:
        return self._usage.bytes(pod.uid, _is_verified(pod))

    # -- changed pods

    def _judge_again(self, uid: str) -> None:
        """Cut the connections of a changed pod that are no longer allowed. Missing information alone cuts nothing."""
        for one in self._allowed.of(uid):
            pod = self.identities.still(uid, one.flow.address)
            if why := self._no_longer(one, pod) if pod else Reason.UNKNOWN:
                one.flow.end(why)
            elif pod:
                one.pod = pod
                if isinstance(one, Connected):
                    one.buckets[:] = self._buckets(pod)

    def _no_longer(self, one: Allowed, pod: PodAddresses) -> Reason | None:
        """The reason why a connection must end; None if it may go on."""
        request = one.request
        if refusal := decide(pod, request.host, request.port, request.kind, self._policy):
            return refusal.reason
        if not isinstance(one, Connected):
            return None
        hello = one.hello
        if hello.complete and (reason := decide_hello(pod, request.host, hello.name, hello.is_tls, self._policy)):
            return reason
        judged = decide_address(pod, [one.address], self._policy, self._own_names.addresses())
        return judged.reason if isinstance(judged, Refusal) else None


def _is_verified(pod: PodAddresses) -> bool:
    return pod.tier != UNVERIFIED
