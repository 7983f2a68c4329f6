"""A directory that goes with its stack, however the stack ends: one that is killed takes its database server along.

A shell waits at a pipe that only the stack holds open. A line in it says that all is cleared; its end without one says
that the stack was killed, and this module, as a program, clears up after it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from local.config import PROJECT_DIR
from local.postgres import PostgresServer

STOP_SECONDS = 10

_PREFIX = "runbase-"
_WAIT = 'read -r _ || exec "$@"'


@contextmanager
def ephemeral_directory() -> Generator[Path]:
    """An empty directory for a stack; when the block ends, the stack must have ended too."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    watch = subprocess.Popen(
        ["sh", "-c", _WAIT, "sh", sys.executable, "-m", "local.ephemeral", str(folder)],
        cwd=PROJECT_DIR, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to the stack's whole group is not for it
    )  # fmt: skip
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        watch.communicate(b"\n")


def clear(folder: Path) -> None:
    """Stop the server of a killed stack, and what was still making it, and delete its directory."""
    PostgresServer(folder).stop(immediate=True)
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # gone meanwhile, or another user's
            if process.pid != os.getpid() and any(str(folder) in part for part in process.cmdline()):
                process.kill()
                process.wait(STOP_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    clear(Path(sys.argv[1]))
