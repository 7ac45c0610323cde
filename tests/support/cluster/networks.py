"""What the network plugins of `ci/cluster` leave open, as tests expect it, with packets, and as operators read it in the table of
docs/networks.md."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support import TOP

TABLE = json.loads(Path(__file__).with_suffix(".json").read_text())
"""`networks`: name for CLUSTER_NETWORK → name for people. `properties`: name of a property → what it means, and `yes`, `no` or
`with IPv4 alone` for each network."""

PAGE = TOP / "docs/battery-tables.md"


@dataclass(frozen=True)
class Network:
    """The network plugin of the running local cluster. The table says what each property means."""

    name: str
    late: bool
    fails_open: bool
    connections_stay: bool
    ping_open: bool
    link_local_open: bool
    node_link_local_open: bool
    made_up_open: bool
    own_policies: bool


def running() -> Network:
    """The network plugin of the cluster that `ci/cluster/in` was called for."""
    known = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())
    words = {name: row[known["network"]] for name, row in TABLE["properties"].items()}
    true = {"yes", "with IPv4 alone"} if known["family"] == "ipv4" else {"yes"}
    return Network(known["network"], **{name: word in true for name, word in words.items()})


def cells(network: str) -> dict[str, tuple[str, str]]:
    """The battery's table in the documentation, for a network plugin: target → the cell of a pod without a tier, and of a pod with
    one. A cell is `–`, or `open` with the number of a note."""
    part = PAGE.read_text().split("## The battery")[1].split("\n## ")[0]
    head, _, *rows = [[cell.strip() for cell in row.split(" | ")] for row in re.findall(r"^\|(.+)\|$", part, re.MULTILINE)]
    assert head[1::2] == list(COLUMNS.values()), head
    for row in rows:
        assert len(row) == len(head) and all(re.fullmatch(r"–|open[¹²³⁴]?", cell) for cell in row[1:]), row
    at = head.index(COLUMNS[network])
    return {row[0]: (row[at], row[at + 1]) for row in rows}


COLUMNS = {"kube-router": "kube-router", "calico": "Calico"}
"""Name for CLUSTER_NETWORK → the head of its first column in the battery's table."""
