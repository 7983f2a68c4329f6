"""What an agent's version settles for its runs: instructions, prompt, tools, model, and whose key pays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from shared.direct_database import DirectDatabase
from shared.engines.registry import engines_from_env
from shared.runs.models import RunId
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from shared.vault.opening import Vault
from tests.engines.scripts import phase
from tests.engines.test_agent_durable import rows
from tests.support.canaries import canary, leaks_in
from tests.support.model_server import ModelServer, Reply
from tests.support.runs import Person, credit_account, new_person, run_row
from tests.vault.people import add_credential, ring

KEYS = ring(1)
PLAN = Reply.json({"goal": "A greeting.", "phases": [phase("greet", tools=["message"])]})
GREETS = Reply.tool("message", {"text": "Hello"})
DONE = Reply.tool("finish_phase", {"summary": "Greeted.", "success": True})
PLATFORM_KEY = "sk-the-platforms-own"
SECRET_WORDS = "Always praise the house brand"


@dataclass
class Shop:
    """An agent of a seller, and somebody who may run it."""

    seller: Person
    buyer: Person
    agent_id: str

    async def run(self, **request: Any) -> RunId:
        asked = {"agent_id": self.agent_id, "input": {"prompt": "Greet Ann"}, "autostart": True, **request}
        return RunId((await self.buyer.call("create_run", json.dumps(asked), None))["run_id"])


async def open_shop(url: str, config: dict[str, Any], **draft: Any) -> Shop:
    seller, buyer = await new_person(url), await new_person(url)
    agent = {"name": "Greeter", "engine": "agent", "config": config, "visibility": "public", **draft}
    agent_id = (await seller.call("create_agent", json.dumps(agent)))["agent_id"]
    await seller.call("publish_agent", agent_id)
    await seller.call("grant_agent", agent_id, buyer.id)
    return Shop(seller, buyer, agent_id)


async def work_off(database: DirectDatabase, server: ModelServer) -> None:
    """Work until nothing is due, on a platform that has a key of its own."""
    env = {
        "SUPABASE_URL": "http://127.0.0.1:1",  # a local stack: a person's key may go where the variables say
        "RUNBASE_LLM": "openai:the-platforms-model",
        "OPENAI_API_KEY": PLATFORM_KEY,
        "OPENAI_BASE_URL": server.openai_url,
    }
    worker = Worker(
        RunStore(database),
        engines_from_env(env),
        options=WorkerOptions(heartbeat_seconds=0.5, poll_seconds=0.1),
        vault=Vault(database, KEYS),
    )
    await worker.run(until_idle=True)


def asked_with(server: ModelServer) -> set[tuple[str, str]]:
    """The keys and models of all requests that came in."""
    return {(one.headers["authorization"].removeprefix("Bearer "), one.body["model"]) for one in server.requests}


async def test_the_agents_model_is_asked_with_the_key_of_who_runs_it_and_costs_no_credits(
    database: DirectDatabase, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(PLAN, GREETS, DONE)
    shop = await open_shop(database_url, {"model": "openai:gpt-5"}, credential_types=["openai"])
    key = canary()
    await add_credential(shop.buyer, KEYS, api_key=key)
    before = await credit_account(database_url, shop.buyer.id)
    run_id = await shop.run()

    await work_off(database, model_server)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"], row["credits_spent"]) == ("completed", None, 0)
    assert asked_with(model_server) == {(key, "gpt-5")}
    assert await credit_account(database_url, shop.buyer.id) == before
    logged = "select count(*) from public.credential_access_log where run_id = %s"
    assert await rows(database_url, logged, run_id) == [3], "the key is opened for each request"


async def test_the_key_that_the_agent_brings_is_used_in_the_place_of_the_buyers(
    database: DirectDatabase, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(PLAN, GREETS, DONE)
    seller, buyer = await new_person(database_url), await new_person(database_url)
    sellers, buyers = canary(), canary()
    credential_id = await add_credential(seller, KEYS, api_key=sellers)
    await add_credential(buyer, KEYS, api_key=buyers)
    draft = {
        "name": "Greeter",
        "engine": "agent",
        "config": {"model": "openai:gpt-5"},
        "credential_types": ["openai"],
        "managed_credentials": {"openai": str(credential_id)},
        "visibility": "public",
    }
    agent_id = (await seller.call("create_agent", json.dumps(draft)))["agent_id"]
    await seller.call("publish_agent", agent_id)
    await seller.call("grant_agent", agent_id, buyer.id)
    await Shop(seller, buyer, agent_id).run()

    await work_off(database, model_server)

    assert asked_with(model_server) == {(sellers, "gpt-5")}


async def test_a_key_that_is_deleted_while_the_run_waits_is_not_made_up_for_by_the_platforms(
    database: DirectDatabase, database_url: str, model_server: ModelServer
) -> None:
    shop = await open_shop(database_url, {"model": "openai:gpt-5"}, credential_types=["openai"])
    credential_id = await add_credential(shop.buyer, KEYS)
    run_id = await shop.run()
    await shop.buyer.call("delete_credential", credential_id)

    await work_off(database, model_server)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "credential_missing")
    assert model_server.requests == []


@pytest.mark.parametrize(
    ("config", "said"),
    [({"model": "openai:gpt-5"}, "The agent uses the model 'openai:gpt-5'"), ({}, "The agent uses a model")],
)
async def test_an_agent_that_asks_for_no_key_and_is_not_managed_gets_none_of_the_platforms(
    database: DirectDatabase, database_url: str, model_server: ModelServer, config: dict[str, Any], said: str
) -> None:
    shop = await open_shop(database_url, config)
    run_id = await shop.run()

    await work_off(database, model_server)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "invalid_input")
    assert row["error"]["message"].startswith(said)
    assert model_server.requests == []


@pytest.mark.parametrize(
    ("config", "model"),
    [({"managed": True}, "the-platforms-model"), ({"managed": True, "model": "openai:gpt-5"}, "gpt-5")],
)
async def test_a_managed_agent_speaks_with_the_platforms_key_for_credits(
    database: DirectDatabase, database_url: str, model_server: ModelServer, config: dict[str, Any], model: str
) -> None:
    model_server.script(PLAN, GREETS, DONE)
    shop = await open_shop(database_url, config)
    run_id = await shop.run()

    await work_off(database, model_server)

    row = await run_row(database_url, run_id)
    assert row["status"] == "completed", row["error"]
    assert asked_with(model_server) == {(PLATFORM_KEY, model)}
    assert row["credits_spent"] > 0


async def test_the_sellers_words_reach_the_model_and_no_row_of_the_buyers(
    database: DirectDatabase, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(PLAN, GREETS, DONE)
    schema = {
        "type": "object",
        "properties": {"who": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["who"],
        "additionalProperties": False,
    }
    config = {
        "managed": True,
        "instructions": SECRET_WORDS,
        "prompt": "Greet {{who}} {{times}} times, never in {{ french }}.",
    }
    shop = await open_shop(database_url, config, input_schema=schema)
    run_id = await shop.run(input={"who": "Ann {{times}}", "times": 3})

    await work_off(database, model_server)

    assert (await run_row(database_url, run_id))["status"] == "completed"
    for request in model_server.requests:
        assert SECRET_WORDS in str(request.body["messages"][0])
    assert "Greet Ann {{times}} 3 times, never in ." in str(model_server.requests[0].body["messages"][1])
    kept = [
        await rows(database_url, f"select to_jsonb(t)::text from public.{table} t where {column} = %s", run_id)
        for table, column in [
            ("agent_runs", "id"),
            ("agent_steps", "run_id"),
            ("agent_messages", "run_id"),
            ("agent_plans", "run_id"),
            ("agent_task_logs", "run_id"),
        ]
    ]
    assert "house brand" not in str(kept)
    assert "never in" not in str(kept)
    assert "who: Ann {{times}}\\ntimes: 3" in str(kept[2]).replace("\\\\n", "\\n"), "what the person entered is there"


async def test_only_the_agents_tools_are_offered(
    database: DirectDatabase, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(Reply.json({"goal": "Run.", "phases": [phase("run", tools=["code"])]}), PLAN, GREETS, DONE)
    shop = await open_shop(database_url, {"managed": True, "tools": ["message", "gone"]})
    run_id = await shop.run()

    await work_off(database, model_server)

    assert (await run_row(database_url, run_id))["status"] == "completed"
    first, repaired, turn, _ = model_server.requests
    assert "write_file" not in str(first.body)
    assert "code" in str(repaired.body["messages"][-1]), "a plan with another tool is sent back"
    offered = [tool["function"]["name"] for tool in turn.body["tools"]]
    assert offered == ["message", "finish_phase", "ask_user", "replan"]


async def test_settings_that_no_longer_can_be_read_fail_the_run_readably(
    database: DirectDatabase, database_url: str, model_server: ModelServer
) -> None:
    shop = await open_shop(database_url, {"managed": "perhaps"})
    run_id = await shop.run()

    await work_off(database, model_server)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "agent_broken")
    assert leaks_in(str(row)) == []
