"""Reads the cluster with an operator's kubeconfig. Every request is a GET, and none is for a Secret (D-485)."""

from kubernetes import client, config

from ..gatecheck.netpol import OTHER_KINDS
from ..kubernetes_api import ApiServerUnavailable, client_for, read
from .findings import JSON, Objects

PATHS: dict[str, tuple[str, dict[str, str]]] = {
    "NetworkPolicies": ("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies", {}),
    "user pods": ("/api/v1/namespaces/{namespace}/pods", {"labelSelector": "hub.jupyter.org/username", "limit": "500"}),
    # All of them, because the charts of BinderHub have no label in common.
    "BinderHub's Deployment": ("/apis/apps/v1/namespaces/{namespace}/deployments", {}),
    "Ingresses": ("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses", {}),
    "IngressClasses": ("/apis/networking.k8s.io/v1/ingressclasses", {}),
    "HTTPRoutes": ("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes", {}),
    "ResourceQuotas": ("/api/v1/namespaces/{namespace}/resourcequotas", {}),
    "namespace": ("/api/v1/namespaces", {"fieldSelector": "metadata.name={namespace}"}),
    "DaemonSets": ("/apis/apps/v1/daemonsets", {}),
    "Deployments": ("/apis/apps/v1/deployments", {}),
    "Services": ("/api/v1/services", {}),
    "nodes": ("/api/v1/nodes", {}),
    "Cilium's settings": ("/api/v1/configmaps", {"fieldSelector": "metadata.name=cilium-config"}),
    "addresses of the API server": (
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        {"fieldSelector": "metadata.name=kubernetes"},  # The API server writes this one; the label would be anybody's.
    ),
}
"""What is read: its name, the path, and the query."""

POLICIES = ("NetworkPolicy", "SecurityPolicy", "SecurityGroup", "EgressFirewall")
"""How the names of kinds end that may open something for user pods, in the groups of `OTHER_KINDS`."""


def connect(context: str | None) -> client.ApiClient:
    """A client with the rights of the operator's kubeconfig.

    Args:
        context: the kubeconfig's context; None: its current one.

    Raises:
        ConfigException: there is no usable kubeconfig, or no such context.
    """
    configuration = client.Configuration()
    try:
        config.load_kube_config(context=context, client_configuration=configuration)  # type: ignore[no-untyped-call]
        return client_for(configuration)
    except Exception:  # D-512: some messages have a user's whole entry in them, and with it the token.
        said = "The kubeconfig cannot be used, or has no such context: `kubectl config view` shows it without its secrets."
        raise config.ConfigException(said) from None


def look(api: client.ApiClient, namespace: str) -> Objects:
    """Read everything that checks need. What cannot be read is in `Objects.unseen`; nothing is raised.

    Args:
        api: the client.
        namespace: BinderHub's namespace.
    """
    found: dict[str, list[JSON]] = {}
    unseen: dict[str, str] = {}
    for name, (path, query) in PATHS.items():
        filled = {key: value.format(namespace=namespace) for key, value in query.items()}
        try:
            found[name] = list(read(api, "GET", path.format(namespace=namespace), query=filled)["items"])
        except ApiServerUnavailable as error:
            if error.status == 404:  # The cluster does not have that kind.
                found[name] = []
            else:
                unseen[name] = str(error)
    try:
        groups = read(api, "GET", "/apis/")["groups"]
        found["API groups"] = groups
        found["other policies"] = [
            policy for group in groups if group["name"] in OTHER_KINDS for policy in _of(api, group, namespace)
        ]
    except ApiServerUnavailable as error:
        unseen |= {"API groups": str(error), "other policies": str(error)}
    return Objects(found, unseen)


def _of(api: client.ApiClient, group: JSON, namespace: str) -> list[JSON]:
    """The policies of another kind that may apply to user pods; for a kind that cannot be read, one entry without a name."""
    # Each kind once, by the first version of the group that has it: none need have all.
    kinds: dict[str, tuple[str, JSON]] = {}
    for version in group["versions"]:
        path = f"/apis/{version['groupVersion']}"
        for kind in read(api, "GET", path)["resources"]:
            kinds.setdefault(kind["name"], (path, kind))
    policies: list[JSON] = []
    for path, kind in kinds.values():
        is_policy = kind["kind"].endswith(POLICIES) and "/" not in kind["name"]
        if not is_policy or kind["kind"].startswith("Staged"):
            continue
        where = f"{path}/namespaces/{namespace}/{kind['name']}" if kind["namespaced"] else f"{path}/{kind['name']}"
        try:
            names = [item["metadata"]["name"] for item in read(api, "GET", where)["items"]]
            # Calico's API server shows NetworkPolicies a second time.
            policies += [{"kind": kind["kind"], "name": name} for name in names if not name.startswith("knp.default.")]
        except ApiServerUnavailable as error:
            policies.append({"kind": kind["kind"], "unread": str(error)})
    return policies
