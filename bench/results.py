"""What `all` found, kept in one JSON file: every measurement's figures, when, and which budgets were missed."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, cast

from bench.measurements import MEASUREMENTS, figures_of
from bench.progress import say
from local.config import PROJECT_DIR

RESULTS = PROJECT_DIR / "docs" / "bench" / "results.json"
QUICK_RESULTS = PROJECT_DIR / "build" / "bench" / "results.json"  # not to be taken for the others


class Results(TypedDict):
    """By measurement. What failed says why, and has no figures; times are UTC."""

    started: str
    ended: str
    quick: bool
    measurements: dict[str, Any]
    missed: dict[str, list[str]]
    failed: dict[str, str]


def all_measured(
    options_of: Callable[[str], argparse.Namespace], measured: Callable[[str, argparse.Namespace], Any] = figures_of
) -> Iterator[Results]:
    """Measure everything, and give the results again after each; one that fails leaves the others alone."""
    results: Results = {
        "started": _now(),
        "ended": "",
        "quick": False,
        "measurements": {},
        "missed": {},
        "failed": {},
    }
    for name, measurement in MEASUREMENTS.items():
        options = options_of(name)
        say(f"{name} ...")
        try:
            figures = measured(name, options)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is told, and the exit code says so
            traceback.print_exc()
            results["failed"][name] = f"{type(failure).__name__}: {failure}"
        else:
            results["measurements"][name] = figures
            results["missed"][name] = measurement.missed(figures)
        results["quick"] = options.quick
        results["ended"] = _now()
        yield results


def write(results: Results, path: Path) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n")


def read(path: Path) -> Results:
    return cast("Results", json.loads(path.read_text()))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
