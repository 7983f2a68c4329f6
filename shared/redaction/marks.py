"""What stands in the place of a secret, and how it gets there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

MARK: Final = "[redacted]"

Span: TypeAlias = tuple[int, int]
"""Where something to be hidden begins and where it has ended, in characters."""


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap or touch as one."""
    ordered: list[Span] = []
    for start, end in sorted(spans):
        if ordered and start <= ordered[-1][1]:
            ordered[-1] = (ordered[-1][0], max(end, ordered[-1][1]))
        else:
            ordered.append((start, end))
    return ordered


def masked(text: str, spans: Iterable[Span]) -> str:
    """The text with a mark in the place of each span. The spans are in order and apart."""
    pieces: list[str] = []
    at = 0
    for start, end in spans:
        pieces += (text[at:start], MARK)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)
