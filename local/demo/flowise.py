"""The demo of a person's own key: an agent that an admin made in Flowise, run with the key of somebody who uses it.

Flowise is a stand-in that speaks the shapes of Flowise 3.1 and has no model; all else is real. Ten steps, each said
before it is done, and at the end what became of the key.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import AsyncExitStack

import psycopg
from psycopg.sql import SQL, Identifier

from local.demo.board import Board
from local.demo.errors import DemoError
from local.demo.follow import LiveLog, live_log
from local.demo.person import Json, Person
from local.demo.play import with_worker
from local.demo.view import View
from local.keys import Keys
from local.server import RunningStack
from local.stand_ins.flowise import FlowiseServer, ModelCall, Turn
from local.worker_process import running_worker

QUESTION = "What is the capital of France?"


def answered(call: ModelCall) -> str:
    """What the flow's model says; it tells whose key it was asked with, by its last four."""
    return f"The capital of France is Paris. The flow's model was asked with a key that ends in {call.key[-4:]}."


async def play_flowise(stack: RunningStack, view: View) -> bool:
    """Play the ten steps and tell whether the run completed and the key stayed where it belongs.

    Raises:
        DemoError: something on the way did not work.
    """
    async with AsyncExitStack() as cleanup:
        flowise = cleanup.enter_context(FlowiseServer(key=f"fw-{secrets.token_urlsafe(24)}"))
        log = cleanup.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        worker = await cleanup.enter_async_context(running_worker(stack.database_url, log=log))
        admin, person = [await _signed_up(stack, cleanup) for _ in range(2)]
        view.fact("Stack", f"{stack.config.api_url} and PostgreSQL on port {stack.config.db_port}")
        view.fact("Flowise", f"{flowise.url}, a stand-in without a model\n")

        agent_id = await _offer(admin, flowise, view)
        key = f"sk-proj-{secrets.token_urlsafe(30)}"
        run_id = await _prepare(admin, person, agent_id, key, view)
        board = Board()
        async with live_log(person, run_id) as live:
            await person.execute("start", run_id=run_id)
            with view.following(board):
                await with_worker(worker, log, _follow(live, board, view))
        board.fill(await person.status(run_id, "steps"))
        view.step(8, f"The key was opened for one step, and Flowise got it: {_last_four(flowise)}")
        view.step(9, f"The answer was streamed in {len(live.texts)} pieces as it was written: {_answer_of(board)}")
        return await _look_back(stack, person, key, run_id, view) and board.status == "completed"


async def _signed_up(stack: RunningStack, cleanup: AsyncExitStack) -> Person:
    person = await Person.sign_up(stack.config.api_url, Keys().publishable_key)
    cleanup.push_async_callback(person.leave)
    return person


async def _offer(admin: Person, flowise: FlowiseServer, view: View) -> str:
    flow = flowise.chatflow(Turn(answered, seconds_a_word=0.1), name="Capitals", enabled={"OpenAI": ("openAIApiKey",)})
    view.step(1, f"{admin.email} made the chatflow {flow.name!r} in Flowise")
    # The admin's key of the Flowise server is a credential too: the agent brings it for everybody's runs.
    server = {"base_url": flowise.url, "api_key": flowise.key}
    stored = await admin.call("credentials", action="create", provider="flowise", fields=server)
    agent = await admin.call(
        "agents",
        action="import_flowise",
        **server,
        flow_id=flow.id,
        credential_id=stored["credential"]["id"],
        inputs=[{"name": "question", "schema": {"type": "string", "title": "Question", "minLength": 2}}],
        injection={"openAIApiKey": "openai.api_key"},
    )
    agent_id: str = agent["agent_id"]
    await admin.call("agents", action="update", agent_id=agent_id, visibility="public")
    await admin.call("agents", action="publish", agent_id=agent_id)
    view.step(2, f"and imported and published it as agent {agent_id}")
    return agent_id


async def _prepare(admin: Person, person: Person, agent_id: str, key: str, view: View) -> str:
    """What a person does before a run; its id."""
    (card,) = (await person.call("agents", action="list"))["agents"]
    view.step(3, f"{person.email} signed up, and sees {card['name']!r} in the catalog")
    added: Json = await person.call("credentials", action="create", provider="openai", fields={"api_key": key})
    view.step(4, f"adds a key for OpenAI, of which only {added['credential']['last_four']!r} is ever shown again")
    await admin.call("agents", action="grant", agent_id=agent_id, account_id=person.user_id)
    view.step(5, "gets access to the agent")
    form = await person.call("agents", action="get", agent_id=agent_id)
    names = ", ".join(field["label"] for field in form["form"])
    agent = form["agent"]
    needed = ", ".join(sorted({*agent["required_credential_types"]} - {*agent["managed_credential_types"]}))
    view.step(6, f"fills in its form ({names}; a key for {needed}): {QUESTION}")
    created = await person.execute("create", agent_id=agent_id, input={"question": QUESTION})
    view.step(7, f"and runs it: {created['run_id']}\n")
    return created["run_id"]


async def _follow(live: LiveLog, board: Board, view: View) -> None:
    async for update in live.updates():
        for line in update.lines:
            view.line(line)
        board.fill(await live.person.status(live.run_id, "steps"))
        if board.ended and live.last_seq >= board.run["log_seq"]:
            return


def _answer_of(board: Board) -> str:
    output: Json = board.run["output"] or {}
    return str(output.get("text", ""))


def _last_four(flowise: FlowiseServer) -> str:
    if not flowise.calls:
        raise DemoError("Flowise was never asked.")
    return f"the key that ends in {flowise.calls[-1].key[-4:]}"


async def _look_back(stack: RunningStack, person: Person, key: str, run_id: str, view: View) -> bool:
    """Find the run again, and look for the key in all that people can read and in every row of the database."""
    history = await person.call("agent-status")
    opened = await person.client.table("credential_access_log").select("run_id").eq("run_id", run_id).execute()
    everything = str(await person.status(run_id, "steps", "messages", "artifacts", "logs")) + str(history)
    kept = await asyncio.to_thread(_rows_with, stack.database_url, key)
    clean = key not in everything and not kept
    found = "and the key is in no answer and no row" if clean else f"BUT THE KEY IS IN {', '.join(kept) or 'an answer'}"
    view.step(10, f"The run is in the history, {len(opened.data)} opening of the key is logged, {found}")
    return clean


def _rows_with(database_url: str, key: str) -> list[str]:
    """The tables of which a row holds the key."""
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        return [
            f"{schema}.{name}"
            for schema, name in tables
            if connection.execute(
                SQL("select from {} t where strpos(t::text, %s) > 0 limit 1").format(Identifier(schema, name)),
                [key],
            ).fetchone()
            is not None
        ]
