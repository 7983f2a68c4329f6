"""Rules that hold for all inputs: back-off, what can be stored, what a log line may hold."""

from __future__ import annotations

import json
import math
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runs.backoff import CAP_SECONDS, backoff_seconds
from shared.runs.text import bounded_metadata, bounded_text, storable

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=20,
)


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_back_off_stays_between_half_its_ceiling_and_its_ceiling(failures: int, jitter: float) -> None:
    ceiling = min(CAP_SECONDS, 2.0 ** min(failures - 1, 16))

    assert ceiling / 2 <= backoff_seconds(failures, jitter=jitter) <= ceiling


@given(JSON)
def test_whatever_a_tool_answers_can_be_stored(value: object) -> None:
    """Postgres takes any JSON that is valid UTF-8 without NUL; orjson writes no other."""
    text = orjson.dumps(storable(value)).decode()  # type: ignore[type-var]

    assert "\\u0000" not in text
    text.encode()


@given(JSON)
def test_storing_twice_changes_nothing_more(value: object) -> None:
    once = storable(value)  # type: ignore[type-var]

    assert json.dumps(storable(once)) == json.dumps(once)


def test_json_nested_too_deep_is_refused() -> None:
    value: object = 1
    for _ in range(70):
        value = [value]

    with pytest.raises(ValueError, match="64 deep"):
        storable(value)  # type: ignore[type-var]


@given(TEXT, st.integers(20, 100))
def test_a_bounded_text_is_within_its_bytes_and_starts_as_the_text(text: str, limit: int) -> None:
    bounded = bounded_text(text, limit)

    assert len(bounded.encode()) <= limit
    assert storable(text).startswith(bounded.removesuffix(" [truncated]"))


@given(st.dictionaries(TEXT, TEXT, max_size=5), st.integers(40, 200))
def test_bounded_metadata_is_within_its_bytes(metadata: dict[str, str], limit: int) -> None:
    assert len(orjson.dumps(bounded_metadata(metadata, limit))) <= limit  # type: ignore[arg-type]


def test_a_number_that_json_lacks_becomes_nothing() -> None:
    assert storable({"a": math.inf, "b": [math.nan, 1.5]}) == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("text", ["plain", "a\x00b", "a\ud800b"])
def test_what_is_storable_depends_neither_on_size_nor_on_neighbours(count: int, text: str) -> None:
    """Tuples and ids are taken as JSON has them, also where a long value or a bad character needs the slow way."""
    run_id = uuid4()

    stored = storable({"rows": [(1, "a")] * count, "id": run_id, "text": text})  # type: ignore[type-var]

    cleaned = text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert stored == {"rows": [[1, "a"]] * count, "id": str(run_id), "text": cleaned}
