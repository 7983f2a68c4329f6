"""What an execution needs of the worker that holds it, and what others ask of it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.runs.engine import CredentialVault
from shared.runs.models import RunId
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, Advanced, Delta


class Host(Protocol):
    """What an execution needs of the worker that holds it."""

    store: RunStore
    vault: CredentialVault | None
    parallel_steps: int
    longest_step_seconds: float
    snapshot_steps: int

    async def submit(self, item: Advance) -> Advanced: ...

    def emit(self, delta: Delta) -> None: ...

    def unsent(self, run_id: RunId, *, some: bool) -> None:
        """Whether some of this run's log lines were held back; if so, broadcast them soon."""
        ...

    def out_of_time(self) -> None:
        """A run was given back for want of time: claim no more."""
        ...

    def seconds_left(self) -> float:
        """Until the host goes away; infinity for a long-lived worker."""
        ...


@dataclass(slots=True)
class Signals:
    """What others want of the run. Set at any time; read between two advances."""

    stop: bool = False
    pause: bool = False
    give_back: bool = False
    reload: bool = False
