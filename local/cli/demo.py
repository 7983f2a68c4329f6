"""`runbase demo`: the main job in one command."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import click

from local.cli.hosting import hosted_stack
from local.cli.signals import unless_stopped
from local.demo.choice import NoModel, choose
from local.demo.errors import DemoError
from local.demo.flowise import play_flowise
from local.demo.place import demo_stack
from local.demo.play import play
from local.demo.view import View
from local.server import RunningStack

Play = Callable[[RunningStack], Coroutine[Any, Any, bool]]


@click.command()
@click.option("--prompt", help="What the agent is to do; needs a model.  [default: the recorded prompt]")
@click.option("--flowise", is_flag=True, help="Run an agent that was made in Flowise, with a person's own key.")
def demo(prompt: str | None, flowise: bool) -> int:  # noqa: FBT001 - click names it
    """Run an agent from prompt to result on an embedded Supabase, and show it live.

    A user signs up, starts a run through the real functions and follows it by Supabase Realtime, while a worker drives
    it; programs that the agent writes run in a sandbox. The model is the one that RUNBASE_LLM or ANTHROPIC_API_KEY
    names (docs/models.md); without either, a recorded conversation answers the recorded prompt.

    With --flowise an admin imports an agent from a stand-in for Flowise, somebody else brings a key of their own and
    runs it, and the key is looked for everywhere afterwards.

    Exit code 0: the run completed; 1: it did not; 2: no model for this prompt.
    """
    if flowise and prompt is not None:
        raise click.UsageError("--prompt is for the agent of its own; --flowise asks a question of its own.")
    # What supabase-py and the gateway log is for whoever debugs them; the view shows what matters.
    logging.basicConfig(level=logging.CRITICAL)
    view = View()
    try:
        return 0 if asyncio.run(_play(_flowise(view) if flowise else _prompt(prompt, view), view)) else 1
    except DemoError as error:
        raise click.ClickException(str(error)) from error


def _flowise(view: View) -> Play:
    return partial(play_flowise, view=view)


def _prompt(prompt: str | None, view: View) -> Play:
    try:
        choice = choose(prompt, os.environ)
    except NoModel as error:
        raise click.UsageError(str(error)) from error
    view.fact("Prompt", choice.prompt)
    view.fact("Model", choice.note)
    return partial(play, choice, view=view)


async def _play(demo: Play, view: View) -> bool:
    async with AsyncExitStack() as cleanup:
        config = cleanup.enter_context(demo_stack())
        with view.doing("Starting PostgreSQL and the gateway"):
            stack, stop = await cleanup.enter_async_context(hosted_stack(config))
        return await unless_stopped(stop, demo(stack))
