"""`python -m bench MEASUREMENT`: what Runbase costs, on a durable server of the measurement's own.

A measurement is a module with `QUICK` (its options for `--quick`), `add_options`, `measure` (figures that JSON can
hold), `show` and `missed` (sentences about budgets that were not kept). It exits with 1 only under `--assert`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from rich.console import Console

from bench import claim, distance, latency, options, storage, throughput
from bench.server import served

DEFAULT = "throughput"
MEASUREMENTS: Mapping[str, ModuleType] = {
    DEFAULT: throughput,
    "latency": latency,
    "claim": claim,
    "storage": storage,
    "distance": distance,
}
WIDTH = 125  # where there is no terminal to tell


def main(arguments: list[str]) -> int:
    chosen = _parser().parse_args(_named(arguments))
    measurement = MEASUREMENTS[chosen.measurement]
    with tempfile.TemporaryDirectory(prefix="runbase-bench-") as directory, served(Path(directory)) as server_url:
        figures = measurement.measure(server_url, chosen)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"measurement": chosen.measurement, **figures}, indent=2) + "\n")
    measurement.show(figures, Console(width=None if sys.stdout.isatty() else WIDTH))
    missed = measurement.missed(figures)
    for sentence in missed:
        print(f"Missed: {sentence}")
    return 1 if missed and chosen.strict else 0


def _named(arguments: list[str]) -> list[str]:
    """Without a measurement's name, the default one is meant; --quick stands for options, which later ones override."""
    if not arguments or (arguments[0] not in MEASUREMENTS and arguments[0] not in {"-h", "--help"}):
        arguments = [DEFAULT, *arguments]
    if "--quick" in arguments:
        return [arguments[0], *MEASUREMENTS[arguments[0]].QUICK, *arguments[1:]]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="What Runbase costs, beside its peers.")
    commands = parser.add_subparsers(dest="measurement", required=True)
    for name, measurement in MEASUREMENTS.items():
        about = (measurement.__doc__ or "").split("\n", 1)[0]
        measurement.add_options(commands.add_parser(name, parents=[options.common()], help=about, description=about))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
