"""The place of the tests' code: helpers are in `tests/support`, and no test module needs another."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def imported(module: Path) -> Iterator[str]:
    """The names of modules that a module imports, at its top or in functions; `a.b` for `from a import b` as well."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_no_module_imports_a_test_module():
    """Neither a test module nor a `conftest`, whose fixtures pytest provides."""
    modules = sorted(TESTS.rglob("*.py"))
    assert len(modules) > 100
    found = {
        f"{module.relative_to(TESTS)}: {name}"
        for module in modules
        for name in imported(module)
        if any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    }
    assert found == set()
