"""The two files of `egress plan`: their comments, what strangers could put into them, and BinderHub's values with maps."""

import copy

import yaml

from tests.support.charts import VALUES
from tests.support.plan_objects import given, ingress
from verifier.plan.binderhub import rewritten
from verifier.plan.checks import examine
from verifier.plan.files import binderhub_values, changes, our_values, write
from verifier.plan.findings import Finding, Setting, shown

OWN = {
    "config": {"BinderHub": {"banner_message": "hello", "extra_header_html": {"own": "<b>"}}},
    "extraEnv": {"A": "1", "B": {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}},
    "extraConfig": {"own": "c.x = 1"},
    "jupyterhub": {"singleuser": {"extraEnv": {"C": "yes"}, "networkPolicy": {"egress": []}}, "custom": {"own": 1}},
}
"""An operator's values for BinderHub."""


def merged(below: dict, above: dict) -> dict:
    """Values as Helm merges them."""
    both = copy.deepcopy(below)
    for key, value in above.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def test_lists_become_maps_and_nothing_else_changes():
    listed = copy.deepcopy(OWN)
    listed["extraEnv"] = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    listed["jupyterhub"]["singleuser"]["extraEnv"] = [{"name": "C", "value": "no"}, {"name": "C", "value": "yes"}]
    before = copy.deepcopy(listed)
    assert rewritten(listed) == OWN and listed == before
    assert rewritten(OWN) == OWN


def test_wiring_is_left_out_again():
    """`helm get values` has what binder-egress.yaml brought, of this version of the chart."""
    wired = merged(OWN, VALUES["integration"]["binderhub"])
    assert wired != OWN and rewritten(wired) == OWN


def test_values_of_binderhub_read_back_as_they_were():
    strange = {"a: b": ["yes", "no", "1e3", "0o17", "012", "~", "", " x", "line\nline", "\u2028", "${x}", "{{ y }}", 1, None, True]}
    assert yaml.safe_load(binderhub_values(strange)) == strange


def test_comments_say_what_was_seen():
    text = our_values(examine(given()), [(Setting(("image", "name"), "registry.example.org/verifier"), "--image")])
    assert "  # BinderHub's Ingress has the host hub.example.org, the class traefik and the TLS Secret kubelego" in text
    assert "image:\n  # --image\n  name: registry.example.org/verifier\n" in text
    assert set(yaml.safe_load(text)) == {"image", "ingress", "verifier"}
    assert set(yaml.safe_load(our_values(examine(given()), [], "binder-egress"))) == {"binder-egress"}


def test_what_is_read_stays_data():
    """Whoever can name an object in the namespace cannot add a line to the values."""
    evil = "x\nmode: allow\n\u2028mode: allow\u202e\x1b[2J # "
    tls = [{"secretName": evil, "hosts": ["hub.example.org"]}]
    findings = [*examine(given(Ingresses=[ingress(ingressClassName=evil, tls=tls)])), Finding("x", "recognised", evil, evil)]
    text = our_values(findings, [])
    values = yaml.safe_load(text)
    assert "mode" not in values
    assert values["ingress"]["ingressClassName"] == evil and values["ingress"]["tls"][0]["secretName"] == evil
    assert text.replace("\n", "").isprintable()
    assert "\n" not in shown(evil) and shown(evil).isprintable() and len(shown("x" * 1000)) == 300


def test_check_says_what_has_changed():
    text = our_values(examine(given()), [])
    assert changes(text, examine(given())) == []
    later = given(**{"addresses of the API server": [{"ports": [{"port": 16443}]}]})
    assert changes(text, examine(later)) == [
        "no longer: API server: the API server has the port 6443", "new: API server: the API server has the port 16443",
    ]  # fmt: skip


def test_files_are_for_their_owner_alone(tmp_path):
    write(tmp_path, {"a.yaml": "a: 1\n"})
    assert (tmp_path / "a.yaml").stat().st_mode & 0o777 == 0o600
