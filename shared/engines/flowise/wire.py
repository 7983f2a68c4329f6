"""Flowise's event stream: bytes in, events out, whatever the chunks are cut like.

The framing is its own: a line `message:` and a line `data:{"event": name, "data": payload}`, then a blank one, so the
name of an event stands in its JSON and nowhere else. Heartbeats are comments; they are no events, for a server whose
model stands still goes on sending them. Nothing here grows beyond `EVENT_BYTES`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

import orjson

from shared.engines.flowise.failures import NotFlowise
from shared.runs.models import Json

EVENT_BYTES: Final = 8 * 1024 * 1024  # an agentflow sends all that its nodes have said so far, again at every node
STREAM_BYTES: Final = 128 * 1024 * 1024  # which is quadratic


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `token`, `nextAgentFlow`, `metadata`, `error`, `end`, ..., or one of a later version."""

    name: str
    data: Json = None


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[Event]:
    """Cut a stream into its events.

    Raises:
        NotFlowise: it is not this protocol, or more of it than anybody wants.
    """
    data: list[bytes] = []
    held = 0
    async for line in _lines(chunks):
        if not line:
            if data:
                yield _event(b"\n".join(data))
            data, held = [], 0
        elif line.startswith(b"data:"):
            held += len(line)
            if held > EVENT_BYTES:
                raise _too_much(EVENT_BYTES)
            data.append(line[5:])


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    # Not httpx's own lines: those also break at U+2028 and others, which JSON may hold as they are.
    rest = bytearray()
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > STREAM_BYTES:
            raise _too_much(STREAM_BYTES)
        searched = len(rest)  # what was searched before holds no line end, and a long line comes in many chunks
        rest += chunk
        start = 0
        while (end := rest.find(b"\n", max(start, searched))) >= 0:
            yield bytes(rest[start:end]).removesuffix(b"\r")
            start = end + 1
        del rest[:start]
        if len(rest) > EVENT_BYTES:
            raise _too_much(EVENT_BYTES)


def _event(data: bytes) -> Event:
    try:
        value: object = orjson.loads(data)
    except ValueError:
        raise NotFlowise("Flowise sent an event that is no JSON.") from None
    if not isinstance(value, dict):
        raise NotFlowise("Flowise sent an event without a name.")
    message = cast("dict[str, Json]", value)
    name = message.get("event")
    if not isinstance(name, str):
        raise NotFlowise("Flowise sent an event without a name.")
    return Event(name, message.get("data"))


def _too_much(limit: int) -> NotFlowise:
    return NotFlowise(f"Flowise sent more than {limit // (1024 * 1024)} MB.")
