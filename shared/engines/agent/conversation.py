"""The supervisor's conversation: it grows at its end and is cut down in its middle, the same way on every machine.

There is one for the whole run, phases and all, so that providers can cache what was said before. When it outgrows its
bound, the oldest bulk (tool results, long arguments) is left out until half of the bound is free; who called what with
which outcome always stays. What is left of a step is noted, so that nobody reads its bulk again only to leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import orjson

from shared.engines.agent.prompts import LEFT_OUT
from shared.llm.model import Block, JsonObject, Message, ToolCall, ToolResult
from shared.runs import models

_BULK_CHARACTERS = 500  # what is shorter is not worth leaving out
_KEPT_WHOLE = 6  # newest messages, which the next answer needs


@dataclass(frozen=True, slots=True)
class Origin:
    """The step that a block comes from, and what is left of that step once the block's bulk is left out.

    None: the message itself, as it then stands.
    """

    step_no: int
    remnant: models.JsonObject | None = None


@dataclass(slots=True)
class Conversation:
    """Messages in order, and how large they are as JSON.

    Attributes:
        slimmed: Messages before this one hold no bulk any more.
        remnants: What is left of the steps whose bulk was left out, by step number.
    """

    messages: list[Message] = field(default_factory=list[Message])
    characters: int = 0
    slimmed: int = 0
    remnants: dict[int, models.JsonObject] = field(default_factory=dict[int, models.JsonObject])
    _origins: list[tuple[Origin | None, ...]] = field(default_factory=list[tuple[Origin | None, ...]])

    def say(self, message: Message, origins: tuple[Origin | None, ...] = ()) -> None:
        """Add a message; `origins` are those of its blocks, or the only one of the whole message."""
        self.messages.append(message)
        self._origins.append(origins)
        self.characters += _size(message)

    def fit(self, longest: int) -> None:
        """Leave out the oldest bulk if the conversation is over `longest` characters."""
        if self.characters <= longest:
            return
        end = max(self.slimmed, len(self.messages) - _KEPT_WHOLE)
        while self.characters > longest // 2 and self.slimmed < end:
            self._slim_next()

    def slim(self, count: int) -> None:
        """Leave out the bulk of the first `count` messages, as they were when `count` was written down."""
        while self.slimmed < count:
            self._slim_next()

    def _slim_next(self) -> None:
        whole, origins = self.messages[self.slimmed], self._origins[self.slimmed]
        slim = replace(whole, blocks=tuple(_slim(block) for block in whole.blocks))
        self.messages[self.slimmed] = slim
        self.characters += _size(slim) - _size(whole)
        self.slimmed += 1
        if whole.role == "assistant":
            if origins and origins[0] is not None and slim != whole:
                blocks = cast("list[models.Json]", slim.to_json()["blocks"])
                self.remnants[origins[0].step_no] = {"blocks": blocks}
            return
        for before, after, origin in zip(whole.blocks, slim.blocks, origins, strict=False):
            if origin is not None and origin.remnant is not None and before != after:
                self.remnants[origin.step_no] = origin.remnant


def _slim(block: Block) -> Block:
    match block:
        case ToolResult() if len(block.content) > _BULK_CHARACTERS:
            return replace(block, content=LEFT_OUT)
        case ToolCall() if len(block.raw_arguments) > _BULK_CHARACTERS:
            arguments: JsonObject | None = None
            if block.arguments is not None:
                arguments = {key: _slim_argument(value) for key, value in block.arguments.items()}
            return replace(block, arguments=arguments, raw_arguments=orjson.dumps(arguments or {}).decode())
        case _:
            return block


def _slim_argument(value: object) -> object:
    return LEFT_OUT if len(orjson.dumps(value)) > _BULK_CHARACTERS else value


def _size(message: Message) -> int:
    return len(orjson.dumps(message.to_json()))
