"""Whether what an admin writes fits together: engine, config, input schema and credential types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import ValidationError

from shared.agents.problems import Problem, depth_over
from shared.agents.schemas import problems_with_schema
from shared.engines.agent.config import AgentConfig
from shared.engines.flowise.config import FlowiseConfig
from shared.runs.models import Json, JsonObject

EngineName = Literal["agent", "workflow", "prompt", "flowise"]

MAX_CONFIG_DEPTH: Final = 32  # the database's own limit
PROMPT_FORM: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "title": "Prompt", "format": "textarea", "minLength": 1, "maxLength": 32_000}
    },
    "required": ["prompt"],
    "additionalProperties": False,
}
"""The form of an agent whose admins gave it none."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a version is made of, as far as its parts must fit each other."""

    engine: str
    config: JsonObject
    input_schema: JsonObject
    credential_types: Sequence[str]


def problems_with_content(content: Content) -> list[Problem]:
    """Why a version with this content could not be run; nothing where it can."""
    schema = [
        Problem(f"input_schema.{field}".rstrip("."), message)
        for field, message in problems_with_schema(content.input_schema)
    ]
    return [*schema, *_problems_with_config(content)]


def _problems_with_config(content: Content) -> list[Problem]:
    if depth_over(content.config, MAX_CONFIG_DEPTH):
        return [Problem("config", f"is nested more than {MAX_CONFIG_DEPTH} deep")]
    try:
        if content.engine == "agent":
            config = AgentConfig.model_validate(content.config)
            return [*_unknown_places(config, content.input_schema), *_missing_model(config, content.credential_types)]
        if content.engine == "flowise":
            return _missing_credentials(FlowiseConfig.model_validate(content.config), content.credential_types)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return [
            Problem.at(["config", *problem["loc"]], problem["msg"].removeprefix("Value error, ")) for problem in found
        ]
    return []


def _unknown_places(config: AgentConfig, schema: JsonObject) -> list[Problem]:
    properties: Json = schema.get("properties")
    known = properties.keys() if isinstance(properties, dict) else set[str]()
    return [
        Problem("config.prompt", f"has a place for {name}, which no input is") for name in sorted(config.places - known)
    ]


def _missing_model(config: AgentConfig, types: Sequence[str]) -> list[Problem]:
    """Without a key no model answers, and the platform's own speaks only for who says so."""
    if config.managed:
        return []
    if config.model is None:
        return [Problem("config.model", "is needed, or managed: true for the platform's own model")]
    provider = config.model.partition(":")[0]
    needed = Problem("credential_types", f"lacks {provider}, which config.model needs")
    return [] if provider in types else [needed]


def _missing_credentials(config: FlowiseConfig, types: Sequence[str]) -> list[Problem]:
    problems = [
        Problem("credential_types", f"lacks {provider}, which config.injection needs")
        for provider in config.providers
        if provider not in types
    ]
    if config.base_url is None and "flowise" not in types:
        problems.append(
            Problem("config.base_url", "is needed, or flowise in credential_types, to say where the flow is")
        )
    return problems
