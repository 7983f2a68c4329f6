"""/realtime/v1: the WebSocket, and broadcasts over plain HTTP for senders that hold none.

Like Supabase's, the HTTP calls answer 202 for what was accepted; a private message that the caller may not write is
silently not sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson
import psycopg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from local.realtime.authorization import Refused, identify
from local.realtime.protocol import BadFrame, Broadcast, write_json
from local.realtime.service import Realtime
from local.realtime.socket import serve_socket
from local.services import Part, Services

LARGEST_BODY = 3 * 1024 * 1024

_log = logging.getLogger("local.realtime")


@dataclass(frozen=True, slots=True)
class _Letter:
    topic: str
    broadcast: Broadcast
    private: bool


Parse = Callable[[Request, bytes], list[_Letter]]


def build(services: Services) -> Part:
    """Realtime behind the gateway."""
    realtime = Realtime(services)

    async def websocket(socket: WebSocket) -> None:
        await serve_socket(realtime, socket)

    async def broadcast(request: Request) -> Response:
        return await _answer(realtime, request, _batch)

    async def broadcast_event(request: Request) -> Response:
        return await _answer(realtime, request, _single)

    return Part(
        routes=[
            WebSocketRoute("/realtime/v1/websocket", websocket),
            Route("/realtime/v1/api/broadcast", broadcast, methods=["POST"]),
            Route("/realtime/v1/api/broadcast/{topic:path}/events/{event}", broadcast_event, methods=["POST"]),
        ],
        start=realtime.start,
        stop=realtime.stop,
        trouble=realtime.trouble,
    )


async def _answer(realtime: Realtime, request: Request, parse: Parse) -> Response:
    authorization = request.headers.get("authorization", "")
    try:
        identity = identify(realtime.keys, authorization.removeprefix("Bearer ") or request.headers.get("apikey"))
    except Refused as exc:
        return JSONResponse({"error": str(exc)}, 401)
    body = await request.body()
    if len(body) > LARGEST_BODY:
        return JSONResponse({"error": "Payload size exceeds the limit"}, 413)
    try:
        letters = parse(request, body)
    except (ValueError, BadFrame) as exc:
        return JSONResponse({"errors": {"messages": [str(exc)]}}, 422)
    headers = dict(request.headers)
    try:
        allowed = [
            letter
            for letter in letters
            if not letter.private or await realtime.authorizer.may_write(identity, letter.topic, "broadcast", headers)
        ]
    except psycopg.OperationalError as exc:
        _log.warning("realtime.authorization_failed error=%s", str(exc).strip())
        return JSONResponse({"error": "The policies of the topic could not be checked"}, 503)
    for letter in allowed:
        realtime.hub.publish(letter.topic, letter.broadcast, private=letter.private)
    return Response(status_code=202)


def _batch(_request: Request, body: bytes) -> list[_Letter]:
    content: object = orjson.loads(body)
    messages: object = cast("dict[str, object]", content).get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages is required")
    return [_letter(message) for message in cast("list[object]", messages)]


def _letter(message: object) -> _Letter:
    fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
    topic, event = fields.get("topic"), fields.get("event")
    payload: object = fields.get("payload")
    if not isinstance(topic, str) or not isinstance(event, str) or not isinstance(payload, dict):
        raise ValueError("a message needs a topic, an event and a payload that is an object")  # noqa: TRY004
    id_: object = fields.get("id")
    meta = {"id": id_} if isinstance(id_, str) else None
    broadcast = Broadcast(event, write_json(cast("dict[str, object]", payload)), meta=meta)
    return _Letter(topic, broadcast, private=fields.get("private") in {True, "true"})


def _single(request: Request, body: bytes) -> list[_Letter]:
    binary = request.headers.get("content-type", "").startswith("application/octet-stream")
    if not binary:
        orjson.loads(body)
    broadcast = Broadcast(request.path_params["event"], body, binary=binary)
    return [_Letter(request.path_params["topic"], broadcast, private=request.query_params.get("private") == "true")]
