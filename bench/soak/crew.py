"""The processes that the soak starts. None outlives it: workers end when their standard input closes, too."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from local.config import PROJECT_DIR

WATCH_SECONDS = 0.2
STOP_SECONDS = 20.0
# Our events are dotted names. What a library warns of (a lost connection) is not counted, but its errors are.
_LOG_LINE = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) (?:(\w+\.\w+)(?= |$)|(?<!WARNING )(.{1,80}))")


class Crew:
    """`count` processes of one kind, each replaced as soon as it is killed or ends."""

    def __init__(self, module: str, arguments: Sequence[str], *, count: int, log: Path) -> None:
        self.killed = 0
        self.frozen = 0
        self.ended_alone: list[int] = []
        """Exit codes of processes that nobody had asked to end."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._log_path = log
        self._log: IO[bytes] = log.open("ab")
        self._processes: list[Process | None] = [None] * count
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        for slot in range(len(self._processes)):
            self._processes[slot] = await self._spawn()

    async def watch(self) -> None:
        """Replace what ends by itself, until cancelled."""
        while True:
            async with self._changing:
                for slot, process in enumerate(self._processes):
                    if process is not None and process.returncode is not None:
                        self.ended_alone.append(process.returncode)
                        self._processes[slot] = await self._spawn()
            await asyncio.sleep(WATCH_SECONDS)

    async def kill_one(self, chance: random.Random) -> None:
        """SIGKILL one of them at random and start another in its place."""
        slot = chance.randrange(len(self._processes))
        async with self._changing:
            process = self._processes[slot]
            if process is None:
                return  # all are stopped
            await _killed(process)
            self.killed += 1
            self._processes[slot] = await self._spawn()

    async def freeze_one(self, chance: random.Random, *, seconds: float) -> None:
        """Stop one of them at random in its tracks (SIGSTOP) for a while; it may be killed meanwhile."""
        process = self._processes[chance.randrange(len(self._processes))]
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGSTOP)
        self.frozen += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)

    async def stop(self) -> list[int]:
        """End all in order, by force what does not; their exit codes."""
        async with self._changing:
            processes = [process for process in self._processes if process is not None]
            self._processes = [None] * len(self._processes)
        for process in processes:
            if process.returncode is None:
                process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(process.wait() for process in processes))
        except TimeoutError:
            pass  # the exit code says so
        finally:
            for process in processes:
                await _killed(process)
            self._log.close()
        return [process.returncode or 0 for process in processes]

    def said(self) -> Counter[tuple[str, str]]:
        """How often each (level, event) stands in the log of all of them."""
        with self._log_path.open(errors="replace") as lines:
            found = [match.groups() for match in map(_LOG_LINE.match, lines) if match]
        return Counter((level, event or text) for level, event, text in found)

    async def _spawn(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._command, cwd=PROJECT_DIR, stdin=PIPE, stdout=DEVNULL, stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the soak, which ends them in order
        )  # fmt: skip


async def _killed(process: Process) -> None:
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            return  # ended this very moment
    await process.wait()
