"""What the parts of Realtime that ask the database have in common."""

from __future__ import annotations

from typing import LiteralString

import psycopg

# What PostgREST's search path is; operators of an extension's types live in `extensions`.
SEARCH_PATH: LiteralString = "public, extensions"


def is_away(error: psycopg.Error) -> bool:
    """Whether it is the database that is gone, and not the statement that is wrong."""
    # Class 08 is the connection, 57P the server's end; what libpq itself finds has no code.
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    )
