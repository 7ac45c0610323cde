"""Computes what each setting costs whom: the tables of docs/economics.md and docs/install.md, and the figures of the plot.

`economics_model` computes the figures.

    studies/economics.py            writes the tables into the pages
    studies/economics.py --check    says by the exit code whether tables and plot are what is computed
    studies/economics.py --series   prints the plot's figures, as JSON
    studies/economics.py --tax 0.1  prints `counterMax` for some leases, for a tax of 0.1 %
    studies/economics.py --assumptions    prints each assumption, and what the settings cost at both ends of its range
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from binder_egress.gate.fairness import WORKERS
from studies.economics_model import (
    ASSUMPTIONS,
    CLASS_OF_100,
    GROUPS,
    HOUR,
    PHONE,
    TOP,
    USUAL,
    Cost,
    Numbers,
    Setting,
    by_hand,
    card,
    cheapest,
    income,
    renewals,
    script,
    service,
    settings_of,
    tax,
)

PAGES = ("docs/economics.md", "docs/install.md")
OPEN_CONNECTIONS = "the same, where connections stay open when a lease ends"
PLOTS = ("docs/images/economics-attackers.svg",)


def digits(number: float) -> str:
    """A number with two significant digits."""
    if number == 0:
        return "0"
    places = 1 - math.floor(math.log10(number))
    written = f"{round(number, places):,.{max(0, places)}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{digits(share * 100)} %"


def rows(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    first, *others = ("| " + " | ".join(line) + " |" for line in [head, *lines])
    return "\n".join([first, "|" + "---|" * len(head), *others])


def show(cost: Cost | None, without: str) -> str:
    """A cost as a cell: of a thousand pod-hours."""
    if cost is None:
        return without
    parts = []
    if cost.core_seconds:
        parts.append(f"{digits(cost.core_seconds * 1000)} core-seconds")
    if cost.card_seconds:
        parts.append(f"{digits(cost.card_seconds * 1000)} s of the card")
    if cost.clicks:
        parts.append(f"{digits(cost.clicks * 1000)} clicks")
    return ", ".join([*parts, f"${digits(cost.dollars * 1000)}"])


def attackers_table() -> str:
    """The table of what a thousand pod-hours cost."""
    settings = settings_of()
    nothing = "packages only"
    lines = [["script, 1 address", *(show(script(setting, USUAL, 1), nothing) for setting in settings)]]
    lines.append(["graphics card, 1 address", *(show(card(setting, USUAL), nothing) for setting in settings)])
    lines.append(["by hand", *(show(by_hand(setting, USUAL), nothing) for setting in settings)])
    lines.append(["solving service", *(show(service(setting, USUAL), "needs none") for setting in settings)])
    low, high = income_range()
    earned = f"${digits(income(USUAL) * 1000)} ({digits(low * 1000)} to {digits(high * 1000)})"
    lines.append([f"*mining earns* {earned}", "", "", ""])
    lines.append(["*cheapest way, as a share of what mining earns*", *(percent(cheapest(setting, USUAL)) for setting in settings)])
    return rows(["1,000 pod-hours", *(f"*{setting.name}*" for setting in settings)], lines)


def income_range() -> tuple[float, float]:
    """The hourly earnings of mining at the worst and at the best ends of all its assumptions together."""

    def at(**ends: str) -> float:
        return income({**USUAL, **{key: getattr(ASSUMPTIONS[key], end) for key, end in ends.items()}})

    worst = at(hashes="low", cores="low", network_hashes="high", coin_dollars="low")
    return worst, at(hashes="high", cores="high", network_hashes="low", coin_dollars="high")


def honest_table() -> str:
    """The table of what people and programs notice of proof of work."""
    lines = []
    for group in GROUPS:
        half, last = group.waits(USUAL)
        wait = digits(last) if len(group.arrivals) == 1 else f"{digits(half)}, {digits(last)}"
        lines.append([group.name, wait, digits(group.renewal(USUAL))])
    return rows(["who", "seconds: the median, the last", "seconds for a renewal"], lines)


def tax_table() -> str:
    """The table of leases and farms."""
    lines = []
    for label, seconds in (("none: 6 hours", 6 * HOUR), ("1 hour", HOUR), ("20 minutes", 1200)):
        setting = Setting(label, seconds, True, True)
        cells = [percent(tax(setting, {**USUAL, "pods": pods})) for pods in (1, 1000)]
        slow = percent(tax(setting, {**USUAL, "pods": 1, "solver_tries": ASSUMPTIONS["solver_tries"].low}))
        lines.append([label, slow, *cells])
    return rows(["lease", "1 pod, project's client", "1 pod", "1,000 pods"], lines)


def settings_table() -> str:
    """One row for each setting."""
    what = {
        "open": "proof of work",
        "balanced": "proof of work, for an hour",
        "strict": "a captcha for an hour, or a login",
    }
    (_, phone), (_, last) = PHONE.waits(USUAL), CLASS_OF_100.waits(USUAL)
    lines = []
    for setting in settings_of():
        wait = f"{digits(phone)} s, {digits(last)} s"
        captcha = f"{digits(USUAL['captcha_seconds'])} s and a click"
        lines.append(
            [
                f"*{setting.name}*",
                "packages" if setting.packages else "nothing",
                what[setting.name],
                percent(cheapest(setting, USUAL)),
                wait if setting.proof_of_work else captcha,
                str(renewals(setting, USUAL) + (not setting.proof_of_work)),
            ]
        )
    share, wait = "an attack costs, of what mining earns", "a slow phone, and the last of 100 people, wait"
    return rows(["setting", "every server has", "everything is opened by", share, wait, "clicks in 1.5 hours"], lines)


def _phone(numbers: Numbers) -> str:
    return f"a slow phone waits for {digits(PHONE.waits(numbers)[1])} s"


def _rented(numbers: Numbers) -> str:
    found = script(Setting.read("balanced"), numbers, 1)
    assert found
    return f"a script's rented cores, *balanced*: ${digits(found.dollars * 1000)}"


def _card(numbers: Numbers) -> str:
    found = card(Setting.read("balanced"), numbers)
    assert found
    return f"a graphics card, *balanced*: ${digits(found.dollars * 1000)}"


def _hand(numbers: Numbers) -> str:
    return f"by hand, *strict*: ${digits(by_hand(Setting.read('strict'), numbers).dollars * 1000)}"


ELSE: dict[str, Callable[[Numbers], str]] = {
    "card_rounds": _card,
    "card_dollars": _card,
    "core_dollars": _rented,
    "hand_seconds": _hand,
    "hand_dollars": _hand,
    "browser_tries": _phone,
    "phone": _phone,
    "captcha_seconds": lambda numbers: f"a launch in *strict* waits for {digits(numbers['captcha_seconds'])} s",
    "give_up": lambda numbers: f"without internet in *strict*: {percent(numbers['give_up'])}",
    "session_hours": lambda numbers: f"clicks for leases in *balanced*: {renewals(Setting.read('balanced'), numbers)}",
}
"""What an assumption changes apart from the cheapest way."""


def sensitivity_table() -> str:
    """Each assumption at both ends of its range."""
    settings = settings_of()
    kept = [setting.with_open_connections() for setting in settings]
    lines = [
        ["*all as assumed*", "", *(percent(cheapest(setting, USUAL)) for setting in settings), "", ""],
        [f"*{OPEN_CONNECTIONS}*", "", *(percent(cheapest(setting, USUAL)) for setting in kept), "", "docs/leases.md"],
    ]
    for key, assumption in ASSUMPTIONS.items():
        ends = [{**USUAL, key: assumption.low}, {**USUAL, key: assumption.high}]
        cells = []
        for setting in settings:
            found = [percent(cheapest(setting, numbers)) for numbers in ends]
            cells.append("–" if {*found} == {percent(cheapest(setting, USUAL))} else " … ".join(found))
        more = ""
        if written := ELSE.get(key):
            low, high = map(written, ends)
            what, _, last = high.rpartition(": ") if ": " in high else ("", "", high)
            more = f"{low} … {last}" if what else f"{low} … {high.rpartition(' for ')[2]}"
        span = f"{plain(assumption.value)} ({plain(assumption.low)} to {plain(assumption.high)})"
        lines.append([assumption.name, span, *cells, more, assumption.source])
    head = ["assumption", "value (range)", *(f"*{setting.name}*" for setting in settings), "what else changes", "source"]
    return rows(head, lines)


def plain(number: float) -> str:
    """A number of the assumptions: large ones as 9·10⁹."""
    if number >= 1e8:
        power = math.floor(math.log10(number))
        return f"{number / 10**power:g}·10{str(power).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return f"{number:,.0f}" if number >= 100 else f"{number:g}"


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "attackers": attackers_table,
    "honest": honest_table,
    "tax": tax_table,
}


def filled(text: str) -> str:
    """A page with its tables as computed."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{TABLES[found[2]]()}\n\n<!-- end of table -->"

    return re.sub(r"(<!-- table (\w+), by ci/economics -->)\n(?:(?!<!-- ).)*<!-- end of table -->", table, text, flags=re.DOTALL)


