"""Flowise's API: predictions as JSON or as a stream of events, and what is needed around them.

Nothing is believed: bodies are capped, a page of the web interface (200, HTML) is no answer, and errors inside a stream
are errors. A call is repeated only where nothing can have been started at the server, and never once output began; what
broke later is `AnswerLost`, and whoever calls decides whether to look for the answer or to ask again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar, cast
from urllib.parse import quote

import httpx
import orjson

from shared.egress.errors import AddressBlocked, AnswerRefused, ConnectionBroke, TlsFailed, Unreachable
from shared.engines.flowise.answer import Answer, from_body, from_message
from shared.engines.flowise.failures import AnswerLost, NotFlowise, failure
from shared.engines.flowise.shapes import Execution, Flow, Overridable, Prediction
from shared.engines.flowise.wire import Event, events
from shared.errors import AppError, UpstreamBusy, UpstreamRefused, UpstreamTimeout
from shared.runs.models import Json, JsonObject
from shared.vault.secret import Secret

BODY_BYTES: Final = 16 * 1024 * 1024
ERROR_BYTES: Final = 64 * 1024
PAGE: Final = 100

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how often.

    Attributes:
        total_seconds: One prediction, from its first byte out to its last one in.
        idle_seconds: Without an event; heartbeats are none. A model's 5xx takes Flowise up to 100 s to tell.
        call_seconds: Any other call.
        tries: In all, of what cannot have started anything.
    """

    total_seconds: float = 300.0
    idle_seconds: float = 120.0
    call_seconds: float = 15.0
    abort_seconds: float = 3.0
    tries: int = 3
    base_seconds: float = 0.5
    longest_wait_seconds: float = 20.0
    sleep: Sleep = asyncio.sleep


