"""The note a running stack leaves in its data directory: who it is and where it listens.

A note whose process is gone counts for nothing, so a killed stack needs no cleaning up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from local.config import StackConfig

_FILE = "stack.json"


@dataclass(frozen=True, slots=True)
class StackState:
    """A running stack. `process_started` tells it from a later process with the same id."""

    pid: int
    process_started: float
    host: str
    port: int
    db_port: int

    @classmethod
    def of(cls, config: StackConfig) -> StackState:
        """The stack that this process runs."""
        return cls(os.getpid(), psutil.Process().create_time(), config.host, config.port, config.db_port)

    @classmethod
    def read(cls, data_dir: Path) -> StackState | None:
        """The stack that runs over the directory, or None."""
        try:
            state = cls(**json.loads((data_dir / _FILE).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return state if state.process() is not None else None

    def process(self) -> psutil.Process | None:
        """The process, if it is still the same one."""
        try:
            process = psutil.Process(self.pid)
            same = process.create_time() == self.process_started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None

    @contextmanager
    def recorded(self, data_dir: Path) -> Generator[None]:
        """Keep the note in the directory while the block runs."""
        path = data_dir / _FILE
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(asdict(self)))
        aside.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
