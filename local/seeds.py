"""The project's seeds: which files they are, and loading each once.

As the Supabase CLI has it: `[db.seed]` in supabase/config.toml names the files, by default `seed.sql`, and what was
loaded stands in `supabase_migrations.seed_files`. So either may load a seed and the other knows. From a new
database's first migration until all of it is loaded there is a table `supabase_migrations.unseeded`, so that a start
that failed or was killed in between is made up for by the next one.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from psycopg import AsyncConnection
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from local.errors import MigrationError
from local.project_config import NAME as CONFIG
from local.project_config import read_config
from local.sql_files import SqlFile

_TABLE = (
    "create schema if not exists supabase_migrations;"
    "create table if not exists supabase_migrations.seed_files (path text primary key, hash text not null)"
)
_UNSEEDED = "supabase_migrations.unseeded"
_log = logging.getLogger("local.seeds")


def _parted(value: object) -> object:
    """A list may be written as one text with commas, as a variable has to."""
    return value.split(",") if isinstance(value, str) else value


class _Seeding(BaseModel):
    """`[db.seed]` of config.toml. Paths and patterns are relative to the folder `supabase`."""

    enabled: bool = True
    sql_paths: Annotated[list[str], BeforeValidator(_parted)] = Field(default=["./seed.sql"])


@dataclass(frozen=True, slots=True)
class Seed:
    """A file to load. `recorded_as` is its path from the project's folder, the key of its record."""

    path: Path
    recorded_as: str

    async def load(self, connection: AsyncConnection, *, lock: int) -> bool:
        """Load it and record that in one transaction under the advisory lock; False if it was loaded before.

        Raises:
            MigrationError: a statement fails. Nothing of the file stays.
        """
        script = SqlFile.read(self.path, name=self.recorded_as)
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(%s)", [lock])
            await connection.execute(_TABLE)
            known = await connection.execute(
                "select from supabase_migrations.seed_files where path = %s", [self.recorded_as]
            )
            if await known.fetchone() is not None:
                return False
            await script.execute(connection)
            await connection.execute(
                "insert into supabase_migrations.seed_files (path, hash) values (%s, %s)",
                [self.recorded_as, hashlib.sha256(self.path.read_bytes()).hexdigest()],
            )
        return True


def find_seeds(folder: Path) -> list[Seed]:
    """Return what the project whose `supabase` folder this is wants loaded, in order, each file once.

    A folder among the paths stands for the SQL files in it. A path that matches nothing is worth a warning, unless
    the project has none of its own and simply no seed.sql.

    Raises:
        MigrationError: config.toml cannot be understood.
    """
    configured = _configured(folder)
    seeding = configured or _Seeding()
    if not seeding.enabled:
        return []
    found: dict[str, Seed] = {}
    for pattern in seeding.sql_paths:
        paths = [path for match in _matches(folder, pattern) for path in _files(match)]
        if not paths and configured is not None and "sql_paths" in configured.model_fields_set:
            _log.warning("No seed matches %r of %s.", pattern, CONFIG)
        for path in paths:
            name = Path(os.path.relpath(path, folder.parent)).as_posix()
            found.setdefault(name, Seed(path, name))
    return [*found.values()]


async def await_seeds(connection: AsyncConnection) -> None:
    """Note in a new database, with its first migration, that its seeds are still to come."""
    await connection.execute(f"create table if not exists {_UNSEEDED} ()")


async def awaits_seeds(connection: AsyncConnection) -> bool:
    noted = await connection.execute(f"select to_regclass('{_UNSEEDED}') is not null")
    return await noted.fetchone() == (True,)


async def no_longer_await_seeds(connection: AsyncConnection) -> None:
    await connection.execute(f"drop table if exists {_UNSEEDED}")


def _matches(folder: Path, pattern: str) -> list[Path]:
    # Not Path.glob: it takes neither absolute patterns nor `..`.
    return [folder / match for match in sorted(glob.glob(pattern, root_dir=folder, recursive=True))]  # noqa: PTH207


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.sql")) if path.is_dir() else [path]


def _configured(folder: Path) -> _Seeding | None:
    database: object = read_config(folder).get("db", {})
    if not isinstance(database, dict):
        raise MigrationError(f"{CONFIG}: db: should be a table")
    seeding = cast("dict[str, object]", database).get("seed")
    try:
        return None if seeding is None else _Seeding.model_validate(seeding)
    except ValidationError as exc:
        fault = exc.errors()[0]
        place = ".".join(map(str, ("db", "seed", *fault["loc"])))
        raise MigrationError(f"{CONFIG}: {place}: {fault['msg']}") from exc
