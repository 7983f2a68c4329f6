"""What figures depend on besides our code, and that the server measured is a durable one."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import psycopg


def machine(server_url: str) -> dict[str, str]:
    """The machine, what else it does, and what runs on it.

    Raises:
        RuntimeError: the server only pretends to be durable, and is not measured.
    """
    with psycopg.connect(server_url) as connection:
        row = connection.execute(
            "select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        ).fetchone()
    assert row is not None
    if row[1:] != ("on", "on"):
        raise RuntimeError(f"the server is not durable: fsync {row[1]}, synchronous_commit {row[2]}")
    return {
        "PostgreSQL": row[0],
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "CPU": _processor(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def described(about: Mapping[str, str]) -> str:
    """On one line."""
    return ", ".join(f"{name} {value}" for name, value in about.items() if value)


def _processor() -> str:
    """Its name as Linux tells it; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
