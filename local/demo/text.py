"""Text that strangers wrote, a model above all, made safe to print: it moves no cursor and changes no colours."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """The text with tabs as spaces and every other control character but the line break shown as a dot."""
    return _CONTROL.sub("\u00b7", str(text).replace("\r\n", "\n").expandtabs(4))


def one_line(text: object) -> str:
    return " ".join(printable(text).split())
