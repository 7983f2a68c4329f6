"""The formats that Realtime reads and writes: frames, the log's messages, values, filters on text."""

from __future__ import annotations

import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.realtime.pgoutput import UNCHANGED, Decoder, PgoutputError
from local.realtime.protocol import BadFrame, Broadcast, Message, decode, encode, encode_broadcast
from local.realtime.values import ValueType
from local.realtime.visibility import _in_progress

INT4, TEXT = 23, 25
RELATION = (
    b"R" + struct.pack("!I", 7) + b"public\0notes\0d" + struct.pack("!h", 2)
    + b"\x01id\0" + struct.pack("!Ii", INT4, -1) + b"\x00body\0" + struct.pack("!Ii", TEXT, -1)
)  # fmt: skip
BEGIN = b"B" + struct.pack("!qqI", 1, 1_000_000, 4_000_000_000)


def row(*values: bytes | None) -> bytes:
    fields = (b"n" if value is None else b"t" + struct.pack("!I", len(value)) + value for value in values)
    return struct.pack("!h", len(values)) + b"".join(fields)


def fed(*messages: bytes) -> Decoder:
    decoder = Decoder()
    for message in messages:
        decoder.feed(message)
    return decoder


def test_an_insert_carries_its_values_its_transaction_and_its_commit_time() -> None:
    change = fed(RELATION, BEGIN).feed(b"I" + struct.pack("!I", 7) + b"N" + row(b"1", None))

    assert change is not None
    assert (change.kind, change.new, change.old) == ("INSERT", {"id": "1", "body": None}, None)
    assert (change.xid, change.committed_at.isoformat()) == (4_000_000_000, "2000-01-01T00:00:01+00:00")


def test_an_update_carries_the_old_key_where_it_changed_and_marks_untouched_large_values() -> None:
    new = struct.pack("!h", 2) + b"t" + struct.pack("!I", 1) + b"2" + b"u"
    change = fed(RELATION).feed(b"U" + struct.pack("!I", 7) + b"K" + row(b"1", None) + b"N" + new)

    assert change is not None
    assert (change.new, change.old) == ({"id": "2", "body": UNCHANGED}, {"id": "1"})


def test_a_delete_carries_only_the_key() -> None:
    change = fed(RELATION).feed(b"D" + struct.pack("!I", 7) + b"K" + row(b"1", None))

    assert change is not None
    assert (change.kind, change.new, change.old) == ("DELETE", None, {"id": "1"})


@pytest.mark.parametrize("kind", [b"C", b"T", b"O", b"Y", b"M"])
def test_messages_that_change_no_row_are_passed_over(kind: bytes) -> None:
    assert fed(RELATION).feed(kind + b"whatever") is None


@given(st.binary())
def test_any_other_bytes_are_refused_and_never_taken_for_a_row_of_another_shape(message: bytes) -> None:
    decoder = fed(RELATION)
    try:
        change = decoder.feed(message)
    except PgoutputError:
        return
    assert change is None or {*(change.new or change.old or {})} <= {"id", "body"}


@given(st.binary(max_size=40))
def test_a_row_that_is_cut_short_or_garbled_is_refused(rest: bytes) -> None:
    try:
        change = fed(RELATION).feed(b"I" + struct.pack("!I", 7) + b"N" + rest)
    except PgoutputError:
        return
    assert change is not None
    assert {*(change.new or {})} == {"id", "body"}


@given(version=st.sampled_from(["1.0.0", "2.0.0"]), frame=st.one_of(st.text(), st.binary()))
def test_a_frame_is_understood_or_refused(version, frame) -> None:
    try:
        message = decode(version, frame)
    except BadFrame:
        return
    assert isinstance(message.topic, str)


@given(version=st.sampled_from(["1.0.0", "2.0.0"]), topic=st.text(), ref=st.none() | st.text(max_size=9))
def test_a_message_survives_the_wire(version, topic: str, ref: str | None) -> None:
    message = Message(topic=topic, event="phx_join", payload={"a": [1, None]}, ref=ref, join_ref="1")

    assert decode(version, encode(version, message)) == message


def test_a_binary_broadcast_has_the_layout_that_supabase_js_reads() -> None:
    frame = encode_broadcast("2.0.0", "realtime:a", Broadcast("said", b'{"x":1}', meta={"id": "7"}))

    assert frame == b'\x04\x0a\x04\x0a\x01realtime:asaid{"id":"7"}{"x":1}'


def test_a_broadcast_too_long_for_a_binary_frame_goes_as_text_and_bytes_go_to_version_2_only() -> None:
    event = "e" * 300
    text = encode_broadcast("2.0.0", "realtime:a", Broadcast(event, b"{}"))

    assert isinstance(text, str)
    assert orjson.loads(text)[4] == {"type": "broadcast", "event": event, "payload": {}}
    assert encode_broadcast("1.0.0", "realtime:a", Broadcast("e", b"\x00", binary=True)) is None


@pytest.mark.parametrize(
    ("oid", "element", "text", "expected"),
    [
        (16, None, "t", b"true"),
        (1700, None, "12345678901234567890.10", b"12345678901234567890.10"),
        (701, None, "NaN", b'"NaN"'),
        (701, None, "1e+20", b"1e+20"),
        (3802, None, '{"a": 1}', b'{"a": 1}'),
        (1184, None, "2026-01-02 03:04:05.6+00", b'"2026-01-02T03:04:05.6+00:00"'),
        (1184, None, "0044-03-15 12:00:00+00 BC", b'"0044-03-15T12:00:00+00:00 BC"'),
        (1020, 603, "{(1,1),(0,0);(2,2),(1,1)}", b'["(1,1),(0,0)","(2,2),(1,1)"]'),
        (1114, None, "2026-01-02 03:04:05", b'"2026-01-02T03:04:05"'),
        (1184, None, "infinity", b'"infinity"'),
        (1082, None, "2026-01-02", b'"2026-01-02"'),
        (1007, 23, "{1,NULL,3}", b"[1,null,3]"),
        (1007, 23, "[0:1]={1,2}", b"[1,2]"),
        (1007, 23, "{}", b"[]"),
        (1009, 25, '{{a,"b,\\"}"},{NULL,"NULL"}}', b'[["a","b,\\"}"],[null,"NULL"]]'),
        (3807, 3802, '{"{\\"a\\": 1}"}', b'[{"a": 1}]'),
    ],
)
def test_a_value_becomes_the_json_that_to_jsonb_makes(
    oid: int, element: int | None, text: str, expected: bytes
) -> None:
    assert orjson.dumps(ValueType(oid, element).to_json(text)) == expected


@pytest.mark.parametrize(
    ("xid", "xmax", "running", "expected"),
    [
        (5, 10, [], False),
        (5, 10, [5], True),
        (10, 10, [], True),
        ((1 << 32) - 1, (1 << 32) + 4, [], False),  # before the counter went round
        (3, (1 << 32) + 4, [], False),
        (3, (1 << 32) + 4, [(1 << 32) + 3], True),
        (5, (1 << 32) + 4, [], True),
        (1, (1 << 32) - 1, [], True),  # after it went round, seen by an older snapshot
    ],
)
def test_a_transaction_of_the_log_is_found_in_a_snapshot_across_the_counters_wrap(
    xid: int, xmax: int, running: list[int], *, expected: bool
) -> None:
    assert _in_progress(xid, xmax, running) is expected
