"""`runbase stack`: the embedded Supabase, in the foreground or in the background."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from local import stack as background
from local.auth_settings import AuthSettings
from local.cli.hosting import hosted_stack
from local.cli.options import AUTH_HELP, data_dir_option, place_of, port_options, project_option, stack_of
from local.config import StackConfig
from local.errors import StackError


class _NotWell(click.ClickException):
    """What was asked about does not run."""

    exit_code = 3  # as init scripts have it


@click.group(invoke_without_command=True, epilog=AUTH_HELP)
@project_option
@port_options
@data_dir_option
@click.option("--ephemeral", is_flag=True, help="Keep nothing: an empty database that goes with the stack.")
@click.pass_context
def stack(
    context: click.Context,
    project: Path,
    port: int | None,
    db_port: int | None,
    data_dir: Path | None,
    *,
    ephemeral: bool,
) -> None:
    """Run the embedded Supabase in the foreground until SIGINT or SIGTERM, or in the background by a command.

    It prints its URLs and keys as `supabase status -o env` does.
    """
    if context.invoked_subcommand is not None:
        _refuse_misplaced_options(context, context.invoked_subcommand)
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        auth = AuthSettings.from_environment(os.environ)
        config = stack_of(project, data_dir, port=port, db_port=db_port)
        asyncio.run(_foreground(replace(config, ephemeral=ephemeral, auth=auth)))


@stack.command(epilog=AUTH_HELP)
@project_option
@port_options
@data_dir_option
def start(project: Path, port: int | None, db_port: int | None, data_dir: Path | None) -> None:
    """Start it in the background, unless it runs."""
    running = background.start(stack_of(project, data_dir, port=port, db_port=db_port))
    click.echo(background.status_env(running), nl=False)


@stack.command()
@project_option
@data_dir_option
def stop(project: Path, data_dir: Path | None) -> None:
    """Stop what runs over the data directory, also what a killed stack left."""
    stopped = background.stop(place_of(project, data_dir))
    click.echo("Stopped." if stopped else "Nothing was running.")


@stack.command()
@project_option
@data_dir_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "env", "json"]),
    default="table",
    show_default=True,
    help="env prints URLs and keys alone, for a shell; json is what `/` answers.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
def status(project: Path, data_dir: Path | None, output: str, *, as_json: bool) -> int:
    """Print URLs, keys, services and the last mails; exit code 3 if it does not run, or not all of it."""
    # Here, because a start needs none of it.
    from local.cli.status_table import status_table  # noqa: PLC0415
    from local.health import health  # noqa: PLC0415

    place = place_of(project, data_dir)
    config = background.status(place)
    if config is None:
        raise _NotWell(f"No stack runs over {place.data_dir}.")
    try:
        found = health(config)
    except StackError as error:
        raise _NotWell(str(error)) from error
    if as_json or output == "json":
        click.echo(found.model_dump_json(indent=2))
    elif output == "env":
        click.echo(background.status_env(config), nl=False)
    else:
        click.echo(status_table(found), nl=False)
    return 0 if found.healthy else _NotWell.exit_code


@stack.command()
@project_option
@data_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(project: Path, data_dir: Path | None, *, yes: bool) -> None:
    """Stop it and delete its database and stored files; the next start begins with an empty one."""
    place = place_of(project, data_dir)
    if not yes:
        click.confirm(f"Delete the database and the stored files in {place.data_dir}?", abort=True)
    deleted = background.reset(place)
    click.echo(
        "The database is deleted." if deleted else f"There is no database in {place.data_dir}: nothing to delete."
    )


def _refuse_misplaced_options(context: click.Context, command: str) -> None:
    """The group's options are for the foreground; `stack --data-dir X reset` must not reset another directory."""
    given = [
        parameter.opts[0]
        for parameter in context.command.get_params(context)
        if parameter.name and context.get_parameter_source(parameter.name) not in {None, ParameterSource.DEFAULT}
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} before `{command}` has no effect: give its options after it.")


async def _foreground(config: StackConfig) -> None:
    async with hosted_stack(config) as (running, stop):
        click.echo(background.status_env(running.config), nl=False)
        await stop.wait()
