"""Group commit: while one `advance_runs` call is in flight, everything that finishes meanwhile goes into the next.

A busy worker so commits many runs a call and an idle one never waits. A batch that the database refuses is halved until
the guilty item stands alone; a database that is away is asked again until it answers, because the fence makes a repeat
safe: either the item wins late, or it already won and the repeat loses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, TypeAlias

from shared.crash_points import crash_point
from shared.errors import DatabaseUnavailable
from shared.runs.backoff import backoff_seconds
from shared.runs.models import RunId
from shared.runs.store import Advance, Advanced, RunStore

log = logging.getLogger(__name__)

MAX_BATCH: Final = 100  # items a call
SLOW_TRIES: Final = 3
SLOW_CODES: Final = ("57014", "timeout")  # statement timeout, and a call that took too long

Waiting: TypeAlias = tuple[Advance, asyncio.Future[Advanced]]


class Advancer:
    """Commits transitions of many runs, one call at a time. Run `serve` beside the executions that `submit`."""

    def __init__(self, store: RunStore, *, lease_seconds: float) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._waiting: list[Waiting] = []
        self._arrived = asyncio.Event()

    async def submit(self, item: Advance) -> Advanced:
        """Commit one transition and return the database's answer.

        Raises:
            Exception: this item cannot be committed whatever it is batched with.
        """
        answer: asyncio.Future[Advanced] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._arrived.set()
        return await answer

    async def serve(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._arrived.wait()
            batch, self._waiting = _next_batch(self._waiting)
            if not self._waiting:
                self._arrived.clear()
            await self._commit(batch)

    async def _commit(self, batch: Sequence[Waiting]) -> None:
        failures = 0
        while True:
            crash_point("before_advance")
            try:
                answers = await self._store.advance([item for item, _ in batch], lease_seconds=self._lease_seconds)
                break
            except DatabaseUnavailable as error:
                failures += 1
                if failures >= SLOW_TRIES and error.details in SLOW_CODES:
                    # The same batch would be too slow for ever: in halves it is not, or one item is guilty.
                    await self._split(batch, error)
                    return
                log.warning("advance.unavailable items=%d tries=%d code=%s", len(batch), failures, error.details)
                await asyncio.sleep(min(5.0, backoff_seconds(failures) / 4))
            except Exception as error:  # noqa: BLE001 - whatever it is, the item that causes it must not stop the others
                await self._split(batch, error)
                return
        crash_point("after_advance")
        for item, future in batch:
            _answer(future, answers[item.run_id])

    async def _split(self, batch: Sequence[Waiting], error: Exception) -> None:
        if len(batch) == 1:
            _answer(batch[0][1], error)
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle])
        await self._commit(batch[middle:])


def _next_batch(waiting: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """The items to commit now, each run once, and those that wait for the next call."""
    batch: dict[RunId, Waiting] = {}
    rest: list[Waiting] = []
    for one in waiting:
        if len(batch) < MAX_BATCH and one[0].run_id not in batch:
            batch[one[0].run_id] = one
        else:
            rest.append(one)
    return list(batch.values()), rest


def _answer(future: asyncio.Future[Advanced], result: Advanced | Exception) -> None:
    if future.done():  # its execution was cancelled meanwhile
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
