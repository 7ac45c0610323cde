"""The ConfigMap with the variables through which user pods find the egress proxy. Pods have no DNS, and Helm does not know the
address that Kubernetes chooses for a Service (D-255)."""

from kubernetes import client

from .. import kubernetes_api
from .attempts import Attempts

PORT = 3128
"""The port of the proxy's Service."""

WRITE_SECONDS = 60.0
"""Seconds after which the keys are written again, because somebody may have removed them or recreated the Service. That costs two
requests, and changes nothing if the ConfigMap has the keys."""

RETRY_SECONDS = 2.0
"""Seconds until the next attempt after one that failed."""


class ProxyVariables:
    """Writes the address of the proxy's Service into the ConfigMap that user pods refer to. Helm creates it without keys.

    Args:
        namespace: the namespace of both.
        service: the name of the Service; with `-variables` appended, it is the ConfigMap's.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, service: str, api: client.ApiClient | None = None):
        self._api = api or kubernetes_api.in_cluster_client()
        self._path, self._service = f"/api/v1/namespaces/{namespace}", service
        failing = "new pods may lack the variables of the egress proxy: %s"
        self.attempts = Attempts(self.write, WRITE_SECONDS, RETRY_SECONDS, failing)

    def write(self) -> None:
        """Write the keys. Pods that start afterwards have the variables.

        Raises:
            ApiServerUnavailable: the API server does not answer or refuses, or there is no Service or no ConfigMap.
        """
        spec = kubernetes_api.read(self._api, "GET", f"{self._path}/services/{self._service}")["spec"]
        host = f"[{spec['clusterIP']}]" if ":" in spec["clusterIP"] else spec["clusterIP"]
        kubernetes_api.read(
            self._api,
            "PATCH",
            f"{self._path}/configmaps/{self._service}-variables",
            body={"data": {"address": f"http://{host}:{PORT}", "node": "1"}},
            content_type=kubernetes_api.MERGE_PATCH,
        )
