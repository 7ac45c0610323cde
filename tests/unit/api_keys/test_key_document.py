"""docs/api-keys.md: its commands and its examples work."""

import os
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from binder_egress.gate.api_keys import FORM, Entry
from binder_egress.web.problems import TITLES
from tests.support.api_keys import DOCUMENT
from tests.support.apps import CLIENT, VerifierProcess
from tests.support.launch_page import BinderHub


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_documented_commands_do_what_the_document_says(site, run):
    commands = [shlex.split(block.replace("\\\n", ""))[2:] for block in blocks("sh") if block.startswith("egress keys ")]
    create, listing, revoke = commands
    done = run(*create)
    assert done.exit_code == 0, done.output
    made = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    (shown,) = map(yaml.safe_load, blocks("yaml"))
    hidden = {"id": "", "hash": "", "expires": ""}
    entry, example = (values["apiKeys"]["keys"]["statistics-101"] for values in (made, shown))
    assert entry | hidden == example | hidden
    Entry.model_validate(example)
    assert entry["expires"] == str((datetime.now(UTC) + timedelta(days=120)).date())
    site.entries = made["apiKeys"]["keys"]
    site.write()
    (key,) = FORM.finditer(done.output)
    assert site.services.api_keys.find(key[0]).name == "statistics-101"
    assert "statistics-101  valid" in run(*listing).output
    assert run(*revoke).exit_code == 0
    assert "statistics-101  revoked" in run(*listing).output


@pytest.fixture
def hub(redis_server, site):
    """A BinderHub with a real verifier that reads the file of `site`."""
    process = VerifierProcess(redis_server, api_keys_file=str(site.file), tiers={"verified": {}, "small": {}})
    hub = BinderHub((process.public, process.internal))
    hub.client = CLIENT
    yield hub
    hub.stop()
    process.stop()


NODE = ["node", "--experimental-eventsource", "--input-type=module", "-e"]


def test_documented_examples_launch_in_any_case(hub, site):
    """With a pass, or with the reason why there is none."""
    right = site.add("owner")
    sh, python, js = (next(each for each in blocks(name) if not each.startswith("egress ")) for name in ("sh", "python", "js"))
    for command in (
        ["bash", "-euo", "pipefail", "-c", sh],
        [sys.executable, "-c", python],
        [*NODE, f"const {{ HUB: hub, KEY: key }} = process.env;\n{js}"],
    ):
        for fault, key, why in (("", right, ""), ("", right[:-1] + "_", "Copy the key as a whole."), ("down", right, "No pass: ")):
            hub.fault = fault
            environment = {"PATH": os.environ["PATH"], "HUB": hub.url.rstrip("/"), "KEY": key, "no_proxy": "*"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert why in done.stderr and ("No pass: " in done.stderr) == bool(why), done.stderr
        with_pass, *without = hub.builds[-3:]
        assert site.services.passes.read(with_pass.token, time.time()).key == FORM.fullmatch(right)[1]
        assert with_pass.tier == "small"
        assert [(build.token or None, build.tier) for build in without] == [(None, "unverified")] * 2


def test_documented_answers_are_problem_types():
    listed = re.findall(r"^\| (\d{3}) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    found = {kind: int(status) for status, kinds in listed for kind in re.findall(r"`(.*?)`", kinds)}
    assert found == {kind: TITLES[kind][0] for kind in found}
    assert {kind for kind in TITLES if kind.startswith("key-") or "-keys" in kind} <= set(found)
