"""The picture of kept results: throughput beside the peers, latencies against their budgets, and what stays flat."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import latency
from bench.machine import described
from bench.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "plot.png"
INCHES = (11, 8.4)
DOTS_PER_INCH = 150
OURS, OURS_LIGHT = "#1f5fbf", "#8db4ea"
OTHERS, OTHERS_LIGHT = "#6b7280", "#c5cad3"
LINES = ("#1f5fbf", "#d97706", "#059669")
LIMIT, TEXT, FAINT, GRID = "#b91c1c", "#374151", "#6b7280", "#e5e7eb"
LEAST_MS = 1.0  # where the axis of latencies begins
RUNBASE = frozenset({"runbase", "rest"})


def draw(results: Results, path: Path) -> Path:
    """Draw the results into a PNG and return its path. What was not measured says so in its place."""
    # Here, because only this needs matplotlib, and without a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    # Two rows of their own: long labels in the upper one take no width from the lower one.
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)  # type: ignore[union-attr]
    rows = figure.subfigures(2, 1, height_ratios=(1.3, 1))
    axes = [panel for row in rows for panel in row.subplots(1, 2)]
    panels: Sequence[tuple[str, Callable[[Axes, Any], None]]] = (
        ("throughput", _throughput),
        ("latency", _latency),
        ("claim", _claim),
        ("growth", _growth),
    )
    for panel, (name, draw_panel) in zip(axes, panels, strict=True):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
        panel.set_axisbelow(True)
        if name in results["measurements"]:
            draw_panel(panel, results["measurements"][name])
        else:
            _head(panel, name.capitalize(), "not measured")
            panel.axis("off")
    figure.supxlabel(_caption(results), fontsize=8, color=FAINT)
    figure.savefig(path, metadata={"Software": None})
    return path


def _caption(results: Results) -> str:
    """When, on what, and beside what else."""
    machines = [figures["machine"] for figures in results["measurements"].values()]
    loads = [float(machine["load before"]) for machine in machines]
    about = described({name: text for name, text in machines[0].items() if name != "load before"}) if machines else ""
    load = f"load {min(loads):g} to {max(loads):g} before each measurement" if loads else ""
    size = "sizes of --quick" if results["quick"] else ""
    return " · ".join(part for part in (results["ended"], about, load, size) if part)


def _throughput(panel: Axes, figures: Any) -> None:
    """Two bars a contender, the fastest first."""
    rates = {
        (row["contender"], row["at_a_time"]): statistics.median(row["rates"]) for row in figures["rows"] if row["rates"]
    }
    titles = {row["contender"]: row["title"] for row in figures["rows"]}
    numbers = sorted({at_a_time for _, at_a_time in rates})
    order = sorted(titles, key=lambda key: max((rates.get((key, number), 0) for number in numbers), default=0))
    height = 0.8 / max(1, len(numbers))
    for place, number in enumerate(numbers):
        shades = (OURS_LIGHT, OTHERS_LIGHT) if place == 0 and len(numbers) > 1 else (OURS, OTHERS)
        for at, key in enumerate(order):
            if (rate := rates.get((key, number))) is None:
                continue
            y = at + height * (len(numbers) / 2 - 0.5 - place)
            panel.barh(y, rate, height * 0.92, color=shades[0 if key in RUNBASE else 1])
            panel.text(rate, y, f" {rate:,.0f}", va="center", fontsize=7.5, color=TEXT)
    panel.set_yticks(range(len(order)), [titles[key] for key in order])
    panel.set_xlabel("durable steps a second, one process", fontsize=9)
    panel.locator_params(axis="x", nbins=5)
    panel.margins(x=0.12)
    shown = " and ".join(str(number) for number in numbers)
    _head(panel, "Throughput", f"{shown} runs at a time (light, dark), no-op steps")
    panel.grid(axis="x", color=GRID)
    panel.xaxis.set_major_formatter("{x:,.0f}")


def _latency(panel: Axes, figures: Any) -> None:
    """A bar for each latency that has a budget, and the budget as a mark."""
    rows = [
        (f"{name}\n{budget['percentile']}", figures["ms"][name][budget["percentile"]], budget["ms"])
        for name, budget in latency.BUDGETS.items()
        if name in figures["ms"]
    ]
    if figures["imports"]:
        slowest = max(found["ms"] for found in figures["imports"].values())
        rows.append(("cold import\nslowest function", slowest, latency.IMPORT_MS))
    rows.reverse()
    for y, (_, found, budget) in enumerate(rows):
        panel.barh(y, found, 0.5, color=OURS)
        panel.plot([budget, budget], [y - 0.36, y + 0.36], color=LIMIT, linewidth=2)
        if found >= 3 * LEAST_MS:  # at the foot of its bar, clear of the mark
            panel.text(LEAST_MS, y, f"  {found:.3g}", va="center", fontsize=9, color="white")
        else:
            panel.text(found, y, f" {found:.3g}", va="center", fontsize=9, color=TEXT)
    panel.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    panel.set_xscale("log")
    panel.set_xlim(left=LEAST_MS)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("milliseconds, logarithmic", fontsize=9)
    _head(panel, "Latency", "the red mark is the budget")
    panel.grid(axis="x", color=GRID)


def _claim(panel: Axes, figures: Any) -> None:
    """A line for each number of accounts over the length of the queue."""
    for color, accounts in zip(LINES, sorted({row["accounts"] for row in figures["rows"]}), strict=False):
        rows = [row for row in figures["rows"] if row["accounts"] == accounts]
        label = f"{accounts:,} account{'s' if accounts > 1 else ''}"
        _line(panel, [row["queued"] for row in rows], [row["claim"]["p50"] for row in rows], color, label)
    panel.set_xlabel("queued runs", fontsize=9)
    panel.set_ylabel("milliseconds, p50", fontsize=9)
    _head(panel, "A claim of ten runs", "without its commit, by how many runs are queued")
    panel.legend(fontsize=8.5, frameon=False, loc="best")


def _growth(panel: Axes, figures: Any) -> None:
    """One line over the length of a run."""
    rows = figures["rows"]
    _line(panel, [row["steps"] for row in rows], [row["microseconds"] for row in rows], OURS, "")
    panel.set_xlabel("steps a run", fontsize=9)
    panel.set_ylabel("microseconds a step", fontsize=9)
    _head(panel, "Long runs", "time a step, by how many steps a run has")


def _line(panel: Axes, x: Sequence[float], y: Sequence[float], color: str, label: str) -> None:
    panel.plot(x, y, marker="o", markersize=5, color=color, label=label)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0, top=max(panel.get_ylim()[1], max(y) * 1.35))
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.grid(axis="y", color=GRID)


def _head(panel: Axes, title: str, detail: str) -> None:
    panel.set_title(title, loc="left", fontweight="bold", fontsize=11, pad=20)
    panel.text(0, 1.025, detail, transform=panel.transAxes, fontsize=9, color=FAINT, in_layout=False)
