"""How long a claim of ten runs takes, however many are queued, and what a newcomer waits for behind a crowd.

A claim is timed as a worker makes it, its commit apart. Its runs are ended and as many queued before the next one, so
the queue keeps its length and places are handed on in between.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any, TypedDict

import orjson
from psycopg import AsyncConnection
from psycopg.types.json import set_json_loads
from rich.console import Console
from rich.table import Table

from bench.full_queue import ENGINE, PLACES, assert_places, fill, queue_more
from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.server import migrated_database
from bench.spread import Limit, Spread, sentences, spread
from bench.work import LEASE_SECONDS, new_person

QUICK = ("--claims", "10", "--queued", "1000", "10000", "--accounts", "1", "1000", "--crowd", "2000")
QUEUED = (1_000, 100_000, 1_000_000)
ACCOUNTS = (1, 1_000, 100_000)
CROWD = 100_000
TEN = 10
WARM = 5  # claims that do not count
FLAT = 2.0  # times the shortest queue's
PICK_MS = 1.0
TURN = 2  # a newcomer's place in the order of claims: with the run that would have been next


# By PostgreSQL's own clock. A function's time has that of those it calls in it.
_PARTS = """
    select funcname, total_time from pg_stat_xact_user_functions
    where schemaname = 'private' and funcname in ('claim_runs', 'run_view')
"""


class Row(TypedDict):
    """Claims at one length of the queue, in milliseconds.

    `claim` is the call as a client sees it. Of it, by the server's clock, `pick` sweeps, picks ten and leases them, and
    `view` reads them for the worker. `commit` writes the WAL out: the more the wider the ten are scattered, for behind
    a checkpoint every page that changes is written whole. `end` is the call that ends the ten and hands on their
    places, with its commit.
    """

    queued: int
    accounts: int
    claim: Spread
    commit: Spread
    pick: Spread
    view: Spread
    end: Spread


class Figures(TypedDict):
    """`place` is a newcomer's first run's place in the order of claims behind a tenant with `crowd` queued runs."""

    machine: dict[str, str]
    claims: int
    rows: list[Row]
    crowd: int
    place: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--claims", type=positive, default=50, help="claims timed at each length (default 50)")
    for name, default in (("--queued", QUEUED), ("--accounts", ACCOUNTS)):
        parser.add_argument(name, type=positive, nargs="+", default=default, metavar="N", help=f"default {default}")
    parser.add_argument("--crowd", type=positive, default=CROWD, help=f"runs before a newcomer's (default {CROWD})")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    rows: list[Row] = []
    for queued in sorted(options.queued):
        for accounts in sorted(number for number in options.accounts if number <= queued):
            with migrated_database(server_url) as url:
                rows.append(asyncio.run(_row(url, queued, accounts, claims=options.claims)))
            say(f"{queued:,} queued of {accounts:,} accounts: {rows[-1]['claim']['p50']:.2f} ms")
    with migrated_database(server_url) as url:
        place = asyncio.run(_place_of_newcomer(url, options.crowd))
    return {"machine": about, "claims": options.claims, "rows": rows, "crowd": options.crowd, "place": place}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept, or not shown to be."""
    limits = [Limit(f"the newcomer's place behind {figures['crowd']:,} runs", figures["place"], TURN)]
    for accounts in sorted({row["accounts"] for row in figures["rows"]}):
        lengths = sorted((row for row in figures["rows"] if row["accounts"] == accounts), key=lambda row: row["queued"])
        first, last = lengths[0], lengths[-1]
        what = f"claim of {TEN} at {last['queued']:,} queued of {accounts:,} accounts"
        if last is not first:
            times = last["claim"]["p50"] / first["claim"]["p50"]
            limits.append(Limit(f"{what}, times that at {first['queued']:,}", times, FLAT))
        limits.append(Limit(f"{what}, the pick alone, p50", last["pick"]["p50"], PICK_MS, "ms"))
    return sentences(limits)


