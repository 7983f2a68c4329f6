"""A conversation on file: what a model answers at each turn. Played by `ScriptedModel` and by the tests' server.

    {"prompt": "the prompt it was made for",
     "plans": [reply, ...],      answers to requests with a JSON schema, in order
     "turns": [reply, ...]}      answers to all others, in order

A reply is {"text"?, "json"?, "tool_calls"?: [{"id"?, "name", "arguments" | "raw_arguments"}], "stop_reason"?,
"usage"?: {"input_tokens", "output_tokens"}}. `json` is an object that is sent as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson

from shared.errors import InvalidInput
from shared.llm.model import Block, JsonObject, ModelResponse, StopReason, Text, ToolCall, Usage, parse_object

RECORDINGS = Path(__file__).parent / "recordings"


@dataclass(frozen=True, slots=True)
class Recording:
    name: str
    prompt: str
    plans: tuple[JsonObject, ...]
    turns: tuple[JsonObject, ...]

    @classmethod
    def load(cls, name: str) -> Recording:
        """Read a recording that comes with Runbase.

        Raises:
            InvalidInput: there is none of that name, or its file is damaged.
        """
        path = RECORDINGS / f"{name}.json"
        if not re.fullmatch(r"[a-z0-9_]+", name) or not path.is_file():
            known = ", ".join(sorted(file.stem for file in RECORDINGS.glob("*.json")))
            raise InvalidInput(f"There is no recording {name!r}.", hint=f"There are: {known}.")
        data = parse_object(path.read_text(encoding="utf-8"))
        if data is None:
            raise InvalidInput(f"The recording {name!r} is not a JSON object.")
        return cls.from_json(name, data)

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, object]) -> Recording:
        return cls(name, str(data.get("prompt", "")), _replies(name, data, "plans"), _replies(name, data, "turns"))


def response_from(reply: Mapping[str, object], *, model: str, call_prefix: str) -> ModelResponse:
    """Turn a recorded reply into a response; calls without an id get `call_prefix` and their place."""
    blocks: list[Block] = []
    text = str(reply.get("text", ""))
    if "json" in reply:
        text += orjson.dumps(reply["json"], option=orjson.OPT_INDENT_2).decode()
    if text:
        blocks.append(Text(text))
    calls = cast("list[JsonObject]", reply.get("tool_calls") or [])
    for place, call in enumerate(calls):
        raw = call.get("raw_arguments")
        written = raw if isinstance(raw, str) else orjson.dumps(call.get("arguments", {})).decode()
        blocks.append(ToolCall.parse(str(call.get("id") or f"{call_prefix}_{place}"), str(call["name"]), written))
    stop_reason = reply.get("stop_reason") or ("tool_calls" if calls else "end")
    usage = cast("JsonObject", reply.get("usage") or {})
    return ModelResponse(tuple(blocks), cast("StopReason", stop_reason), Usage.from_json(usage), model)


def _replies(name: str, data: Mapping[str, object], key: str) -> tuple[JsonObject, ...]:
    replies = data.get(key, [])
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in cast("list[object]", replies)):
        raise InvalidInput(f"The recording {name!r} needs {key!r}, a list of objects.")
    return tuple(cast("list[JsonObject]", replies))
