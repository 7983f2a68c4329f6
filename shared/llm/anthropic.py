"""Claude through Anthropic's own SDK.

Two generations of models differ in what they refuse. Up to 4.x a call may be forced and the temperature set; later
ones think on their own, refuse both, and want their signed thoughts back word for word with the tool results.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import cast

import anthropic
import httpx2
from anthropic.types import (
    MessageDeltaUsage,
    MessageParam,
    OutputConfigParam,
    RawContentBlockDelta,
    RawMessageStreamEvent,
    ToolChoiceParam,
    ToolParam,
)
from anthropic.types import (
    Usage as SdkUsage,
)

from shared.errors import UpstreamRefused
from shared.llm.connection import CONNECT_SECONDS, PerLoop
from shared.llm.failures import broken_off, failure, no_protocol, unreachable
from shared.llm.model import (
    Block,
    JsonObject,
    Message,
    ModelRequest,
    ModelResponse,
    OnText,
    Opaque,
    StopReason,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
    ToolSpec,
    Usage,
    well_formed,
)
from shared.llm.retry import RetryPolicy, repeat

DEFAULT_BASE_URL = "https://api.anthropic.com"
DEFAULT_MODEL = "claude-sonnet-5-5"

_PROVIDER = "Anthropic"
_TAKES_FORCED_TOOLS_AND_TEMPERATURE = re.compile(r"claude-(?:3|haiku-4|sonnet-4|opus-4-[0-6]\b|opus-4-20)|(?!claude-)")
_LACKS_OUTPUT_FORMAT = re.compile(r"claude-(?:3|(?:sonnet|opus)-4-(?:[01]\b|20))|(?!claude-)")
_STOP_REASONS: dict[str, StopReason] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "tool_use": "tool_calls",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
}


class AnthropicModel:
    """A Claude model, or one behind a server that speaks Anthropic's protocol."""

    def __init__(
        self, model: str, *, api_key: str, base_url: str = DEFAULT_BASE_URL, policy: RetryPolicy | None = None
    ) -> None:
        self._model = model
        self._api_key = api_key
        self.base_url = base_url
        self._policy = policy or RetryPolicy()
        self._clients = PerLoop(self._connect)

    @property
    def name(self) -> str:
        return f"anthropic:{self._model}"

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        return await repeat(
            lambda show: self._attempt(request, show),
            provider=_PROVIDER,
            policy=self._policy,
            timeout_seconds=request.timeout_seconds,
            on_text=on_text,
        )

    async def aclose(self) -> None:
        await self._clients.aclose()

    def _connect(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            api_key=self._api_key,
            base_url=self.base_url,
            max_retries=0,
            # A redirect would carry x-api-key to another host. The read has no limit of its own: `repeat` has one.
            http_client=anthropic.DefaultAsyncHttpxClient(
                follow_redirects=False, timeout=anthropic.Timeout(None, connect=CONNECT_SECONDS)
            ),
            timeout=anthropic.Timeout(None, connect=CONNECT_SECONDS),
        )

    async def _attempt(self, request: ModelRequest, on_text: OnText | None) -> ModelResponse:
        try:
            return await self._ask(request, on_text)
        except UpstreamRefused as refusal:
            # A signed thought that was touched on its way (redacted, moved by a fork) would be refused at every
            # later turn too. The conversation goes on without the thoughts; what they led to is still there.
            forgetful = _without_thoughts(request)
            if forgetful == request or "thinking" not in (refusal.details or ""):
                raise
            return await self._ask(forgetful, on_text)

    async def _ask(self, request: ModelRequest, on_text: OnText | None) -> ModelResponse:
        answer = _Answer(self.name, _answer_tool(request, self._model))
        async with aclosing(self._events(request)) as events:
            async for event in events:
                try:
                    text = answer.add(event)
                except (AttributeError, KeyError, TypeError):
                    # The SDK does not check what it reads: a field may be missing or of another type.
                    raise no_protocol(_PROVIDER) from None
                if text and on_text is not None:
                    await on_text(text)
        return answer.response()

    async def _events(self, request: ModelRequest) -> AsyncGenerator[RawMessageStreamEvent]:
        """The provider's stream, with its failures turned into ours.

        `from None`: the SDK's exceptions print the provider's whole answer, which may hold the key.
        """
        try:
            async with await self._open(request) as events:
                async for event in events:
                    yield event
        except anthropic.APIStatusError as error:
            raise failure(
                _PROVIDER,
                status=error.status_code,
                body=error.body,
                headers=error.response.headers,
                model=self._model,
                key=self._api_key,
            ) from None
        except (anthropic.APIConnectionError, httpx2.HTTPError):
            # The SDK wraps what fails before the first byte; what breaks a stream comes through as httpx2's.
            raise unreachable(_PROVIDER) from None
        except (anthropic.APIError, ValueError):  # ValueError: an event that is no JSON, or no UTF-8
            raise no_protocol(_PROVIDER) from None

    async def _open(self, request: ModelRequest) -> anthropic.AsyncStream[RawMessageStreamEvent]:
        classic = _TAKES_FORCED_TOOLS_AND_TEMPERATURE.match(self._model) is not None
        answer_tool = _answer_tool(request, self._model)
        tools, choice = request.tools, request.tool_choice
        if answer_tool is not None:
            tools, choice = (*tools, answer_tool), ToolChoice.only(answer_tool.name)
        system = request.system
        if not classic and choice.mode in {"required", "tool"}:
            system, choice = f"{system}\n\n{_asked_for(choice)}".strip(), ToolChoice()
        return await self._clients.get().messages.create(
            stream=True,
            model=self._model,
            max_tokens=request.max_output_tokens,
            messages=_messages(request.messages, self.name),
            system=system or anthropic.omit,
            tools=[_tool(tool) for tool in tools] or anthropic.omit,
            tool_choice=_choice(choice) if tools else anthropic.omit,
            output_config=_output_config(request) if answer_tool is None else anthropic.omit,
            # A conversation with tools is sent again at every turn; its beginning is read from the cache then.
            cache_control={"type": "ephemeral"} if request.tools and self._is_claude else anthropic.omit,
            extra_headers={"Idempotency-Key": request.idempotency_key} if request.idempotency_key else None,
            # The SDK knows no temperature any more; the models that take one still do.
            extra_body={"temperature": request.temperature} if classic and request.temperature is not None else None,
        )

    @property
    def _is_claude(self) -> bool:
        return self._model.startswith("claude-")


