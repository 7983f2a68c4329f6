"""How each provider writes an answer: as one JSON body, and as the events of a stream.

Written after the providers' API references; the official SDKs read it, so a mistake here fails the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tests.support.model_server import Reply

_ids = count(1)


class Wire(Protocol):
    half: int
    """The number of events after which the text is half sent."""

    def __init__(self, request: dict[str, Any], reply: Reply) -> None: ...
    def whole(self) -> dict[str, Any]: ...
    def events(self) -> Iterator[str]: ...
    def error(self) -> dict[str, Any]: ...
    def error_event(self) -> str: ...


class AnthropicWire:
    half = 3  # message_start, content_block_start, the first delta

    def __init__(self, request: dict[str, Any], reply: Reply) -> None:
        self._reply = reply
        stops = {"end": "end_turn", "tool_calls": "tool_use"}
        self._stop = stops.get(reply.stop, reply.stop)
        self._message: dict[str, Any] = {
            "id": f"msg_{next(_ids)}",
            "type": "message",
            "role": "assistant",
            "model": request.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": reply.input_tokens,
                "output_tokens": 1,
                "cache_read_input_tokens": reply.cache_read_tokens,
                "cache_creation_input_tokens": reply.cache_write_tokens,
            },
        }

    def whole(self) -> dict[str, Any]:
        blocks = self._content()  # a tool's input is written as text there, as the stream has it
        usage = self._message["usage"] | {"output_tokens": self._reply.output_tokens}
        content = [{**block, "input": json.loads(block["input"])} if "input" in block else block for block in blocks]
        return self._message | {"content": content, "stop_reason": self._stop, "usage": usage}

    def events(self) -> Iterator[str]:
        yield self._event("message_start", message=self._message)
        for index, block in enumerate(self._content()):
            yield from self._block(index, block)
        yield self._event(
            "message_delta",
            delta={"stop_reason": self._stop, "stop_sequence": None},
            usage={"output_tokens": self._reply.output_tokens},
        )
        yield self._event("message_stop")

    def error(self) -> dict[str, Any]:
        return {"type": "error", "error": {"type": self._reply.error_kind, "message": self._reply.content}}

    def error_event(self) -> str:
        return self._event("error", error={"type": self._reply.error_kind, "message": "scripted"})

    def _content(self) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        if self._reply.thinking is not None:
            content.append({"type": "thinking", "thinking": self._reply.thinking, "signature": "c2lnbmVk"})
        if self._reply.content:
            content.append({"type": "text", "text": self._reply.content})
        for tool in self._reply.tools:
            written = {"type": "tool_use", "id": tool.id or f"toolu_{next(_ids)}", "name": tool.name}
            content.append({**written, "input": tool.raw_arguments})
        return content

    def _block(self, index: int, block: dict[str, Any]) -> Iterator[str]:
        match block["type"]:
            case "thinking":
                start = {"type": "thinking", "thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": part} for part in _parts(block["thinking"])]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            case "text":
                start = {"type": "text", "text": ""}
                deltas = [{"type": "text_delta", "text": part} for part in _parts(block["text"])]
            case _:
                start = block | {"input": {}}
                deltas = [{"type": "input_json_delta", "partial_json": part} for part in _parts(block["input"])]
        yield self._event("content_block_start", index=index, content_block=start)
        for delta in deltas:
            yield self._event("content_block_delta", index=index, delta=delta)
        yield self._event("content_block_stop", index=index)

    @staticmethod
    def _event(kind: str, **data: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"


class OpenAIWire:
    half = 2  # the role, the first piece of text

    def __init__(self, request: dict[str, Any], reply: Reply) -> None:
        self._reply = reply
        self._include_usage = bool(request.get("stream_options", {}).get("include_usage")) and reply.reports_usage
        stops = {"end": "stop", "max_tokens": "length", "refusal": "content_filter"}
        self._stop = stops.get(reply.stop, reply.stop)
        self._head: dict[str, Any] = {"id": f"chatcmpl-{next(_ids)}", "created": 1, "model": request.get("model")}
        self._calls = [
            {
                "id": tool.id or f"call_{next(_ids)}",
                "type": "function",
                "function": {"name": tool.name, "arguments": tool.raw_arguments},
            }
            for tool in reply.tools
        ]

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._reply.content or None, "tool_calls": self._calls or None}
        choice = {"index": 0, "message": message, "finish_reason": self._stop}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage()}

    def events(self) -> Iterator[str]:
        yield self._chunk({"role": "assistant", "content": ""})
        if self._reply.thinking is not None:
            yield self._chunk({"reasoning_content": self._reply.thinking})
        for part in _parts(self._reply.content):
            yield self._chunk({"content": part})
        for index, call in enumerate(self._calls):
            head = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            yield self._chunk({"tool_calls": [head]})
            for part in _parts(call["function"]["arguments"]):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
        yield self._chunk({}, finish_reason=self._stop)
        if self._include_usage:
            yield self._event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def error(self) -> dict[str, Any]:
        return {
            "error": {"message": self._reply.content, "type": self._reply.error_kind, "code": self._reply.error_kind}
        }

    def error_event(self) -> str:
        return self._event({"error": {"message": "scripted", "type": self._reply.error_kind, "code": None}})

    def _usage(self) -> dict[str, Any]:
        reply = self._reply
        prompt = reply.input_tokens + reply.cache_read_tokens + reply.cache_write_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": reply.output_tokens,
            "total_tokens": prompt + reply.output_tokens,
            "prompt_tokens_details": {
                "cached_tokens": reply.cache_read_tokens,
                "cache_write_tokens": reply.cache_write_tokens,
            },
        }

    def _chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    @staticmethod
    def _event(data: dict[str, Any]) -> str:
        return f"data: {json.dumps(data)}\n\n"


WIRES: dict[str, type[Wire]] = {"anthropic": AnthropicWire, "openai": OpenAIWire}


def _parts(text: str) -> list[str]:
    """Two halves, so that whoever reads must join."""
    middle = (len(text) + 1) // 2
    return [part for part in (text[:middle], text[middle:]) if part]
