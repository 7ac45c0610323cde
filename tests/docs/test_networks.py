"""The tables of docs/networks.md: one says what `egress plan` knows, the other what the tests see with packets."""

from binder_egress.plan.network_plugin import PLUGINS
from tests.support import TOP
from tests.support.cluster.networks import TABLE

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


def test_table_says_what_plan_knows_and_from_where():
    rows = [[plugin["title"], *(plugin[column] for column in COLUMNS)] for plugin in PLUGINS.values()]
    assert on_page(["network plugin", *COLUMNS.values()], rows)
    marks = ("*seen here*", "*their code*", "*their words*")
    for said in (said for _, *row in rows for said in row):
        assert said == "–" or said.startswith("not known") or any(mark in said for mark in marks), said


def test_table_says_what_cluster_tests_see_in_the_networks_that_are_tried():
    assert on_page(["", *NETWORKS.values()], [[row["what"], *(row[name] for name in NETWORKS)] for row in PROPERTIES.values()])
    seen = {name for name, plugin in PLUGINS.items() if "*seen here*" in str(plugin)}
    assert seen == set(NETWORKS) == {file.stem for file in (TOP / "ci/cluster/networks").glob("*.sh")}
    tests = "".join(file.read_text() for file in (TOP / "tests/cluster").glob("test_*.py"))
    assert [name for name in PROPERTIES if f"network.{name}" not in tests] == []
