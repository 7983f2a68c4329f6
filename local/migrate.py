"""Apply the project's migrations and record them as the Supabase CLI does.

Each file is one transaction together with its record in `supabase_migrations.schema_migrations`, under a lock
that lasts as long as the transaction (so it holds behind a transaction-mode pooler too). Two that migrate at once
therefore take turns, and a file that fails leaves nothing behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from psycopg import AsyncConnection

from local.errors import MigrationError
from local.seeds import await_seeds, awaits_seeds, find_seeds, no_longer_await_seeds
from local.sql_files import SqlFile

__all__ = ["Migrated", "Migration", "MigrationError", "Seeding", "migrate", "read_migrations"]

Seeding = Literal["fresh", "missing", "never"]

_FILE = re.compile(r"(?P<version>\d+)_(?P<name>.+)\.sql")
_LOCK = 7_313_982_640_125  # any number that nobody else takes for something else
_UNSEEDED = "The migrations are applied, the seed is not. When it is mended, do the same again, and it is loaded."
_RECORD = (
    "create schema if not exists supabase_migrations;"
    "create table if not exists supabase_migrations.schema_migrations ("
    " version text primary key, statements text[], name text)"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file `<version>_<name>.sql`."""

    version: str
    name: str
    file: SqlFile

    @classmethod
    def read(cls, path: Path) -> Migration:
        named = _FILE.fullmatch(path.name)
        if named is None:
            raise MigrationError(f"{path.name}: a migration is named <version>_<name>.sql")
        return cls(named["version"], named["name"], SqlFile.read(path))

    @property
    def statements(self) -> list[str]:
        """As they are recorded."""
        return [statement.text for statement in self.file.statements]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a call to `migrate` found and did, as file names in order; seeds as paths in the project.

    `changed` are files applied earlier with another text: they are not applied again.
    """

    applied: list[str] = field(default_factory=list[str])
    seeded: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])


def read_migrations(folder: Path) -> list[Migration]:
    """The folder's migrations in the order they are applied; none if there is no folder."""
    return sorted((Migration.read(path) for path in folder.glob("*.sql")), key=lambda found: found.version)


async def migrate(dsn: str, folder: Path, *, seeding: Seeding = "fresh") -> Migrated:
    """Apply what is not applied yet, in order of version, then load the seeds of the `supabase` folder around `folder`.

    Seeds go into a database that had no migration before, or whose first call did not come to its end (`fresh`), or
    into any that lacks them (`missing`).

    Raises:
        MigrationError: a file fails, a file is older than one already applied, or the database has a
            migration that the folder lacks. What was applied before stays.
    """
    migrations = read_migrations(folder)
    done = Migrated()
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        # Read only looks first: the usual start of a stack finds everything applied.
        recorded = await _recorded(connection)
        _refuse_disorder(migrations, recorded)
        is_new = seeding == "fresh" and not recorded
        seeds = seeding == "missing" or is_new or (seeding == "fresh" and await awaits_seeds(connection))
        for migration in migrations:
            if migration.version not in recorded:
                if await _apply(connection, migration, is_new=is_new):
                    done.applied.append(migration.file.name)
            elif recorded[migration.version] != migration.statements:
                done.changed.append(migration.file.name)
        if seeds:
            done.seeded.extend(await _load_seeds(connection, folder.parent))
            await no_longer_await_seeds(connection)
    return done


async def _load_seeds(connection: AsyncConnection, folder: Path) -> list[str]:
    try:
        return [seed.recorded_as for seed in find_seeds(folder) if await seed.load(connection, lock=_LOCK)]
    except MigrationError as exc:
        raise MigrationError(f"{exc}\n{_UNSEEDED}") from exc


async def _recorded(connection: AsyncConnection) -> dict[str, list[str]]:
    """Applied versions with their statements."""
    known = await connection.execute("select to_regclass('supabase_migrations.schema_migrations') is not null")
    if await known.fetchone() != (True,):
        return {}
    rows = await connection.execute("select version, statements from supabase_migrations.schema_migrations")
    return {version: statements or [] for version, statements in await rows.fetchall()}


def _refuse_disorder(migrations: list[Migration], recorded: dict[str, list[str]]) -> None:
    if not recorded:
        return
    missing = sorted(recorded.keys() - {migration.version for migration in migrations})
    if missing:
        raise MigrationError(f"The database has migrations that are not in the folder: {', '.join(missing)}")
    newest = max(recorded)
    for migration in migrations:
        if migration.version not in recorded and migration.version < newest:
            raise MigrationError(f"{migration.file.name}: older than migration {newest}, which is already applied")


async def _apply(connection: AsyncConnection, migration: Migration, *, is_new: bool) -> bool:
    """Apply one file, which may be a new database's first; False if a rival did it first."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute(_RECORD)
        rows = await connection.execute(
            "select from supabase_migrations.schema_migrations where version = %s", [migration.version]
        )
        if await rows.fetchone() is not None:
            return False
        if is_new:
            await await_seeds(connection)
        await migration.file.execute(connection)
        await connection.execute(
            "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
            [migration.version, migration.name, migration.statements],
        )
    return True
