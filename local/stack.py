"""Start, stop and describe a stack that runs in the background, for the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from local.cluster import Cluster
from local.config import PROJECT_DIR, StackConfig
from local.errors import StackError
from local.keys import Keys
from local.postgres import PostgresServer
from local.state import StackState

START_SECONDS = 60
STOP_SECONDS = 20
_POLL_SECONDS = 0.02


def start(config: StackConfig) -> StackConfig:
    """Start a stack in the background and return its config with the real ports, once it answers.

    A stack that already runs over the data directory is returned as it is.

    Raises:
        StackError: it did not come up; the message is its own.
    """
    if config.ephemeral:
        raise StackError("An ephemeral stack runs in the foreground only: nobody could find it again.")
    running = status(config)
    if running is not None:
        return running
    log_path = log_file(config)
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        log = log_path.open("w")
    except OSError as exc:
        raise StackError(f"The data directory {config.data_dir} cannot be used: {exc.strerror}.") from exc
    with log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "local.server", "--port", str(config.port), "--db-port", str(config.db_port),
                "--data-dir", str(config.data_dir.absolute()), "--project-dir", str(config.project_dir.absolute()),
            ],
            cwd=PROJECT_DIR, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        running = status(config)
        if running is not None:
            return running
        if process.poll() is not None:
            raise StackError(log_path.read_text(errors="replace").strip() or "The stack ended without a word.")
        time.sleep(_POLL_SECONDS)
    process.terminate()
    raise StackError(f"The stack did not answer within {START_SECONDS} seconds; its log is {log_path}.")


def stop(config: StackConfig) -> bool:
    """Stop the stack over the data directory, also what a killed one left running; False if there was nothing."""
    state = _state(config)
    process = state.process() if state else None
    if process is not None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
    postgres = PostgresServer(config.data_dir)
    leftover = Cluster(config.data_dir).is_ours() and postgres.is_running()
    if leftover:
        postgres.stop()
    return process is not None or leftover


def reset(config: StackConfig) -> bool:
    """Stop the stack over the data directory and delete its database and files; False if there were none.

    Raises:
        StackError: no stack made what is there, and it is left alone; or it cannot be deleted.
    """
    cluster = Cluster(config.data_dir)
    if not cluster.exists():
        return False
    # Before the stop: what we would not delete is not ours to stop either.
    if not cluster.is_ours():
        raise StackError(f"{cluster.folder} was not made by a Runbase stack, so it is left alone.")
    stop(config)
    try:
        if config.storage_dir.exists():
            shutil.rmtree(config.storage_dir)
        cluster.delete()
    except OSError as exc:
        raise StackError(f"What is in {config.data_dir} cannot be deleted: {exc.strerror or exc}.") from exc
    return True


def status(config: StackConfig) -> StackConfig | None:
    """The config of the stack that runs over the data directory, with its real ports, or None."""
    state = _state(config)
    return replace(config, host=state.host, port=state.port, db_port=state.db_port) if state else None


def status_env(config: StackConfig, keys: Keys | None = None) -> str:
    """URLs and keys, line by line as `supabase status -o env` prints them."""
    keys = keys or Keys()
    values = {
        "ANON_KEY": keys.anon_key,
        "API_URL": config.api_url,
        "DB_URL": config.database_url,
        "FUNCTIONS_URL": f"{config.api_url}/functions/v1",
        "JWT_SECRET": keys.jwt_secret,
        "PUBLISHABLE_KEY": keys.publishable_key,
        "REST_URL": f"{config.api_url}/rest/v1",
        "SECRET_KEY": keys.secret_key,
        "SERVICE_ROLE_KEY": keys.service_role_key,
    }
    return "".join(f'{name}="{value}"\n' for name, value in values.items())


def _state(config: StackConfig) -> StackState | None:
    try:
        return StackState.read(config.data_dir)
    except OSError as exc:
        raise StackError(f"The data directory {config.data_dir} cannot be used: {exc.strerror}.") from exc


def log_file(config: StackConfig) -> Path:
    """What the background stack prints."""
    return config.data_dir / "stack.log"
