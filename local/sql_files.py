"""Read the project's SQL files and run them, with complaints that name file, line and statement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import AsyncConnection

from local.errors import MigrationError
from local.statements import Statement, split_statements


@dataclass(frozen=True, slots=True)
class SqlFile:
    """A file's statements. `name` is what complaints call it."""

    name: str
    statements: list[Statement]

    @classmethod
    def read(cls, path: Path, *, name: str | None = None) -> SqlFile:
        """Read a file.

        Raises:
            MigrationError: it cannot be read, or is not text in UTF-8.
        """
        name = name or path.name
        try:
            return cls(name, split_statements(path.read_text("utf-8-sig")))
        except UnicodeDecodeError as exc:
            raise MigrationError(f"{name}: not a text file in UTF-8") from exc
        except OSError as exc:
            raise MigrationError(f"{name}: cannot be read: {exc.strerror}") from exc

    async def execute(self, connection: AsyncConnection) -> None:
        """Run the statements one by one, in whatever transaction the connection is, with its settings as at first.

        Raises:
            MigrationError: one fails.
        """
        await connection.execute("reset all")  # a dump among the files before empties the session's search_path
        for statement in self.statements:
            try:
                await connection.execute(statement.text.encode())
            except psycopg.Error as exc:
                raise MigrationError(_complaint(self.name, statement, exc)) from exc


def _complaint(name: str, statement: Statement, error: psycopg.Error) -> str:
    """`file:line: message (SQLSTATE)`, the hint or detail, then the statement's beginning."""
    line = statement.line
    if error.diag.statement_position:
        line = statement.begins + statement.text.count("\n", 0, int(error.diag.statement_position) - 1)
    told = error.diag.message_primary or str(error)
    more = [text for text in (error.diag.message_detail, error.diag.message_hint) if text]
    beginning = statement.text if len(statement.text) <= 400 else f"{statement.text[:400]} ..."
    return "\n".join([f"{name}:{line}: {told} ({error.sqlstate})", *more, beginning])
