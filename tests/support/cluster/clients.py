"""Clients that launch: curl, a script, and our own command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tests.support import TOP
from tests.support.cluster.timeouts import COMMAND_SECONDS, LAUNCH_SECONDS

SPEC = "fake/owner/repo/main"

SCRIPT = """
import json, sys, requests
headers = {"Accept": "text/event-stream", **dict(header.split(": ") for header in sys.argv[2:])}
answer = requests.get(sys.argv[1], stream=True, headers=headers)
answer.raise_for_status()
for line in answer.iter_lines():
    if line.startswith(b"data:"):
        print(line[5:].decode().strip())
        if json.loads(line[5:])["phase"] in ("ready", "failed"):
            break
"""
"""The same as in examples/binder-api.py of BinderHub."""


def client_process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start our client."""
    env = {**os.environ, "PYTHONPATH": str(TOP / "client")}
    return subprocess.Popen([sys.executable, "-m", "binder_egress_client", *arguments], env=env, text=True, **options)


def client(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run our client."""
    running = client_process(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = running.communicate(timeout=COMMAND_SECONDS)
    finally:
        running.kill()
    return subprocess.CompletedProcess(arguments, running.returncode, out, err)


def curl(address: str, *headers: str) -> list[str]:
    """The events that plain curl prints."""
    command = ["curl", "--no-buffer", "--silent", "--show-error", "--fail", "--location", "--max-time", str(LAUNCH_SECONDS)]
    for header in ("Accept: text/event-stream", *headers):
        command += ["--header", header]
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return [line[5:].strip() for line in done.stdout.splitlines() if line.startswith("data:")]


def script(address: str, *headers: str) -> list[str]:
    """The events that a Python script prints."""
    command = [sys.executable, "-c", SCRIPT, address, *headers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def user_of(events: list[str]) -> str:
    """The user name in the last event."""
    found = re.search(r"/user/([^/]+)/", json.loads(events[-1])["url"])
    assert found
    return found[1]


Outcomes = dict[str, Future[list[str]]]
"""The events of launches, by client. One that failed raises its error when its result is asked for."""


def launch_together(**ways: Callable[[], list[str]]) -> Outcomes:
    """Launch in some ways at once, and wait until all are done."""
    with ThreadPoolExecutor(len(ways)) as pool:
        return {way: pool.submit(launch) for way, launch in ways.items()}


def comparable(launched: Future[list[str]]) -> list[dict[str, Any]]:
    """The events of a launch, without what differs between any two: the random end of user names, tokens, Kubernetes' messages."""
    found = []
    for text in launched.result():
        event = json.loads(text)
        # First, because a token may end like a user name.
        if "token" in event:
            event["token"] = f"{len(event['token'])} characters"
        event = json.loads(re.sub(r"-[a-z0-9]{8}(?=[/\\\"\s])", "-NAME", json.dumps(event)))
        if re.match(r"\d{4}-\d\d-\d\dT", event.get("message", "")):
            assert (event.keys(), event["phase"]) == ({"phase", "message"}, "launching")
            continue
        found.append(event)
    return found
