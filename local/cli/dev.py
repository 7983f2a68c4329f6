"""`runbase dev`: a stack and a worker for whoever builds a frontend, or the functions themselves."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path

import click
from dotenv import dotenv_values
from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its optional trio types

from local import stack as background
from local.auth_settings import AuthSettings
from local.cli.hosting import hosted_stack
from local.cli.options import AUTH_HELP, data_dir_option, port_options, stack_of
from local.config import PROJECT_DIR, StackConfig
from local.worker_process import WorkerProcess, running_worker

RESTART_SECONDS = 2.0  # between the ends of a worker that cannot stay up

_log = logging.getLogger("runbase.dev")


@click.command(epilog=AUTH_HELP)
@port_options
@data_dir_option
@click.option("--ephemeral", is_flag=True, help="Keep nothing: an empty database that goes with the stack.")
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="NAME=value lines for the functions, the worker and auth, such as ANTHROPIC_API_KEY.",
)
def dev(
    port: int | None, db_port: int | None, data_dir: Path | None, env_file: Path | None, *, ephemeral: bool
) -> None:
    """Keep a stack and a worker up until SIGINT or SIGTERM.

    URLs and keys go to standard output, as `supabase status -o env` prints them; logs go to standard error. Functions
    and worker are loaded anew when code changes.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    os.environ.update(_environment(env_file))
    auth = AuthSettings.from_environment(os.environ)
    config = stack_of(PROJECT_DIR, data_dir, port=port, db_port=db_port)
    asyncio.run(_serve(replace(config, ephemeral=ephemeral, reload=True, auth=auth)))


async def _serve(config: StackConfig) -> None:
    async with hosted_stack(config) as (stack, stop), running_worker(stack.database_url) as worker:
        tending = asyncio.create_task(_tend(worker, stack.config))
        click.echo(background.status_env(stack.config), nl=False)
        try:
            await stop.wait()
        finally:
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)


async def _tend(worker: WorkerProcess, config: StackConfig) -> None:
    """Restart the worker when its code changes, and when it ended by itself: killed, or its code does not load now."""
    changes = awatch(config.project_dir / "shared", watch_filter=PythonFilter())
    changed = asyncio.ensure_future(anext(changes))
    while True:
        ended = asyncio.create_task(worker.ended())
        try:
            await asyncio.wait([changed, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                _log.error("worker.ended code=%d", ended.result())
                await asyncio.wait([changed], timeout=RESTART_SECONDS)
        finally:
            ended.cancel()
        if changed.done():
            _log.info("worker.reloading")
            changed = asyncio.ensure_future(anext(changes))
        await worker.restart()


def _environment(env_file: Path | None) -> dict[str, str]:
    """What a file sets. Supabase's own names belong to the stack and are passed over, as its CLI does."""
    try:
        values = {} if env_file is None else dotenv_values(env_file)
    except UnicodeDecodeError as exc:
        raise click.BadParameter(f"{env_file} is not a text file in UTF-8.", param_hint="--env-file") from exc
    for name in [name for name in values if name.startswith("SUPABASE_")]:
        _log.warning("%s in %s is passed over: the stack sets it itself.", name, env_file)
        del values[name]
    return {name: value for name, value in values.items() if value is not None}
