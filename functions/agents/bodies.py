"""What the agents function accepts: one shape for each action, and no field that nobody knows."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from shared.agents.contents import EngineName
from shared.http.times import Instant
from shared.vault.fields import checked_base_url

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Description = Annotated[str, Field(max_length=4_000)]
Visibility = Literal["private", "public"]
Places = Annotated[int, Field(ge=1, le=10_000)]
Provider = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Price = Annotated[float, Field(ge=0, le=1_000_000_000, allow_inf_nan=False, description="In credits, for each start")]
Managed = Annotated[
    dict[Provider, UUID], Field(max_length=20, description="Credentials of the agent's account that stand in")
]
Types = Annotated[list[Provider], Field(max_length=20)]


class Strict(BaseModel):
    """Base of what is accepted."""

    model_config = ConfigDict(extra="forbid")


class ListAgents(Strict):
    """The agents that the caller may see, newest first."""

    action: Literal["list"]
    search: str | None = Field(default=None, min_length=1, max_length=100, description="In the name or the description")
    engine: EngineName | None = None
    only: Literal["published", "runnable", "editable"] = "published"
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=500)


class GetAgent(Strict):
    """One agent with its form; with all there is, for its admins."""

    action: Literal["get"]
    agent_id: UUID


class CreateAgent(Strict):
    """Make an agent with a draft."""

    action: Literal["create"]
    name: Name
    engine: EngineName
    account_id: UUID | None = Field(default=None, description="Whose it is; default: the personal account")
    description: Description = ""
    visibility: Visibility = "private"
    max_concurrent_runs: Places | None = None
    config: dict[str, JsonValue] = {}
    input_schema: dict[str, JsonValue] | None = Field(default=None, description="Default: one text, `prompt`")
    credential_types: Types = []
    managed_credentials: Managed = {}
    price: Price = 0


class UpdateAgent(Strict):
    """Change what is named; the content changes the draft, or begins one."""

    action: Literal["update"]
    agent_id: UUID
    name: Name | None = None
    description: Description | None = None
    visibility: Visibility | None = None
    max_concurrent_runs: Places | None = None
    engine: EngineName | None = None
    config: dict[str, JsonValue] | None = None
    input_schema: dict[str, JsonValue] | None = None
    credential_types: Types | None = None
    managed_credentials: Managed | None = None
    price: Price | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        named = self.model_fields_set - {"action", "agent_id"}
        if not named:
            raise PydanticCustomError("nothing", "Name what is to change")
        for field in sorted(named - {"max_concurrent_runs"}):
            if getattr(self, field) is None:
                raise PydanticCustomError("null", "{field} cannot be null", {"field": field})
        return self


class PublishAgent(Strict):
    """Publish an agent's draft."""

    action: Literal["publish"]
    agent_id: UUID


class RetireAgent(Strict):
    """Take an agent out of use."""

    action: Literal["retire"]
    agent_id: UUID


class GrantAgent(Strict):
    """Let an account run an agent."""

    action: Literal["grant"]
    agent_id: UUID
    account_id: UUID
    expires_at: Instant | None = Field(default=None, description="Default: for good")


class RevokeAgent(Strict):
    """Take back what was granted."""

    action: Literal["revoke"]
    agent_id: UUID
    account_id: UUID


class Server(Strict):
    """A Flowise server. Its key is used for this call and kept nowhere."""

    base_url: Annotated[str, AfterValidator(checked_base_url)] = Field(min_length=1, max_length=2_000)
    api_key: SecretStr | None = Field(default=None, min_length=1, max_length=1_000)


class ListFlows(Server):
    """The flows of a Flowise server."""

    action: Literal["list_flowise"]


class FlowInput(Strict):
    """One field of the form, and what of the flow it becomes."""

    name: str = Field(pattern=r"^[A-Za-z0-9_]{1,64}$")
    becomes: str = Field(
        default="question",
        pattern=r"^(question|(form|vars|override)\.[A-Za-z0-9_]{1,100})$",
        description="`question`, `form.x`, `vars.x` or `override.x`",
    )
    schema_: dict[str, JsonValue] = Field(default={"type": "string"}, alias="schema", description="Its JSON Schema")
    required: bool = True


class ImportFlow(Server):
    """Make an agent of a flow."""

    action: Literal["import_flowise"]
    flow_id: UUID
    account_id: UUID | None = None
    name: Name | None = Field(default=None, description="Default: the flow's")
    description: Description = ""
    inputs: list[FlowInput] = Field(default_factory=lambda: [FlowInput(name="question")], min_length=1, max_length=100)
    injection: dict[str, JsonValue] = Field(
        default={}, max_length=50, description="Override parameter -> `provider.field` of a credential"
    )
    credential_id: UUID | None = Field(
        default=None, description="The account's own credential for the server, used for everybody's runs"
    )
    price: Price = 0

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        """Of two inputs for one thing, one would be asked for and go nowhere."""
        names, targets = ([given.name for given in self.inputs], [given.becomes for given in self.inputs])
        problems = [f"two inputs are named {name}" for name in _repeated(names)]
        problems += [f"two inputs become {target}" for target in _repeated(targets)]
        if problems:
            raise PydanticCustomError("repeated", "{problems}", {"problems": "; ".join(problems)})
        return self


def _repeated(texts: list[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1]


AnyBody = (
    ListAgents
    | GetAgent
    | CreateAgent
    | UpdateAgent
    | PublishAgent
    | RetireAgent
    | GrantAgent
    | RevokeAgent
    | ListFlows
    | ImportFlow
)
Body = Annotated[AnyBody, Field(discriminator="action")]
