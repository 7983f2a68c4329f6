r"""Undoes what programs write in the place of single characters: `%41`, `\u0041`, `&#65;`, `=41`, and the like.

A text has levels: itself, its escapes undone, those that came out of that undone again. A secret may stand in any of
them. Every escape becomes one character and knows where it stood, so what is found in a level is hidden in the text.
An escape is matched without a look at what surrounds it: parted anywhere but within one, a text has the same levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from html.entities import html5
from typing import Final

from shared.redaction.marks import Span

LEVELS: Final = 3  # times that escapes are undone: `%252541` is a letter yet
LONGEST: Final = 24  # characters of one escape, and a few more
NEAR: Final = 64  # characters on either side of an escape that are worth a look; the rest is as it was above
GAP: Final = "\x01"  # between what follows an escape and what leads to the next

_NAMED: Final = {
    name[:-1]: text for name, text in html5.items() if name[-1] == ";" and text < "\x80" and len(text) == 1
}
_HEX: Final = "[0-9A-Fa-f]"
_ESCAPE: Final = re.compile(
    rf"(%(?:{_HEX}{{2}}|u{_HEX}{{4}})"
    rf"|\\(?:[nrtbf]|u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}|[ux]\{{{_HEX}{{1,6}}\}}|0?[0-3][0-7]{{2}})"
    rf"|&(?:#[0-9]{{1,7}};?|#[xX]{_HEX}{{1,6}};?|(?:{'|'.join(_NAMED)});)"
    rf"|=(?:2[1-9A-Fa-f]|[3-9A-Fa-f]{_HEX}))"
)
_BEGIN: Final = re.compile(r"[\\%&=]")
_JSON_ESCAPE: Final = re.compile(r"(\\(?:u[0-9a-f]{4}|.))")
_BREAKS: Final = dict(zip("nrtbf", "\n\r\t\b\f", strict=True))


class Level:
    """A text, or what undoing its escapes has made of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._above: Level | None = None
        self._pieces: list[str] = []  # of the level above: plain, escape, plain, ...
        self._spans: tuple[list[int], list[int]] | None = None

    def deeper(self) -> Level | None:
        """The level below; None when there is nothing to undo."""
        pieces = _ESCAPE.split(self.text)
        if len(pieces) == 1:
            return None
        characters = [one if len(one) <= NEAR else one[:NEAR] + GAP + one[-NEAR:] for one in pieces]
        characters[1::2] = map(_character, pieces[1::2])
        level = Level("".join(characters))
        level._above, level._pieces = self, pieces
        return level

    def original(self, start: int, end: int) -> Span:
        """Where in the original text this part of the level stands."""
        if self._above is None or start >= end:
            return start, end
        if self._spans is None:
            self._spans = self._places()
        starts, ends = self._spans
        return self._above.original(starts[start], ends[end - 1])

    def escapes(self) -> Iterator[Span]:
        """Where in the original text the escapes of this level stand."""
        return (self.original(*found.span()) for found in _ESCAPE.finditer(self.text))

    def first_open(self, until: int) -> int:
        """Up to where in the original text the escapes before `until` stay what they are, whatever follows it."""
        end = len(self.text)
        while end > 0 and self.original(end - 1, end)[1] > until:
            end -= 1
        found = _BEGIN.search(self.text, max(0, end - LONGEST), end)
        return until if found is None else min(until, self.original(found.start(), found.end())[0])

    def _places(self) -> tuple[list[int], list[int]]:
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for number, piece in enumerate(self._pieces):
            end = at + len(piece)
            if number % 2:
                parts = [(at, end)]
            elif len(piece) <= NEAR:
                parts = [(start, start + 1) for start in range(at, end)]
            else:
                near = [(start, start + 1) for start in (*range(at, at + NEAR), *range(end - NEAR, end))]
                # The two may overlap; nothing that is found reaches across the gap.
                gap = sorted((at + NEAR, end - NEAR))
                parts = [*near[:NEAR], (gap[0], gap[1]), *near[NEAR:]]
            starts += [start for start, _ in parts]
            ends += [until for _, until in parts]
            at = end
        return starts, ends


def levels(text: str) -> Iterator[Level]:
    """The text as it is, then with its escapes undone, as long as there are any."""
    level: Level | None = Level(text)
    for _ in range(LEVELS + 1):
        if level is None:
            return
        yield level
        level = level.deeper()


def without_json_escapes(document: str) -> str:
    """A document of JSON with each text in it as it reads."""
    if "\\" not in document:
        return document
    pieces = _JSON_ESCAPE.split(document)
    pieces[1::2] = map(_json_character, pieces[1::2])
    return "".join(pieces)


@lru_cache(maxsize=4096)
def _character(escape: str) -> str:
    """What the escape stands for. A byte becomes the character of its number: what is sought is known so, too."""
    if escape[0] == "&":
        name = escape[1:].removesuffix(";")
        if name[0] != "#":
            return _NAMED[name]
        return _of_number(name[2:], 16) if name[1] in "xX" else _of_number(name[1:], 10)
    if escape[0] == "\\" and escape[1] in _BREAKS:
        return _BREAKS[escape[1]]
    if escape[0] == "\\" and escape[1].isdigit():
        return chr(int(escape[1:], 8))
    return _of_number(escape.lstrip("%=\\uUx").strip("{}"), 16)


def _of_number(digits: str, base: int) -> str:
    number = int(digits, base)
    return chr(number) if number <= 0x10FFFF else "\ufffd"


def _json_character(escape: str) -> str:
    if escape[1] == "u":
        return _of_number(escape[2:], 16)
    return _BREAKS.get(escape[1], escape[1])
