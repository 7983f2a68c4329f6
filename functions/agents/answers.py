"""What the agents function answers. What buyers see comes from `public.agent_catalog`, which has no more than that."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, cast
from uuid import UUID

from pydantic import BaseModel, Field, JsonValue

from shared.agents.forms import InputField, form_of
from shared.agents.schemas import problems_with_schema
from shared.run_views import Credits, Time, in_credits
from shared.runs.models import JsonObject

Status = Literal["draft", "published", "retired"]
Object = dict[str, JsonValue]


class AgentCard(BaseModel):
    """An agent as everybody who may see it sees it. What is of a version is null while none is published."""

    COLUMNS: ClassVar[str] = (
        "id,name,description,status,visibility,version_id,number,engine,credential_types,managed_types,price,may_run,"
        "may_edit,run_as,created_at,updated_at,published_at"
    )

    agent_id: UUID
    name: str
    description: str
    status: Status
    visibility: Literal["private", "public"]
    version_id: UUID | None
    version: int | None
    engine: str | None
    required_credential_types: list[str]
    managed_credential_types: list[str] = Field(description="Of the required ones, those that the agent brings itself")
    price: Credits = Field(description="In credits, for each start; nothing for the agent's own account")
    may_run: bool = Field(description="One of the caller's accounts has access")
    may_edit: bool
    run_as: list[UUID] = Field(
        description="The caller's accounts that may run it: `account_id` of agent-execute. The agent's own comes first"
    )
    created_at: Time
    updated_at: Time
    published_at: Time | None

    @classmethod
    def from_row(cls, row: JsonObject) -> Self:
        return cls.model_validate(
            {
                **{name: value for name, value in row.items() if name in cls.model_fields},
                "agent_id": row["id"],
                "version": row["number"],
                "required_credential_types": row["credential_types"] or [],
                "managed_credential_types": row["managed_types"] or [],
                "price": in_credits(row["price"] or 0),
            }
        )


class Agents(BaseModel):
    """A page of agents."""

    agents: list[AgentCard]
    next_cursor: str | None


def _form(schema: JsonObject) -> list[InputField]:
    """None of a broken schema: the database takes one from an admin as it is, perhaps past our functions."""
    return [] if problems_with_schema(schema) else form_of(schema)


class AgentVersion(BaseModel):
    """A version with all that its admins wrote."""

    version_id: UUID
    number: int
    engine: str
    config: Object
    input_schema: Object
    form: list[InputField]
    credential_types: list[str]
    managed_credentials: dict[str, UUID]
    price: Credits
    published_at: Time | None

    @classmethod
    def from_row(cls, row: JsonObject) -> Self:
        form = _form(cast("JsonObject", row["input_schema"]))
        return cls.model_validate({**row, "form": form, "price": in_credits(row["price"])})


class AgentEditing(BaseModel):
    """What only admins see."""

    account_id: UUID
    max_concurrent_runs: int | None
    published: AgentVersion | None
    draft: AgentVersion | None

    @classmethod
    def from_row(cls, row: JsonObject) -> Self:
        versions = {name: cast("JsonObject | None", row[name]) for name in ("published", "draft")}
        read = {name: None if version is None else AgentVersion.from_row(version) for name, version in versions.items()}
        return cls.model_validate(
            {"account_id": row["account_id"], "max_concurrent_runs": row["max_concurrent_runs"], **read}
        )


class Agent(BaseModel):
    """One agent with its form."""

    agent: AgentCard
    input_schema: Object | None
    form: list[InputField]
    editing: AgentEditing | None = None

    @classmethod
    def from_row(cls, row: JsonObject, editing: AgentEditing | None) -> Self:
        schema = cast("JsonObject | None", row["input_schema"])
        return cls.model_validate(
            {
                "agent": AgentCard.from_row(row),
                "input_schema": schema,
                "form": [] if schema is None else _form(schema),
                "editing": editing,
            }
        )


class AgentChanged(BaseModel):
    """What became of an agent."""

    agent_id: UUID
    status: Status
    current_version_id: UUID | None
    draft_version_id: UUID | None
    created: bool = False


class AgentAccess(BaseModel):
    """What became of an account's access."""

    agent_id: UUID
    account_id: UUID
    kind: Literal["granted"] | None = None
    expires_at: Time | None = None
    revoked: bool | None = None


class FlowCard(BaseModel):
    """A flow of a Flowise server."""

    flow_id: str
    name: str
    kind: str
    category: str | None
    overridable: Annotated[dict[str, list[str]], Field(description="By node, the parameters that it takes")]


class Flows(BaseModel):
    """The flows that a key of the server may see."""

    flows: list[FlowCard]
