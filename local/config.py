"""Where the embedded Supabase listens and keeps its data.

The defaults are the Supabase CLI's own, so a client or test suite written for `supabase start` finds
this stack unchanged. Port 0 asks the system for a free one; whoever binds it passes on a config that
names the real port (`dataclasses.replace`), so nothing downstream ever sees 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from local.auth_settings import AuthSettings

PROJECT_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = ".runbase"  # in a project, unless it is told to be elsewhere


def project_around(folder: Path) -> Path:
    """The project that a command means which is typed in a folder: the nearest from there upwards, else the folder."""
    here = folder.absolute()
    return next((place for place in (here, *here.parents) if _is_project(place)), here)


def _is_project(folder: Path) -> bool:
    supabase = folder / "supabase"
    return (supabase / "config.toml").is_file() or (supabase / "migrations").is_dir()


@dataclass(frozen=True, slots=True)
class StackConfig:
    """One stack: two ports, one data directory, one project folder.

    An ephemeral stack keeps its database and files in a temporary directory that goes with it, and trades the
    durability that nobody would notice for speed (fsync off).
    """

    host: str = "127.0.0.1"
    port: int = 54321
    db_port: int = 54322
    data_dir: Path = PROJECT_DIR / DATA_DIR
    ephemeral: bool = False
    project_dir: Path = PROJECT_DIR
    reload: bool = False  # load functions anew when their code changes
    auth: AuthSettings = field(default_factory=AuthSettings)

    @property
    def api_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def auth_url(self) -> str:
        """The issuer (`iss`) of every user token, as hosted Supabase writes it."""
        return f"{self.api_url}/auth/v1"

    @property
    def database_url(self) -> str:
        """The superuser's URL. The CLI's notice about a missing TLS would land on its stdout otherwise."""
        return f"postgresql://postgres:postgres@127.0.0.1:{self.db_port}/postgres?sslmode=disable"

    @property
    def storage_dir(self) -> Path:
        """The files of /storage/v1, in a folder for each database that was served with this directory."""
        return self.data_dir / "storage"

    @property
    def migrations_dir(self) -> Path:
        return self.project_dir / "supabase" / "migrations"

    @property
    def functions_dir(self) -> Path:
        return self.project_dir / "functions"

    @property
    def openapi_file(self) -> Path:
        """The description of the project's functions, if it has one."""
        return self.project_dir / "docs" / "openapi.json"
