"""The states of a run and of a step, and every move between them.

The same tables stand in SQL (`private.run_transitions`, `private.step_transitions`), where a trigger refuses any other
move whoever asks; a test proves the two equal. `docs/lifecycle.md` is drawn from this module.
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands. The four ends are final: retry, re-run and fork make a new run."""

    CREATED = "created"  # exists, holds no credits, nothing scheduled
    QUEUED = "queued"  # a worker may claim it from `available_at` on
    PLANNING = "planning"  # leased: the engine prepares
    EXECUTING = "executing"  # leased: steps are performed
    AWAITING_INPUT = "awaiting_input"  # nothing but a person can move it
    PAUSED = "paused"  # by a person, or for want of credits
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def ended(self) -> bool:
        """True for the four ends."""
        return self in ENDS

    @property
    def leased(self) -> bool:
        """True while a worker holds the run."""
        return self in (RunStatus.PLANNING, RunStatus.EXECUTING)


class StepStatus(StrEnum):
    """Where a step stands. A retry raises `attempt` and goes running -> pending."""

    PENDING = "pending"  # will be performed from `available_at` on
    RUNNING = "running"  # being performed, or waiting for what `waits_for` names
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when the step will never run again."""
        return self not in (StepStatus.PENDING, StepStatus.RUNNING)


ENDS = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMEOUT})

RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.CREATED: frozenset({RunStatus.QUEUED, RunStatus.CANCELLED}),
    RunStatus.QUEUED: frozenset(
        {
            RunStatus.PLANNING,
            RunStatus.EXECUTING,
            RunStatus.PAUSED,
            RunStatus.CANCELLED,
            RunStatus.TIMEOUT,
            RunStatus.FAILED,
        }
    ),
    RunStatus.PLANNING: frozenset(
        {
            RunStatus.EXECUTING,
            RunStatus.QUEUED,
            RunStatus.AWAITING_INPUT,
            RunStatus.PAUSED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
            RunStatus.TIMEOUT,
        }
    ),
    RunStatus.EXECUTING: frozenset(
        {
            RunStatus.PLANNING,
            RunStatus.QUEUED,
            RunStatus.AWAITING_INPUT,
            RunStatus.PAUSED,
            RunStatus.COMPLETED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
            RunStatus.TIMEOUT,
        }
    ),
    RunStatus.AWAITING_INPUT: frozenset({RunStatus.QUEUED, RunStatus.PAUSED, RunStatus.CANCELLED, RunStatus.TIMEOUT}),
    RunStatus.PAUSED: frozenset({RunStatus.QUEUED, RunStatus.CANCELLED, RunStatus.TIMEOUT}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.TIMEOUT: frozenset(),
}

STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    StepStatus.PENDING: frozenset({StepStatus.RUNNING, StepStatus.SKIPPED, StepStatus.CANCELLED}),
    StepStatus.RUNNING: frozenset(
        {StepStatus.PENDING, StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED}
    ),
    StepStatus.COMPLETED: frozenset(),
    StepStatus.FAILED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
    StepStatus.CANCELLED: frozenset(),
}
