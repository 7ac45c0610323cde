"""A Redis that accepts connections and does not answer the egress proxy: open tunnels go on, and known pods stay known for a while.

`seen` runs the proxy with its feed and a real Redis in the lab's network namespace, on a clock of its own.
"""

import logging
import ssl
import tempfile
import threading
from pathlib import Path

from tests.support.apps import RedisServer
from tests.support.clock import Clock
from tests.support.egress_proxy import attempts, lab
from tests.support.egress_proxy.attempts import LISTED, PUBLIC, addresses, get, open_tunnel, plain
from tests.support.egress_proxy.internet import start_internet
from tests.support.store import Store
from tests.support.waiting import eventually
from verifier.proxy import feed
from verifier.proxy.connections import Proxy
from verifier.proxy.feed import Feed
from verifier.proxy.identities import MAX_AGE_SECONDS
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import Resolver
from verifier.records import PodAddresses, Server
from verifier.settings import CommonSettings, load
from verifier.store.connection import connect

WAIT_SECONDS = 60
"""Seconds for things that happen immediately."""


def seen() -> dict[str, list[str]]:
    """The answers to an open tunnel and a new connection: `before`; when Redis `hangs`; when it has hung for `long`; and
    `after`."""
    return lab.in_namespace(__spec__.name)


class Noticed(logging.Handler):
    """Waits for the feed to notice that Redis does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "Redis" in record.getMessage():
            self.event.set()


def main() -> None:
    """In the namespace: let Redis hang, and print what was seen."""
    attempts.answer_seconds = WAIT_SECONDS
    feed.SILENT_SECONDS = 1.0
    noticed = Noticed()
    logging.getLogger("binder-egress").addHandler(noticed)
    redis, clock, pod = RedisServer(), Clock(), lab.PODS[LISTED]
    redis.start()
    settings = load(CommonSettings, redis_url=redis.url)
    with tempfile.TemporaryDirectory() as folder:
        start_internet(Path(folder), PUBLIC)
    policy, store = lab.policy("ok.example"), Store(connect(settings))
    proxy = Proxy(policy, Limits(), Resolver(addresses), Metrics(), identity_wait_seconds=0.3, clock=clock)
    running = lab.Running(proxy, None)
    Feed(Store(connect(settings)), proxy.identities, running.loop).start()

    def tell() -> None:
        """Publish as the reconciler does, until the proxy hears it."""

        def is_heard() -> bool:
            store.publish_addresses(Server("alice"), [PodAddresses("uid-1", "alice", "", (pod.address,))])
            store.beat_addresses()
            return bool(proxy.identities.of(pod.address))

        eventually(is_heard, WAIT_SECONDS, "the proxy does not know the pod")

    def ask() -> list[str]:
        secure.sendall(b"GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n")
        answer = b""
        while b"REACHED" not in answer and (more := secure.recv(65536)):
            answer += more
        return [answer.decode(), plain(pod, get("http://ok.example/"))]

    tell()
    connection, _ = open_tunnel(pod, "ok.example:443")
    connection.settimeout(WAIT_SECONDS)
    secure = ssl._create_unverified_context().wrap_socket(connection, server_hostname="ok.example")
    found = {"before": ask()}
    redis.freeze()
    assert noticed.event.wait(WAIT_SECONDS)
    clock.now += MAX_AGE_SECONDS - 1
    found["hangs"] = ask()
    clock.now += 2
    found["long"] = ask()
    redis.thaw()
    tell()
    found["after"] = ask()
    redis.stop()
    running.end(found)


if __name__ == "__main__":
    main()
