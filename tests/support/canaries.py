"""Keys that are not real and can be found again: wherever a test's key may have leaked, its bytes are looked for.

Every key that a test gives to Runbase holds one mark. The mark is searched in raw bytes, in each form in which a key
could have been written down; a key is found even if only the part around the mark is left.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

MARK = "CanaryBird7QzX"  # looks like no word, so that only a leak brings it into a file


def canary(prefix: str = "sk-") -> str:
    """A key that no provider would take, unlike any other."""
    return f"{prefix}{MARK}{uuid4().hex}"


def forms(mark: str = MARK) -> dict[str, bytes]:
    """What the mark looks like in a file, by the name of the form."""
    raw = mark.encode()
    found = {"plain": raw, "reversed": raw[::-1], "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    for shift in range(3):
        # The characters that depend on the neighbours are left out: shift bytes before, an unknown number after.
        text = base64.b64encode(b"\0" * shift + raw)
        start = -(-shift * 8 // 6)
        end = (shift + len(raw)) * 8 // 6
        found[f"base64+{shift}"] = text[start:end]
    found["utf-16"] = mark.encode("utf-16-le")
    return found


def keeping_leaks() -> str:
    """An archive_command: a segment of the log of changes that holds a mark stays, where `leaks_below` finds it."""
    printable = [form.decode() for form in forms().values() if b"\0" not in form]
    # The brackets keep the server's settings, which are searched as well, free of the mark itself.
    searched = " ".join(f"-e '[{form[0]}]{form[1:]}'" for form in printable)
    return f"if LC_ALL=C grep -qa {searched} %p; then cp %p leaked_%f; fi"


_PATTERN = re.compile(b"|".join(re.escape(form) for form in forms().values()))
_CHUNK = 16 * 1024 * 1024
_OVERLAP = max(len(form) for form in forms().values())


def leaks_in(text: str | bytes) -> list[str]:
    """What is around each mark in the text, for the message of an assertion."""
    data = text.encode() if isinstance(text, str) else text
    return [data[max(0, hit.start() - 60) : hit.end() + 20].decode(errors="replace") for hit in _PATTERN.finditer(data)]


def leaks_below(*roots: Path) -> Iterator[str]:
    """Every file below the folders that holds a mark, with what is around its first."""
    for path in _files(roots):
        try:
            if (hit := _first(path)) is not None:
                yield f"{path}: {hit}"
        except FileNotFoundError:
            continue  # a server's files come and go


def _files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        for folder, _, names in os.walk(root):
            yield from (Path(folder) / name for name in names)


def _first(path: Path) -> str | None:
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if found := leaks_in(before + chunk):
                return found[0]
            before = chunk[-_OVERLAP:]
    return None
