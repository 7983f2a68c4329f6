"""What many timings of the same thing come to, and whether a figure is within its budget."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict


class Spread(TypedDict):
    """`count` figures, in the unit their table names."""

    count: int
    p50: float
    p95: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; between two values a percentile is interpolated."""
    percentiles = statistics.quantiles(values if len(values) > 1 else [*values, *values], n=20, method="inclusive")
    return {"count": len(values), "p50": statistics.median(values), "p95": percentiles[-1], "max": max(values)}


def cells(of: Spread) -> list[str]:
    """For a table: p50, p95 and the greatest."""
    return [f"{of['p50']:.2f}", f"{of['p95']:.2f}", f"{of['max']:.2f}"]


class Limit(NamedTuple):
    """A budget: `found` is at most `most` (at least, if `least`). None was not measured, and so is not kept."""

    what: str
    found: float | None
    most: float
    unit: str = ""
    least: bool = False

    @property
    def kept(self) -> bool:
        if self.found is None:
            return False
        return self.found >= self.most if self.least else self.found <= self.most

    def __str__(self) -> str:
        wanted = f"{self.what}: {'at least' if self.least else 'at most'} {self.most:g} {self.unit}".rstrip()
        return f"{wanted}, not measured" if self.found is None else f"{wanted}, found {self.found:.4g}"


def sentences(limits: Iterable[Limit]) -> list[str]:
    """One for each budget that is not kept."""
    return [str(limit) for limit in limits if not limit.kept]
