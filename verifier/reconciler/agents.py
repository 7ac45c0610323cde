"""The agents: which address is on which node. An agent's reports count for pods of its own node alone (D-335)."""

import logging
import threading
from collections.abc import Mapping

from kubernetes import client

from .. import kubernetes_api
from ..kubernetes_api import ApiServerUnavailable
from ..store.errors import StoreUnavailable
from ..store.store import Store

log = logging.getLogger("binder-egress")

LIST_SECONDS = 20.0
"""Seconds between two lists. There is a pod for each node, and a new one is known before its second round."""

RETRY_SECONDS = 5.0
"""Seconds between attempts that fail."""


class Agents:
    """Lists the agents' pods, and publishes their addresses for the receiver, which takes reports from no others.

    Args:
        namespace: where they are.
        labels: the labels of their pods.
        store: Redis.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, labels: Mapping[str, str], store: Store, api: client.CoreV1Api | None = None):
        self._api = api or client.CoreV1Api(kubernetes_api.in_cluster_client())
        self._namespace, self._store = namespace, store
        self._selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        self._nodes: dict[str, str] | None = None
        self._said = ""

    @property
    def is_listed(self) -> bool:
        """Whether the pods were listed at least once. Before that an agent may exist that `node_of` does not know."""
        return self._nodes is not None

    def node_of(self, address: str) -> str | None:
        """The node of the agent with an address; None: no agent has it. Read from the pods, and not from what was published."""
        return (self._nodes or {}).get(address)

    def publish(self) -> None:
        """List the pods, and publish.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses.
            StoreUnavailable: Redis does not answer.
        """
        found = kubernetes_api.read(self._api.list_namespaced_pod, self._namespace, label_selector=self._selector)["items"]
        nodes = {
            address["ip"]: pod["spec"]["nodeName"]
            for pod in found
            # One that has ended may have left its address to another, and one on the network of its node shares it.
            if pod["spec"].get("nodeName") and not pod["spec"].get("hostNetwork") and "deletionTimestamp" not in pod["metadata"]
            if pod.get("status", {}).get("phase") == "Running"
            for address in pod["status"].get("podIPs") or []
        }
        self._nodes = nodes
        self._store.publish_agents(nodes)

    def run(self, stopped: threading.Event) -> None:
        """Publish again and again, until `stopped`."""
        while not stopped.wait(self.attempt()):
            pass

    def attempt(self) -> float:
        """Publish once, and log a failure that is new. Returns the seconds until the next attempt."""
        try:
            self.publish()
            self._said = ""
            return LIST_SECONDS
        except (ApiServerUnavailable, StoreUnavailable) as error:
            if str(error) != self._said:
                log.warning("new agents are not known: %s", error)
            self._said = str(error)
        except Exception:
            log.exception("fault while listing agents")
        return RETRY_SECONDS
