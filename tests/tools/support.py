"""Waiting and looking at processes, for the tests of the tools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import psutil

from shared.tools.sandbox import Limits
from shared.tools.sandbox.runtime import CHILD
from shared.tools.tool import ToolContext

# Time enough for a busy machine; what is to run out of time has a limit of its own.
QUICK = Limits(seconds=20.0, memory_bytes=64 * 1024 * 1024)
RUN_ID = UUID("00000000-0000-4000-8000-000000000001")


def context(files: Mapping[str, str] | None = None) -> ToolContext:
    return ToolContext(run_id=RUN_ID, step_no=1, effect_key=RUN_ID, account_id=RUN_ID, files=files or {})


async def until(holds: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Poll until `holds` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the awaited state did not come"
        await asyncio.sleep(0.02)


def sandbox_children(of: int | None = None) -> list[psutil.Process]:
    """The living sandbox processes below the process `of`, by default this one."""
    children = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if str(CHILD) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                children.append(process)
        except psutil.NoSuchProcess:
            continue
    return children


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
