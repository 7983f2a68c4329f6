"""`runbase demo`: the main job in one command."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack

import click

from local.cli.hosting import hosted_stack
from local.cli.signals import unless_stopped
from local.demo.choice import Choice, NoModel, choose
from local.demo.errors import DemoError
from local.demo.place import demo_stack
from local.demo.play import play
from local.demo.view import View


@click.command()
@click.option("--prompt", help="What the agent is to do; needs a model.  [default: the recorded prompt]")
def demo(prompt: str | None) -> int:
    """Run an agent from prompt to result on an embedded Supabase, and show it live.

    A user signs up, starts a run through the real functions and follows it by Supabase Realtime, while a worker drives
    it; programs that the agent writes run in a sandbox. The model is the one that RUNBASE_LLM or ANTHROPIC_API_KEY
    names (docs/models.md); without either, a recorded conversation answers the recorded prompt.

    Exit code 0: the run completed; 1: it did not; 2: no model for this prompt.
    """
    try:
        choice = choose(prompt, os.environ)
    except NoModel as error:
        raise click.UsageError(str(error)) from error
    # What supabase-py and the gateway log is for whoever debugs them; the view shows what matters.
    logging.basicConfig(level=logging.CRITICAL)
    view = View()
    view.fact("Prompt", choice.prompt)
    view.fact("Model", choice.note)
    try:
        return 0 if asyncio.run(_play(choice, view)) else 1
    except DemoError as error:
        raise click.ClickException(str(error)) from error


async def _play(choice: Choice, view: View) -> bool:
    async with AsyncExitStack() as cleanup:
        config = cleanup.enter_context(demo_stack())
        with view.doing("Starting PostgreSQL and the gateway"):
            stack, stop = await cleanup.enter_async_context(hosted_stack(config))
        return await unless_stopped(stop, play(choice, stack, view))
