"""Phoenix frames as the Supabase clients speak them: vsn 1.0.0 (objects) and 2.0.0 (arrays, binary broadcasts).

A frame is decoded into a `Message` or refused as `BadFrame`; nothing half-parsed goes further. What is sent
always carries `ref`, null on a push: supabase-py drops a push without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson

Version = Literal["1.0.0", "2.0.0"]
Frame = str | bytes

_USER_BROADCAST_PUSH = 3  # client to server
_USER_BROADCAST = 4  # server to client
_BINARY, _JSON = 0, 1  # how the payload of a binary frame is encoded
_ROOM = 8  # levels of nesting that an answer or a presence message puts around a client's words
_LONGEST_FIELD = 255  # one length byte a field


class BadFrame(Exception):  # noqa: N818 - reads as what it says
    """The frame is not of the protocol version that the socket speaks."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What is said on a topic. `payload` is JSON text, or bytes of the sender's own if `binary`."""

    event: str
    payload: bytes
    binary: bool = False
    meta: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One frame. A client's broadcast has `broadcast` and an empty payload."""

    topic: str
    event: str
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ref: str | None = None
    join_ref: str | None = None
    broadcast: Broadcast | None = None


def version_of(vsn: str | None) -> Version | None:
    """The protocol version a client asks for by `vsn`, None if there is no such version."""
    if vsn is None or vsn == "1.0.0":
        return "1.0.0"
    return "2.0.0" if vsn == "2.0.0" else None


def decode(version: Version, data: Frame) -> Message:
    """Parse one frame of a client.

    Raises:
        BadFrame: with a reason that may be shown.
    """
    if isinstance(data, bytes):
        if version == "1.0.0":
            raise BadFrame("binary frames need vsn 2.0.0")
        return _decode_binary(data)
    try:
        frame: object = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise BadFrame("the frame is not JSON") from exc
    if version == "1.0.0":
        return _decode_object(frame)
    return _decode_array(frame)


def encode(version: Version, message: Message) -> str:
    """Write a reply or push as text."""
    if version == "1.0.0":
        frame: object = {
            "topic": message.topic,
            "event": message.event,
            "payload": message.payload,
            "ref": message.ref,
            "join_ref": message.join_ref,
        }
    else:
        frame = [message.join_ref, message.ref, message.topic, message.event, message.payload]
    return orjson.dumps(frame).decode()


def encode_broadcast(version: Version, topic: str, broadcast: Broadcast) -> Frame | None:
    """Write a broadcast for the listeners of `topic`; None if this version cannot carry it."""
    if version == "2.0.0":
        frame = _encode_binary(topic, broadcast)
        if frame is not None:
            return frame
    if broadcast.binary:
        return None
    payload: dict[str, Any] = {
        "type": "broadcast",
        "event": broadcast.event,
        "payload": orjson.Fragment(broadcast.payload),
    }
    if broadcast.meta is not None:
        payload["meta"] = broadcast.meta
    return encode(version, Message(topic=topic, event="broadcast", payload=payload))


def write_json(value: object) -> bytes:
    """Write what a client said, which may be read at a depth at which it cannot be written.

    Raises:
        BadFrame: it is nested too deeply.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as exc:
        raise BadFrame("the payload is nested too deeply") from exc


def _require_writable(payload: object) -> None:
    """Refuse what could not be said again to the others, inside the messages that quote it."""
    for _ in range(_ROOM):
        payload = [payload]
    write_json(payload)


def _decode_object(frame: object) -> Message:
    if not isinstance(frame, dict):
        raise BadFrame("a frame of vsn 1.0.0 is an object")
    fields = cast("dict[str, object]", frame)
    names = ("join_ref", "ref", "topic", "event", "payload")
    return _message(*(fields.get(name) for name in names))


def _decode_array(frame: object) -> Message:
    if not isinstance(frame, list):
        raise BadFrame("a frame of vsn 2.0.0 is an array")
    fields = cast("list[object]", frame)
    if len(fields) != 5:
        raise BadFrame("a frame of vsn 2.0.0 has five elements")
    return _message(*fields)


def _message(join_ref: object, ref: object, topic: object, event: object, payload: object) -> Message:
    if not isinstance(topic, str) or not isinstance(event, str):
        raise BadFrame("a frame needs a topic and an event")
    if not isinstance(payload, dict):
        raise BadFrame("the payload of a frame is an object")
    if not isinstance(ref, str | None) or not isinstance(join_ref, str | None):
        raise BadFrame("refs are strings")
    fields = cast("dict[str, Any]", payload)
    broadcast = None
    if event == "broadcast":
        name = fields.get("event")
        if not isinstance(name, str):
            raise BadFrame("a broadcast needs an event")
        broadcast = Broadcast(event=name, payload=write_json(fields.get("payload", {})))
        fields = {}
    else:
        _require_writable(fields)
    return Message(topic=topic, event=event, payload=fields, ref=ref, join_ref=join_ref, broadcast=broadcast)


def _decode_binary(data: bytes) -> Message:
    if len(data) < 7 or data[0] != _USER_BROADCAST_PUSH:
        raise BadFrame("unknown kind of binary frame")
    sizes, encoding = data[1:6], data[6]
    fields: list[str] = []
    offset = 7
    for size in sizes:
        # The client writes each character as one byte of its code, so the text is Latin-1 and not UTF-8 ...
        fields.append(_text(data[offset : offset + size]))
        offset += size
    if offset > len(data) or encoding not in {_BINARY, _JSON}:
        raise BadFrame("the binary frame is cut short or of unknown encoding")
    join_ref, ref, topic, event, _meta = fields
    payload = data[offset:]
    if encoding == _JSON:
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError as exc:
            raise BadFrame("the payload of the broadcast is not JSON") from exc
    broadcast = Broadcast(event=event, payload=payload, binary=encoding == _BINARY)
    return Message(topic=topic, event="broadcast", ref=ref or None, join_ref=join_ref or None, broadcast=broadcast)


def _text(raw: bytes) -> str:
    # ... except from clients that do write UTF-8, which is the documented form and tried first.
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _encode_binary(topic: str, broadcast: Broadcast) -> bytes | None:
    meta = orjson.dumps(broadcast.meta) if broadcast.meta else b""
    fields = (topic.encode(), broadcast.event.encode(), meta)
    if any(len(part) > _LONGEST_FIELD for part in fields):
        return None
    encoding = _BINARY if broadcast.binary else _JSON
    return bytes((_USER_BROADCAST, *map(len, fields), encoding)) + b"".join(fields) + broadcast.payload
