"""The table of docs/supported.md about network plugins says what the tests know, and each of its rows is seen with packets."""

from pathlib import Path

import pytest

from tests.support.cluster.networks import TABLE

TOP = Path(__file__).parents[2]
NETWORKS, PROPERTIES = TABLE["networks"], TABLE["properties"]


def test_table_says_what_the_tests_expect():
    rows = [["", *NETWORKS.values()], ["---"] * (1 + len(NETWORKS))]
    rows += [[row["what"], *(row[name] for name in NETWORKS)] for row in PROPERTIES.values()]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("|  |", "| |").replace(" --- ", "---")
    assert table in (TOP / "docs/supported.md").read_text(), table


def test_each_network_can_be_started():
    assert {file.stem for file in (TOP / "ci/cluster/networks").glob("*.sh")} == set(NETWORKS)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_is_seen_by_a_cluster_test(name):
    assert any(f"network.{name}" in file.read_text() for file in (TOP / "tests/cluster").glob("test_*.py"))
