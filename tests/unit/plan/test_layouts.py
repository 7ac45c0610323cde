"""The layouts that `egress plan` knows: by what it recognises each, what it sees there, and what it refuses.

The files that it writes: tests/chart/test_siblings.py.
"""

from typing import Any

import pytest

from binder_egress.plan.checks import examine
from binder_egress.plan.findings import CANNOT_SEE, RECOGNISED, Finding, Given, Layout, Objects
from binder_egress.plan.layouts import NotKnown, hubs_release, recognise
from tests.support.plan_objects import ingress, k3s, of_release, workload

TOKEN = {"name": "JUPYTERHUB_API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "hub.services.binder.apiToken"}}}
UI: dict[str, Any] = {"base_url": "/", "auth_enabled": True, "enable_api_only_mode": False}
SERVICE = {"config": {"BinderHub": UI}, "extraEnv": [TOKEN], "dockerApi": {"nodeSelector": {"x": "y"}}}
HUB = {"hub": {"redirectToServer": False}, "singleuser": {"extraEnv": [{"name": "A", "value": "b"}]}}
SIBLINGS = {"binderhub-service": SERVICE, "jupyterhub": HUB, "nfs": {"enabled": False}}
"""Values as hubs of 2i2c's parent chart `basehub` have them."""


def deployed(base: str = "/") -> dict[str, Any]:
    """The Deployment of binderhub-service."""
    probe, image = {"httpGet": {"path": f"{base}versions"}}, "quay.io/2i2c/binderhub-service:0.1.0-0.dev.git.336.hca79dc0"
    return workload("binderhub", "binder", {"helm.sh/chart": "binderhub-service-0.1.0"}, image=image, startupProbe=probe)


def leading_to(service: str) -> dict[str, Any]:
    """An Ingress."""
    return ingress(rules=[{"host": "hub.example.org", "http": {"paths": [{"backend": {"service": {"name": service}}}]}}])


OLD = workload("binder", "binder", {"component": "binder"}, image="x:1.0.0")


def running(*deployments: dict[str, Any], **instead: Any) -> Objects:
    return Objects(k3s(**{"BinderHub's Deployment": list(deployments), **instead}))


def layout(values: dict[str, Any], hub: dict[str, Any] | None = None, objects: Objects | None = None) -> Layout:
    return recognise(values, hub, objects or Objects(), parent=False)


def beside(objects: Objects, parent: str = "", **config: Any) -> dict[str, Finding]:
    """The last finding of each check, with this `config.BinderHub`."""
    values = {**SERVICE, "config": {"BinderHub": config}, "jupyterhub": HUB}
    return {each.id: each for each in examine(Given(values, objects, setting="strict", layout=Layout(True, "x", parent)))}


def test_each_layout_is_known_by_values_and_else_by_what_runs():
    assert layout({"jupyterhub": {}, "extraEnv": {}}) == Layout(False, "`jupyterhub` in the values")
    assert layout(SERVICE, HUB) == Layout(True, "`dockerApi` in the values")
    assert layout(SIBLINGS) == Layout(True, "the key binderhub-service in the values", "binderhub-service")
    assert layout({"binderhub": {}, "x": 1}) == Layout(False, "the key binderhub in the values", "binderhub")
    of_both: dict[str, Any] = {"config": {}, "extraEnv": []}
    assert layout(of_both, objects=running(OLD)) == Layout(False, "the Deployment that runs")
    assert layout(of_both, HUB, running(deployed())) == Layout(True, "the Deployment that runs")
    assert layout(of_both, HUB) == Layout(True, "--hub")
    assert layout(of_both) == Layout(), "as before there was another"


@pytest.mark.parametrize(
    ("values", "hub", "says"),
    [
        ({"persistence": {}, "ingress": {}}, None, "`persistence`, and no key that tells which chart"),
        ({"basehub": SIBLINGS}, None, "`basehub`, and no key"), ({}, None, "do not tell"),
        (HUB, None, "are JupyterHub's: give BinderHub's with --from, and these with --hub"),
        ({"jupyterhub": HUB, "dockerApi": {}}, None, "keys of two charts: `jupyterhub`, and `dockerApi`"),
        ({"binderhub": {}, "binderhub-service": {}}, None, "two BinderHubs"),
        ({"binderhub-service": SERVICE}, None, "no map `jupyterhub` beside it"), (SERVICE, None, "with --hub"),
        (SERVICE, {"grafana": {}}, "these are not JupyterHub's"),
        ({"jupyterhub": {}}, HUB, "leave --hub out"), (SIBLINGS, HUB, "leave --hub out"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_what_to_do(values, hub, says):
    with pytest.raises(NotKnown, match=says):
        layout(values, hub)


def test_values_and_cluster_that_differ_stop():
    differing = examine(Given({}, running(OLD), layout=Layout(True, "x", "x")))
    assert any(each.stops and "another chart" in each.seen for each in differing)
    assert not [each for each in examine(Given({}, running(OLD, deployed()), layout=Layout(False, "x"))) if each.stops]
    assert [each.state for each in examine(Given({}, Objects())) if each.id == "layout"] == [CANNOT_SEE]


def test_binderhub_service_gets_its_version_and_ingress():
    found = beside(running(deployed(), Ingresses=[leading_to("binderhub")]), **UI)
    assert "0.1.0-0.dev.git.336.hca79dc0" in found["BinderHub's version"].seen and "auth_enabled" in found["sign-in"].seen
    assert found["ingress"].state == RECOGNISED and "hub.example.org" in found["ingress"].seen
    hub = workload("hub", "binder", {"component": "hub", "chart": "jupyterhub-4.3.3"}, release=of_release("my-hub", "binder"))
    assert hubs_release(Given({}, running(deployed(), hub))) == ("my-hub", "4.3.3")


def test_binderhub_behind_the_hubs_proxy_is_reached_by_the_hubs_ingress():
    found = beside(running(deployed("/services/binder/"), Ingresses=[leading_to("proxy-public")]), "binderhub-service")
    assert {each.path: each.value for each in found["base URL"].settings} == {("ingress", "path"): "/services/binder/egress/"}
    assert "trustedProxies" in found["ingress"].do
    assert beside(running(deployed(), Ingresses=[leading_to("proxy-public")]))["ingress"].state != RECOGNISED


def test_what_a_parent_chart_may_say_by_itself_is_not_known():
    """`helm get values` prints none of a parent chart's defaults."""
    found = beside(running(), "binderhub-service")
    assert found["sign-in"].state == found["base URL"].state == CANNOT_SEE
    assert found["layout"].stops and "unless the parent chart" in found["layout"].seen
    assert "JupyterHub starts the servers" in beside(running())["sign-in"].seen
    assert "BinderHub only builds: nobody" in beside(running())["layout"].seen
    assert not beside(running(), "binderhub-service", **UI)["layout"].stops
    for env, says in (([], "nobody signs in"), ([{"name": "JUPYTERHUB_OAUTH_CALLBACK_URL"}], "has auth_enabled")):
        shown = running(workload("binder", "binder", {"component": "binder"}, env=env))
        assert says in str(examine(Given({}, shown, layout=Layout(False, "x", "binderhub"))))
