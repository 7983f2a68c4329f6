"""What a step waits for its credential: the call that hands it out and writes it down, and the keys' part.

One step opens one credential again and again, as a worker does it. A key service is stood in for by one that answers
after 20 ms, about what AWS KMS takes within a region. Then everything is moved to another master key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, TypedDict
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.server import migrated_database
from bench.spread import Limit, Spread, cells, sentences, spread
from bench.work import LEASE_SECONDS, Person, new_person
from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.runs.models import Json, NewStep, RunId
from shared.runs.status import RunStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, StartStep
from shared.vault.binding import Binding
from shared.vault.cache import CachedKeys
from shared.vault.keys import KeyProvider, LocalKeys
from shared.vault.marks import Marks
from shared.vault.opening import Vault
from shared.vault.providers import parse
from shared.vault.rewrapping import rewrap_all
from shared.vault.ring import KeyRing
from shared.vault.sealing import sealed_secret

QUICK = ("--openings", "50", "--credentials", "100")
LOCAL, SERVICE, REMEMBERED = "keys in memory", "a key service", "a key service, remembered"
SERVICE_SECONDS = 0.020
WARM = 10  # openings that do not count
OPEN_MS: Mapping[str, float] = {LOCAL: 1.0, SERVICE: 100.0, REMEMBERED: 1.0}
OLD, NEW = b"o" * 32, b"n" * 32
PROVIDER = "openai"


class Row(TypedDict):
    """Openings with one kind of keys, in ms: `opened` as a step waits for them, `call` the database's part of it."""

    title: str
    opened: Spread
    call: Spread


class Figures(TypedDict):
    """What a measurement found; `rewrapped` is credentials a second."""

    machine: dict[str, str]
    rows: list[Row]
    credentials: int
    rewrapped: float


class KeyService(LocalKeys):
    """Keys that are somewhere else."""

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        await asyncio.sleep(SERVICE_SECONDS)
        return await super().unwrap(wrapped, version, binding)


class TimedDatabase:
    """Hands calls on and keeps how long each took, in milliseconds."""

    def __init__(self, database: Database) -> None:
        self.taken: list[float] = []
        self._database = database

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        began = time.perf_counter()
        answer = await self._database.call(function, arguments)
        self.taken.append((time.perf_counter() - began) * 1000)
        return answer

    async def close(self) -> None:
        await self._database.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--openings", type=positive, default=1000, help="with each kind of keys (default 1000)")
    parser.add_argument("--credentials", type=positive, default=10_000, help="to be rewrapped (default 10000)")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    with migrated_database(server_url) as url:
        rows = asyncio.run(_rows(url, openings=options.openings))
        for row in rows:
            say(f"{row['title']}: opened in {row['opened']['p50']:.2f} ms")
        rewrapped = asyncio.run(_rewrapped(url, options.credentials))
        say(f"rewrapped {rewrapped:,.0f} a second")
    return {"machine": about, "rows": rows, "credentials": options.credentials, "rewrapped": rewrapped}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept."""
    return sentences(
        Limit(f"opening a credential with {row['title']}, p50", row["opened"]["p50"], OPEN_MS[row["title"]], "ms")
        for row in figures["rows"]
    )


def show(figures: Figures, console: Console) -> None:
    table = Table(title="Opening a credential for a step, ms")
    for column in ("", "p50", "p95", "max", "of it: call p50", "p95", "max"):
        table.add_column(column, justify="right" if column else "left")
    for row in figures["rows"]:
        table.add_row(row["title"], *cells(row["opened"]), *cells(row["call"]))
    console.print(table)
    console.print(f"{figures['credentials']:,} credentials rewrapped at {figures['rewrapped']:,.0f} a second.")
    console.print(described(figures["machine"]), markup=False)


async def _rows(url: str, *, openings: int) -> list[Row]:
    providers: Mapping[str, KeyProvider] = {
        LOCAL: LocalKeys({1: OLD}),
        SERVICE: KeyService({1: OLD}),
        REMEMBERED: CachedKeys(KeyService({1: OLD})),
    }
    async with new_person(url) as person, DirectDatabase(url) as database:
        step = await _held_step(RunStore(database), person, await _add_credential(person))
        return [await _row(title, database, keys, step, openings=openings) for title, keys in providers.items()]


async def _row(title: str, database: Database, keys: KeyProvider, step: Mapping[str, Any], *, openings: int) -> Row:
    timed, taken = TimedDatabase(database), list[float]()
    vault = Vault(timed, keys)
    for _ in range(openings + WARM):
        began = time.perf_counter()
        async with vault.open(**step):
            taken.append((time.perf_counter() - began) * 1000)
    return {"title": title, "opened": spread(taken[WARM:]), "call": spread(timed.taken[WARM:])}


async def _rewrapped(url: str, credentials: int) -> float:
    async with new_person(url) as person, await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("delete from public.credentials")
        await connection.execute("alter table public.credentials disable trigger all")  # no account for each
        await _fill(connection, person, credentials)
    keys = KeyRing([LocalKeys({1: OLD, 2: NEW})], Marks([NEW, OLD]))
    async with DirectDatabase(url) as database:
        began = time.perf_counter()
        moved = sum([done.moved async for done in rewrap_all(database, keys)])
        seconds = time.perf_counter() - began
    assert moved == credentials, f"moved {moved}"
    return credentials / seconds


async def _fill(connection: AsyncConnection, person: Person, credentials: int) -> None:
    """More than an account may have, so straight into the table."""
    columns = ("id", "account_id", "user_id", "provider", "name", "sealed", "ticket_hash", "fingerprint", "key_version")
    async with (
        connection.cursor() as cursor,
        cursor.copy(f"copy public.credentials ({', '.join(columns)}) from stdin") as copy,
    ):
        for _ in range(credentials):
            row = await _sealed(person)
            await copy.write_row([row[column] for column in columns])


async def _add_credential(person: Person) -> UUID:
    credential = {name: value for name, value in (await _sealed(person)).items() if name != "user_id"}
    await person.connection.execute("select public.create_credential(%s)", [json.dumps(credential)])
    return UUID(str(credential["id"]))


async def _sealed(person: Person) -> dict[str, Json]:
    binding = Binding(person.id, uuid4(), PROVIDER)
    keys = KeyRing([LocalKeys({1: OLD})], Marks([OLD]))
    return {
        **await sealed_secret(keys, parse(PROVIDER, {"api_key": f"sk-{uuid4().hex}"}), binding),
        "id": str(binding.credential_id),
        "account_id": str(person.id),
        "user_id": str(person.id),
        "provider": PROVIDER,
        "name": "Bench",
    }


async def _held_step(store: RunStore, person: Person, credential_id: UUID) -> Mapping[str, Any]:
    """What `Vault.open` asks for: a run of the person's whose first step is performed."""
    request = {"engine": "bench", "input": {}, "autostart": True, "credentials": {PROVIDER: str(credential_id)}}
    await person.connection.execute("select public.create_run(%s)", [json.dumps(request)])
    (view,) = (await store.claim(owner="bench", limit=1, lease_seconds=LEASE_SECONDS, engines=("bench",))).views
    run_id, lease_id = RunId(view.run.id), view.run.lease_id
    assert lease_id is not None
    start = StartStep(1, uuid4(), NewStep("s1", "noop", "s1"))
    advance = Advance(run_id, lease_id, view.run.revision, start=(start,), status=RunStatus.EXECUTING)
    assert (await store.advance([advance], lease_seconds=LEASE_SECONDS))[run_id].won
    return {"run_id": run_id, "lease_id": lease_id, "step_no": 1, "attempt": 1, "provider": PROVIDER}
