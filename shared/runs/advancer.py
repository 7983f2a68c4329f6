"""Group commit: while an `advance_runs` call is in flight, everything that finishes meanwhile goes into the next.

A busy worker so commits many runs a call and an idle one never waits. Of many runs, half are in a call while the worker
is busy with the other half: the next call goes out as soon as one is answered, before anybody hears the answers.

A call that failed may be repeated, whatever became of it: the fence lets an item win once, and a repeat loses by the
revision. So a database that is away is asked again until it answers. A call that the database refuses, or is too slow
for, while it serves others, is divided until the guilty item stands alone; one that waits for a lock or for time is
then tried aside, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from shared.crash_points import crash_point
from shared.errors import AppError, DatabaseUnavailable
from shared.logs import logger
from shared.runs.backoff import backoff_seconds
from shared.runs.batch import read_answer, to_batch
from shared.runs.models import JsonObject, RunId
from shared.runs.store import RunStore
from shared.runs.text import json_bytes
from shared.runs.transitions import Advance, Advanced

log = logger(__name__)

MAX_BATCH: Final = 100  # items a call
GROUPS: Final = 2  # of runs: what one does between two calls overlaps with the other's call
MIN_GROUP: Final = 25  # with fewer, a call's own cost outweighs what overlaps (measured at 10 and at 100)
CALLS: Final = 2  # in flight at most
# Two calls at once that wait for a processor are slower than one after the other. So a second one waits for the first
# that is about to be answered; but not for one that is late (it waits for a lock), or still has far to go.
LATE_SECONDS: Final = 0.005
SOON_SECONDS: Final = 0.002
RECENT: Final = 20  # calls, of which the quickest tells how far the database is
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


@dataclass(slots=True, eq=False)
class Call:
    """Items that go into one call, and how they are written."""

    items: Sequence[Waiting]
    batch: JsonObject | None = None
    began_at: float = 0.0  # by the loop's clock


class Advancer:
    """Commits transitions of many runs, few calls at a time. Run `serve` beside the executions that `submit`."""

    def __init__(self, store: RunStore, *, lease_seconds: float, runs: Callable[[], int]) -> None:
        """`runs` counts the runs that submit, each one item at a time."""
        self._store = store
        self._runs = runs
        self._lease_seconds = lease_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Waiting] = []
        self._ready: Call | None = None
        self._calls: list[Call] = []  # in flight
        self._took: deque[float] = deque((0.0,), maxlen=RECENT)  # seconds, each of the calls before
        self._looking: asyncio.Handle | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._aside: asyncio.Queue[Waiting] = asyncio.Queue()

    def submit(self, item: Advance) -> asyncio.Future[Advanced]:
        """Commit one transition; the answer is the database's, and waits for one that is away.

        It is an exception where this item cannot be committed whatever it is batched with.
        """
        answer: asyncio.Future[Advanced] = self._loop.create_future()
        self._waiting.append(Waiting(item, answer, _size(item)))
        if self._looking is None:
            self._look_again()
        if self._calls and self._ready is None and self._is_whole(len(self._waiting)):
            self._ready = self._taken()
            with suppress(Exception):  # what cannot be written is for the call to deal with
                self._ready.batch = self._written(self._ready.items)
        return answer

    async def serve(self) -> None:
        """Commit until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._look()
                await self._serve_aside()
        finally:
            self._tasks = None

    # -- when the next call goes out --------------------------------------------------------------------------------

    def _look_again(self) -> None:
        if self._may_call():
            # Once all that are ready now have had their turn: what they submit shares the call.
            self._looking = self._loop.call_soon(self._look)
        elif len(self._calls) < CALLS:
            self._looking = self._loop.call_at(self._calls[-1].began_at + LATE_SECONDS, self._look)

    def _look(self) -> None:
        """Send what waits, if it may be sent now."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._tasks is None:
            return
        while self._waiting or self._ready:
            if not self._may_call():
                self._look_again()
                return
            call, self._ready = self._ready or self._taken(), None
            call.began_at = self._loop.time()
            self._calls.append(call)
            self._tasks.create_task(self._serve_call(call))

    def _may_call(self) -> bool:
        if not self._calls:
            return True
        if len(self._calls) == CALLS:
            return False
        since = self._loop.time() - self._calls[-1].began_at
        return since >= LATE_SECONDS or since < min(self._took) - SOON_SECONDS

    def _taken(self) -> Call:
        """The items to commit next, each run once."""
        items, self._waiting = _next_batch(self._waiting, limit=self._limit())
        return Call(items)

    def _limit(self) -> int:
        return min(MAX_BATCH, max(MIN_GROUP, -(-self._runs() // GROUPS)))

    def _is_whole(self, waiting: int) -> bool:
        """Whether so many are all that the next call can have: as many as it takes, or as there are."""
        return waiting >= self._limit() or waiting + sum([len(call.items) for call in self._calls]) >= self._runs()

    def _written(self, items: Sequence[Waiting]) -> JsonObject:
        return to_batch([one.item for one in items], lease_seconds=self._lease_seconds)

    # -- the calls --------------------------------------------------------------------------------------------------

    async def _serve_call(self, call: Call) -> None:
        answers = await self._committed(call)
        self._calls.remove(call)
        self._took.append(self._loop.time() - call.began_at)
        self._look()  # first: while the database has the next call, those who hear their answers go on
        _hand_out(call, answers)

    async def _serve_aside(self) -> None:
        """Try the items that are locked or too slow, one by one, beside all others."""
        while True:
            one = await self._aside.get()
            await asyncio.sleep(min(5.0, backoff_seconds(one.tries) / 4))
            if not one.answer.done():
                await self._commit([one])

    async def _commit(self, items: Sequence[Waiting]) -> None:
        call = Call(items)
        _hand_out(call, await self._committed(call))

    async def _committed(self, call: Call) -> Mapping[RunId, Advanced]:
        """The answers to its items, as far as they do not have them already."""
        failures = 0
        while True:
            crash_point("before_advance")
            try:
                if call.batch is None:
                    call.batch = self._written(call.items)
                answer = await self._store.advance_batch(call.batch)
                crash_point("after_advance")
                return read_answer([one.item for one in call.items], answer)
            except DatabaseUnavailable as error:
                failures += 1
                if await self._somebodys(error, failures):
                    await self._divide(call.items, error)
                    return {}
                reason = error.details
            except Exception as error:  # noqa: BLE001 - whatever it is, the item that causes it must not stop the others
                failures += 1
                if await self._serves():
                    await self._divide(call.items, error)
                    return {}
                reason = error.code if isinstance(error, AppError) else type(error).__name__
            log.warning("advance.unavailable items=%d tries=%d reason=%s", len(call.items), failures, reason)
            await asyncio.sleep(min(5.0, backoff_seconds(failures) / 4))

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
        if finish.size is not None:
            size += finish.size
            continue
        records = finish.records
        size += json_bytes(finish.output) if finish.output else 0
        size += sum([len(artifact.content) for artifact in records.artifacts])
        size += sum([json_bytes(message.content) for message in records.messages])
        size += sum([json_bytes(plan.phases) for plan in records.plans])
    for start in item.start:
        size += json_bytes(start.step.input) if start.step.input else 0
    return size


def _hand_out(call: Call, answers: Mapping[RunId, Advanced]) -> None:
    for one in call.items:
        answer = answers.get(one.item.run_id)
        if answer is not None:
            _answer(one, answer)


def _answer(one: Waiting, result: Advanced | Exception) -> None:
    if one.answer.done():  # its execution was cancelled meanwhile
        return
    if isinstance(result, Exception):
        one.answer.set_exception(result)
    else:
        one.answer.set_result(result)
