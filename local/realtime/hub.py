"""Who listens to what. A private and a public topic of the same name are two topics."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator

from local.realtime.channels import Channel
from local.realtime.protocol import Broadcast, Frame, Version, encode_broadcast

LARGEST_BROADCAST = 3_000 * 1024

_log = logging.getLogger("local.realtime")


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

    def publish(self, topic: str, broadcast: Broadcast, *, private: bool, sender: Channel | None = None) -> bool:
        """Say something to all who may hear it; a sender hears itself only if it asked to. False: it is too large."""
        if len(broadcast.payload) > LARGEST_BROADCAST:
            _log.warning("realtime.broadcast_too_large topic=%s bytes=%d", topic, len(broadcast.payload))
            return False
        frames: dict[Version, Frame | None] = {}
        message_id = broadcast.meta.get("id") if broadcast.meta is not None else None
        for channel in self.listeners(topic, private=private):
            if (channel is sender and not channel.config.echo) or not channel.access.broadcast:
                continue
            version = channel.outlet.version
            if version not in frames:
                frames[version] = encode_broadcast(version, channel.wire_topic, broadcast)
            frame = frames[version]
            if frame is not None:
                channel.say(frame, message_id=message_id)
        return True
