"""What an agent's version says for this engine, and what becomes of a run's input with it.

The run's input stays as its person entered it; the seller's words are joined with it here, in memory, each time a run
is opened. So a prompt template is in no row that a buyer can select.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from shared.runs.models import Json, JsonObject

_PLACE: Final = re.compile(r"\{\{ *([A-Za-z0-9_]{1,100}) *\}\}")


class AgentConfig(BaseModel):
    """An agent version's config.

    Attributes:
        instructions: What the agent is and how it works, for the planner and for the supervisor.
        prompt: The task, with {{name}} in the place of each value of the input. Without it the task is the input.
        tools: The tools that it may use, by name; None: all that the worker has.
        model: `provider:name`; the run brings the key of that provider (`models` reads it).
        managed: Where the run brings no key, the platform's speaks for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: str = Field(default="", max_length=16_000)
    prompt: str | None = Field(default=None, min_length=1, max_length=16_000)
    tools: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], ...] | None = Field(
        default=None, max_length=100
    )
    model: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]{0,31}:\S{1,200}$")
    managed: bool = False

    @property
    def places(self) -> frozenset[str]:
        """The values that the prompt has a place for."""
        return frozenset(_PLACE.findall(self.prompt or ""))

    def task(self, given: JsonObject) -> str:
        """The task of a run with this input. A value is never read as a template: what it says in braces stays so."""
        if self.prompt is not None:
            return _PLACE.sub(lambda place: _said(given.get(place[1])), self.prompt).strip()
        prompt = given.get("prompt")
        first = [prompt.strip()] if isinstance(prompt, str) else []
        rest = [f"{name}: {_said(value)}" for name, value in given.items() if not (first and name == "prompt")]
        return "\n".join(first + rest)


def _said(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
