"""Texts as they are searched: without what may stand between the characters of a secret, and without case.

Twice: `squeezed` leaves out whitespace and backslashes, by which programs break texts up; `bare` leaves out all that is
no letter and no digit, so that neither a key with dashes between its characters nor one in the pieces of a list looks
different. Neither leaves an invisible character.
"""

from __future__ import annotations

import re
from typing import Final

_INVISIBLE: Final = (
    "\u0085\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0"
)
_MARKS: Final = "\u00b7\u2010-\u2027\u2030-\u205e"  # dots and dashes outside of ASCII
SQUEEZED: Final = re.compile(rf"[\s\\{_INVISIBLE}]+")
"""What `squeezed` leaves out."""
BARE: Final = re.compile(rf"[\x00\x02-/:-@\[-`{{-\x7f\s{_INVISIBLE}{_MARKS}]+")
"""What `bare` leaves out; not the mark of a gap."""

# All whitespace outside of ASCII is invisible, as it is called here.
_FOREIGN_SQUEEZED: Final = re.compile(f"[{_INVISIBLE}]+")
_FOREIGN_BARE: Final = re.compile(f"[{_INVISIBLE}{_MARKS}]+")
_LOWER: Final = bytes(range(256)).lower()
_ALL_ASCII: Final = "".join(map(chr, range(128)))
_SQUEEZED_OUT: Final = "".join(SQUEEZED.findall(_ALL_ASCII)).encode()
_BARE_OUT: Final = "".join(BARE.findall(_ALL_ASCII)).encode()


def squeezed(text: str) -> str:
    """The text without whitespace, backslashes and case."""
    return _without(text, _SQUEEZED_OUT, _FOREIGN_SQUEEZED)


def bare(text: str) -> str:
    """The letters and digits of the text, without case."""
    return _without(text, _BARE_OUT, _FOREIGN_BARE)


def places(text: str, left_out: re.Pattern[str]) -> list[int]:
    """Where in the text each character of its searched form stands."""
    kept: list[int] = []
    at = 0
    for found in left_out.finditer(text):
        kept += range(at, found.start())
        at = found.end()
    kept += range(at, len(text))
    # Case folding makes two characters of a few.
    return kept if text.isascii() else [place for place in kept for _ in text[place].casefold()]


def _without(text: str, left_out: bytes, foreign: re.Pattern[str]) -> str:
    # Bytes are translated many times faster than characters, and no byte of another character is one of ASCII's.
    raw = text.encode(errors="surrogatepass").translate(_LOWER, left_out)
    if text.isascii():
        return raw.decode("ascii")
    return foreign.sub("", raw.decode(errors="surrogatepass")).casefold()
