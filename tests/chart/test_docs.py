"""The documents: commands that helm accepts, and tables that are true."""

import ast
import base64
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.support import TOP
from tests.support.charts import VALUES, by_name
from tests.support.doc_examples import section

DOCUMENTS = sorted([TOP / "README.md", *TOP.glob("docs/*.md"), TOP / "chart/README.md"])


@pytest.mark.parametrize("document", ["README.md", "chart/README.md", "docs/install.md", "docs/abuse.md", "docs/economics.md"])
def test_install_command_is_accepted(helm, document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("your-egress-values.yaml").write_text(*section("docs/install.md", "1. Look first", "yaml"))
    text = (TOP / document).read_text().replace("\\\n", "")
    commands = re.findall(r"^helm (?:install|upgrade(?: --install)?) (binder-egress .*)$", text, re.MULTILINE)
    assert commands
    before: list[str] = []
    for command in commands:
        name, chart, *options = shlex.split(command)
        if "--reuse-values" in options:  # the earlier arguments, and this
            options = [*before, *(option for option in options if option != "--reuse-values")]
        before = options
        options = [str(TOP / option) if option.startswith("chart/") else option for option in options]
        rendered = helm("template", name, str(TOP / chart), *options)
        assert ("binder-egress-base" if "mode=deny" in options else "hub.example.org") in rendered


def test_tables_in_the_readme_are_what_the_demo_shows():
    text = (TOP / "README.md").read_text()
    tables = re.findall(r"^┡.*\n((?:│.*\n)+)└", text, re.MULTILINE)
    rows, packages = (dict(re.findall(r"^│ ([^│]+?) +│(.*)│$", table, re.MULTILINE)) for table in tables)
    shown = re.search(r"^EXPECTED = (\{.*\})", (TOP / "ci/demo_packages.py").read_text(), re.MULTILINE)
    assert {name: [cell.strip() for cell in cells.split("│")] for name, cells in packages.items()} == ast.literal_eval(shown[1])
    stage = (TOP / "tests/support/cluster/stage.py").read_text()
    (opened,) = re.findall(r"^OPEN = \{(.*)\}", stage, re.MULTILINE)
    expected = {name: ["yes" if egress and f'"{name}"' in opened else "–" for egress in (0, 1, 0, 0, 1)] for name in rows}
    assert {name: [cell.strip() for cell in cells.split("│")] for name, cells in rows.items()} == expected
    assert all(f'"{name}": ' in stage for name in rows)


def test_steps_of_changing_the_signing_keys_match_the_table(helm):
    keys = {"new": "n" * 40, "old": "o" * 40}
    table = re.findall(r"^\| (?:accept|sign|drop) \| ([a-z, ]+) \|", (TOP / "docs/maintenance.md").read_text(), re.MULTILINE)
    _, *steps = section("docs/maintenance.md", "Changing the signing keys")
    assert len(steps) == len(table) == 3
    for row, step in zip(table, steps, strict=True):
        for name, key in keys.items():
            step = step.replace(f"${name}", key)
        program, verb, name, chart, *options = shlex.split(step)
        assert (program, verb, chart) == ("helm", "upgrade", "chart/") and {"--reuse-values", "--wait"} <= set(options)
        options = [option for option in options if option not in ("--reuse-values", "--wait")]
        rendered = yaml.safe_load_all(helm("template", name, str(TOP / chart), *options))
        (secret,) = [one for one in rendered if one and one["kind"] == "Secret" and "signing-keys" in one["data"]]
        assert base64.b64decode(secret["data"]["signing-keys"]).decode().split() == [keys[word] for word in row.split(", ")]


def test_command_for_an_own_secret_has_the_keys_of_the_chart_and_is_that_of_the_notes(helm):
    (command,) = section("chart/README.md", "Secrets")
    secret = by_name(helm("template", "binder-egress", str(TOP / "chart")))["Secret", "binder-egress"]
    assert set(re.findall(r"--from-literal=([\w-]+)=", command)) == set(secret["data"])
    notes = (TOP / "chart/templates/NOTES.txt").read_text()
    notes = notes.replace("{{ $name }}", "binder-egress").replace("{{ $where }}", "--namespace binder")
    (told,) = re.findall(r"^ +(kubectl create secret .*?)^\{\{", notes, re.MULTILINE | re.DOTALL)
    assert command.split() == told.split()


@pytest.mark.parametrize(
    ("document", "switch"),
    [("docs/proxy.md", "proxy.enabled=true"), ("docs/detections.md", f"detections.sources.falco.tokenHash={'a' * 64}")],
)
def test_password_that_is_added_to_an_own_secret_asks_for_a_restart_of_redis(helm, document, switch):
    """Redis reads its passwords only when it starts, and the switch that needs another one leaves its pod."""
    (restarted,) = re.findall(r"`kubectl rollout restart deployment/(\S+) --namespace binder`", (TOP / document).read_text())
    before, after = (
        by_name(helm("template", "binder-egress", str(TOP / "chart"), "--set=secret.existingSecret=own", *options))
        for options in ([], ["--set", switch])
    )
    assert len(after) > len(before)
    assert before["Deployment", restarted]["spec"] == after["Deployment", restarted]["spec"]


def test_pods_of_helm_test_are_deleted_in_one_release_only():
    """The namespace may have others."""
    texts = [document.read_text() for document in [*DOCUMENTS, TOP / "chart/templates/NOTES.txt"]]
    commands = re.findall(r"^ *(kubectl delete .*app\.kubernetes\.io/component=.*)", "\n".join(texts), re.MULTILINE)
    assert len(commands) >= 2
    assert not [command for command in commands if "app.kubernetes.io/instance=" not in command]


def test_annotations_for_prometheus_name_the_ports_that_the_monitors_scrape(helm, tmp_path):
    _, annotations = section("docs/alerts.md", "Metrics", "yaml")
    (tmp_path / "values.yaml").write_text(annotations)
    parts = "proxy.enabled=true,agent.enabled=true,agent.configMap=lists,metrics.podMonitor.enabled=true"
    options = ("--values", str(tmp_path / "values.yaml"), "--set", parts)
    named, scraped = {}, {}
    for (kind, _), one in by_name(helm("template", "binder-egress", str(TOP / "chart"), *options)).items():
        if kind == "PodMonitor":
            (endpoint,) = one["spec"]["podMetricsEndpoints"]
            scraped[one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]] = endpoint["port"]
        pod = one["spec"]["template"] if kind in ("Deployment", "DaemonSet") else {}
        marks = pod.get("metadata", {}).get("annotations", {})
        if marks.get("prometheus.io/scrape") == "true":
            (container,) = pod["spec"]["containers"]
            names = {str(port["containerPort"]): port["name"] for port in container["ports"]}
            named[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = names[marks["prometheus.io/port"]]
    assert named == scraped == {"verifier": "internal", "proxy": "admin", "agent": "admin"}


def test_values_for_many_servers_are_accepted(helm, tmp_path):
    (text,) = section("docs/scale.md", "Values for 20,000 servers", "yaml")
    (tmp_path / "values.yaml").write_text(text)
    rendered = by_name(helm("template", "binder-egress", str(TOP / "chart"), "--values", str(tmp_path / "values.yaml")))
    for part, values in yaml.safe_load(text).items():
        (container,) = rendered["Deployment", f"binder-egress-{part}"]["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == values["resources"]["limits"]
        assert container["resources"]["requests"] == VALUES[part]["resources"]["requests"]
