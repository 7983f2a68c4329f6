"""A run's log as server-sent events, read from the database again and again, slower while nothing happens.

A stream is bounded, because a host ends long requests on its own terms; what a client has not seen when it ends comes
with the next one, from its Last-Event-ID on. When the client goes away the server cancels the generator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from functions.agent_logs.pace import FASTEST_SECONDS, next_pause
from functions.agent_logs.source import Delta, LogSource, Reading
from shared.errors import AppError, DatabaseUnavailable
from shared.run_views import LogLine

BATCH_LINES: Final = 500
MAX_WRITTEN: Final = 32  # steps of which the stream knows how much was sent; more are not written at a time
HEARTBEAT_SECONDS: Final = 15.0  # proxies close connections that are silent for 30 to 60
RECONNECT_MS: Final = 200  # after a slice that ended as planned
BROKEN_RECONNECT_MS: Final = 1000  # after a connection that broke


@dataclass(frozen=True, slots=True)
class Slice:
    """How long one answer may go on; `buffered` where the client sees nothing of it before its end."""

    seconds: float = 240.0  # under the 300 of many load balancers and the 400 of hosted edge functions
    buffered: bool = False

    @classmethod
    def on_host(cls, *, buffered: bool, seconds_left: float | None) -> Slice:
        """The slice that fits the host of a request."""
        if not buffered:
            return cls()
        # API Gateway ends a request after 29 seconds, but a line waits for the end of the slice: so it is short.
        return cls(seconds=max(0.0, min(5.0, (seconds_left or 10.0) - 3.0)), buffered=True)


class LogStream:
    """The events of one run behind a seq, for one client."""

    def __init__(self, source: LogSource, *, after: int, limits: Slice) -> None:
        self._source = source
        self._after: int = after
        self._limits = limits
        self._written: dict[tuple[int, int], int] = {}  # characters sent of a step's attempt
        self._reading: Reading | None = None

    async def open(self, *, is_new: bool) -> None:
        """Read for the first time, while the answer may still be a refusal. `is_new` counts as a stream that is opened.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
            LimitExceeded: its account has opened too many streams.
        """
        self._reading = await self._read(is_opening=is_new)

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield events until the run has ended, the slice is over or the database refuses the caller."""
        started = spoke = came = time.monotonic()
        pause = FASTEST_SECONDS
        yield _retry(BROKEN_RECONNECT_MS)
        while True:
            try:
                reading = self._reading or await self._read()
            except DatabaseUnavailable:
                # It may be restarting: stay, because EventSource takes an error status for final.
                reading = None
            except AppError as exc:
                yield _event("refused", orjson.dumps(exc.to_body()))
                return
            self._reading = None
            events = [] if reading is None else self._events_of(reading)
            now = time.monotonic()
            if events:
                spoke = came = now
                yield b"".join(events)
            if reading is not None and reading.is_last:
                return
            if reading is not None and reading.more:
                continue
            if now - started >= self._limits.seconds or (events and self._limits.buffered):
                yield _retry(RECONNECT_MS)
                return
            if now - spoke >= HEARTBEAT_SECONDS:
                spoke = now
                yield b": nothing new\n\n"
            pause = next_pause(pause, None if reading is None else reading.status, quiet_seconds=now - came)
            await asyncio.sleep(pause)

    async def _read(self, *, is_opening: bool = False) -> Reading:
        written = None if self._source.types else self._written
        return await self._source.read(after=self._after, limit=BATCH_LINES, written=written, is_opening=is_opening)

    def _events_of(self, reading: Reading) -> list[bytes]:
        events = [_event("delta", _json(delta)) for delta in self._unseen(reading.deltas)]
        events += [_event(line.log_type, _json(line), line.seq) for line in reading.lines]
        if reading.is_last:
            done = {"run_id": str(self._source.run_id), "status": reading.status, "revision": reading.revision}
            events.append(_event("done", orjson.dumps(done)))
        self._after = reading.reached
        return events

    def _unseen(self, deltas: Iterable[Delta]) -> list[Delta]:
        """The parts of the texts that were not sent yet; a piece may be in part."""
        unseen: list[Delta] = []
        for delta in deltas:
            step = (delta.step_no, delta.attempt)
            known = self._written.get(step, 0)
            end = delta.offset + len(delta.text)
            if end > known:
                start = max(known, delta.offset)
                unseen.append(delta.model_copy(update={"offset": start, "text": delta.text[start - delta.offset :]}))
                self._written.pop(step, None)
                self._written[step] = end
        # Every reading names them: only those that may still be written, the newest.
        for step in list(self._written)[:-MAX_WRITTEN]:
            del self._written[step]
        return unseen


def _event(name: str, data: bytes, event_id: int | None = None) -> bytes:
    """One event. The data is JSON on one line, so that no line break of its own can end it."""
    head = f"event: {name}\n" if event_id is None else f"id: {event_id}\nevent: {name}\n"
    return head.encode() + b"data: " + data + b"\n\n"


def _retry(milliseconds: int) -> bytes:
    return f"retry: {milliseconds}\n\n".encode()


def _json(value: LogLine | Delta) -> bytes:
    return orjson.dumps(value.model_dump())
