"""`python -m bench`: durable steps a second beside the bare SQL floor, on one server, in turn.

The floor is the same `advance_runs` over the same rows by one bare psycopg connection that has its batches ready: no
engine, no runner, no decisions. Everything that production has is on in both: broadcast, ledger, guard trigger,
publication with a consumer of two logical slots, synchronous commit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.floor import floor
from bench.server import benched
from bench.worker import worker

RUNS = 100
STEPS = 20
AT_A_TIME = (10, 100)

Measure = Callable[..., Awaitable[float]]
MEASURES: dict[str, Measure] = {"bare SQL floor": floor, "runbase worker": worker}
ON = "broadcast, ledger, guard trigger, publication with a consumer of two slots, synchronous_commit and fsync"


async def measure(url: str, *, rounds: int, runs: int, steps: int) -> list[dict[str, object]]:
    """Steps a second of each contender, in turn within each round, so that a drifting machine hits both."""
    rows: list[dict[str, object]] = []
    for at_a_time in AT_A_TIME:
        rates: dict[str, list[float]] = {name: [] for name in MEASURES}
        for _ in range(rounds):
            for name, contender in MEASURES.items():
                seconds = await contender(url, runs=runs, steps=steps, at_a_time=at_a_time)
                rates[name].append(runs * steps / seconds)
        rows += [
            {
                "what": name,
                "at_a_time": at_a_time,
                "min": min(found),
                "median": statistics.median(found),
                "max": max(found),
                "of_floor": statistics.median(found) / statistics.median(rates["bare SQL floor"]),
            }
            for name, found in rates.items()
        ]
    return rows


def show(rows: list[dict[str, object]], *, rounds: int, runs: int, steps: int) -> None:
    table = Table(title=f"Durable steps a second: {runs} runs of {steps} no-op steps, {rounds} rounds")
    for column in ("", "runs at a time", "min", "median", "max", "of the floor"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        table.add_row(
            str(row["what"]),
            str(row["at_a_time"]),
            *(f"{row[key]:,.0f}" for key in ("min", "median", "max")),
            f"{row['of_floor']:.2f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"On in both: {ON}.")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=3, help="rounds of each measurement (default 3)")
    parser.add_argument("--runs", type=_positive, default=RUNS, help=f"runs a round (default {RUNS})")
    parser.add_argument("--steps", type=_positive, default=STEPS, help=f"steps a run (default {STEPS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runbase-bench-") as directory, benched(Path(directory)) as url:
        figures = {"rounds": options.rounds, "runs": options.runs, "steps": options.steps}
        rows = asyncio.run(measure(url, **figures))
    show(rows, **figures)
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "on": ON, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
