"""`python -m bench MEASUREMENT`: what Runbase costs, on a durable server of the measurement's own.

A measurement is a module with `QUICK` (its options for `--quick`), `add_options`, `measure` (figures that JSON can
hold), `show` and `missed` (sentences about budgets that were not kept). `all` makes every measurement and keeps the
results; `show` and `plot` read them. It exits with 1 for a missed budget only under `--assert`.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from bench import options, plot
from bench.measurements import DEFAULT, MEASUREMENTS, figures_of
from bench.progress import say
from bench.results import QUICK_RESULTS, RESULTS, Results, all_measured, read, write

ALL, SHOW, PLOT = "all", "show", "plot"
COMMANDS = (*MEASUREMENTS, ALL, SHOW, PLOT)
WIDTH = 125  # where there is no terminal to tell


def main(arguments: list[str]) -> int:
    chosen = _parser().parse_args(_named(arguments))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    match chosen.command:
        case "all":
            return _all(chosen, console)
        case "show":
            _show(read(chosen.results), console)
            return 0
        case "plot":
            say(f"drew {plot.draw(read(chosen.results), chosen.results.with_name(plot.NAME))}")
            return 0
        case name:
            return _one(name, chosen, console)


def _one(name: str, chosen: argparse.Namespace, console: Console) -> int:
    figures = figures_of(name, chosen)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"measurement": name, **figures}, indent=2) + "\n")
    MEASUREMENTS[name].show(figures, console)
    missed = MEASUREMENTS[name].missed(figures)
    _print_missed(missed, console)
    return 1 if missed and chosen.strict else 0


def _all(chosen: argparse.Namespace, console: Console) -> int:
    path = chosen.json or (QUICK_RESULTS if chosen.quick else RESULTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    parser = _parser()
    results: Results | None = None
    for results in all_measured(lambda name: parser.parse_args(_named([name, *(["--quick"] * chosen.quick)]))):
        write(results, path)  # what was measured is kept, whatever becomes of the rest
    assert results is not None
    say(f"drew {plot.draw(results, path.with_name(plot.NAME))}")
    _show(results, console)
    return 1 if results["failed"] or (chosen.strict and any(results["missed"].values())) else 0


def _show(results: Results, console: Console) -> None:
    sizes = ", in the sizes of --quick" if results["quick"] else ""
    console.print(f"Measured from {results['started']} to {results['ended']}{sizes}.\n", markup=False)
    for name, figures in results["measurements"].items():
        MEASUREMENTS[name].show(figures, console)
        console.print()
    for name, reason in results["failed"].items():
        console.print(f"Failed: {name}: {reason}", markup=False)
    _print_missed([sentence for missed in results["missed"].values() for sentence in missed], console)


def _print_missed(missed: list[str], console: Console) -> None:
    for sentence in missed:
        console.print(f"Missed: {sentence}", markup=False)


def _named(arguments: list[str]) -> list[str]:
    """Without a command the default measurement is meant. Of `--quick`'s options, those given after it win."""
    if not arguments or (arguments[0] not in COMMANDS and arguments[0] not in {"-h", "--help"}):
        arguments = [DEFAULT, *arguments]
    if "--quick" in arguments and arguments[0] in MEASUREMENTS:
        return [arguments[0], *MEASUREMENTS[arguments[0]].QUICK, *arguments[1:]]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="What Runbase costs, beside its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, measurement in MEASUREMENTS.items():
        about = (measurement.__doc__ or "").split("\n", 1)[0]
        measurement.add_options(commands.add_parser(name, parents=[options.common()], help=about, description=about))
    about = "All of them, kept as JSON and as a picture beside it; about a quarter of an hour."
    commands.add_parser(ALL, parents=[options.common()], help=about, description=about)
    for name, about in ((SHOW, "The tables of kept results."), (PLOT, "The picture of kept results.")):
        reading = commands.add_parser(name, help=about, description=about)
        reading.add_argument("results", type=options.file, nargs="?", default=RESULTS, help=f"default {RESULTS.name}")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
