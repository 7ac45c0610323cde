"""A cluster with BinderHub and binder-egress in it, and what people do with them. Used by ci/demo, the cluster tests and ci/bench.

In the local cluster (`ci/cluster/in` has been used) Services are reached by their addresses; in any other, through
`kubectl port-forward`.
"""

import base64
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altcha
import requests

from tests.support import TOP
from tests.support.charts import with_images
from tests.support.cluster import api
from tests.support.cluster.timeouts import (
    ANSWER_SECONDS,
    COMMAND_SECONDS,
    GUARD_SECONDS,
    HUB_SECONDS,
    LAUNCH_SECONDS,
    POD_SECONDS,
    ROLLOUT_SECONDS,
    TIER_SECONDS,
)
from tests.support.ports import free_port
from tests.support.waiting import eventually, patiently

CLIENT = "198.51.100.7"
"""The address of the person who launches (a documentation range, RFC 5737), as the ingress would report it."""

USER_PODS = "component=singleuser-server,!binder-egress/gatecheck"
VERIFIER = "app.kubernetes.io/component=verifier"
OPEN = {"DNS", "public HTTP", "public TCP", "public UDP", "public IPv6"}
"""The targets of `Stage.targets()` that a verified pod reaches. An unverified pod reaches none."""

OURS = "app.kubernetes.io/name=binder-egress"
STANDING_IN = "binder-egress/gatecheck"
"""Label of the canary and of the pods of `helm test`."""
LABEL = "binder-egress/tier"
IMAGES = "tests/images"
"""Annotation of the namespace: a checksum of the images of its pods."""


FROM_NODES = [
    f"--set=verifier.networkPolicy.{name}.ipBlock.cidr={addresses}"
    for name, addresses in (
        ("publicFrom.nodes", "172.30.0.0/24"), ("publicFrom.pods", "10.42.0.0/16"), ("internalFrom.nodes", "172.30.0.0/24"),
    )
]  # fmt: skip
"""The tests are people, their ingress controller and BinderHub's hook, on a local cluster's node that is not the verifier's. Pods
reach the public port by default, too."""

# Challenges are solved within milliseconds: these tests are about the fate of solutions, and ci/demo is about solving. Within
# CANARY_SECONDS the canary reports again a result that got lost (D-375).
QUICK = [
    *FROM_NODES,
    "--set=captcha.providers.altcha.cost=1",
    "--set=captcha.providers.altcha.counterMax=5",
    "--set=canary.interval=5",
]

SINGLEUSER = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "singleuser", "labels": {"component": "singleuser"}},
    "spec": {
        "podSelector": {"matchLabels": {"component": "singleuser-server"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}]}],
    },
}
"""JupyterHub's, with `nonPrivateIPs` and `privateIPs` on."""


UNLOCKED = ((200, "granted"), (202, "pending"))
"""The answers to an unlock; `pending` if the reconciler takes more than a moment."""

FIND_VERIFIER = """
import os, urllib.request
if api := os.environ.get("BINDER_EGRESS_API"):
    urllib.request.urlopen(api.rstrip("/") + "/healthz", timeout=5)
"""
"""Runs in BinderHub's pod: sends the verifier a request, as the hook does."""


JUPYTER = "--set=jupyterhub.singleuser.cmd={jupyter-server}"
"""For tests in which somebody uses Jupyter. A pod takes a second less without it."""

HOOK_TRIES = 5
"""Launches for one that the verifier decides. The hook rests for half a minute after three without an answer."""

NO_ANSWER = r"binder-egress: {}/(: (\w*TimeoutError|\w*StreamClosedError|ConnectionRefusedError|gaierror)\(| not announced)"
"""What BinderHub's log says of a launch whose hook got no answer, or rests. An answer with an error is another line."""


class Failed(Exception):
    """A command or a launch failed. The text says how."""


