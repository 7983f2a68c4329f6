"""Results of one run's steps, by number: a bounded memory in front of the database.

Whatever passed through the execution lately is here; older results are one call away. Ended steps never change, so what
is remembered is never stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.runs.models import RunId, StepResult
from shared.runs.store import RunStore
from shared.runs.text import json_bytes

RESULT_BYTES: Final = 4 * 1024 * 1024  # of one run
_STEP_BYTES: Final = 1_500  # a step itself, as Python holds it


class Results:
    """Remembers up to about `limit` bytes of results; the one not asked for longest goes first."""

    def __init__(self, run_id: RunId, store: RunStore, *, limit: int = RESULT_BYTES) -> None:
        self._run_id = run_id
        self._store = store
        self._limit = limit
        self._remembered: dict[int, tuple[StepResult, int]] = {}  # the newest last
        self._size = 0

    def remember(self, result: StepResult, size: int | None = None) -> None:
        """Keep a committed result, of about `size` bytes of JSON where that is known."""
        number = result.step.step_no
        _, known = self._remembered.pop(number, (None, 0))
        self._size -= known
        size = _STEP_BYTES + 3 * (_size(result) if size is None else size)  # JSON is a third of what Python holds
        if size > self._limit:
            return
        self._remembered[number] = (result, size)
        self._size += size
        while self._size > self._limit:
            oldest = next(iter(self._remembered))
            self._size -= self._remembered.pop(oldest)[1]

    async def load(self, step_nos: tuple[int, ...]) -> Mapping[int, StepResult]:
        """The results of those of these steps that have ended, by at most one call."""
        found: dict[int, StepResult] = {}
        for number in step_nos:
            if number in self._remembered:
                known = self._remembered[number] = self._remembered.pop(number)
                found[number] = known[0]
        missing = [number for number in dict.fromkeys(step_nos) if number not in found]
        if missing:
            loaded = await self._store.results(self._run_id, missing)
            for result in loaded.values():
                self.remember(result)
            found.update(loaded)
        return found


def _size(result: StepResult) -> int:
    """About how many bytes of JSON the result is."""
    size = json_bytes(result.step.output)
    if result.messages or result.plans:
        size += sum([json_bytes(message.content) for message in result.messages])
        size += sum([json_bytes(plan.phases) for plan in result.plans])
    return size
