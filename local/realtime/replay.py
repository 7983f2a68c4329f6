"""Messages that a private topic got before the listener joined, for a client that asks for them at its join."""

from __future__ import annotations

import psycopg

from local.realtime.channels import Channel
from local.realtime.protocol import Broadcast, encode_broadcast
from local.services import Pool

MOST_REPLAYED = 25


async def replay(channel: Channel, admin_pool: Pool) -> None:
    """Send the newest stored messages since the time asked for (Unix milliseconds), oldest first.

    The channel was let in, so its listener may read the topic; the policies are not asked for every row.
    """
    wish = channel.config.replay
    if wish is None or not channel.config.private or not channel.access.broadcast:
        return
    since, limit = wish.get("since"), wish.get("limit", MOST_REPLAYED)
    if not isinstance(since, int) or not isinstance(limit, int) or not 1 <= limit <= MOST_REPLAYED:
        channel.system("error", f"replay needs since and a limit of 1 to {MOST_REPLAYED}", extension="system")
        return
    try:
        async with admin_pool.connection() as connection:
            cursor = await connection.execute(
                "select id::text, event, coalesce(payload::text, 'null') from realtime.messages"
                " where topic = %s and private and extension = 'broadcast' and event is not null"
                " and inserted_at >= to_timestamp(%s / 1000.0) at time zone current_setting('timezone')"
                " order by inserted_at desc limit %s",
                [channel.topic, since, limit],
            )
            rows = await cursor.fetchall()
    except psycopg.Error:
        channel.system("error", "The stored messages could not be read", extension="system")
        return
    for id_, event, payload in reversed(rows):
        broadcast = Broadcast(event, payload.encode(), meta={"id": id_, "replayed": True})
        frame = encode_broadcast(channel.outlet.version, channel.wire_topic, broadcast)
        if frame is not None:
            channel.outlet.send(frame)
