"""A durable server of its own for a measurement, and fresh databases on it.

`fsync` and `synchronous_commit` are on, as PostgreSQL has them. A database of ours has all that production has, with
a consumer of both publications as Realtime would be; the consumer goes with the database.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from local.config import PROJECT_DIR
from local.migrate import migrate
from local.platform import apply_platform
from local.postgres import PostgresServer

CONSUMER_SECONDS = 30  # for a consumer to have its slots
SLOTS = 2
_TEMPLATE = "runbase_template"
_numbers = itertools.count(1)


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Superuser's URL of an empty server in an empty directory."""
    directory.chmod(0o755)  # PostgreSQL runs as another user where we are root
    server = PostgresServer(directory / "data")
    server.start()
    try:
        yield server.url
    finally:
        server.stop(immediate=True)


@contextmanager
def empty_database(server_url: str, *, template: str = "template1") -> Iterator[str]:
    """Superuser's URL of a fresh database, dropped afterwards, whoever is still connected."""
    name = f"bench_{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(_named("create database {} template {}", name, template))
    try:
        yield _at(server_url, name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as admin:
            # A slot in use would keep the database, and its owner may have been killed a moment ago.
            admin.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name])
            admin.execute(_named("drop database {} with (force)", name))


@contextmanager
def migrated_database(server_url: str) -> Iterator[str]:
    """Superuser's URL of a fresh migrated database of whose publications nobody reads yet."""
    _ensure_template(server_url)
    with empty_database(server_url, template=_TEMPLATE) as url:
        yield url


@contextmanager
def runbase_database(server_url: str) -> Iterator[str]:
    """Superuser's URL of a fresh migrated database with everything on."""
    with migrated_database(server_url) as url:
        consumer = subprocess.Popen([sys.executable, "-m", "bench.consumer", url], cwd=PROJECT_DIR)
        try:
            _await_slots(url, consumer)
            yield url
        finally:
            consumer.kill()
            consumer.wait()


@contextmanager
def benched(directory: Path) -> Iterator[str]:
    """Superuser's URL of a fresh migrated database with everything on, on a server of its own."""
    with served(directory) as server_url, runbase_database(server_url) as url:
        yield url


def _ensure_template(server_url: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as admin:
        if admin.execute("select from pg_database where datname = %s", [_TEMPLATE]).fetchone() is not None:
            return
        admin.execute(_named("create database {}", _TEMPLATE))
    asyncio.run(_furnish(_at(server_url, _TEMPLATE)))


async def _furnish(url: str) -> None:
    await apply_platform(url)
    await migrate(url, PROJECT_DIR / "supabase" / "migrations")


def _await_slots(url: str, consumer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + CONSUMER_SECONDS
    with psycopg.connect(url, autocommit=True) as connection:
        query = "select count(*) from pg_replication_slots where database = current_database()"
        while connection.execute(query).fetchone() != (SLOTS,):
            if consumer.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the consumer of the publications did not start")
            time.sleep(0.02)


def _at(server_url: str, database: str) -> str:
    return server_url.replace("/postgres?", f"/{database}?")


def _named(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))
