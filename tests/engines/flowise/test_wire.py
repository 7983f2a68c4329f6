"""Flowise's event stream is read whatever its chunks are cut like, and bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.engines.flowise import wire
from shared.engines.flowise.failures import NotFlowise
from shared.engines.flowise.wire import Event, events

RECORDED = (
    b'message:\ndata:{"event":"start","data":""}\n\n'
    b":heartbeat\n\n"
    b'message:\ndata:{"event":"token","data":"Gr\xc3\xbc\xe2\x80\xa8\xc3\x9fe"}\n\n'
    b'message:\ndata:{"event":"metadata","data":{"chatId":"c"}}\n\n'
    b'message:\ndata:{"event":"end","data":"[DONE]"}\n\n'
)
READ = [
    Event("start", ""),
    Event("token", "Gr\u00fc\u2028\u00dfe"),
    Event("metadata", {"chatId": "c"}),
    Event("end", "[DONE]"),
]


async def stream(chunks: Sequence[bytes]) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(*chunks: bytes) -> list[Event]:
    return [event async for event in events(stream(chunks))]


@given(st.sets(st.integers(min_value=1, max_value=len(RECORDED) - 1)))
async def test_a_recorded_stream_is_read_wherever_it_is_cut(cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(RECORDED)]

    assert await read(*(RECORDED[start:end] for start, end in pairwise(places))) == READ


async def test_a_stream_with_windows_line_ends_is_read_too() -> None:
    assert await read(RECORDED.replace(b"\n", b"\r\n")) == READ


async def test_an_event_in_several_data_lines_is_one() -> None:
    assert await read(b'data:{"event":\ndata:"token","data":1}\n\n') == [Event("token", 1)]


async def test_an_event_that_never_ended_is_none() -> None:
    assert await read(b'message:\ndata:{"event":"token","data":"x"}\n') == []


@pytest.mark.parametrize("data", [b"{", b"[]", b'"text"', b'{"data": 1}', b'{"event": 7}'])
async def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(NotFlowise):
        await read(b"data:" + data + b"\n\n")


@pytest.mark.parametrize("flood", [[b"x" * 600] * 2, [b"data:" + b"x" * 300 + b"\n"] * 4, [b"\n" * 900] * 3])
async def test_a_flood_is_refused_and_not_held(flood: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "EVENT_BYTES", 1_000)
    monkeypatch.setattr(wire, "STREAM_BYTES", 2_000)

    with pytest.raises(NotFlowise, match="sent more than"):
        await read(*flood)
