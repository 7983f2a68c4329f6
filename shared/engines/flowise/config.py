"""What an agent's version says for this engine: which flow, what it is given of a run's input, and which keys.

A value of a mapping is a path into the run's input when it is a text that begins with `$`: `$` is all of it, `$.a.b`
and `$.list.0` a part. `$$` begins a text that is meant as it is. Anything else stands for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import InvalidInput
from shared.runs.models import Json, JsonObject
from shared.vault.fields import checked_base_url

MAX_SECONDS: Final = 300.0
DEFAULT_SECONDS: Final = 110.0  # with the step's grace 130: no drain is shorter-lived, so every host can run it
_MISSING: Final = object()
_OURS: Final = frozenset({"sessionId", "vars"})  # set by us, or by a mapping of its own
_DEEPEST: Final = 4  # a node's map of settings in a node's map is three


def _checked_overrides(value: dict[str, Any]) -> dict[str, Any]:
    ours = sorted(_OURS & value.keys())
    if ours:
        raise ValueError(f"must not set {', '.join(ours)}")
    return value


def _checked_injection(value: dict[str, Any]) -> dict[str, Any]:
    if "sessionId" in value:
        raise ValueError("must not set sessionId")
    for leaf in _leaves(value):
        provider, dot, name = leaf.partition(".") if isinstance(leaf, str) else ("", "", "")
        if not (provider and dot and name):
            raise ValueError("must end in texts like 'openai.api_key': a provider and a field of its credential")
        if provider == "flowise":
            raise ValueError("must not give the server's own key to its flow")
    return value


class Inputs(BaseModel):
    """What the flow is given, by Flowise's names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: Any = "$.question"
    form: dict[str, Any] = Field(default_factory=dict[str, Any], max_length=100)
    vars: dict[str, Any] = Field(default_factory=dict[str, Any], max_length=100)
    overrideConfig: Annotated[dict[str, Any], AfterValidator(_checked_overrides)] = Field(  # noqa: N815 - Flowise's name
        default_factory=dict[str, Any], max_length=100
    )
    uploads: Any = None


class FlowiseConfig(BaseModel):
    """An agent version's config.

    Attributes:
        flow_id: The chatflow or agentflow.
        base_url: The server, where the agent has no flowise credential; otherwise that says it. Https: keys
            of people go there.
        injection: Override parameter -> "provider.field" of a credential; or -> {node id -> ...}, for one node alone;
            or a tree of settings such as {"llmModelConfig": {"openAIApiKey": "openai.api_key"}}.
        require_injection: Fail, before anything is asked, when the server would ignore an injected key.
        session: What the flow's memory lasts for: this run, or all runs of this agent by the same person.
        timeout_seconds: Of one prediction. A host that lives shorter than this and a little gives the run back unasked.
        credits: What one prediction costs, in micro-credits, besides the agent's price.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flow_id: UUID
    base_url: Annotated[str, AfterValidator(checked_base_url)] | None = Field(default=None, max_length=2_000)
    input: Inputs = Inputs()
    injection: Annotated[dict[str, Any], AfterValidator(_checked_injection)] = Field(
        default_factory=dict[str, Any], max_length=50
    )
    require_injection: bool = True
    session: Literal["run", "user"] = "run"
    streaming: bool = True
    timeout_seconds: float = Field(default=DEFAULT_SECONDS, ge=5, le=MAX_SECONDS)
    credits: int = Field(default=0, ge=0, le=10**12)

    @classmethod
    def read(cls, value: JsonObject) -> FlowiseConfig:
        """Raises InvalidInput, naming the first field that is wrong."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "config"
            raise InvalidInput(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None

    @property
    def providers(self) -> tuple[str, ...]:
        """Whose credentials are injected."""
        return tuple(sorted({str(leaf).partition(".")[0] for leaf in _leaves(self.injection)}))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run's input makes of the mappings."""

    question: str | None
    form: JsonObject | None
    overrides: JsonObject = field(default_factory=dict[str, Json])
    uploads: tuple[Json, ...] = ()


def ask_of(config: FlowiseConfig, given: JsonObject) -> Asked:
    """Map a run's input. What a path does not find is left out, but something must be asked.

    Raises:
        InvalidInput: there is neither a question nor a form. Flowise would send its model the word "undefined".
    """
    mapping = config.input
    question = _question(_found(mapping.question, given))
    form = _mapped(mapping.form, given)
    if question is None and not form:
        raise InvalidInput("The run's input holds no question for the agent.")
    overrides = _mapped(mapping.overrideConfig, given)
    variables = _mapped(mapping.vars, given)
    if variables:
        overrides["vars"] = variables
    uploads = _found(mapping.uploads, given)
    files = cast("list[Json]", uploads) if isinstance(uploads, list) else []
    return Asked(question, form or None, overrides, tuple(files))


def _question(value: object) -> str | None:
    if isinstance(value, bool | int | float):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _mapped(mapping: Mapping[str, Any], given: JsonObject) -> JsonObject:
    found = {name: _found(value, given) for name, value in mapping.items()}
    return {name: cast("Json", value) for name, value in found.items() if value is not _MISSING}


def _found(value: Any, given: JsonObject) -> object:
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value.startswith("$$"):
        return value[1:]
    here: object = given
    for part in value.removeprefix("$").split(".")[1:]:
        if isinstance(here, dict):
            here = cast("dict[str, object]", here).get(part, _MISSING)
        elif isinstance(here, list) and part.isdecimal() and len(part) < 6:
            items = cast("list[object]", here)
            here = items[int(part)] if int(part) < len(items) else _MISSING
        else:
            return _MISSING
    return here


def _leaves(value: object, depth: int = 0) -> Iterator[object]:
    if isinstance(value, dict) and depth < _DEEPEST:
        for inner in cast("dict[str, object]", value).values():
            yield from _leaves(inner, depth + 1)
    else:
        yield value