@dataclass
class _Part:
    """A content block while it is being written."""

    start: JsonObject
    text: list[str] = field(default_factory=list[str])
    signature: str = ""

    def block(self, model: str, answer_tool: ToolSpec | None) -> Block:
        written = "".join(self.text)
        match self.start["type"]:
            case "text":
                return Text(well_formed(str(self.start.get("text", "")) + written))
            case "tool_use" if answer_tool is not None and self.start.get("name") == answer_tool.name:
                return Text(well_formed(written))
            case "tool_use":
                return ToolCall.parse(str(self.start.get("id", "")), str(self.start.get("name", "")), written)
            case "thinking":
                return Opaque(model, {**self.start, "thinking": written, "signature": self.signature})
            case _:
                return Opaque(model, self.start)


class _Answer:
    """Collects the events of one streamed answer."""

    def __init__(self, model: str, answer_tool: ToolSpec | None) -> None:
        self._model = model
        self._answer_tool = answer_tool
        self._parts: dict[int, _Part] = {}
        self._stop_reason: str | None = None
        self._usage = Usage()

    def add(self, event: RawMessageStreamEvent) -> str | None:
        """Take one event; returns the words in it that a reader may see."""
        match event.type:
            case "message_start":
                self._count(event.message.usage)
            case "message_delta":
                self._stop_reason = event.delta.stop_reason
                self._count(event.usage)
            case "content_block_start":
                self._parts[event.index] = _Part(event.content_block.to_dict())
            case "content_block_delta":
                return self._grow(self._parts[event.index], event.delta)
            case _:
                pass
        return None

    def response(self) -> ModelResponse:
        if self._stop_reason is None:
            raise broken_off(_PROVIDER)
        blocks = tuple(part.block(self._model, self._answer_tool) for _, part in sorted(self._parts.items()))
        stop_reason = _STOP_REASONS.get(self._stop_reason, "other")
        if stop_reason == "tool_calls" and not any(isinstance(block, ToolCall) for block in blocks):
            stop_reason = "end"  # the only call was the answer itself
        return ModelResponse(blocks, stop_reason, self._usage, self._model)

    def _grow(self, part: _Part, delta: RawContentBlockDelta) -> str | None:
        match delta.type:
            case "text_delta":
                part.text.append(delta.text)
                return delta.text
            case "input_json_delta":
                part.text.append(delta.partial_json)
                is_answer = self._answer_tool is not None and part.start.get("name") == self._answer_tool.name
                return delta.partial_json if is_answer else None
            case "thinking_delta":
                part.text.append(delta.thinking)
            case "signature_delta":
                part.signature += delta.signature
            case _:
                pass
        return None

    def _count(self, usage: SdkUsage | MessageDeltaUsage) -> None:
        """Each event has the totals so far; what it leaves out stays as it was."""
        seen = self._usage
        self._usage = Usage(
            usage.input_tokens or seen.input_tokens,
            usage.output_tokens or seen.output_tokens,
            usage.cache_read_input_tokens or seen.cache_read_tokens,
            usage.cache_creation_input_tokens or seen.cache_write_tokens,
        )


