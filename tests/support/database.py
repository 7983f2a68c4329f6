"""One PostgreSQL server of a version a test session, one fresh database a test.

The server starts when the first test of any xdist worker asks for it and is stopped by the process that started
pytest. A test's database is a clone of a template that holds the platform and all migrations; the template's name
is a hash of what made it, so it is built once.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
from filelock import FileLock
from psycopg import sql
from psycopg.conninfo import make_conninfo

from local.config import PROJECT_DIR
from local.migrate import migrate
from local.platform import PLATFORM_FILES, apply_platform
from local.postgres import EPHEMERAL_SETTINGS, PostgresError, PostgresServer
from tests.support.canaries import keeping_leaks
from tests.support.clock import install_clock
from tests.support.older_postgres import OlderPostgres, installed

# Autovacuum would hold a template open now and then, and clones wait for that.
# Every segment of the log of changes is searched for leaked keys before it is used again.
SETTINGS = {
    **EPHEMERAL_SETTINGS,
    "autovacuum": "off",
    "max_connections": "400",
    "archive_mode": "on",
    "archive_command": keeping_leaks(),
}
MIGRATIONS_DIR = PROJECT_DIR / "supabase" / "migrations"

_PREFIX = "runbase-tests-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux's own; the folders made there have random names
_ENOUGH = 6 * 1024**3
_numbers = itertools.count(1)


class TestServer:
    """The session's server, shared by all processes that know its directory."""

    __test__ = False

    def __init__(self, directory: Path, *, version: int | None = None) -> None:
        """`version` is an older PostgreSQL's that is installed; None: the one that the stack brings."""
        if version is not None:
            directory /= str(version)
            directory.mkdir(exist_ok=True)
        self._version = version
        self._directory = directory
        self._url_file = directory / "url"
        self._lock = FileLock(directory / "session.lock")
        self._started: PostgresServer | None = None  # kept: the server is its child process
        self._left: list[str] = []

    @classmethod
    def reserve(cls) -> Path:
        """Name this session's directory, and clear away what killed sessions left. Starts nothing."""
        for left in _place().glob(f"{_PREFIX}*"):
            pid = left.name.removeprefix(_PREFIX).split("-")[0]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                with suppress(PostgresError):  # another session may be clearing it away as well
                    cls(left).stop()
        return new_directory()

    def url(self) -> str:
        """Superuser's URL of the running server; starts it if this is the first to ask."""
        with self._lock:
            if not self._url_file.exists():
                self._started = self._server()
                self._started.start()
                self._url_file.write_text(self._started.url)
            return self._url_file.read_text()

    def _server(self) -> PostgresServer:
        data_dir = self._directory / "data"
        if self._version is None:
            return PostgresServer(data_dir, settings=SETTINGS)
        return OlderPostgres(data_dir, installed()[self._version], settings=SETTINGS)

    def template(self, *, migrations: Path = MIGRATIONS_DIR) -> str:
        """Name of the template database, built if it is not there yet."""
        url, name = self.url(), f"template_{_fingerprint(migrations)}"
        with self._lock, psycopg.connect(url, autocommit=True) as admin:
            if not admin.execute("select from pg_database where datname = %s", [name]).fetchall():
                # Built under another name, so that a failed build is never taken for a template.
                unfinished = f"unfinished_{name}"
                _run(admin, "drop database if exists {} with (force)", unfinished)
                _run(admin, "create database {}", unfinished)
                asyncio.run(_furnish(make_conninfo(url, dbname=unfinished), migrations))
                _run(admin, "alter database {} rename to {}", unfinished, name)
        return name

    def clone(self, template: str) -> str:
        """Create a database of its own from `template` and return its URL."""
        url, name = self.url(), f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(url, autocommit=True) as admin:
            self._drop_left(admin)
            _run(admin, "create database {} template {} strategy file_copy", name, template)
        return url.replace("/postgres?", f"/{name}?")

    def drop(self, database_url: str) -> None:
        """Drop a clone now, whoever is still connected."""
        self.leave(database_url)
        with psycopg.connect(self.url(), autocommit=True) as admin:
            self._drop_left(admin)

    def leave(self, database_url: str) -> None:
        """Be done with a clone: nobody is connected to it any more, and it goes when the next is made.

        To drop a database whose connections are just ending takes 100 ms, and a replication slot in it would keep it.
        """
        name = str(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"])
        with psycopg.connect(self.url(), autocommit=True) as admin:
            _drop_slots(admin, name)
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        self._left.append(name)

    def _drop_left(self, admin: psycopg.Connection) -> None:
        while self._left:
            name = self._left.pop()
            _drop_slots(admin, name)  # who was not told of the end may have come again
            _run(admin, "drop database if exists {} with (force)", name)

    def stop(self) -> None:
        """Stop the servers, if they ever ran, and delete everything."""
        for data_dir in (*self._directory.glob("*/data"), self._directory / "data"):
            PostgresServer(data_dir).stop(immediate=True)
        shutil.rmtree(self._directory, ignore_errors=True)


def new_directory() -> Path:
    """A directory for a server with its data in `data` below; if we are killed, the next `reserve` clears it away.

    Not pytest's `tmp_path`: each session of pytest closes the folders above it again to PostgreSQL's own user.
    """
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_place()))


def _place() -> Path:
    """Memory, where there is enough of it as files and nobody names another place: a database made and dropped for each
    test costs ext4 a third of all the time, because it searches long for inodes that were not freed just now.
    """
    if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH:
        return _MEMORY
    return Path(tempfile.gettempdir())


async def _furnish(dsn: str, migrations: Path) -> None:
    await apply_platform(dsn)
    await migrate(dsn, migrations)
    await install_clock(dsn)


def _fingerprint(migrations: Path) -> str:
    files = [*PLATFORM_FILES, *sorted(migrations.glob("*.sql")), migrations.parent / "seed.sql"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + (file.read_bytes() if file.exists() else b""))
    return digest.hexdigest()[:16]


def _drop_slots(admin: psycopg.Connection, database: str) -> None:
    admin.execute(
        "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where database = %s and active",
        [database],
    )
    admin.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s and not temporary",
        [database],
    )


def _run(admin: psycopg.Connection, statement: str, *names: str) -> None:
    admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
