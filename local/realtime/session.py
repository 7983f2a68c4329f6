"""One client's conversation: joins, leaves, new tokens, broadcasts and presence on its socket.

Messages are taken one after the other, so a client sees the effects of what it said in that order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, cast

import psycopg

from local.keys import CLOCK_SKEW_SECONDS
from local.realtime.authorization import Access, Extension, Identity, Refused, identify
from local.realtime.channels import TOPIC_PREFIX, Channel, JoinConfig, Outlet, Status, reply
from local.realtime.protocol import Message
from local.realtime.replay import replay
from local.realtime.service import Realtime

CHANNELS_PER_SOCKET = 100
_EVERYTHING = Access(broadcast=True, presence=True)

_log = logging.getLogger("local.realtime")


class Session:
    """The channels of one socket. `token` is the JWT that the socket was opened with."""

    def __init__(self, realtime: Realtime, outlet: Outlet, *, token: str, headers: Mapping[str, str]) -> None:
        self._realtime = realtime
        self._outlet = outlet
        self._token = token
        self._headers = headers
        self._channels: dict[str, Channel] = {}

    async def receive(self, message: Message) -> None:
        """Act on one message."""
        if message.topic == "phoenix":
            if message.event == "heartbeat":
                self._reply(message, "ok", {})
            return
        if message.event == "phx_join":
            await self._join(message)
            return
        channel = self._channels.get(message.topic)
        if channel is None:
            self._reply(message, "error", {"reason": "unmatched topic"})
            return
        match message.event:
            case "phx_leave":
                self._leave(channel, message)
            case "access_token":
                await self._renew(channel, message.payload.get("access_token"))
            case "broadcast":
                await self._broadcast(channel, message)
            case "presence":
                await self._presence(channel, message)
            case _:
                channel.reply(message.ref, "error", {"reason": f"unknown event {message.event!r}"})

    def close(self) -> None:
        """Leave everything: the socket is gone."""
        for channel in list(self._channels.values()):
            self._drop(channel)

    async def _join(self, message: Message) -> None:
        topic = message.topic.removeprefix(TOPIC_PREFIX)
        if not topic or not message.topic.startswith(TOPIC_PREFIX):
            self._reply(message, "error", {"reason": "TopicNameRequired: You must provide a topic name"})
            return
        # A client that lost patience joins again without leaving; the new join takes the place of the old.
        if message.topic in self._channels:
            self._drop(self._channels[message.topic])
        if len(self._channels) >= CHANNELS_PER_SOCKET:
            self._reply(message, "error", {"reason": "ChannelRateLimitReached: Too many channels"})
            return
        self._realtime.feed.enter()
        try:
            channel = await self._admitted(topic, message)
        except Refused as exc:
            self._realtime.feed.leave()
            self._reply(message, "error", {"reason": str(exc)})
            return
        except BaseException:
            self._realtime.feed.leave()
            raise
        self._channels[message.topic] = channel
        self._realtime.hub.add(channel)
        self._expire(channel)
        await self._welcome(channel, message)

    async def _admitted(self, topic: str, message: Message) -> Channel:
        """Make the channel, if its token and the policies allow it and the database can be heard."""
        config = JoinConfig.of(message.payload)
        token = self._usable(message.payload.get("access_token"))
        identity = identify(self._realtime.keys, token)
        try:
            await self._realtime.feed.ready()
        except TimeoutError as exc:
            raise Refused("UnableToConnectToProject: Realtime was unable to connect to the project database") from exc
        access = await self._access(identity, topic) if config.private else _EVERYTHING
        return Channel(self._outlet, topic, message.join_ref, config, token, identity, access)

    async def _access(self, identity: Identity, topic: str) -> Access:
        try:
            return await self._realtime.authorizer.read_access(identity, topic, self._headers)
        except psycopg.Error as exc:
            _log.warning("realtime.authorization_failed topic=%s error=%s", topic, str(exc).strip())
            raise Refused("ErrorAuthorizingWebsocket: The policies of the channel could not be checked") from exc

    async def _welcome(self, channel: Channel, message: Message) -> None:
        changes = [{**params, "id": id_} for id_, params in zip(channel.requests, channel.config.changes, strict=True)]
        channel.reply(message.ref, "ok", {"postgres_changes": changes})
        if channel.config.presence and channel.access.presence:
            channel.push("presence_state", self._realtime.presence.state(channel))
        if channel.config.replication_ready:
            channel.system("ok", "Replication connection established", extension="system")
        await replay(channel, self._realtime.admin_pool)
        await self._realtime.subscribe(channel)

    def _leave(self, channel: Channel, message: Message) -> None:
        channel.reply(message.ref, "ok", {})
        self._close(channel)

    async def _renew(self, channel: Channel, token: object) -> None:
        """Go on with a new token, or end the channel if it no longer opens it."""
        fresh = self._usable(token)
        if fresh == channel.token:
            return
        try:
            identity = identify(self._realtime.keys, fresh)
            access = await self._access(identity, channel.topic) if channel.config.private else _EVERYTHING
        except Refused as exc:
            self._end(channel, str(exc))
            return
        channel.token, channel.identity, channel.access = fresh, identity, access
        channel.writable.clear()
        self._expire(channel)
        await self._realtime.subscribe(channel)

    async def _broadcast(self, channel: Channel, message: Message) -> None:
        if message.broadcast is None:
            return
        if not await self._may_write(channel, "broadcast"):
            if channel.config.ack:
                reason = "Unauthorized: You do not have permissions to write to this Channel topic"
                channel.reply(message.ref, "error", {"reason": reason})
            return
        self._realtime.hub.publish(channel.topic, message.broadcast, private=channel.config.private, sender=channel)
        if channel.config.ack:
            channel.reply(message.ref, "ok", {})

    async def _presence(self, channel: Channel, message: Message) -> None:
        event, words = message.payload.get("event"), message.payload.get("payload")
        meta = cast("dict[str, Any]", words) if isinstance(words, dict) else {}
        if not await self._may_write(channel, "presence"):
            channel.reply(message.ref, "error", {"reason": "Unauthorized: You may not be present on this topic"})
        elif event == "track":
            self._realtime.presence.track(channel, meta)
            channel.reply(message.ref, "ok", {})
        elif event == "untrack":
            self._realtime.presence.untrack(channel)
            channel.reply(message.ref, "ok", {})
        else:
            channel.reply(message.ref, "error", {"reason": "presence is either track or untrack"})

    async def _may_write(self, channel: Channel, extension: Extension) -> bool:
        if not channel.config.private:
            return True
        if extension not in channel.writable:
            try:
                channel.writable[extension] = await self._realtime.authorizer.may_write(
                    channel.identity, channel.topic, extension, self._headers
                )
            except psycopg.Error as exc:
                _log.warning("realtime.authorization_failed topic=%s error=%s", channel.topic, str(exc).strip())
                return False
        return channel.writable[extension]

    def _usable(self, token: object) -> str:
        # An API key in the place of a token stands for nobody in particular: the socket's own token counts.
        return token if isinstance(token, str) and token and not token.startswith("sb_") else self._token

    def _expire(self, channel: Channel) -> None:
        """End the channel when its token runs out, unless a new one comes first."""
        if channel.expiry is not None:
            channel.expiry.cancel()
        remaining = channel.identity.expires_at + CLOCK_SKEW_SECONDS - time.time()
        # A loop's timer takes no more than some years; the keys of a stack live longer, this process does not.
        delay = min(max(remaining, 0.0), 365 * 24 * 3600)
        channel.expiry = asyncio.get_running_loop().call_later(delay, self._end, channel, "Token has expired")

    def _end(self, channel: Channel, why: str) -> None:
        channel.system("error", why, extension="system")
        self._close(channel)

    def _close(self, channel: Channel) -> None:
        channel.say_closed()
        self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        if channel.closed:
            return
        if channel.expiry is not None:
            channel.expiry.cancel()
        self._realtime.changes.unsubscribe(channel.requests)
        self._realtime.presence.untrack(channel)
        channel.closed = True
        self._realtime.hub.remove(channel)
        self._channels.pop(channel.wire_topic, None)
        self._realtime.feed.leave()

    def _reply(self, message: Message, status: Status, response: Mapping[str, object]) -> None:
        answer = reply(self._outlet.version, message.topic, message.ref, message.join_ref, status, response)
        self._outlet.send(answer)