@dataclass
class Launched:
    """A finished launch: its events."""

    events: list[dict[str, Any]]

    @property
    def ready(self) -> dict[str, Any]:
        """The last event."""
        return self.events[-1]

    @property
    def user(self) -> str:
        """The JupyterHub user that was made for it."""
        found = re.search(r"/user/([^/]+)/", self.ready["url"])
        assert found
        return found[1]


@dataclass
class Stage:
    """One namespace with everything in it.

    If `patient`, start guards take longer than the chart's default (`GUARD_SECONDS`), and user pods have a server that starts in no
    time, in place of Jupyter.
    """

    context: str | None = None
    namespace: str = "binder"
    helm_program: str = "helm"
    patient: bool = False
    _forwards: dict[tuple[str, int], tuple[str, subprocess.Popen[bytes]]] = field(default_factory=dict)

    # -- commands

    def run(self, *command: str, stdin: str | None = None, timeout: float = COMMAND_SECONDS) -> str:
        """Run a command and return its standard output. If it fails, `Failed` has all of its output."""
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(command[:6])} …: no end after {timeout} s") from None
        if done.returncode:
            raise Failed(f"{' '.join(command[:6])} …: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = COMMAND_SECONDS) -> str:
        """Run kubectl in the namespace. In the local cluster, `kubectl exec` runs without it."""
        if args[0] == "exec" and api.is_local():
            return self._execute(args[1:], stdin, timeout)
        context = ["--context", self.context] if self.context else []
        return self.run("kubectl", *context, "--namespace", self.namespace, *args, stdin=stdin, timeout=timeout)

    def _execute(self, args: tuple[str, ...], stdin: str | None, timeout: float) -> str:
        try:
            code, said, errors = api.execute(self.namespace, args, stdin, timeout)
        except api.Unavailable as error:
            raise Failed(str(error)) from None
        if code:
            raise Failed(f"{' '.join(args[:6])} …: exit {code}\n{said}{errors}")
        return said

    def get(self, *args: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        if not (asked := api.path_of(self.namespace, args)):
            return json.loads(self.kubectl("get", *args, "-o", "json"))
        try:
            return api.ask("GET", *asked)
        except api.Unavailable as error:
            raise Failed(str(error)) from None

    def apply(self, *objects: dict[str, Any]) -> None:
        """Run `kubectl apply` for objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def inside(self, user: str, *command: str, stdin: str | None = None) -> str:
        """Run a command in a user's server, as its user. Returns its output."""
        options = ["-i"] if stdin is not None else []
        return self.kubectl("exec", *options, self.pod_name(user), "-c", "notebook", "--", *command, stdin=stdin)

    def helm(self, *args: str, stdin: str | None = None) -> str:
        """Run helm in the namespace. Our chart in a checkout gets the names of the tests' images.

        Helm does not compare objects with the schema of the API server, which compares them itself: that took 40 % of its time.
        """
        if args[0] in ("install", "upgrade"):
            args = (*args, "--disable-openapi-validation")
        context = ["--kube-context", self.context] if self.context else []
        return self.run(self.helm_program, *context, "--namespace", self.namespace, *with_images(args), stdin=stdin)

    # -- installation

    def begin(self) -> None:
        """Install both charts for tests, in a cluster that may have them from an earlier run (`ci/test --keep`)."""
        self.delete_user_pods()
        left = [name for name in self._namespaces() if name.startswith(f"{self.namespace}-")]
        if left:  # left by tests that were killed
            self.kubectl("delete", "namespace", *left, f"--timeout={POD_SECONDS}s")
        self.install_gate(*QUICK)
        self.install_binderhub()
        # The names of images stay the same when their content changes.
        images, known = os.environ.get("CLUSTER_IMAGES", ""), self._annotation(IMAGES)
        if images and known not in (None, images):
            for deployment in self.kubectl("get", "deployments", "-o", "name").split():
                self.kubectl("rollout", "restart", deployment)
            for deployment in self.kubectl("get", "deployments", "-o", "name").split():
                self.rollout(deployment)
            self.await_settled()
            self.await_address("binder-egress", 8081, "/healthz")
            self.await_binderhub()
        self.kubectl("annotate", "namespace", self.namespace, f"{IMAGES}={images}", "--overwrite")

    def _namespaces(self) -> list[str]:
        return self.kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()

    def _annotation(self, name: str) -> str | None:
        return self.get("namespace", self.namespace)["metadata"].get("annotations", {}).get(name)

    def new_namespace(self) -> None:
        """Create the namespace. An earlier one of that name may still be ending."""
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", f"--timeout={POD_SECONDS}s")
        self.kubectl("create", "namespace", self.namespace)

    def delete_namespace(self) -> None:
        """Remove the namespace and everything in it, without waiting for the end."""
        self.delete_user_pods()
        self.close()
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def rollout(self, deployment: str) -> None:
        """Wait until a Deployment is as its manifest says."""
        self.kubectl("rollout", "status", deployment, f"--timeout={ROLLOUT_SECONDS}s")

    def install_gate(self, *args: str) -> None:
        """`helm upgrade --install` this project's chart, and wait until it is ready."""
        wait = ("--create-namespace", "--wait", f"--timeout={ROLLOUT_SECONDS}s")
        self.helm("upgrade", "--install", "binder-egress", str(TOP / "chart"), *wait, "--reset-values", *args)
        self.await_settled()
        if self.get("deployments", "-l", VERIFIER)["items"]:
            self.await_address("binder-egress", 8081, "/healthz")

    @contextmanager
    def installed(self, *args: str) -> Iterator[None]:
        """Our chart with other values, until the end of the block. User pods end with it."""
        try:
            self.install_gate(*QUICK, *args)
            yield
        finally:
            self.delete_user_pods()
            self.install_gate(*QUICK)

    def await_settled(self) -> None:
        """Wait until we have the manifests' pods and no others. Helm does not wait for the end of earlier pods, which answer."""
        eventually(lambda: not self._unsettled(), POD_SECONDS, lambda: f"not as the manifests say: {', '.join(self._unsettled())}")

    def _unsettled(self) -> list[str]:
        found, owners = [], set()
        for deployment in self.get("deployments", "-l", OURS)["items"]:
            status, replicas = deployment["status"], deployment["spec"]["replicas"]
            numbers = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")}
            if numbers != {replicas} or status.get("observedGeneration") != deployment["metadata"]["generation"]:
                found.append(deployment["metadata"]["name"])
        for kind in ("replicasets", "daemonsets"):
            owners |= {item["metadata"]["uid"] for item in self.get(kind, "-l", OURS)["items"] if item["spec"].get("replicas", 1)}
        for pod in (pod for label in (OURS, STANDING_IN) for pod in self.get("pods", "-l", label)["items"]):
            # A controller deletes pods without an owner after a while.
            lost = {owner["uid"] for owner in pod["metadata"].get("ownerReferences", [])} - owners
            if lost or "deletionTimestamp" in pod["metadata"]:
                found.append(pod["metadata"]["name"])
        return found

    def binderhub_values(self) -> str:
        """The values for BinderHub that the chart generates, read with the README's command."""
        (command,) = re.findall(r"^kubectl get configmap .*(?= > )", (TOP / "README.md").read_text(), re.MULTILINE)
        context = f"--context {self.context} " if self.context else ""
        command = command.replace("kubectl ", f"kubectl {context}").replace("--namespace binder", f"--namespace {self.namespace}")
        return self.run("bash", "-c", command)

    def install_binderhub(self, *args: str, values: str | None = None) -> None:
        """Install the test's BinderHub as a release of its own, wired with the generated values or with others."""
        options = [f"--set=jupyterhub.custom.binderEgress.startGuard.timeout={GUARD_SECONDS}"] if self.patient else [JUPYTER]
        self.helm(
            "upgrade", "--install", "binder", str(TOP / "tests/cluster/binderhub-for-tests/chart"), "--create-namespace", "--wait",
            f"--timeout={ROLLOUT_SECONDS}s", "--values=-", *options, *args,
            stdin=self.binderhub_values() if values is None else values,
        )  # fmt: skip
        self.await_binderhub()

    def await_binderhub(self) -> None:
        """Wait until BinderHub answers and, if there is a verifier, its hook finds it: the hook reports a launch only once."""
        self.await_address("binder", 80, "/versions")
        self.await_address("proxy-public", 80, "/hub/api/")
        if not any(found["status"].get("availableReplicas") for found in self.get("deployments", "-l", VERIFIER)["items"]):
            return
        ask = ("exec", "deployment/binder", "--", "python3", "-c", FIND_VERIFIER)
        patiently(lambda: self.kubectl(*ask), TIER_SECONDS, (Failed,))

    def remove(self) -> None:
        """Uninstall everything, and delete the namespace, which only we use."""
        self.delete_user_pods()
        for release in ("binder", "binder-egress"):
            self.helm("uninstall", release, "--ignore-not-found", "--wait")
        self.kubectl("delete", "namespace", self.namespace, f"--timeout={POD_SECONDS}s")

    @property
    def as_reconciler(self) -> str:
        """kubectl's options to act as the reconciler, which alone may change our label and annotation."""
        return f"--as=system:serviceaccount:{self.namespace}:binder-egress-reconciler"

    def scale(self, component: str, replicas: int) -> None:
        """Scale the verifier, the reconciler, the proxy or Redis, and wait until that is done."""
        deployment = f"deployment/binder-egress-{component}"
        self.kubectl("scale", deployment, f"--replicas={replicas}")
        self._await_pods(component, replicas)

    def restart(self, component: str) -> None:
        """Run `kubectl rollout restart` for one of them, and wait until none of its earlier pods is left."""
        self.kubectl("rollout", "restart", f"deployment/binder-egress-{component}")
        self._await_pods(component)

    def _await_pods(self, component: str, replicas: int = 1) -> None:
        self.rollout(f"deployment/binder-egress-{component}")

        def are_gone() -> bool:
            return not any("deletionTimestamp" in pod["metadata"] or not replicas for pod in self.pods_of(component))

        eventually(are_gone, POD_SECONDS, f"pods of {component} do not go")
        if component == "verifier" and replicas:
            self.await_address("binder-egress", 8081, "/healthz")

    def hurry_kubelet(self, component: str) -> None:
        """Bring a changed Secret into a component's pods now. The kubelet syncs a pod each minute, and when the pod changes."""
        self.kubectl(
            "annotate", "pod", "-l", f"app.kubernetes.io/component={component}", f"tests/changed={time.time_ns()}", "--overwrite"
        )

    # -- addresses

    def url(self, service: str, port: int) -> str:
        """The address at which a Service's port can be reached from here."""
        if os.environ.get("CLUSTER_TARGETS"):
            return f"http://{self.cluster_ip(service)}:{port}"
        known = self._forwards.get((service, port))
        if known and known[1].poll() is None:
            return known[0]
        local = free_port()
        context = ["--context", self.context] if self.context else []
        process = subprocess.Popen(
            ["kubectl", *context, "-n", self.namespace, "port-forward", f"service/{service}", f"{local}:{port}"],
            stdout=subprocess.DEVNULL,
        )

        def is_open() -> bool:
            if process.poll() is not None:
                raise requests.ConnectionError(f"the port-forward to {service} has ended")
            with socket.create_connection(("127.0.0.1", local), timeout=1):
                return True

        eventually(is_open, ANSWER_SECONDS, f"no port-forward to {service}", no_answer=(ConnectionRefusedError,))
        self._forwards[service, port] = (f"http://127.0.0.1:{local}", process)
        return self._forwards[service, port][0]

    def cluster_ip(self, service: str) -> str:
        """The first ClusterIP of a Service."""
        return self.get("service", service)["spec"]["clusterIP"]

    def close(self) -> None:
        """End the port-forwards."""
        for _, process in self._forwards.values():
            process.terminate()
            process.wait()

    @property
    def verifier(self) -> str:
        """The verifier's public address, with its path."""
        return self.url("binder-egress", 80) + "/egress"

    def await_address(self, service: str, port: int, path: str) -> None:
        """Wait until a Service and the pods behind it answer: pods may be ready before every node's packet filter knows them."""

        def ask() -> None:
            # One second to connect: a connection opened while a node learns of a Service's first pod may never be answered.
            answer = requests.get(self.url(service, port) + path, timeout=(1, 5))
            if answer.status_code >= requests.codes.server_error:
                raise requests.ConnectionError(f"{service}: {answer.status_code} {answer.text}")

        patiently(ask, HUB_SECONDS)

    # -- what people do

    def launch(self, spec: str = "fake/owner/repo/main", *args: Any, **options: Any) -> Launched:
        """Launch with arguments of `stream`, as a browser's page does, and wait for the last event.

        Raises:
            Failed: the launch failed; no launch ever should.
        """
        events = []
        for event in self.stream(spec, *args, **options):
            events.append(event)
            if event.get("phase") == "failed":
                raise Failed(f"launch of {spec}: {json.dumps(events[-5:], indent=1)}")
            if event.get("phase") == "ready":
                return Launched(events)
        raise Failed(f"launch of {spec} ended without ready: {json.dumps(events[-5:], indent=1)}")

    def launch_verified(self, spec: str = "fake/owner/repo/main") -> str:
        """Launch with a pass, and wait for the tier. Returns the user.

        On a busy machine, BinderHub's hook may get no answer within its second. If BinderHub's log says so, launch again.
        """
        for _ in range(HOOK_TRIES):
            user = self.launch(spec, self.get_pass()).user
            if not re.search(NO_ANSWER.format(re.escape(user)), self.kubectl("logs", "deployment/binder")):
                self.await_tier(user, "verified")
                return user
            self.kubectl("delete", "pod", self.pod_name(user), "--grace-period=0", "--force")
        raise Failed(f"BinderHub's hook got no answer in time, {HOOK_TRIES} times")

    def stream(
        self,
        spec: str,
        token: str | None = None,
        client: str = CLIENT,
        timeout: float = LAUNCH_SECONDS,
        at: str = "",
    ) -> Iterator[dict[str, Any]]:
        """The events of a launch with a pass, perhaps at another address than BinderHub's."""
        headers = {"Accept": "text/event-stream", "X-Forwarded-For": client, "X-Real-IP": client}
        answer = requests.get(
            f"{at or self.url('binder', 80)}/build/{spec}",
            params={"egress_token": token} if token else None,
            headers=headers,
            stream=True,
            timeout=timeout,
        )
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith(b"data:"):
                yield json.loads(line[5:])

    def solve(self, purpose: str = "launch", client: str = CLIENT) -> str:
        """Get a challenge and solve it. Returns an ALTCHA payload."""
        answer = requests.get(
            f"{self.verifier}/challenge", params={"purpose": purpose}, headers=_from(client), timeout=ANSWER_SECONDS
        )
        answer.raise_for_status()
        challenge = altcha.Challenge.from_dict(answer.json()["providers"][0]["challenge"])
        solution = altcha.solve_challenge(challenge)
        assert solution
        return altcha.Payload(challenge, solution).to_base64()

    def get_pass(self, client: str = CLIENT) -> str:
        """Solve a challenge and exchange the solution for a pass."""
        body = {"provider": "altcha", "solution": self.solve("launch", client)}
        answer = requests.post(f"{self.verifier}/passes", json=body, headers=_from(client), timeout=ANSWER_SECONDS)
        if answer.status_code != 201:
            raise Failed(answer.text)
        return answer.json()["token"]

    def unlock(self, user: str, client: str = CLIENT, **body: str) -> requests.Response:
        """Unlock a running server, with a solution unless `body` has something else."""

        answers: list[requests.Response] = []

        def is_published() -> bool:
            # A busy reconciler may publish a server only after it is ready.
            sent = body or {"provider": "altcha", "solution": self.solve("unlock", client)}
            address = f"{self.verifier}/servers/{user}/"
            answers.append(requests.post(address, json=sent, headers=_from(client), timeout=ANSWER_SECONDS))
            return answers[-1].status_code != requests.codes.not_found

        eventually(is_published, TIER_SECONDS, f"the server of {user} is not published", no_answer=())
        return answers[-1]

    def unlock_well(self, user: str, **body: str) -> None:
        """Unlock a running server, as `unlock`, and wait until its pod has the tier."""
        answer = self.unlock(user, **body)
        if (answer.status_code, answer.json().get("state")) not in UNLOCKED:
            raise Failed(answer.text)
        self.await_tier(user, "verified")

    def hook(self) -> Callable[..., requests.Response]:
        """A function that sends `POST /api/launches` as BinderHub's hook does. Its arguments are the body's fields."""
        address, headers = self.url("binder-egress", 8081), {"Authorization": f"Bearer {self.secret('api-token')}"}
        return lambda **body: requests.post(f"{address}/api/launches", json=body, headers=headers, timeout=ANSWER_SECONDS)

    def secret(self, key: str) -> str:
        """A value of the chart's Secret."""
        return base64.b64decode(self.get("secret", "binder-egress")["data"][key]).decode().strip()

    def metrics(self) -> dict[str, float]:
        """The metrics of one replica of the verifier: a sample's name with its labels → its value."""
        text = requests.get(f"{self.url('binder-egress', 8081)}/metrics", timeout=ANSWER_SECONDS).text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    # -- results

    def pods(self, user: str | None = None) -> list[dict[str, Any]]:
        """The user pods, or one user's, or the one of a named server: `user/server`."""
        found = self.get("pods", "-l", USER_PODS)["items"]
        return [pod for pod in found if user in (None, *_names(pod["metadata"]["annotations"]))]

    def pod(self, user: str) -> dict[str, Any]:
        """The pod of a user's server."""
        found = self.pods(user)
        if len(found) != 1:
            raise Failed(f"{len(found)} pods of {user}")
        return found[0]

    def pod_name(self, user: str) -> str:
        """The name of a user's pod."""
        return self.pod(user)["metadata"]["name"]

    def pods_of(self, component: str) -> list[dict[str, Any]]:
        """The pods of the verifier, the reconciler, the proxy or Redis, also those that are ending."""
        return self.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]

    def grant(self, user: str) -> dict[str, Any]:
        """The grant that a user's pod carries."""
        return json.loads(self.pod(user)["metadata"]["annotations"]["binder-egress/grant"])

    def page(self, user: str) -> dict[str, Any]:
        """The page of a user's server, as JSON."""
        headers = {"Accept": "application/json"}
        return requests.get(f"{self.verifier}/servers/{user}", headers=headers, timeout=ANSWER_SECONDS).json()

    def page_address(self, user: str) -> str:
        """The address of a server's page, as its programs know it."""
        return self.inside(user, "printenv", "BINDER_EGRESS_URL").strip()

    def tier(self, user: str) -> str | None:
        """The tier label of a user's pod."""
        return self.pod(user)["metadata"]["labels"].get(LABEL)

    def await_tier(self, user: str, tier: str | None, seconds: float = TIER_SECONDS) -> None:
        """Wait until a user's pod has a tier (None: no label)."""
        eventually(lambda: self.tier(user) == tier, seconds, lambda: f"pod of {user} has tier {self.tier(user)}, not {tier}")

    def battery(self, user: str, targets: dict[str, str]) -> dict[str, bool]:
        """The targets, name → target of `probe battery`, that a user's pod reaches, by packets sent from inside it."""
        return self.battery_in(self.pod_name(user), targets)

    def battery_in(self, pod: str, targets: dict[str, str], *options: str) -> dict[str, bool]:
        """The targets that a pod's first container reaches. `options` are for `probe battery`."""
        text = self.kubectl("exec", "-i", pod, "--", "probe", "battery", *options, "-", stdin=lines(targets))
        return {name: verdict["reached"] for name, verdict in json.loads(text).items()}

    def delete_user_pods(self) -> None:
        """Remove all user pods behind JupyterHub's back, which notices by itself."""
        if asked := api.path_of(self.namespace, ("pods", "-l", USER_PODS)):

            def are_gone() -> bool:
                if not self.pods():
                    return True
                try:
                    api.ask("DELETE", *asked, {"gracePeriodSeconds": 0})
                except api.Unavailable as error:
                    raise Failed(str(error)) from None
                return False

            eventually(are_gone, POD_SECONDS, "user pods do not go")
            return
        self.kubectl("delete", "pods", "-l", USER_PODS, "--grace-period=0", "--force", "--ignore-not-found")

    def targets(self) -> dict[str, str]:
        """The targets that a user pod can try: name → target.

        Outside the local cluster, BINDER_EGRESS_TARGETS names a file like the one that ci/cluster/up writes.
        """
        file = os.environ.get("CLUSTER_TARGETS") or os.environ.get("BINDER_EGRESS_TARGETS")
        if not file:
            raise Failed("say what is the internet: set BINDER_EGRESS_TARGETS to a file like the one in CONTRIBUTING.md")
        known = json.loads(Path(file).read_text())
        found = {
            "hub": f"tcp://{self.cluster_ip('hub')}:8081",
            "DNS": f"dns://{known['cluster_dns'][0]}:53/kubernetes.default.svc.cluster.local",
            "public HTTP": known["public_http"],
            "public TCP": known["public_tcp"],
            "public UDP": known["public_udp"],
            "private range": f"http://{known['private']}",
            "metadata": f"http://{known['metadata']}",
        }
        if known.get("public6_http"):
            found |= {
                "public IPv6": known["public6_http"],
                "private IPv6": f"http://[{known['private6']}]",
                "metadata IPv6": f"http://[{known['metadata6']}]",
            }
        return found


def restart_component(name: str) -> None:
    """Kill a component of the local cluster. The node starts it again."""
    subprocess.run([str(TOP / "ci/cluster/restart"), name], check=True, capture_output=True, timeout=COMMAND_SECONDS)


def signal_component(name: str, signal: str) -> None:
    """Send a signal to a component of the local cluster's node with users' servers: STOP makes it hang, and CONT lets it go on."""
    on_node('on_node kill "-$1" "$(on_node cat "$node_state/pid/$2")"', signal, name)


def on_node(script: str, *arguments: str) -> None:
    """Run a shell script with the functions of ci/cluster/env.sh; its `on_node` runs a command on the node of users' servers."""
    command = ["bash", "-euc", f'. "$0"; {script}', str(TOP / "ci/cluster/env.sh"), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_SECONDS)


def _names(annotations: dict[str, str]) -> tuple[str, str]:
    user = annotations.get("hub.jupyter.org/username", "")
    return user, f"{user}/{annotations.get('hub.jupyter.org/servername', '')}"


def _from(client: str) -> dict[str, str]:
    return {"X-Forwarded-For": client}


def lines(targets: dict[str, str]) -> str:
    """Targets as `probe battery` reads them."""
    return "".join(f"{name}={target}\n" for name, target in targets.items())
