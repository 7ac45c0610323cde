"""docs/privacy.md says how long data is kept and which services are asked. The code and the chart's values must agree with it."""

import re
from importlib import import_module
from pathlib import Path

from binder_egress.captcha.providers import ROWS
from binder_egress.store import keys
from tests.support import TOP
from tests.support.charts import VALUES

STORE = sorted(Path(keys.__file__).parent.glob("[a-z]*.py"))
LUA = (TOP / "verifier/binder_egress/store/lua").glob("*.lua")
DOCUMENT = (TOP / "docs/privacy.md").read_text()
STATED = re.findall(r"(\d+) (?:s|bits)\s\(`([\w.]+)`\)", DOCUMENT)


def actual(name):
    """Returns the constant of the code or the value of the chart that has this name."""
    for module in (*(f"store.{path.stem}" for path in STORE), "model.passes", "gate.fairness", "captcha.siteverify"):
        if hasattr(found := import_module(f"binder_egress.{module}"), name):
            return getattr(found, name)
    node = VALUES
    for part in name.split("."):
        node = node[part]
    return node


def test_numbers_match_the_code_or_the_values():
    assert len(STATED) >= 12
    assert {name: int(number) for number, name in STATED} == {name: actual(name) for _, name in STATED}


def listed_keys():
    cells = re.findall(r"^\| (`[^|]+) \|", DOCUMENT, re.MULTILINE)
    return {key.split(":")[0] for cell in cells for key in re.findall(r"`(.+?)`", cell)}


def test_redis_keys_are_listed():
    source = "".join(path.read_text() for path in STORE)
    kinds = set(re.findall(r'\bredis_key\(f?"([a-z]+)', source))
    kinds |= {kind for script in LUA for kind in re.findall(r"\bPREFIX \.\. '([a-z]+)", script.read_text())}
    # Kinds that the code takes from a variable.
    kinds |= {"launch", "unlock", "server", "stop", "lifted", "withdrawn"}
    assert listed_keys() == kinds
    assert kinds == {
        key.split(":")[0] for row in re.findall(r"^\| (`.+?) \|", keys.__doc__, re.M) for key in re.findall(r"`(.+?)`", row)
    }


def test_remote_providers_are_listed_with_their_addresses():
    listed = DOCUMENT[DOCUMENT.index("where browsers load the widget") :]
    for row in ROWS.values():
        assert f"- {row.title}" in listed, row.title
        for address in (row.api, row.widget or row.api):
            assert not address or f"`{address}`" in listed, address
        # At most the longest time on the page.
        assert row.life <= actual("DAY_SECONDS")


def test_described_defaults_are_those_of_the_values():
    assert VALUES["clientNetwork"] == {"ipv4Prefix": 32, "ipv6Prefix": 64}
    enabled = [name for name, options in VALUES["captcha"]["providers"].items() if options["enabled"]]
    assert enabled == ["altcha"]
    assert not any(options.get("sendAddress") for options in VALUES["captcha"]["providers"].values())
