"""Redacts a text that comes in pieces, as if it had come whole.

A piece is only let go up to where nothing that follows can change its meaning: the last run of characters that may yet
become a key is held back, and where values are known, as many characters as may begin one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.redaction import patterns
from shared.redaction.escapes import levels
from shared.redaction.known import undecided_from
from shared.redaction.marks import Span

if TYPE_CHECKING:
    from shared.redaction.redactor import Redactor

LIMIT: Final = 16_384  # characters held back; a longer run without a break is parted all the same
KEPT: Final = 512  # characters on either side of such a part; longer than any key but a private one

_TAIL: Final = rf"(?:{patterns.OPEN_KEY}|(?:{patterns.LEAD})?{patterns.RUN}*)$"


class StreamRedactor:
    """One text on its way. What `feed` and the last `flush` answer makes up the redacted text."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._enough = 0  # characters to be held before they are looked through again

    def feed(self, piece: str) -> str:
        """Take the next piece; answer what can be shown by now, maybe nothing."""
        self._held += piece
        if len(self._held) < self._enough:
            return ""
        cut = self._safe_cut()
        if len(self._held) - cut > LIMIT:
            cut = self._forced_cut()
        ready, self._held = self._held[:cut], self._held[cut:]
        # Looked through for each piece, a text that never pauses, as models at fault write it, would cost its square.
        self._enough = len(self._held) + len(self._held) // 8
        return self._redactor.text(ready)

    def flush(self) -> str:
        """The rest, when no more comes."""
        rest, self._held = self._held, ""
        return self._redactor.text(rest)

    def _safe_cut(self) -> int:
        """Up to where the text can be redacted by itself: nothing to be hidden reaches across."""
        held = self._held
        if not self._redactor.knows_any:
            return _tail_of(held)
        known = self._redactor.known_spans(held)
        escapes = [span for level in levels(held) for span in level.escapes()]
        cut = _tail_of(held[: undecided_from(held)])
        while (across := _across(cut, known, escapes)) is not None:
            cut = _tail_of(held[:across])
        return cut

    def _forced_cut(self) -> int:
        """Part a run that is too long to be held: a secret that reaches across loses its middle, which nobody sees."""
        held = self._held
        cut = len(held) - KEPT
        across = next(((start, end) for start, end in self._redactor.spans(held) if start < cut <= end), None)
        if across is None:
            return cut
        start, end = across
        if end - start > 2 * KEPT:
            self._held = held[: start + KEPT] + held[end - KEPT :]
        return start


def _across(cut: int, known: list[Span], escapes: list[Span]) -> int | None:
    """Where something begins that may not be parted here; what is hidden on either side of a cut would be one mark."""
    inside = [start for start, end in known if start < cut <= end]
    inside += [start for start, end in escapes if start < cut < end]
    return min(inside, default=None)


def _tail_of(text: str) -> int:
    """Where the run begins that may become a key, if more of it follows."""
    tail = patterns.compiled(_TAIL).search(patterns.searchable(text))
    return len(text) if tail is None else tail.span()[0]
