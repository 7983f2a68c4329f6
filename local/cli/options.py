"""Options that several commands share, and the stack that they describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from local.auth_settings import AuthSettings
from local.config import StackConfig

P = ParamSpec("P")
R = TypeVar("R")

AUTH_HELP = "\b\nThe environment sets how /auth/v1 behaves, under GoTrue's names:\n" + "\n".join(
    f"  {variable}  {what}" for variable, what in AuthSettings.variables().items()
)

_DEFAULT = StackConfig()
_PORT = click.IntRange(0, 65535)


def stack_options(command: Callable[P, R]) -> Callable[P, R]:
    """Where a stack listens and keeps its data."""
    for option in (
        data_dir_option,
        click.option(
            "--db-port",
            type=_PORT,
            default=_DEFAULT.db_port,
            show_default=True,
            help="Port of PostgreSQL; 0 takes a free one.",
        ),
        click.option(
            "--port",
            type=_PORT,
            default=_DEFAULT.port,
            show_default=True,
            help="Port of the gateway; 0 takes a free one.",
        ),
    ):
        command = option(command)
    return command


def data_dir_option(command: Callable[P, R]) -> Callable[P, R]:
    """Which stack, for there is one to a data directory."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=_DEFAULT.data_dir,
        show_default=".runbase in the checkout",
        help="Where the database is kept.",
    )(command)


def db_url_option(command: Callable[P, R]) -> Callable[P, R]:
    """Which database; the local stack's unless said otherwise."""
    return click.option(
        "--db-url",
        envvar="SUPABASE_DB_URL",
        show_envvar=True,
        default=_DEFAULT.database_url,
        show_default="the local stack",
        help="A direct connection, or a pooler's in session mode.",
    )(command)
