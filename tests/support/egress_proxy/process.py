"""The process `binder-egress proxy`, from the sources, with a real Redis."""

import urllib.error
from functools import partial
from pathlib import Path

from binder_egress.model.records import PodAddresses, Server
from binder_egress.proxy import hosts, process
from tests.support.apps import DIRECT, RedisServer, ServedProcess
from tests.support.egress_proxy.lab import EXCEPT
from tests.support.ports import free_port
from tests.support.store import Store


def status(url: str) -> tuple[int, str]:
    try:
        with DIRECT.open(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def publish(store: Store) -> None:
    """Publish this machine as a pod, as the reconciler does."""
    store.publish_addresses(Server("alice"), [PodAddresses("uid-1", "alice", "", ("127.0.0.1",), "unverified")])
    store.beat_addresses()


def _prepare(registries: Path) -> None:
    hosts.REGISTRIES = registries
    process.PUBLISH_SECONDS, process.HUB_SECONDS = 0.2, 0.1


class ProxyProcess(ServedProcess):
    """A proxy whose unverified servers reach some hosts. `port` is for pods, and `admin` the address of its probes."""

    def __init__(self, redis_server: RedisServer, *reached: str, registries: Path = hosts.REGISTRIES) -> None:
        self.port, admin = free_port(), free_port()
        self.admin = f"http://127.0.0.1:{admin}"
        super().__init__(
            "proxy",
            f"{self.admin}/healthz",
            prepare=partial(_prepare, registries),
            redis_url=redis_server.url,
            proxy_port=self.port,
            proxy_admin_port=admin,
            proxy_tiers={"unverified": {"hosts": reached, "closed": EXCEPT}},
            proxy_page="https://hub.example/egress/servers/",
            proxy_drain_seconds=20,
            proxy_log_connections=True,
        )
