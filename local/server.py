"""Run a stack: PostgreSQL, platform, migrations and the gateway on a real socket of this machine only.

`running_stack` is the whole stack in the caller's process, for the demo, `dev` and tests; `serve` runs one in the
foreground until it is told to stop. What fails on the way up is a `StackError`, and what had started is stopped again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from local.auth_settings import AuthSettings
from local.config import StackConfig
from local.ephemeral import ephemeral_directory
from local.errors import StackError
from local.ports import listening
from local.postgres import EPHEMERAL_SETTINGS, PostgresServer
from local.state import StackState

MOST_OPEN_FILES = 65_536
ENOUGH_OPEN_FILES = 4096  # a thousand sockets of Realtime, and whatever else a stack has open
WATCH_SECONDS = 1.0
LONGEST_WATCH_SECONDS = 10.0  # between tries to start a server that cannot be started

_log = logging.getLogger("local.server")


def allow_open_files() -> None:
    """Raise how many files and sockets this process may have open to what the system allows it.

    Many systems begin with 1,024 or fewer, and each client of Realtime is one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Where there is hardly a limit, no more than anybody needs: some programs walk over all that they might have open.
    allowed = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < ENOUGH_OPEN_FILES:
        _log.warning("Only %d files and sockets may be open at once; raise the limit (ulimit -n) for more.", allowed)


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that answers. `config` names the real ports, and the directory that really holds its data."""

    config: StackConfig
    database_url: str
    postgres: PostgresServer


@asynccontextmanager
async def running_stack(config: StackConfig) -> AsyncGenerator[RunningStack]:
    """Start a stack, hold it while the block runs, stop it.

    Raises:
        StackError: a port is taken, the data directory cannot be used, or a migration fails.
    """
    async with AsyncExitStack() as cleanup:
        listener = cleanup.enter_context(listening(config.host, config.port))
        data_dir = cleanup.enter_context(ephemeral_directory()) if config.ephemeral else config.data_dir
        settings = EPHEMERAL_SETTINGS if config.ephemeral else None
        postgres = PostgresServer(data_dir, port=config.db_port, settings=settings)
        starting = asyncio.get_running_loop().run_in_executor(None, postgres.start)
        cleanup.push_async_callback(_stop, postgres, starting)
        # Here, because these imports take as long as the server's start, which goes on meanwhile.
        from local.gateway import build_gateway  # noqa: PLC0415
        from local.serving import prepare_database, serving  # noqa: PLC0415

        await asyncio.wait([starting])
        starting.result()
        config = replace(config, port=listener.getsockname()[1], db_port=postgres.port, data_dir=postgres.data_dir)
        await prepare_database(config.database_url, config.migrations_dir)
        gateway = build_gateway(config, config.database_url)
        await cleanup.enter_async_context(serving(gateway, listener))
        if not config.ephemeral:
            cleanup.enter_context(StackState.of(config).recorded(config.data_dir))
        yield RunningStack(config, config.database_url, postgres)


async def serve(config: StackConfig) -> None:
    """Run a stack until SIGINT or SIGTERM; bring a database server that died back up meanwhile."""
    allow_open_files()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running_stack(config) as stack:
        _log.info("stack.ready url=%s database=%s", stack.config.api_url, stack.database_url)
        keeping = asyncio.create_task(keep_up(stack.postgres))
        try:
            await stop.wait()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def keep_up(postgres: PostgresServer) -> None:
    """Bring a database server that died back up, again and again if it must be, until cancelled."""
    failures = 0
    while True:
        await asyncio.sleep(min(WATCH_SECONDS * 2**failures, LONGEST_WATCH_SECONDS))
        if postgres.is_running():
            failures = 0
            continue
        _log.error("PostgreSQL stopped unexpectedly; starting it again.")
        try:
            await asyncio.to_thread(postgres.restart)
        except StackError as error:
            failures += 1
            _log.error("PostgreSQL could not be started, and will be tried again: %s", error)


async def _stop(postgres: PostgresServer, starting: asyncio.Future[None]) -> None:
    """Stop a server once its start is over; one that did not start may be somebody else's."""
    try:
        await starting
    except StackError:
        return
    await asyncio.to_thread(postgres.stop)


def main() -> int:
    """`python -m local.server`: what `local.stack.start` runs in the background. Exit code 1: it could not run."""
    default = StackConfig()
    parser = argparse.ArgumentParser(
        prog="local.server", epilog=f"Auth is set by the environment: {', '.join(AuthSettings.variables())}."
    )
    parser.add_argument("--port", type=int, default=default.port)
    parser.add_argument("--db-port", type=int, default=default.db_port)
    parser.add_argument("--data-dir", type=Path, default=default.data_dir)
    parser.add_argument("--project-dir", type=Path, default=default.project_dir)
    parser.add_argument("--ephemeral", action="store_true")
    parser.add_argument("--reload", action="store_true")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("local", "shared", "functions"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        auth = AuthSettings.from_environment(os.environ)
        asyncio.run(serve(StackConfig(**vars(parser.parse_args()), auth=auth)))
    except StackError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
