"""The command on the command line, without a cluster: files, exit codes. With one: tests/chart/test_plan_cluster.py."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.support.ports import free_port
from verifier import __version__
from verifier.egress_cli import egress

FILES = {"your-egress-values.yaml", "your-values.yaml"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder, with a kubeconfig for an API server that is away."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here", "users": [{"name": "me", "user": {"token": "x"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*options, values="extraEnv: []"):
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


def test_values_alone_are_enough(run):
    code, out = run("--no-cluster", values="ingress: {enabled: true, hosts: [hub.example.org]}\n")
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


@pytest.mark.parametrize("values", ["COMPUTED VALUES:\na: 1\n", "a: [", "text", "- 1", "a: !!python/object:os.x 1"])
def test_other_input_is_refused_with_a_sentence(run, values):
    code, out = run(values=values)
    assert code == 2 and "Error: The" in out and not written()


def test_wrong_context_is_refused_with_a_sentence(run):
    code, out = run("--context", "nowhere")
    assert code == 2 and "--no-cluster" in out


def test_cluster_that_does_not_answer_is_out_of_sight(run):
    code, out = run()
    assert code == 0 and "NetworkPolicies: " in out and "refused" in out and written() == FILES
