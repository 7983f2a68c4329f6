"""Group commit: while an `advance_runs` call is in flight, everything that finishes meanwhile goes into the next.

A busy worker so commits many runs a call and an idle one never waits. A call that failed may be repeated, whatever
became of it: the fence lets an item win once, and a repeat loses by the revision. So a database that is away is asked
again until it answers. A call that the database refuses, or is too slow for, while it serves others, is divided until
the guilty item stands alone; one that waits for a lock or for time is then tried aside, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from shared.crash_points import crash_point
from shared.errors import AppError, DatabaseUnavailable
from shared.logs import logger
from shared.runs.backoff import backoff_seconds
from shared.runs.models import RunId
from shared.runs.store import RunStore
from shared.runs.text import json_bytes
from shared.runs.transitions import Advance, Advanced

log = logger(__name__)

MAX_BATCH: Final = 100  # items a call
CALLS: Final = 2  # in flight: what one group of runs does between two calls overlaps with the other group's call
MIN_SHARE: Final = (
    25  # runs: under twice as many, a call's own cost outweighs what overlaps (measured at 10 and at 100)
)
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024  # of results; one item may be larger, and then goes alone
PARTS: Final = 10  # of a call that is divided: two divisions single out one item of a hundred
TRIES: Final = 3  # in a row that lose their connection, before somebody in the call is suspected of it
ASIDE_TRIES: Final = 5  # of an item alone that is too slow for a database which serves others meanwhile

LOCKED: Final = "55P03"
# Locked, statement or transaction timeout, and a call that we gave up: it may be one item's doing, at the cost of all.
SLOW: Final = (LOCKED, "57014", "25P04", "timeout", "ReadTimeout", "WriteTimeout")
# Nobody's doing but the database's: no resources, going down or coming up, read-only, rolled back to be repeated.
NOBODYS: Final = ("53", "57P", "25006", "40", "PGRST00")


@dataclass(slots=True)
class Waiting:
    """An item and who waits for its answer; `tries` counts those that failed while it was alone."""

    item: Advance
    answer: asyncio.Future[Advanced]
    size: int
    tries: int = 0


class Advancer:
    """Commits transitions of many runs, few calls at a time. Run `serve` beside the executions that `submit`."""

    def __init__(self, store: RunStore, *, lease_seconds: float, runs: Callable[[], int]) -> None:
        """`runs` counts the runs that submit, each one item at a time."""
        self._store = store
        self._runs = runs
        self._lease_seconds = lease_seconds
        self._waiting: list[Waiting] = []
        self._arrived = asyncio.Event()
        self._calls = 0
        self._aside: asyncio.Queue[Waiting] = asyncio.Queue()

    async def submit(self, item: Advance) -> Advanced:
        """Commit one transition and return the database's answer; waits for a database that is away.

        Raises:
            Exception: this item cannot be committed whatever it is batched with.
        """
        answer: asyncio.Future[Advanced] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(item, answer, _size(item)))
        self._arrived.set()
        return await answer

    async def serve(self) -> None:
        """Commit until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve_aside())
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting and self._may_call():
                    limit = min(MAX_BATCH, max(MIN_SHARE, -(-self._runs() // CALLS)))
                    batch, self._waiting = _next_batch(self._waiting, limit=limit)
                    self._calls += 1
                    group.create_task(self._call(batch))

    def _may_call(self) -> bool:
        return self._calls == 0 or (self._calls < CALLS and len(self._waiting) >= MIN_SHARE)

    async def _call(self, batch: Sequence[Waiting]) -> None:
        try:
            await self._commit(batch)
        finally:
            self._calls -= 1
            self._arrived.set()

    async def _serve_aside(self) -> None:
        """Try the items that are locked or too slow, one by one, beside all others."""
        while True:
            one = await self._aside.get()
            await asyncio.sleep(min(5.0, backoff_seconds(one.tries) / 4))
            if not one.answer.done():
                await self._commit([one])

    async def _commit(self, batch: Sequence[Waiting]) -> None:
        failures = 0
        while True:
            crash_point("before_advance")
            try:
                answers = await self._store.advance([one.item for one in batch], lease_seconds=self._lease_seconds)
                break
            except DatabaseUnavailable as error:
                failures += 1
                if await self._somebodys(error, failures):
                    await self._divide(batch, error)
                    return
                reason = error.details
            except Exception as error:  # noqa: BLE001 - whatever it is, the item that causes it must not stop the others
                failures += 1
                if await self._serves():
                    await self._divide(batch, error)
                    return
                reason = error.code if isinstance(error, AppError) else type(error).__name__
            log.warning("advance.unavailable items=%d tries=%d reason=%s", len(batch), failures, reason)
            await asyncio.sleep(min(5.0, backoff_seconds(failures) / 4))
        crash_point("after_advance")
        for one in batch:
            _answer(one, answers[one.item.run_id])

    async def _somebodys(self, error: DatabaseUnavailable, failures: int) -> bool:
        """Whether one item may be why the database does not take the call, and not its own state."""
        reason = error.details or ""
        if reason in SLOW:
            return await self._serves()
        return failures >= TRIES and not reason.startswith(NOBODYS) and await self._serves()

    async def _serves(self) -> bool:
        """Whether the database takes an advance at all: one of no run."""
        with suppress(Exception):
            await self._store.advance([], lease_seconds=self._lease_seconds)
            return True
        return False

    async def _divide(self, batch: Sequence[Waiting], error: Exception) -> None:
        if len(batch) > 1:
            length = -(-len(batch) // PARTS)
            for start in range(0, len(batch), length):
                await self._commit(batch[start : start + length])
            return
        (one,) = batch
        one.tries += 1
        if isinstance(error, DatabaseUnavailable) and (error.details == LOCKED or one.tries < ASIDE_TRIES):
            log.warning("advance.aside run_id=%s tries=%d reason=%s", one.item.run_id, one.tries, error.details)
            self._aside.put_nowait(one)
        else:
            _answer(one, error)


def _next_batch(waiting: list[Waiting], *, limit: int) -> tuple[list[Waiting], list[Waiting]]:
    """The items to commit now, each run once, and those that wait for the next call."""
    batch: dict[RunId, Waiting] = {}
    rest: list[Waiting] = []
    size = 0
    for one in waiting:
        fits = not batch or (len(batch) < limit and size + one.size <= MAX_BATCH_BYTES)
        if fits and one.item.run_id not in batch:
            batch[one.item.run_id] = one
            size += one.size
        else:
            rest.append(one)
    return list(batch.values()), rest


def _size(item: Advance) -> int:
    """About how many bytes of results and inputs the item carries; log lines are short and bounded."""
    size = 0
    for finish in item.finish:
        records = finish.records
        size += json_bytes(finish.output) if finish.output else 0
        size += sum([len(artifact.content) for artifact in records.artifacts])
        size += sum([json_bytes(message.content) for message in records.messages])
        size += sum([json_bytes(plan.phases) for plan in records.plans])
    for start in item.start:
        size += json_bytes(start.step.input) if start.step.input else 0
    return size


def _answer(one: Waiting, result: Advanced | Exception) -> None:
    if one.answer.done():  # its execution was cancelled meanwhile
        return
    if isinstance(result, Exception):
        one.answer.set_exception(result)
    else:
        one.answer.set_result(result)
