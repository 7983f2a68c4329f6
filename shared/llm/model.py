"""The one shape in which every engine talks to every model.

All of it is plain data: a message written today is read from the database for years, so `to_json` and `from_json`
are a public format, and an unknown key is ignored while a missing one is an error. What a model says wrongly (bad
JSON in a tool call, nothing at all) is data too and never an exception: the engine tells the model and goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TypeAlias, cast

import orjson

from shared.errors import InvalidInput

JsonObject: TypeAlias = dict[str, object]
Role: TypeAlias = Literal["user", "assistant", "tool"]
StopReason: TypeAlias = Literal["end", "tool_calls", "max_tokens", "refusal", "other"]
OnText: TypeAlias = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Text:
    """Words for people or for the model."""

    text: str

    def to_json(self) -> JsonObject:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called.

    `arguments` is None when the model wrote something that is no JSON object; `raw_arguments` is always what it
    wrote. `extra` is what the provider wants back with the call, word for word (Gemini's thought signatures).
    """

    id: str
    name: str
    arguments: JsonObject | None
    raw_arguments: str
    extra: JsonObject | None = None

    @classmethod
    def parse(cls, call_id: str, name: str, raw_arguments: str, *, extra: JsonObject | None = None) -> ToolCall:
        """Keep a call as the model wrote it; no text at all means no arguments."""
        raw_arguments = well_formed(raw_arguments)
        return cls(call_id, name, parse_object(raw_arguments or "{}"), raw_arguments, extra)

    def to_json(self) -> JsonObject:
        known: JsonObject = {
            "type": "tool_call",
            "id": self.id,
            "name": self.name,
            "arguments": self.arguments,
            "raw_arguments": self.raw_arguments,
        }
        return known if self.extra is None else {**known, "extra": self.extra}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered; with `is_error` the model is told that the call failed."""

    tool_call_id: str
    content: str
    is_error: bool = False

    def to_json(self) -> JsonObject:
        return {
            "type": "tool_result",
            "tool_call_id": self.tool_call_id,
            "content": self.content,
            "is_error": self.is_error,
        }


@dataclass(frozen=True, slots=True)
class Opaque:
    """A block that only its provider understands (a signed thought): kept, and sent back to the same model unread."""

    model: str
    data: JsonObject

    def to_json(self) -> JsonObject:
        return {"type": "opaque", "model": self.model, "data": self.data}


Block: TypeAlias = Text | ToolCall | ToolResult | Opaque


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `tool` turns hold tool results and nothing else."""

    role: Role
    blocks: tuple[Block, ...]

    @classmethod
    def user(cls, text: str) -> Message:
        return cls("user", (Text(text),))

    @classmethod
    def tool(cls, *results: ToolResult) -> Message:
        return cls("tool", results)

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks if isinstance(block, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(block for block in self.blocks if isinstance(block, ToolCall))

    def to_json(self) -> JsonObject:
        return {"role": self.role, "blocks": [block.to_json() for block in self.blocks]}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Message:
        """Read a stored message.

        Raises:
            InvalidInput: `data` is not a message; the text names the key.
        """
        role = _string(data, "role")
        if role not in {"user", "assistant", "tool"}:
            raise InvalidInput(f"A message has the unknown role {role!r}.")
        return cls(cast("Role", role), _blocks(data))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool offered to the model; `input_schema` is the JSON Schema of an object."""

    name: str
    description: str
    input_schema: JsonObject

    def to_json(self) -> JsonObject:
        return {"name": self.name, "description": self.description, "input_schema": self.input_schema}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may call tools: `auto`, `none`, `required` (at least one), or exactly the tool `name`."""

    mode: Literal["auto", "none", "required", "tool"] = "auto"
    name: str | None = None

    @classmethod
    def only(cls, name: str) -> ToolChoice:
        return cls("tool", name)


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The shape that the whole answer must have. Providers hold it as well as they can; check the answer anyway."""

    name: str
    schema: JsonObject


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of a model.

    `timeout_seconds` covers all attempts and the waits between them. `temperature` is left out for models that
    refuse it. `idempotency_key` goes out as a header where the provider takes one.
    """

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    json_schema: JsonSchema | None = None
    max_output_tokens: int = 8192
    temperature: float | None = None
    timeout_seconds: float = 300.0
    idempotency_key: str | None = None

    @property
    def input_characters(self) -> int:
        """The size of everything sent, in bytes of UTF-8: no tokenizer makes more tokens than that."""
        parts: list[object] = [message.to_json() for message in self.messages]
        parts += [tool.to_json() for tool in self.tools]
        if self.json_schema is not None:
            parts.append(self.json_schema.schema)
        return len(self.system.encode()) + sum(len(orjson.dumps(part)) for part in parts)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input_tokens` leaves out what was read from or written to the provider's cache.

    `estimated` is true when the provider did not say and the numbers come from the length of the texts.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    estimated: bool = False

    def to_json(self) -> JsonObject:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Usage:
        def tokens(key: str) -> int:
            value = data.get(key, 0)
            return value if isinstance(value, int) else 0

        return cls(
            tokens("input_tokens"),
            tokens("output_tokens"),
            tokens("cache_read_tokens"),
            tokens("cache_write_tokens"),
            data.get("estimated") is True,
        )


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """What the model answered, in its own order; an empty answer is one without blocks."""

    blocks: tuple[Block, ...]
    stop_reason: StopReason
    usage: Usage
    model: str

    @property
    def message(self) -> Message:
        """The answer as the next turn of the conversation."""
        return Message("assistant", self.blocks)

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls

    @property
    def json(self) -> JsonObject | None:
        """The answer read as one JSON object, with or without a code fence around it; None if it is none."""
        text = self.text.strip()
        if text.startswith("```") and text.endswith("```"):
            text = text[3:-3].removeprefix("json").strip()
        return parse_object(text)

    def to_json(self) -> JsonObject:
        return {
            "blocks": [block.to_json() for block in self.blocks],
            "stop_reason": self.stop_reason,
            "usage": self.usage.to_json(),
            "model": self.model,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ModelResponse:
        """Read a stored response.

        Raises:
            InvalidInput: `data` is not a response; the text names the key.
        """
        stop_reason = _string(data, "stop_reason")
        if stop_reason not in {"end", "tool_calls", "max_tokens", "refusal", "other"}:
            raise InvalidInput(f"A model response has the unknown stop reason {stop_reason!r}.")
        return cls(
            _blocks(data),
            cast("StopReason", stop_reason),
            Usage.from_json(_object(data, "usage")),
            _string(data, "model"),
        )


class Model(Protocol):
    """A model that can be asked. One instance serves any number of calls at once."""

    @property
    def name(self) -> str:
        """`provider:model`, the name under which prices are kept."""
        ...

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        """Ask the model; `on_text` gets the words as they come.

        Cancelling the call closes the connection. A call is repeated on trouble that passes, but never once
        `on_text` has been given a word, for a reader cannot unread it.

        Raises:
            UpstreamTimeout: no complete answer within `request.timeout_seconds`.
            UpstreamBusy: overloaded, rate limited or out of reach, also after the repeats.
            UpstreamRefused: the provider will refuse this call again: key, model name or request are wrong.
        """
        ...

    async def aclose(self) -> None:
        """Close idle connections; the model may be used again afterwards."""
        ...


def parse_object(text: str) -> JsonObject | None:
    """Read a JSON object; None for anything else, be it broken, a list or NaN."""
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return cast("JsonObject", value) if isinstance(value, dict) else None


def well_formed(text: str) -> str:
    """Join surrogates that a stream tore apart and replace lone ones: no UTF-8, thus no database, takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _blocks(data: Mapping[str, object]) -> tuple[Block, ...]:
    blocks = data.get("blocks")
    if not isinstance(blocks, list):
        raise InvalidInput("A message needs 'blocks', a list.")
    return tuple(_block(block) for block in cast("list[object]", blocks))


def _block(value: object) -> Block:
    if not isinstance(value, dict):
        raise InvalidInput("A block of a message is not an object.")
    data = cast("JsonObject", value)
    match _string(data, "type"):
        case "text":
            return Text(_string(data, "text"))
        case "tool_call":
            arguments = None if data.get("arguments") is None else _object(data, "arguments")
            extra = None if data.get("extra") is None else _object(data, "extra")
            return ToolCall(
                _string(data, "id"), _string(data, "name"), arguments, _string(data, "raw_arguments"), extra
            )
        case "tool_result":
            return ToolResult(_string(data, "tool_call_id"), _string(data, "content"), data.get("is_error") is True)
        case "opaque":
            return Opaque(_string(data, "model"), _object(data, "data"))
        case unknown:
            raise InvalidInput(f"A message holds a block of the unknown type {unknown!r}.")


def _string(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"A message needs {key!r}, a string.")
    return value


def _object(data: Mapping[str, object], key: str) -> JsonObject:
    value = data.get(key)
    if not isinstance(value, dict):
        raise InvalidInput(f"A message needs {key!r}, an object.")
    return cast("JsonObject", value)
