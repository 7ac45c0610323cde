"""The stores are put together from classes by subject."""

from collections import Counter

from tests.support.store import Store


def test_no_method_is_defined_for_two_subjects():
    """Only one of the two would ever run."""
    methods = Counter(name for subject in Store.__mro__[:-1] for name in vars(subject) if not name.startswith("__"))
    assert methods.total() > 60 and [name for name, times in methods.items() if times > 1] == []
