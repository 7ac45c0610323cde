"""The gate check: is the gate shut? The reconciler runs it every ten seconds alongside its own work.

It judges the namespace's NetworkPolicies and reads the canary, publishes the findings in Redis for the metrics, and logs what
changed and whether Redis is nearly full. `doctor` uses the same functions.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from email.utils import parsedate_to_datetime

from kubernetes import client

from .. import kubernetes_api
from ..kubernetes_api import ApiServerUnavailable
from ..model.labels import GATECHECK_LABEL, JSON, LabelSet
from ..model.records import MOST_NODES, Node
from ..settings import ReconcilerSettings
from ..store.errors import StoreUnavailable
from ..store.health import NEARLY_FULL
from ..store.store import ReconcilerStore
from .netpol import OTHER_KINDS, Judgement, Labels, judge, usual_labels
from .nodes import SHUT, seen_by_proxy

log = logging.getLogger("binder-egress")

PERIOD_SECONDS = 10.0
"""Seconds between two checks. A check is two small requests to the API server."""

MAX_LABEL_SETS = 50
"""The most sets of labels that are judged. JupyterHub makes one for each profile."""


@dataclass(frozen=True)
class Canary:
    """The canary's state, and its last results.

    Attributes:
        state: `running`, `missing` (there is no such pod), `ended` (for good, which Helm does not repair), or `starting` (no result
            yet, or the pod is not running).
        targets: each target that it could try → whether it was shut.
        pod: the pod's name.
        proxy: what the egress proxy sees of it (`probe.seen_by_proxy`); empty without a proxy.
    """

    state: str
    targets: dict[str, bool] = field(default_factory=dict)
    pod: str = ""
    proxy: str = ""

    @property
    def open(self) -> list[str]:
        """The targets that the canary reached, although they must be shut."""
        return sorted(name for name, shut in self.targets.items() if not shut)


class Namespace:
    """Reads the release's namespace: NetworkPolicies, pods, the canary. Every method may raise `ApiServerUnavailable`.

    Args:
        namespace: its name.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, api: client.ApiClient | None = None):
        self._api = api or kubernetes_api.in_cluster_client()
        self._namespace = namespace

    def policies(self) -> list[JSON]:
        """All NetworkPolicies."""
        path = f"/apis/networking.k8s.io/v1/namespaces/{self._namespace}/networkpolicies"
        return list(kubernetes_api.read(self._api, "GET", path)["items"])

    def other_kinds(self) -> list[str]:
        """The API groups of this cluster whose policies cannot be judged (`OTHER_KINDS`)."""
        return sorted({group["name"] for group in kubernetes_api.read(self._api, "GET", "/apis/")["groups"]} & set(OTHER_KINDS))

    def pods(self, selector: str, most: int = 100, fields: str = "") -> list[JSON]:
        """The pods that selectors match.

        Args:
            selector: the label selector.
            most: the maximum number of pods.
            fields: the field selector.
        """
        query = {"labelSelector": selector, "limit": most, "fieldSelector": fields}
        return list(kubernetes_api.read(self._api, "GET", f"/api/v1/namespaces/{self._namespace}/pods", query=query)["items"])

    def cilium_endpoints(self, selector: str, most: int) -> list[JSON]:
        """What Cilium knows of pods, with their identities. Arguments as for `pods`."""
        path = f"/apis/cilium.io/v2/namespaces/{self._namespace}/ciliumendpoints"
        return list(kubernetes_api.read(self._api, "GET", path, query={"labelSelector": selector, "limit": most})["items"])

    def config_map(self, name: str) -> dict[str, str]:
        """The data of a ConfigMap."""
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{name}"
        return dict(kubernetes_api.read(self._api, "GET", path).get("data") or {})

    def canary(self) -> Canary:
        """The canary."""
        return canary_of(self.pods(f"{GATECHECK_LABEL}=canary"))

    def clock(self) -> float:
        """How far the API server's clock is ahead of ours, in whole seconds."""
        answer = kubernetes_api.call(self._api, "GET", "/apis/")
        try:
            return parsedate_to_datetime(answer.headers["Date"]).timestamp() - int(time.time())
        except (KeyError, TypeError, ValueError):
            raise ApiServerUnavailable("its answers have no date") from None