class FlowiseClient:
    """One Flowise server, with one key of it. `http` is the guarded client; the caller closes it."""

    def __init__(
        self, http: httpx.AsyncClient, *, base_url: str, api_key: Secret | None = None, limits: Limits | None = None
    ) -> None:
        self.limits = limits or Limits()
        self._http = http
        self._api = f"{base_url.rstrip('/').removesuffix('/api/v1')}/api/v1"
        self._api_key = api_key

    # -- predictions ----------------------------------------------------------------------------------------------

    async def predict(self, flow_id: str, prediction: Prediction) -> Answer:
        """Ask, and wait for the whole answer.

        Raises:
            AnswerLost: the connection broke after the request was sent, or a gateway lost the answer.
            UpstreamTimeout: the flow took longer than it may; it goes on at the server.
            AppError: see `failures`.
        """

        async def once() -> Answer:
            request = self._request("POST", f"/prediction/{_part(flow_id)}", prediction.to_body(streaming=False))
            return from_body(_object(await self._exchange(request, self.limits.total_seconds, starts=True)))

        return await self._repeat(once)

    async def stream(self, flow_id: str, prediction: Prediction) -> AsyncGenerator[Event]:
        """Ask, and yield the events of the answer as they come. Close it when leaving early (`aclosing`).

        A flow that cannot stream answers in one piece: a single event `prediction` with the whole JSON.

        Raises:
            As `predict`; AnswerLost also when the stream ends without its last event.
        """
        deadline = asyncio.get_running_loop().time() + self.limits.total_seconds
        response = await self._repeat(lambda: self._open_stream(flow_id, prediction, deadline))
        try:
            if _content_type(response) == "application/json":
                async with self._within(deadline):
                    body = await _read(response, BODY_BYTES, starts=True)
                yield Event("prediction", _object(_json(body)))
                return
            if _content_type(response) != "text/event-stream":
                raise _no_api()
            async with aclosing(events(response.aiter_bytes())) as incoming:
                while True:
                    event = await self._next(incoming, deadline)
                    if event.name == "error":
                        raise failure(event.data if isinstance(event.data, str) else "")
                    if event.name == "end":
                        return
                    yield event
        finally:
            await response.aclose()

    async def _open_stream(self, flow_id: str, prediction: Prediction, deadline: float) -> httpx.Response:
        request = self._request("POST", f"/prediction/{_part(flow_id)}", prediction.to_body(streaming=True))
        # A flow that cannot stream is silent until its end, so here the total alone is the limit.
        async with self._within(deadline):
            return await self._send(request, starts=True)

    async def _next(self, incoming: AsyncGenerator[Event], deadline: float) -> Event:
        idle = asyncio.get_running_loop().time() + self.limits.idle_seconds
        if idle >= deadline:
            async with self._within(deadline):
                return await _next_event(incoming)
        try:
            async with asyncio.timeout_at(idle):
                return await _next_event(incoming)
        except TimeoutError:
            seconds = self.limits.idle_seconds
            raise UpstreamTimeout(f"The flow has said nothing for {seconds:g} seconds.") from None

    def _within(self, deadline: float) -> _Deadline:
        return _Deadline(deadline, self.limits.total_seconds)

    async def abort(self, flow_id: str, chat_id: str) -> None:
        """Ask the server to stop a prediction. It agrees to anything, and a chatflow goes on all the same."""
        request = self._request("PUT", f"/chatmessage/abort/{_part(flow_id)}/{_part(chat_id)}")
        await self._exchange(request, self.limits.abort_seconds)

    # -- what the server keeps --------------------------------------------------------------------------------------

    async def find_answer(
        self, flow_id: str, *, session_id: str, chat_ids: frozenset[str], known: frozenset[str] = frozenset()
    ) -> Answer | None:
        """The newest answer that the flow gave under one of these chat ids, leaving out known messages."""
        rows = [
            row
            for row in await self.messages(flow_id, session_id=session_id)
            if row.get("role") == "apiMessage" and row.get("chatId") in chat_ids and row.get("id") not in known
        ]
        newest = max(rows, key=lambda row: str(row.get("createdDate", "")), default=None)
        return None if newest is None else from_message(newest)

    async def messages(self, flow_id: str, *, session_id: str) -> list[JsonObject]:
        """The last messages of a session as the server keeps them, in its own shape."""
        query = {"sessionId": session_id, "order": "DESC", "limit": str(PAGE)}
        return _objects(await self._get(f"/chatmessage/{_part(flow_id)}", query))

    async def executions(self, flow_id: str, *, session_id: str) -> list[Execution]:
        """The executions of an agentflow in a session, newest first."""
        query = {"agentflowId": flow_id, "sessionId": session_id, "page": "1", "limit": str(PAGE)}
        rows = _rows(await self._get("/executions", query))
        rows.sort(key=lambda row: str(row.get("createdDate", "")), reverse=True)
        return [Execution.from_row(row) for row in rows]

    async def execution(self, execution_id: str) -> Execution:
        return Execution.from_row(_object(await self._get(f"/executions/{_part(execution_id)}")))

    async def list_flows(self, kind: str | None = None) -> list[Flow]:
        """All flows that the key may see: CHATFLOW, AGENTFLOW, MULTIAGENT or ASSISTANT."""
        flows: list[Flow] = []
        for page in range(1, PAGE + 1):
            query = {"page": str(page), "limit": str(PAGE), **({} if kind is None else {"type": kind})}
            found = await self._get("/chatflows", query)
            flows.extend(Flow.from_row(row) for row in _rows(found))
            total = found.get("total") if isinstance(found, dict) else None
            if not isinstance(total, int) or len(flows) >= total:  # a bare list is all there is
                break
        return flows

    async def flow(self, flow_id: str) -> Flow:
        return Flow.from_row(_object(await self._get(f"/chatflows/{_part(flow_id)}")))

    async def flow_config(self, flow_id: str) -> list[Overridable]:
        """Every parameter that the flow could be made to take as an override."""
        return [
            Overridable(
                node_id=str(row.get("nodeId", "")),
                node=str(row.get("node", "")),
                name=str(row.get("name", "")),
                kind=str(row.get("type", "")),
            )
            for row in _objects(await self._get(f"/flow-config/{_part(flow_id)}"))
        ]

    async def is_streaming(self, flow_id: str) -> bool:
        return _object(await self._get(f"/chatflows-streaming/{_part(flow_id)}")).get("isStreaming") is True

    async def version(self) -> str:
        return str(_object(await self._get("/version")).get("version", ""))

    # -- one exchange -----------------------------------------------------------------------------------------------

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        async def once() -> Json:
            return await self._exchange(self._request("GET", path, query=query), self.limits.call_seconds)

        return await self._repeat(once)

    def _request(
        self, method: str, path: str, body: JsonObject | None = None, *, query: Mapping[str, str] | None = None
    ) -> httpx.Request:
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",  # a bound on bytes is then a bound on memory
        }
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key.reveal()}"
        content = None if body is None else orjson.dumps(body)
        if content is not None:
            headers["content-type"] = "application/json"
        timeout = httpx.Timeout(None, connect=self.limits.call_seconds)  # the rest has deadlines of its own
        url = self._api + path
        return self._http.build_request(method, url, content=content, params=query, headers=headers, timeout=timeout)

    async def _exchange(self, request: httpx.Request, seconds: float, *, starts: bool = False) -> Json:
        async with _Deadline(asyncio.get_running_loop().time() + seconds, seconds):
            response = await self._send(request, starts=starts)
            try:
                if _content_type(response) != "application/json":
                    raise _no_api()
                return _json(await _read(response, BODY_BYTES, starts=starts))
            finally:
                await response.aclose()

    async def _send(self, request: httpx.Request, *, starts: bool) -> httpx.Response:
        """Send and answer a response of status 200. `starts`: the request may start something at the server."""
        with _in_our_words(starts=starts):
            response = await self._http.send(request, stream=True, follow_redirects=False)
        if response.status_code == 200:
            return response
        try:
            raise await _refusal(response, starts=starts)
        finally:
            await response.aclose()

    async def _repeat(self, once: Callable[[], Awaitable[T]]) -> T:
        for number in range(1, self.limits.tries):
            try:
                return await once()
            except UpstreamBusy as busy:
                pause = self.limits.base_seconds * 2 ** (number - 1) * (1 + random.random())  # noqa: S311 - jitter
                pause = max(pause, busy.retry_after_seconds or 0.0)
                if pause > self.limits.longest_wait_seconds:
                    raise  # the run waits without a process
                await self.limits.sleep(pause)
        return await once()


