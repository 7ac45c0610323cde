"""A real Kubernetes API server with etcd, on loopback and without a node: it keeps objects, and nobody runs them."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.support.certificates import certificate
from tests.support.ports import free_port
from tests.support.waiting import eventually

ADMIN = "admin"
"""The user who may do everything."""

START_SECONDS = 120
"""The longest start. On a quiet machine it takes five seconds."""


def below(group: str, kind: str, is_namespaced: bool = True) -> str:
    """The path of a kind's objects, in the namespace `binder` if they are in any. The group has its version."""
    plural = (f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s").lower()
    return f"/apis/{group}/{'namespaces/binder/' if is_namespaced else ''}{plural}"


class ControlPlane:
    """etcd and kube-apiserver. Each user's token is the user's name.

    Args:
        kubeall: the program (`ci/tools`), beside kubectl and helm.
        folder: for keys, logs and etcd's data.
        users: their names, beside `ADMIN`. What they may do is up to RBAC.

    Attributes:
        url: the API server's address; `port` is the port in it.
        authority: the file with its certificate.
    """

    def __init__(self, kubeall: Path, folder: Path, *users: str):
        self._tools = kubeall.parent
        self.port, etcd, peer = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.authority, self._audit_log = folder / "server.crt", folder / "audit.log"
        certificate(folder, "server")
        rows = [f"{ADMIN},{ADMIN},{ADMIN},system:masters", *(f"{user},{user},{user}" for user in users)]
        (folder / "tokens").write_text("\n".join(rows) + "\n")
        rules = [{"level": "Metadata", "users": list(users)}] if users else []
        audit = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"]}
        (folder / "audit.yaml").write_text(json.dumps({**audit, "rules": [*rules, {"level": "None"}]}))
        key = folder / "server.key"
        client, own = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
        commands = [
            [
                "etcd", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error", f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}", f"--listen-peer-urls={own}", f"--initial-advertise-peer-urls={own}",
                f"--initial-cluster=default={own}",
            ],
            # An address of a node: the Service `kubernetes` must have no address on loopback.
            [
                "kube-apiserver", f"--etcd-servers={client}", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",
                f"--secure-port={self.port}", f"--tls-cert-file={self.authority}", f"--tls-private-key-file={key}",
                f"--token-auth-file={folder / 'tokens'}", f"--service-account-key-file={self.authority}",
                f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.43.0.0/16",
                "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--allow-privileged",
                f"--audit-policy-file={folder / 'audit.yaml'}", f"--audit-log-path={self._audit_log}",
            ],
        ]  # fmt: skip
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._processes = [subprocess.Popen([kubeall, *command], stdout=log, stderr=log) for command in commands]
        self._session = requests.Session()
        self._session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=32))
        try:
            eventually(self._is_ready, START_SECONDS, "the API server is ready")
        except AssertionError:
            self.stop()
            raise

    def _is_ready(self) -> bool:
        assert not any(process.poll() for process in self._processes), self._log.read_text()[-2000:]
        return self.ask("GET", "/readyz").ok

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, kind: str = "application/json", user: str = ADMIN
    ) -> requests.Response:
        """One request, by a user."""
        return self._session.request(
            method,
            self.url + path,
            data=json.dumps(body) if body else None,
            headers={"Authorization": f"Bearer {user}", "Content-Type": kind},
            verify=str(self.authority),
            timeout=60,
        )

    def add(self, path: str, body: dict[str, Any]) -> str:
        """Create an object below a path, with its status. Returns the object's path.

        Raises:
            AssertionError: the API server refuses it.
        """
        answer = self.ask("POST", path, body)
        assert answer.status_code == 201, answer.text
        return f"{path}/{answer.json()['metadata']['name']}"

    def define(self, group: str, kind: str, is_namespaced: bool = True) -> None:
        """Make a kind, whose objects may have any fields, and wait until the API server serves it."""
        name, _, version = group.partition("/")
        plural = below(group, kind).rpartition("/")[2]
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        spec = {
            "group": name,
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced" if is_namespaced else "Cluster",
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        }
        # For names that end with k8s.io.
        approved = {"api-approved.kubernetes.io": "https://example.org"}
        definition = {"metadata": {"name": f"{plural}.{name}", "annotations": approved}, "spec": spec}
        self.add("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        eventually(lambda: self.ask("GET", below(group, kind, is_namespaced)).ok, what=kind)

    @contextmanager
    def kept(self, objects: list[tuple[str, dict[str, Any]]]) -> Iterator[None]:
        """Objects that exist meanwhile: the path of each, and the object."""
        made: list[str] = []
        try:
            for path, body in objects:
                made.append(self.add(path, body))
            yield
        finally:
            for path in reversed(made):
                assert self.ask("DELETE", f"{path}?gracePeriodSeconds=0&propagationPolicy=Background").ok, path

    def kubeconfig(self, file: Path, user: str) -> None:
        """Write a user's kubeconfig."""
        here = {"name": "here", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "here", "clusters": [here]}
        config["users"] = [{"name": "me", "user": {"token": user}}]
        config["contexts"] = [{"name": "here", "context": {"cluster": "here", "user": "me"}}]
        file.write_text(yaml.safe_dump(config))

    def run(self, program: str, *args: str, namespace: str = "binder", stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl or helm in a namespace, as `ADMIN`."""
        folder = self.authority.parent
        self.kubeconfig(folder / "kubeconfig", ADMIN)
        environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}
        command = [self._tools / program, "--namespace", namespace, *args]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)

    def asked(self, user: str) -> list[dict[str, Any]]:
        """The lines of the audit log about a user's requests: verb, `requestURI`, and the object. `ADMIN` has none."""
        lines = map(json.loads, self._audit_log.read_text().splitlines())
        return [line for line in lines if line["user"]["username"] == user]

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait()
