"""Finds the secrets that one run has opened, in every form, whole or in part.

No twelve characters in a row of any form are left standing. All forms are searched for at once, in one pass over the
text, whatever their number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, cast

import ahocorasick

from shared.redaction.forms import forms, parts
from shared.redaction.marks import Span, joined

WINDOW: Final = 12  # characters of a form that give it away
LONG: Final = 256  # characters; of a longer form every twelfth window is known, which finds any 23 characters of it

# What is looked past, in two ways: a backslash may be a character before a letter, or both may be one escape.
_GAPS: Final = (re.compile(r"[\s\\]+"), re.compile(r"(?:\s|\\+[nrtbf]?)+"))


class _Automaton(Protocol):
    def add_word(self, word: str, /) -> bool: ...
    def make_automaton(self) -> None: ...
    def iter(self, text: str, /) -> Iterator[tuple[int, int]]: ...


def _new_automaton() -> _Automaton:
    # It has no types of its own.
    return cast("_Automaton", ahocorasick.Automaton(ahocorasick.STORE_LENGTH))  # pyright: ignore[reportUnknownMemberType]


class KnownValues:
    """The secrets of one run. Empty until the first is added."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._words: set[str] = set()
        self._automaton: _Automaton | None = None

    def __bool__(self) -> bool:
        return self._automaton is not None

    def add(self, values: Iterable[str]) -> None:
        """Know these values too, and the secrets within them. Takes about a millisecond for a value that is new."""
        new = set[str]().union(*map(parts, values)) - self._secrets
        if not new:
            return
        self._secrets |= new
        for secret in new:
            for form in forms(secret):
                for gap in _GAPS:
                    self._words |= _windows(gap.sub("", form).casefold())
        automaton = _new_automaton()
        for word in self._words:
            automaton.add_word(word)
        automaton.make_automaton()
        self._automaton = automaton

    def found_in(self, text: str) -> bool:
        """Whether there is anything to hide in the text."""
        return self._automaton is not None and any(
            next(self._automaton.iter(squeezed), None) is not None for squeezed, _ in _squeezed(text)
        )

    def spans(self, text: str) -> list[Span]:
        """Where in the text something stands that is to be hidden."""
        if self._automaton is None:
            return []
        spans: list[Span] = []
        for squeezed, gap in _squeezed(text):
            hits = joined((end + 1 - length, end + 1) for end, length in self._automaton.iter(squeezed))
            if hits:
                place = _places(text, gap)
                spans += [(place[start], place[end - 1] + 1) for start, end in hits]
        return joined(spans)


def undecided_from(text: str) -> int:
    """From where on characters may still become part of a window, once more text follows."""
    at = len(text)
    needed = WINDOW - 1
    while needed > 0 and at > 0:
        at -= 1
        escapes = at > 0 and text[at - 1] == "\\" and text[at] in "nrtbf"
        needed -= not (text[at].isspace() or text[at] == "\\" or escapes)
    return at


def _windows(form: str) -> set[str]:
    last = len(form) - WINDOW
    if last <= 0:
        return {form} if form else set()
    starts = range(last + 1) if len(form) <= LONG else (*range(0, last, WINDOW), last)
    return {form[start : start + WINDOW] for start in starts}


def _squeezed(text: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """The text as it is searched, and what was left out of it."""
    if "\\" in text:
        for gap in _GAPS:
            yield gap.sub("", text).casefold(), gap
    else:
        yield "".join(text.split()).casefold(), _GAPS[0]  # the same, and faster


def _places(text: str, gap: re.Pattern[str]) -> list[int]:
    """Where in the text each character of its squeezed form stands."""
    places: list[int] = []
    at = 0
    for found in gap.finditer(text):
        places += range(at, found.start())
        at = found.end()
    places += range(at, len(text))
    # Case folding makes two characters of a few.
    return places if text.isascii() else [place for place in places for _ in text[place].casefold()]
