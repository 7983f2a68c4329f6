"""What can keep a stack from running.

StackError            the message is for the person at the terminal; the command line prints it and exits with 1
├─ PostgresError      the database server cannot do what was asked
└─ MigrationError     a migration, a seed or the project's settings cannot be applied
"""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot run; the message says what is in the way."""


class PostgresError(StackError):
    """The server cannot do what was asked; the message is for the person at the terminal."""


class MigrationError(StackError):
    """A migration or seed cannot be applied. Names the file, and the line when a statement is at fault."""
