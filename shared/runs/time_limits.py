"""How long each of many tasks may take, with one timer for all.

A limit is most often in minutes and hardly ever reached, so the timer is not touched when a task ends: it stands at the
earliest limit there was, and when it goes off it is set for the earliest there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from typing import Any, TypeVar

Result = TypeVar("Result")


class TimeLimits:
    """Cancels tasks that had their time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    async def within(self, seconds: float, work: Awaitable[Result], task: asyncio.Task[Any] | None = None) -> Result:
        """What `work` comes to, awaited by the task that calls this, at most so many seconds.

        `task` spares looking up which task that is.

        Raises:
            TimeoutError: it took longer and was cancelled.
        """
        task = task or asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is for a task")
        self._ends[task] = end = self._loop.time() + seconds
        if end < self._timer_at:
            self._set_timer(end)
        try:
            return await work
        except asyncio.CancelledError as error:
            if self._forgive(task) and not task.cancelling():
                raise TimeoutError from error
            raise  # cancelled by somebody else, or by him too
        finally:
            self._ends.pop(task, None)
            if self._late:
                self._forgive(task)

    def _forgive(self, task: asyncio.Task[Any]) -> bool:
        """Take our cancellation back, whatever the task made of it; False: it was not late."""
        if task not in self._late:
            return False
        self._late.remove(task)
        task.uncancel()
        return True

    def rest(self) -> None:
        """Keep no timer for nobody: it would keep this in memory until it goes off."""
        if not self._ends and self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._look), at

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self._loop.time()
        for task in sorted([task for task, end in self._ends.items() if end <= now], key=self._ends.__getitem__):
            del self._ends[task]
            self._late.add(task)
            task.cancel()
        if self._ends:
            self._set_timer(min(self._ends.values()))
