"""POST /functions/v1/agent-execute: create a run and move it through its life.

    create   {prompt | agent_id, input?, account_id?, credentials?, version_id?, draft?, options?}
                                                                   201, or 200 when the idempotency key is known
    start    {run_id, revision?}                                   200
    stop     {run_id, revision?}                                   200, or 202 "stopping" while a worker holds the run
    pause    {run_id, revision?}                                   200, or 202 "pausing"
    resume   {run_id, revision?}                                   200
    retry    {run_id, autostart?}                                  201: a new run from the first step that failed
    rerun    {run_id, autostart?}                                  201: a new run with the same input and agent version
    respond  {run_id, response, request_id?}                       200

A `revision` that is given must be the run's own, or nothing is done: 409 `stale_revision`. `Idempotency-Key` makes
create, retry, rerun and respond safe to repeat: a repeat answers what the first call did; the same key with another
request is 409 `idempotency_conflict`. A run of somebody else does not exist (404), nor does an agent to which the
account has no access.

A run of an agent pins the version that is published; `input` must fit its schema, and each of its credential types
needs a credential: the one named in `credentials`, the agent's own, or the account's newest. All problems come at once,
as a JSON list of `{field, message}` in `details`. The agent's price is taken when the run is first started.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from shared.errors import AppError, Unauthenticated
from shared.http import Answer, Call, endpoint, serverless
from shared.run_views import micro_credits
from shared.runs.models import Json, JsonObject
from shared.runs.status import RunStatus

MAX_PROMPT_CHARS = 32_000
FOREIGN_KEY_VIOLATION = "23503"

Provider = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Revision = Annotated[int, Field(ge=1, le=2**63 - 1, description="Act only if the run is still at this revision")]


class Strict(BaseModel):
    """Base of what is accepted: a field that nobody knows is a mistake of the caller's, not to be ignored."""

    model_config = ConfigDict(extra="forbid")


class Concurrency(Strict):
    """At most `limit` of the account's runs with the same key go on at a time; the others wait in the queue."""

    key: str = Field(min_length=1, max_length=200)
    limit: int = Field(default=1, ge=1, le=10_000, description="The run that came up last says it for all of its key")


class Options(Strict):
    """Limits of a run, its place among the account's own, and whether it starts at once."""

    autostart: bool = False
    max_steps: int | None = Field(default=None, ge=1, le=10_000)
    timeout_seconds: int | None = Field(default=None, ge=1, le=604_800, description="From start; pauses do not count")
    max_credits: float | None = Field(
        default=None, ge=0.000001, le=1_000_000_000, allow_inf_nan=False, description="Cap in credits"
    )
    priority: int = Field(default=0, ge=-100, le=100, description="Higher goes first among the account's own runs")
    concurrency: Concurrency | None = None


class Create(Strict):
    """Make a run, of a prompt or of an agent."""

    action: Literal["create"]
    prompt: str | None = Field(default=None, min_length=1, max_length=MAX_PROMPT_CHARS)
    agent_id: UUID | None = None
    input: dict[str, JsonValue] | None = Field(default=None, description="Values for the agent's inputs")
    version_id: UUID | None = Field(default=None, description="Only if this is the version that would be pinned")
    draft: bool = Field(default=False, description="The draft in place of what is published, for the agent's admins")
    account_id: UUID | None = Field(default=None, description="Who owns and pays; default: the personal account")
    credentials: dict[Provider, UUID] = Field(
        default_factory=dict[str, UUID], max_length=20, description="By provider, which of the account's to use"
    )
    options: Options = Options()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.prompt is None) == (self.agent_id is None):
            raise PydanticCustomError("one_source", "Give either prompt or agent_id")
        if self.prompt is not None and self.input is not None:
            raise PydanticCustomError("input_of_agent", "input belongs to agent_id; a prompt stands alone")
        if self.prompt is not None and (self.version_id is not None or self.draft):
            raise PydanticCustomError("version_of_agent", "version_id and draft belong to agent_id")
        return self


class Start(Strict):
    """Queue a created run."""

    action: Literal["start"]
    run_id: UUID
    revision: Revision | None = None


class Control(Strict):
    """Stop, pause or resume a run that is started."""

    action: Literal["stop", "pause", "resume"]
    run_id: UUID
    revision: Revision | None = None


class Retry(Strict):
    """Make a new run that takes over the steps before the first one that did not complete."""

    action: Literal["retry"]
    run_id: UUID
    autostart: bool = True


