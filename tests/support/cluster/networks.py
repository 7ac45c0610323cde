"""What the network plugins of `ci/cluster` leave open, as tests expect it, with packets, and as operators read it in the table of
docs/networks.md."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

TABLE = json.loads(Path(__file__).with_suffix(".json").read_text())
"""`networks`: name for CLUSTER_NETWORK → name for people. `properties`: name of a property → what it means, and `yes`, `no` or
`with IPv4 alone` for each network."""


@dataclass(frozen=True)
class Network:
    """The network plugin of the running local cluster. The table says what each property means."""

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
    return Network(**{name: word in true for name, word in words.items()})
