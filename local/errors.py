"""What can keep a stack from running.

StackError            the message is for the person at the terminal; the command line prints it and exits with 1
├─ PostgresError      the database server cannot do what was asked
└─ MigrationError     local/sql_files.py
"""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot run; the message says what is in the way."""


class PostgresError(StackError):
    """The server cannot do what was asked; the message is for the person at the terminal."""
