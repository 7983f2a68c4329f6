"""Finds the secrets that one run has opened, in every form, whole or in part.

No twelve characters in a row of a secret are left standing, nor of what encodes it as closely. All forms are searched
for at once, in one pass over the letters and digits of the text, whatever their number. Where the marks between them
matter too, for a password of few letters, the text is gone through again, and only if its letters have been found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, cast

import ahocorasick

from shared.redaction.escapes import Level, levels
from shared.redaction.folding import BARE, SQUEEZED, bare, places, squeezed
from shared.redaction.forms import forms, parts
from shared.redaction.marks import Span, joined

WINDOW: Final = 12  # characters of a form that give it away
LONG: Final = 256  # characters; of a longer form not every window is known
SPARSE: Final = 11  # so that windows overlap, and any 22 characters hold one

_HINT: Final = 5  # letters and digits that are rare enough to look closer where they stand


class _Automaton(Protocol):
    def add_word(self, word: str, value: int, /) -> bool: ...
    def make_automaton(self) -> None: ...
    def iter(self, text: str, /) -> Iterator[tuple[int, int]]: ...


def _automaton_of(words: Iterable[str], *, hints: Iterable[str] = ()) -> _Automaton:
    """Finds words, each with its length; hints with 0."""
    # It has no types of its own.
    automaton = cast("_Automaton", ahocorasick.Automaton(ahocorasick.STORE_INTS))  # pyright: ignore[reportUnknownMemberType]
    for hint in hints:
        automaton.add_word(hint, 0)
    for word in words:
        automaton.add_word(word, len(word))
    automaton.make_automaton()
    return automaton


class KnownValues:
    """The secrets of one run. Empty until the first is added."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._letters: set[str] = set()  # give a secret away, whatever stands between them
        self._exact: set[str] = set()  # give one away only with the marks that stand between its letters
        self._searches: tuple[_Automaton, _Automaton | None] | None = None
        self._always = False  # to look for what is exact: some of it has no hint

    def __bool__(self) -> bool:
        return self._searches is not None

    def add(self, values: Iterable[str]) -> None:
        """Know these values too, and the secrets within them. Takes some milliseconds for a value that is new."""
        new = set[str]().union(*map(parts, values)) - self._secrets
        if not new:
            return
        self._secrets |= new
        for secret in new:
            self._add(secret)
        hints = {bare(word) for word in self._exact}
        self._always = any(len(hint) < _HINT for hint in hints)
        letters = _automaton_of(self._letters, hints=[hint for hint in hints if len(hint) >= _HINT])
        self._searches = letters, _automaton_of(self._exact) if self._exact else None

    def _add(self, secret: str) -> None:
        known = forms(secret)
        for form in known.close:
            every = 1 if len(form) <= LONG else SPARSE
            # It is sought in texts whose escapes are undone; so are those that it seems to hold itself.
            for level in levels(form):
                for window in _windows(squeezed(level.text), every=every):
                    letters = bare(window)
                    (self._letters if len(letters) == len(window) == WINDOW else self._exact).add(window)
                letters = bare(level.text)
                if len(letters) >= WINDOW:
                    self._letters |= _windows(letters, every=every)
        for form in known.wide:
            letters = bare(form)
            if len(letters) >= WINDOW:
                self._letters |= _windows(letters, every=SPARSE)

    def found_in(self, text: str) -> bool:
        """Whether there is anything to hide in the text."""
        return any(next(self._found(level), None) is not None for level in levels(text))

    def spans(self, text: str) -> list[Span]:
        """Where in the text something stands that is to be hidden."""
        if self._searches is None:
            return []
        return joined(span for level in levels(text) for span in self._found(level))

    def _found(self, level: Level) -> Iterator[Span]:
        if self._searches is None:
            return
        letters, exact = self._searches
        hits: list[Span] = []
        hinted = self._always
        for end, length in letters.iter(bare(level.text)):
            if length:
                hits.append((end + 1 - length, end + 1))
            else:
                hinted = True
        if hits:
            place = places(level.text, BARE)
            yield from (level.original(place[start], place[end - 1] + 1) for start, end in hits)
        if hinted and exact is not None:
            hits = [(end + 1 - length, end + 1) for end, length in exact.iter(squeezed(level.text))]
            if hits:
                place = places(level.text, SQUEEZED)
                yield from (level.original(place[start], place[end - 1] + 1) for start, end in hits)


def undecided_from(text: str) -> int:
    """From where on characters may still become part of a window, once more text follows."""
    found = list(levels(text))
    at = len(text)
    for level in found:
        at = level.first_open(at)
    return min(_before_a_window(level, at) for level in found)


def _before_a_window(level: Level, until: int) -> int:
    """Where in the original text the last letters before `until` begin that are one too few for a window."""
    needed = WINDOW - 1
    for index in range(len(level.text) - 1, -1, -1):
        start, end = level.original(index, index + 1)
        if end <= until and BARE.match(level.text[index]) is None:
            needed -= 1
            if needed == 0:
                return start
    return 0


def _windows(form: str, *, every: int) -> set[str]:
    last = len(form) - WINDOW
    if last <= 0:
        return {form} if form else set()
    return {form[start : start + WINDOW] for start in (*range(0, last, every), last)}
