"""What Supabase's platform provides in the database before a project's first migration.

The SQL files beside this module, applied in the order of their numbers in one transaction. Every statement may be
repeated: a stack applies them at each start, so that an older data directory gets what a newer version adds.
"""

from __future__ import annotations

from pathlib import Path

from psycopg import AsyncConnection

__all__ = ["PLATFORM_FILES", "apply_platform"]

PLATFORM_FILES = sorted(Path(__file__).parent.glob("*.sql"))


async def apply_platform(dsn: str) -> None:
    """Apply the platform to the database of a superuser's `dsn`."""
    async with await AsyncConnection.connect(dsn) as connection:
        # The "already exists, skipping" of a second start is no news to anybody.
        await connection.execute("set local client_min_messages = warning")
        for file in PLATFORM_FILES:
            await connection.execute(file.read_bytes())
