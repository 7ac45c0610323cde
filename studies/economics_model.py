"""Computes what network costs attackers, and honest people, by each setting.

Closed forms for attackers, and the product's own curve (`binder_egress.gate.fairness`) and leases
(`binder_egress.decisions.leases`) for prices, farms and classes. Leases, prices and budgets are read from the chart and from
chart/settings. Unknown numbers are parameters with a range, in `ASSUMPTIONS`.

Decisions: D-360, D-362.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from binder_egress.decisions import leases
from binder_egress.gate.fairness import BASE_SECONDS, TOLERANCE, WORKERS, Fairness
from binder_egress.model.grants import Egress, Rule
from binder_egress.settings import Tier

TOP = Path(__file__).parents[1]
VALUES = yaml.safe_load((TOP / "chart/values.yaml").read_text())
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
        "hashes per second on a core that mines (RandomX)", 72, 72, 720,
        "published for one thread; low: light mode, as in 2 GiB of memory; high: fast mode",
    ),
    "cores": Assumption(
        "cores of a pod that mine", 1, 1, 4, "1: mybinder.org's limit; zero-to-jupyterhub sets none. 4 assumed"
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
            until = leases.begin(Egress.new("verified", Rule.VALID_PASS, until), tier, until, False).until
            number += 1
        return number

    def interval_hours(self, numbers: Numbers) -> float:
        """Hours of a farm's pod that one solution opens, on average."""
        return numbers["life_hours"] / self.solutions(numbers["life_hours"])

    def with_open_connections(self) -> "Setting":
        """The setting on a network that leaves connections open when a lease ends (docs/leases.md). Mining needs one connection,
        so a miner pays once for each pod."""
        return replace(self, lease_seconds=0)


def settings_of() -> list[Setting]:
    """The three."""
    return [Setting.read(name) for name in SETTINGS]


def curve() -> Fairness:
    """The price curve of the chart's defaults, which no setting changes."""
    fairness = VALUES["fairness"]
    return Fairness(fairness["window"], fairness["doubledAfter"], fairness["budget"])


def base_tries() -> float:
    """Key derivations for a solution at price 1, on average: answers are distributed uniformly from 0, where trying begins
    (D-210)."""
    return VALUES["captcha"]["providers"]["altcha"]["counterMax"] / 2 + 1


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
    this means five minutes without egress.)

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
    return numbers["cores"] * numbers["hashes"] / numbers["network_hashes"] * 720 * 0.6 / 24 * numbers["coin_dollars"]


def tax(setting: Setting, numbers: Numbers) -> float:
    """The share of a pod's cores that it gives if pods solve for themselves, in a farm with one address; 0 where proof of work
    opens nothing."""
    found = script(setting, numbers, 1)
    return found.core_seconds / HOUR / numbers["cores"] if found else 0.0


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
    """What passes cost people behind one address who come one after the other within the window."""
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
    """

    name: str
    arrivals: list[tuple[int, float]]
    slower: str = ""
    workers: int = WORKERS

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

GROUPS = (
    Group("one person", together(1)),
    PHONE,
    Group("a class of 30, in the same second", together(30)),
    CLASS_OF_100,
    Group("a lecture of 500, in the same second", together(500)),
    Group("an API user with the client, 20 launches an hour", in_turn(20), workers=1),
    Group("a CI with the client, 100 launches an hour", in_turn(100), workers=1),
)
"""All behind one IPv4 address."""


def renewals(setting: Setting, numbers: Numbers) -> int:
    """Clicks for leases in a session of somebody who needs the internet to its end."""
    return setting.solutions(numbers["session_hours"]) - 1
