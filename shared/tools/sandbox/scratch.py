"""The directory of one run: the program, its input and the files it sees. Removed whatever the guest made of it.

The guest may leave links, odd names and trees of any depth, so nothing here follows a link or trusts a depth.
"""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.tools.names import problem_with_name
from shared.tools.sandbox.outcome import Limits

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Kept:
    """What a finished guest left: files by relative path, and the ones left behind with the reason."""

    files: Mapping[str, bytes]
    not_kept: tuple[str, ...]


@contextmanager
def scratch_directory(code: str, *, stdin: str, files: Mapping[str, bytes]) -> Generator[Path]:
    """Make the directory of one run, private to this user, and remove it at the end.

    Raises:
        ValueError: a name in `files` is unsafe, or two of them cannot be in one directory tree.
    """
    root = Path(tempfile.mkdtemp(prefix="runbase-sandbox-"))
    try:
        for part in ("program", "work"):
            (root / part).mkdir()
        (root / "program" / "main.py").write_text(code, encoding="utf-8", errors="replace")
        (root / "stdin").write_text(stdin, encoding="utf-8", errors="replace", newline="")
        for name, content in files.items():
            _write(root / "work", name, content)
        yield root
    finally:
        remove_tree(root)


def collect(root: Path, *, given: Mapping[str, bytes], limits: Limits) -> Kept:
    """Read what the guest created or changed, in the order of the names, within the limits."""
    files: dict[str, bytes] = {}
    not_kept: list[str] = []
    seen = 0
    for name, directory, entry in _walk(root / "work"):
        seen += 1
        if seen > limits.entries:
            not_kept.append(f"everything after {limits.entries} entries")
            break
        content = _content(name, directory, entry, limits=limits)
        if isinstance(content, str):
            not_kept.append(f"{name!r}: {content}")
        elif given.get(name) == content:
            continue
        elif len(files) == limits.files_kept:
            not_kept.append(f"{name!r}: more than {limits.files_kept} files")
        else:
            files[name] = content
    return Kept(dict(sorted(files.items())), tuple(sorted(not_kept)))


def remove_tree(root: Path) -> None:
    """Remove `root` with all that is in it, however deep: what a directory holds is moved up, then it is empty.

    A recursive removal would fail on a tree deeper than the stack or the open-file limit.
    """
    top = os.open(root, _DIRECTORY)
    numbers = itertools.count()
    try:
        while names := os.listdir(top):  # noqa: PTH208 a path could be swapped under us
            for name in names:
                try:
                    os.unlink(name, dir_fd=top)
                except (IsADirectoryError, PermissionError):  # Linux and macOS say it differently
                    _empty_into(top, name, numbers)
                    os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    root.rmdir()


def _empty_into(top: int, name: str, numbers: itertools.count[int]) -> None:
    directory = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for child in os.listdir(directory):  # noqa: PTH208 as above
            os.rename(child, f".moved-{next(numbers)}", src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)


def _write(work: Path, name: str, content: bytes) -> None:
    if problem := problem_with_name(name):
        raise ValueError(f"the file name {name!r} {problem}")
    path = work / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"the file name {name!r} clashes with another file") from error


def _walk(work: Path) -> Iterator[tuple[str, int, str]]:
    """Yield (path relative to `work`, descriptor of its directory, name) of all that is not a directory.

    Directories with unsafe names or too deep for a file name are not entered: nothing in them could be kept.
    """
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        descriptor = os.open(work / prefix, _DIRECTORY)
        try:
            for name in sorted(os.listdir(descriptor)):  # noqa: PTH208 as above
                path = f"{prefix}{name}"
                if not stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    yield path, descriptor, name
                elif problem_with_name(path) is None:
                    waiting.append(f"{path}/")
        finally:
            os.close(descriptor)


def _content(name: str, directory: int, entry: str, *, limits: Limits) -> bytes | str:
    """Return the file's bytes, or why it is not kept."""
    if problem := problem_with_name(name):
        return f"the name {problem}"
    if not stat.S_ISREG(os.stat(entry, dir_fd=directory, follow_symlinks=False).st_mode):
        return "not a regular file"
    with os.fdopen(os.open(entry, _FILE, dir_fd=directory), "rb") as file:
        content = file.read(limits.file_kept_bytes + 1)
    if len(content) > limits.file_kept_bytes:
        return f"larger than {limits.file_kept_bytes} bytes"
    return content
