"""`runbase worker`: the long-lived worker, in development and in production alike."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from urllib.parse import urlsplit

import click
import psycopg

from local.cli.options import db_url_option
from local.cli.signals import stop_event
from shared import logs
from shared.direct_database import DirectDatabase
from shared.engines.registry import engines_from_env
from shared.llm.registry import model_from_env
from shared.runs.collector import collect_rarely
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker, WorkerOptions
from shared.settings import SettingsError
from shared.tools.sandbox import SandboxUnavailable, warm
from shared.vault.environment import vault_from_env
from shared.vault.opening import Vault

_log = logging.getLogger("runbase.worker")
_CONNECT_SECONDS = 10


@click.command()
@db_url_option
@click.option("--concurrency", type=click.IntRange(1, 1000), default=20, show_default=True, help="Runs held at a time.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End with the process that holds our stdin.")
def worker(db_url: str, concurrency: int, log_format: logs.Format, *, until_stdin_closes: bool) -> None:
    """Claim runs and drive them until SIGINT or SIGTERM.

    On the way out it commits what its steps have done and gives its runs back, for any other worker to go on at once.
    The model is chosen by RUNBASE_LLM or ANTHROPIC_API_KEY (docs/models.md); without either, agents play a recording.
    People's credentials are opened with ENCRYPTION_KEYS or RUNBASE_KMS_KEY_ID; without, steps that need one fail.
    """
    logs.configure(form=log_format)
    collect_rarely()
    asyncio.run(_work(db_url, concurrency, until_stdin_closes=until_stdin_closes))


async def _work(db_url: str, concurrency: int, *, until_stdin_closes: bool) -> None:
    await _refuse_unready(db_url)
    with stop_event() as stop:
        if until_stdin_closes:
            asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
        async with DirectDatabase(db_url) as database:
            worker = Worker(
                RunStore(database),
                engines_from_env(os.environ),
                options=WorkerOptions(concurrency=concurrency),
                wake=ListenWake(db_url),
                vault=_vault(database, db_url),
            )
            warming = asyncio.create_task(_warm())
            ending = asyncio.create_task(_stop_when(stop, worker))
            _log.info("worker.started owner=%s concurrency=%d", worker.options.owner, concurrency)
            if model_from_env(os.environ) is None:
                _log.warning("worker.no_model agents play a recording; set ANTHROPIC_API_KEY or RUNBASE_LLM")
            if worker.vault is None:
                _log.warning("worker.no_vault steps that need a person's credential fail; set ENCRYPTION_KEYS")
            try:
                await worker.run()
            finally:
                ending.cancel()
                await asyncio.gather(warming, ending, return_exceptions=True)
            left = " ".join(f"{status}={count}" for status, count in sorted(worker.left.items()))
            _log.info("worker.stopped claimed=%d %s", worker.claimed, left)


def _vault(database: DirectDatabase, db_url: str) -> Vault | None:
    # The local stack's key opens nothing but beside a database on this machine, whatever SUPABASE_URL leaves unsaid.
    host = urlsplit(db_url).hostname or ""
    url = f"http://[{host}]" if ":" in host else f"http://{host}"
    try:
        return vault_from_env(database, {"SUPABASE_URL": url, **os.environ})
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


async def _refuse_unready(db_url: str) -> None:
    try:
        connection = await psycopg.AsyncConnection.connect(db_url, connect_timeout=_CONNECT_SECONDS)
        async with connection:
            found = await connection.execute("select to_regproc('public.claim_runs') is not null")
            migrated = await found.fetchone() == (True,)
    except psycopg.Error as error:
        reason = (str(error).strip().splitlines() or ["it does not answer"])[0]
        raise click.ClickException(f"The database cannot be reached: {reason}") from error
    if not migrated:
        raise click.ClickException("The database has no Runbase in it: run `runbase migrate` first.")


async def _stop_when(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.stop()


async def _warm() -> None:
    """Have the sandbox ready before the first program needs it."""
    try:
        await asyncio.to_thread(warm)
    except SandboxUnavailable as error:
        _log.warning("worker.no_sandbox %s", error)
