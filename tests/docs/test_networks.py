"""The tables of docs/networks.md: one says what `egress plan` knows, the other what the tests see with packets."""

import pytest

from tests.support import TOP
from tests.support.cluster.networks import TABLE
from verifier.plan.network_plugin import PLUGINS

PAGE = (TOP / "docs/networks.md").read_text()
NETWORKS, PROPERTIES = TABLE["networks"], TABLE["properties"]


COLUMNS = {
    "start": "a new pod, until its policies are in force",
    "connections": "open connections when a tier is taken away",
    "label": "a changed label acts on new connections after",
    "exceptions": "exceptions in a CIDR",
    "outside": "what policies do not cover",
}


def on_page(head, rows):
    """Whether the page has a table."""
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""]) in PAGE


def test_table_says_what_plan_knows():
    rows = [[plugin["title"], *(plugin[column] for column in COLUMNS)] for plugin in PLUGINS.values()]
    assert on_page(["network plugin", *COLUMNS.values()], rows)


@pytest.mark.parametrize("name", PLUGINS)
def test_what_is_said_of_a_plugin_has_its_source(name):
    marks = ("*seen here*", "*their code*", "*their words*")
    for column in COLUMNS:
        said = PLUGINS[name][column]
        assert said == "–" or said.startswith("not known") or any(mark in said for mark in marks), said


def test_only_networks_that_are_tried_were_seen():
    assert {name for name, plugin in PLUGINS.items() if "*seen here*" in str(plugin)} == set(NETWORKS)


def test_table_says_what_the_tests_expect():
    assert on_page(["", *NETWORKS.values()], [[row["what"], *(row[name] for name in NETWORKS)] for row in PROPERTIES.values()])


def test_each_network_can_be_started():
    assert {file.stem for file in (TOP / "ci/cluster/networks").glob("*.sh")} == set(NETWORKS)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_is_seen_by_a_cluster_test(name):
    assert any(f"network.{name}" in file.read_text() for file in (TOP / "tests/cluster").glob("test_*.py"))
