"""Cursors: where the next page of a list begins, as a text that only its own list understands.

A cursor grants nothing, because row-level security applies to the page it begins: so it is checked, not signed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast
from uuid import UUID

import orjson

from shared.errors import InvalidInput

MAX_INTEGER: Final = 2**31 - 1
MAX_BIGINT: Final = 2**63 - 1


def encode(of: str, position: Sequence[str | int]) -> str:
    """A cursor of the list `of` that continues behind `position`."""
    return base64.urlsafe_b64encode(orjson.dumps([of, *position])).rstrip(b"=").decode()


def decode(
    cursor: str, *, of: str, shape: tuple[type[str | int], ...], max_number: int = MAX_BIGINT
) -> list[str | int]:
    """The position that a cursor of the list `of` holds; its numbers are 0 to `max_number`.

    Raises:
        InvalidInput: it is no cursor, or one of another list.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        parts: object = orjson.loads(raw)
    except ValueError:  # no base64, no JSON
        parts = None
    if isinstance(parts, list):
        name, *position = cast("list[str | int]", parts) or [""]
        numbers = [part for part in position if isinstance(part, int)]
        if (
            name == of
            and tuple(type(part) for part in position) == shape
            and all(0 <= number <= max_number for number in numbers)
        ):
            return position
    raise foreign()


def behind(cursor: str, *, of: str) -> tuple[str, str]:
    """The place (created_at, id) that a cursor of a list in the order of creation holds.

    Raises:
        InvalidInput: as `decode`, also for what is no time or no id.
    """
    created_at, item_id = decode(cursor, of=of, shape=(str, str))
    try:
        given, last = datetime.fromisoformat(str(created_at)), UUID(str(item_id))
        if given.tzinfo is None:
            raise foreign()
        time = given.astimezone(UTC)  # Postgres does not know every offset that Python reads
    except (ValueError, OverflowError):
        raise foreign() from None
    return time.isoformat(), str(last)


def foreign() -> InvalidInput:
    """The refusal of a cursor that its list did not give out."""
    return InvalidInput("cursor: is not one that this list gave out")
