"""Which of the known names a client may have meant: PostgREST's own measure, since its hints are part of its answers.

Names are candidates if they have a group of three letters in common, else of two; of those the nearest by edits is
taken, if it is near enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_IGNORED = re.compile(r"[^a-zA-Z0-9\u00c0-\u00ff, ]+")
_CLOSE = 0.33  # of 1, which is the same
_GROUPS = (3, 2)


def similar(name: str, known: Iterable[str], *, at_least: float = _CLOSE) -> str | None:
    """The one of `known` that is most like `name`."""
    names = sorted(set(known))
    wanted = name.lower()
    exact = next((one for one in names if one.lower() == wanted), None)
    if exact is not None:
        return exact
    for size in _GROUPS:
        own = _groups(wanted, size)
        near = [(_likeness(wanted, one.lower()), one) for one in names if own & _groups(one.lower(), size)]
        best = max(near, key=lambda found: found[0], default=(0.0, ""))
        if best[0] >= at_least:
            return best[1]
    return None


def _groups(name: str, size: int) -> frozenset[str]:
    padded = f"-{_IGNORED.sub('', name)}-".ljust(size, "-")
    return frozenset(padded[at : at + size] for at in range(len(padded) - size + 1))


@lru_cache(4096)
def _likeness(one: str, other: str) -> float:
    """1 less the share of letters that one would have to edit."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], at
        for place, own in enumerate(other, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (letter != own))
    return 1 - row[-1] / max(len(one), len(other), 1)
