"""The demo itself: a stack, a worker, somebody who signs up, one run from its prompt to its result."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import IO, Any

from local.demo.board import Board
from local.demo.choice import Choice
from local.demo.errors import DemoError
from local.demo.follow import LiveLog, live_log
from local.demo.person import Json, Person
from local.demo.view import View
from local.keys import Keys
from local.server import RunningStack
from local.worker_process import WorkerProcess, running_worker
from shared.tools.sandbox import SandboxUnavailable, warm

TIMEOUT_SECONDS = 1800  # of the run; its agent may wait for a person that long


async def play(choice: Choice, stack: RunningStack, view: View) -> bool:
    """Play the demo and tell whether the run completed.

    Raises:
        DemoError: something on the way did not work.
    """
    async with AsyncExitStack() as cleanup:
        log = cleanup.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        environment = {"RUNBASE_LLM": choice.model}
        worker = await cleanup.enter_async_context(running_worker(stack.database_url, env=environment, log=log))
        with view.doing("Preparing the sandbox"):
            await _prepare_sandbox()
        person = await Person.sign_up(stack.config.api_url, Keys().publishable_key)
        cleanup.push_async_callback(person.leave)
        view.fact("Stack", f"{stack.config.api_url} and PostgreSQL on port {stack.config.db_port}")
        view.fact("User", f"{person.email}, who just signed up")

        run_id = (await person.execute("create", prompt=choice.prompt, options={"timeout_seconds": TIMEOUT_SECONDS}))[
            "run_id"
        ]
        view.fact("Run", f"{run_id}\n")
        board = Board()
        async with live_log(person, run_id) as live:
            await person.execute("start", run_id=run_id)
            with view.following(board):
                await with_worker(worker, log, _follow(live, board, view))
        board.fill(await person.status(run_id, "plan", "steps", "messages", "artifacts"))
        view.results(board)
        return board.status == "completed"


async def _follow(live: LiveLog, board: Board, view: View) -> None:
    person, run_id = live.person, live.run_id
    answered: set[str] = set()
    async for update in live.updates():
        for line in update.lines:
            view.line(line)
            board.note(line)
        board.fill(await person.status(run_id, "plan", "steps"))
        if board.ended and live.last_seq >= board.run["log_seq"]:
            return
        for request in board.run["human_requests"]:
            if request["id"] not in answered:
                answered.add(request["id"])
                await _answer(person, run_id, request, view)


async def _answer(person: Person, run_id: str, request: Json, view: View) -> None:
    """Put a question of the agent to the person at the terminal; without one, nobody can answer, and the run stops."""
    options = [str(option) for option in request["options"]]
    with view.asking():
        view.question(request["prompt"], options)
        answer = await _typed(options) if sys.stdin.isatty() and sys.stdout.isatty() else None
    if answer is None:
        view.fact("Stopped", "nobody is there to answer.")
        await person.execute("stop", run_id=run_id)
    else:
        await person.execute("respond", run_id=run_id, request_id=request["id"], response=answer)


async def _typed(options: list[str]) -> str | None:
    """The answer: any words, or one of the options by its number or text. None at the end of input."""
    while True:
        sys.stdout.write("> ")
        sys.stdout.flush()
        line = await _read_line()
        answer = line.strip()
        if not line:
            return None
        if options and answer.isdecimal() and 1 <= int(answer) <= len(options):
            return options[int(answer) - 1]
        if answer and (not options or answer in options):
            return answer


async def _read_line() -> str:
    """Wait for a line without a thread, which could not be called back when the demo is interrupted."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return os.read(sys.stdin.fileno(), 65_536).decode(errors="replace")


async def with_worker(worker: WorkerProcess, log: IO[bytes], work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, unless the worker ends before it."""
    following, ended = asyncio.create_task(work), asyncio.create_task(worker.ended())
    try:
        await asyncio.wait([following, ended], return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            raise DemoError(f"The worker ended with code {ended.result()}.\n{said[-2000:]}")
        following.result()
    finally:
        following.cancel()
        ended.cancel()
        await asyncio.gather(following, ended, return_exceptions=True)


async def _prepare_sandbox() -> None:
    try:
        await asyncio.to_thread(warm)
    except SandboxUnavailable as error:
        raise DemoError(f"Programs cannot be run here: {error}.") from error
