"""The files of a database server: they appear whole, and are known again by a marker that we write into them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from local.cluster_cache import Archive
from local.errors import PostgresError
from local.programs import binaries, give_to_system_user, run

MAJOR_VERSION = "18"
MARKER = "RUNBASE"  # a file in the cluster's folder
PASSWORD = "postgres"

_MARKED = "Made by a Runbase stack, which may overwrite its settings and delete it (`runbase stack reset`).\n"


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
        archive = Archive.of(options)
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
        archive = Archive.of(options)
        if archive is not None:
            archive.discard()
        self.delete()
        self.create(*options, durable=durable)

    def _clear_aside(self) -> None:
        if self._aside.exists():
            shutil.rmtree(self._aside)
        self._aside.mkdir(mode=0o700)
        give_to_system_user(self._aside)


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
