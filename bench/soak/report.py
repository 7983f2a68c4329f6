"""The soak's report, for a person: the load that was held, the faults that befell it, and what was lost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.soak.verify import Account, Verdict

EXAMPLES = 5  # broken cases shown of each promise


@dataclass(frozen=True, slots=True)
class Load:
    """What was done while the load was on, outages included."""

    seconds: float
    started: int
    ended: int
    steps: int
    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Faults:
    """What was done to the system."""

    kills: int
    freezes: int
    outages: list[float]
    longest_overdue: float
    said: Counter[tuple[str, str]]


def new_console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def show(console: Console, load: Load, faults: Faults, account: Account, tally: Mapping[str, int]) -> None:
    """Print everything; the last line is the one that matters."""
    _figures(console, "Load held", [
        ("time under load", f"{load.seconds:,.0f} s"),
        ("runs started", f"{load.started:,} ({load.started / load.seconds:,.1f} a second)"),
        ("runs ended", f"{load.ended:,} ({load.ended / load.seconds:,.1f} a second)"),
        ("steps completed", f"{load.steps:,} ({load.steps / load.seconds:,.1f} a second)"),
        ("until the last run ended after it", f"{load.drain_seconds:,.1f} s"),
        ("ends", ", ".join(f"{count:,} {status}" for status, count in account.runs.most_common())),
        *((name, f"{count:,}") for name, count in sorted(tally.items())),
    ])  # fmt: skip
    outages = f", the longest for {max(faults.outages):.1f} s" if faults.outages else ""
    _figures(console, "Faults survived", [
        ("workers killed (SIGKILL)", f"{faults.kills}"),
        ("workers frozen (SIGSTOP) and thawed", f"{faults.freezes}"),
        ("crashes of PostgreSQL (immediate restart)", f"{len(faults.outages)}{outages}"),
        *((name, f"{count:,}") for name, count in account.figures.items()),
        ("a dead worker's run waited at most", f"{faults.longest_overdue:.1f} s beyond its lease"),
        ("what workers logged", _said(faults.said)),
    ])  # fmt: skip
    _verdicts(console, account.verdicts)


def _verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    table = Table(title="Promises", title_justify="left", expand=True)
    table.add_column("", ratio=1)
    table.add_column("looked at", justify="right", no_wrap=True)
    table.add_column("broken", justify="right", no_wrap=True)
    broken = [verdict for verdict in verdicts if verdict.broken]
    for verdict in verdicts:
        style = "bold red" if verdict.broken else None
        table.add_row(verdict.sentence, f"{verdict.looked_at:,}", f"{len(verdict.broken):,}", style=style)
        for case in verdict.broken[:EXAMPLES]:
            table.add_row(f"  {case}", style="red")
    console.print(table)
    if broken:
        console.print(f"Broken: {len(broken)} of {len(verdicts)} promises", style="bold red")
    else:
        console.print("Lost: nothing", style="bold green")


def _figures(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(title=title, title_justify="left", show_header=False, expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _said(said: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{count:,} {event}" for (_, event), count in said.most_common()) or "nothing"