def show(figures: Figures, console: Console) -> None:
    table = Table(title=f"A claim of {TEN} runs, ms: p50 / p95 of {figures['claims']}")
    for column in ("queued", "accounts", "claim", "of it: pick", "views", "its commit", "end of the ten"):
        table.add_column(column, justify="right")
    for row in figures["rows"]:
        spreads = (row["claim"], row["pick"], row["view"], row["commit"], row["end"])
        parts = [f"{found['p50']:.2f} / {found['p95']:.2f}" for found in spreads]
        table.add_row(f"{row['queued']:,}", f"{row['accounts']:,}", *parts)
    console.print(table)
    console.print(
        f"Each account has {PLACES} places; its other runs are held. A newcomer's first run behind a tenant's"
        f" {figures['crowd']:,} is number {figures['place']} in the order of claims.",
        markup=False,
    )
    console.print(described(figures["machine"]), markup=False)


async def _row(url: str, queued: int, accounts: int, *, claims: int) -> Row:
    found: dict[str, list[float]] = {name: [] for name in ("claim", "commit", "pick", "view", "end")}
    async with await AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as connection:
        await _prepare(connection)
        await fill(connection, accounts=accounts, runs=queued)
        for number in range(claims + WARM):
            timed = await _claim_and_end(connection)
            if number >= WARM:
                for name, ms in timed.items():
                    found[name].append(ms)
        await assert_places(connection)
    spreads = {name: spread(values) for name, values in found.items()}
    return {"queued": queued, "accounts": accounts, **spreads}  # type: ignore[typeddict-item]


async def _prepare(connection: AsyncConnection) -> None:
    set_json_loads(_as_it_came, connection)
    await connection.execute("set track_functions = 'all'")


async def _claim_and_end(connection: AsyncConnection) -> dict[str, float]:
    """One claim of ten, timed in its parts; then things are as before."""
    async with connection.transaction():
        before = await _parts(connection)
        began = time.perf_counter()
        answer = await _one(connection, "select public.claim_runs('bench', %s, %s, %s)", TEN, LEASE_SECONDS, [ENGINE])
        answered = time.perf_counter()
        after = await _parts(connection)
        before_commit = time.perf_counter()
    committed = time.perf_counter()
    runs = [view["run"] for view in orjson.loads(answer)["runs"]]
    assert len(runs) == TEN, f"claimed {len(runs)}"

    batch = orjson.dumps({"v": 1, "lease_seconds": LEASE_SECONDS, "runs": [_ending(run) for run in runs]}).decode()
    before_end = time.perf_counter()
    ended = orjson.loads(await _one(connection, "select public.advance_runs(%s::jsonb)", batch))
    end = time.perf_counter()
    assert ended["won"] == TEN, ended
    await queue_more(connection, [run["account_id"] for run in runs])
    parts = {name: after[name] - before.get(name, 0.0) for name in after}
    return {
        "claim": (answered - began) * 1000,
        "commit": (committed - before_commit) * 1000,
        "pick": parts["claim_runs"] - parts["run_view"],
        "view": parts["run_view"],
        "end": (end - before_end) * 1000,
    }


async def _parts(connection: AsyncConnection) -> dict[str, float]:
    """Milliseconds so far by function. They begin anew now and then, but never within a transaction."""
    return dict(await (await connection.execute(_PARTS)).fetchall())


def _ending(run: dict[str, Any]) -> dict[str, object]:
    return {
        "run_id": run["id"],
        "lease_id": run["lease_id"],
        "revision": run["revision"],
        "status": "failed",
        "new_steps": 0,
        "completed": False,
        "in_flight": 0,
        "charge": 0,
        "released": 0,
        "wanted": 0,
        "lines": 0,
    }


async def _place_of_newcomer(url: str, crowd: int) -> int:
    async with await AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as connection:
        await fill(connection, accounts=1, runs=crowd)
        await _prepare(connection)
        await _claim_and_end(connection)  # the tenant has been served for a while
        async with new_person(url) as newcomer:
            first = await newcomer.create(autostart=True)
        for place in range(1, crowd + 1):
            answer = await _one(connection, "select public.claim_runs('bench', 1, %s, %s)", LEASE_SECONDS, [ENGINE])
            if orjson.loads(answer)["runs"][0]["run"]["id"] == str(first):
                return place
    raise AssertionError("the newcomer's run was never claimed")


async def _one(connection: AsyncConnection, statement: str, *values: object) -> Any:
    row = await (await connection.execute(statement, values)).fetchone()
    assert row is not None
    return row[0]


def _as_it_came(data: bytes) -> bytes:
    """Reading JSON is no part of a claim."""
    return data
