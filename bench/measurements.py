"""The measurements by name, in the order in which `all` makes them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import claim, distance, growth, latency, memory, starts, storage, subscribers, throughput, vault
from bench.server import served

DEFAULT = "throughput"
MEASUREMENTS: Mapping[str, ModuleType] = {
    DEFAULT: throughput,
    "latency": latency,
    "claim": claim,
    "storage": storage,
    "distance": distance,
    "memory": memory,
    "growth": growth,
    "realtime": subscribers,
    "vault": vault,
    "start": starts,
}


def figures_of(name: str, options: argparse.Namespace) -> Any:
    """Make one measurement on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="runbase-bench-") as directory, served(Path(directory)) as server_url:
        return MEASUREMENTS[name].measure(server_url, options)
