"""The table of the egress proxy's battery in docs/battery-tables.md."""

import re
from dataclasses import dataclass

from tests.support import TOP
from tests.support.egress_proxy.attempts import USE, Attempt

PAGE = TOP / "docs/battery-tables.md"


@dataclass(frozen=True)
class Row:
    """How many attempts of a kind are made in the lab and in the cluster, and whether they reach anything: `yes`, `–` or `open`."""

    lab: int
    cluster: int
    reached: str


def rows() -> dict[str, Row]:
    """The table: kind of attempts → its row."""
    part = PAGE.read_text().split("## The egress proxy's battery")[1].split("\n## ")[0]
    found = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| (\S+) \|$", part, re.MULTILINE)
    return {kind: Row(int(lab), int(cluster), reached) for kind, lab, cluster, reached in found}


def word(attempt: Attempt) -> str:
    """The result of a kind of attempts, according to the page."""
    if attempt.kind.startswith("**open:**"):
        return "open"
    return "yes" if attempt.kind == USE else "–"
