"""Other projects' programs that use the egress proxy, run as people run them: what each shows of a refusal.

`seen` runs them in the lab's network namespace, by hand also with the packages of another Python.
"""

import json
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

BY_PYTHON = {
    "urllib": "import urllib.request as u, ssl; u.urlopen({url!r}, context=ssl._create_unverified_context())",
    "requests": "import requests; requests.get({url!r}, verify=False)",
    "httpx": "import httpx; httpx.get({url!r}, verify=False)",
    "aiohttp": (
        "import asyncio, aiohttp\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession({more}) as s, s.get({url!r}, ssl=False) as a: a.raise_for_status()\n"
        "asyncio.run(main())"
    ),
    "pooch": (
        "import pooch, tempfile; pooch.retrieve({url!r}, None, path=tempfile.mkdtemp(), "
        "downloader=pooch.HTTPDownloader(verify=False))"
    ),
    "rattler": (
        "import asyncio, rattler\n"
        "channel = rattler.Channel({url!r}.rstrip('/'))\n"
        "asyncio.run(rattler.Gateway().query([channel], ['noarch'], ['a']))"
    ),
    "fsspec": "import fsspec; fsspec.filesystem('http', client_kwargs={kwargs}).cat({url!r})",
}
"""Python packages, and `rattler`, which pixi contains."""

BY_PYTHON["aiohttp, trust_env"] = BY_PYTHON["aiohttp"].replace("{more}", "trust_env=True")
BY_PYTHON["aiohttp"] = BY_PYTHON["aiohttp"].replace("{more}", "")
BY_PYTHON["fsspec, trust_env"] = BY_PYTHON["fsspec"].replace("{kwargs}", "dict(trust_env=True)")
BY_PYTHON["fsspec"] = BY_PYTHON["fsspec"].replace("{kwargs}", "{{}}")

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "curl": lambda url: ["curl", "--insecure", "--fail-with-body", url],
    "curl --verbose": lambda url: ["curl", "--insecure", "--verbose", url],
    "conda": lambda url: ["conda", "search", "--insecure", "--override-channels", f"--channel={url}", "a"],
    "GIT_CURL_VERBOSE=1 git": lambda url: ["env", "GIT_CURL_VERBOSE=1", *COMMANDS["git"](url)],
    "R, internet.info": lambda url: ["Rscript", "-e", f"options(internet.info=0); download.file('{url}', tempfile())"],
    "wget": lambda url: ["wget", "--tries=1", "--no-check-certificate", "--output-document=-", url],
    "git": lambda url: ["git", "-c", "http.sslVerify=false", "ls-remote", f"{url}a.git"],
    "npm": lambda url: ["npm", "view", "a", f"--registry={url}", "--strict-ssl=false", "--fetch-retries=0"],
    "R": lambda url: ["Rscript", "-e", f"download.file('{url}', tempfile())"],
    "R, install.packages": lambda url: ["Rscript", "-e", f"install.packages('a', repos='{url}', lib=tempdir())"],
    "uv": lambda url: [
        *("uv", "pip", "install", "a", "--no-cache", "--target=uv", f"--default-index={url}simple"),
        f"--allow-insecure-host={url.split('/')[2]}",
    ],
    "Node, fetch": lambda url: ["node", "-e", f"fetch('{url}').then(a => a.text()).then(console.log)"],
}
"""Separate programs."""


def command(client: str, url: str, python: str) -> list[str]:
    """How a client is run for an address."""
    if client == "pip":
        more = ["--retries=1", "--no-deps", "--no-cache-dir", "--dest=pip", f"--trusted-host={url.split('/')[2]}"]
        return [python, "-m", "pip", "download", *more, "-i", f"{url}simple", "a"]
    if client in BY_PYTHON:
        return [python, "-c", BY_PYTHON[client].format(url=url)]
    return COMMANDS[client](url)


def seen(clients: list[str], python: str = sys.executable) -> dict[str, dict[str, str | bool]]:
    """Run clients in the lab. Returns client → whether a listed host was reached, and the client's output about a refused host."""
    return lab.in_namespace(__spec__.name, json.dumps([clients, python]))


def main() -> None:
    """In the namespace: run the clients, and print what was seen."""
    clients, python = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        proxy = f"http://{lab.PROXY}:{PORT}"
        variables = {name: proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy") and "PIP" not in name}
        environment = {**kept, **variables, "NODE_USE_ENV_PROXY": "1", "HOME": folder, "LANG": "C.UTF-8", "NODE_NO_WARNINGS": "1"}
        running = lab.begin(Path(folder))
        # The system's choice of an address for a connection to the proxy.
        client = Pod(lab.PROXY, lab.PROXY)
        running.publish("client", client, "unverified")

        def run(client: str) -> tuple[str, dict[str, str | bool]]:
            def say(url: str) -> str:
                done = subprocess.run(
                    command(client, url, python), capture_output=True, text=True, env=environment, cwd=folder, timeout=SECONDS,
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
            found = dict(pool.map(run, clients))
    lab.end(found)


if __name__ == "__main__":
    main()
