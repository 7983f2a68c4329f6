"""Channels: one topic as one socket has joined it; and the hub that knows who listens to what.

A private and a public topic of the same name are two topics. A closed channel is deaf and mute, so whoever still
holds one does no harm.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from local.realtime.authorization import Access, Extension, Identity
from local.realtime.changes import Request, next_id
from local.realtime.protocol import Broadcast, Frame, Message, Version, encode, encode_broadcast

TOPIC_PREFIX = "realtime:"
Params = Mapping[str, Any]
Status = Literal["ok", "error"]


class Outlet(Protocol):
    """Where a channel's frames go: a socket."""

    @property
    def version(self) -> Version: ...

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet sent."""
        ...

    def send(self, frame: Frame) -> None:
        """Queue a frame. Never waits; a socket that reads too slowly is dropped instead."""
        ...


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """The `config` of a join."""

    private: bool = False
    echo: bool = False  # `broadcast.self`: the sender hears itself
    ack: bool = False
    replay: Params | None = None
    replication_ready: bool = False
    presence: bool = False
    presence_key: str = ""
    changes: tuple[Params, ...] = ()

    @classmethod
    def of(cls, payload: Params) -> JoinConfig:
        """Read a join's payload. What is missing or of another type counts as not asked for."""
        config = _mapping(payload.get("config"))
        broadcast, presence = _mapping(config.get("broadcast")), _mapping(config.get("presence"))
        changes: object = config.get("postgres_changes")
        return cls(
            private=config.get("private") is True,
            echo=broadcast.get("self") is True,
            ack=broadcast.get("ack") is True,
            replay=_mapping(broadcast["replay"]) if broadcast.get("replay") else None,
            replication_ready=broadcast.get("replication_ready") is True,
            presence=presence.get("enabled") is True,
            presence_key=str(presence.get("key") or ""),
            changes=tuple(map(_mapping, cast("list[object]", changes))) if isinstance(changes, list) else (),
        )


@dataclass(slots=True, eq=False)
class Channel:
    """A joined topic. `topic` is without the `realtime:` that it has on the wire."""

    outlet: Outlet
    topic: str
    join_ref: str | None
    config: JoinConfig
    token: str
    identity: Identity
    access: Access
    requests: dict[int, Request] = field(default_factory=dict[int, Request])
    writable: dict[Extension, bool] = field(default_factory=dict[Extension, bool])  # what the policies said so far
    expiry: asyncio.TimerHandle | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        self.requests = {next_id(): Request.of(params) for params in self.config.changes}

    @property
    def wire_topic(self) -> str:
        return TOPIC_PREFIX + self.topic

    def push(self, event: str, payload: Mapping[str, Any]) -> None:
        """Send something nobody asked for."""
        if not self.closed:
            message = Message(topic=self.wire_topic, event=event, payload=payload, join_ref=self.join_ref)
            self.outlet.send(encode(self.outlet.version, message))

    def reply(self, ref: str | None, status: Status, response: Mapping[str, Any]) -> None:
        """Answer the client's message `ref`."""
        if not self.closed:
            self.outlet.send(reply(self.outlet.version, self.wire_topic, ref, self.join_ref, status, response))

    def say_closed(self) -> None:
        """Tell the client that this channel has ended; the ref says which of its joins is meant."""
        if not self.closed:
            message = Message(self.wire_topic, "phx_close", ref=self.join_ref, join_ref=self.join_ref)
            self.outlet.send(encode(self.outlet.version, message))

    def system(self, status: Status, message: str, *, extension: str = "postgres_changes") -> None:
        """Tell the client how the channel is doing."""
        payload = {"extension": extension, "status": status, "message": message, "channel": self.topic}
        self.push("system", payload)


def reply(
    version: Version,
    wire_topic: str,
    ref: str | None,
    join_ref: str | None,
    status: Status,
    response: Mapping[str, Any],
) -> str:
    """Write the answer to a message."""
    payload = {"status": status, "response": response}
    return encode(version, Message(topic=wire_topic, event="phx_reply", payload=payload, ref=ref, join_ref=join_ref))


class Hub:
    """All open channels by topic."""

    def __init__(self) -> None:
        # The inner dicts are sets that keep the order of joining.
        self._topics: dict[tuple[str, bool], dict[Channel, None]] = defaultdict(dict)

    def add(self, channel: Channel) -> None:
        self._topics[channel.topic, channel.config.private][channel] = None

    def remove(self, channel: Channel) -> None:
        key = (channel.topic, channel.config.private)
        self._topics[key].pop(channel, None)
        if not self._topics[key]:
            del self._topics[key]

    def listeners(self, topic: str, *, private: bool) -> list[Channel]:
        return list(self._topics.get((topic, private), ()))

    def __iter__(self) -> Iterator[Channel]:
        return iter([channel for channels in self._topics.values() for channel in channels])

    def publish(self, topic: str, broadcast: Broadcast, *, private: bool, sender: Channel | None = None) -> None:
        """Say something to all who may hear it; a sender hears itself only if it asked to."""
        frames: dict[Version, Frame | None] = {}
        for channel in self.listeners(topic, private=private):
            if (channel is sender and not channel.config.echo) or not channel.access.broadcast:
                continue
            version = channel.outlet.version
            if version not in frames:
                frames[version] = encode_broadcast(version, channel.wire_topic, broadcast)
            frame = frames[version]
            if frame is not None:
                channel.outlet.send(frame)


def _mapping(value: object) -> Params:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