def canary_of(pods: list[JSON]) -> Canary:
    """The canary, read from its pod. Its container ends with a message after each change in its results, and is started again.

    Args:
        pods: the pods with the canary's label, as JSON.
    """
    there = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    alive = [pod for pod in there if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    if not there:
        return Canary("missing")
    pod = max(alive or there, key=lambda pod: pod["metadata"]["creationTimestamp"])
    name = pod["metadata"]["name"]
    if not alive:
        return Canary("ended", {}, name)
    for status in pod["status"].get("containerStatuses") or []:
        # After each change the container is not running for a moment, and for longer after many changes.
        between = status.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        if "waiting" in status.get("state", {}) and not between:
            continue
        for when in ("state", "lastState"):
            try:
                said = json.loads(status[when]["terminated"]["message"])
                targets = {str(target): got is False for target, got in said["reached"].items() if got is not None}
                return Canary("running", targets, name, str(said.get("proxy", "")))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return Canary("starting", {}, name)


@dataclass
class Findings:
    """The result of one check.

    Attributes:
        at: Unix time in seconds.
        judgement: the judgement of the NetworkPolicies; None if they could not be read.
        canary: the canary; None if it could not be read, or if there should be none.
        label_delay: the longest times that labels take to act on any node (`LabelDelays.worst`).
        nodes: what is known of each node (`nodes.Nodes.rows`); empty if no canary runs on each.
        ended: how many connections each node has ended, by tier (`reconciler.changed_tiers`).
        connections: the nodes on which the part runs that ends them; None: it is off, or could not be read.
        unread: the part that could not be read (`policies`, `canary` or `connections`), and the reason.
    """

    at: float
    judgement: Judgement | None = None
    canary: Canary | None = None
    label_delay: dict[str, float] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    ended: dict[str, dict[str, int]] = field(default_factory=dict)
    connections: list[str] | None = None
    unread: dict[str, str] = field(default_factory=dict)

    def dumps(self) -> str:
        """The findings as JSON, for Redis."""
        return json.dumps(asdict(self))


def check(settings: ReconcilerSettings, namespace: Namespace, label_sets: Iterable[LabelSet], now: float) -> Findings:
    """Read policies and canary, and judge them. Whatever cannot be read is in the findings; nothing is raised.

    Args:
        settings: the reconciler's settings.
        namespace: the release's namespace.
        label_sets: the labels of the running user pods, each set once; empty if none are running.
        now: Unix time in seconds.
    """
    findings = Findings(now)
    pods: list[Labels] = [dict(labels) for labels in list(label_sets)[:MAX_LABEL_SETS]]
    try:
        findings.judgement = judge(namespace.policies(), settings.policies, pods or [usual_labels(settings.user_pod_labels)])
    except ApiServerUnavailable as error:
        findings.unread["policies"] = str(error)
    if settings.canary:
        try:
            findings.canary = namespace.canary()
        except ApiServerUnavailable as error:
            findings.unread["canary"] = str(error)
    if settings.connections:
        try:
            parts = namespace.pods("app.kubernetes.io/component=connections", MOST_NODES)
            findings.connections = sorted({pod["spec"]["nodeName"] for pod in parts if _works(pod, settings.connections)})
        except ApiServerUnavailable as error:
            findings.unread["connections"] = str(error)
    return findings


def _works(pod: JSON, name: str) -> bool:
    """Whether a pod of the DaemonSet with a name runs. A part that its kernel shows no connections ends again and again."""
    statuses = pod["status"].get("containerStatuses", [])
    return pod["metadata"]["name"].startswith(f"{name}-") and any("running" in status["state"] for status in statuses)


class Watcher:
    """Checks again and again, publishes the findings, and logs what changed.

    Args:
        settings: the reconciler's settings.
        namespace: the release's namespace.
        store: Redis.
        label_sets: returns the labels of the running user pods, each set once.
        label_delay, nodes, ended: return what the findings have of them.
    """

    def __init__(
        self,
        settings: ReconcilerSettings,
        namespace: Namespace,
        store: ReconcilerStore,
        label_sets: Callable[[], list[LabelSet]],
        label_delay: Callable[[], dict[str, float]] = dict,
        nodes: Callable[[], dict[str, Node]] = dict,
        ended: Callable[[], dict[str, dict[str, int]]] = dict,
    ):
        self._settings = settings
        self._namespace = namespace
        self._store = store
        self._label_sets = label_sets
        self._label_delay = label_delay
        self._nodes = nodes
        self._ended = ended
        self._last: dict[str, object] = {}  # the last finding logged about each topic

    def run(self) -> None:
        """Check every `PERIOD_SECONDS`, for ever. A fault here does not stop the reconciler."""
        while True:
            try:
                self.run_once()
            except Exception:
                log.exception("fault in the gate check")
            time.sleep(PERIOD_SECONDS)

    def run_once(self) -> Findings:
        """Check once, publish the findings, and log what changed since the last check."""
        findings = check(self._settings, self._namespace, self._label_sets(), time.time())
        findings.label_delay, findings.nodes, findings.ended = self._label_delay(), self._nodes(), self._ended()
        if canary := findings.canary:
            findings.canary = replace(canary, proxy=seen_by_proxy(canary.proxy, findings.nodes))
        try:
            # Before the findings are published: a full Redis refuses them.
            self._report_memory(self._store.memory_used())
            self._store.publish_gatecheck(findings.dumps())
        except StoreUnavailable as error:
            log.warning("%s", error)
        self._report(findings)
        return findings

    def _report(self, findings: Findings) -> None:
        reason = findings.unread.get("policies")
        self._log_change("unread policies", reason, "policies cannot be read, so nobody sees what they open", reason=reason)
        reason = findings.unread.get("canary")
        self._log_change("unread canary", reason, "the canary cannot be read, so nobody sees what it reaches", reason=reason)
        if (judgement := findings.judgement) is not None:
            missing, altered, by_tier = judgement.missing, judgement.altered, judgement.by_tier
            bypasses = [asdict(bypass) for bypass in judgement.bypasses]
            self._log_change("base", judgement.base_missing, "the base policy does not isolate user pods: the gate is open")
            self._log_change("missing", tuple(missing), "policies are missing", policies=missing)
            self._log_change("altered", tuple(altered), "policies are not as the chart renders them", policies=altered)
            self._log_change("by tier", tuple(by_tier), "policies of others select by our tier", policies=by_tier)
            self._log_change("bypasses", tuple(judgement.bypasses), "policies open the gate", rules=bypasses)
        for topic in [topic for topic in self._last if topic.startswith("node ") and topic[5:] not in findings.nodes]:
            del self._last[topic]
        for node, row in findings.nodes.items():
            state = row["state"] if row["user_pods"] and row["state"] != SHUT else ""
            self._log_change(f"node {node}", state, "a node with user pods is not shut", node=node, state=state, why=row["why"])
        if (canary := findings.canary) is not None:
            targets, pod = canary.open, canary.pod
            self._log_change("open", tuple(targets), "the canary reached what must be shut", targets=targets, pod=pod)
            self._log_change(
                "hidden", canary.proxy == "hidden", "the network hides pods from the egress proxy, which serves nobody"
            )
            self._log_change("canary", canary.state == "missing", "there is no canary: `helm upgrade` makes a new one")
            ended = canary.pod if canary.state == "ended" else ""
            self._log_change("ended", ended, "the canary has ended: delete its pod, then `helm upgrade` makes a new one", pod=ended)

    def _report_memory(self, used: float | None) -> None:
        if used is not None:
            self._log_change("redis", used > NEARLY_FULL, "Redis is nearly full: a full one accepts no grants")

    def _log_change(self, topic: str, finding: object, text: str, **fields: object) -> None:
        """Log a finding once, and once more when it ends. A false value means that there is no finding."""
        before = self._last.get(topic)
        self._last[topic] = finding
        if finding and finding != before:
            log.error(text, extra={"fields": fields})
        elif before and not finding:
            log.info("over: %s", text)
