"""What the run core speaks of: runs, steps and what they leave behind. Rows become these types in one place each.

Credits are micro-credits (integers; 1 credit = 1,000,000). Times are database times. JSON fields hold plain JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType, TypeAlias, TypeVar, cast, dataclass_transform
from uuid import UUID

from shared.runs.status import RunStatus, StepStatus

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"

RunId = NewType("RunId", UUID)

Effect = Literal["pure", "idempotent", "effectful"]
"""What a second performance after a crash means: nothing, the same as the first (by `effect_key`), or harm."""

WaitsFor = Literal["human", "timer", "child", "event"]

LogType = Literal[
    "info",
    "success",
    "error",
    "warning",
    "state_transition",
    "tool_success",
    "tool_error",
    "phase_advance",
    "user_input_required",
]

MessageRole = Literal["user", "assistant", "tool"]


Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[Class]) -> type[Class]:
    """Make a dataclass whose fields nobody assigns; the type checker holds that, not the object.

    A frozen dataclass sets each field through `object.__setattr__`, which takes three times as long, and every step
    builds a dozen of these.
    """
    return dataclass(slots=True)(cls)


@record
class StepError:
    """Why a step or a run failed: `code` for programs, `message` for people (never a secret, never a traceback)."""

    code: str
    message: str
    retryable: bool = False
    details: JsonObject | None = None

    def to_json(self) -> JsonObject:
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "details": self.details}

    @classmethod
    def from_json(cls, value: JsonObject) -> StepError:
        return cls(
            code=str(value["code"]),
            message=str(value["message"]),
            retryable=bool(value.get("retryable")),
            details=cast("JsonObject | None", value.get("details")),
        )


@record
class NewLog:
    """A log line to append. The store bounds `message` to 8 KB and `metadata` to 16 KB."""

    log_type: LogType
    message: str
    metadata: JsonObject = field(default_factory=dict[str, "Json"])


@record
class NewMessage:
    """One message of the run's conversation; `content` is a list of blocks as `shared.llm.model` writes them."""

    role: MessageRole
    content: list[Json]


@record
class NewArtifact:
    """A file that a step produced, text inline up to 64 KB."""

    name: str
    content: str
    content_type: str = "text/plain"


@record
class NewPlan:
    """A plan as an engine wrote it; a replan is a new row with the next number."""

    goal: str
    phases: list[Json]
    reason: str | None = None


@record
class Records:
    """What a step leaves behind besides its output. Stored with the step's result in the same transaction."""

    logs: tuple[NewLog, ...] = ()
    messages: tuple[NewMessage, ...] = ()
    artifacts: tuple[NewArtifact, ...] = ()
    plans: tuple[NewPlan, ...] = ()


@record
class NewStep:
    """A step that an engine starts.

    Attributes:
        key: Unique within the run; the same decision over the same results draws the same key.
        kind: The engine's word for what is to be done (`model`, `tool`, ...).
        name: What a person reads.
        input: References and small values; large text belongs to messages and artifacts.
        credits_bound: Upper bound in micro-credits; the step is not started unless it fits hold and cap.
        max_attempts: Tries in all, counting the first; only retryable failures are tried again.
    """

    key: str
    kind: str
    name: str
    input: JsonObject = field(default_factory=dict[str, "Json"])
    effect: Effect = "idempotent"
    timeout_seconds: float = 120.0
    credits_bound: int = 0
    max_attempts: int = 3
    phase: str | None = None


