"""The summary of ci/test: how long each part took, and which tests failed.

test_summary.py FOLDER SECONDS     prints it; FOLDER has the results, SECONDS is the time of the whole run
test_summary.py --record FOLDER    writes the seconds of each file of cluster tests into tests/cluster/seconds.json
test_summary.py --left FILE        exits with 1 if a failed test of a part's JUnit file has not passed when it ran once more
"""

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

SLOWEST = 10
"""How many of the slowest tests are shown."""

AGAIN = "-again"
"""The end of the name of a part's JUnit file with the tests that ran once more."""


def main(folder: Path, seconds: int) -> None:
    """Print the summary."""
    cases = []
    outcomes: dict[str, list[ElementTree.Element]] = defaultdict(list)
    for file in sorted(folder.glob("*.xml")):
        if file.stem.endswith(AGAIN):
            continue
        for case, outcome in _outcomes(file):
            outcomes[outcome].append(case)
            cases.append(case)

    files = _by_file(cases)
    if sum(files.values()) >= SLOWEST:
        print(f"\nThe {SLOWEST} slowest tests, with their set-up:")
        for case in sorted(cases, key=_seconds, reverse=True)[:SLOWEST]:
            print(f"  {_seconds(case):5.0f} s  {_name(case)}")
        print(f"The {SLOWEST} slowest files:")
        for file, taken in sorted(files.items(), key=lambda item: -item[1])[:SLOWEST]:
            print(f"  {taken:5.0f} s  {file}")
    for outcome, heading in (
        ("flaky", "Flaky: failed, and passed alone. Each hides a fault of the product or of the test"),
        ("failed", "Failed"),
    ):
        if outcomes[outcome]:
            print(f"{heading}:")
            for case in outcomes[outcome]:
                print(f"  {_name(case)}")

    print(f"\nSummary (JUnit files in {folder.name}/):")
    for line in (folder / "parts.tsv").read_text().splitlines():
        part, code, taken = line.split("\t")
        print(f"  {part:8} {'passed' if code == '0' else f'FAILED (exit {code})':20} {taken:>4} s")
    print(f"  {'all':8} {'':20} {seconds:4} s")
    print(", ".join(f"{len(outcomes[outcome])} {outcome}" for outcome in ("passed", "flaky", "failed", "skipped")))


def record(folder: Path) -> None:
    """Write how long the files of cluster tests took. They are divided among the clusters accordingly."""
    files = _by_file(_cases(folder / "cluster.xml"))
    seconds = {Path(file).name: round(taken) for file, taken in sorted(files.items())}
    (Path(__file__).parents[1] / "tests/cluster/seconds.json").write_text(json.dumps(seconds, indent=2) + "\n")


def _cases(file: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(file).iter("testcase"))


def _outcomes(file: Path) -> list[tuple[ElementTree.Element, str]]:
    """The tests of a part, and what became of each: a failed one that then passed is flaky."""
    second = file.with_stem(file.stem + AGAIN)
    again = {_name(case) for case in _cases(second) if _outcome(case) == "passed"} if second.exists() else set()
    found = [(case, _outcome(case)) for case in _cases(file)]
    return [(case, "flaky" if outcome == "failed" and _name(case) in again else outcome) for case, outcome in found]


def _outcome(case: ElementTree.Element) -> str:
    found = {child.tag for child in case}
    return "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"


def _by_file(cases: list[ElementTree.Element]) -> dict[str, float]:
    files: dict[str, float] = defaultdict(float)
    for case in cases:
        files[_file(case)] += _seconds(case)
    return files


def _seconds(case: ElementTree.Element) -> float:
    return float(case.get("time") or 0)


def _file(case: ElementTree.Element) -> str:
    return (case.get("classname") or "?").replace(".", "/")


def _name(case: ElementTree.Element) -> str:
    return f"{_file(case)}::{case.get('name')}"


if __name__ == "__main__":
    if sys.argv[1] == "--record":
        record(Path(sys.argv[2]))
    elif sys.argv[1] == "--left":
        sys.exit(any(outcome == "failed" for _, outcome in _outcomes(Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
