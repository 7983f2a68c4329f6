"""Run Python that nobody has read: CPython compiled to WebAssembly, in one killable child process per call.

The guest has no network, no processes, no environment and no files but those handed to it. Time, memory, output
and disk are bounded, and no child outlives its call, its cancellation or the process that started it.
"""

from __future__ import annotations

from shared.tools.sandbox.outcome import Exit, Limits, Outcome, SandboxUnavailable
from shared.tools.sandbox.run import run_python
from shared.tools.sandbox.runtime import warm

__all__ = ["Exit", "Limits", "Outcome", "SandboxUnavailable", "run_python", "warm"]
