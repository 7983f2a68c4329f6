"""POST /functions/v1/agents: the catalog of agents, and what their admins do with them.

    list             {search?, engine?, only?, limit?, cursor?}      200: published agents, or those to run or to edit
    get              {agent_id}                                      200: one with its form; with all, for its admins
    create           {name, engine, config?, input_schema?, ...}     201: an agent with a draft
    update           {agent_id, ...}                                 200: the content changes the draft
    list_flowise     {base_url, api_key?}                            200: the flows of a Flowise server
    import_flowise   {base_url, api_key?, flow_id, inputs?, ...}     201: an agent with a draft that asks the flow
    publish          {agent_id}                                      200: the draft is frozen; new runs pin it
    retire           {agent_id}                                      200: nothing of it is started any more
    grant            {agent_id, account_id, expires_at?}             200: the account may run it
    revoke           {agent_id, account_id}                          200

Admins are the owners and admins of the agent's account; to others an agent that is not theirs to change does not exist
(404). What they write in `config` is shown to nobody else. All problems of a draft come at once, as a JSON list of
`{field, message}` in `details`. `Idempotency-Key` makes create and import_flowise safe to repeat. A user may have 20
calls a minute made to Flowise servers, tests of keys among them.
"""

from __future__ import annotations

import asyncio
from typing import cast
from uuid import UUID

from pydantic import TypeAdapter

from functions.agents import bodies
from functions.agents.answers import Agent, AgentAccess, AgentChanged, AgentEditing, Agents, Flows
from functions.agents.catalog import page_of_agents, row_of_agent
from functions.agents.importing import draft_of_flow, list_flows
from shared.agents.contents import PROMPT_FORM, Content, problems_with_content
from shared.agents.forms import with_order
from shared.agents.problems import refuse
from shared.errors import StaleRevision
from shared.http import Answer, Call, endpoint, serverless
from shared.rest_database import RestDatabase
from shared.run_views import micro_credits
from shared.runs.models import JsonObject

_CONTENT = ("engine", "config", "input_schema", "credential_types")
_TRIES = 3  # of changes that come between a check and what it was for


async def agents(call: Call[bodies.AnyBody]) -> Answer:  # noqa: PLR0911 - one return for each action
    """Do what the action says."""
    body, database = call.body, call.database
    # The database asks too, but a Flowise server would have been called by then.
    is_reading = isinstance(body, bodies.ListAgents | bodies.GetAgent)
    call.user.require_scope("agents:read" if is_reading else "agents:write")
    match body:
        case bodies.ListAgents():
            return 200, await page_of_agents(database, body)
        case bodies.GetAgent():
            return 200, await _get(database, body.agent_id)
        case bodies.ListFlows():
            await database.call("begin_flowise_call", {})
            return 200, Flows(flows=await list_flows(body))
        case bodies.CreateAgent() | bodies.ImportFlow():
            return await _create(database, await _request(database, body), call.idempotency_key)
        case bodies.UpdateAgent():
            return 200, await _update(database, body)
        case bodies.PublishAgent():
            return 200, await _checked(database, "publish_agent", {"p_agent_id": str(body.agent_id)}, {})
        case bodies.RetireAgent():
            answer = await database.call("retire_agent", {"p_agent_id": str(body.agent_id)})
            return 200, AgentChanged.model_validate(answer)
        case bodies.GrantAgent():
            arguments = _access(body) | {"p_expires_at": body.expires_at and body.expires_at.isoformat()}
            return 200, AgentAccess.model_validate(await database.call("grant_agent", arguments))
        case bodies.RevokeAgent():
            return 200, AgentAccess.model_validate(await database.call("revoke_agent", _access(body)))


async def _get(database: RestDatabase, agent_id: UUID) -> Agent:
    row = await row_of_agent(database, agent_id)
    if not row["may_edit"]:
        return Agent.from_row(row, None)
    return Agent.from_row(row, AgentEditing.from_row(await _read(database, str(agent_id))))


async def _read(database: RestDatabase, agent_id: str) -> JsonObject:
    return cast("JsonObject", await database.call("read_agent", {"p_agent_id": agent_id}))


async def _request(database: RestDatabase, body: bodies.CreateAgent | bodies.ImportFlow) -> JsonObject:
    """What `create_agent` takes."""
    if isinstance(body, bodies.CreateAgent):
        request = _in_json(body)
        request.setdefault("input_schema", PROMPT_FORM)
    else:
        await database.call("begin_flowise_call", {})
        request = await draft_of_flow(body)
        if body.account_id is not None:
            request["account_id"] = str(body.account_id)
        request["price"] = micro_credits(body.price)
    return request


async def _create(database: RestDatabase, request: JsonObject, key: str | None) -> Answer:
    request["input_schema"] = with_order(cast("JsonObject", request["input_schema"]))
    await _check({"config": {}, "credential_types": [], **request})
    answer = await database.call("create_agent", {"p_request": request, "p_idempotency_key": key})
    changed = AgentChanged.model_validate(answer)
    return (201 if changed.created else 200), changed


async def _update(database: RestDatabase, body: bodies.UpdateAgent) -> AgentChanged:
    changes = _in_json(body)
    if "input_schema" in changes:
        changes["input_schema"] = with_order(cast("JsonObject", changes["input_schema"]))
    arguments: JsonObject = {"p_agent_id": str(body.agent_id), "p_changes": changes}
    if any(name in changes for name in _CONTENT):
        return await _checked(database, "update_agent", arguments, changes)
    return AgentChanged.model_validate(await database.call("update_agent", arguments))


async def _checked(database: RestDatabase, function: str, arguments: JsonObject, changes: JsonObject) -> AgentChanged:
    """Call what settles an agent's content, if that can be run: what is not changed stays, and must fit what is.

    Raises:
        StaleRevision: somebody else changed the agent again and again between the check and the call.
    """
    for tries_left in reversed(range(_TRIES)):
        known = await _read(database, cast("str", arguments["p_agent_id"]))
        await _check({**cast("JsonObject", known["draft"] or known["published"]), **changes})
        try:
            answer = await database.call(function, {**arguments, "p_seen": known["updated_at"]})
        except StaleRevision:
            if not tries_left:
                raise
        else:
            return AgentChanged.model_validate(answer)
    raise AssertionError("the last try answers or raises")


async def _check(version: JsonObject) -> None:
    content = Content(
        engine=cast("str", version["engine"]),
        config=cast("JsonObject", version["config"]),
        input_schema=cast("JsonObject", version["input_schema"]),
        credential_types=cast("list[str]", version["credential_types"]),
    )
    refuse(await asyncio.to_thread(problems_with_content, content))


def _in_json(body: bodies.CreateAgent | bodies.UpdateAgent) -> JsonObject:
    """The fields that were sent, as SQL takes them."""
    sent = body.model_dump(mode="json", exclude={"action", "agent_id"}, exclude_unset=True)
    if body.price is not None and "price" in sent:
        sent["price"] = micro_credits(body.price)
    return {name: value for name, value in sent.items() if value is not None or name == "max_concurrent_runs"}


def _access(body: bodies.GrantAgent | bodies.RevokeAgent) -> JsonObject:
    return {"p_agent_id": str(body.agent_id), "p_account_id": str(body.account_id)}


app = endpoint(
    agents,
    slug="agents",
    accepts=TypeAdapter(bodies.Body),
    replies={200: Agents | Agent | AgentChanged | AgentAccess | Flows, 201: AgentChanged},
    headers={"Idempotency-Key": "1 to 200 printable ASCII characters; repeats of create and import_flowise are safe"},
)
handler = serverless(app)