# -- the plot


def rounded(number: float) -> float:
    """A figure without the last digits, which depend on the order of the arithmetic."""
    return float(f"{number:.6g}")


def series() -> dict[str, Any]:
    """The figures of the plot."""
    opened, balanced, strict = settings_of()
    pods = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]

    def along(cost: Callable[[Numbers], Cost | None]) -> list[float]:
        found = [cost({**USUAL, "pods": number}) for number in pods]
        return [rounded(each.dollars * 1000) for each in found if each]

    costs = {
        "strict: solving service": along(lambda numbers: service(strict, numbers)),
        "balanced: graphics card, 1 address": along(lambda numbers: card(balanced, numbers)),
        "balanced: rented cores, 1 address": along(lambda numbers: script(balanced, numbers, 1)),
        "balanced: rented cores, 1,000 addresses": along(lambda numbers: script(balanced, numbers, 1000)),
        "open: rented cores, 1 address": along(lambda numbers: script(opened, numbers, 1)),
    }
    return {"pods": pods, "costs": costs, "income": [rounded(end * 1000) for end in income_range()]}


def checksum(figures: str) -> str:
    """The checksum that a plot carries of its figures, as `--series` prints them."""
    return hashlib.sha256(figures.strip().encode()).hexdigest()[:16]


def counters(percentage: float) -> Iterator[str]:
    """`counterMax` for some leases, so that one pod at price 1 pays a tax, and how long people wait for it."""
    for lease in (1200, HOUR, 4 * HOUR):
        tries = percentage / 100 * lease * USUAL["solver_tries"]
        laptop = tries / USUAL["browser_tries"] / WORKERS
        yield f"lease: {lease}  counterMax: {2 * tries:.0f}  laptop: {laptop:.1f} s  slow phone: {laptop * USUAL['phone']:.0f} s"


def main(arguments: list[str]) -> int:
    """Run the command. Returns its exit code."""
    if arguments == ["--series"]:
        print(json.dumps(series()))
        return 0
    if arguments[:1] == ["--tax"] and len(arguments) == 2:
        print(*counters(float(arguments[1])), sep="\n")
        return 0
    if arguments == ["--assumptions"]:
        print(sensitivity_table())
        return 0
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = [page for page in PAGES if filled((TOP / page).read_text()) != (TOP / page).read_text()]
    wanted = f"<!-- figures: {checksum(json.dumps(series()))} -->"
    plots = [name for name in PLOTS if wanted not in (TOP / name).read_text()] if arguments else []
    for name in plots:
        print(f"{name}: its figures are not what ci/economics computes; run ci/economics", file=sys.stderr)
    for page in stale:
        if arguments:
            print(f"{page}: its tables are not what ci/economics computes; run ci/economics", file=sys.stderr)
        else:
            (TOP / page).write_text(filled((TOP / page).read_text()))
    return int(bool(arguments and (stale or plots)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
