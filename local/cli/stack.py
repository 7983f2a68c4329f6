"""`runbase stack`: the embedded Supabase, in the foreground or in the background."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click
from click.core import ParameterSource

from local import stack as background
from local.auth_settings import AuthSettings
from local.cli.hosting import hosted_stack
from local.cli.options import AUTH_HELP, data_dir_option, stack_options
from local.config import StackConfig
from local.errors import StackError


class _NotWell(click.ClickException):
    """What was asked about does not run."""

    exit_code = 3  # as init scripts have it


@click.group(invoke_without_command=True, epilog=AUTH_HELP)
@stack_options
@click.option("--ephemeral", is_flag=True, help="Keep nothing: an empty database that goes with the stack.")
@click.pass_context
def stack(context: click.Context, port: int, db_port: int, data_dir: Path, *, ephemeral: bool) -> None:
    """Run the embedded Supabase in the foreground until SIGINT or SIGTERM, or in the background by a command.

    It prints its URLs and keys as `supabase status -o env` does.
    """
    if context.invoked_subcommand is not None:
        _refuse_misplaced_options(context, context.invoked_subcommand)
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        auth = AuthSettings.from_environment(os.environ)
        config = StackConfig(port=port, db_port=db_port, data_dir=data_dir, ephemeral=ephemeral, auth=auth)
        asyncio.run(_foreground(config))


@stack.command(epilog=AUTH_HELP)
@stack_options
def start(port: int, db_port: int, data_dir: Path) -> None:
    """Start it in the background, unless it runs."""
    click.echo(
        background.status_env(background.start(StackConfig(port=port, db_port=db_port, data_dir=data_dir))), nl=False
    )


@stack.command()
@data_dir_option
def stop(data_dir: Path) -> None:
    """Stop what runs over the data directory, also what a killed stack left."""
    stopped = background.stop(StackConfig(data_dir=data_dir))
    click.echo("Stopped." if stopped else "Nothing was running.")


@stack.command()
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
def status(data_dir: Path, output: str, *, as_json: bool) -> int:
    """Print URLs, keys, services and the last mails; exit code 3 if it does not run, or not all of it."""
    # Here, because a start needs none of it.
    from local.cli.status_table import status_table  # noqa: PLC0415
    from local.health import health  # noqa: PLC0415

    config = background.status(StackConfig(data_dir=data_dir))
    if config is None:
        raise _NotWell(f"No stack runs over {data_dir}.")
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
@data_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(data_dir: Path, *, yes: bool) -> None:
    """Stop it and delete its database and stored files; the next start begins with an empty one."""
    if not yes:
        click.confirm(f"Delete the database and the stored files in {data_dir}?", abort=True)
    deleted = background.reset(StackConfig(data_dir=data_dir))
    click.echo("The database is deleted." if deleted else f"There is no database in {data_dir}: nothing to delete.")


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
