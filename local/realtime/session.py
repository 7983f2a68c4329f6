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

from local.realtime.authorization import Access, Extension, Identity, Refused, expired, identify
from local.realtime.changes import NotSubscribed
from local.realtime.channels import TOPIC_PREFIX, Channel, JoinConfig, Outlet, Status, reply
from local.realtime.protocol import Message
from local.realtime.replay import Stored, replay, stored_messages, wish_of
from local.realtime.service import SUBSCRIBED, Realtime

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
            # A client may leave what the server has closed already.
            left = message.event == "phx_leave"
            self._reply(message, "ok" if left else "error", {} if left else {"reason": "unmatched topic"})
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
                _log.info("realtime.unknown_event topic=%s event=%s", channel.topic, message.event)

    def close(self) -> None:
        """Leave everything: the socket is gone."""
        for channel in list(self._channels.values()):
            self._drop(channel)

    async def _join(self, message: Message) -> None:
        topic = message.topic.removeprefix(TOPIC_PREFIX)
        if not topic or not message.topic.startswith(TOPIC_PREFIX):
            self._reply(message, "error", {"reason": "TopicNameRequired: You must provide a topic name"})
            return
        # A client that lost patience joins again without leaving. The new join takes the place of the old one, whose
        # end is told after the answer, as Phoenix does; but not in protocol 1.0.0, whose frames do not say which join
        # they are for: its clients take that end for the new join's, and supabase-py never comes back from it.
        before = self._channels.get(message.topic)
        if before is None:
            await self._enter(topic, message)
            return
        self._drop(before)
        await self._enter(topic, message)
        if self._outlet.version == "2.0.0":
            before.say_closed()

    async def _enter(self, topic: str, message: Message) -> None:
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
        try:
            await self._welcome(channel, message)
        except Refused as exc:
            self._drop(channel)
            self._reply(message, "error", {"reason": str(exc)})

    async def _admitted(self, topic: str, message: Message) -> Channel:
        """Make the channel, if its token and the policies allow it and the database can be heard."""
        config = JoinConfig.of(message.payload)
        wish_of(config)
        token = self._usable(message.payload.get("access_token"))
        identity = identify(self._realtime.keys, token)
        try:
            await self._realtime.feed.ready()
        except TimeoutError as exc:
            raise _no_database() from exc
        access = await self._access(identity, topic, presence=config.presence) if config.private else _EVERYTHING
        return Channel(self._outlet, topic, message.join_ref, config, token, identity, access)

    async def _access(self, identity: Identity, topic: str, *, presence: bool) -> Access:
        try:
            return await self._realtime.authorizer.read_access(identity, topic, self._headers, presence=presence)
        except psycopg.OperationalError as exc:
            _log.warning("realtime.authorization_failed topic=%s error=%s", topic, str(exc).strip())
            raise _no_database() from exc

    async def _welcome(self, channel: Channel, message: Message) -> None:
        """Answer a join, with everything that comes right after the answer."""
        stored = await self._stored(channel)
        waits = channel.config.await_changes and bool(channel.requests)
        if waits:
            try:
                await self._realtime.register(channel)
            except NotSubscribed as exc:
                raise Refused("RealtimeDisabledForConfiguration", str(exc)) from exc
        changes = [{**params, "id": id_} for id_, params in channel.requests.items()]
        channel.reply(message.ref, "ok", {"postgres_changes": changes})
        replay(channel, stored)
        self._tell_presence(channel)
        if channel.config.replication_ready:
            channel.system("ok", "Replication connection established", extension="system")
        if waits:
            channel.system("ok", SUBSCRIBED)
        else:
            await self._realtime.subscribe(channel)

    async def _stored(self, channel: Channel) -> list[Stored]:
        wish = wish_of(channel.config)
        if wish is None:
            return []
        if not channel.access.broadcast:
            text = f"You do not have permissions to read from this Channel topic: {channel.topic}"
            raise Refused("Unauthorized", text)
        channel.hold()
        return await stored_messages(channel.topic, wish, self._realtime.admin_pool)

    def _tell_presence(self, channel: Channel) -> None:
        if channel.present and channel.access.presence:
            channel.push("presence_state", self._realtime.presence.state(channel))

    def _leave(self, channel: Channel, message: Message) -> None:
        channel.reply(message.ref, "ok", {})
        self._close(channel)

    async def _renew(self, channel: Channel, token: object) -> None:
        """Go on with a new token, or end the channel if it no longer opens it. An API key in its place is no token."""
        if not isinstance(token, str) or token.startswith("sb_") or token == channel.token:
            return
        try:
            identity = identify(self._realtime.keys, token)
            access = _EVERYTHING
            if channel.config.private:
                access = await self._access(identity, channel.topic, presence=channel.present)
        except Refused as exc:
            self._end(channel, exc.text)
            return
        before = channel.access
        if (before.broadcast and not access.broadcast) or (before.presence and not access.presence):
            self._end(channel, f"You no longer have permission to read from this Channel topic: {channel.topic}")
            return
        channel.token, channel.identity, channel.access = token, identity, access
        channel.writable.clear()
        self._expire(channel)
        await self._realtime.subscribe(channel)

    async def _broadcast(self, channel: Channel, message: Message) -> None:
        # As on Supabase, nobody is told that they may not speak; to wait for the answer ends in a time-out.
        if message.broadcast is None or not await self._may_write(channel, "broadcast"):
            return
        said = self._realtime.hub.publish(
            channel.topic, message.broadcast, private=channel.config.private, sender=channel
        )
        if channel.config.ack and said:
            channel.reply(message.ref, "ok", {})
        elif channel.config.ack:
            channel.reply(message.ref, "error", {"reason": "payload_size_exceeded"})

    async def _presence(self, channel: Channel, message: Message) -> None:
        words: object = message.payload.get("payload", {})
        match str(message.payload.get("event", "")).lower():
            case "track" if not await self._may_write(channel, "presence"):
                channel.reply(message.ref, "error", {"reason": "Unauthorized: You may not be present on this topic"})
            case "track" if not isinstance(words, dict):
                channel.reply(message.ref, "error", {"reason": "Presence track payload must be a map"})
            case "track":
                await self._track(channel, message, cast("dict[str, Any]", words))
            case "untrack":
                self._realtime.presence.untrack(channel)
                channel.reply(message.ref, "ok", {})
            case _:
                channel.reply(message.ref, "error", {"reason": "presence is either track or untrack"})

    async def _track(self, channel: Channel, message: Message, words: Mapping[str, Any]) -> None:
        """Be present. A channel that did not want to hear of presence when it joined does from now on."""
        begins = not channel.present
        if begins and channel.config.private:
            try:
                channel.access = await self._access(channel.identity, channel.topic, presence=True)
            except Refused as exc:
                channel.reply(message.ref, "error", {"reason": str(exc)})
                return
        channel.present = True
        channel.reply(message.ref, "ok", {})
        self._realtime.presence.track(channel, words)
        if begins:
            self._tell_presence(channel)

    async def _may_write(self, channel: Channel, extension: Extension) -> bool:
        if not channel.config.private:
            return True
        if extension not in channel.writable:
            try:
                channel.writable[extension] = await self._realtime.authorizer.may_write(
                    channel.identity, channel.topic, extension, self._headers
                )
            except psycopg.OperationalError as exc:
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
        remaining = channel.identity.expires_at - time.time()
        # A loop's timer takes no more than some years; the keys of a stack live longer, this process does not.
        delay = min(max(remaining, 0.0), 365 * 24 * 3600)
        channel.expiry = asyncio.get_running_loop().call_later(delay, self._run_out, channel)

    def _run_out(self, channel: Channel) -> None:
        self._end(channel, expired(channel.identity.expires_at))

    def _end(self, channel: Channel, why: str) -> None:
        channel.system("error", why, extension="system")
        self._close(channel)

    def _close(self, channel: Channel) -> None:
        if not channel.closed:
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


def _no_database() -> Refused:
    return Refused("UnableToConnectToProject", "Realtime was unable to connect to the project database")
