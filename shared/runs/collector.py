"""The garbage collector of a process that does nothing but perform runs."""

from __future__ import annotations

import gc
from typing import Final

NEW_OBJECTS: Final = 20_000  # between two collections; Python's own 700 are a few steps of a few runs


def collect_rarely() -> None:
    """Leave what the imports made out of every collection, and collect once in many steps instead of in each few.

    A worker's objects go by their reference counts; the collector only finds what refers to itself in a circle. With
    Python's defaults it takes a tenth of a busy worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 50)
