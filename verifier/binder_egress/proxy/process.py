"""The process of the egress proxy: its port for pods, its port for probes and Prometheus, its feed and its end."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import time
from urllib.parse import urlsplit

import h11

from ..model.grants import UNVERIFIED
from ..model.networks import NetworkSet
from ..settings import InvalidSettings, ProxySettings
from ..store.errors import StoreUnavailable
from ..store.store import ProxyStore
from .connections import Proxy
from .decide import PORTS, Policy, TierHosts
from .feed import Feed
from .hosts import HostList, UnknownEntry, groups, normal
from .limits import Limits
from .metrics import Metrics
from .resolve import Resolver
from .source_ports import source_ports
from .wanted_hosts import WantedHosts

log = logging.getLogger("binder-egress")

PUBLISH_SECONDS = 60.0
"""Seconds between two tables of hosts that were requested and refused."""

REPORT_SECONDS = 1.0
"""Seconds between two reports of servers that try more hosts than they may."""

REPEAT_SECONDS = 600.0
"""Seconds after which a server is reported again if it goes on."""

HUB_SECONDS = 10.0
"""Seconds between two checks of the JupyterHub address that BinderHub's hook announced."""

MAX_HUB_NAMES = 2
"""The most names that are accepted from the hook: JupyterHub's host, and its next host after a move. Each is looked up again and
again."""

BACKLOG = 1024
"""The most connections that wait to be accepted."""


def policy(settings: ProxySettings) -> Policy:
    """The policy in the settings.

    Raises:
        InvalidSettings: a list has an entry that is neither a host nor a group.
    """
    tiers = {}
    for name, tier in settings.proxy_tiers.items():
        hosts = _hosts("unverified" if name == UNVERIFIED else f"tiers.{name}", tier.hosts)
        ranges = [(int(first), int(last or first)) for first, _, last in (port.partition("-") for port in tier.ports)]
        ports = {port for port in PORTS.values() if any(first <= port <= last for first, last in ranges)}
        # A tier that opens only other ports opens none of the proxy's.
        tiers[name] = TierHosts(hosts, frozenset(ports) if ports or not ranges else frozenset({0}), NetworkSet(tier.closed))
    repositories = {
        pattern: _hosts(f"rules.repositories: {pattern}", hosts) for pattern, hosts in settings.proxy_repositories.items()
    }
    return Policy(tiers, _own_names(settings.proxy_own_names), settings.proxy_page, settings.proxy_contact, repositories)


def _hosts(where: str, entries: list[str]) -> HostList:
    try:
        found = HostList(entries)
    except UnknownEntry as error:
        raise InvalidSettings(f"{where}.hosts: {error}.") from None
    known = groups()
    for group in entries:
        if not known.get(group, True):  # D-265
            log.warning("%s.hosts: this image has no hosts of the group %s", where, group)
    return found


def _own_names(entries: list[str]) -> frozenset[str]:
    """The hub's own names in normalized form. A wildcard is among them if a host of the Ingress is one."""
    found = set()
    for entry in entries:
        bare = entry.removeprefix("*.")
        if name := normal(bare):
            found.add(entry.removesuffix(bare) + name)
        else:
            log.warning("names of the hub (ingress.hosts, proxy.refusedHosts): %s is no host, and refuses nothing", entry)
    return frozenset(found)


def run(settings: ProxySettings, policy: Policy, store: ProxyStore) -> None:
    """Work until SIGTERM, and then until the open connections have ended, for `proxy_drain_seconds` at most.

    Raises:
        SystemExit: one of the tasks failed, and the fault is in the log. Kubernetes starts the process again (D-372).
    """
    try:
        asyncio.run(_run(settings, policy, store))
    except Exception:
        log.exception("fault in the egress proxy")
        raise SystemExit(1) from None


def _limits(settings: ProxySettings) -> Limits:
    return Limits(
        settings.proxy_connections,
        settings.proxy_new_per_second,
        settings.proxy_bytes_per_second,
        settings.proxy_all_connections,
        settings.proxy_all_bytes_per_second,
        source_ports(),
        settings.proxy_new_hosts_per_minute,
        settings.proxy_unverified_new_hosts_per_minute,
    )


