"""The stores are put together from classes by subject. A docstring says which file has which."""

import re
from collections import Counter
from inspect import getsourcefile
from pathlib import Path

from tests.support.store import Store
from verifier.store.store import SharedStore


def test_no_method_is_defined_for_two_subjects():
    """Only one of the two would ever run."""
    methods = Counter(name for subject in Store.__mro__[:-1] for name in vars(subject) if not name.startswith("__"))
    assert methods.total() > 60 and [name for name, times in methods.items() if times > 1] == []


def test_table_has_the_file_of_every_subject():
    folder = Path(getsourcefile(SharedStore)).parent
    files = {path.name for path in folder.glob("*.py") if "(Operations):" in path.read_text() or "(Blocks):" in path.read_text()}
    assert sorted(re.findall(r"\| `(\w+\.py)` \|", SharedStore.__doc__)) == sorted(files)


def test_table_has_every_script():
    folder = Path(getsourcefile(SharedStore)).with_name("lua")
    column = re.findall(r"\| `\w+\.py` \|(.*)\|$", SharedStore.__doc__, re.MULTILINE)
    scripts = {path.stem for path in folder.iterdir()} - {"common"}
    assert sorted(re.findall(r"`(\w+)`", " ".join(column))) == sorted(scripts)