def _without_thoughts(request: ModelRequest) -> ModelRequest:
    def kept(message: Message) -> Message:
        return Message(message.role, tuple(block for block in message.blocks if not isinstance(block, Opaque)))

    return replace(request, messages=tuple(kept(message) for message in request.messages))


def _answer_tool(request: ModelRequest, model: str) -> ToolSpec | None:
    """The tool whose call is the answer, for models that cannot be given an output format."""
    wanted = request.json_schema
    if wanted is None or _LACKS_OUTPUT_FORMAT.match(model) is None:
        return None
    return ToolSpec(wanted.name, "Give the whole answer as the input of this tool.", wanted.schema)


def _output_config(request: ModelRequest) -> OutputConfigParam | anthropic.Omit:
    if request.json_schema is None:
        return anthropic.omit
    # The API takes a subset of JSON Schema; the SDK moves the rest (lengths, ranges) into the descriptions.
    schema = cast("JsonObject", anthropic.transform_schema(request.json_schema.schema))
    return {"format": {"type": "json_schema", "schema": schema}}


def _asked_for(choice: ToolChoice) -> str:
    which = f"the tool {choice.name}" if choice.mode == "tool" else "one or more of the tools"
    return f"Answer this turn by calling {which}, not with text alone."


def _choice(choice: ToolChoice) -> ToolChoiceParam:
    match choice.mode:
        case "auto":
            return {"type": "auto"}
        case "none":
            return {"type": "none"}
        case "required":
            return {"type": "any"}
        case "tool":
            return {"type": "tool", "name": choice.name or ""}


def _tool(tool: ToolSpec) -> ToolParam:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}


def _messages(messages: Iterable[Message], model: str) -> list[MessageParam]:
    sent: list[MessageParam] = []
    for message in messages:
        content = [json for block in message.blocks if (json := _content(block, model)) is not None]
        if content:  # the API refuses empty turns; it joins neighbours of the same role
            role = "assistant" if message.role == "assistant" else "user"
            sent.append(cast("MessageParam", {"role": role, "content": content}))
    return sent


def _content(block: Block, model: str) -> JsonObject | None:
    match block:
        case Text():
            return {"type": "text", "text": block.text} if block.text.strip() else None
        case ToolCall():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments or {}}
        case ToolResult():
            return {
                "type": "tool_result",
                "tool_use_id": block.tool_call_id,
                "content": block.content,
                "is_error": block.is_error,
            }
        case Opaque():
            # Thoughts are signed for the model that had them; another one refuses them.
            return block.data if block.model == model else None
