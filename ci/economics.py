"""Computes what each setting costs whom: the tables of docs/economics.md and docs/install.md, and the figures of the plots.

Closed forms for attackers, and the product's own curve (`verifier.fairness`) and leases (`verifier.decisions.leases`) for prices,
farms and classes. Leases, prices and budgets are read from the chart and from chart/settings. Unknown numbers are parameters with a
range, in `ASSUMPTIONS`.

    ci/economics.py            writes the tables into the pages
    ci/economics.py --check    says by the exit code whether tables and plots are what is computed
    ci/economics.py --series   prints the plots' figures, as JSON
    ci/economics.py --tax 0.1  prints `counterMax` for some leases, for a tax of 0.1 %

Decisions: D-360, D-362.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from verifier.decisions import leases
from verifier.fairness import BASE_SECONDS, TOLERANCE, WORKERS, Fairness
from verifier.records import Grant, Rule
from verifier.settings import Tier

TOP = Path(__file__).parents[1]
PAGES = ("docs/economics.md", "docs/install.md")
VALUES = yaml.safe_load((TOP / "chart/values.yaml").read_text())
PLOTS = ("docs/images/economics-attackers.svg", "docs/images/economics-classes.svg")
SETTINGS = ("open", "balanced", "strict")

HOUR = 3600
OWN_TRIES = 4
"""How often a launch page solves by itself while the price rises: once, and up to three times more (docs/fairness.md)."""


@dataclass(frozen=True)
class Assumption:
    """A number on which the comparison rests.

    Attributes:
        name: what it is, with its unit.
        value, low, high: the number used, and the range of the sensitivity table.
        source: where it comes from.
    """

    name: str
    value: float
    low: float
    high: float
    source: str


ASSUMPTIONS = {
    "pods": Assumption("pods of a farm, all the time", 100, 10, 1000, "assumed; 100 is mybinder.org's limit for one repository"),
    "life_hours": Assumption("hours that a farm's pod lives", 6, 1, 12, "mybinder.org's limit (`maxAge`)"),
    "solver_tries": Assumption(
        "key derivations per core-second, attacker", 11_400, 1760, 22_000,
        "measured: a compiled solver with AVX-512; low: Python with OpenSSL; high assumed",
    ),
    "card_rounds": Assumption(
        "rounds of PBKDF2 per second, graphics card", 9e9, 3e9, 2e10, "published for consumer cards (tobtu.com); range assumed"
    ),
    "card_dollars": Assumption("dollars for an hour of the card", 2, 0.2, 5, "published for rented cards; the low end assumed"),
    "core_dollars": Assumption("dollars for an hour of a rented core", 0.02, 0.005, 0.05, "assumed"),
    "solve_dollars": Assumption(
        "dollars for 1,000 captchas, solving service", 1, 0.4, 3, "sellers' claims: Turnstile 0.40, reCAPTCHA v2 0.55 to 3"
    ),
    "hand_seconds": Assumption("seconds that a person takes for a launch or a check", 20, 10, 60, "assumed"),
    "hand_dollars": Assumption("dollars for an hour of that person's time", 2, 0.5, 10, "assumed"),
    "hashes": Assumption(
        "hashes per second in a pod that mines (RandomX)", 72, 72, 720,
        "published for one thread; low: light mode, as in 2 GiB of memory; high: fast mode",
    ),
    "network_hashes": Assumption("hashes per second in the whole network", 5e9, 3e9, 8e9, "assumed: no figure for 2026 was found"),
    "coin_dollars": Assumption("dollars for one coin", 350, 200, 500, "assumed: no figure for 2026 was found"),
    "browser_tries": Assumption(
        "key derivations per core-second, browser", 2000 / BASE_SECONDS, 800, 4000,
        "from the 1.1 s of [fairness.md](fairness.md); range assumed",
    ),
    "phone": Assumption("how many times slower a slow phone is", 4, 2, 8, "assumed"),
    "captcha_seconds": Assumption("seconds for a captcha with a click", 10, 3, 30, "assumed"),
    "give_up": Assumption("share of people who give up at a captcha", 0.05, 0, 0.15, "assumed; nobody publishes it"),
    "session_hours": Assumption("hours that a person uses a server", 1.5, 0.25, 6, "assumed: no public data"),
}  # fmt: skip
"""The assumptions were written down before the settings were compared. Each has a row in the sensitivity table."""

Numbers = dict[str, float]
"""An assumption's key → its value."""

