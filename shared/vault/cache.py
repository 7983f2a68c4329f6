"""Unwrapped data keys, kept for a while, so that a key service is not asked for every step.

A data key is kept for at most five minutes and a thousand uses, whichever comes first: by the clock that nobody sets,
by the one that goes on while the machine sleeps, and also in a process that does nothing. What is deleted or retired is
not opened all the same: the database is asked before each opening.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared.vault.binding import Binding
from shared.vault.keys import KeyProvider

MAX_SECONDS: Final = 300.0
MAX_USES: Final = 1000
MAX_KEYS: Final = 10_000  # a few megabytes

Clock = Callable[[], float]
_Place = tuple[int, bytes, Binding]


@dataclass(slots=True)
class _Kept:
    data_key: bytearray
    until: float
    since: float  # by the wall clock
    uses: int = 1

    def is_over(self, now: float, wall: float) -> bool:
        # Where somebody has set the wall clock back nobody knows how old a key is.
        return now >= self.until or not 0 <= wall - self.since < MAX_SECONDS

    def wipe(self) -> None:
        self.data_key[:] = bytes(len(self.data_key))


class CachedKeys:
    """A key provider that remembers what it unwrapped. Its length is the number of data keys that it holds."""

    def __init__(self, keys: KeyProvider, *, now: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self._keys = keys
        self._now = now
        self._wall = wall
        self._kept: OrderedDict[_Place, _Kept] = OrderedDict()  # oldest first
        self._lock = threading.Lock()  # of what is kept, for the timer has a thread of its own
        self._timer: threading.Timer | None = None

    def __len__(self) -> int:
        return len(self._kept)

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
        with self._lock:
            self._forget_old()
            kept = self._kept.get(place)
            if kept is not None and kept.uses < MAX_USES:
                kept.uses += 1
                return bytes(kept.data_key)
            self._forget(place)
        data_key = await self._keys.unwrap(wrapped, version, binding)
        with self._lock:
            self._forget(place)  # another step may have been faster
            self._kept[place] = _Kept(bytearray(data_key), self._now() + MAX_SECONDS, self._wall())
            if len(self._kept) > MAX_KEYS:
                self._forget(next(iter(self._kept)))
            self._set_timer()
        return data_key

    def _forget(self, place: _Place) -> None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            kept.wipe()

    def _forget_old(self) -> None:
        now, wall = self._now(), self._wall()
        while self._kept:
            place, oldest = next(iter(self._kept.items()))
            if not oldest.is_over(now, wall):
                return
            self._forget(place)

    def _set_timer(self) -> None:
        """Look again when the oldest is over. By a thread, for the event loop of a request ends with it."""
        if self._timer is not None or not self._kept:
            return
        oldest = next(iter(self._kept.values()))
        self._timer = threading.Timer(max(0.0, oldest.until - self._now()), _look_again, [weakref.ref(self)])
        self._timer.daemon = True
        self._timer.start()

    def on_timer(self) -> None:
        """Forget what is over; called by the timer."""
        with self._lock:
            self._timer = None
            self._forget_old()
            self._set_timer()


def _look_again(keys: weakref.ref[CachedKeys]) -> None:
    # Nobody else may hold it any more; its keys went with it then.
    cached = keys()
    if cached is not None:
        cached.on_timer()
