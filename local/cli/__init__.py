"""The console command `runbase`. It holds no logic of its own: each command reads its options and calls what does it."""

from __future__ import annotations

from local.cli.entry import main

__all__ = ["main"]
