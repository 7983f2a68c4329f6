"""The drain: the worker with a time budget, for hosts that go away (AWS Lambda, cron).

It claims and advances until nothing is due or its time is nearly up, gives back what it holds, and answers a tally. It
never starts a step whose time limit exceeds the time it has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.database import Database
from shared.runs.engine import CredentialVault, Engine
from shared.runs.models import Json, JsonObject
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions


@dataclass(frozen=True, slots=True)
class DrainTally:
    """What one drain did: runs claimed, runs by the status they were left in, runs that the sweep ended."""

    claimed: int
    left: Mapping[str, int]
    swept: int

    def to_json(self) -> JsonObject:
        left: dict[str, Json] = dict(sorted(self.left.items()))
        return {"claimed": self.claimed, "left": left, "swept": self.swept}


async def drain(
    database: Database,
    engines: Mapping[str, Engine[Any]],
    *,
    seconds: float,
    concurrency: int = 10,
    options: WorkerOptions | None = None,
    vault: CredentialVault | None = None,
) -> DrainTally:
    """Work off what is due within `seconds`, then give back the rest. Any number may drain at once."""
    chosen = options or WorkerOptions(concurrency=concurrency)
    worker = Worker(RunStore(database), engines, options=chosen, vault=vault)
    await worker.run(seconds=seconds, until_idle=True)
    return DrainTally(worker.claimed, dict(worker.left), worker.swept)
