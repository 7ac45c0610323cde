"""Installs a real package through exactly the list of an image: real pip, from its real index."""

import json
import os
import subprocess
import sys

from binder_egress.proxy import build_registries
from binder_egress.proxy.build_registries import python_hosts
from tests.support.egress_proxy.process import ProxyProcess, publish, status
from tests.support.waiting import eventually

PACKAGE = "iniconfig"
"""A small package, pure Python."""


def install(redis_server, store, folder, entry):
    """Run pip through a proxy whose list has one entry. Returns its exit code, its output, and the hosts that it requested."""
    written = subprocess.run([sys.executable, build_registries.__file__], check=True, capture_output=True, text=True).stdout
    (folder / "registries.json").write_text(written)
    proxy = ProxyProcess(redis_server, entry, registries=folder / "registries.json")

    def ready():
        publish(store)
        return status(f"{proxy.admin}/readyz")[0] == 200

    eventually(ready)
    # As a user who has configured nothing except, perhaps, trusted certificates.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"}
    command = ["install", "--no-deps", "--no-cache-dir", "--retries=1", f"--target={folder / 'packages'}", PACKAGE]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command],
        env={**kept, "PIP_CONFIG_FILE": os.devnull, "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    # The proxy has logged every connection when it has drained.
    lines = [json.loads(line) for line in proxy.stop()]
    return done.returncode, done.stdout + done.stderr, {line["host"] for line in lines if line.get("host")}


def test_pip_installs_a_package_through_the_group_python_alone(redis_server, store, tmp_path):
    code, said, asked = install(redis_server, store, tmp_path, "python")
    assert code == 0 and (tmp_path / "packages" / PACKAGE).is_dir(), said
    assert asked == set(python_hosts())


def test_pip_says_what_to_do_if_the_group_is_off(redis_server, store, tmp_path):
    code, said, _ = install(redis_server, store, tmp_path, "conda")
    assert code != 0 and "403 No internet access: open https://hub.example/egress/servers/alice/" in said
