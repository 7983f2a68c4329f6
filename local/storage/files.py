"""The bytes of objects, on disk.

A file is named by the version in its row, a random UUID, so no name a user chose is ever part of a path, and an
object can be moved without touching its file. A file is written whole under a temporary name, gets its own name as
the last step of the transaction that writes its row, and never changes afterwards: a committed row has its file, and a
file without a row is an orphan, which goes when the next stack starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

import psycopg

from local.storage.errors import StorageError

_TEMPORARY = ".part"
_BUFFER_BYTES = 1 << 20  # of one upload in memory, before they are written
_SWEEP_BATCH = 1000  # files looked up in one statement

KnownVersions = Callable[[list[str]], Awaitable[set[str]]]


class StagedFile:
    """A file on its way in. Not for two tasks at a time."""

    def __init__(self, path: Path, *, is_durable: bool) -> None:
        self.version = path.name
        self.size = 0
        self.is_kept = False
        self.is_placed = False
        self._path = path
        self._temporary = path.with_suffix(_TEMPORARY)
        self._is_durable = is_durable
        self._buffer = bytearray()
        self._digest = hashlib.md5(usedforsecurity=False)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._temporary.open("xb")

    @property
    def etag(self) -> str:
        """S3's: the MD5 of the content, quoted."""
        return f'"{self._digest.hexdigest()}"'

    async def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._buffer += chunk
        if len(self._buffer) >= _BUFFER_BYTES:
            await asyncio.to_thread(self._flush)

    async def copy_from(self, source: BinaryIO) -> None:
        """Take all of another file, and close it."""
        await asyncio.to_thread(self._copy_from, source)

    async def finish(self) -> None:
        """Have everything written on disk."""
        await asyncio.to_thread(self._finish)

    async def place(self) -> None:
        """Give the file its own name. The last thing to do before the row is committed."""
        await asyncio.to_thread(self._place)
        self.is_placed = True

    def keep(self) -> None:
        """The row is committed."""
        self.is_kept = True

    def release(self, *, remove: bool) -> None:
        self._file.close()
        if remove:
            for path in (self._temporary, self._path):
                path.unlink(missing_ok=True)

    def _flush(self) -> None:
        self._file.write(self._buffer)
        self._digest.update(self._buffer)
        self._buffer.clear()

    def _copy_from(self, source: BinaryIO) -> None:
        with source:
            shutil.copyfileobj(source, self._file, _BUFFER_BYTES)
        self.size = self._file.tell()

    def _finish(self) -> None:
        self._flush()
        self._file.flush()
        if self._is_durable:
            os.fsync(self._file.fileno())

    def _place(self) -> None:
        self._temporary.rename(self._path)
        if self._is_durable:
            _sync_directory(self._path.parent)
            _sync_directory(self._path.parent.parent)  # which may have got this folder just now


class Files:
    """The files of one database, in one folder, which is made when the first file comes."""

    def __init__(self, folder: Path, *, is_durable: bool = True) -> None:
        self._folder = folder
        self._is_durable = is_durable

    @asynccontextmanager
    async def stage(self) -> AsyncGenerator[StagedFile]:
        """A new, empty file. Unless it is kept when the block ends, it goes."""
        staged = await asyncio.to_thread(StagedFile, self._locate(uuid4()), is_durable=self._is_durable)
        try:
            yield staged
        except BaseException as exc:
            # Nobody knows whether a commit was done whose answer got lost: the sweep at the next start will.
            is_settled = not staged.is_placed or _was_rolled_back(exc)
            staged.release(remove=is_settled and not staged.is_kept)
            raise
        staged.release(remove=not staged.is_kept)

    def open(self, version: str | None) -> BinaryIO | None:
        """The file of a version for reading; it stays readable when it is removed meanwhile."""
        path = self._path_of(version)
        if path is None:
            return None
        try:
            return path.open("rb")
        except FileNotFoundError:
            return None

    async def discard(self, versions: Iterable[str | None]) -> None:
        """Remove files whose rows are gone."""
        paths = [path for path in map(self._path_of, versions) if path is not None]
        await asyncio.to_thread(lambda: [path.unlink(missing_ok=True) for path in paths])

    async def sweep(self, known_versions: KnownVersions) -> int:
        """Remove what no row names; how many files that was. Only while nobody writes."""
        removed = 0
        candidates = (path for path in self._folder.glob("??/*") if path.is_file())
        while batch := await asyncio.to_thread(lambda: list(islice(candidates, _SWEEP_BATCH))):
            known = await known_versions([path.name for path in batch])
            for path in batch:
                if path.name not in known:
                    path.unlink()
                    removed += 1
        return removed

    def _path_of(self, version: str | None) -> Path | None:
        """Where the file of a row would be. A row that somebody wrote by hand may hold anything as its version."""
        try:
            return self._locate(UUID(version or ""))
        except ValueError:
            return None

    def _locate(self, version: UUID) -> Path:
        name = str(version)
        return self._folder / name[:2] / name


def _was_rolled_back(exc: BaseException) -> bool:
    """Whether the transaction certainly failed: it was refused, and not merely cut off."""
    refused = isinstance(exc, psycopg.Error) and not isinstance(exc, psycopg.OperationalError)
    return refused or isinstance(exc, StorageError)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
