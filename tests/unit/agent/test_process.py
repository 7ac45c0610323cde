"""The agent as a process: settings, metrics, and its end."""

import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from binder_egress.agent.__main__ import LISTS, InvalidSetting, Settings
from binder_egress.agent.scans import Unusual
from tests.support import TOP
from tests.support.ports import free_port
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({}, "Service"),
        ({"BINDER_EGRESS_AGENT_HOST": "$(BINDER_EGRESS_RECEIVER_SERVICE_HOST)"}, "Service"),
        ({"BINDER_EGRESS_AGENT_HOST": "10.0.0.1", "BINDER_EGRESS_LOG_LEVEL": "loud"}, "logLevel"),
        ({"BINDER_EGRESS_AGENT_HOST": "10.0.0.1", "BINDER_EGRESS_AGENT_PORT": "x"}, "numbers"),
        *(({"BINDER_EGRESS_AGENT_HOST": "10.0.0.1", "BINDER_EGRESS_AGENT_SCANS": no}, r"agent\.scans") for no in ("{}", "[]", "x")),
    ],
)
def test_wrong_setting_is_reported(environment, word):
    with pytest.raises(InvalidSetting, match=word):
        Settings.load(environment)


def test_settings_have_defaults():
    host = {"BINDER_EGRESS_AGENT_HOST": "fd00::1"}
    assert Settings.load(host) == Settings("fd00::1", 8081, lists=LISTS)
    values = '{"connectionsEach": 2, "destinations": 50, "failed": 20, "failedShare": 0.75}'
    assert Settings.load(host | {"BINDER_EGRESS_AGENT_SCANS": values}).scans == Unusual(20, 0.75, 50, 2)


def test_wrong_setting_ends_the_process_with_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "binder_egress.agent"], env={"PYTHONPATH": str(TOP / "verifier")}, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("The receiver's Service is not there") and done.stderr.count("\n") == 1


def test_process_shows_metrics_reports_faults_and_ends(tmp_path):
    (tmp_path / "bad.yar").write_text("rule {")
    port = free_port()
    settings = {"HOST": "127.0.0.1", "PORT": str(free_port()), "ADMIN_PORT": str(port), "LISTS": str(tmp_path)}
    variables = {f"BINDER_EGRESS_AGENT_{name}": value for name, value in settings.items()}
    environment = {**os.environ, "PYTHONPATH": str(TOP / "verifier"), **variables}
    with subprocess.Popen(
        [sys.executable, "-m", "binder_egress.agent"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:

            def after_a_round():
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
                return text if "rounds_total 1" in text else ""

            text = eventually(after_a_round, what="no round", no_answer=(OSError,))
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30).read() == b"ok\n"
            found = {family.name: {tuple(row.labels.values()): row.value for row in family.samples}
                     for family in text_string_to_metric_families(text)}  # fmt: skip
            assert found["binder_egress_agent_broken_list_entries"] == {("bad",): 1}
            assert found["binder_egress_agent_reports"].keys() == {("sent",), ("failed",)}
            reasons = {("other-user",), ("other-group",), ("hidden",), ("crowded",), ("late",)}
            assert found["binder_egress_agent_unseen_processes"].keys() == reasons
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and '"problem": "line 1: syntax error"' in log
