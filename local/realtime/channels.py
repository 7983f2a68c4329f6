"""Channels: one topic as one socket has joined it. A closed channel is deaf and mute, so whoever still holds one does
no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from local.realtime.authorization import Access, Extension, Identity
from local.realtime.changes import next_id
from local.realtime.protocol import Frame, Message, Version, encode

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
    replay: object = None
    replication_ready: bool = False
    presence: bool = False
    presence_key: str = ""
    changes: tuple[Params, ...] = ()
    await_changes: bool = False  # `postgres_changes_options.wait`: the join's answer waits for the subscription

    @classmethod
    def of(cls, payload: Params) -> JoinConfig:
        """Read a join's payload. What is missing or of another type counts as not asked for."""
        config = _mapping(payload.get("config"))
        broadcast, presence = _mapping(config.get("broadcast")), _mapping(config.get("presence"))
        key, changes = presence.get("key"), config.get("postgres_changes")
        return cls(
            private=_flag(config.get("private")),
            echo=_flag(broadcast.get("self")),
            ack=_flag(broadcast.get("ack")),
            replay=broadcast.get("replay"),
            replication_ready=_flag(broadcast.get("replication_ready")),
            presence=_flag(presence.get("enabled")),
            presence_key=str(key) if isinstance(key, str | int | float) else "",
            changes=tuple(_mapping(entry) for entry in cast("list[object]", changes) if entry is not None)
            if isinstance(changes, list)
            else (),
            await_changes=_flag(_mapping(config.get("postgres_changes_options")).get("wait")),
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
    requests: dict[int, Params] = field(default_factory=dict[int, Params])  # wishes for row changes, by their ids
    present: bool = False  # wants presence: it said so when it joined, or is present itself
    writable: dict[Extension, bool] = field(default_factory=dict[Extension, bool])  # what the policies said so far
    expiry: asyncio.TimerHandle | None = None
    closed: bool = False
    _held: list[tuple[str | None, Frame]] | None = None
    _replayed: set[str | None] = field(default_factory=set[str | None])  # and not heard since

    def __post_init__(self) -> None:
        self.requests = {next_id(): params for params in self.config.changes}
        self.present = self.config.presence

    @property
    def wire_topic(self) -> str:
        return TOPIC_PREFIX + self.topic

    def push(self, event: str, payload: Mapping[str, Any]) -> None:
        """Send something nobody asked for."""
        if not self.closed:
            message = Message(topic=self.wire_topic, event=event, payload=payload, join_ref=self.join_ref)
            self.outlet.send(encode(self.outlet.version, message))

    def say(self, frame: Frame, *, message_id: str | None = None) -> None:
        """Send a frame that was written for all listeners of the topic."""
        if self._held is not None:
            self._held.append((message_id, frame))
        elif message_id in self._replayed:
            self._replayed.remove(message_id)
        elif not self.closed:
            self.outlet.send(frame)

    def hold(self) -> None:
        """Keep back what is said on the topic until `release`, so that what was said before comes before it."""
        self._held = []

    def release(self, *, but: Collection[str] = ()) -> None:
        """Send what was kept back, without these ids. Those still to come are left out when they do.

        A row can be read before the log of changes tells of it.
        """
        held, self._held = self._held or [], None
        self._replayed.update(but)
        for message_id, frame in held:
            self.say(frame, message_id=message_id)

    def reply(self, ref: str | None, status: Status, response: Mapping[str, Any]) -> None:
        """Answer the client's message `ref`."""
        if not self.closed:
            self.outlet.send(reply(self.outlet.version, self.wire_topic, ref, self.join_ref, status, response))

    def say_closed(self) -> None:
        """Tell the client that this channel has ended; the ref says which of its joins is meant."""
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


def _mapping(value: object) -> Params:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _flag(value: object) -> bool:
    # Some clients write their flags as text.
    return value is True or (isinstance(value, str) and value.lower() == "true")
