"""Draws the plot of docs/economics.md from the figures that `studies/economics.py --series` prints.

economics_plots.py FOLDER    reads JSON, writes economics-attackers.svg
"""

import hashlib
import json
import sys
from pathlib import Path

import matplotlib
import numpy

matplotlib.use("svg")
from matplotlib import pyplot

# Text stays text and ids do not change, so that a file is small and differs only where a figure does.
pyplot.rcParams.update(
    {"svg.fonttype": "none", "svg.hashsalt": "economics", "font.size": 9, "axes.grid": True, "grid.color": "#dddddd"}
)
COLOURS = ["#b3261e", "#1a5fb4", "#26794b", "#8a5a00", "#5e35b1"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1))]


def begin(xlabel: str, ylabel: str) -> tuple[pyplot.Figure, pyplot.Axes]:
    """A figure with named axes."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def below(axes: pyplot.Axes) -> None:
    """A legend below the plot, and plain numbers at its axes."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda number, _: f"{number:,g}")


def save(figure: pyplot.Figure, path: Path, figures: str) -> None:
    """Write a figure, without the time of its making, and with a checksum of its data."""
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    lines = [line.rstrip() for line in path.read_text().splitlines()]
    path.write_text("\n".join([*lines, f"<!-- figures: {hashlib.sha256(figures.strip().encode()).hexdigest()[:16]} -->", ""]))


def main() -> None:
    """Draw it."""
    figures, folder = sys.stdin.read(), Path(sys.argv[1])
    data = json.loads(figures)

    figure, axes = begin("pods of the farm, all the time", "dollars for 1,000 pod-hours with egress")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axhspan(*data["income"], color="#e8e8e8", label="what mining earns")
    for (name, dollars), colour, dashes in zip(data["costs"].items(), COLOURS, DASHES, strict=True):
        axes.plot(numpy.array(data["pods"]), numpy.array(dollars), label=name, color=colour, linestyle=dashes)
    below(axes)
    save(figure, folder / "economics-attackers.svg", figures)


if __name__ == "__main__":
    main()