async def _run(settings: ProxySettings, policy: Policy, store: ProxyStore) -> None:
    # Each connection has two sockets, and a container's soft limit may be 1,024 files.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    metrics, limits = Metrics(), _limits(settings)
    proxy = Proxy(policy, limits, Resolver(), metrics, settings.proxy_log_connections)
    feed = Feed(store, proxy.identities, loop)
    # A full collection stops the event loop. It takes a tenth of the time without the imported objects, which stay anyway.
    gc.freeze()
    # The listener is passed on as it is, so that `accept` returns sockets, not streams.
    listener = listen(settings.proxy_port)
    admin = await asyncio.start_server(
        lambda reader, writer: _admin(reader, writer, proxy, metrics, stopped), None, settings.proxy_admin_port
    )
    feed.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(proxy.serve(listener))
            others = [
                tasks.create_task(work)
                for work in (
                    proxy.watch(),
                    _publish(proxy.wanted, store),
                    _report(proxy.new_hosts.beyond, store),
                    _refuse_hub(proxy, store),
                )
            ]
            log.info("egress proxy", extra={"fields": {"port": settings.proxy_port, "source_ports": limits.source_ports}})
            await stopped.wait()
            serving.cancel()
            listener.close()
            await proxy.drain(settings.proxy_drain_seconds)
            admin.close()
            for task in others:
                task.cancel()
    finally:  # Its thread calls the loop, and would log another fault if that were closed.
        await asyncio.to_thread(feed.stop)


async def _publish(wanted: WantedHosts, store: ProxyStore) -> None:
    """Publish each minute which hosts were requested and refused (D-267). If Redis is down, the next minute is the next attempt."""
    while True:
        await asyncio.sleep(PUBLISH_SECONDS)
        if rows := wanted.rows():
            with contextlib.suppress(StoreUnavailable):
                await asyncio.to_thread(store.publish_wanted_hosts, socket.gethostname(), rows)


async def _report(beyond: set[str], store: ProxyStore) -> None:
    """Report the servers that try more hosts than they may, each again only after `REPEAT_SECONDS`."""
    reported: dict[str, float] = {}
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        now = time.monotonic()
        reported = {uid: at for uid, at in reported.items() if now - at < REPEAT_SECONDS}
        beyond.difference_update(reported)
        if pods := list(beyond):
            with contextlib.suppress(StoreUnavailable):
                await asyncio.to_thread(store.report_scans, pods)
                reported |= dict.fromkeys(pods, now)
                beyond.difference_update(pods)


async def _refuse_hub(proxy: Proxy, store: ProxyStore) -> None:
    """Refuse JupyterHub's host as soon as BinderHub's hook has announced it (D-342)."""
    names: set[str] = set()
    while True:
        # The text comes from the verifier: if it is not an address with a host, it adds nothing.
        with contextlib.suppress(StoreUnavailable, ValueError):
            name = normal(urlsplit(await asyncio.to_thread(store.hub)).hostname or "")
            if name and name not in names and len(names) < MAX_HUB_NAMES:
                names.add(name)
                proxy.refuse(name)
        await asyncio.sleep(HUB_SECONDS)


def listen(port: int, address: str | None = None) -> socket.socket:
    """A socket that listens on a port, IPv4 and IPv6, or only IPv4 if the machine has no IPv6.

    Args:
        port: the port; 0: any free one.
        address: the one IPv4 address to listen on, for tests; None: all addresses.
    """
    if address is None and socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server((address or "0.0.0.0", port), backlog=BACKLOG)


async def _admin(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, proxy: Proxy, metrics: Metrics, stopped: asyncio.Event
) -> None:
    """Answer one request of a probe or of Prometheus."""
    with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
        connection = h11.Connection(h11.SERVER)
        async with asyncio.timeout(5):
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(4096))
        path = event.target if isinstance(event, h11.Request) else b""
        ready = proxy.identities.is_fresh and not stopped.is_set()
        pages = {b"/healthz": (200, b"ok\n"), b"/readyz": (200 if ready else 503, b""), b"/metrics": (200, metrics.text())}
        status, body = pages.get(path, (404, b""))
        headers = [("Content-Type", "text/plain; version=0.0.4"), ("Content-Length", str(len(body))), ("Connection", "close")]
        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        writer.write(body)
        await writer.drain()
    writer.close()
