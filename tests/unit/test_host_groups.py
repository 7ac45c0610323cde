"""The groups of hosts: a new one in `host_groups.toml` is everywhere."""

import json
import re
import runpy
import subprocess
import sys
import tomllib

from click.testing import CliRunner

from binder_egress.commands.egress import egress
from binder_egress.model.host_groups import HOST_GROUPS, HostGroup
from binder_egress.proxy.hosts import HostList
from binder_egress.settings import Tier
from binder_egress.web.pages import reach
from tests.support import TOP

ROW = """
programs = "Imaginary"
purpose = "Imaginary: its packages"
uploads = true
hosts = {"packages.imaginary.example" = "Imaginary: packages"}
"""


def test_new_group_is_in_the_proxy_the_commands_the_pages_the_schema_and_the_documentation(monkeypatch):
    monkeypatch.setitem(HOST_GROUPS, "imaginary", HostGroup(**tomllib.loads(ROW)))
    monkeypatch.syspath_prepend(TOP / "ci")
    assert HostList(["imaginary"]).group("packages.imaginary.example") == "imaginary"
    shown = CliRunner().invoke(egress, ["hosts", "list"]).output
    assert "imaginary  (anybody can put files there" in shown and "packages.imaginary.example  Imaginary: packages" in shown
    tier = Tier(direct=False, internet=False, hosts=["imaginary"])
    assert (tier.access, reach(tier, "en")) == ("packages", "What works: Imaginary.")
    documents = {path.name: text for path, text in runpy.run_path(str(TOP / "ci/host-groups"))["documents"]().items()}
    assert "| `imaginary` | Imaginary: its packages |" in documents["proxy.md"]
    assert "and `imaginary` are a slow way out" in documents["proxy.md"]
    (names,) = json.loads(documents["values.schema.json"])["definitions"]["hosts"]["patternProperties"]
    assert re.fullmatch(names, "imaginary") and re.fullmatch(names, "python") and not re.fullmatch(names, "unknown")


def test_schema_and_documentation_have_the_groups_of_the_file():
    assert subprocess.run([sys.executable, TOP / "ci/host-groups", "--check"], check=False).returncode == 0