@record
class Step:
    """A step as recorded."""

    step_no: int
    key: str
    kind: str
    name: str
    status: StepStatus
    attempt: int
    failed_attempts: int
    max_attempts: int
    effect: Effect
    effect_key: UUID
    input: JsonObject
    output: JsonObject | None
    error: StepError | None
    waits_for: WaitsFor | None
    due_in_seconds: float
    timeout_seconds: float
    credits_bound: int
    phase: str | None
    finished_revision: int | None

    @property
    def reserved(self) -> int:
        """What of the run's hold is set aside for it while it is running: its bound, or nothing while it waits."""
        return 0 if self.waits_for is not None else self.credits_bound

    @classmethod
    def from_row(cls, row: JsonObject) -> Step:
        error = cast("JsonObject | None", row["error"])
        return cls(
            step_no=cast("int", row["step_no"]),
            key=cast("str", row["key"]),
            kind=cast("str", row["kind"]),
            name=cast("str", row["name"]),
            status=StepStatus(cast("str", row["status"])),
            attempt=cast("int", row["attempt"]),
            failed_attempts=cast("int", row["failed_attempts"]),
            max_attempts=cast("int", row["max_attempts"]),
            effect=cast("Effect", row["effect"]),
            effect_key=UUID(cast("str", row["effect_key"])),
            input=cast("JsonObject", row["input"]),
            output=cast("JsonObject | None", row["output"]),
            error=None if error is None else StepError.from_json(error),
            waits_for=cast("WaitsFor | None", row["waits_for"]),
            due_in_seconds=float(cast("float", row["due_in_seconds"])),
            timeout_seconds=float(cast("float", row["timeout_seconds"])),
            credits_bound=cast("int", row["credits_bound"]),
            phase=cast("str | None", row["phase"]),
            finished_revision=cast("int | None", row["finished_revision"]),
        )

    def ended(self, status: StepStatus, output: JsonObject | None, error: StepError | None) -> Step:
        """The step with its result."""
        return Step(
            self.step_no,
            self.key,
            self.kind,
            self.name,
            status,
            self.attempt,
            self.failed_attempts,
            self.max_attempts,
            self.effect,
            self.effect_key,
            self.input,
            output,
            error,
            self.waits_for,
            self.due_in_seconds,
            self.timeout_seconds,
            self.credits_bound,
            self.phase,
            self.finished_revision,
        )

    def to_new(self) -> NewStep:
        """What the engine asked for when it started this step."""
        return NewStep(
            key=self.key,
            kind=self.kind,
            name=self.name,
            input=self.input,
            effect=self.effect,
            timeout_seconds=self.timeout_seconds,
            credits_bound=self.credits_bound,
            max_attempts=self.max_attempts,
            phase=self.phase,
        )


@record
class RunAgent:
    """The version of an agent that a run has pinned. It never changes.

    Attributes:
        config: What the agent's admins wrote for the engine. Nothing of it may reach a row that the run's people read.
        input_schema: JSON Schema that the run's input was checked against.
        credential_types: The providers of which the run has a credential in `Run.credential_ids`.
        managed: The agent brings credentials of its own for some of them.
        price: What starting the run cost, in micro-credits.
    """

    agent_id: UUID
    version_id: UUID
    number: int
    engine: str
    config: JsonObject
    input_schema: JsonObject
    credential_types: tuple[str, ...]
    managed: bool
    price: int

    @classmethod
    def from_row(cls, row: JsonObject) -> RunAgent:
        return cls(
            agent_id=UUID(cast("str", row["agent_id"])),
            version_id=UUID(cast("str", row["version_id"])),
            number=cast("int", row["number"]),
            engine=cast("str", row["engine"]),
            config=cast("JsonObject", row["config"]),
            input_schema=cast("JsonObject", row["input_schema"]),
            credential_types=tuple(cast("list[str]", row["credential_types"])),
            managed=bool(row["managed"]),
            price=cast("int", row["price"]),
        )


@record
class Run:
    """A run as a worker holds it: identity, input and limits. Counters live with the runner.

    Attributes:
        agent: The version it is of; None for a run that was started without an agent.
        credential_ids: By provider, the credentials that its steps may open; the agent's own among them.
    """

    id: RunId
    account_id: UUID
    user_id: UUID | None
    engine: str
    status: RunStatus
    revision: int
    lease_id: UUID | None
    attempt: int
    input: JsonObject
    step_count: int
    max_steps: int
    remaining_seconds: float
    stop_requested: bool
    pause_requested: bool
    agent: RunAgent | None = None
    credential_ids: Mapping[str, UUID] = field(default_factory=dict[str, UUID])

    @classmethod
    def from_row(cls, row: JsonObject) -> Run:
        agent = cast("JsonObject | None", row.get("agent"))
        credential_ids = cast("dict[str, str]", row.get("credential_ids", {}))
        user_id = cast("str | None", row["user_id"])
        lease_id = cast("str | None", row["lease_id"])
        return cls(
            id=RunId(UUID(cast("str", row["id"]))),
            account_id=UUID(cast("str", row["account_id"])),
            user_id=None if user_id is None else UUID(user_id),
            engine=cast("str", row["engine"]),
            status=RunStatus(cast("str", row["status"])),
            revision=cast("int", row["revision"]),
            lease_id=None if lease_id is None else UUID(lease_id),
            attempt=cast("int", row["attempt"]),
            input=cast("JsonObject", row["input"]),
            step_count=cast("int", row["step_count"]),
            max_steps=cast("int", row["max_steps"]),
            remaining_seconds=float(cast("float", row["remaining_seconds"])),
            stop_requested=bool(row["stop_requested"]),
            pause_requested=bool(row["pause_requested"]),
            agent=None if agent is None else RunAgent.from_row(agent),
            credential_ids={provider: UUID(value) for provider, value in credential_ids.items()},
        )


