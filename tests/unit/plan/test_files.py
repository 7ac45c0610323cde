"""The two files of `egress plan`: their comments, what strangers could put into them, and BinderHub's values with maps.

The command that writes them, without a cluster. With one: tests/chart/test_plan_cluster.py.
"""

import copy
import os
import traceback
import warnings
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from binder_egress import __version__
from binder_egress.bans.values_file import ProposalRefused, with_bans
from binder_egress.commands.egress import egress
from binder_egress.plan.binderhub import rewritten
from binder_egress.plan.checks import examine
from binder_egress.plan.files import our_values, their_values
from binder_egress.plan.findings import Finding, Setting, shown
from tests.support.charts import VALUES
from tests.support.plan_objects import given, ingress
from tests.support.ports import free_port

OWN = {
    "config": {"BinderHub": {"banner_message": "hello", "extra_header_html": {"own": "<b>"}}},
    "extraEnv": {"A": "1", "B": {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}},
    "extraConfig": {"own": "c.x = 1"},
    "jupyterhub": {"singleuser": {"extraEnv": {"C": "yes"}, "networkPolicy": {"egress": []}}, "custom": {"own": 1}},
}
"""An operator's values for BinderHub."""


def merged(below: dict, above: dict) -> dict:
    both = copy.deepcopy(below)
    for key, value in above.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def test_lists_become_maps_and_nothing_else_changes():
    listed = copy.deepcopy(OWN)
    listed["extraEnv"] = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    listed["jupyterhub"]["singleuser"]["extraEnv"] = [{"name": "C", "value": "no"}, {"name": "C", "value": "yes"}]
    before = copy.deepcopy(listed)
    assert rewritten(given(listed)) == OWN and listed == before
    assert rewritten(given(OWN)) == OWN


def test_wiring_is_left_out_again():
    """`helm get values` has what binder-egress.yaml brought, of this version of the chart."""
    wired = merged(OWN, VALUES["integration"]["binderhub"])
    assert wired != OWN and rewritten(given(wired)) == OWN


def test_values_of_binderhub_read_back_as_they_were():
    strange = {"a: b": ["yes", "no", "1e3", "0o17", "012", "~", "", " x", "line\nline", "\u2028", "${x}", "{{ y }}", 1, None, True]}
    assert yaml.safe_load(their_values(strange)) == strange


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


# -- the command

