"""The parts of Realtime put together: one database stream, its subscribers, and the broadcasts it brings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import psycopg

from local.realtime.authorization import Authorizer
from local.realtime.changes import PUBLICATION, ChangeFeed, NotSubscribed
from local.realtime.channels import Channel, Outlet
from local.realtime.feed import Feed
from local.realtime.hub import Hub
from local.realtime.pgoutput import Change, Row
from local.realtime.presence import Presence
from local.realtime.protocol import Broadcast
from local.services import Services

MESSAGES_PUBLICATION = "supabase_realtime_messages_publication"
PAUSE_BYTES = 128 * 1024  # backlog of a socket that is worth waiting for; it is dropped at 8 MB
LONGEST_PAUSE_SECONDS = 0.1
SUBSCRIBED = "Subscribed to PostgreSQL"
_MESSAGES = ("realtime", "messages")

_log = logging.getLogger("local.realtime")


class Realtime:
    """Everything the sockets share."""

    def __init__(self, services: Services) -> None:
        self.pool = services.pool
        self.admin_pool = services.admin_pool
        self.keys = services.keys
        self.hub = Hub()
        self._hanging: set[Outlet] = set()
        self.presence = Presence(self.hub)
        self.authorizer = Authorizer(services.admin_pool)
        self.changes = ChangeFeed(services.pool, services.admin_pool)
        self.feed = Feed(
            services.database_url,
            (PUBLICATION, MESSAGES_PUBLICATION),
            deliver=self._deliver,
            on_lost=self._tell_lost,
            on_back=self._resubscribe,
        )

    async def start(self) -> None:
        self.feed.start()

    async def stop(self) -> None:
        await self.feed.stop()

    def trouble(self) -> str | None:
        return "The stream of changes is down; it is opened again and again." if self.feed.is_down else None

    async def subscribe(self, channel: Channel) -> None:
        """Register the channel's requests for row changes, and tell it how that went."""
        if not channel.requests:
            return
        try:
            await self.register(channel)
        except NotSubscribed as exc:
            channel.system("error", str(exc))
        else:
            channel.system("ok", SUBSCRIBED)

    async def register(self, channel: Channel) -> None:
        """Register the channel's requests for row changes.

        Raises:
            NotSubscribed: they cannot be served.
        """
        try:
            await self.changes.subscribe(channel, channel.identity, channel.requests)
        except psycopg.Error as exc:
            # If the database is away the stream is too, and when it is back the channel is subscribed again.
            _log.warning("realtime.subscribe_failed topic=%s error=%s", channel.topic, str(exc).strip())
            raise NotSubscribed("Unable to subscribe to changes: the database refused or is not available") from exc
        if channel.closed:
            self.changes.unsubscribe(channel.requests)

    async def _deliver(self, changes: Sequence[Change]) -> None:
        rows: list[Change] = []
        for change in changes:
            if (change.relation.schema, change.relation.name) == _MESSAGES:
                self._broadcast(change.new)
            else:
                rows.append(change)
        await self.changes.deliver(rows)
        await self._let_sockets_send()

    async def _let_sockets_send(self) -> None:
        """Wait a moment for sockets that have just become full: a burst of rows must not look like a slow reader.

        One that really does not read holds the others up for that moment once; until it is dropped nobody waits for it.
        """
        deadline = time.monotonic() + LONGEST_PAUSE_SECONDS
        while self._full() - self._hanging and time.monotonic() < deadline:  # noqa: ASYNC110 - sockets tell nobody
            await asyncio.sleep(0.001)
        self._hanging = self._full()

    def _full(self) -> set[Outlet]:
        return {channel.outlet for channel in self.hub if channel.outlet.backlog > PAUSE_BYTES}

    def _broadcast(self, row: Row | None) -> None:
        """Say what a transaction said by `realtime.send`."""
        if row is None or row["extension"] != "broadcast":
            return
        topic, event, payload, binary = row["topic"], row["event"], row["payload"], row.get("binary_payload")
        if not isinstance(topic, str) or not isinstance(event, str):
            return
        meta = {"id": row["id"]}
        if isinstance(binary, str):
            broadcast = Broadcast(event, bytes.fromhex(binary.removeprefix("\\x")), binary=True, meta=meta)
        else:
            broadcast = Broadcast(event, payload.encode() if isinstance(payload, str) else b"null", meta=meta)
        self.hub.publish(topic, broadcast, private=row["private"] == "t")

    def _tell_lost(self) -> None:
        for channel in self.hub:
            extension = "postgres_changes" if channel.requests else "system"
            channel.system("error", "The connection to the database was lost", extension=extension)

    async def _resubscribe(self) -> None:
        for pool in (self.pool, self.admin_pool):
            await pool.check()  # its connections went with the server
        for channel in self.hub:
            if channel.requests:
                await self.subscribe(channel)
            else:
                channel.system("ok", "Replication connection established", extension="system")
