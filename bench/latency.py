"""How long people wait: for a run to begin, for its log lines, for agent-execute, and for a function to be imported.

Gateway, worker and the client are processes of their own on one machine; times are by its one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypedDict

import httpx
from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.live_worker import live_worker
from bench.machine import described, machine
from bench.options import positive
from bench.polling import row_of
from bench.progress import say
from bench.rest_gateway import gateway
from bench.server import migrated_database, runbase_database
from bench.spread import Limit, Spread, cells, sentences, spread
from bench.viewers import Lateness, Visitor, followed, signed_up
from bench.work import Person, favour, new_person
from local.config import PROJECT_DIR

QUICK = ("--starts", "10", "--lines", "15", "--requests", "20", "--imports", "2")
WARM = 5  # tries that do not count
ALONE_SECONDS = 0.25  # between lines that come one by one
BUSY_SECONDS = 0.02  # between lines of a run that writes many
MODEL_SDKS = ("anthropic", "openai")
DRAIN = "queue_drain"

START = "queued -> first step running"
REALTIME = "log line -> Realtime callback"
SSE = "log line -> SSE event"
REALTIME_BUSY = "same, 50 lines a second: Realtime"
SSE_BUSY = "same, 50 lines a second: SSE"
EXECUTE = "agent-execute create and start"
SELECT = "REST select by key"


class Import(TypedDict):
    """A function's import in a fresh interpreter: the median in milliseconds, and the model SDKs it brought."""

    ms: float
    sdks: list[str]


class Figures(TypedDict):
    """Milliseconds, by what was measured; log lines that came more than once; and imports by function."""

    machine: dict[str, str]
    ms: dict[str, Spread]
    repeated: int
    imports: dict[str, Import]


class Budget(TypedDict):
    """The percentile of a latency that counts, and its greatest value."""

    percentile: str
    ms: float


