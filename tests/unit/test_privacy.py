"""docs/privacy.md says for how long things are kept and who is asked. It is compared with the code and with the chart's values."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from verifier.captcha.providers import ROWS
from verifier.store import store

TOP = Path(__file__).parents[2]
DOCUMENT = (TOP / "docs/privacy.md").read_text()
VALUES = yaml.safe_load((TOP / "chart/values.yaml").read_text())
STATED = re.findall(r"(\d+) (?:s|bits)\s\(`([\w.]+)`\)", DOCUMENT)


def meant(name):
    """A constant of the code, or a value of the chart."""
    for module in ("store.store", "store.connection", "passes", "fairness", "captcha.siteverify"):
        if hasattr(found := import_module(f"verifier.{module}"), name):
            return getattr(found, name)
    node = VALUES
    for part in name.split("."):
        node = node[part]
    return node


def test_the_numbers_are_found():
    assert len(STATED) >= 12


@pytest.mark.parametrize(("number", "name"), STATED)
def test_every_number_is_that_of_the_code_or_of_the_values(number, name):
    assert int(number) == meant(name)


def listed_keys():
    """The kinds of the keys in the page's table."""
    cells = re.findall(r"^\| [^|]+ \| (`[^|]+) \|", DOCUMENT, re.MULTILINE)
    return {key.split(":")[0] for cell in cells for key in re.findall(r"`(.+?)`", cell) if "//" not in key}


def test_every_key_in_redis_is_listed():
    source = Path(store.__file__).read_text()
    kinds = set(re.findall(r'_key\(f?"([a-z]+)', source))
    # Those that code makes of a variable.
    kinds |= {"launch", "unlock", "server", "stop"}
    assert listed_keys() == kinds
    assert kinds == {
        key.split(":")[0] for row in re.findall(r"^\| (`.+?) \|", store.__doc__, re.M) for key in re.findall(r"`(.+?)`", row)
    }


def test_every_remote_provider_is_listed_with_where_its_widget_is_from_and_who_is_asked():
    listed = DOCUMENT[DOCUMENT.index("| provider |") :]
    for row in ROWS.values():
        assert f"| {row.title}" in listed, row.title
        for address in (row.api, row.widget or row.api):
            assert not address or f"`{address}`" in listed, address
        # No longer than the longest that the page says.
        assert row.life <= meant("DAY_SECONDS")


def test_the_defaults_that_it_describes():
    assert VALUES["clientNetwork"] == {"ipv4Prefix": 32, "ipv6Prefix": 64}
    enabled = [name for name, options in VALUES["captcha"]["providers"].items() if options["enabled"]]
    assert enabled == ["altcha"]
    assert not any(options.get("sendAddress") for options in VALUES["captcha"]["providers"].values())
