"""The attacker of ci/attack: somebody who wants pods with egress, against a real verifier.

The verifier is the real process, with a real Redis, on loopback. It believes one proxy, so that the attacker chooses the client's
address, as an ingress would report it. The reconciler is the real one, on pods in memory (`tests.support.fake_cluster`). The
settings are the chart's defaults, with one exception: where only the number of tries matters, a key derivation has one round
instead of 2,500.

`ci/attack --json` prints one object:

setting     what was attacked: algorithm, cost, counter_max, doubled_after, window_seconds, lifetime_seconds
speed       cores, lanes; tries a core-second with the default key derivation: client (OpenSSL, as Python has it, and so the
            project's client), vector (a compiled solver that uses the processor's vectors), and graphics_card (tries a second of
            one consumer card, published); vector_ratio and graphics_card_ratio, both to client
prices      an entry for each of some prices: price, tries (on average), and by speed for one solution: client_core_seconds,
            vector_core_seconds, graphics_card_seconds
solved      solutions at the base price, with the default 2,500 rounds: client and vector, each with passes, tries and
            core_seconds (of all together, measured, not computed)
tries       for all solved challenges: challenges, tries, expected (half of each range, and one), and share (the mean of tries
            divided by expected)
orders      tries for a solution, by the order of trying, as shares of the documented average at the base price
attackers   an entry for each attacker and way: name (1 address, 10 addresses, 1000 addresses, /64, /56, /48), in_advance
            (whether challenges were fetched while they were cheap), passes, base_works (what was spent, in multiples of the
            average work at price 1), documented (the sum of the prices that docs/fairness.md states, in the same unit), saved (a
            share of documented), last_price, refused (solutions that came too late), tries (of the solver); by speed, for all
            passes together: client_core_seconds, vector_core_seconds, graphics_card_seconds
free        attempts that should earn nothing: a name, with tried and got
moves       one pass, sent many times: launches, at_once (the most servers with egress at one time), in_turn (servers that had
            egress one after the other, each gone before the next)
steady      (--long) the passes that some cores at the client's speed get in a window without a pause: cores, passes
farm        servers, rounds (of renewals), grants, base_works, documented: each renewal is one solution at the price of the moment

`base_works` and `tries` do not depend on how busy the machine is. Seconds follow from them by `speed` alone.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attack_free import farm, free, moves, others, place, second_renewals
from attack_passes import attack, attackers, never_stops, really_solved
from attack_solver import DEFAULTS, Solver, average_tries, orders, seconds
from rich.console import Console
from rich.table import Table

from binder_egress.gate.fairness import BASE_SECONDS
from binder_egress.settings import VerifierSettings, load

PRICES = (1, 2, 4.3, 18, 101)
"""The prices of the table in docs/fairness.md."""

NEEDED = {"redis_url": "redis://127.0.0.1/0", "signing_keys": "0" * 32, "api_token": "0" * 32}
"""Values for the settings without a default, so that the others can be read."""

LEASE_SECONDS = 60
"""The shortest lease that the chart accepts."""

SHORT_WINDOW_SECONDS = 60
"""The shortest window of `fairness` that the chart accepts."""

CORES = (1, 8, 64)
"""As in docs/fairness.md."""


def run(passes: int, long: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Attack in all ways.

    Args:
        passes: how many each attacker tries to get.
        long: whether to run also the attacks that take minutes.
        say: called with a line about the next step.

    Returns:
        The figures, which the module's docstring explains.
    """
    solver, chart = Solver(), load(VerifierSettings, **NEEDED)
    doubled_after = chart.fairness_doubled_after
    say("speed of trying")
    speed = solver.speed()
    result: dict[str, Any] = {
        "setting": {
            "algorithm": DEFAULTS.algorithm,
            "cost": DEFAULTS.cost,
            "counter_max": DEFAULTS.counterMax,
            "doubled_after": doubled_after,
            "window_seconds": chart.fairness_window,
            "lifetime_seconds": DEFAULTS.lifetime,
        },
        "speed": speed,
        "prices": [{"price": price, "tries": average_tries(price), **seconds(average_tries(price), speed)} for price in PRICES],
        "attackers": [],
    }
    with place(cost=DEFAULTS.cost) as at:
        say("passes with the default proof of work")
        result["solved"] = really_solved(at.door, solver, 16, os.cpu_count() or 1)
    with place() as at:
        for turn, advance in enumerate((False, True)):
            for attacker in attackers(doubled_after, turn):
                say(f"{attacker.name}, {'in advance' if advance else 'one after the other'}")
                result["attackers"].append(attack(at.door, solver, attacker, passes, advance, speed))
        say("the order of trying")
        base = [(found.tries - 1, found.most) for found in solver.found if found.price == 1]
        result["orders"] = orders(base)
    with place() as at:
        say("replays, forgeries, unlocks of others")
        result["free"] = {**free(at, solver), **others(at, solver)}
        say("one pass for many servers")
        result["moves"] = moves(at, solver)
    with place(lease=LEASE_SECONDS, behind=LEASE_SECONDS / 2 + 1) as at:
        say("leases")
        result["free"] |= second_renewals(at, solver)
        result["farm"] = farm(at, solver, doubled_after)
    if long:
        with place(fairness_window=SHORT_WINDOW_SECONDS) as at, ThreadPoolExecutor() as pool:
            say("without a pause")
            base_seconds = BASE_SECONDS * SHORT_WINDOW_SECONDS / chart.fairness_window
            work = {
                cores: pool.submit(never_stops, at.door, solver, f"203.0.113.{cores}", cores, SHORT_WINDOW_SECONDS, base_seconds)
                for cores in CORES
            }
            result["steady"] = [{"cores": cores, "passes": each.result()} for cores, each in work.items()]
    shares = [found.tries / average_tries(found.price) for found in solver.found]
    result["tries"] = {
        "challenges": len(solver.found),
        "tries": sum(found.tries for found in solver.found),
        "expected": sum(average_tries(found.price) for found in solver.found),
        "share": sum(shares) / len(shares),
    }
    return result


