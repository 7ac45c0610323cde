"""docs/economics.md: its tables and sentences agree with ci/economics, which uses the chart and the verifier's own curve."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.support import TOP
from tests.support.doc_examples import section
from verifier.fairness import TOLERANCE, Fairness

PAGE = (TOP / "docs/economics.md").read_text()
VALUES = yaml.safe_load((TOP / "chart/values.yaml").read_text())
FAIRNESS = VALUES["fairness"]


def economics(*arguments, top=TOP):
    """The script as it runs anywhere, with the tests' packages and without those that draw."""
    command = [sys.executable, top / "studies/economics.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=top, env={"PYTHONPATH": str(top)})


@pytest.fixture(scope="module")
def module():
    """The script's functions."""
    sys.path.insert(0, str(TOP))
    from studies import economics

    return economics


@pytest.fixture(scope="module")
def model(module):
    """The formulas."""
    from studies import economics_model

    return economics_model


def test_tables_are_what_is_computed():
    done = economics("--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_plot_of_other_figures_is_noticed(module, monkeypatch, capsys):
    monkeypatch.setattr(module, "series", lambda: {"pods": []})
    assert module.main(["--check"]) == 1
    assert {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()} == set(module.PLOTS)


@pytest.mark.parametrize(("name", "hours", "solutions"), [("open", 6, 1), ("balanced", 6, 6), ("strict", 1.5, 2), ("strict", 1, 1)])
def test_solutions_that_keep_a_server_open(model, name, hours, solutions):
    """With the product's leases, and the settings' files."""
    assert model.Setting.read(name).solutions(hours) == solutions


def test_price_of_a_farm_is_the_documented_one(model):
    """By formulas that know nothing of the model."""
    pods, addresses = 3000, 10
    assert model.price_after(pods, addresses) == pytest.approx(1 + pods / (30 * addresses))
    # For somebody with a whole /48, the widest network is the most expensive.
    assert model.price_after(2400, 0) == pytest.approx(1 + 2400 / 240)
    # At once, with challenges fetched in advance: half of N + N²/60K.
    assert model.farm_price(pods, 1, addresses) == pytest.approx((1 + pods / (60 * addresses)) / 2, rel=0.05)
    # With leases shorter than the window, the earlier charges still count.
    assert model.farm_price(pods, 0.5, addresses) == pytest.approx((1 + 3 * pods / (60 * addresses)) / 2, rel=0.05)
    # Over so long a time that the price never rises.
    assert model.farm_price(1, 6, 1) == 1


@pytest.mark.parametrize("addresses", [1, 10])
def test_farm_whose_challenges_were_fetched_in_advance_is_not_refused(model, addresses):
    """Each challenge is as cheap as the verifier accepts, and not cheaper."""
    fairness, network = Fairness(FAIRNESS["window"], FAIRNESS["doubledAfter"], FAIRNESS["budget"]), "192.0.2.1/32"
    for before in range(300):
        price = max(1.0, model.price_after(before * addresses, addresses) / TOLERANCE)
        assert before <= fairness.charges(network, price)[0].most
        assert price == 1 or before > fairness.charges(network, price * 0.95)[0].most


@pytest.mark.parametrize("size", [1, 30, 31, 32, 100, 500])
def test_class_is_charged_as_the_verifier_charges(model, size):
    """One by one, as `use_solution` does: a challenge whose price was less than half of the current one comes too late."""
    fairness = Fairness(FAIRNESS["window"], FAIRNESS["doubledAfter"], FAIRNESS["budget"])
    network, charged, left, rounds = "192.0.2.1/32", 0, size, []
    while left:
        price = fairness.price(fairness.levels(network), [charged])
        accepted = 0
        for _ in range(left):
            if charged > fairness.charges(network, price)[0].most:
                break
            charged, accepted = charged + 1, accepted + 1
        rounds.append(accepted)
        left -= accepted
    assert [number for number, _ in model.together(size)] == rounds


def test_figures_in_sentences_are_those_of_the_tables(module, model):
    tax = dict(re.findall(r"^\| (1 hour) \| (.*) \|$", PAGE, re.MULTILINE))["1 hour"].split(" | ")
    assert f"{tax[0]} at most for one pod, and {tax[-1]} for each of a thousand with the faster solver" in PAGE
    hour = next(line for line in module.counters(0.1) if line.startswith("lease: 3600 "))
    laptop, phone = (round(float(found)) for found in re.findall(r"([\d.]+) s", hour))
    assert f"a laptop works for {laptop} s and a slow phone for {phone} s" in PAGE
    assert f"gives {tax[0]} of its processor for that at most" in (TOP / "chart/settings/balanced.yaml").read_text()
    limits = VALUES["proxy"]["limits"]
    assert f"A server has {limits['connections']} connections and {limits['newPerSecond']} new ones a second" in PAGE


def test_only_the_lecture_has_people_without_internet_at_first(module, model):
    assert ["lecture" in group.name for group in model.GROUPS] == [group.left() > 0 for group in model.GROUPS]
    (lecture,) = (group for group in model.GROUPS if group.left())
    assert f"{module.percent(lecture.left())} of the lecture have no internet at first" in PAGE


def test_conclusions_hold_at_each_end_of_each_range(model):
    opened, balanced, strict = model.settings_of()
    for key, assumption in model.ASSUMPTIONS.items():
        for end in (assumption.low, assumption.high):
            numbers = {**model.USUAL, key: end}
            assert max(model.cheapest(opened, numbers), model.cheapest(balanced, numbers)) < 0.01, key
            assert model.cheapest(strict, numbers) > 1, key
    assert model.cheapest(strict, {**model.USUAL, "hashes": model.ASSUMPTIONS["hashes"].high, "cores": 2}) < 1


def test_conclusions_hold_where_connections_outlive_their_lease(model, module):
    strict = model.Setting.read("strict")
    kept = strict.with_open_connections()
    assert model.cheapest(kept, model.USUAL) > 1
    ends = {"hashes": "high", "cores": "high", "solve_dollars": "low", "life_hours": "high"}
    for key, value in [("cores", 2), *((key, getattr(model.ASSUMPTIONS[key], end)) for key, end in ends.items())]:
        assert model.cheapest(kept, {**model.USUAL, key: value}) < 1, key
    shares = (module.percent(model.cheapest(each, model.USUAL)) for each in (kept, strict))
    assert "*strict* costs {} of what mining earns, not {}".format(*shares) in PAGE


def test_commands_exist():
    (command,) = section("docs/economics.md", "Use one")
    assert [word for word in shlex.split(command) if word.startswith("chart/")] == ["chart/", "chart/settings/balanced.yaml"]
    (found,) = re.findall(r"`ci/economics (--tax \S+)`", PAGE)
    assert economics(*found.split()).stdout.count("counterMax: ") == 3
    assert economics("--nonsense").returncode == 2
