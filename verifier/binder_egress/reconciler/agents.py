"""The agents: which address is on which node. An agent's reports count only for pods on its own node (D-335)."""

from collections.abc import Mapping

from kubernetes import client

from .. import kubernetes_api
from ..store.detections import ReconcilerReports
from .attempts import Attempts

LIST_SECONDS = 20.0
"""Seconds between two lists. There is one pod for each node, and a new pod is known before its second round."""

RETRY_SECONDS = 5.0
"""Seconds until the next attempt after one that failed."""


class Agents:
    """Lists the agents' pods, and publishes their addresses for the receiver, which accepts agents' reports only from them.

    Args:
        namespace: the namespace that they are in.
        labels: the labels of their pods.
        store: Redis.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, labels: Mapping[str, str], store: ReconcilerReports, api: client.ApiClient | None = None):
        self._api = api or kubernetes_api.in_cluster_client()
        self._path, self._store = f"/api/v1/namespaces/{namespace}/pods", store
        self._selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        self._nodes: dict[str, str] | None = None
        self.attempts = Attempts(self.publish, LIST_SECONDS, RETRY_SECONDS, "new agents are not known: %s")

    @property
    def is_listed(self) -> bool:
        """Whether the pods were listed at least once. Before that, there may be agents that `node_of` does not know."""
        return self._nodes is not None

    def node_of(self, address: str) -> str | None:
        """The node of the agent with an address, from the list of the pods; None: no agent has it."""
        return (self._nodes or {}).get(address)

    def nodes(self) -> set[str] | None:
        """The nodes that have an agent; None: the pods were not listed yet."""
        return None if self._nodes is None else set(self._nodes.values())

    def publish(self) -> None:
        """List the pods, and publish their addresses.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
            StoreUnavailable: Redis does not answer.
        """
        pods = kubernetes_api.read(self._api, "GET", self._path, query={"labelSelector": self._selector})["items"]
        nodes = {
            address["ip"]: pod["spec"]["nodeName"]
            for pod in pods
            # The address of a pod that has ended may be another pod's by now, and a pod on its node's network shares it.
            if pod["spec"].get("nodeName") and not pod["spec"].get("hostNetwork") and "deletionTimestamp" not in pod["metadata"]
            if pod.get("status", {}).get("phase") == "Running"
            for address in pod["status"].get("podIPs") or []
        }
        self._nodes = nodes
        self._store.publish_agents(nodes)
