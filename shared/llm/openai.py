"""Every server that speaks OpenAI's chat completions, through OpenAI's own SDK.

The servers agree on the outline and differ in details; a `Preset` names the details of one kind of server, and
nothing else in this module knows which server it talks to.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

import openai
import orjson
from openai.types import CompletionUsage
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionToolChoiceOptionParam,
    ChatCompletionToolParam,
)
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from openai.types.chat.completion_create_params import ResponseFormat

from shared.llm.connection import CONNECT_SECONDS, PerLoop
from shared.llm.failures import broken_off, failure, no_protocol, unreachable
from shared.llm.model import (
    Block,
    JsonObject,
    JsonSchema,
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
from shared.llm.presets import Preset
from shared.llm.retry import RetryPolicy, repeat

_STOP_REASONS: dict[str, StopReason] = {
    "stop": "end",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "max_tokens",
    "content_filter": "refusal",
}
_REFUSES_TEMPERATURE = re.compile(r"o\d|gpt-[5-9](?!.*chat)")
_CHARACTERS_A_TOKEN = 3  # for servers that report no usage; a little dearer than the usual four


@dataclass(frozen=True, slots=True)
class Account:
    """What of an account a key is for, where it has several."""

    organization: str | None = None
    project: str | None = None


class OpenAIModel:
    """A model behind OpenAI's protocol."""

    def __init__(
        self,
        preset: Preset,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        account: Account | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        """`account` is by default the environment's for OpenAI, as its SDK reads it, and none for others."""
        self._preset = preset
        self._model = model
        self._api_key = api_key
        self.base_url = base_url or preset.base_url
        self._account = account or (None if preset.name == "openai" else Account())
        self._policy = policy or RetryPolicy()
        self._clients = PerLoop(self._connect)

    @property
    def name(self) -> str:
        return f"{self._preset.name}:{self._model}"

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        return await repeat(
            lambda show: self._attempt(request, show),
            provider=self._preset.label,
            policy=self._policy,
            timeout_seconds=request.timeout_seconds,
            on_text=on_text,
        )

    async def aclose(self) -> None:
        await self._clients.aclose()

    def _connect(self) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(
            api_key=self._api_key or "none",  # the SDK insists; local servers do not look
            base_url=self.base_url,
            max_retries=0,
            # The read has no limit of its own: `repeat` has one. A redirect would take the prompt elsewhere.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, timeout=openai.Timeout(None, connect=CONNECT_SECONDS)
            ),
            timeout=openai.Timeout(None, connect=CONNECT_SECONDS),
        )
        if self._account is not None:
            # The SDK has taken these from the environment; they are nobody else's business.
            client.organization, client.project = self._account.organization, self._account.project
        return client

    async def _attempt(self, request: ModelRequest, on_text: OnText | None) -> ModelResponse:
        answer = _Answer(self.name, self._preset.label)
        async with aclosing(self._chunks(request)) as chunks:
            async for chunk in chunks:
                try:
                    text = answer.add(chunk)
                except (AttributeError, TypeError):
                    # The SDK does not check what it reads: a field may be missing or of another type.
                    raise no_protocol(self._preset.label) from None
                if text and on_text is not None:
                    await on_text(text)
        return answer.response(request)

    async def _chunks(self, request: ModelRequest) -> AsyncGenerator[ChatCompletionChunk]:
        """The provider's stream, with its failures turned into ours.

        `from None`: the SDK's exceptions print the provider's whole answer, which may hold the key.
        """
        label = self._preset.label
        try:
            async with await self._open(request) as chunks:
                async for chunk in chunks:
                    yield chunk
        except openai.APIConnectionError:
            raise unreachable(label) from None
        except openai.APIResponseValidationError:
            raise no_protocol(label) from None
        except openai.APIError as error:
            response = error.response if isinstance(error, openai.APIStatusError) else None
            raise failure(
                label,
                status=200 if response is None else response.status_code,
                body=error.body,
                headers={} if response is None else response.headers,
                model=self._model,
                key=self._api_key,
            ) from None
        except ValueError:  # a chunk that is no JSON, or no UTF-8
            raise no_protocol(label) from None

    async def _open(self, request: ModelRequest) -> openai.AsyncStream[ChatCompletionChunk]:
        preset = self._preset
        temperature = None if _REFUSES_TEMPERATURE.match(self._model) else request.temperature
        return await self._clients.get().chat.completions.create(
            stream=True,
            stream_options={"include_usage": True},
            model=self._model,
            messages=[*self._system(request), *_messages(request.messages, self.name)],
            tools=[_tool(tool) for tool in request.tools] or openai.omit,
            tool_choice=_choice(request.tool_choice) if request.tools else openai.omit,
            response_format=_response_format(request.json_schema, preset),
            max_completion_tokens=request.max_output_tokens if preset.new_token_limit else openai.omit,
            max_tokens=openai.omit if preset.new_token_limit else request.max_output_tokens,
            temperature=openai.omit if temperature is None else temperature,
            extra_headers={"Idempotency-Key": request.idempotency_key} if request.idempotency_key else None,
        )

    def _system(self, request: ModelRequest) -> list[ChatCompletionMessageParam]:
        system = request.system
        if request.json_schema is not None and self._preset.structured_output != "json_schema":
            system = f"{system}\n\n{_in_words(request.json_schema)}".strip()
        return [{"role": "system", "content": system}] if system else []