BUDGETS: dict[str, Budget] = {
    START: {"percentile": "p50", "ms": 25},
    REALTIME: {"percentile": "p95", "ms": 100},
    SSE: {"percentile": "p95", "ms": 300},
    EXECUTE: {"percentile": "p50", "ms": 15},
    SELECT: {"percentile": "p50", "ms": 4},
}
IMPORT_MS = 400


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--starts", type=positive, default=100, help="runs started (default 100)")
    parser.add_argument("--lines", type=positive, default=100, help="log lines followed (default 100)")
    parser.add_argument(
        "--requests", type=positive, default=200, help="calls of agent-execute, and selects (default 200)"
    )
    parser.add_argument("--imports", type=positive, default=7, help="imports of each function (default 7)")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    with runbase_database(server_url) as url:
        starts = asyncio.run(_starts(url, options.starts))
    say(f"starts: {statistics.median(starts):.1f} ms")
    # Here the gateway's own Realtime reads the publications.
    with migrated_database(server_url) as url:
        alone, busy, execute, select = asyncio.run(_at_gateway(url, lines=options.lines, requests=options.requests))
    imports = {path.parent.name: _import(path.parent.name, options.imports) for path in _functions()}
    of = {
        START: starts,
        REALTIME: [*alone.realtime.values()],
        SSE: [*alone.sse.values()],
        REALTIME_BUSY: [*busy.realtime.values()],
        SSE_BUSY: [*busy.sse.values()],
        EXECUTE: execute,
        SELECT: select,
    }
    return {
        "machine": about,
        "ms": {name: spread(ms) for name, ms in of.items()},
        "repeated": alone.repeated + busy.repeated,
        "imports": imports,
    }


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept, or not shown to be."""
    limits = [
        Limit(f"{name}, {budget['percentile']}", _percentile(figures, name, budget["percentile"]), budget["ms"], "ms")
        for name, budget in BUDGETS.items()
    ]
    limits.append(Limit("log lines that came again", figures["repeated"], 0))
    limits += [Limit(f"import of {name}", found["ms"], IMPORT_MS, "ms") for name, found in figures["imports"].items()]
    limits += [
        Limit(f"model SDKs that {name} imports", len(found["sdks"]), 0)
        for name, found in figures["imports"].items()
        if name != DRAIN
    ]
    return sentences(limits)


def show(figures: Figures, console: Console) -> None:
    table = Table("", "n", "p50 ms", "p95 ms", "max ms", "budget", title="Latency")
    for name, found in figures["ms"].items():
        budget = BUDGETS.get(name)
        wanted = f"{budget['percentile']} {budget['ms']:g}" if budget else ""
        table.add_row(name, str(found["count"]), *cells(found), wanted)
    console.print(table)
    console.print(f"Log lines that came again: {figures['repeated']}.", markup=False)
    imports = Table("cold import of", "ms", "model SDKs", "budget", title="Fresh interpreters")
    for name, found in figures["imports"].items():
        imports.add_row(name, f"{found['ms']:.0f}", ", ".join(found["sdks"]) or "none", str(IMPORT_MS))
    console.print(imports)
    console.print(described(figures["machine"]), markup=False)


async def _starts(url: str, count: int) -> list[float]:
    """One run at a time, with the worker idle between them."""
    async with live_worker(url), new_person(url) as person:
        return [await _start(url, person) for _ in range(count + WARM)][WARM:]


async def _start(url: str, person: Person) -> float:
    """From the moment its start is written, its commit still to come, until its first step is performed."""
    run_id = await person.create({"steps": 1})
    await person.start(run_id)
    query = (
        "select extract(epoch from r.started_at)::float8, (s.output ->> 'began')::float8 from agent_runs r"
        " join agent_steps s on s.run_id = r.id where r.id = %s and r.status = 'completed'"
    )
    async with await AsyncConnection.connect(url, autocommit=True) as watching:
        started, began = await row_of(watching, query, run_id)
    return (began - started) * 1000


async def _at_gateway(url: str, *, lines: int, requests: int) -> tuple[Lateness, Lateness, list[float], list[float]]:
    async with gateway(url, functions=True) as api_url, live_worker(url), signed_up(api_url) as visitor:
        async with await AsyncConnection.connect(url, autocommit=True) as admin:
            await favour(admin, visitor.user_id)
        await followed(visitor, steps=WARM, seconds=ALONE_SECONDS)
        alone = await followed(visitor, steps=lines, seconds=ALONE_SECONDS)
        realtime, sse = (statistics.median(way.values()) for way in (alone.realtime, alone.sse))
        say(f"log lines: Realtime {realtime:.1f} ms, SSE {sse:.1f} ms")
        busy = await followed(visitor, steps=lines * 3, seconds=BUSY_SECONDS)
        execute = await _execute(visitor, requests)
        say(f"agent-execute: {statistics.median(execute):.1f} ms")
        select = await _select(visitor, requests)
        say(f"select by key: {statistics.median(select):.1f} ms")
    return alone, busy, execute, select


async def _execute(visitor: Visitor, count: int) -> list[float]:
    """Requests one after the other over one connection, as a browser makes them."""
    body = {"action": "create", "prompt": "Write a hello world program in Python", "options": {"autostart": True}}
    found: list[float] = []
    async with httpx.AsyncClient(base_url=visitor.api_url, headers=visitor.headers) as http:
        for _ in range(count + WARM):
            start = time.perf_counter()
            response = await http.post("/functions/v1/agent-execute", json=body)
            found.append((time.perf_counter() - start) * 1000)
            response.raise_for_status()
            assert response.json()["status"] == "queued", response.text
    return found[WARM:]


async def _select(visitor: Visitor, count: int) -> list[float]:
    """One run by its key under row-level security, as supabase-py asks for it, over its one connection."""
    found: list[float] = []
    runs = visitor.client.table("agent_runs")
    run_id = (await runs.select("id").limit(1).single().execute()).data["id"]
    for _ in range(count + WARM):
        start = time.perf_counter()
        answer = await runs.select("*").eq("id", run_id).execute()
        found.append((time.perf_counter() - start) * 1000)
        assert len(answer.data) == 1, answer
    return found[WARM:]


def _functions() -> list[Path]:
    return sorted((PROJECT_DIR / "functions").glob("*/app.py"))


def _import(function: str, times: int) -> Import:
    """By the module's own import, without the start of the interpreter; its bytecode is compiled before."""
    code = (
        "import json, sys, time; start = time.perf_counter(); "
        f"import functions.{function}.app; ms = (time.perf_counter() - start) * 1000; "
        f"print(json.dumps([ms, [name for name in {MODEL_SDKS!r} if name in sys.modules]]))"
    )
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def imported() -> tuple[float, list[str]]:
            command = [sys.executable, "-c", code]
            return json.loads(subprocess.check_output(command, cwd=PROJECT_DIR, env=environment, text=True))

        imported()  # compiles
        found = [imported() for _ in range(times)]
    ms = statistics.median(one for one, _ in found)
    say(f"import of {function}: {ms:.0f} ms")
    return {"ms": ms, "sdks": found[0][1]}


def _percentile(figures: Figures, name: str, percentile: str) -> float | None:
    found = figures["ms"].get(name)
    return None if found is None else found[percentile]  # type: ignore[literal-required]