class Rerun(Strict):
    """Make a new run with the input, the options and the agent version of a run; nothing it recorded is taken over."""

    action: Literal["rerun"]
    run_id: UUID
    autostart: bool = True


class Respond(Strict):
    """Answer a question of the run."""

    action: Literal["respond"]
    run_id: UUID
    response: JsonValue = Field(description="Text, or whatever the question asks for; not null")
    request_id: UUID | None = Field(default=None, description="Which question; needed when several are open")


Body = Annotated[Create | Start | Control | Retry | Rerun | Respond, Field(discriminator="action")]


class Outcome(BaseModel):
    """What became of the run. Only the fields that say something are there."""

    run_id: UUID
    status: RunStatus
    revision: int
    created: bool = False
    stopping: bool | None = Field(default=None, description="A worker holds the run and will end it")
    pausing: bool | None = Field(default=None, description="A worker holds the run and will pause it")
    forked_from: UUID | None = None
    fork_step: int | None = None
    request_id: UUID | None = None


async def agent_execute(call: Call[Create | Start | Control | Retry | Rerun | Respond]) -> Answer:
    """Do what the action says, by one call of the database; a run of an agent is checked by one before."""
    body, key = call.body, call.idempotency_key
    try:
        if isinstance(body, Create) and body.agent_id is not None:
            from functions.agent_execute.agent_runs import create_agent_run  # noqa: PLC0415 - JSON Schema is slow to import

            answer = await create_agent_run(call.database, _new_run(body), key)
        else:
            function, arguments = _request(body, key)
            answer = cast("JsonObject", await call.database.call(function, arguments))
    except AppError as exc:
        # A first run makes the personal account, whose one foreign key out of our hands is the user.
        if isinstance(body, Create) and exc.details == FOREIGN_KEY_VIOLATION:
            raise Unauthenticated("The user of this token no longer exists") from exc
        raise
    outcome = Outcome.model_validate({"created": False, **answer})
    if outcome.created:
        return 201, outcome
    return (202 if outcome.stopping or outcome.pausing else 200), outcome


def _request(body: Create | Start | Control | Retry | Rerun | Respond, key: str | None) -> tuple[str, dict[str, Json]]:
    match body:
        case Create():
            return "create_run", {"p_request": _new_run(body), "p_idempotency_key": key}
        case Start():
            return "start_run", {"p_run_id": str(body.run_id), "p_revision": body.revision}
        case Control():
            arguments: dict[str, Json] = {"p_action": body.action, "p_revision": body.revision}
            return "control_run", {"p_run_id": str(body.run_id), **arguments}
        case Retry() | Rerun():
            arguments = {"p_idempotency_key": key, "p_autostart": body.autostart}
            return f"{body.action}_run", {"p_run_id": str(body.run_id), **arguments}
        case Respond():
            arguments = {
                "p_response": cast("Json", body.response),
                "p_request_id": None if body.request_id is None else str(body.request_id),
                "p_idempotency_key": key,
            }
            return "respond_run", {"p_run_id": str(body.run_id), **arguments}


def _new_run(body: Create) -> JsonObject:
    options = body.options
    request: dict[str, Json] = {
        "engine": None if body.prompt is None else "agent",
        "input": cast("JsonObject", body.input or {}) if body.prompt is None else {"prompt": body.prompt},
        "agent_id": None if body.agent_id is None else str(body.agent_id),
        "version_id": None if body.version_id is None else str(body.version_id),
        "draft": body.draft or None,
        "account_id": None if body.account_id is None else str(body.account_id),
        "credentials": {provider: str(credential_id) for provider, credential_id in body.credentials.items()} or None,
        "max_steps": options.max_steps,
        "timeout_seconds": options.timeout_seconds,
        "max_credits": None if options.max_credits is None else micro_credits(options.max_credits),
        "priority": options.priority or None,
        "concurrency_key": None if options.concurrency is None else options.concurrency.key,
        "concurrency_limit": None if options.concurrency is None else options.concurrency.limit,
        "autostart": options.autostart,
    }
    return {name: value for name, value in request.items() if value is not None}


app = endpoint(
    agent_execute,
    slug="agent-execute",
    accepts=TypeAdapter(Body),
    replies={200: Outcome, 201: Outcome, 202: Outcome},
    headers={
        "Idempotency-Key": "1 to 200 printable ASCII characters; repeats of create, retry, rerun and respond are safe"
    },
)
handler = serverless(app)
