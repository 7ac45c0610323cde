"""The process `binder-egress proxy`, from the sources, with a real Redis."""

import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import TOP
from tests.support.apps import DIRECT
from tests.support.egress_proxy.lab import EXCEPT
from tests.support.ports import free_port
from tests.support.store import Store
from tests.support.waiting import eventually
from verifier.records import PodAddresses, Server


def status(url: str) -> tuple[int, str]:
    """Status and body of an answer; 0 if there is none."""
    try:
        with DIRECT.open(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def publish(store: Store, tier: str = "unverified") -> None:
    """Publish this machine as a pod, as the reconciler does."""
    store.publish_addresses(Server("alice"), [PodAddresses("uid-1", "alice", "", ("127.0.0.1",), tier)])
    store.beat_addresses()


@contextmanager
def running(redis_url: str, folder: Path, hosts: list[str], **more: str) -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """A proxy whose unverified servers reach `hosts`: its port, the port of its probes, and the process, which logs to `folder`."""
    port, admin = free_port(), free_port()
    (folder / "tiers.json").write_text(json.dumps({"unverified": {"hosts": hosts, "closed": EXCEPT}}))
    settings = {
        "REDIS_URL": redis_url,
        "PROXY_PORT": str(port),
        "PROXY_ADMIN_PORT": str(admin),
        "PROXY_TIERS": str(folder / "tiers.json"),
        "PROXY_PAGE": "https://hub.example/egress/servers/",
        "PROXY_DRAIN_SECONDS": "20",
        "PROXY_LOG_CONNECTIONS": "true",
    }
    variables = {f"BINDER_EGRESS_{name}": value for name, value in settings.items()}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.egress_proxy.command"],
            env={**os.environ, "PYTHONPATH": str(TOP), **variables, **more},
            stderr=log,
            cwd=TOP,
        )
        try:
            eventually(lambda: status(f"http://127.0.0.1:{admin}/healthz")[0] == 200)
            yield port, admin, process
        finally:
            process.kill()
            process.wait()
