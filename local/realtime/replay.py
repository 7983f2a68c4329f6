"""Messages that a private topic got before the listener joined, for a client that asks for them at its join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import psycopg

from local.realtime.authorization import Refused
from local.realtime.channels import Channel, JoinConfig
from local.realtime.protocol import Broadcast, encode_broadcast
from local.services import Pool

MOST_REPLAYED = 25
REPLAYED_UNLESS_SAID = 10
_LATEST = 253_402_300_799_000  # Unix milliseconds; the last moment of the year 9999

_CODE = "UnableToReplayMessages"


@dataclass(frozen=True, slots=True)
class Wish:
    """Which messages: the newest `limit` since a time, in Unix milliseconds."""

    since: int = 0
    limit: int = REPLAYED_UNLESS_SAID


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of `realtime.messages`."""

    id: str
    broadcast: Broadcast


def wish_of(config: JoinConfig) -> Wish | None:
    """What a join asks for, None if nothing.

    Raises:
        Refused: it cannot have that.
    """
    asked: object = config.replay
    if asked is None:
        return None
    if not config.private:
        raise Refused(_CODE, "Replay is not allowed for public channels")
    if not isinstance(asked, Mapping):
        return None
    wish = cast("Mapping[str, object]", asked)
    since, limit = wish.get("since") or 0, wish.get("limit") or REPLAYED_UNLESS_SAID
    if type(since) is not int or type(limit) is not int or not 0 <= since <= _LATEST:
        raise Refused(_CODE, "Replay params are not valid")
    return Wish(since, max(1, min(limit, MOST_REPLAYED)))


async def stored_messages(topic: str, wish: Wish, admin_pool: Pool) -> list[Stored]:
    """The messages wished for, oldest first. The policies are not asked for every row: the listener was let in.

    Raises:
        Refused: they could not be read.
    """
    try:
        async with admin_pool.connection() as connection:
            cursor = await connection.execute(
                "select id::text, event, coalesce(payload::text, 'null'), binary_payload from realtime.messages"
                " where topic = %s and private and extension = 'broadcast' and event is not null"
                " and inserted_at >= to_timestamp(%s / 1000.0) at time zone current_setting('timezone')"
                # Messages of one transaction have one time, and lie in the table in the order of their writing.
                " order by inserted_at desc, ctid desc limit %s",
                [topic, wish.since, wish.limit],
            )
            rows = await cursor.fetchall()
    except psycopg.Error as exc:
        raise Refused(_CODE, "Realtime was unable to replay messages") from exc
    return [_stored(*row) for row in reversed(rows)]


def _stored(id_: str, event: str, payload: str, binary: bytes | None) -> Stored:
    meta = {"id": id_, "replayed": True}
    if binary is not None:
        return Stored(id_, Broadcast(event, binary, binary=True, meta=meta))
    return Stored(id_, Broadcast(event, payload.encode(), meta=meta))


def replay(channel: Channel, messages: list[Stored]) -> None:
    """Send them, and then what was said on the topic meanwhile."""
    for message in messages:
        frame = encode_broadcast(channel.outlet.version, channel.wire_topic, message.broadcast)
        if frame is not None:
            channel.outlet.send(frame)
    channel.release(but={message.id for message in messages})
