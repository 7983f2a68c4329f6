"""Durable steps a second: the same work by every contender in turn, on one server, several rounds.

Within a round everybody is measured once, each round beginning with another one, so that a machine that drifts hits
all; ratios are taken round by round, and the median of them is shown. A checkpoint stands before every measured part.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

from rich.console import Console
from rich.table import Table

from bench.contenders import CONTENDERS, FLOOR, Contender, ContenderError, taken_by, versions
from bench.machine import described, machine
from bench.options import positive
from bench.progress import say

AT_A_TIME = (10, 100)
QUICK = ("--rounds", "1", "--runs", "20")
COMPARED = ("absurd", "dbos", FLOOR)
TITLES = {contender.key: contender.title for contender in CONTENDERS}
ON = (
    "On for everybody: fsync, synchronous_commit, wal_level logical. For Runbase besides: broadcast, ledger, guard "
    "trigger, fair queue, and both publications with a consumer of two slots. Each contender is one process."
)


class Budget(NamedTuple):
    """`contender` is at least `times` as fast as `peer`."""

    contender: str
    peer: str
    at_a_time: int
    times: float


BUDGETS = (
    Budget("runbase", "absurd", 10, 4),
    Budget("runbase", "dbos", 10, 11),
    Budget("runbase", "absurd", 100, 6),
    Budget("rest", "absurd", 10, 1),
    Budget("rest", "absurd", 100, 1),
)


class Row(TypedDict):
    """One contender at one concurrency, by round: steps a second, and microseconds of processors a step.

    `process_us` is its own process, `server_us` all of PostgreSQL. One that fails is not tried again.
    """

    contender: str
    title: str
    at_a_time: int
    rates: list[float]
    process_us: list[float]
    server_us: list[float]
    failed: str | None
    times: dict[str, float]


class Figures(TypedDict):
    """What a measurement found, as it is written to JSON."""

    rounds: int
    runs: int
    steps: int
    on: str
    machine: dict[str, str]
    packages: dict[str, str | None]
    rows: list[Row]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=positive, default=3, help="rounds of each contender (default 3)")
    parser.add_argument("--runs", type=positive, default=100, help="runs a measurement (default 100)")
    parser.add_argument("--steps", type=positive, default=20, help="steps a run (default 20)")
    parser.add_argument(
        "--at-a-time", type=positive, nargs="+", default=AT_A_TIME, metavar="N", help="runs at a time (default 10 100)"
    )
    parser.add_argument("--only", type=_chosen, default=CONTENDERS, metavar="A,B", help=f"of {', '.join(TITLES)}")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    """Measure the chosen contenders on this server."""
    work = {"runs": options.runs, "steps": options.steps}
    on = machine(server_url)
    rows: list[Row] = []
    for at_a_time in options.at_a_time:
        group = [_row(contender, at_a_time) for contender in options.only]
        pairs = list(zip(options.only, group, strict=True))
        for number in range(options.rounds):
            first = number % len(pairs)
            for contender, row in pairs[first:] + pairs[:first]:
                if row["failed"] is None:
                    _measure_once(contender, row, server_url, **work)
        rows += group
    return {
        "rounds": options.rounds,
        **work,
        "on": ON,
        "machine": on,
        "packages": versions(options.only),
        "rows": with_times(rows),
    }


def with_times(rows: Sequence[Row]) -> list[Row]:
    """The rows with how many times as fast as the compared ones each is."""
    rates = {(row["contender"], row["at_a_time"]): row["rates"] for row in rows}
    return [
        {
            **row,
            "times": {
                peer: found
                for peer in COMPARED
                if (found := ratio(row["rates"], rates.get((peer, row["at_a_time"]), []))) is not None
            },
        }
        for row in rows
    ]


def ratio(rates: Sequence[float], peers: Sequence[float]) -> float | None:
    """The median of the rounds' ratios, of rounds that both have; None if there is none."""
    of_rounds = [rate / peer for rate, peer in zip(rates, peers, strict=False)]
    return statistics.median(of_rounds) if of_rounds else None


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept, or not shown to be."""
    times = {(row["contender"], row["at_a_time"]): row["times"] for row in figures["rows"]}
    return [
        sentence
        for budget in BUDGETS
        if (sentence := _missed(budget, times.get((budget.contender, budget.at_a_time), {}))) is not None
    ]


def show(figures: Figures, console: Console) -> None:
    work = f"{figures['runs']} runs of {figures['steps']} no-op steps"
    table = Table(title=f"Durable steps a second: {work}, rounds: {figures['rounds']}")
    table.add_column("")
    for column in ("at a time", "min", "median", "max", "x Absurd", "x DBOS", "x floor", "own µs", "server µs"):
        table.add_column(column, justify="right")
    for before, row in zip([None, *figures["rows"]], figures["rows"], strict=False):
        if before is not None and before["at_a_time"] != row["at_a_time"]:
            table.add_section()
        table.add_row(row["title"], str(row["at_a_time"]), *_cells(row))
    console.print(table)
    for row in figures["rows"]:
        if row["failed"] is not None:
            console.print(f"{row['title']} at {row['at_a_time']} failed: {row['failed']}", markup=False)
    console.print("µs: microseconds of processors a step, of the contender's process and of PostgreSQL.", markup=False)
    console.print(figures["on"], markup=False)
    packages = ", ".join(f"{name} {found or 'not installed'}" for name, found in figures["packages"].items())
    console.print("; ".join(part for part in (described(figures["machine"]), packages) if part), markup=False)


def _measure_once(contender: Contender, row: Row, server_url: str, *, runs: int, steps: int) -> None:
    try:
        taken = taken_by(contender, server_url, runs=runs, steps=steps, at_a_time=row["at_a_time"])
    except ContenderError as failure:
        row["failed"] = str(failure)
        say(f"{contender.title} at {row['at_a_time']}: {failure}")
        return
    row["rates"].append(runs * steps / taken.seconds)
    row["process_us"].append(taken.process_seconds / (runs * steps) * 1e6)
    row["server_us"].append(taken.server_seconds / (runs * steps) * 1e6)
    say(f"{contender.title} at {row['at_a_time']}: {row['rates'][-1]:,.0f}/s")


def _row(contender: Contender, at_a_time: int) -> Row:
    return {
        "contender": contender.key,
        "title": contender.title,
        "at_a_time": at_a_time,
        "rates": [],
        "process_us": [],
        "server_us": [],
        "failed": None,
        "times": {},
    }


def _cells(row: Row) -> list[str]:
    rates = row["rates"]
    found = [f"{of(rates):,.0f}" for of in (min, statistics.median, max)] if rates else ["", "failed", ""]
    found += [f"{row['times'][peer]:.2f}" if peer in row["times"] else "" for peer in COMPARED]
    return found + [f"{statistics.median(us):,.0f}" if us else "" for us in (row["process_us"], row["server_us"])]


def _missed(budget: Budget, times: Mapping[str, float]) -> str | None:
    found = times.get(budget.peer)
    wanted = f"{TITLES[budget.contender]} at {budget.at_a_time}: at least {budget.times:g} times {TITLES[budget.peer]}"
    if found is None:
        return f"{wanted}, not measured"
    return f"{wanted}, found {found:.2f}" if found < budget.times else None


def _chosen(text: str) -> tuple[Contender, ...]:
    keys = text.split(",")
    unknown = [key for key in keys if key not in TITLES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no contender is called {unknown[0]!r}")
    return tuple(contender for contender in CONTENDERS if contender.key in keys)
