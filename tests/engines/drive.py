"""Plays a run of an engine in memory: decide, perform, store as rows, read back, apply.

After every step the state is also built anew from the rows, as another machine would, and must equal the live one; so
every test of an engine is a test of its recovery too, and of its snapshots, if it takes any: those of this step and of
steps long past must lead to the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID, uuid5

import orjson

from shared.errors import AppError
from shared.runs.engine import (
    Decision,
    Done,
    Engine,
    Fail,
    Failed,
    Finish,
    HumanRequest,
    Outcome,
    Snapshotting,
    StartSteps,
    Waiting,
)
from shared.runs.models import (
    Artifact,
    Json,
    JsonObject,
    NewLog,
    NewStep,
    Records,
    Run,
    RunView,
    Step,
    StepError,
    StepResult,
)
from shared.runs.snapshots import SNAPSHOT_BYTES

RUN_ID = UUID("00000000-0000-4000-8000-000000000001")
ACCOUNT_ID = UUID("00000000-0000-4000-8000-000000000002")
MOST_STEPS = 2_000
OLD_SNAPSHOTS = 3

Pick = Callable[[Sequence[Step]], Step]
Answer = Callable[[HumanRequest], Json]


def oldest(steps: Sequence[Step]) -> Step:
    return min(steps, key=lambda step: step.step_no)


def newest(steps: Sequence[Step]) -> Step:
    return max(steps, key=lambda step: step.step_no)


def no_answer(request: HumanRequest) -> Json:
    raise AssertionError(f"nobody is there to answer {request.prompt!r}")


@dataclass
class Context:
    """The step context of a performed step."""

    run: Run
    stored: Mapping[str, Artifact]
    recorded: Mapping[int, StepResult] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    loaded: list[tuple[str, ...]] = field(default_factory=list)
    used: int = 0
    lines: list[NewLog] = field(default_factory=list)

    def log(self, line: NewLog) -> None:
        self.lines.append(line)

    def spent(self, micro_credits: int) -> None:
        self.used = micro_credits

    async def delta(self, text: str) -> None:
        self.shown.append(text)

    async def artifacts(self, names: tuple[str, ...]) -> Mapping[str, Artifact]:
        self.loaded.append(names)
        return {name: self.stored[name] for name in names if name in self.stored}

    async def results(self, step_nos: tuple[int, ...]) -> Mapping[int, StepResult]:
        return {number: self.recorded[number] for number in step_nos if number in self.recorded}


@dataclass
class Taken:
    """A snapshot as it is stored beside the rows."""

    row: JsonObject
    step_count: int
    listed: set[int]

    def of(self, rows: Mapping[str, list[JsonObject]]) -> dict[str, Any]:
        """The rows that are read with it."""
        read: dict[str, Any] = {
            name: [row for row in table if row["step_no"] > self.step_count or row["step_no"] in self.listed]
            for name, table in rows.items()
        }
        return {**read, "snapshot": self.row}


@dataclass
class Drive:
    """One run. `pick` chooses which open step ends next; `broken` says by step key which fail unperformed."""

    engine: Engine[Any]
    input: JsonObject
    pick: Pick = oldest
    answer: Answer = no_answer
    broken: dict[str, StepError] = field(default_factory=dict)
    rows: dict[str, list[JsonObject]] = field(default_factory=lambda: {"steps": [], "messages": [], "plans": []})
    logs: list[NewLog] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    statuses: list[str] = field(default_factory=list)
    requests: list[HumanRequest] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    credits: int = 0
    revision: int = 1
    state: Any = None
    taken: list[Taken] = field(default_factory=list)
    snapshot_every: int = 7
    check_every: int = 1
    """Very long runs are compared with what another machine sees only so often."""

    async def run(self) -> Finish | Fail:
        """Go on to the end."""
        decision = await self.steps(MOST_STEPS)
        assert isinstance(decision, Finish | Fail), "the run does not end"
        return decision

    async def finish(self) -> Finish:
        decision = await self.run()
        assert isinstance(decision, Finish), decision
        return decision

    async def fail(self) -> StepError:
        decision = await self.run()
        assert isinstance(decision, Fail), decision
        return decision.error

    async def steps(self, most: int) -> Decision:
        """Go on for at most so many decisions and answer the last."""
        self.state = self._reopened()
        decision = self.engine.decide(self.state)
        for _ in range(most):
            assert decision == self.engine.decide(self.state), "deciding again changes the decision"
            if self._checks():
                assert decision == self.engine.decide(self._reopened()), "another machine decides otherwise"
            if isinstance(decision, Finish | Fail):
                self.logs += decision.logs
                return decision
            if isinstance(decision, StartSteps):
                self.logs += decision.logs
                assert decision.steps, "a decision to start nothing never ends"
                self.statuses.append(decision.status.value)
                for new in decision.steps:
                    self.state = self.engine.started(self.state, self._start(new))
            else:
                await self._end_one()
            decision = self.engine.decide(self.state)
        return decision

    def view(self, taken: Taken | None = None) -> RunView:
        """The run as rows give it to any machine, with or without a snapshot."""
        rows = self.rows if taken is None else taken.of(self.rows)
        return RunView.from_row(orjson.loads(orjson.dumps({"run": self._run_row(), **rows})))

    def step(self, key: str) -> Step:
        return next(Step.from_row(row) for row in self.rows["steps"] if row["key"] == key)

    def said(self, role: str) -> list[Any]:
        return [block for row in self.rows["messages"] if row["role"] == role for block in row["content"]]

    def lines(self, log_type: str) -> list[str]:
        return [line.message for line in self.logs if line.log_type == log_type]

    @property
    def keys(self) -> list[str]:
        return [str(row["key"]) for row in self.rows["steps"]]

    def _reopened(self, taken: Taken | None = None) -> Any:
        view = self.view(taken)
        state = self.engine.open(view)
        for step in view.open_steps:
            state = self.engine.started(state, step)
        return state

    def _run_row(self) -> JsonObject:
        return {
            "id": str(RUN_ID),
            "account_id": str(ACCOUNT_ID),
            "user_id": str(ACCOUNT_ID),
            "engine": self.engine.name,
            "status": "executing",
            "revision": self.revision,
            "lease_id": None,
            "attempt": 0,
            "input": self.input,
            "step_count": len(self.rows["steps"]),
            "max_steps": MOST_STEPS,
            "remaining_seconds": 3600,
            "stop_requested": False,
            "pause_requested": False,
        }

    def _start(self, new: NewStep) -> Step:
        assert new.key not in self.keys, f"the key {new.key!r} is drawn twice"
        number = len(self.rows["steps"]) + 1
        row: JsonObject = {
            "step_no": number,
            **asdict(new),
            "status": "running",
            "attempt": 1,
            "failed_attempts": 0,
            "effect_key": str(uuid5(RUN_ID, new.key)),
            "output": None,
            "error": None,
            "waits_for": None,
            "due_in_seconds": 0,
            "finished_revision": None,
        }
        self.rows["steps"].append(orjson.loads(orjson.dumps(row)))
        return Step.from_row(self.rows["steps"][-1])

    async def _end_one(self) -> None:
        open_steps = self.view().open_steps
        assert open_steps, "the engine waits although nothing is open"
        step = self.pick(open_steps)
        outcome = await self._performed(step)
        self._store(step, outcome)
        view = self.view()
        result = next(result for result in view.results if result.step.key == step.key)
        self.state = self.engine.apply(self.state, result)
        if self._checks():
            assert self.state == self._reopened(), f"after {step.key!r} another machine sees another state"
            self._check_snapshots(step)

    def _checks(self) -> bool:
        return self.revision % self.check_every == 0

    def _check_snapshots(self, step: Step) -> None:
        if not isinstance(self.engine, Snapshotting):
            return
        now = self.take_snapshot()
        for taken in [*self.taken, now]:
            reopened = self._reopened(taken)
            assert self.state == reopened, f"after {step.key!r} a snapshot leads to another state"
            assert self.engine.decide(self.state) == self.engine.decide(reopened)
        if len(self.rows["steps"]) % self.snapshot_every == 0:
            self.taken = [*self.taken, now][-OLD_SNAPSHOTS:]

    def take_snapshot(self) -> Taken:
        """The snapshot that a worker would store now."""
        assert isinstance(self.engine, Snapshotting)
        snapshot = self.engine.snapshot(self.state)
        assert snapshot is not None
        assert len(orjson.dumps(snapshot.state)) <= SNAPSHOT_BYTES
        row: JsonObject = {
            "version": self.engine.snapshot_version,
            "state": snapshot.state,
            "kept_steps": list[Json](snapshot.keep),
        }
        open_steps = {step.step_no for step in self.view().open_steps}
        return Taken(orjson.loads(orjson.dumps(row)), len(self.rows["steps"]), open_steps | {*snapshot.keep})

    async def _performed(self, step: Step) -> Done | Failed:
        if step.key in self.broken:
            return Failed(self.broken[step.key])
        view = self.view()
        context = Context(view.run, self.artifacts, {result.step.step_no: result for result in view.results})
        self.contexts.append(context)
        try:
            outcome: Outcome = await self.engine.perform(self.state, step, context)
        except AppError as error:
            return Failed(StepError(error.code, error.message, error.retryable))
        finally:
            self.logs += context.lines
        if not isinstance(outcome, Waiting):
            return outcome
        assert isinstance(outcome.on, HumanRequest)
        self.requests.append(outcome.on)
        response = self.answer(outcome.on)
        spoken: list[Json] = [{"type": "text", "text": str(response)}]
        self._record(step, outcome.records)
        self.rows["messages"].append({"step_no": step.step_no, "role": "user", "content": spoken})
        return Done({"response": response})

    def _store(self, step: Step, outcome: Done | Failed) -> None:
        assert 0 <= outcome.credits <= step.credits_bound, f"{step.key!r} cost more than was held for it"
        self.credits += outcome.credits
        self.revision += 1
        row = self.rows["steps"][step.step_no - 1]
        row["finished_revision"] = self.revision
        if isinstance(outcome, Done):
            row["status"], row["output"] = "completed", outcome.output
        else:
            row["status"], row["error"] = "failed", outcome.error.to_json()
        self._record(step, outcome.records)

    def _record(self, step: Step, records: Records) -> None:
        self.logs += records.logs
        for message in records.messages:
            self.rows["messages"].append({"step_no": step.step_no, "role": message.role, "content": message.content})
        for plan in records.plans:
            self.rows["plans"].append({"step_no": step.step_no, **asdict(plan)})
        for artifact in records.artifacts:
            self.artifacts[artifact.name] = Artifact(artifact.name, artifact.content, artifact.content_type)