USUAL: Numbers = {key: assumption.value for key, assumption in ASSUMPTIONS.items()}


@dataclass(frozen=True)
class Setting:
    """One of the three values files.

    Attributes:
        name: `open`, `balanced` or `strict`.
        lease_seconds: how long a solution lasts; 0: as long as the server.
        packages: whether servers without a pass have packages.
        proof_of_work: whether proof of work opens everything.
    """

    name: str
    lease_seconds: int
    packages: bool
    proof_of_work: bool

    @classmethod
    def read(cls, name: str) -> "Setting":
        """The setting as its file has it."""
        values = yaml.safe_load((TOP / f"chart/settings/{name}.yaml").read_text())
        return cls(
            name,
            values["tiers"]["verified"]["lease"],
            bool(values["proxy"]["enabled"]),
            values["captcha"]["providers"]["altcha"]["enabled"],
        )

    def solutions(self, hours: float) -> int:
        """How many solutions give a server network for some hours, each presented at the end of the previous lease."""
        tier, number, until = Tier(lease=self.lease_seconds), 0, 0
        while until is not None and until < hours * HOUR:
            until = leases.begin(Grant.new("verified", Rule.VALID_PASS, until), tier, until, False).until
            number += 1
        return number

    def interval_hours(self, numbers: Numbers) -> float:
        """Hours of a farm's pod that one solution opens, on average."""
        return numbers["life_hours"] / self.solutions(numbers["life_hours"])


def curve() -> Fairness:
    """The price curve of the chart's defaults, which no setting changes."""
    fairness = VALUES["fairness"]
    return Fairness(fairness["window"], fairness["doubledAfter"], fairness["budget"])


def base_tries() -> float:
    """Key derivations for a solution at price 1, on average: answers are distributed uniformly from 0, where trying begins
    (D-210)."""
    return VALUES["captcha"]["providers"]["altcha"]["counterMax"] / 2 + 1


ADDRESSES = {"1 address": 1, "10 addresses": 10, "1,000 addresses": 1000, "a /48": 0}
"""The networks of a script: IPv4 addresses, or a whole IPv6 /48."""


def price_after(charges: float, addresses: int) -> float:
    """The price for somebody who has spread so many charges evenly over all of their networks.

    Args:
        charges: in the window.
        addresses: IPv4 addresses; 0: an IPv6 /48.
    """
    fairness = curve()
    if addresses:
        return fairness.price(fairness.levels("192.0.2.1/32"), [charges / addresses])
    levels = fairness.levels("2001:db8::/64")
    prefixes = [int(level.network.rpartition("/")[2]) for level in levels]
    return fairness.price(levels, [charges / 2 ** (prefix - 48) for prefix in prefixes])


def farm_price(pods: float, hours: float, addresses: int) -> float:
    """The average price of a farm's solutions, in the cheaper of two ways.

    One is to solve evenly over time. The other is to solve all at once, each challenge fetched when its price was just enough
    (`TOLERANCE`), and then none until the charges of an hour and five minutes before no longer count. (With a lease of an hour,
    this means five minutes without network.)

    Args:
        pods: how many; each needs one solution every `hours`.
        hours: the time between two solutions of a pod.
        addresses: as in `price_after`.
    """
    windows = curve().window / HOUR / hours
    even = price_after(pods * windows, addresses)
    earlier = pods * max(0, math.ceil(windows) - 1)
    at_once = [max(1.0, price_after(earlier + before, addresses) / TOLERANCE) for before in range(round(pods))]
    return min(even, sum(at_once) / len(at_once))


@dataclass(frozen=True)
class Cost:
    """The cost of one pod-hour with egress for an attacker.

    Attributes:
        core_seconds: processor time, of any core.
        dollars: if everything is rented or bought.
        clicks: of a person.
        card_seconds: of a graphics card.
    """

    core_seconds: float = 0.0
    dollars: float = 0.0
    clicks: float = 0.0
    card_seconds: float = 0.0


