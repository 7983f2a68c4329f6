"""The WebSocket: frames in, a bounded queue of frames out.

Nothing ever waits for a slow reader: a socket whose queue is full is dropped, and the client comes back when it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from local.realtime.authorization import Refused, identify
from local.realtime.protocol import BadFrame, Frame, Version, decode, version_of
from local.realtime.service import Realtime
from local.realtime.session import Session

QUEUE_BYTES = 8 * 1024 * 1024  # two of the largest broadcasts, and some
IDLE_SECONDS = 60.0  # clients send a heartbeat every 25 to 30 seconds

_log = logging.getLogger("local.realtime")


async def serve_socket(realtime: Realtime, websocket: WebSocket) -> None:
    """Serve one client until either side ends it."""
    token = websocket.query_params.get("apikey") or realtime.keys.token_of(websocket.headers.get("x-api-key", ""))
    version = version_of(websocket.query_params.get("vsn"))
    if version is None:
        await websocket.send_denial_response(JSONResponse({"error": "unknown vsn: 1.0.0 or 2.0.0"}, 400))
        return
    try:
        identify(realtime.keys, token)
    except Refused as exc:
        await websocket.send_denial_response(JSONResponse({"error": str(exc)}, 401))
        return
    await websocket.accept()
    await _Socket(realtime, websocket, version, token).run()


class _Socket:
    """A socket that was let in."""

    def __init__(self, realtime: Realtime, websocket: WebSocket, version: Version, token: str) -> None:
        self.version: Version = version
        self._websocket = websocket
        self._session = Session(realtime, self, token=token, headers=dict(websocket.headers))
        self._queue: deque[Frame] = deque()
        self._queued = 0
        self._filled = asyncio.Event()
        self._overflown = asyncio.Event()

    @property
    def backlog(self) -> int:
        return self._queued

    def send(self, frame: Frame) -> None:
        if self._overflown.is_set():
            return
        if self._queued > QUEUE_BYTES:
            _log.warning("realtime.socket_dropped queued_bytes=%d", self._queued)
            self._overflown.set()
            self._queue.clear()
            self._queued = 0
            return
        self._queue.append(frame)
        self._queued += len(frame)
        self._filled.set()

    async def run(self) -> None:
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write(), self._overflow())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._session.close()
        for task in done:
            task.result()

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    data = await self._frame()
            except (TimeoutError, WebSocketDisconnect):
                return
            try:
                message = decode(self.version, data)
            except BadFrame as exc:
                _log.warning("realtime.bad_frame error=%s", exc)
                continue
            await self._session.receive(message)

    async def _frame(self) -> Frame:
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1000))
        text: str | None = event.get("text")
        return text if text is not None else event["bytes"]

    async def _write(self) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                frame = self._queue.popleft()
                try:
                    if isinstance(frame, str):
                        await self._websocket.send_text(frame)
                    else:
                        await self._websocket.send_bytes(frame)
                except WebSocketDisconnect:
                    return
                self._queued -= len(frame)
            self._filled.clear()

    async def _overflow(self) -> None:
        await self._overflown.wait()
