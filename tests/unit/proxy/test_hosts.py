"""Host lists: groups, names and suffixes."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.commands.egress import egress
from binder_egress.model.host_groups import HOST_GROUPS
from binder_egress.proxy import hosts
from binder_egress.proxy.build_registries import debian_hosts, node_hosts, python_hosts
from binder_egress.proxy.hosts import HostList, UnknownEntry, normal


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("Api.Example.ORG", "api.example.org"),
        ("api.example.org.", "api.example.org"),
        ("a_b.example.org", "a_b.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("ｂücher。example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a." * 123 + "example", "a." * 123 + "example"),  # 253 characters
    ],
)
def test_name_has_one_spelling(given_name, name):
    assert normal(given_name) == name


NO_NAMES = [
    "", ".", "localhost", "example", "a..example", ".example.org", "api.example.org..", "-a.example", "a-.example", "a b.example",
    "10.0.0.1", "10.1", "0x0a.0.0.1", "012.1.1.1", "167772161", "[::1]", "::1", "10.0.0.1.", "1.2.3.0x4", "evil.example/ok.example",
    "a.example\0.evil.example", "ok.example@evil.example", "a" * 64 + ".example", "a." * 123 + "examples", "①②.example\n",
    "a.example\n",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_NAMES)
def test_address_or_nonsense_is_no_name(text):
    assert normal(text) is None


def test_list_has_groups_names_and_suffixes():
    found = HostList(["julia", "api.example.org", "*.data.example"])
    for host in ("pkg.julialang.org", "eu.pkg.julialang.org", "api.example.org", "a.data.example", "b.a.data.example"):
        assert host in found, host
    for host in ("data.example", "evildata.example", "example.org", "api.example.org.evil.example", "cloud.r-project.org"):
        assert host not in found, host
    assert found and not found.any and not HostList([])


@pytest.mark.parametrize("entry", ["api.example.org", "*.example.org", "*", "julia"])
def test_list_with_a_single_entry_is_not_empty(entry):
    assert HostList([entry])
    assert (HostList([entry]).any, "evil.example" in HostList([entry])) == (entry == "*",) * 2


def test_host_has_the_group_for_which_it_is_listed():
    found = HostList(["julia", "git", "github.com", "api.example.org", "*.data.example"])
    asked = ("pkg.julialang.org", "eu.pkg.julialang.org", "github.com", "api.example.org", "a.data.example", "evil.example")
    assert [found.group(host) for host in asked] == ["julia", "julia", "git", "other", "other", ""]
    assert HostList(["*", "git"]).group("evil.example") == "*" and HostList(["*", "git"]).group("github.com") == "git"


@pytest.mark.parametrize("entry", ["pyhton", "*.", "**.example.org", "*.*", "https://example.org", "10.0.0.0/8", "a.*.example", ""])
def test_unknown_entry_is_an_error(entry):
    with pytest.raises(UnknownEntry):
        HostList([entry])


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_not(text):
    found = normal(text)
    assert found is None or (normal(found) == found and found.isascii() and not any(c in found for c in " /@:\r\n\0"))


def test_every_listed_host_is_a_name_with_a_reason():
    for name, group in HOST_GROUPS.items():
        assert HostList([name]) or not group.hosts
        for host, tool in group.hosts.items():
            assert normal(host.removeprefix("*.")) == host.removeprefix("*.") and tool, host


def test_registries_come_from_the_tools():
    text = "deb [signed-by=/a] http://one.example/debian stable main\n# deb http://two.example x\nURIs: https://three.example/x\n"
    assert list(debian_hosts(text)) == ["one.example", "three.example"]
    assert node_hosts("https://npm.example/\n") == {"npm.example": "npm: packages"} and node_hosts("") == {}


def test_registries_are_written_as_the_image_builds_them(tmp_path, monkeypatch):
    program = hosts.__file__.replace("hosts.py", "build_registries.py")
    command = [sys.executable, program, "https://npm.example/"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (tmp_path / "registries.json").write_text(text)
    monkeypatch.setattr(hosts, "REGISTRIES", tmp_path / "registries.json")
    assert set(json.loads(text)) == {name for name, group in HOST_GROUPS.items() if not group.hosts}
    assert set(json.loads(text)["python"]) == set(python_hosts())
    assert len(python_hosts()) == 2 and all(host in HostList(["python"]) for host in python_hosts())
    assert "npm.example" in HostList(["node"])
    shown = CliRunner().invoke(egress, ["hosts", "list"]).output
    assert all(host in shown for host in python_hosts()) and "node  (anybody can put files there" in shown
    assert json.loads(CliRunner().invoke(egress, ["hosts", "list", "--json"]).output)["julia"] == HOST_GROUPS["julia"].hosts
