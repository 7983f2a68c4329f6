"""How long a stream rests between two reads: short while something comes, long when nothing does.

Every viewer's stream asks the database by itself, so an idle one must cost little; but what comes while a run is busy
must not be shown late.
"""

from __future__ import annotations

from typing import Final

from shared.runs.status import RunStatus

FASTEST_SECONDS: Final = 0.15  # right after something came
BUSY_SECONDS: Final = 0.2  # at most, while a run that may move by itself was not silent for long
SLOWEST_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 5.0  # after so long a model thinks or a queue is full: a second more is not noticed
GROWTH: Final = 1.25

_MOVES_BY_ITSELF: Final = frozenset({RunStatus.QUEUED, RunStatus.PLANNING, RunStatus.EXECUTING})


def next_pause(pause: float, status: RunStatus | None, *, quiet_seconds: float) -> float:
    """The pause after `pause`, with nothing new for `quiet_seconds` (0: something came) on a run in `status`.

    `status` is None when the database did not say.
    """
    if quiet_seconds == 0:
        return FASTEST_SECONDS
    is_busy = quiet_seconds < SILENT_SECONDS and (status is None or status in _MOVES_BY_ITSELF)
    return min(pause * GROWTH, BUSY_SECONDS if is_busy else SLOWEST_SECONDS)