class _Deadline:
    """`asyncio.timeout_at` whose end is an error of ours, and which leaves another's TimeoutError alone."""

    def __init__(self, when: float, seconds: float) -> None:
        self._timeout = asyncio.timeout_at(when)
        self._seconds = seconds

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)  # pyright: ignore[reportArgumentType]
        except TimeoutError:
            raise UpstreamTimeout(f"Flowise gave no complete answer within {self._seconds:g} seconds.") from None


async def _next_event(incoming: AsyncGenerator[Event]) -> Event:
    try:
        with _in_our_words(starts=True):
            return await anext(incoming)
    except StopAsyncIteration:
        raise _broken(starts=True) from None


async def _refusal(response: httpx.Response, *, starts: bool) -> AppError:
    body = b""
    with suppress(UpstreamBusy, NotFlowise):  # the status alone says enough
        body = await _read(response, ERROR_BYTES, starts=False)
    text = body.decode("utf-8", "replace")
    if _content_type(response) == "application/json":
        with suppress(ValueError):
            parsed: object = orjson.loads(body)
            fields = cast("JsonObject", parsed) if isinstance(parsed, dict) else {}
            text = next((value for name in ("message", "error") if isinstance(value := fields.get(name), str)), "")
    elif response.status_code < 400:
        return _no_api()
    return failure(text, status=response.status_code, headers=response.headers, starts=starts)


async def _read(response: httpx.Response, limit: int, *, starts: bool) -> bytes:
    body = bytearray()
    with _in_our_words(starts=starts):
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limit:
                raise NotFlowise(f"Flowise answered more than {limit // 1024} KB.")
    return bytes(body)


@contextmanager
def _in_our_words(*, starts: bool) -> Generator[None]:
    """Say what the guarded client says without the server's address, which is not for the people of a run."""
    try:
        yield
    except ConnectionBroke:
        raise _broken(starts=starts) from None
    except Unreachable:
        raise UpstreamBusy("Flowise cannot be reached.") from None
    except AddressBlocked:
        raise AddressBlocked("The address of the agent's Flowise server may not be called from here.") from None
    except (TlsFailed, AnswerRefused):
        raise UpstreamRefused("Flowise gives no trustworthy connection, or an answer of a strange form.") from None


def _broken(*, starts: bool) -> AppError:
    if starts:
        return AnswerLost("The connection to Flowise broke before the answer was complete.")
    return UpstreamBusy("The connection to Flowise broke.")


def _no_api() -> NotFlowise:
    return NotFlowise("What answers there is no Flowise API, but a page.", hint="Check the base URL.")


def _content_type(response: httpx.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _json(body: bytes) -> Json:
    try:
        return cast("Json", orjson.loads(body))
    except ValueError:
        raise NotFlowise("Flowise answered something that is no JSON.") from None


def _object(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise NotFlowise("Flowise answered another shape than its API has.")
    return value


def _objects(value: Json) -> list[JsonObject]:
    if not isinstance(value, list):
        raise NotFlowise("Flowise answered another shape than its API has.")
    return [item for item in value if isinstance(item, dict)]


def _rows(value: Json) -> list[JsonObject]:
    """A list, or the page of one: {data, total}."""
    return _objects(value["data"] if isinstance(value, dict) and "data" in value else value)


def _part(value: str) -> str:
    return quote(value, safe="")
