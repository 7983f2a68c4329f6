"""PostgreSQL as Debian's packages install it: hosted Supabase runs older ones than the embedded stack brings.

Only what the migrations need: the stack itself is made for the version that it brings.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from local.postgres import PostgresServer
from local.programs import give_to_system_user, run

OLDEST, NEWEST = 15, 17  # what the migrations promise to run on, besides the embedded one
_INSTALLED = Path("/usr/lib/postgresql")
_UNKNOWN = {"scram_iterations"}  # settings that came later


def installed() -> dict[int, Path]:
    """The folders of the programs of each such version that is installed, by its number."""
    versions = {number: _INSTALLED / str(number) / "bin" for number in range(OLDEST, NEWEST + 1)}
    return {number: programs for number, programs in versions.items() if (programs / "initdb").exists()}


class OlderPostgres(PostgresServer):
    """A server of one of these versions over a new data directory."""

    def __init__(self, data_dir: Path, programs: Path, *, settings: dict[str, str]) -> None:
        super().__init__(data_dir, settings=settings)
        self._bin = programs
        self._settings = {name: value for name, value in self._settings.items() if name not in _UNKNOWN}

    def _start_new(self) -> None:
        folder = self.data_dir / "postgres"
        folder.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir, suffix=".password") as password:
            password.write("postgres\n")
            password.flush()
            give_to_system_user(folder, Path(password.name))
            run(
                self._bin / "initdb", "-D", str(folder), "-U", "postgres", "--pwfile", password.name,
                "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "--no-sync",
            )  # fmt: skip
        self._start()
