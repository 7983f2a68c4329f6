"""Moments as GoTrue writes them, RFC 3339 with `Z`; what never was is left out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def times(row: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The named columns that have a value, of a row or of one that came as JSON."""
    return {name: rfc3339(_moment(row[name])) for name in names if row[name] is not None}


def _moment(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value