@dataclass
class _Call:
    """A tool call while it is being written."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    extra: JsonObject | None = None


class _Answer:
    """Collects the chunks of one streamed answer; only the first choice is asked for and read."""

    def __init__(self, model: str, label: str) -> None:
        self._model = model
        self._label = label
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._refused = False
        self._finish_reason: str | None = None
        self._usage: CompletionUsage | None = None

    def add(self, chunk: ChatCompletionChunk) -> str | None:
        """Take one chunk; returns the words in it that a reader may see."""
        self._usage = chunk.usage or self._usage
        if not chunk.choices:  # the last chunk, with the usage; some servers write null
            return None
        choice = chunk.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        delta = choice.delta
        self._refused = self._refused or bool(delta.refusal)
        reasoning = (delta.model_extra or {}).get("reasoning_content")
        if isinstance(reasoning, str):
            self._reasoning.append(reasoning)
        for call in delta.tool_calls or []:
            self._add_call(chunk.id, call)
        text = delta.content or delta.refusal
        if text:
            self._text.append(text)
        return text

    def response(self, request: ModelRequest) -> ModelResponse:
        if self._finish_reason is None:
            raise broken_off(self._label)
        calls = tuple(
            ToolCall.parse(call.id, call.name, "".join(call.arguments), extra=call.extra) for call in self._calls
        )
        text, reasoning = well_formed("".join(self._text)), well_formed("".join(self._reasoning))
        blocks: list[Block] = []
        if reasoning:
            blocks.append(Opaque(self._model, {"reasoning_content": reasoning}))
        if text:
            blocks.append(Text(text))
        stop_reason = _STOP_REASONS.get(self._finish_reason, "other")
        if calls and stop_reason == "end":
            stop_reason = "tool_calls"  # some servers say "stop" after a call too
        if self._refused:
            stop_reason = "refusal"
        usage = self._counted(request, len(text) + len(reasoning) + sum(len(call.raw_arguments) for call in calls))
        return ModelResponse((*blocks, *calls), stop_reason, usage, self._model)

    def _add_call(self, chunk_id: str, delta: ChoiceDeltaToolCall) -> None:
        """Append to the call at `index`; a new id there is a new call (Gemini numbers them all 0)."""
        call = self._by_index.get(delta.index)
        if call is None or (delta.id and delta.id != call.id):
            call = _Call(delta.id or f"{chunk_id}-{len(self._calls)}")
            self._by_index[delta.index] = call
            self._calls.append(call)
        if delta.function is not None:
            call.name += delta.function.name or ""
            call.arguments.append(delta.function.arguments or "")
        extra = (delta.model_extra or {}).get("extra_content")
        if isinstance(extra, dict):
            call.extra = cast("JsonObject", extra)

    def _counted(self, request: ModelRequest, written: int) -> Usage:
        usage = self._usage
        if usage is None:
            read = request.input_characters
            return Usage(-(-read // _CHARACTERS_A_TOKEN), -(-written // _CHARACTERS_A_TOKEN), estimated=True)
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens or 0) if details is not None else 0
        cache_written = (details.cache_write_tokens or 0) if details is not None else 0
        fresh = max(0, usage.prompt_tokens - cached - cache_written)
        return Usage(fresh, usage.completion_tokens, cached, cache_written)


def _response_format(wanted: JsonSchema | None, preset: Preset) -> ResponseFormat | openai.Omit:
    if wanted is None or preset.structured_output == "none":
        return openai.omit
    if preset.structured_output == "json_object":
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": wanted.name, "schema": wanted.schema, "strict": _is_strict(wanted.schema)},
    }


def _is_strict(schema: object) -> bool:
    """Whether OpenAI takes the schema as strict: every object is closed and requires all it has."""
    if isinstance(schema, list):
        return all(_is_strict(item) for item in cast("list[object]", schema))
    if not isinstance(schema, dict):
        return True
    node = cast("JsonObject", schema)
    properties = node.get("properties")
    if node.get("type") == "object":
        required = node.get("required")
        if node.get("additionalProperties") is not False or not isinstance(properties, dict):
            return False
        if not isinstance(required, list) or set(cast("list[str]", required)) != set(cast("JsonObject", properties)):
            return False
    return all(_is_strict(value) for value in node.values())


def _in_words(wanted: JsonSchema) -> str:
    schema = orjson.dumps(wanted.schema).decode()
    return f"Answer with one JSON object and nothing else. It must match this JSON Schema:\n{schema}"


def _choice(choice: ToolChoice) -> ChatCompletionToolChoiceOptionParam:
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.name or ""}}
    return choice.mode


def _tool(tool: ToolSpec) -> ChatCompletionToolParam:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
    }


def _messages(messages: Iterable[Message], model: str) -> Iterator[ChatCompletionMessageParam]:
    for message in messages:
        if message.role == "user":
            yield {"role": "user", "content": message.text}
        elif message.role == "assistant":
            if message.blocks:  # an empty answer is a turn to us, and an error to most servers
                yield _assistant(message, model)
        else:
            for block in message.blocks:
                if isinstance(block, ToolResult):
                    # The protocol has no mark for a failed call.
                    content = f"Error: {block.content}" if block.is_error else block.content
                    yield {"role": "tool", "tool_call_id": block.tool_call_id, "content": content}


def _assistant(message: Message, model: str) -> ChatCompletionMessageParam:
    sent: JsonObject = {"role": "assistant", "content": message.text or None}
    if message.tool_calls:
        sent["tool_calls"] = [_call(call) for call in message.tool_calls]
    for block in message.blocks:
        if isinstance(block, Opaque) and block.model == model:
            sent |= block.data
    return cast("ChatCompletionMessageParam", sent)


def _call(call: ToolCall) -> JsonObject:
    # Servers parse the arguments again to fill their templates, and fail on what the model had written wrongly.
    arguments = "{}" if call.arguments is None else orjson.dumps(call.arguments).decode()
    sent: JsonObject = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
    return sent if call.extra is None else {**sent, "extra_content": call.extra}
