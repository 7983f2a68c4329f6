"""Who is measured, and one measurement: a fresh database, a fresh process, one line of JSON.

A contender that cannot be installed or run says why, and the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from bench.contender import Taken
from bench.server import empty_database, runbase_database
from local.config import PROJECT_DIR

GRACE_SECONDS = 60  # to import, prepare and check
LEAST_RATE = 20  # steps a second; who is slower does not run


class ContenderError(Exception):
    """The message is the contender's own last words."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`module` is run as `python -m`; `ours` has a database of ours with everything on, else an empty one."""

    key: str
    title: str
    module: str
    ours: bool = False
    packages: tuple[str, ...] = ()


FLOOR = "floor"
CONTENDERS = (
    Contender(FLOOR, "SQL floor, one transaction a step", "bench.transactions"),
    Contender("batched", "SQL floor, Runbase's calls", "bench.floor", ours=True),
    Contender("runbase", "Runbase, direct wire", "bench.worker", ours=True),
    Contender("rest", "Runbase, PostgREST", "bench.rest_worker", ours=True),
    Contender("absurd", "Absurd", "bench.peers.absurd", packages=("absurd-sdk", "absurdctl")),
    Contender("absurd-client", "Absurd, one client", "bench.peers.absurd_client", packages=("absurd-sdk", "absurdctl")),
    Contender(
        "langgraph",
        "LangGraph, durability sync",
        "bench.peers.langgraph",
        packages=("langgraph", "langgraph-checkpoint-postgres"),
    ),
    Contender("procrastinate", "procrastinate, a job a step", "bench.peers.procrastinate", packages=("procrastinate",)),
    Contender("dbos", "DBOS", "bench.peers.dbos", packages=("dbos",)),
)


def taken_by(contender: Contender, server_url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    """Measure once, on a fresh database of this server.

    Raises:
        ContenderError: it did not do the work.
    """
    database = runbase_database if contender.ours else empty_database
    with database(server_url) as url:
        return taken_alone(contender.module, url, runs=runs, steps=steps, at_a_time=at_a_time)


def taken_alone(module: str, url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    """Measure once, by a process of its own.

    Raises:
        ContenderError: it did not do the work.
    """
    options = {"--runs": runs, "--steps": steps, "--at-a-time": at_a_time}
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, url, *(str(word) for option in options.items() for word in option)],
            cwd=PROJECT_DIR,
            capture_output=True,
            text=True,
            check=True,
            timeout=GRACE_SECONDS + runs * steps / LEAST_RATE,
        )
    except subprocess.CalledProcessError as failure:
        raise ContenderError(_last_line(failure.stderr) or f"exit code {failure.returncode}") from failure
    except subprocess.TimeoutExpired as failure:
        raise ContenderError(f"not done after {failure.timeout:.0f} seconds") from failure
    return Taken(**json.loads(_last_line(done.stdout)))


def versions(contenders: tuple[Contender, ...]) -> dict[str, str | None]:
    """The peers' packages as they are installed; None: not at all."""
    return {name: _version(name) for contender in contenders for name in contender.packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
