"""The official Supabase CLI from npm, in a project folder of a test, with nothing of the person who runs the test."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.config import PROJECT_DIR
from tests.support.node import SCRIPTS, install_packages

SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with `supabase/`. The CLI knows its database by `url`, or by the port in config.toml if that is None."""

    folder: Path
    url: str | None = None

    @property
    def migrations(self) -> Path:
        return self.folder / "supabase" / "migrations"

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the CLI to its end."""
        program = install_packages(SCRIPTS / "cli") / ".bin" / "supabase"
        target = [] if self.url is None else [f"--remote={self.url}"]
        return subprocess.run(
            [str(program), *arguments, *target],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "SUPABASE_TELEMETRY_DISABLED": "1",
                "DO_NOT_TRACK": "1",
                "DOCKER_HOST": "tcp://127.0.0.1:1",  # nothing may depend on the Docker of whoever runs this
                **env,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def do(self, *arguments: str, **env: str) -> str:
        """Run a command that must succeed and return what it printed to standard output."""
        ended = self.run(*arguments, **env)
        assert ended.returncode == 0, f"supabase {' '.join(arguments)}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def listed(self) -> dict[str, tuple[bool, bool]]:
        """By version: whether `migration list` finds it in the folder, and in the database."""
        answer: dict[str, Any] = json.loads(self.do("migration", "list", "--output-format", "json"))
        pairs = [(one["local"], one["remote"]) for one in answer["migrations"]]
        return {local or remote: (bool(local), bool(remote)) for local, remote in pairs}

    def write(self, **files: str) -> None:
        """Write migrations by name, such as `_1_notes="create table ..."`."""
        for name, text in files.items():
            (self.migrations / f"{name.lstrip('_')}.sql").write_text(text)


def new_project(folder: Path, *, url: str | None = None, db_port: int | None = None, config: str = "") -> Project:
    """Make an empty project. Without a port the CLI expects the local database at its default, 54322."""
    (folder / "supabase" / "migrations").mkdir(parents=True)
    port = "" if db_port is None else f"[db]\nport = {db_port}\n"
    (folder / "supabase" / "config.toml").write_text(f'project_id = "test"\n{port}{config}')
    return Project(folder, url)


def copy_migrations(project: Project) -> list[str]:
    """Give a project Runbase's own migrations; return their versions."""
    files = sorted((PROJECT_DIR / "supabase" / "migrations").glob("*.sql"))
    for file in files:
        (project.migrations / file.name).write_bytes(file.read_bytes())
    return [file.name.split("_", 1)[0] for file in files]
