"""What Flowise's API is asked and what it tells, as far as it is looked at here. A field that is missing is empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import orjson

from shared.runs.models import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a flow is asked. `overrides` may hold keys, so it is not shown.

    Attributes:
        chat_id: Unique to the stream: of two at once with one id, the first never ends at the server.
        session_id: What the flow's memory is kept by.
    """

    chat_id: str
    session_id: str
    question: str | None = None
    form: JsonObject | None = None
    overrides: JsonObject = field(default_factory=dict[str, Json], repr=False)
    uploads: tuple[Json, ...] = field(default=(), repr=False)
    human_input: JsonObject | None = None

    def to_body(self, *, streaming: bool) -> JsonObject:
        body: JsonObject = {
            "chatId": self.chat_id,
            "streaming": streaming,
            # It is taken from here even where all other overrides are denied.
            "overrideConfig": {**self.overrides, "sessionId": self.session_id},
        }
        optional: dict[str, Json] = {"question": self.question, "form": self.form, "humanInput": self.human_input}
        body.update({name: value for name, value in optional.items() if value is not None})
        if self.uploads:
            body["uploads"] = [*self.uploads]
        return body


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as its server lists it. `enabled` says which overrides it takes."""

    id: str
    name: str
    kind: str
    category: str | None = None
    enabled: JsonObject = field(default_factory=dict[str, Json])

    @classmethod
    def from_row(cls, row: Mapping[str, Json]) -> Flow:
        api_config = row.get("apiConfig")
        try:
            parsed = orjson.loads(api_config) if isinstance(api_config, str) and api_config else None
        except ValueError:
            parsed = None
        config = cast("JsonObject", parsed) if isinstance(parsed, dict) else {}
        overrides = config.get("overrideConfig")
        category = row.get("category")
        return cls(
            id=str(row.get("id", "")),
            name=str(row.get("name", "")),
            kind=str(row.get("type") or "CHATFLOW"),
            category=category if isinstance(category, str) else None,
            enabled=overrides if isinstance(overrides, dict) else {},
        )


@dataclass(frozen=True, slots=True)
class Overridable:
    """A parameter of a node that a flow could be made to take as an override."""

    node_id: str
    node: str
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of an agentflow, as its server keeps it; chatflows have none."""

    id: str
    state: str
    session_id: str

    @classmethod
    def from_row(cls, row: Mapping[str, Json]) -> Execution:
        return cls(str(row.get("id", "")), str(row.get("state", "")), str(row.get("sessionId", "")))
