"""The console command `runbase`. Each command reads its options and calls what does the work."""

from __future__ import annotations

from local.cli.entry import main

__all__ = ["main"]