def show(found: dict[str, Any], console: Console) -> None:
    """Print the figures."""
    speed = found["speed"]
    table = Table("", "tries a core-second", "times the client", title="Speed, by the default key derivation", title_justify="left")
    table.add_row("our client, OpenSSL", f"{speed['client']:,.0f}", "1")
    table.add_row(f"compiled, {speed['lanes']} tries at once", f"{speed['vector']:,.0f}", f"{speed['vector_ratio']:.1f}")
    table.add_row("a graphics card (published)", f"{speed['graphics_card']:,.0f} a second", f"{speed['graphics_card_ratio']:,.0f}")
    console.print(table)
    table = Table(
        "price", "tries", "client, core-seconds", "compiled, core-seconds", "graphics card, seconds",
        title="What one solution costs, on average", title_justify="left",
    )  # fmt: skip
    for row in found["prices"]:
        costs = (f"{row[name]:,.2f}" for name in ("client_core_seconds", "vector_core_seconds"))
        table.add_row(f"{row['price']:g}", f"{row['tries']:,.0f}", *costs, f"{row['graphics_card_seconds']:.4f}")
    console.print(table)
    for name, row in found["solved"].items():
        console.print(f"{row['passes']} passes by {name}: {row['tries'] / row['passes']:,.0f} tries and "
                      f"{row['core_seconds'] / row['passes']:.2f} core-seconds each, measured")  # fmt: skip
    table = Table("order of trying", "tries, of the average", title="Is there a cheaper order?", title_justify="left")
    for name, share in found["orders"].items():
        table.add_row(name, f"{share:.2f}")
    console.print(table)
    table = Table(
        "attacker", "challenges fetched", "passes", "base works", "documented", "saved", "last price", "refused",
        "client, core-hours", "compiled, core-hours", "graphics card, s", title="Many passes", title_justify="left",
    )  # fmt: skip
    for row in found["attackers"]:
        table.add_row(
            row["name"], "in advance" if row["in_advance"] else "one by one", f"{row['passes']:,}", f"{row['base_works']:,.0f}",
            f"{row['documented']:,.0f}", f"{row['saved']:.0%}", f"{row['last_price']:.1f}", str(row["refused"]),
            f"{row['client_core_seconds'] / 3600:.2f}", f"{row['vector_core_seconds'] / 3600:.2f}",
            f"{row['graphics_card_seconds']:.1f}",
        )  # fmt: skip
    console.print(table)
    table = Table("for nothing", "tried", "got", title="What should earn nothing", title_justify="left")
    for name, row in found["free"].items():
        table.add_row(name, str(row["tried"]), str(row["got"]))
    console.print(table)
    one, land = found["moves"], found["farm"]
    console.print(f"One pass, sent with {one['launches']} launches: {one['at_once']} server with egress at one time, "
                  f"{one['in_turn']} in turn, each after the one before was gone.")  # fmt: skip
    console.print(f"A farm of {land['servers']} servers: {land['grants']} grants for {land['base_works']:.0f} base works; "
                  f"documented are {land['documented']:.0f}.")  # fmt: skip
    for row in found.get("steady", []):
        console.print(f"{row['cores']} cores at the client's speed, without a pause: {row['passes']:,} passes an hour.")
    console.print(
        f"{found['tries']['challenges']:,} challenges took {found['tries']['share']:.3f} of the tries that are documented."
    )


def main() -> None:
    """Attack, and print the result."""
    parser = argparse.ArgumentParser(description="Attack a real verifier on loopback.")
    parser.add_argument("--long", action="store_true", help="3,000 passes for each attacker, and what needs minutes")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    errors = Console(stderr=True)
    found = run(
        3000 if options.long else 600,
        options.long,
        lambda text: errors.print(f"{time.strftime('%H:%M:%S')} ▶ {text}", highlight=False),
    )
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found, Console(width=None if sys.stdout.isatty() else 150))


if __name__ == "__main__":
    main()
