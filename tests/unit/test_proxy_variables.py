"""The ConfigMap with the variables of the egress proxy, against an API server that fails."""

import pytest

from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.reconciler.proxy_variables import RETRY_SECONDS, WRITE_SECONDS, ProxyVariables
from tests.support.api_server import ApiServer

SERVICE = "/api/v1/namespaces/binder/services/gate-proxy"
VARIABLES = "/api/v1/namespaces/binder/configmaps/gate-proxy-variables"


@pytest.fixture
def variables(api: ApiServer) -> ProxyVariables:
    return ProxyVariables("binder", "gate-proxy", api.client)


@pytest.mark.parametrize(
    ("address", "written"), [("10.43.9.9", "http://10.43.9.9:3128"), ("fd43::77", "http://[fd43::77]:3128")], ids=["IPv4", "IPv6"]
)
def test_address_of_the_service_is_written(api, variables, address, written):
    api.answer = lambda *_: (200, {"spec": {"clusterIP": address}})
    variables.write()
    assert api.asked == [("GET", SERVICE, {}), ("PATCH", VARIABLES, {})]
    assert api.bodies == [{"data": {"address": written, "node": "1"}}]


@pytest.mark.parametrize("missing", ["GET", "PATCH"])
def test_failure_is_said_once_and_tried_again(api, variables, caplog, missing):
    """The Service, or the ConfigMap, is not there yet, or the reconciler may not touch it."""
    statuses = [404, 404, 403, 200, 404]

    def answer(method, *_):
        return (statuses.pop(0) if method == missing else 200), {"spec": {"clusterIP": "10.43.9.9"}}

    api.answer = answer
    with pytest.raises(ApiServerUnavailable, match="404"):
        variables.write()
    waits = [variables.attempts.attempt() for _ in range(4)]
    assert waits == [RETRY_SECONDS, RETRY_SECONDS, WRITE_SECONDS, RETRY_SECONDS]
    said = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(": ")[2][:3] for line in said] == ["404", "403", "404"]
