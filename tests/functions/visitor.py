"""Somebody who calls the functions over HTTP, and a worker that moves their runs without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx

from shared.direct_database import DirectDatabase
from shared.runs.engine import HumanRequest
from shared.runs.models import NewArtifact, NewLog, NewMessage, NewPlan, NewStep, Records, RunId
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, Advanced, Delta, FinishStep, StartStep

PROMPT = "Write a hello world program in Python"


@dataclass
class Visitor:
    """A caller with fixed credentials. `http` is closed by the fixture that made it."""

    http: httpx.AsyncClient
    headers: Mapping[str, str] = field(default_factory=dict)

    async def post(self, slug: str, body: object = None, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.http.post(f"/functions/v1/{slug}", json=body, headers={**self.headers, **(headers or {})})

    async def send(self, slug: str, content: Any, *, method: str = "POST") -> httpx.Response:
        """Send a body as it is: bytes, or pieces of which nobody says the length."""
        return await self.http.request(method, f"/functions/v1/{slug}", content=content, headers=self.headers)

    async def get(self, slug: str, headers: Mapping[str, str] | None = None, **query: object) -> httpx.Response:
        return await self.http.get(
            f"/functions/v1/{slug}",
            params=query,
            headers={**self.headers, **(headers or {})},  # type: ignore[arg-type]
        )

    async def create(self, **options: object) -> dict[str, Any]:
        """Create a run, expecting success."""
        response = await self.post("agent-execute", {"action": "create", "prompt": PROMPT, "options": options})
        assert response.status_code == 201, response.text
        return response.json()

    async def act(self, action: str, run_id: str, **fields: object) -> httpx.Response:
        return await self.post("agent-execute", {"action": action, "run_id": run_id, **fields})

    async def run(self, run_id: str) -> dict[str, Any]:
        response = await self.get("agent-status", run_id=run_id)
        assert response.status_code == 200, response.text
        return response.json()["run"]


class HandWorker:
    """Holds one run and advances it as told."""

    def __init__(self, database: DirectDatabase, run_id: str) -> None:
        self._store = RunStore(database)
        self._id = RunId(UUID(run_id))
        self._lease_id = UUID(int=0)
        self._revision = 0

    async def claim(self) -> None:
        claim = await self._store.claim(owner="hand", limit=100, lease_seconds=60, engines=("agent",))
        (run,) = [view.run for view in claim.views if view.run.id == self._id]
        assert run.lease_id is not None
        self._lease_id, self._revision = run.lease_id, run.revision

    async def advance(self, **what: Any) -> Advanced:
        item = Advance(self._id, self._lease_id, self._revision, **what)
        advanced = (await self._store.advance([item], lease_seconds=60))[self._id]
        assert advanced.won
        self._revision = advanced.revision
        return advanced

    async def say(self, *messages: str, log_type: Any = "info") -> None:
        advanced = await self.advance(logs=tuple(NewLog(log_type, message) for message in messages))
        if advanced.unsent:  # too soon after other lines to be broadcast with them: a worker's next tick does it
            await self._store.flush_logs([self._id])

    async def start(self, step_no: int, **fields: Any) -> None:
        step = NewStep(f"step-{step_no}", "tool", f"Step {step_no}", **fields)
        await self.advance(start=(StartStep(step_no, uuid4(), step),), status=RunStatus.EXECUTING)

    async def finish(self, step_no: int, records: Records | None = None) -> None:
        done = FinishStep(step_no, 1, StepStatus.COMPLETED, output={"step": step_no}, records=records or Records())
        await self.advance(finish=(done,))

    async def ask(self, step_no: int, prompt: str) -> None:
        waiting = FinishStep(step_no, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest(prompt))
        await self.advance(finish=(waiting,), status=RunStatus.AWAITING_INPUT)

    async def write(self, step_no: int, offset: int, text: str) -> None:
        await self._store.publish([Delta(self._id, self._lease_id, step_no, 1, offset, text)])

    async def end(self, status: RunStatus = RunStatus.COMPLETED) -> None:
        await self.advance(status=status, output={"answer": 42})


EVERYTHING = Records(
    logs=(NewLog("tool_success", "It ran", {"exit": 0}),),
    messages=(NewMessage("assistant", [{"type": "text", "text": "Done"}]),),
    artifacts=(NewArtifact("hello.py", "print('Hello')", "text/x-python"),),
    plans=(NewPlan("Say hello", [{"id": "one"}]),),
)
