"""Who is present on a topic: each tracked channel's own words, under the key it chose.

The full state goes to a channel that wants presence when it joins or begins to be present, differences to all who may
hear of it after that. Kept in memory: presence ends with the socket that claimed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from local.realtime.channels import Channel
from local.realtime.hub import Hub

Metas = dict[str, dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    words: Mapping[str, Any]
    reference: Mapping[str, str]

    @property
    def meta(self) -> dict[str, Any]:
        return {**self.words, **self.reference}


class Presence:
    """The presence of every topic."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._entries: dict[Channel, _Entry] = {}

    def state(self, channel: Channel) -> Metas:
        """Everybody on the channel's topic."""
        peers = self._hub.listeners(channel.topic, private=channel.config.private)
        return _grouped([self._entries[peer] for peer in peers if peer in self._entries])

    def track(self, channel: Channel, words: Mapping[str, Any]) -> None:
        """Be present with these words, instead of those said before. The same words again are nothing new."""
        before = self._entries.get(channel)
        if before is not None and before.words == words:
            return
        key = before.key if before else channel.config.presence_key or str(uuid4())
        reference = {"phx_ref": uuid4().hex[:16]}
        if before:
            reference["phx_ref_prev"] = before.reference["phx_ref"]
        entry = _Entry(key, words, reference)
        self._entries[channel] = entry
        self._tell(channel, joins=[entry], leaves=[before] if before else [])

    def untrack(self, channel: Channel) -> None:
        entry = self._entries.pop(channel, None)
        if entry is not None:
            self._tell(channel, joins=[], leaves=[entry])

    def _tell(self, channel: Channel, *, joins: list[_Entry], leaves: list[_Entry]) -> None:
        difference = {"joins": _grouped(joins), "leaves": _grouped(leaves)}
        for peer in self._hub.listeners(channel.topic, private=channel.config.private):
            if peer.access.presence:
                peer.push("presence_diff", difference)


def _grouped(entries: list[_Entry]) -> Metas:
    grouped: Metas = {}
    for entry in entries:
        grouped.setdefault(entry.key, {"metas": []})["metas"].append(entry.meta)
    return grouped
