"""An operator: somebody with a checkout of this project who types the documentation's commands, and checks what they leave
behind."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.support import TOP
from tests.support.cluster.stage import CLIENT, Failed, Stage
from tests.support.cluster.timeouts import (
    ANSWER_SECONDS,
    CANARY_SECONDS,
    COMMAND_SECONDS,
    HUB_SECONDS,
    LABEL_SECONDS,
    LAUNCH_SECONDS,
    POD_SECONDS,
    TIER_SECONDS,
)
from tests.support.doc_examples import section
from tests.support.waiting import eventually, patiently

BINDERHUB = TOP / "tests/cluster/binderhub-for-tests/chart"

PASSING = {"events", "events.events.k8s.io", "componentstatuses", "leases.coordination.k8s.io"}
"""Kinds of objects that come and go by themselves."""

BINDERHUBS = re.compile(r"/(hub|proxy|binder)-[0-9a-f]+(-\w+)?$|/sh\.helm\.release\.v1\.(binder|parent)\.v\d+$|^pod/jupyter-")
"""Objects that upgrades of BinderHub replace, and its users' pods."""


@dataclass
class Operator:
    """An operator in a namespace of their own, in whose folder are `chart/` and, as `jupyterhub/binderhub`, the tests' chart."""

    stage: Stage
    folder: Path
    typed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.check_out(TOP / "chart")
        shutil.copytree(BINDERHUB, self.folder / "jupyterhub/binderhub")
        (self.folder / "bin").mkdir()
        python = f'PYTHONPATH={TOP}/verifier exec {sys.executable} -c "from binder_egress.commands.egress import main; main()" "$@"'
        # What the first of them installs is the second.
        for name, code in (("pipx", '[ "$*" = "install .[plan]" ]'), ("egress", python)):
            (self.folder / "bin" / name).write_text(f"#!/bin/sh\n{code}\n")
            (self.folder / "bin" / name).chmod(0o755)

    def check_out(self, chart: Path) -> None:
        """Switch to another version of our chart."""
        shutil.rmtree(self.folder / "chart", ignore_errors=True)
        shutil.copytree(chart, self.folder / "chart")

    def type(self, document: str, heading: str, number: int = 0) -> str:
        """Run a block of commands of a document unchanged, except for the namespace and the registry. Returns the output."""
        code = section(document, heading)[number]
        self.typed.append(code)
        return self.run(code)

    def type_until_well(self, document: str, heading: str, number: int = 0) -> str:
        """Run commands that check something, again while they find a problem. The canary looks every 30 s."""
        return patiently(lambda: self.type(document, heading, number), CANARY_SECONDS, (Failed,))

    def run(self, code: str) -> str:
        """Run commands in the operator's folder. Returns their output, with errors."""
        code = re.sub(r"--namespace binder\b(?!-)", f"--namespace {self.stage.namespace}", code)
        code = code.replace("registry.example.org/", "localhost/")
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        if self.stage.context:
            config = self.folder / "kubeconfig"
            config.write_text(self.stage.kubectl("config", "view", "--minify", "--flatten"))
            environment["KUBECONFIG"] = str(config)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{code}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def await_binderhub(self) -> None:
        """Wait until BinderHub is as its values say. People do not type this."""
        for deployment in ("hub", "proxy", "binder"):
            self.stage.rollout(f"deployment/{deployment}")
        self.stage.await_binderhub()

    def objects(self) -> set[str]:
        """All objects of the namespace and of the cluster, as `kind/name`, except objects of BinderHub that change anyway."""
        found: set[str] = set()
        for namespaced in ("true", "false"):
            kinds = self.stage.kubectl("api-resources", "--verbs=list", f"--namespaced={namespaced}", "-o", "name").split()
            found |= set(self.stage.kubectl("get", ",".join(set(kinds) - PASSING), "-o", "name", "--ignore-not-found").split())
        return {name for name in found if not BINDERHUBS.search(name)}

    def await_left(self, before: set[str], fits: Callable[[set[str]], bool]) -> set[str]:
        """Wait until the new objects are those expected. Returns them. Ending pods take time."""
        left: set[str] = set()

        def is_as_it_should_be() -> bool:
            left.clear()
            left.update(self.objects() - before)
            return fits(left)

        eventually(is_as_it_should_be, POD_SECONDS, lambda: f"left behind: {sorted(left)}")
        return left

    def delete_as_told(self, text: str) -> set[str]:
        """Run all `kubectl delete` commands of a text. Returns what they deleted, as `kind/name`."""
        commands = [line.strip() for line in text.splitlines() if line.strip().startswith("kubectl delete")]
        assert commands
        return {name for command in commands for name in self.run(f"{command} -o name").split() if "/" in name}


