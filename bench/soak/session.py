"""One soak from an empty data directory to its account: prepare, load with faults, drain, verify. Leaves no process."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool
from rich.console import Console

from bench.soak.crew import Crew
from bench.soak.crowd import gather_crowd
from bench.soak.faults import Outages, freeze_workers, kill_workers
from bench.soak.outside import Outside
from bench.soak.people import People
from bench.soak.places import PLACES_ARE_RIGHT, Places
from bench.soak.report import Faults, Load, show
from bench.soak.verify import Verdict, verify
from local.cli.signals import stop_event
from local.config import PROJECT_DIR
from local.ports import listening
from local.postgres import PostgresError, PostgresServer
from local.serving import prepare_database, serving

DRAIN_SECONDS = 120.0
SETTLE_SECONDS = 0.2
TELL_SECONDS = 15.0  # how often a line about the state is printed
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


@dataclass(frozen=True, slots=True)
class Options:
    """How long, how much and how hard."""

    seconds: float
    workers: int
    rate: float
    kill_every: float
    restart_every: float
    freeze_every: float
    seed: int
    log_dir: Path | None


class CutShort(Exception):  # noqa: N818 - says what happened
    """A signal came before there was anything to end, or a second one before everything had: nothing can be said."""


async def soak(options: Options, console: Console) -> int:
    """Run it, print the report, and return how many promises were broken.

    The first SIGINT or SIGTERM ends the load early; everything is drained and verified all the same.

    Raises:
        CutShort: it came before the server was up, or a second one came.
    """
    with stop_event() as stop:
        async with AsyncExitStack() as cleanup:
            directory = Path(tempfile.mkdtemp(prefix="runbase-soak-"))
            cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o755)  # noqa: ASYNC240 - PostgreSQL runs as another user where we are root
            server = PostgresServer(directory / "data", settings=DURABLE)
            cleanup.push_async_callback(asyncio.to_thread, server.stop, immediate=True)
            try:
                await asyncio.to_thread(server.start)
            except PostgresError:
                if stop.is_set():  # the terminal's Ctrl-C reaches initdb, too
                    raise CutShort from None
                raise
            await prepare_database(server.url, PROJECT_DIR / "supabase" / "migrations")
            return await _Session(options, console, stop, server, directory).run()


class _Session:
    def __init__(
        self, options: Options, console: Console, stop: asyncio.Event, server: PostgresServer, directory: Path
    ) -> None:
        self._options = options
        self._console = console
        self._stop = stop
        self._server = server
        self._directory = directory
        self._outside = Outside()
        self._outages = Outages(server)

    async def run(self) -> int:
        options = self._options
        crowd = await gather_crowd(self._server.url)
        async with AsyncExitStack() as cleanup:
            listener = cleanup.enter_context(listening("127.0.0.1", 0))
            await cleanup.enter_async_context(serving(self._outside.app, listener))
            outside_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            pool = AsyncConnectionPool(self._server.url, min_size=2, max_size=8, timeout=5, open=False)
            await cleanup.enter_async_context(pool)
            logs = options.log_dir or self._directory
            people = People(pool, crowd, seed=options.seed)
            places = Places(pool)
            arguments = [self._server.url, outside_url]
            workers = Crew("bench.soak.worker", arguments, count=options.workers, log=logs / "workers.log")
            readers = Crew("bench.consumer", arguments[:1], count=1, log=logs / "readers.log")
            for crew in (readers, workers):
                cleanup.push_async_callback(crew.stop)
                await crew.start()
            async with _tasks(readers.watch(), workers.watch(), people.attend(), people.observe(), places.watch()):
                times = [datetime.now(UTC)]
                for phase in (self._load(people, workers), self._drain(people)):
                    await phase
                    times.append(datetime.now(UTC))
            codes = await workers.stop()
            await readers.stop()
        return await asyncio.to_thread(self._account, people, places, workers, codes, times)

    async def _load(self, people: People, workers: Crew) -> None:
        """Start runs and make faults until the time is over or somebody wants it to be."""
        options, began = self._options, time.monotonic()
        work = [people.start_runs(rate=options.rate), self._tell(people, workers, began)]
        if options.kill_every > 0:
            killing = random.Random(f"{options.seed} kills")
            work.append(kill_workers(workers, every=options.kill_every, chance=killing))
        if options.freeze_every > 0:
            freezing = random.Random(f"{options.seed} freezes")
            work.append(freeze_workers(workers, every=options.freeze_every, chance=freezing))
        if options.restart_every > 0:
            crashing = random.Random(f"{options.seed} crashes")
            work.append(self._outages.make(every=options.restart_every, chance=crashing))
        async with _tasks(*work) as running:
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stopping, *running], timeout=options.seconds, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()

    async def _drain(self, people: People) -> None:
        """Until every run has ended, without faults. Gives up after `DRAIN_SECONDS`."""
        self._console.print("Draining ...")
        self._stop.clear()
        draining = asyncio.create_task(self._drained(people))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([draining, stopping], timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not draining.done():
                raise CutShort
        finally:
            for task in (draining, stopping):
                task.cancel()
            await asyncio.gather(draining, stopping, return_exceptions=True)

    async def _drained(self, people: People) -> None:
        await self._outages.over()
        await people.settled()
        while await people.count_open():  # noqa: ASYNC110 - the database's state
            await asyncio.sleep(SETTLE_SECONDS)

    async def _tell(self, people: People, workers: Crew, began: float) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            runs = f"{len(people.told.created):,} runs started, {people.open_runs:,} open"
            faults = f"{workers.killed} kills, {len(self._outages.seconds)} crashes of PostgreSQL"
            self._console.print(f"{time.monotonic() - began:5.0f} s  {runs}; {faults}")

    def _account(self, people: People, places: Places, workers: Crew, codes: list[int], times: list[datetime]) -> int:
        """Verify and report. `times`: when the load began and ended, and when everything was drained."""
        began, ended, drained = times
        said = workers.said()
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            account = verify(connection, people.told, self._outside.calls)
            row = connection.execute(_DONE, {"began": began, "ended": ended}).fetchone()
        assert row is not None
        errors = [f"{count} x {event}" for (level, event), count in said.items() if level != "WARNING"]
        ends = [f"a worker ended by itself with {code}" for code in workers.ended_alone]
        ends += [f"a worker that was told to stop ended with {code}" for code in codes if code != 0]
        account.verdicts.append(Verdict(PLACES_ARE_RIGHT, places.looks, places.wrong))
        account.figures |= places.figures
        account.verdicts.append(
            Verdict("No worker logged an error or ended unasked", workers.killed + len(codes), errors + ends)
        )
        load = Load(
            (ended - began).total_seconds(),
            started=row[0],
            ended=row[1],
            steps=row[2],
            drain_seconds=(drained - ended).total_seconds(),
        )
        faults = Faults(workers.killed, workers.frozen, self._outages.seconds, people.longest_overdue, said)
        show(self._console, load, faults, account, people.tally)
        return account.broken


_DONE = """
  select (select count(*) from agent_runs where created_at between %(began)s and %(ended)s),
    (select count(*) from agent_runs where finished_at between %(began)s and %(ended)s),
    (select count(*) from agent_steps where status = 'completed' and finished_at between %(began)s and %(ended)s)
"""


@asynccontextmanager
async def _tasks(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """Run these beside the block and cancel them after it. What failed among them is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
