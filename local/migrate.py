"""Apply the project's migrations and record them as the Supabase CLI does.

Each file is one transaction together with its record in `supabase_migrations.schema_migrations`, under a lock
that lasts as long as the transaction (so it holds behind a transaction-mode pooler too). Two that migrate at once
therefore take turns, and a file that fails leaves nothing behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import AsyncConnection

from local.errors import StackError
from local.statements import Statement, split_statements

_FILE = re.compile(r"(?P<version>\d+)_(?P<name>.+)\.sql")
_LOCK = 7_313_982_640_125  # any number that nobody else takes for something else
_RECORD = (
    "create schema if not exists supabase_migrations;"
    "create table if not exists supabase_migrations.schema_migrations ("
    " version text primary key, statements text[], name text)"
)


class MigrationError(StackError):
    """A migration cannot be applied. Names the file, and the line when a statement is at fault."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file `<version>_<name>.sql`."""

    path: Path
    version: str
    name: str
    statements: list[Statement]

    @classmethod
    def read(cls, path: Path) -> Migration:
        named = _FILE.fullmatch(path.name)
        if named is None:
            raise MigrationError(f"{path.name}: a migration is named <version>_<name>.sql")
        return cls(path, named["version"], named["name"], split_statements(path.read_text()))


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a call to `migrate` found and did, as file names in order.

    `changed` are files applied earlier with another text: they are not applied again.
    """

    applied: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])


def read_migrations(folder: Path) -> list[Migration]:
    """The folder's migrations in the order they are applied; none if there is no folder."""
    return sorted((Migration.read(path) for path in folder.glob("*.sql")), key=lambda found: found.version)


async def migrate(dsn: str, folder: Path) -> Migrated:
    """Apply what is not applied yet, in order of version, then `seed.sql` beside the folder if nothing ever was.

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
        for migration in migrations:
            if migration.version not in recorded:
                if await _apply(connection, migration):
                    done.applied.append(migration.path.name)
            elif recorded[migration.version] != [statement.text for statement in migration.statements]:
                done.changed.append(migration.path.name)
        if not recorded and done.applied:
            seed = folder.parent / "seed.sql"
            async with connection.transaction():
                await _execute(connection, seed, _read_seed(seed))
    return done


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
            raise MigrationError(f"{migration.path.name}: older than migration {newest}, which is already applied")


async def _apply(connection: AsyncConnection, migration: Migration) -> bool:
    """Apply one file; False if a rival did it first."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute(_RECORD)
        rows = await connection.execute(
            "select from supabase_migrations.schema_migrations where version = %s", [migration.version]
        )
        if await rows.fetchone() is not None:
            return False
        await _execute(connection, migration.path, migration.statements)
        await connection.execute(
            "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
            [migration.version, migration.name, [statement.text for statement in migration.statements]],
        )
    return True


def _read_seed(path: Path) -> list[Statement]:
    return split_statements(path.read_text()) if path.exists() else []


async def _execute(connection: AsyncConnection, path: Path, statements: list[Statement]) -> None:
    for statement in statements:
        try:
            await connection.execute(statement.text.encode())
        except psycopg.Error as exc:
            raise MigrationError(_complaint(path, statement, exc)) from exc


def _complaint(path: Path, statement: Statement, error: psycopg.Error) -> str:
    """`file:line: message (SQLSTATE)`, the hint or detail, then the statement's beginning."""
    line = statement.line
    if error.diag.statement_position:
        line = statement.begins + statement.text.count("\n", 0, int(error.diag.statement_position) - 1)
    told = error.diag.message_primary or str(error)
    more = [text for text in (error.diag.message_detail, error.diag.message_hint) if text]
    beginning = statement.text if len(statement.text) <= 400 else f"{statement.text[:400]} ..."
    return "\n".join([f"{path.name}:{line}: {told} ({error.sqlstate})", *more, beginning])