def script(setting: Setting, numbers: Numbers, addresses: int) -> Cost | None:
    """Somebody with so many addresses, who solves on processor cores. None: that opens nothing."""
    if not setting.proof_of_work:
        return None
    hours = setting.interval_hours(numbers)
    price = farm_price(numbers["pods"], hours, addresses)
    seconds = base_tries() * price / numbers["solver_tries"] / hours
    return Cost(core_seconds=seconds, dollars=seconds / HOUR * numbers["core_dollars"])


def card(setting: Setting, numbers: Numbers) -> Cost | None:
    """Somebody with one address and a graphics card."""
    if not setting.proof_of_work:
        return None
    hours = setting.interval_hours(numbers)
    rounds = base_tries() * farm_price(numbers["pods"], hours, 1) * VALUES["captcha"]["providers"]["altcha"]["cost"]
    seconds = rounds / numbers["card_rounds"] / hours
    return Cost(card_seconds=seconds, dollars=seconds / HOUR * numbers["card_dollars"])


def by_hand(setting: Setting, numbers: Numbers) -> Cost:
    """A person who launches each server, and clicks for each lease. The browser's proof of work costs them nothing."""
    checks = setting.solutions(numbers["life_hours"])
    clicks = checks if setting.proof_of_work else 1 + checks  # if it runs by itself, the first click is the launch
    an_hour = clicks / numbers["life_hours"]
    return Cost(clicks=an_hour, dollars=an_hour * numbers["hand_seconds"] / HOUR * numbers["hand_dollars"])


def service(setting: Setting, numbers: Numbers) -> Cost | None:
    """Somebody who pays others for each captcha. Nobody would do so for proof of work."""
    if setting.proof_of_work:
        return None
    return Cost(dollars=numbers["solve_dollars"] / 1000 / setting.interval_hours(numbers))


def income(numbers: Numbers) -> float:
    """Dollars that a pod earns in an hour by mining Monero, which pays 720 blocks of 0.6 coins a day to its whole network."""
    return numbers["hashes"] / numbers["network_hashes"] * 720 * 0.6 / 24 * numbers["coin_dollars"]


def tax(setting: Setting, numbers: Numbers, addresses: int = 1) -> float:
    """The share of a pod's processor that it gives if pods solve for themselves, in a farm; 0 where proof of work opens nothing."""
    found = script(setting, numbers, addresses)
    return found.core_seconds / HOUR if found else 0.0


def cheapest(setting: Setting, numbers: Numbers) -> float:
    """The cheapest way with one address, as a share of what mining earns. Ways that are free are left out."""
    ways = [script(setting, numbers, 1), card(setting, numbers), service(setting, numbers), by_hand(setting, numbers)]
    bought = min(way.dollars for way in ways if way) / income(numbers)
    return min(bought, tax(setting, numbers)) if setting.proof_of_work else bought


# -- honest groups


def together(size: int, charged: int = 0) -> list[tuple[int, float]]:
    """The charges for people behind one address who fetch their challenges in the same second.

    Args:
        size: how many they are.
        charged: the earlier charges of their address.

    Returns:
        Rounds: how many people are accepted, and the work that each has done so far, in multiples of the base work. In each round
        all who are left solve a challenge at the current price; those who are too late begin again.
    """
    fairness, network = curve(), "192.0.2.1/32"
    levels, work, rounds = fairness.levels(network), 0.0, []
    while size:
        price = fairness.price(levels, [charged])
        (charge,) = fairness.charges(network, price)
        work += price
        accepted = min(size, charge.most + 1 - charged if charge.most is not None else size)
        rounds.append((accepted, work))
        size, charged = size - accepted, charged + accepted
    return rounds


def in_turn(size: int) -> list[tuple[int, float]]:
    """The same for people behind one address who come one after the other within the window."""
    fairness = curve()
    levels = fairness.levels("192.0.2.1/32")
    return [(1, fairness.price(levels, [before])) for before in range(size)]