class Load:
    """Users' activity while an operator does something: launches with passes, passes for an API key, and packets.

    The pod of the user `open` must always get through, and the pod of `shut` never. Each launch gets its tier without an unlock,
    because the hook announces it again if it could not at first. `launched` has the users of finished launches.
    """

    def __init__(self, stage: Stage, open: str, shut: str, key: str) -> None:
        self.stage, self.open, self.shut, self.key = stage, open, shut, key
        self.launched: list[str] = []
        self.passes = self.looks = 0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(5)

    def __enter__(self) -> "Load":
        clients = [f"198.51.100.{number}" for number in (11, 12)]
        work = [*(lambda client=client: self._launch(client) for client in clients), self._ask, self._look]
        self._running = [self._pool.submit(self._repeat, task) for task in work]
        return self

    def await_some(self) -> None:
        """Wait until each activity was done twice."""

        def are_done() -> bool:
            for running in self._running:
                if running.done():
                    running.result()
            return min(len(self.launched), self.passes, self.looks) >= 2

        eventually(are_done, LAUNCH_SECONDS, lambda: (self.launched, self.passes, self.looks))

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        if kind is None:
            for running in self._running:
                running.result()

    def _repeat(self, task: Callable[[], None]) -> None:
        while not self._stop.is_set():
            task()

    def _launch(self, client: str) -> None:
        token = patiently(lambda: self.stage.get_pass(client), HUB_SECONDS)
        user = self.stage.launch(f"fake/owner/{client.replace('.', '-')}/main", token, client).user
        self.stage.await_tier(user, "verified")
        self.stage.kubectl("delete", "pod", self.stage.pod_name(user), "--wait=false")
        self.launched.append(user)

    def _ask(self) -> None:
        answer = patiently(lambda: ask(self.stage, self.key), HUB_SECONDS)
        assert answer.status_code == 201, answer.text
        self.passes += 1
        time.sleep(1)

    def _look(self) -> None:
        public = {name: target for name, target in self.stage.targets().items() if name in ("public HTTP", "public TCP")}
        for user, reached in ((self.open, True), (self.shut, False)):
            # Twenty seconds for targets that must answer, because many pods are starting.
            patience = ("--timeout", "2s", "--attempts", "10") if reached else ()
            seen = self.stage.battery_in(self.stage.pod_name(user), public, *patience)
            assert seen == dict.fromkeys(public, reached), (user, seen)
        self.looks += 1


def forget_failures(stage: Stage) -> None:
    """End the hook's rest after failures, with a new BinderHub."""
    stage.kubectl("rollout", "restart", "deployment/binder")
    stage.rollout("deployment/binder")
    stage.await_binderhub()


def await_tier_or_unlock(stage: Stage, user: str, token: str | None, client: str = CLIENT) -> None:
    """Wait until a server has the tier that its launch brings. One whose launch BinderHub's hook could not report is unlocked, and
    once more until it has its tier: verifiers and Redis may be replaced meanwhile."""
    with suppress(AssertionError):
        stage.await_tier(user, "verified", LABEL_SECONDS)
        return
    said: list[str] = []

    def is_verified() -> bool:
        said.append(stage.unlock(user, client, **({"token": token} if token else {})).text)
        stage.await_tier(user, "verified", 1)
        return True

    eventually(is_verified, TIER_SECONDS, lambda: f"{user} has no tier: {said[-1:]}", (requests.RequestException, AssertionError))


def ask(stage: Stage, key: str) -> requests.Response:
    """`POST passes` with an API key."""
    headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": CLIENT}
    return requests.post(f"{stage.verifier}/passes", headers=headers, timeout=ANSWER_SECONDS)