FILES = {"your-egress-values.yaml", "your-values.yaml"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder, with a kubeconfig for an API server that is away."""
    away = {"name": "away", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}
    context = {"name": "here", "context": {"cluster": "away"}}
    config = {"current-context": "here", "contexts": [context], "clusters": [away]}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*options, values="extraEnv: []", users=()):
        if users:
            context = {"name": "here", "context": {"cluster": "away", "user": "me"}}
            kubeconfig.write_text(yaml.safe_dump({**config, "contexts": [context], "users": users}))
        done = CliRunner().invoke(egress, ["plan", "--from", "-", *options], input=values)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return run


def written() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_existing_files_are_kept(run):
    Path("your-values.yaml").write_text("mine: 1\n")
    code, out = run("--no-cluster")
    assert code == 2 and "your-values.yaml exist" in out and written() == {"your-values.yaml"}
    assert run("--no-cluster", "--overwrite")[0] == 0 and written() == FILES


def test_overwritten_files_are_for_their_owner_alone(run, tmp_path):
    """Whoever could read the old file, or has it open, cannot read the new one."""
    for name in FILES:
        Path(name).write_text("old: 1\n")
        Path(name).chmod(0o644)
    os.link("your-values.yaml", tmp_path / "other")
    with open("your-values.yaml") as still_open:
        assert run("--no-cluster", "--overwrite", values="extraEnv: [{name: TOKEN, value: s3cret}]")[0] == 0
        assert still_open.read() == (tmp_path / "other").read_text() == "old: 1\n"
    assert {name: Path(name).stat().st_mode & 0o777 for name in FILES} == dict.fromkeys(FILES, 0o600)
    assert "s3cret" in Path("your-values.yaml").read_text() and written() == FILES


def test_file_that_cannot_be_written_is_told_and_leaves_nothing_behind(run):
    Path("your-values.yaml").mkdir()
    code, out = run("--no-cluster", "--overwrite")
    assert code == 2 and "directory" in out and written() <= FILES


def test_values_alone_are_enough(run):
    code, out = run("--no-cluster", values="ingress: {enabled: true, hosts: [hub.example.org]}\n")
    assert {path.stat().st_mode & 0o777 for path in Path().iterdir()} == {0o600}, "for their owner alone"
    assert code == 0 and "cannot see" in out and "NetworkPolicies: not read" in out
    assert yaml.safe_load(Path("your-egress-values.yaml").read_text())["ingress"]["hosts"] == ["hub.example.org"]


def test_parent_chart_has_both_below_their_keys(run):
    parent = "binderhub:\n  extraEnv: [{name: A, value: b}]\nother: 1\n"
    code, out = run("--no-cluster", "--parent", "--image", "registry.example.org/verifier", values=parent)
    assert code == 0 and "helm dependency update" in out
    assert yaml.safe_load(Path("your-values.yaml").read_text()) == {"binderhub": {"extraEnv": {"A": "b"}}, "other": 1}
    ours = yaml.safe_load(Path("your-egress-values.yaml").read_text())
    assert set(ours) == {"binder-egress", "binderhub"}
    fixed = {"enabled": True, "mode": "observe", "image": {"name": "registry.example.org/verifier"}}
    assert fixed.items() <= ours["binder-egress"].items()
    image = f"registry.example.org/verifier:{__version__}"
    wiring = {"closePing": False, "startGuard": {"image": image}}
    assert ours["binderhub"] == {"jupyterhub": {"custom": {"binderEgress": wiring}}}
    assert run("--no-cluster", "--parent", values="other: 1")[0] == 2


NOT_YAML = [
    *("a: s3cret\na: other", "a: 1\nb: s3cret\n\tc: s3cret", "a: [s3cret", "a: 's3cret'x", "a: *s3cret", "a: %s3cret"),
    *(f"a: !!{tag} s3cret!" for tag in ("bool", "int", "float", "binary", "timestamp")),
    "%s3cret\n---", "a: s3cret\x00", "a: {<<: s3cret}", "s3cret: " + "[" * 5000,
]  # fmt: skip
"""Texts that YAML's reader refuses, each at another place of it."""


@pytest.mark.parametrize("text", NOT_YAML)
def test_no_error_shows_the_text_of_a_values_file(run, text):
    code, out = run("--no-cluster", values=f"x: 1\n{text}\n")
    assert code == 2 and "The values are no YAML" in out and "3cret" not in out, out
    with pytest.raises(ProposalRefused, match="no YAML") as refused:
        with_bans(f"x: 1\n{text}\n", "config", {"GitHubRepoProvider": ["^eve/.*"]}, {})
    assert "3cret" not in "".join(traceback.format_exception(refused.value))


def test_errors_of_values_name_the_line(run):
    assert "no YAML, line 3." in run("--no-cluster", values="a: 1\nb: 2\nc: 'x'y\n")[1]
    assert "not UTF-8" in run("--no-cluster", values=b"a: \xff")[1]


def test_no_warning_shows_the_text_of_a_values_file(run):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        code, out = run("--no-cluster", values="config: {a: &x s3cret, b: &x s3cret}\n")
    assert code == 0 and not warned and "s3cret" not in out


@pytest.mark.parametrize(
    "user",
    [{"token": "s3cret"}, {"user": {"auth-provider": {"name": "oidc", "config": {"client-secret": "s3cret"}}}},
     {"user": {"token": "s3cret\n"}}],
)  # fmt: skip
def test_no_error_shows_the_token_of_a_kubeconfig(run, user, caplog):
    code, out = run(users=[{"name": "me", **user}])
    assert "s3cret" not in out + caplog.text
    assert code == 2 if "kubectl config view" in out else "NetworkPolicies: ValueError" in out


NOT_HELMS = ["extraEnv: [text]", "extraEnv: [{value: x}]", "a: &x [*x]", "? [a, b]\n: 1"]
"""Values that are YAML, and nothing that Helm would take."""


@pytest.mark.parametrize("values", ["COMPUTED VALUES:\na: 1\n", "a: [", "text", "- 1", "a: !!python/object:os.x 1", *NOT_HELMS])
def test_other_input_is_refused_with_a_sentence(run, values):
    code, out = run(values=values)
    assert code == 2 and "Error: The" in out and not written()


def test_wrong_context_is_refused_and_a_cluster_that_does_not_answer_out_of_sight(run):
    code, out = run("--context", "nowhere")
    assert code == 2 and "--no-cluster" in out
    code, out = run()
    assert code == 0 and "NetworkPolicies: " in out and "refused" in out and written() == FILES