@dataclass(frozen=True)
class Group:
    """A group of honest people or programs.

    Attributes:
        name: who they are.
        arrivals: rounds, as `together` returns them.
        slower: how many times slower than a laptop their device is: the key of an assumption, or empty.
        workers: the number of cores that solve.
        person: whether a person is waiting.
    """

    name: str
    arrivals: list[tuple[int, float]]
    slower: str = ""
    workers: int = WORKERS
    person: bool = True

    @property
    def size(self) -> int:
        """How many people or programs there are."""
        return sum(number for number, _ in self.arrivals)

    def seconds(self, numbers: Numbers) -> float:
        """Seconds that the base work takes."""
        return base_tries() / numbers["browser_tries"] / self.workers * (numbers[self.slower] if self.slower else 1)

    def waits(self, numbers: Numbers) -> tuple[float, float]:
        """Seconds from the first challenge until there is network: for the median person, and for the last."""
        everybody = [self.seconds(numbers) * work for number, work in self.arrivals for _ in range(number)]
        return everybody[len(everybody) // 2], everybody[-1]

    def renewal(self, numbers: Numbers) -> float:
        """Seconds for the last person, if all renew at the end of an hour in which all were charged."""
        return self.seconds(numbers) * together(self.size, self.size)[-1][1]

    def left(self) -> float:
        """The share of people for whom the launch page gave up, so that they press the button on the server's page."""
        at_once = self.size > len(self.arrivals)
        return sum(number for number, _ in self.arrivals[OWN_TRIES:]) / self.size if at_once else 0.0


PHONE = Group("one person, slow phone", together(1), slower="phone")
CLASS_OF_100 = Group("a class of 100, in the same second", together(100))
DOES_NOTHING = Group("an API user who does nothing", [(1, 0.0)], person=False)

GROUPS = (
    Group("one person", together(1)),
    PHONE,
    Group("a class of 30, in the same second", together(30)),
    CLASS_OF_100,
    Group("a lecture of 500, in the same second", together(500)),
    Group("a conference, 300 in an hour", in_turn(300)),
    Group("an API user with the client, 20 launches an hour", in_turn(20), workers=1, person=False),
    Group("a CI with the client, 100 launches an hour", in_turn(100), workers=1, person=False),
    DOES_NOTHING,
)
"""All behind one IPv4 address."""


def renewals(setting: Setting, numbers: Numbers) -> int:
    """Clicks for leases in a session of somebody who needs the internet to its end."""
    return setting.solutions(numbers["session_hours"]) - 1


# -- tables


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
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def settings_of() -> list[Setting]:
    """The three."""
    return [Setting.read(name) for name in SETTINGS]


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
    lines = [
        [f"script, {name}", *(show(script(setting, USUAL, addresses), nothing) for setting in settings)]
        for name, addresses in ADDRESSES.items()
    ]
    lines.append(["graphics card, 1 address", *(show(card(setting, USUAL), nothing) for setting in settings)])
    lines.append(["by hand", *(show(by_hand(setting, USUAL), nothing) for setting in settings)])
    lines.append(["solving service", *(show(service(setting, USUAL), "needs none") for setting in settings)])
    lines.append(["tunnel, builds, listed hosts", "free", "free", "free"])
    low, high = income_range()
    earned = f"${digits(income(USUAL) * 1000)} ({digits(low * 1000)} to {digits(high * 1000)})"
    lines.append(["*mining earns*", *[earned] * 3])
    lines.append(["*cheapest way, as a share of what mining earns*", *(percent(cheapest(setting, USUAL)) for setting in settings)])
    return rows(["1,000 pod-hours", *(f"*{setting.name}*" for setting in settings)], lines)


def income_range() -> tuple[float, float]:
    """The hourly earnings of mining at the worst and at the best ends of all its assumptions together."""

    def at(**ends: str) -> float:
        return income({**USUAL, **{key: getattr(ASSUMPTIONS[key], end) for key, end in ends.items()}})

    worst = at(hashes="low", network_hashes="high", coin_dollars="low")
    return worst, at(hashes="high", network_hashes="low", coin_dollars="high")


def honest_table() -> str:
    """The table of what people and programs notice."""
    opened, balanced, strict = settings_of()
    lines = []
    for group in GROUPS:
        if group is DOES_NOTHING:
            lines.append([group.name, "–", "–", "0", "0", "0", "100 %", "100 %, with packages", "100 %, with packages"])
            continue
        half, last = group.waits(USUAL)
        wait = digits(last) if len(group.arrivals) == 1 else f"{digits(half)}, {digits(last)}"
        left = percent(group.left())
        if group.person:
            clicks = [str(renewals(opened, USUAL)), str(renewals(balanced, USUAL)), str(1 + renewals(strict, USUAL))]
            without = [left, f"{left}, with packages" if group.left() else left, f"{percent(USUAL['give_up'])}, with packages"]
        else:
            clicks, without = ["0", "0", "needs a person"], [left, left, "100 %, with packages"]
        lines.append([group.name, wait, digits(group.renewal(USUAL)), *clicks, *without])
    head = ["who", "seconds: the median, the last", "seconds for a renewal", "clicks, *open*", "*balanced*", "*strict*"]
    return rows([*head, "without internet, *open*", "*balanced*", "*strict*"], lines)


def tax_table() -> str:
    """The table of leases and farms."""
    lines = []
    for label, seconds in (("none: 6 hours", 6 * HOUR), ("4 hours", 4 * HOUR), ("1 hour", HOUR), ("20 minutes", 1200)):
        setting = Setting(label, seconds, True, True)
        cells = [percent(tax(setting, {**USUAL, "pods": pods})) for pods in (1, 100, 1000)]
        slow = percent(tax(setting, {**USUAL, "pods": 1, "solver_tries": ASSUMPTIONS["solver_tries"].low}))
        lines.append([label, slow, *cells])
    return rows(["lease", "1 pod, project's client", "1 pod", "100 pods", "1,000 pods"], lines)


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
        pays = service(setting, USUAL) or script(setting, USUAL, 1)
        assert pays
        wait = f"{digits(phone)} s, {digits(last)} s"
        captcha = f"{digits(USUAL['captcha_seconds'])} s and a click"
        lines.append(
            [
                f"*{setting.name}*",
                "packages" if setting.packages else "nothing",
                what[setting.name],
                f"${digits(pays.dollars * 1000)}" + (" to a solving service" if setting.name == "strict" else ""),
                percent(cheapest(setting, USUAL)),
                wait if setting.proof_of_work else captcha,
                str(renewals(setting, USUAL) + (not setting.proof_of_work)),
            ]
        )
    head = ["setting", "every server has", "everything is opened by", "1,000 pod-hours cost a script"]
    share, wait = "cheapest way, as a share of what mining earns", "wait of a slow phone, of the last in 100"
    return rows([*head, share, wait, "clicks in 1.5 hours"], lines)


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
    lines = [["*all as assumed*", "", *(percent(cheapest(setting, USUAL)) for setting in settings), "", ""]]
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
    "sensitivity": sensitivity_table,
}


def filled(text: str) -> str:
    """A page with its tables as computed."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{TABLES[found[2]]()}\n\n<!-- end of table -->"

    return re.sub(r"(<!-- table (\w+), by ci/economics -->)\n(?:(?!<!-- ).)*<!-- end of table -->", table, text, flags=re.DOTALL)


# -- plots


def rounded(number: float) -> float:
    """A figure without the last digits, which depend on the order of the arithmetic."""
    return float(f"{number:.6g}")


def series() -> dict[str, Any]:
    """The figures of the two plots."""
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
    waits: dict[str, list[list[float]]] = {}
    for name, slower in (("laptop", ""), ("slow phone", "phone")):
        for number, which in enumerate(("half of them", "the last")):
            line = waits.setdefault(f"{name}, {which}", [])
            for size in range(1, 501):
                seconds = rounded(Group("", together(size), slower).waits(USUAL)[number])
                if not line or line[-1][1] != seconds or size == 500:
                    line.append([size, seconds])
    return {
        "pods": pods,
        "costs": costs,
        "income": [rounded(end * 1000) for end in income_range()],
        "waits": waits,
        "hold": VALUES["launchPage"]["hold"],
    }


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
