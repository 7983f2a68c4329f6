"""A model server for tests that speaks both providers' real wire formats from a script.

`POST /v1/messages` is Anthropic's, `POST /v1/chat/completions` is OpenAI's; each streams when asked to. A reply says
what the model does, and the endpoint that is called says it in its own protocol, so one script serves both SDKs.
It runs in a thread of its own: tests may block, and workers in other processes may call it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from local.stand_ins.threaded import ThreadedServer
from tests.support import model_wire

Protocol = Literal["anthropic", "openai"]


@dataclass(frozen=True)
class ToolUse:
    name: str
    raw_arguments: str
    id: str | None = None


@dataclass(frozen=True)
class Reply:
    """What the model does with one request. Build it with the class methods, change it with `but`."""

    content: str = ""
    tools: tuple[ToolUse, ...] = ()
    stop: Literal["end", "tool_calls", "max_tokens", "refusal"] = "end"
    thinking: str | None = None
    input_tokens: int = 100
    output_tokens: int = 20
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reports_usage: bool = True
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error_kind: str | None = None
    hangs: Literal["before", "during"] | None = None
    breaks: Literal["reset", "end", "error"] | None = None
    body: bytes | None = None

    @classmethod
    def text(cls, text: str) -> Reply:
        return cls(text)

    @classmethod
    def json(cls, value: object) -> Reply:
        return cls(json.dumps(value))

    @classmethod
    def tool(cls, name: str, arguments: Mapping[str, object], *, text: str = "", id: str | None = None) -> Reply:  # noqa: A002
        return cls(text, tools=(ToolUse(name, json.dumps(arguments), id),), stop="tool_calls")

    @classmethod
    def bad_tool(cls, name: str, raw_arguments: str) -> Reply:
        """A tool call whose arguments are whatever `raw_arguments` is."""
        return cls(tools=(ToolUse(name, raw_arguments),), stop="tool_calls")

    @classmethod
    def empty(cls) -> Reply:
        return cls(output_tokens=0)

    @classmethod
    def error(
        cls,
        status: int,
        *,
        message: str = "scripted failure",
        retry_after: float | str | None = None,
        kind: str | None = None,
    ) -> Reply:
        """An HTTP error with the provider's error body; `kind` is the error's type (and code, for OpenAI)."""
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        return cls(message, status=status, error_kind=kind or "scripted_error", headers=headers)

    @classmethod
    def hang(cls, text: str = "") -> Reply:
        """Answer nothing, or with `text` the half of it, until the server is told to `release`."""
        return cls(text, hangs="during" if text else "before")

    @classmethod
    def reset(cls, text: str = "half an answ") -> Reply:
        """Break the connection in mid-answer."""
        return cls(text, breaks="reset")

    @classmethod
    def cut_short(cls, text: str = "half an answ") -> Reply:
        """End the stream properly, but before the answer is complete."""
        return cls(text, breaks="end")

    @classmethod
    def error_in_stream(cls, text: str = "", *, kind: str = "overloaded_error") -> Reply:
        """Status 200, then an error event in mid-stream."""
        return cls(text, breaks="error", error_kind=kind)

    @classmethod
    def raw(cls, body: bytes, *, status: int = 200, content_type: str = "text/event-stream") -> Reply:
        """Bytes that need not be of any protocol."""
        return cls(body=body, status=status, headers={"content-type": content_type})

    def but(self, **changes: Any) -> Reply:
        return replace(self, **changes)


@dataclass
class Received:
    """A request as it came in. `gone` turns true when its client hung up before the answer was complete."""

    protocol: Protocol
    headers: dict[str, str]
    body: dict[str, Any]
    gone: bool = False
    answered: bool = False


Script = Reply | Callable[[Received], Reply]
SCRIPT_OVER = Reply.error(400, message="The script is over.", kind="script_over")


class ModelServer(ThreadedServer):
    """Serves scripted replies on a random port, in order; `otherwise` answers when the script is over."""

    def __init__(self, *replies: Script) -> None:
        self.requests: list[Received] = []
        self.otherwise: Script = SCRIPT_OVER
        self._script: deque[Script] = deque(replies)
        self.serve(
            [
                Route("/v1/messages", self._answer("anthropic"), methods=["POST"]),
                Route("/v1/chat/completions", self._answer("openai"), methods=["POST"]),
            ]
        )

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's SDK; `url` is the one for Anthropic's, which adds /v1 itself."""
        return f"{self.url}/v1"

    def script(self, *replies: Script) -> None:
        self._script.extend(replies)

    def reset(self) -> None:
        """Forget script and requests, so that a test can take over the server of another."""
        self.release()
        self._released = threading.Event()
        self._script.clear()
        self.requests = []
        self.otherwise = SCRIPT_OVER

    def _answer(self, protocol: Protocol) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            received = Received(protocol, dict(request.headers), await request.json())
            self.requests.append(received)
            script = self._script.popleft() if self._script else self.otherwise
            reply = script if isinstance(script, Reply) else script(received)
            return await self._respond(request, received, reply)

        return endpoint

    async def _respond(self, request: Request, received: Received, reply: Reply) -> Response:
        wire = model_wire.WIRES[received.protocol](received.body, reply)
        if reply.body is not None:
            return Response(reply.body, reply.status, reply.headers)
        if reply.hangs == "before":
            await self._wait(request, received)
        if reply.status >= 400:
            return JSONResponse(wire.error(), reply.status, reply.headers)
        if not received.body.get("stream"):
            received.answered = True
            return JSONResponse(wire.whole(), headers=reply.headers)
        events = self._stream(request, received, reply, wire)
        return StreamingResponse(events, media_type="text/event-stream", headers=reply.headers)

    async def _stream(
        self, request: Request, received: Received, reply: Reply, wire: model_wire.Wire
    ) -> AsyncIterator[str]:
        events = list(wire.events())
        complete = len(events) if reply.hangs is None and reply.breaks is None else wire.half
        try:
            for event in events[:complete]:
                yield event
            if reply.hangs == "during":
                await self._wait(request, received)
                for event in events[complete:]:
                    yield event
            if reply.breaks == "error":
                yield wire.error_event()
            if reply.breaks == "reset":
                raise ConnectionAbortedError("scripted")
            received.answered = True
        finally:
            received.gone = received.gone or (not received.answered and reply.breaks is None)

    async def _wait(self, request: Request, received: Received) -> None:
        released = self._released  # `reset` puts another in its place
        while not released.is_set():
            if await request.is_disconnected():
                received.gone = True
                return
            await asyncio.sleep(0.01)
