"""Options that several commands share, and the stack that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from local.auth_settings import AuthSettings
from local.config import DATA_DIR, StackConfig, project_around
from local.project_config import configured_port

P = ParamSpec("P")
R = TypeVar("R")

AUTH_HELP = "\b\nThe environment sets how /auth/v1 behaves, under GoTrue's names:\n" + "\n".join(
    f"  {variable}  {what}" for variable, what in AuthSettings.variables().items()
)

_DEFAULT = StackConfig()
_PORT = click.IntRange(0, 65535)


def port_options(command: Callable[P, R]) -> Callable[P, R]:
    """Where a stack listens. A port comes as None if it is not given."""
    for option in (
        click.option(
            "--db-port",
            type=_PORT,
            show_default=f"db.port of supabase/config.toml, else {_DEFAULT.db_port}",
            help="Port of PostgreSQL; 0 takes a free one.",
        ),
        click.option(
            "--port",
            type=_PORT,
            show_default=f"api.port of supabase/config.toml, else {_DEFAULT.port}",
            help="Port of the gateway; 0 takes a free one.",
        ),
    ):
        command = option(command)
    return command


def project_option(command: Callable[P, R]) -> Callable[P, R]:
    """Whose migrations, seeds and functions."""
    return click.option(
        "--project",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        callback=_project,
        show_default="the nearest from here upwards",
        help="The folder that holds supabase/ and functions/.",
    )(command)


def data_dir_option(command: Callable[P, R]) -> Callable[P, R]:
    """Which stack, for there is one to a data directory. Comes as None if it is not given."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        show_default=f"{DATA_DIR} in the project",
        help="Where the database is kept.",
    )(command)


def place_of(project: Path, data_dir: Path | None) -> StackConfig:
    """The stack of a project, in its usual place unless another is given."""
    return StackConfig(project_dir=project, data_dir=data_dir or project / DATA_DIR)


def stack_of(project: Path, data_dir: Path | None, *, port: int | None, db_port: int | None) -> StackConfig:
    """The same, to be started: its ports are those given, else those that the project names, else the usual ones.

    Raises:
        MigrationError: supabase/config.toml cannot be understood.
    """
    place = place_of(project, data_dir)
    supabase = place.migrations_dir.parent
    ports = {"port": ("api", port), "db_port": ("db", db_port)}
    wanted = {
        name: configured_port(supabase, table) if given is None else given for name, (table, given) in ports.items()
    }
    return replace(place, **{name: found for name, found in wanted.items() if found is not None})


def _project(_context: click.Context, _option: click.Parameter, given: Path | None) -> Path:
    return (given or project_around(Path.cwd())).absolute()


def db_url_option(command: Callable[P, R]) -> Callable[P, R]:
    """Which database; the local stack's unless said otherwise."""
    return _db_url(_DEFAULT.database_url)(command)


def project_db_url_option(command: Callable[P, R]) -> Callable[P, R]:
    """Which database. Comes as None if it is not given: the project's stack is meant."""
    return _db_url(None)(command)


def _db_url(default: str | None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    return click.option(
        "--db-url",
        envvar="SUPABASE_DB_URL",
        show_envvar=True,
        default=default,
        show_default="the local stack",
        help="A direct connection, or a pooler's in session mode.",
    )
