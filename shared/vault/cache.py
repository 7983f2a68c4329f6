"""Unwrapped data keys, kept for a while, so that a key service is not asked for every step.

A data key is kept for at most five minutes and a thousand uses, whichever comes first. What is deleted or retired is
not opened all the same: the database is asked before each opening.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared.vault.binding import Binding
from shared.vault.keys import KeyProvider

MAX_SECONDS: Final = 300.0
MAX_USES: Final = 1000
MAX_KEYS: Final = 10_000  # a few megabytes

_Place = tuple[int, bytes, Binding]


@dataclass(slots=True)
class _Kept:
    data_key: bytes
    until: float
    uses: int = 1


class CachedKeys:
    """A key provider that remembers what it unwrapped."""

    def __init__(self, keys: KeyProvider, *, now: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._now = now
        self._kept: OrderedDict[_Place, _Kept] = OrderedDict()  # oldest first

    @property
    def current_version(self) -> int:
        return self._keys.current_version

    @property
    def versions(self) -> frozenset[int]:
        return self._keys.versions

    async def wrap(self, data_key: bytes, version: int, binding: Binding) -> bytes:
        return await self._keys.wrap(data_key, version, binding)

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        place = (version, wrapped, binding)
        self._forget_old()
        kept = self._kept.get(place)
        if kept is not None and kept.uses < MAX_USES:
            kept.uses += 1
            return kept.data_key
        self._kept.pop(place, None)
        data_key = await self._keys.unwrap(wrapped, version, binding)
        self._kept[place] = _Kept(data_key, self._now() + MAX_SECONDS)
        self._kept.move_to_end(place)
        if len(self._kept) > MAX_KEYS:
            self._kept.popitem(last=False)
        return data_key

    def _forget_old(self) -> None:
        now = self._now()
        while self._kept:
            place, oldest = next(iter(self._kept.items()))
            if oldest.until > now:
                return
            del self._kept[place]
