"""`runbase migrate`: bring a database up to the project's migrations."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from local.cli.options import project_db_url_option, project_option, stack_of
from local.migrate import Seeding
from local.migrate import migrate as apply_migrations


@click.command()
@project_option
@project_db_url_option
@click.option(
    "--seed/--no-seed",
    default=None,
    show_default="a database on this machine, if it had no migration before",
    help="Load the seeds that [db.seed] of supabase/config.toml names, or seed.sql, each once.",
)
def migrate(project: Path, db_url: str | None, *, seed: bool | None) -> int:
    """Apply the migrations that a database lacks.

    They are recorded as the Supabase CLI records them, so both can be used on one database.
    """
    local = stack_of(project, None, port=None, db_port=None)
    url = db_url or local.database_url
    try:
        done = asyncio.run(apply_migrations(url, local.migrations_dir, seeding=_seeding(url, seed)))
    except psycopg.OperationalError as error:
        raise click.ClickException(f"The database cannot be reached: {str(error).strip().splitlines()[0]}") from error
    for name in done.applied:
        click.echo(f"Applied {name}")
    for name in done.seeded:
        click.echo(f"Loaded {name}")
    if not done.applied and not done.seeded:
        click.echo("Nothing to apply: the database is up to date.")
    for name in done.changed:
        click.echo(f"{name} has changed since it was applied; the database keeps what it got then.", err=True)
    return 1 if done.changed else 0


def _seeding(db_url: str, wanted: bool | None) -> Seeding:  # noqa: FBT001 - the option's three values
    if wanted is not None:
        return "missing" if wanted else "never"
    return "fresh" if _on_this_machine(db_url) else "never"


def _on_this_machine(db_url: str) -> bool:
    """Whether the database is surely nobody's production: seeds are made up, and have no business there."""
    try:
        host = str(conninfo_to_dict(db_url).get("host") or "localhost")
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (psycopg.ProgrammingError, ValueError):
        return False
