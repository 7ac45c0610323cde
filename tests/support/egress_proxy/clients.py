"""Other projects' programs that use the egress proxy, run as people run them: what each shows of a refusal.

`seen` runs them in the lab's network namespace.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.egress_proxy import lab
from tests.support.egress_proxy.attempts import PORT, Pod
from tests.support.egress_proxy.internet import Internet

SECONDS = 180
"""Seconds for one run of a client. npm takes several on a busy machine."""

AIOHTTP = (
    "import asyncio, aiohttp\n"
    "async def main():\n"
    "    async with aiohttp.ClientSession(%s) as s, s.get({url!r}, ssl=False) as a: a.raise_for_status()\n"
    "asyncio.run(main())"
)

BY_PYTHON = {
    "urllib": "import urllib.request as u, ssl; u.urlopen({url!r}, context=ssl._create_unverified_context())",
    "requests": "import requests; requests.get({url!r}, verify=False)",
    "aiohttp": AIOHTTP % "",
    "aiohttp, trust_env": AIOHTTP % "trust_env=True",
}
"""Python packages."""

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "pip": lambda url: [
        *(sys.executable, "-m", "pip", "download", "--retries=1", "--no-deps", "--no-cache-dir", "--dest=pip"),
        *(f"--trusted-host={url.split('/')[2]}", "-i", f"{url}simple", "a"),
    ],
    "curl": lambda url: ["curl", "--insecure", "--fail-with-body", url],
    "curl --verbose": lambda url: ["curl", "--insecure", "--verbose", url],
    "wget": lambda url: ["wget", "--tries=1", "--no-check-certificate", "--output-document=-", url],
    "git": lambda url: ["git", "-c", "http.sslVerify=false", "ls-remote", f"{url}a.git"],
    "GIT_CURL_VERBOSE=1 git": lambda url: ["env", "GIT_CURL_VERBOSE=1", *COMMANDS["git"](url)],
    "npm": lambda url: ["npm", "view", "a", f"--registry={url}", "--strict-ssl=false", "--fetch-retries=0"],
}
"""Separate programs."""


def command(client: str, url: str) -> list[str]:
    return [sys.executable, "-c", BY_PYTHON[client].format(url=url)] if client in BY_PYTHON else COMMANDS[client](url)


def seen() -> dict[str, dict[str, str | bool]]:
    """Run all clients in the lab. Returns client → whether a listed host was reached, and the client's output about a refused
    host."""
    return lab.in_namespace(__spec__.name)


def main() -> None:
    """In the namespace: run the clients, and print what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        proxy = f"http://{lab.PROXY}:{PORT}"
        variables = {name: proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy") and "PIP" not in name}
        environment = {**kept, **variables, "HOME": folder, "LANG": "C.UTF-8", "NODE_NO_WARNINGS": "1"}
        running = lab.begin(Path(folder))
        # The system's choice of an address for a connection to the proxy.
        client = Pod(lab.PROXY, lab.PROXY)
        running.publish("client", client, "unverified")

        def run(client: str) -> tuple[str, dict[str, str | bool]]:
            def say(url: str) -> str:
                done = subprocess.run(
                    command(client, url), capture_output=True, text=True, env=environment, cwd=folder, timeout=SECONDS,
                    check=False,
                )  # fmt: skip
                return f"{done.stdout}{done.stderr}exit {done.returncode}"

            path = client.replace(" ", "-").replace(",", "")
            # Some clients cannot be told to trust the lab's certificate.
            listed = say(f"https://ok.example/{path}/") + say(f"http://ok.example/{path}/")
            return client, {
                "reached": any(asked.startswith(f"/{path}/") for asked in Internet.paths),
                "listed": listed,
                "refused": say("https://evil.example/"),
            }

        with ThreadPoolExecutor(4) as pool:
            found = dict(pool.map(run, (*BY_PYTHON, *COMMANDS)))
    lab.end(found)


if __name__ == "__main__":
    main()
