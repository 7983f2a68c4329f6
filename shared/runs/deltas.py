"""Model output on its way to viewers: gathered between two ticks, one piece a step, never more than a bound.

It is shown, not kept: what a viewer misses he has with the step's result. So a flood, or a database that does not take
it, costs pieces and no memory. Every piece carries its offset, and a gap can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from shared.runs.models import RunId
from shared.runs.transitions import Delta

TICK_CHARS: Final = 32_768  # of one step between two ticks; as JSON it fits Realtime's 256 KB
STEP_CHARS: Final = 1_048_576  # of one attempt in all; nobody reads more while it is being written

Key: TypeAlias = tuple[RunId, int, int]


@dataclass(slots=True)
class _Gathered:
    first: Delta
    texts: list[str]
    chars: int


class Deltas:
    """What was emitted since the last `take`, by run, step and attempt."""

    def __init__(self) -> None:
        self._gathered: dict[Key, _Gathered] = {}

    def add(self, delta: Delta) -> None:
        """Gather a piece. Of a step that is over its bound the rest is dropped until the next `take`."""
        key = (delta.run_id, delta.step_no, delta.attempt)
        gathered = self._gathered.setdefault(key, _Gathered(delta, [], 0))
        room = min(TICK_CHARS - gathered.chars, STEP_CHARS - delta.offset)
        # Only what follows on: behind a gap the text would stand at a wrong offset.
        if room > 0 and delta.offset == gathered.first.offset + gathered.chars:
            piece = delta.text[:room]
            gathered.texts.append(piece)
            gathered.chars += len(piece)

    def take(self) -> list[Delta]:
        """Everything gathered, adjacent pieces as one, so that a run sends at most one message a tick and step."""
        gathered, self._gathered = self._gathered, {}
        return [replace(one.first, text="".join(one.texts)) for one in gathered.values() if one.texts]
