"""`runbase schema`: keep supabase/schema.sql as the migrations make it, for reviewers to read a change as a whole."""

from __future__ import annotations

import asyncio
import difflib

import click

from local.schema import dump_schema, schema_file

_SHOWN_LINES = 40


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the file is out of date.")
def schema(*, check: bool) -> int:
    """Dump the migrated schema to supabase/schema.sql."""
    path = schema_file()
    dumped = asyncio.run(dump_schema())
    kept = path.read_text() if path.exists() else ""
    if dumped == kept:
        return 0
    if not check:
        path.write_text(dumped)
        click.echo(f"Wrote {path}.")
        return 0
    difference = [*difflib.unified_diff(kept.splitlines(), dumped.splitlines(), "schema.sql", "migrated", lineterm="")]
    click.echo("\n".join(difference[:_SHOWN_LINES]), err=True)
    click.echo("supabase/schema.sql is out of date: run ./scripts/schema.", err=True)
    return 1
