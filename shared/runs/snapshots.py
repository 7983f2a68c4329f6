"""When an engine's state is stored, and whether a stored one can be read. A snapshot saves reading and nothing else.

So nothing about it may harm a run: one that is too large, cannot be stored, or that the engine fails to make or to read
is done without, and the run is opened from all of its results.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, cast

import orjson

from shared.logs import logger
from shared.runs.engine import Engine, Snapshotting
from shared.runs.models import RunId, RunView
from shared.runs.text import storable
from shared.runs.transitions import TakenSnapshot

log = logger(__name__)

SNAPSHOT_BYTES: Final = 32 * 1024  # of lean JSON; SQL checks twice of that, because its JSON is wider
SNAPSHOT_STEPS: Final = 50


class Snapshots:
    """The snapshots of one execution: at most one in `every` ended steps."""

    def __init__(self, run_id: RunId, engine: Engine[Any], *, every: int) -> None:
        self._run_id = run_id
        self._engine = cast("Snapshotting[Any]", engine) if isinstance(engine, Snapshotting) else None
        self._every = every
        self._ended = 0
        self._refused = False
        self._told = False

    def can_open(self, view: RunView) -> bool:
        """Whether the engine reads the view's snapshot, if there is one."""
        if view.snapshot is None:
            return True
        return self._engine is not None and view.snapshot_version == self._engine.snapshot_version

    def ended(self, steps: int) -> None:
        """So many steps ended that the newest snapshot does not cover."""
        self._ended += steps

    def opened(self, view: RunView) -> None:
        """What has ended since the newest snapshot is in the view."""
        self._ended = len(view.results)

    def taken(self, state: object, *, step_count: int, open_steps: Collection[int]) -> TakenSnapshot | None:
        """The state's snapshot if one is due and there is one that can be stored."""
        if self._engine is None or self._refused or self._ended < self._every:
            return None
        self._ended = 0  # whatever comes of it: a state that is too large now is not tried again at once
        try:
            snapshot = self._engine.snapshot(state)
            if snapshot is None:
                return None
            stored = storable(snapshot.state)
            size = len(orjson.dumps(stored))
        except Exception:  # an engine's bug here costs reading, not the run
            log.exception("snapshot.failed run_id=%s", self._run_id)
            self._refused = True
            return None
        if size > SNAPSHOT_BYTES:
            if not self._told:
                log.warning("snapshot.too_large run_id=%s bytes=%d", self._run_id, size)
            self._told = True
            return None
        kept = set(snapshot.keep).difference(open_steps)
        return TakenSnapshot(
            self._engine.snapshot_version, step_count, tuple(sorted(open_steps)), tuple(sorted(kept)), stored
        )

    def refuse(self) -> None:
        """The database did not take one: take no more in this execution."""
        self._refused = True
