"""Named points at which a test may kill the process, right before or after the moments that matter.

A no-op unless RUNBASE_CRASH_POINT names the point when the process starts; then the process kills itself there as a
power cut would. RUNBASE_CRASH_SKIP lets the first n passes go by.
"""

from __future__ import annotations

import os
import signal
from typing import Final, Literal

CrashPoint = Literal[
    "before_claim",
    "after_claim",
    "before_perform",
    "after_perform",
    "before_model_call",  # each try of one: what leaves the process
    "after_model_call",
    "before_tool_call",
    "after_tool_call",
    "before_advance",
    "after_advance",
    "before_finish",
    "after_finish",
]

_ARMED: Final = os.environ.get("RUNBASE_CRASH_POINT")
_left = [int(os.environ.get("RUNBASE_CRASH_SKIP", "0"))]


def crash_point(name: CrashPoint) -> None:
    """Die here by SIGKILL if this point is armed."""
    if name != _ARMED:
        return
    if _left[0] > 0:
        _left[0] -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
