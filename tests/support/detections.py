"""Lines as detectors write them, with the pod that they are about, and a site that receives reports."""

import json
from datetime import UTC, datetime

from binder_egress.detections import reporters
from binder_egress.settings import ReceiverSettings, load
from binder_egress.web.app import create_services
from binder_egress.web.receiver import create_receiver_app, create_receiver_services
from tests.support.apps import internal_client, make_settings

NAMESPACE = "default"


def stamp(at: float) -> str:
    """RFC 3339."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def killed(pod="jupyter-alice--", uid="uid-1", at=1000.0, matched="xmrig", namespace=NAMESPACE, **more):
    """cryptnono's execwhacker killed a process: structlog's JSON, with the labels that the container runtime knows."""
    names = {"container.name": "notebook", "pod.name": pod, "pod.namespace": namespace, "pod.uid": uid}
    line = {
        "pid": 4711, "cmdline": f"./{matched} --url pool.example:3333", "matched": matched, "source": "execwhacker.bpf",
        "container_type": "cri", "labels": {f"io.kubernetes.{name}": text for name, text in names.items()},
        "image": "registry.example/binder-owner-name:abc", "event": "Killed process", "action": "killed", "level": "info",
        "timestamp": stamp(at),
    }  # fmt: skip
    return json.dumps(line | more)


def killed_by_flowkiller(pod="jupyter-alice--", uid="uid-1", at=1000.0, **more):
    """cryptnono's flowkiller killed a process; the container is an object of its own there."""
    line = json.loads(killed(pod, uid, at))
    container = {name: line.pop(name) for name in ("container_type", "labels", "image")}
    for name in ("matched", "source"):
        del line[name]
    return json.dumps(line | {"container": container, "cmdline": ["python", "scan.py"], "connections": []} | more)


def deleted(pod="jupyter-alice--", **more):
    """minesweeper deletes a pod."""
    process = {"pid": 7, "name": "kdevtmpfsi", "cmd": "/tmp/kdevtmpfsi", "suspicious": True, "should_terminate": False}
    inspected = {"suspicious": True, "should_terminate": "cpu and name", "procs": [process]}
    environment = {"BINDER_CLIENT_IP": "198.51.100.7", "BINDER_REF_URL": "https://github.com/owner/name/tree/abc"}
    return json.dumps({"action": "delete", "pod": pod, "env": environment, "minesweeper": inspected} | more)


def falco(pod="jupyter-alice--", uid="uid-1", at=1000.0, rule="Detect crypto miners", **output_fields):
    """An alert of Falco, with `append_output` for the two fields of the pod."""
    told = {
        "container.id": "8cff1c1639fc", "evt.time": int(at * 1e9), "k8s.ns.name": NAMESPACE, "k8s.pod.name": pod,
        "k8s.pod.uid": uid, "proc.cmdline": "xmrig -o pool", "proc.exepath": "/tmp/xmrig", "proc.name": "xmrig",
    }  # fmt: skip
    return json.dumps(
        {
            "hostname": "node-1", "output": "Miner (proc.cmdline=xmrig -o pool)", "output_fields": told | output_fields,
            "priority": "Critical", "rule": rule, "source": "syscall", "tags": ["mitre_impact"],
            "time": stamp(at).replace("Z", ".123456789Z") if at == int(at) else stamp(at),
        }
    )  # fmt: skip


class Site:
    """A receiver with sources, the file of their tokens' hashes, and the verifier of the same values."""

    def __init__(self, redis_server, store, folder, sources=("cryptnono", "falco")):
        made = {source: reporters.create() for source in sources}
        self.tokens = {source: token for source, (token, _) in made.items()}
        self.file = folder / "tokens.json"
        self.file.write_text(json.dumps({source: hashed for source, (_, hashed) in made.items()}))
        values = {"detections": {source: {} for source in sources}}
        settings = load(ReceiverSettings, redis_url=redis_server.url, reporters_file=str(self.file), **values)
        self.services = create_receiver_services(settings, store)
        self.receiver = create_receiver_app(self.services).test_client()
        self.internal = internal_client(create_services(make_settings(redis_server, **values), store))

    def send(self, *lines, source="cryptnono", **headers):
        """Send lines with the token of a source."""
        sent = {"Authorization": f"Bearer {self.tokens[source]}"} | headers
        return self.receiver.post("/api/detections", data="\n".join(lines), headers=sent, content_type="text/plain")
