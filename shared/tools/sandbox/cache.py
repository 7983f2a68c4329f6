"""Where compiled code is kept: a directory that nobody but this user (or root) can write to."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from shared.tools.sandbox.outcome import SandboxUnavailable


def cache_directory() -> Path:
    """Return the directory, made if need be.

    It is under RUNBASE_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache. A user without a writable home gets one of its
    own directly under the temporary directory, whose sticky bit keeps others from swapping it.

    Raises:
        SandboxUnavailable: it cannot be made, or others can write to it.
    """
    directory = _location()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot make the cache directory {str(directory)!r}; set RUNBASE_CACHE_DIR"
        ) from error
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise SandboxUnavailable(f"others can write to the cache directory {str(directory)!r}; make it mode 0700")
    return directory


@contextmanager
def exclusive(path: Path) -> Generator[None]:
    """Hold a lock that the system frees with the process, so a killed compile blocks nobody."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SandboxUnavailable(f"cannot write to the cache directory {str(path.parent)!r}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _location() -> Path:
    if chosen := os.environ.get("RUNBASE_CACHE_DIR"):
        return Path(chosen) / "sandbox"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache")  # noqa: PTH111 no raise
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(home, os.W_OK)
    except OSError:
        writable = False
    if writable:
        return home / "runbase" / "sandbox"
    return Path(tempfile.gettempdir()) / f"runbase-cache-{os.geteuid()}"
