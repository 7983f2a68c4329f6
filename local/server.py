"""Run a stack: PostgreSQL, platform, migrations and the gateway on a real socket of this machine only.

`running_stack` is the whole stack in the caller's process, for the demo, `dev` and tests; `serve` runs one in the
foreground until it is told to stop. What fails on the way up is a `StackError`, and what had started is stopped again.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from local.auth_settings import AuthSettings
from local.config import StackConfig
from local.errors import StackError
from local.gateway import build_gateway
from local.migrate import migrate
from local.platform import apply_platform
from local.postgres import EPHEMERAL_SETTINGS, PostgresServer
from local.state import StackState

GRACE_SECONDS = 1  # an open stream or websocket gets this long when the stack stops
WATCH_SECONDS = 1.0
LONGEST_WATCH_SECONDS = 10.0  # between tries to start a server that cannot be started

_log = logging.getLogger("local.server")


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
        postgres = await _postgres(config, cleanup)
        config = replace(config, port=listener.getsockname()[1], db_port=postgres.port, data_dir=postgres.data_dir)
        await prepare_database(config.database_url, config.migrations_dir)
        gateway = build_gateway(config, config.database_url)
        await cleanup.enter_async_context(serving(gateway, listener))
        if not config.ephemeral:
            cleanup.enter_context(StackState.of(config).recorded(config.data_dir))
        yield RunningStack(config, config.database_url, postgres)


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncGenerator[None]:
    """Serve an application on a listening socket while the block runs, its lifespan included."""
    server = _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="websockets-sansio",
            ws_per_message_deflate=False,  # to save bytes on loopback costs time, and memory for every socket
            lifespan="off",  # run here, so that what fails in it is raised and not only logged
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    async with app.router.lifespan_context(app):
        serve = asyncio.create_task(server.serve([listener]))
        try:
            ready = asyncio.create_task(server.ready.wait())
            await asyncio.wait([serve, ready], return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            server.should_exit = True
            await serve


async def prepare_database(database_url: str, migrations_dir: Path) -> None:
    """Apply the platform and the project's migrations."""
    await apply_platform(database_url)
    done = await migrate(database_url, migrations_dir)
    if done.seeded:
        _log.info("stack.seeded files=%s", ",".join(done.seeded))
    if done.changed:
        _log.warning(
            "These migrations changed after they were applied, and the database still has the old ones: %s. "
            "Start with an empty data directory to get the new ones.",
            ", ".join(done.changed),
        )


@contextmanager
def listening(host: str, port: int) -> Generator[socket.socket]:
    """A socket bound to this machine only: the keys of a local stack are public."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise StackError(f"The stack listens on this machine only, not on {host}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is named; otherwise each answer waits 40 ms for an ACK.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as exc:
            raise StackError(f"Port {port} for the gateway is taken by another program.") from exc
        yield listener


async def serve(config: StackConfig) -> None:
    """Run a stack until SIGINT or SIGTERM; bring a database server that died back up meanwhile."""
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


async def _postgres(config: StackConfig, cleanup: AsyncExitStack) -> PostgresServer:
    data_dir = config.data_dir
    if config.ephemeral:
        data_dir = Path(tempfile.mkdtemp(prefix="runbase-"))
        cleanup.callback(shutil.rmtree, data_dir, ignore_errors=True)
    server = PostgresServer(data_dir, port=config.db_port, settings=EPHEMERAL_SETTINGS if config.ephemeral else None)
    await asyncio.to_thread(server.start)
    cleanup.push_async_callback(asyncio.to_thread, server.stop)
    return server


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves the process's signal handlers to whoever owns the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def main() -> int:
    """`python -m local.server`: what `local.stack.start` runs in the background. Exit code 1: it could not run."""
    default = StackConfig()
    parser = argparse.ArgumentParser(
        prog="local.server", epilog=f"Auth is set by the environment: {', '.join(AuthSettings.variables())}."
    )
    parser.add_argument("--port", type=int, default=default.port)
    parser.add_argument("--db-port", type=int, default=default.db_port)
    parser.add_argument("--data-dir", type=Path, default=default.data_dir)
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
