"""`runbase migrate`: bring a database up to the project's migrations."""

from __future__ import annotations

import asyncio

import click
import psycopg

from local.cli.options import db_url_option
from local.config import StackConfig
from local.migrate import migrate as apply_migrations


@click.command()
@db_url_option
def migrate(db_url: str) -> int:
    """Apply the migrations that a database lacks.

    They are recorded as the Supabase CLI records them, so both can be used on one database.
    """
    try:
        done = asyncio.run(apply_migrations(db_url, StackConfig().migrations_dir))
    except psycopg.OperationalError as error:
        raise click.ClickException(f"The database cannot be reached: {str(error).strip().splitlines()[0]}") from error
    for name in done.applied:
        click.echo(f"Applied {name}")
    if not done.applied:
        click.echo("Nothing to apply: the database is up to date.")
    for name in done.changed:
        click.echo(f"{name} has changed since it was applied; the database keeps what it got then.", err=True)
    return 1 if done.changed else 0
