"""The engine's side of one execution: its state, what that state rests on, and the decisions it draws.

The state only ever rests on what is recorded, or is about to be in the next advance. What an engine decides is redacted
as what its steps leave behind is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from shared.logs import logger
from shared.redaction import Redactor
from shared.runs.engine import Decision, Engine
from shared.runs.models import Records, RunView, Step, StepResult
from shared.runs.redacted import redacted_decision
from shared.runs.results import Results
from shared.runs.snapshots import Snapshots
from shared.runs.transitions import Advance

log = logger(__name__)


class Decider:
    """Folds results into an engine's state. Nothing but `open` may be called before it."""

    def __init__(self, engine: Engine[Any], results: Results, snapshots: Snapshots, redactor: Redactor) -> None:
        self.engine = engine
        self._results = results
        self._snapshots = snapshots
        self._redactor = redactor
        self._uncommitted: list[tuple[StepResult, int | None]] = []
        self.state: object

    def open(self, view: RunView) -> bool:
        """Build the state from what is recorded; False when the engine cannot read the view's snapshot."""
        if not self._snapshots.can_open(view):
            return False
        try:
            self.state = self.engine.open(view)
        except Exception:
            if view.snapshot is None:
                raise
            log.exception("snapshot.unreadable run_id=%s version=%d", view.run.id, view.snapshot_version)
            return False
        for step in view.open_steps:
            self.started(step)
        self._snapshots.opened(view)
        self._uncommitted.clear()
        for result in (*view.kept.values(), *view.results):
            self._results.remember(result)
        return True

    def started(self, step: Step) -> None:
        """Take note that a step is open."""
        self.state = self.engine.started(self.state, step)

    def ended(self, step: Step, records: Records, size: int | None) -> None:
        """Take in a step that ended, which the next advance records, with what its results are as JSON."""
        result = StepResult(step, records.messages, records.plans)
        self.state = self.engine.apply(self.state, result)
        self._snapshots.ended(1)
        self._uncommitted.append((result, size))

    def committed(self) -> None:
        """What was taken in is recorded."""
        for result, size in self._uncommitted:
            self._results.remember(result, size)
        self._uncommitted.clear()

    def decide(self) -> Decision:
        return redacted_decision(self.engine.decide(self.state), self._redactor)

    def with_snapshot(self, item: Advance, step_count: int, open_steps: Collection[int]) -> Advance:
        """The advance with the snapshot that is due. The state has taken in its results, and not yet its starts."""
        if item.status is not None and item.status.ended:
            return item
        snapshot = self._snapshots.taken(self.state, step_count=step_count, open_steps=open_steps)
        return item if snapshot is None else replace(item, snapshot=snapshot)

    def refuse_snapshots(self) -> None:
        """The database did not take one: take no more."""
        self._snapshots.refuse()
