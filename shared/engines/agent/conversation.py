"""The supervisor's conversation: it grows at its end and is cut down in its middle, the same way on every machine.

There is one for the whole run, phases and all, so that providers can cache what was said before. When it outgrows its
bound, the oldest bulk (tool results, long arguments) is left out until half of the bound is free; who called what with
which outcome always stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import orjson

from shared.engines.agent.prompts import LEFT_OUT
from shared.llm.model import Block, JsonObject, Message, ToolCall, ToolResult

_BULK_CHARACTERS = 500  # what is shorter is not worth leaving out
_KEPT_WHOLE = 6  # newest messages, which the next answer needs


@dataclass(slots=True)
class Conversation:
    """Messages in order, and how large they are as JSON."""

    messages: list[Message] = field(default_factory=list[Message])
    characters: int = 0
    _slimmed: int = 0  # messages before this one hold no bulk any more

    def say(self, message: Message) -> None:
        self.messages.append(message)
        self.characters += _size(message)

    def fit(self, longest: int) -> None:
        """Leave out the oldest bulk if the conversation is over `longest` characters."""
        if self.characters <= longest:
            return
        end = max(self._slimmed, len(self.messages) - _KEPT_WHOLE)
        while self.characters > longest // 2 and self._slimmed < end:
            whole = self.messages[self._slimmed]
            slim = replace(whole, blocks=tuple(_slim(block) for block in whole.blocks))
            self.messages[self._slimmed] = slim
            self.characters += _size(slim) - _size(whole)
            self._slimmed += 1


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
