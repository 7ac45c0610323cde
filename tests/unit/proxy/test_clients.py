"""Other projects' programs that use the egress proxy. docs/proxy-reference.md says what they show."""

import re

import pytest

from tests.support import TOP
from tests.support.egress_proxy import clients

PAGE = (TOP / "docs/proxy-reference.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| (yes|no) \| `(.+?)…?`[^|]* \| [^|]*\|$", PAGE, re.MULTILINE)
RUN = {name: (uses == "yes", shown) for name, uses, shown in ROWS if "¹" not in name}


@pytest.fixture(scope="module")
def seen():
    return clients.seen()


def test_page_has_every_client():
    assert len(ROWS) == len(re.findall(r" \| (?:yes|no) \| ", PAGE))
    assert set(RUN) == {*clients.BY_PYTHON, *clients.COMMANDS}


@pytest.mark.parametrize("client", RUN)
def test_client_reaches_a_listed_host_and_shows_of_a_refusal_what_the_page_says(seen, client):
    assert seen[client]["reached"] == RUN[client][0], seen[client]["listed"]
    assert RUN[client][1] in seen[client]["refused"]
