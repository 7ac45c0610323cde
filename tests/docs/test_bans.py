"""The examples of docs/bans.md: a workflow, a manifest, and the output of a command."""

import re
import shlex
import subprocess
from pathlib import Path

import yaml
from click.testing import CliRunner
from kubernetes import client

from binder_egress.commands.egress import egress
from tests.support import TOP
from tests.support.ban_traffic import week
from tests.support.doc_examples import section


def test_workflow_is_one_that_github_takes(tmp_path):
    (workflow,) = section("docs/bans.md", "Each day, in a workflow", "yaml")
    (tmp_path / "bans.yml").write_text(workflow)
    checked = subprocess.run([TOP / "ci/actionlint/run", tmp_path / "bans.yml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.findall(r"uses: .*", workflow) == re.findall(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", workflow)


def test_cronjob_has_only_fields_that_kubernetes_knows():
    values = yaml.safe_load((TOP / "docs/propose-bans.yaml").read_text())
    api = client.ApiClient()
    assert api.sanitize_for_serialization(api._ApiClient__deserialize(values, "V1CronJob")) == values
    (rule,) = yaml.safe_load(section("docs/bans.md", "An alert", "yaml")[0])["k8s-log-alerter-zulip"]["rules"].values()
    assert values["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"] == rule["pod_labels"]


def test_output_on_the_page_is_what_the_command_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = week(4)
    Path("decisions.log").write_text("\n".join([*made.decisions, "not JSON", ""]))
    Path("cryptnono.log").write_text("\n".join(made.detections))
    Path("events-2026-11.jsonl").write_text("\n".join(made.archive))
    (example,) = section("docs/bans.md", "What it reads", "console")
    command, *lines = example.splitlines()
    printed = CliRunner().invoke(egress, shlex.split(command.removeprefix("$ egress "))).output.splitlines()
    assert [line for line in lines if line not in [*printed, "…"]] == []
    assert lines[:6] == printed[:6]
