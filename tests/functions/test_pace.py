"""A stream reads often while a run is busy, and seldom when nothing comes."""

from __future__ import annotations

import pytest

from functions.agent_logs.pace import next_pause
from shared.runs.status import RunStatus

BUSY = [RunStatus.QUEUED, RunStatus.PLANNING, RunStatus.EXECUTING, None]


def pauses(status: RunStatus | None, *, seconds: float) -> list[float]:
    """The pauses of a stream on which nothing comes for so long."""
    made = [next_pause(1.0, status, quiet_seconds=0)]
    while sum(made) < seconds:
        made.append(next_pause(made[-1], status, quiet_seconds=sum(made)))
    return made


def test_after_something_came_the_next_read_is_soon():
    assert next_pause(1.0, RunStatus.EXECUTING, quiet_seconds=0) == 0.15


@pytest.mark.parametrize("status", BUSY)
def test_a_busy_run_is_read_five_times_a_second_while_it_is_silent_for_moments(status: RunStatus | None):
    assert max(pauses(status, seconds=4.8)) == 0.2


@pytest.mark.parametrize("status", [*BUSY, RunStatus.PAUSED])
def test_a_silent_run_is_read_once_a_second(status: RunStatus | None):
    assert pauses(status, seconds=60)[-1] == 1.0
    assert len(pauses(status, seconds=60)) < 100


@pytest.mark.parametrize("status", [RunStatus.CREATED, RunStatus.AWAITING_INPUT, RunStatus.PAUSED])
def test_a_run_that_waits_for_a_person_slows_its_stream_at_once(status: RunStatus):
    assert pauses(status, seconds=5)[-1] == 1.0
