"""A model's answer made fit to be recorded, whatever it holds; what it means is judged elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from shared.llm.model import Block, Message, ModelResponse, Text, ToolCall
from shared.runs.models import JsonObject
from shared.runs.text import storable

_KEPT_CALLS = 32  # more calls in one answer are a runaway and are dropped
_KEPT_CHARACTERS = 500_000  # of one answer; the longest answers of today's models are shorter
_NAME_CHARACTERS = 200
_DEEPEST = 32  # nesting of arguments; half of what the store takes, for they are stored inside a message


def tidy(response: ModelResponse, *, number: int) -> ModelResponse:
    """The answer with unique call ids, and nothing in it too deep, too many, too long or impossible to store.

    Some models number every call 1 or give no id at all, and results could not be told apart. `number` makes the ids
    that are given here unique in the run.
    """
    blocks: list[Block] = []
    ids: set[str] = set()
    left = _KEPT_CHARACTERS
    for block in response.blocks:
        match block:
            case ToolCall() if len(ids) < _KEPT_CALLS:
                id_ = block.id if block.id and block.id not in ids else f"call_{number}_{len(ids)}"
                ids.add(id_)
                kept = replace(_bounded(block, left), id=id_)
                left -= len(kept.raw_arguments)
                blocks.append(kept)
            case ToolCall():
                pass
            case Text():
                text = block.text[:left]
                left -= len(text)
                if text.strip():  # providers refuse to be sent blank texts back
                    blocks.append(Text(text))
            case _:
                blocks.append(block)
    # Thoughts without words or deeds are no turn that a provider takes back.
    spoke = any(isinstance(block, Text | ToolCall) for block in blocks)
    return replace(response, blocks=_storable(Message("assistant", tuple(blocks) if spoke else ())).blocks)


def _bounded(call: ToolCall, left: int) -> ToolCall:
    name = call.name[:_NAME_CHARACTERS]
    if len(call.raw_arguments) > left or _depth(call.arguments) > _DEEPEST:
        return replace(call, name=name, arguments=None, raw_arguments=call.raw_arguments[: min(left, 1_000)])
    return replace(call, name=name)


def _storable(message: Message) -> Message:
    """The message as it will be read back from the database, so that live and recovered state are one."""
    return Message.from_json(storable(cast("JsonObject", message.to_json())))


def _depth(value: object) -> int:
    """Levels of nesting, counted without recursion because the value is a stranger's."""
    level, here = 0, [value]
    while here:
        level += 1
        inner: list[object] = []
        for item in here:
            if isinstance(item, dict):
                inner += cast("dict[str, object]", item).values()
            elif isinstance(item, list):
                inner += cast("list[object]", item)
        here = inner
    return level
