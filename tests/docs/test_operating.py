"""The answers that docs/operating.md quotes are what the commands print."""

import re

from tests.support import TOP


def test_answers_of_explain_are_those_in_the_code():
    """The parts of each answer that are not filled in."""
    page = (TOP / "docs/operating.md").read_text()
    (table,) = re.findall(r"^## Somebody has no egress\n.*?(^\| .*?)\n\n", page, re.MULTILINE | re.DOTALL)
    answers = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    assert len(answers) > 5
    code = "".join(file.read_text() for file in (TOP / "verifier/binder_egress/operators/actions").glob("*.py"))
    for answer in answers:
        for part in answer.split("…"):
            assert part in code, answer
