"""The command on the command line, against an API server on loopback: requests, files, exit codes."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.support.api_server import ApiServer
from tests.support.plan_objects import k3s, policy
from verifier import __version__
from verifier.egress_cli import egress
from verifier.plan.cluster import PATHS

VALUES = "USER-SUPPLIED VALUES:\nextraEnv:\n- {name: A, value: secret-of-mine}\n"
FILES = {"your-egress-values.yaml", "your-values.yaml"}


@pytest.fixture
def api():
    """An API server with the objects of k3s."""
    server = ApiServer()
    objects = k3s()
    at = {path.format(namespace="binder"): name for name, (path, _) in PATHS.items()}

    def answer(method, path, query, body):
        if path == "/apis/":
            return 200, {"groups": [{"name": "cilium.io", "preferredVersion": {"groupVersion": "cilium.io/v2"}}]}
        if path == "/apis/cilium.io/v2":
            kinds = ("CiliumNetworkPolicy", True), ("CiliumClusterwideNetworkPolicy", False), ("CiliumNode", False)
            return 200, {"resources": [{"kind": kind, "name": f"{kind.lower()}s", "namespaced": inside} for kind, inside in kinds]}
        if path.endswith("ciliumnetworkpolicys"):
            return 200, {"items": [{"metadata": {"name": "theirs"}}]}
        if "ciliumcluster" in path:
            return 403, {}
        if path in at and at[path] == "HTTPRoutes":
            return 404, {}
        return (200, {"items": objects[at[path]]}) if path in at else (500, {})

    server.answer, server.objects = answer, objects
    yield server
    server.close()


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    """Run the command in an empty folder, with a kubeconfig for that API server."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": api.url}}],
        "users": [{"name": "me", "user": {"token": "x"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*options, values=VALUES):
        done = CliRunner().invoke(egress, ["plan", "--from", "-", *options], input=values)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return run


def written() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_it_reads_no_secret_and_changes_nothing(run, api):
    code, out = run("--image", "registry.example.org/verifier")
    assert code == 0 and written() == FILES
    assert {method for method, _, _ in api.asked} == {"GET"}
    assert len(api.asked) > len(PATHS) and not [path for _, path, _ in api.asked if "secret" in path.lower()]
    assert "secret-of-mine" not in out
    assert yaml.safe_load(Path("your-values.yaml").read_text()) == {"extraEnv": {"A": "secret-of-mine"}}
    assert yaml.safe_load(Path("your-egress-values.yaml").read_text())["image"]["name"] == "registry.example.org/verifier"
    assert "CiliumClusterwideNetworkPolicy: no right to read them" in out
    assert "--version 1.0.0-0.dev.git.3901.h2d9b3f7 --values your-values.yaml --values binder-egress.yaml" in out


def test_kind_that_the_cluster_does_not_have_is_no_object(run, api):
    api.objects["Ingresses"].clear()
    _, out = run()
    assert "no Ingress and no HTTPRoute leads to BinderHub" in out


def test_open_gate_is_an_exit_code_and_a_sentence(run, api):
    api.objects["NetworkPolicies"].append(policy("wide", {}, egress=[{}]))
    code, out = run()
    assert code == 1 and written() == FILES
    assert "Change this before you shut the gate: the NetworkPolicy wide, egress rule 1, lets every user pod reach" in out


def test_existing_files_are_kept(run):
    Path("your-values.yaml").write_text("mine: 1\n")
    code, out = run()
    assert code == 2 and "your-values.yaml exist" in out and written() == {"your-values.yaml"}
    assert run("--overwrite")[0] == 0 and written() == FILES


def test_check_compares_and_writes_nothing(run, api):
    assert run("--check")[0] == 2 and not written()
    run()
    before = {name: Path(name).read_text() for name in FILES}
    assert run("--check")[0] == 0
    api.objects["Services"].clear()
    code, out = run("--check")
    assert code == 1 and "new: dns: no known Service is the cluster's DNS" in out
    assert {name: Path(name).read_text() for name in FILES} == before


def test_values_alone_are_enough(run, api):
    code, out = run("--no-cluster", values="ingress: {enabled: true, hosts: [hub.example.org]}\n")
    assert code == 0 and not api.asked and "cannot see" in out
    assert yaml.safe_load(Path("your-egress-values.yaml").read_text())["ingress"]["hosts"] == ["hub.example.org"]


def test_parent_chart_has_both_below_their_keys(run):
    parent = "binderhub:\n  extraEnv: [{name: A, value: b}]\nother: 1\n"
    code, out = run("--parent", "--image", "registry.example.org/verifier", values=parent)
    assert code == 0 and "helm dependency update" in out
    assert yaml.safe_load(Path("your-values.yaml").read_text()) == {"binderhub": {"extraEnv": {"A": "b"}}, "other": 1}
    ours = yaml.safe_load(Path("your-egress-values.yaml").read_text())
    assert set(ours) == {"binder-egress", "binderhub"}
    fixed = {"enabled": True, "mode": "observe", "image": {"name": "registry.example.org/verifier"}}
    assert fixed.items() <= ours["binder-egress"].items()
    image = f"registry.example.org/verifier:{__version__}"
    wiring = {"closePing": False, "startGuard": {"image": image}}
    assert ours["binderhub"] == {"jupyterhub": {"custom": {"binderEgress": wiring}}}
    assert run("--parent", values="other: 1")[0] == 2


@pytest.mark.parametrize("values", ["COMPUTED VALUES:\na: 1\n", "a: [", "text", "- 1", "a: !!python/object:os.x 1"])
def test_other_input_is_refused_with_a_sentence(run, values):
    code, out = run(values=values)
    assert code == 2 and "Error: The" in out and not written()


def test_wrong_context_is_refused_with_a_sentence(run):
    code, out = run("--context", "nowhere")
    assert code == 2 and "--no-cluster" in out


def test_cluster_that_does_not_answer_is_out_of_sight(run, api):
    api.answer = lambda *_: (500, {})
    code, out = run()
    assert code == 0 and "NetworkPolicies: 500" in out and written() == FILES
