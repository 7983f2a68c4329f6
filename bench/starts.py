"""How long `runbase stack` takes from its command until a request is answered: first of all, fresh, and again.

Each is a process of its own over a durable data directory, with every part and the project's functions. A request waits
at the gateway's port from the moment that is open, so no step of polling is in what is counted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import httpx
from rich.console import Console
from rich.table import Table

from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.spread import Limit, Spread, cells, sentences, spread
from local.config import PROJECT_DIR
from local.keys import Keys
from local.ports import free_port

QUICK = ("--starts", "1")
ANSWER_SECONDS = 60
STOP_SECONDS = 30
RETRY_SECONDS = 0.002  # while nobody listens yet

FIRST = "first start of all, nothing in the cache"
FRESH = "start over an empty directory"
AGAIN = "start over the same directory again"
BUDGETS = {FIRST: 2.0, FRESH: 2.0, AGAIN: 1.0}


class Figures(TypedDict):
    """Seconds, by what was started."""

    machine: dict[str, str]
    seconds: dict[str, Spread]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--starts", type=positive, default=7, help="of each kind (default 7)")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    with tempfile.TemporaryDirectory(prefix="runbase-bench-") as directory:
        place = Path(directory)
        place.chmod(0o755)  # PostgreSQL runs as another user where we are root
        found = _starts(place, options.starts)
    return {"machine": about, "seconds": {name: spread(seconds) for name, seconds in found.items()}}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept."""
    found = figures["seconds"]
    return sentences(
        Limit(f"{name}, p50", found[name]["p50"] if name in found else None, budget, "s")
        for name, budget in BUDGETS.items()
    )


def show(figures: Figures, console: Console) -> None:
    table = Table("", "n", "p50 s", "p95 s", "max s", "budget", title="Starts of the embedded stack")
    for name, found in figures["seconds"].items():
        table.add_row(name, str(found["count"]), *cells(found), f"p50 {BUDGETS[name]:g}")
    console.print(table)
    console.print(described(figures["machine"]), markup=False)


def _starts(place: Path, count: int) -> dict[str, list[float]]:
    """Nothing is deleted between starts: file systems are slow at making files where many have just gone."""
    found: dict[str, list[float]] = {FIRST: [], FRESH: [], AGAIN: []}
    _start(place / "warm", cache=place / "cache")  # compiles what was not compiled yet
    for number in range(count):
        found[FIRST].append(_start(place / f"first {number}", cache=place / f"cache {number}"))
        found[FRESH].append(_start(place / f"fresh {number}", cache=place / "cache"))
        found[AGAIN].append(_start(place / f"fresh {number}", cache=place / "cache"))
        say(", ".join(f"{seconds[-1]:.2f} s" for seconds in found.values()))
    return found


def _start(data_dir: Path, *, cache: Path) -> float:
    """Seconds until the first answer; the stack is stopped before they are returned."""
    port = free_port()
    command = [sys.executable, "-m", "local.cli", "stack", "--port", str(port), "--db-port", "0"]
    began = time.perf_counter()
    with _running([*command, "--data-dir", str(data_dir)], {**os.environ, "RUNBASE_CACHE_DIR": str(cache)}) as process:
        _first_answer(f"http://127.0.0.1:{port}/rest/v1/agent_runs?select=id&limit=1", process)
        return time.perf_counter() - began


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=PROJECT_DIR, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)


def _first_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Ask until somebody listens; what asks then is answered when the stack is up."""
    headers = {"apikey": Keys().secret_key}
    with httpx.Client(trust_env=False, timeout=ANSWER_SECONDS) as client:
        while True:
            try:
                client.get(url, headers=headers).raise_for_status()
            except httpx.ConnectError:
                if process.poll() is not None:
                    raise RuntimeError("the stack did not start") from None
                time.sleep(RETRY_SECONDS)
            else:
                return