@record
class Artifact:
    """A stored file of a run."""

    name: str
    content: str
    content_type: str


@record
class StepResult:
    """A finished step with what it recorded, in the order in which results were committed."""

    step: Step
    messages: tuple[NewMessage, ...] = ()
    plans: tuple[NewPlan, ...] = ()

    @property
    def output(self) -> JsonObject:
        """The step's output; empty when it failed."""
        return self.step.output or {}

    @property
    def failed(self) -> bool:
        return self.step.status is not StepStatus.COMPLETED


@record
class RunView:
    """Everything an engine may decide on.

    Attributes:
        results: The ended steps in commit order; beside a snapshot, those that ended after it was taken.
        open_steps: The steps that have not ended.
        snapshot: The state that the engine gave away when it was last asked for a snapshot, if one is left.
        snapshot_version: The version of the engine's snapshots that `snapshot` is of.
        kept: The results that the engine wanted to see again with the snapshot, by step number in commit order.
    """

    run: Run
    results: tuple[StepResult, ...]
    open_steps: tuple[Step, ...]
    snapshot: JsonObject | None = None
    snapshot_version: int = 0
    kept: Mapping[int, StepResult] = field(default_factory=dict[int, StepResult])

    @classmethod
    def from_row(cls, row: JsonObject) -> RunView:
        """Read one element of what `claim_runs` and `load_run` answer: {run, snapshot, steps, messages, plans}."""
        ended, open_steps = read_steps(row)
        run = Run.from_row(cast("JsonObject", row["run"]))
        snapshot = cast("JsonObject | None", row.get("snapshot"))
        if snapshot is None:
            return cls(run, ended, open_steps)
        kept = frozenset(cast("list[int]", snapshot["kept_steps"]))
        return cls(
            run,
            results=tuple(result for result in ended if result.step.step_no not in kept),
            open_steps=open_steps,
            snapshot=cast("JsonObject", snapshot["state"]),
            snapshot_version=cast("int", snapshot["version"]),
            kept={result.step.step_no: result for result in ended if result.step.step_no in kept},
        )


def read_steps(row: JsonObject) -> tuple[tuple[StepResult, ...], tuple[Step, ...]]:
    """Read {steps, messages, plans}: the results in commit order, and the steps that have not ended."""
    steps = [Step.from_row(step) for step in cast("list[JsonObject]", row["steps"])]
    messages: dict[int, list[NewMessage]] = {}
    for message in cast("list[JsonObject]", row["messages"]):
        messages.setdefault(cast("int", message["step_no"]), []).append(
            NewMessage(cast("MessageRole", message["role"]), cast("list[Json]", message["content"]))
        )
    plans: dict[int, list[NewPlan]] = {}
    for plan in cast("list[JsonObject]", row["plans"]):
        plans.setdefault(cast("int", plan["step_no"]), []).append(
            NewPlan(cast("str", plan["goal"]), cast("list[Json]", plan["phases"]), cast("str | None", plan["reason"]))
        )
    ended = sorted(
        (step for step in steps if step.status.ended), key=lambda step: (step.finished_revision or 0, step.step_no)
    )
    results = tuple(
        StepResult(step, tuple(messages.get(step.step_no, ())), tuple(plans.get(step.step_no, ()))) for step in ended
    )
    return results, tuple(step for step in steps if not step.status.ended)


@record
class NewRun:
    """What `create_run` needs. `account_id` None means the caller's personal account."""

    engine: str
    input: Mapping[str, Json]
    account_id: UUID | None = None
    max_steps: int = 100
    timeout_seconds: int = 3600
    max_credits: int | None = None
    autostart: bool = False
