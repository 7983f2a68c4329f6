"""Bounded reading of a child's output: what is kept is small, and too much of it stops the child."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.tools.sandbox.outcome import Limits

_CHUNK = 64 * 1024


@dataclass
class Capture:
    """The head of stdout and the tail of stderr; `stop` is called once when both together are too long."""

    limits: Limits
    stop: Callable[[], None]
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    total: int = 0
    truncated: bool = False
    exceeded: bool = False

    async def read(self, process: Process) -> None:
        """Read both streams until the child has closed them."""
        if process.stdout is None or process.stderr is None:
            raise ValueError("the process was started without pipes")
        await asyncio.gather(
            self._read(process.stdout, self.stdout, keep=slice(None, self.limits.stdout_kept_bytes)),
            self._read(process.stderr, self.stderr, keep=slice(-self.limits.stderr_kept_bytes, None)),
        )

    async def _read(self, stream: asyncio.StreamReader, kept: bytearray, *, keep: slice) -> None:
        while chunk := await stream.read(_CHUNK):
            self.total += len(chunk)
            whole = kept + chunk
            kept[:] = whole[keep]
            self.truncated |= len(kept) < len(whole)
            if self.total > self.limits.output_bytes and not self.exceeded:
                self.exceeded = self.truncated = True
                self.stop()
