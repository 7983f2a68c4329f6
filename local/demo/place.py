"""Where the demo's stack lives: an empty database each time, on free ports, so that it is in nobody's way."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from local import stack as background
from local.config import StackConfig


@contextmanager
def demo_stack() -> Generator[StackConfig]:
    """A stack for this demo alone; its data goes when the block ends.

    It has a fixed place, so that a demo finds and stops the database server of one that was killed. A second demo at
    the same time gets a temporary place.
    """
    folder = StackConfig().data_dir
    folder.mkdir(parents=True, exist_ok=True)
    home, lock = folder / "demo", FileLock(folder / "demo.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield StackConfig(port=0, db_port=0, ephemeral=True)
        return
    config = StackConfig(port=0, db_port=0, data_dir=home)
    try:
        background.stop(config)
        shutil.rmtree(home, ignore_errors=True)
        yield config
    finally:
        shutil.rmtree(home, ignore_errors=True)
        lock.release()
