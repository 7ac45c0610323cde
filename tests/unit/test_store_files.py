"""The store is put together from one class for each subject. Its docstring says which file has which."""

import re
from collections import Counter
from inspect import getsourcefile
from pathlib import Path

from verifier.store.store import Store


def test_no_method_is_defined_for_two_subjects():
    """Only one of the two would ever run."""
    methods = Counter(name for subject in Store.__mro__[:-1] for name in vars(subject) if not name.startswith("__"))
    assert methods.total() > 60 and [name for name, times in methods.items() if times > 1] == []


def test_table_has_the_file_of_every_subject():
    files = [Path(getsourcefile(subject)).name for subject in Store.__bases__]
    assert sorted(re.findall(r"\| `(\w+\.py)` \|", Store.__doc__)) == sorted(files)


def test_table_has_every_script():
    folder = Path(getsourcefile(Store)).with_name("lua")
    column = re.findall(r"\| `\w+\.py` \|(.*)\|$", Store.__doc__, re.MULTILINE)
    scripts = {path.stem for path in folder.iterdir()} - {"common"}
    assert sorted(re.findall(r"`(\w+)`", " ".join(column))) == sorted(scripts)
