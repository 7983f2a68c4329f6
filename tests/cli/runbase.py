"""`runbase` in processes of its own, as people start it, with nothing of the tests' environment that changes it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from local.config import PROJECT_DIR

SECONDS = 60.0  # for anything that is waited for; a busy machine is slow


def environment(**more: str) -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNBASE_", "SUPABASE_", "GOTRUE_", "PYTEST")) and not name.endswith("_API_KEY")
    }
    return {**kept, "PYTHONPATH": str(PROJECT_DIR), "PYTHONUNBUFFERED": "1", **more}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "local.cli", *map(str, arguments)]


def runbase(*arguments: str | Path, cwd: Path = PROJECT_DIR, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(**env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS * 1.5,
    )


class Running:
    """A command that runs until it is told to stop. `out` and `err` are what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, holds: Callable[[], object]) -> None:
        """Poll until something is true; fails when the command ends before it."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.out}{self.err}"
            assert time.monotonic() < deadline, f"the awaited state did not come: {self.out}{self.err}"
            time.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        """The processes that it started, with theirs, but for PostgreSQL's, which live on when it is killed."""
        return [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if process.name() != "postgres"
        ]

    def values(self) -> dict[str, str]:
        """What it printed as NAME="value"."""
        return dict(line.replace('"', "").split("=", 1) for line in self.out.splitlines() if "=" in line)

    def signal(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def running(tmp_path: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run a command in the background; it is killed at the end if it still runs."""
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    with out.open("w") as out_file, err.open("w") as err_file:
        process = subprocess.Popen(
            command(*arguments), env=environment(**(env or {})), cwd=PROJECT_DIR,
            stdin=subprocess.DEVNULL, stdout=out_file, stderr=err_file,
        )  # fmt: skip
    try:
        yield Running(process, out, err)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def servers_over(folder: Path) -> list[psutil.Process]:
    """The processes whose command line names the folder: database servers, above all."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in process.info["cmdline"] or [])
    ]


def until_empty(folder: Path) -> None:
    """Poll until nothing is in the folder."""
    deadline = time.monotonic() + SECONDS
    while left := list(folder.iterdir()):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)
