"""What a person may see of a run: rows of the public tables become the JSON that functions answer.

Credits are credits here (1 credit = 1,000,000 micro-credits, which the tables hold). Columns that belong to the
machinery (lease, wake-up, broadcast) are not shown. `COLUMNS` is what to select for `from_row`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self, cast
from uuid import UUID

from pydantic import BaseModel, Field

from shared.runs.models import Effect, JsonObject, LogType, MessageRole, WaitsFor
from shared.runs.status import RunStatus, StepStatus

MICRO_CREDITS = 1_000_000

Object = dict[str, object]
Credits = Annotated[float, Field(description="In credits")]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # as PostgREST writes it; nothing here reads it


def micro_credits(amount: float) -> int:
    """Micro-credits of an amount in credits, exactly as it was written in decimal; a smaller part is cut off."""
    return int(Decimal(str(amount)) * MICRO_CREDITS)


def in_credits(micro: object) -> float:
    return cast("int", micro) / MICRO_CREDITS


class Record(BaseModel):
    """Base of what is shown as the row has it."""

    COLUMNS: ClassVar[str]

    @classmethod
    def from_row(cls, row: JsonObject) -> Self:
        return cls.model_validate(row)


class HumanRequest(Record):
    """A question of the run to its people, answered with the `respond` action."""

    COLUMNS = "id,run_id,step_no,kind,prompt,options,created_at"

    id: UUID
    step_no: int
    kind: Literal["question", "approval"]
    prompt: str
    options: list[object] = Field(description="If not empty, the response must be one of these")
    created_at: Time


class RunCredits(BaseModel):
    """The run's account of credits. `held` is what is left of its hold, `reserved` the part its open steps may use."""

    held: Credits
    reserved: Credits
    spent: Credits
    max: Credits | None = Field(description="The run's cap, if it has one")


class RunConcurrency(BaseModel):
    """The run's concurrency key: at most `limit` runs of its account with this key go on at a time."""

    key: str
    limit: int


class AgentOfRun(BaseModel):
    """What a run is of. Its name is today's; null when the agent was deleted."""

    id: UUID
    name: str | None
    version: int | None = Field(description="The number of the version that the run has pinned")


class Run(BaseModel):
    """A run, as `show_runs` and `list_runs` answer it."""

    id: UUID
    account_id: UUID
    user_id: UUID | None
    status: RunStatus
    held: bool = Field(
        description="Queued until another run leaves: as many of its account, agent or concurrency key go on as may"
    )
    revision: int = Field(description="Rises with every transition; send it back to act only on what you saw")
    engine: str
    agent: AgentOfRun | None
    input: Object
    output: Object | None
    error: Object | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    duration_ms: int | None = Field(description="From start to end; null before the end, or if it never started")
    deadline_at: Time | None
    step_count: int
    max_steps: int
    timeout_seconds: int
    priority: int = Field(description="Higher goes first among the account's own runs")
    concurrency: RunConcurrency | None
    credits: RunCredits
    forked_from: UUID | None
    fork_step: int | None
    log_seq: int = Field(description="The seq of the run's last log line")
    human_requests: list[HumanRequest] = Field(description="The open questions")

    @classmethod
    def from_row(cls, row: JsonObject, *, questions: Sequence[JsonObject] = ()) -> Self:
        """The run with its open questions (rows of human_requests)."""
        cap = row["max_credits"]
        credits_of_run = RunCredits(
            held=in_credits(row["credits_held"]),
            reserved=in_credits(row["credits_reserved"]),
            spent=in_credits(row["credits_spent"]),
            max=None if cap is None else in_credits(cap),
        )
        key = row["concurrency_key"]
        concurrency = None if key is None else {"key": key, "limit": row["concurrency_limit"]}
        held = row["status"] == RunStatus.QUEUED and bool(row["held_for"])
        shown = {**row, "held": held, "concurrency": concurrency, "credits": credits_of_run}
        return cls.model_validate({**shown, "human_requests": list(questions)})


class Step(Record):
    """A step with its result."""

    COLUMNS = (
        "step_no,key,kind,name,phase,status,attempt,max_attempts,effect,input,output,error,waits_for,available_at,"
        "credits_spent,started_at,finished_at"
    )

    step_no: int
    key: str
    kind: str
    name: str
    phase: str | None
    status: StepStatus
    attempt: int
    max_attempts: int
    effect: Effect
    input: Object
    output: Object | None
    error: Object | None
    waits_for: WaitsFor | None
    available_at: Time | None = Field(description="When a pending step is tried, or a wait ends; else null")
    credits_spent: Credits
    started_at: Time | None
    finished_at: Time | None

    @classmethod
    def from_row(cls, row: JsonObject) -> Self:
        return cls.model_validate({**row, "credits_spent": in_credits(row["credits_spent"])})


class Message(Record):
    """One message of the run's conversation."""

    COLUMNS = "message_no,step_no,role,content,created_at"

    message_no: int
    step_no: int
    role: MessageRole
    content: list[Object]
    created_at: Time


class Artifact(Record):
    """A file that a step produced; the newest of a name is current."""

    COLUMNS = "artifact_no,step_no,name,content_type,content,size_bytes,created_at"

    artifact_no: int
    step_no: int
    name: str
    content_type: str
    content: str
    size_bytes: int
    created_at: Time


class Plan(Record):
    """A plan of the run; the highest number is current, and says why it replaced the one before."""

    COLUMNS = "number,step_no,goal,phases,reason,created_at"

    number: int
    step_no: int
    goal: str
    phases: list[Object]
    reason: str | None
    created_at: Time


class LogLine(Record):
    """A line of the run's log, gap-free by `seq`."""

    COLUMNS = "seq,log_type,message,metadata,created_at"

    seq: int
    log_type: LogType
    message: str
    metadata: Object
    created_at: Time
