"""Where the demo's stack lives: an empty database each time, on the usual ports if they are free."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from filelock import FileLock, Timeout

from local import stack as background
from local.config import StackConfig


@contextmanager
def demo_stack() -> Generator[StackConfig]:
    """A stack for this demo alone; its data goes when the block ends.

    It has a fixed place, so that a demo finds and stops the database server of one that was killed. A second demo at
    the same time gets a temporary place.
    """
    usual = StackConfig()
    home = usual.data_dir / "demo"
    usual.data_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(usual.data_dir / "demo.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield replace(usual, port=0, db_port=0, ephemeral=True)
        return
    port, db_port = _free_or_any(usual.port), _free_or_any(usual.db_port)
    config = replace(usual, port=port, db_port=db_port, data_dir=home)
    try:
        background.stop(config)
        shutil.rmtree(home, ignore_errors=True)
        yield config
    finally:
        shutil.rmtree(home, ignore_errors=True)
        lock.release()


def _free_or_any(port: int) -> int:
    """The port if nobody listens there, else 0, which takes a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
