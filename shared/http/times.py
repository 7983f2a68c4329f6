"""Times that a request names: with a zone, and of the years that a database in UTC can hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime
from pydantic_core import PydanticCustomError


def _in_utc(time: datetime) -> datetime:
    """PostgreSQL takes offsets below 16 hours, Python below 24: so it is sent none."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time_range", "must be a time of the years 1 to 9999 in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
