"""Agents over HTTP: made, imported, published, shown with their forms, and run by who has access."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.ports import listening
from local.serving import serving
from tests.functions.visitor import Visitor
from tests.support.agents import new_credential
from tests.support.runs import assert_books_balance, connect, run_row, set_available
from tests.support.stack import Stack

SECRET = "You are Zanzibar, and the discount code is 4711"
FLOW = "0f7b0f3e-6a0c-4f0e-9a53-3a0f7c1b2d11"
SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "title": "Topic", "minLength": 1, "maxLength": 20},
        "tone": {"type": "string", "enum": ["dry", "warm"], "default": "dry"},
        "mail": {"type": "string", "format": "email"},
        "words": {"type": "integer", "minimum": 10},
    },
    "required": ["topic", "mail"],
    "additionalProperties": False,
}
NO_PROVIDER = "String should match pattern '^[a-z][a-z0-9_]{0,31}$'"
NOT_THE_ACCOUNTS = "is no credential of the agent's account for openai"
GOOD = {"topic": "Tea", "mail": "ann@example.com"}


async def act(visitor: Visitor, action: str, **fields: Any) -> dict[str, Any]:
    """Call the function, expecting success."""
    response = await visitor.post("agents", {"action": action, **fields})
    assert response.is_success, response.text
    return response.json()


async def make(visitor: Visitor, **fields: Any) -> str:
    """The id of a published agent."""
    content = {"config": {"instructions": SECRET, "managed": True}, "input_schema": SCHEMA, **fields}
    made = await act(visitor, "create", name="Writer", engine="agent", visibility="public", **content)
    await act(visitor, "publish", agent_id=made["agent_id"])
    return made["agent_id"]


async def start(visitor: Visitor, agent_id: str, **fields: Any) -> Any:
    body = {"action": "create", "agent_id": agent_id, "input": GOOD, "options": {"autostart": True}, **fields}
    return await visitor.post("agent-execute", body)


async def account_of(visitor: Visitor) -> str:
    return (await visitor.run((await visitor.create())["run_id"]))["account_id"]


@pytest.fixture
async def buyer(stranger: Visitor) -> Visitor:
    return stranger


async def test_an_agent_is_made_shown_and_run_by_who_has_access(owner: Visitor, buyer: Visitor, stack: Stack):
    agent_id = await make(owner, price=0.5)
    await act(owner, "grant", agent_id=agent_id, account_id=await account_of(buyer))

    shown = await act(buyer, "get", agent_id=agent_id)
    response = await start(buyer, agent_id)

    assert response.status_code == 201, response.text
    row = await run_row(stack.database_url, UUID(response.json()["run_id"]))
    assert (row["agent_id"], row["agent_version_id"], row["engine"]) == (
        agent_id,
        shown["agent"]["version_id"],
        "agent",
    )
    assert row["input"] == GOOD
    assert (row["price"], row["credits_spent"]) == (500_000, 500_000)
    assert shown["agent"]["price"] == 0.5
    assert shown["agent"]["may_run"] is True
    assert shown["agent"]["may_edit"] is False


async def test_the_form_keeps_the_order_in_which_it_was_written(owner: Visitor):
    agent_id = await make(owner)

    form = (await act(owner, "get", agent_id=agent_id))["form"]

    assert [(field["name"], field["kind"], field["required"]) for field in form] == [
        ("topic", "text", True),
        ("tone", "choice", False),
        ("mail", "email", True),
        ("words", "integer", False),
    ]
    assert (form[0]["label"], form[0]["maximum"], form[1]["options"]) == ("Topic", 20, ["dry", "warm"])


async def test_a_buyer_sees_nothing_that_the_seller_wrote_for_the_engine(owner: Visitor, buyer: Visitor):
    agent_id = await make(owner)
    await act(owner, "grant", agent_id=agent_id, account_id=await account_of(buyer))
    run_id = (await start(buyer, agent_id)).json()["run_id"]

    answers = [
        (await buyer.post("agents", {"action": "get", "agent_id": agent_id})).text,
        (await buyer.post("agents", {"action": "list"})).text,
        (await buyer.get("agent-status", run_id=run_id, include="steps,messages,logs,plan,artifacts")).text,
    ]

    assert [answer for answer in answers if "Zanzibar" in answer] == []
    assert "Zanzibar" in (await owner.post("agents", {"action": "get", "agent_id": agent_id})).text


@pytest.mark.parametrize(
    "path",
    [
        "agent_versions?select=config",
        "agent_versions?select=*",
        "agent_versions?select=number&config->>instructions=like.You*",
        "agent_versions?select=number&order=config",
        "agent_versions?select=number,managed_credentials",
        "agents?select=name,agent_versions!agent_versions_agent_id_fkey(config)",
        "agents?select=name,agent_versions!agent_versions_agent_id_fkey(*)",
        "agents?select=name,agent_access(agents(agent_versions!agent_versions_agent_id_fkey(config)))",
        "agent_access?select=agents(agent_versions!agent_versions_agent_id_fkey(config))",
        "agent_catalog?select=config",
        "agents?select=account_id,draft_version_id",
        "rpc/read_agent?p_agent_id={agent_id}",
        "rpc/load_run?p_run_id={run_id}",
    ],
)
async def test_no_request_to_the_rest_api_reads_a_config(owner: Visitor, buyer: Visitor, path: str):
    """Embedded, filtered, ordered or called: it is refused, and not empty."""
    agent_id = await make(owner)
    await act(owner, "grant", agent_id=agent_id, account_id=await account_of(buyer))
    run_id = (await start(buyer, agent_id)).json()["run_id"]

    target = path.format(agent_id=agent_id, run_id=run_id)
    response = await buyer.http.get(f"/rest/v1/{target}", headers=buyer.headers)

    assert response.status_code >= 400, response.text
    assert response.json()["code"] in {"42501", "42703", "RUN01", "PGRST200", "PGRST201", "PGRST202"}, response.text
    assert "Zanzibar" not in response.text


async def test_a_public_versions_embedding_works_for_its_public_columns(owner: Visitor, buyer: Visitor):
    """So that the refusals above are of the columns and not of the embedding."""
    await make(owner)

    target = "agents?select=name,agent_versions!agent_versions_agent_id_fkey(number,engine)"
    response = await buyer.http.get(f"/rest/v1/{target}", headers=buyer.headers)

    assert response.json() == [{"name": "Writer", "agent_versions": [{"number": 1, "engine": "agent"}]}]


async def test_everything_that_is_wrong_with_a_run_comes_at_once(owner: Visitor):
    agent_id = await make(owner, credential_types=["openai", "gemini"])

    response = await start(owner, agent_id, input={"topic": "", "tone": "loud", "words": 1.5, "x": 1})

    assert response.status_code == 400
    problems = json.loads(response.json()["details"])
    assert {(problem["field"], problem["message"]) for problem in problems} == {
        ("input.topic", "must not be empty"),
        ("input.tone", "must be one of dry, warm"),
        ("input.words", "must be a whole number"),
        ("input.words", "must be at least 10"),
        ("input.mail", "is required"),
        ("input.x", "is unknown"),
        ("credentials.openai", "is needed: add a credential for openai"),
        ("credentials.gemini", "is needed: add a credential for gemini"),
    }


@pytest.mark.parametrize("known", [True, False])
async def test_no_access_is_like_no_agent(owner: Visitor, buyer: Visitor, *, known: bool):
    agent_id = await make(owner) if known else str(uuid4())

    response = await start(buyer, agent_id)

    assert (response.status_code, response.json()["message"]) == (404, f"There is no agent {agent_id}")


async def test_the_price_is_taken_once_for_a_run_and_its_retry(owner: Visitor, buyer: Visitor, stack: Stack):
    agent_id = await make(owner, price=2)
    account_id = await account_of(buyer)
    await act(owner, "grant", agent_id=agent_id, account_id=account_id)
    run_id = (await start(buyer, agent_id)).json()["run_id"]
    await buyer.act("stop", run_id)

    first = (await buyer.act("retry", run_id)).json()["run_id"]
    second = (await buyer.act("retry", run_id)).json()["run_id"]

    spent = [(await run_row(stack.database_url, UUID(one)))["credits_spent"] for one in (run_id, first, second)]
    assert spent == [2_000_000, 0, 2_000_000]
    await buyer.act("stop", first)
    await buyer.act("stop", second)
    await assert_books_balance(stack.database_url, UUID(account_id))


async def test_what_cannot_be_paid_is_not_started_and_costs_nothing(owner: Visitor, buyer: Visitor, stack: Stack):
    agent_id = await make(owner, price=2)
    account_id = await account_of(buyer)
    await act(owner, "grant", agent_id=agent_id, account_id=account_id)
    created = await start(buyer, agent_id, options={})
    await set_available(stack.database_url, UUID(account_id), 1_999_999)

    refused = await buyer.act("start", created.json()["run_id"])

    assert (refused.status_code, refused.json()["code"]) == (402, "budget_spent")
    assert refused.json()["message"].endswith("costs 2 credits, and the account has 1.999999")
    await set_available(stack.database_url, UUID(account_id), 2_000_000)
    assert (await buyer.act("start", created.json()["run_id"])).status_code == 200


async def test_its_own_account_runs_an_agent_for_nothing(owner: Visitor, stack: Stack):
    agent_id = await make(owner, price=2)

    run_id = (await start(owner, agent_id)).json()["run_id"]

    assert (await run_row(stack.database_url, UUID(run_id)))["credits_spent"] == 0


async def test_a_repeated_create_answers_the_same_also_after_a_publication(owner: Visitor):
    agent_id = await make(owner)
    key = {"Idempotency-Key": "one"}
    body = {"action": "create", "agent_id": agent_id, "input": GOOD}
    first = await owner.post("agent-execute", body, headers=key)
    await act(owner, "update", agent_id=agent_id, input_schema={"type": "object", "required": ["other"]})
    await act(owner, "publish", agent_id=agent_id)

    again = await owner.post("agent-execute", body, headers=key)
    other = await owner.post("agent-execute", {**body, "input": {}}, headers=key)

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json()["run_id"] == first.json()["run_id"]


async def test_a_credential_of_the_account_is_chosen_by_its_id(owner: Visitor, stack: Stack):
    agent_id = await make(owner, credential_types=["openai"])
    account_id = await account_of(owner)
    old = await new_credential(stack.database_url, account_id, "openai")
    await new_credential(stack.database_url, account_id, "openai")

    chosen = await start(owner, agent_id, credentials={"openai": old})
    foreign = await start(owner, agent_id, credentials={"openai": str(uuid4())})

    assert (await run_row(stack.database_url, UUID(chosen.json()["run_id"])))["credential_ids"] == {"openai": old}
    assert foreign.json()["message"] == "credentials.openai: is no credential of this account for openai"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": "magic"}, "engine: Input should be 'agent', 'workflow', 'prompt' or 'flowise'"),
        ({"name": "  "}, r"name: String should match pattern '\S'"),
        ({"price": -1}, "price: Input should be greater than or equal to 0"),
        ({"status": "published"}, "status: Unknown field"),
        ({"credential_types": ["Open AI"]}, f"credential_types.0: {NO_PROVIDER}"),
        ({"input_schema": {"type": "array"}}, "input_schema.type: must be object: a run's input is one"),
        (
            {"input_schema": {"type": "object", "properties": {"a": {"$ref": "https://example.com/s.json"}}}},
            "input_schema.properties.a.$ref: must refer to one of the schema's own $defs",
        ),
        ({"config": {"managed": True, "key": "x"}}, "config.key: Extra inputs are not permitted"),
        ({"config": {}}, "config.model: is needed, or managed: true for the platform's own model"),
        ({"config": {"model": "openai:gpt-5"}}, "credential_types: lacks openai, which config.model needs"),
        ({"config": {"prompt": "On {{it}}", "managed": True}}, "config.prompt: has a place for it, which no input is"),
        ({"managed_credentials": {"openai": FLOW}}, f"managed_credentials.openai: {NOT_THE_ACCOUNTS}"),
    ],
)  # fmt: skip
async def test_a_draft_that_could_not_be_run_is_refused(owner: Visitor, fields: dict[str, Any], message: str):
    request = {"name": "Writer", "engine": "agent", "config": {"managed": True}, **fields}
    response = await owner.post("agents", {"action": "create", **request})

    assert (response.status_code, response.json()["message"]) == (400, message)


async def test_an_update_is_checked_with_what_stays(owner: Visitor):
    agent_id = await make(owner, config={"prompt": "About {{topic}}", "managed": True})

    response = await owner.post(
        "agents", {"action": "update", "agent_id": agent_id, "input_schema": {"type": "object"}}
    )
    await act(owner, "update", agent_id=agent_id, price=3, name="Better")
    shown = await act(owner, "get", agent_id=agent_id)

    assert response.json()["message"] == "config.prompt: has a place for topic, which no input is"
    assert (shown["agent"]["name"], shown["agent"]["price"], shown["editing"]["draft"]["price"]) == ("Better", 0, 3)


async def test_the_catalog_is_searched_and_paged(owner: Visitor, buyer: Visitor):
    ids = [await make(owner, description=f"Number {n}, 100 % tea_time") for n in range(3)]
    await act(owner, "create", name="Draft", engine="prompt", visibility="public")

    first = await act(buyer, "list", limit=2)
    rest = await act(buyer, "list", limit=2, cursor=first["next_cursor"])
    found = await act(buyer, "list", search='1, 100 % tea_"'[:-1])
    editable = await act(owner, "list", only="editable")

    assert [agent["agent_id"] for agent in (*first["agents"], *rest["agents"])] == ids[::-1]
    assert rest["next_cursor"] is None
    assert [agent["agent_id"] for agent in found["agents"]] == [ids[1]]
    assert len(editable["agents"]) == 4
    assert (await act(buyer, "list", only="runnable"))["agents"] == []


@pytest.mark.parametrize("action", ["update", "publish", "retire", "grant", "revoke"])
async def test_somebody_elses_agent_is_not_there_to_change(owner: Visitor, buyer: Visitor, action: str):
    agent_id = await make(owner)
    fields = {"update": {"name": "Mine"}, "grant": {"account_id": FLOW}, "revoke": {"account_id": FLOW}}.get(action, {})

    response = await buyer.post("agents", {"action": action, "agent_id": agent_id, **fields})

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.fixture
async def flowise() -> AsyncGenerator[str]:
    """A server with one flow, for whoever has its key."""

    async def chatflows(request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer flow-key":
            return JSONResponse({"error": "Unauthorized Access"}, 401)
        overrides = {
            "overrideConfig": {"status": True, "nodes": {"OpenAI": [{"name": "openAIApiKey", "enabled": True}]}}
        }
        row = {"id": FLOW, "name": "Support", "type": "CHATFLOW", "apiConfig": json.dumps(overrides)}
        return JSONResponse({"data": [row], "total": 1})

    app = Starlette(routes=[Route("/api/v1/chatflows", chatflows)])
    with listening("127.0.0.1", 0) as listener:
        async with serving(app, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_flow_is_found_and_imported_with_its_inputs(
    owner: Visitor, flowise: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EGRESS_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128")
    server = {"base_url": flowise, "api_key": "flow-key"}
    inputs = [{"name": "topic"}, {"name": "tone", "becomes": "vars.tone", "required": False}]

    flows = (await act(owner, "list_flowise", **server))["flows"]
    made = await act(
        owner, "import_flowise", **server, flow_id=FLOW, inputs=inputs, injection={"openAIApiKey": "openai.api_key"}
    )
    shown = await act(owner, "get", agent_id=made["agent_id"])

    assert [(flow["flow_id"], flow["name"], flow["overridable"]) for flow in flows] == [
        (FLOW, "Support", {"OpenAI": ["openAIApiKey"]})
    ]
    draft = shown["editing"]["draft"]
    assert (shown["agent"]["name"], draft["engine"], draft["credential_types"]) == (
        "Support",
        "flowise",
        ["flowise", "openai"],
    )
    assert draft["config"] == {
        "flow_id": FLOW,
        "input": {"question": "$.topic", "vars": {"tone": "$.tone"}},
        "injection": {"openAIApiKey": "openai.api_key"},
    }
    assert draft["input_schema"]["required"] == ["topic"]
    assert "flow-key" not in json.dumps(shown)


async def test_a_flow_that_the_key_does_not_see_is_not_imported(
    owner: Visitor, flowise: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EGRESS_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128")
    body = {"action": "import_flowise", "base_url": flowise, "flow_id": FLOW}

    wrong_key = await owner.post("agents", {**body, "api_key": "canary-of-a-wrong-key"})
    wrong_flow = await owner.post("agents", {**body, "api_key": "flow-key", "flow_id": str(uuid4())})

    assert (wrong_key.status_code, wrong_key.json()["code"]) == (502, "flowise_key_refused")
    assert "canary" not in wrong_key.text
    assert wrong_flow.status_code == 404


async def test_an_import_does_not_reach_into_private_networks(owner: Visitor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EGRESS_ALLOWED_NETWORKS", raising=False)

    response = await owner.post("agents", {"action": "list_flowise", "base_url": "https://169.254.169.254"})

    assert (response.status_code, response.json()["code"]) == (400, "address_blocked")


async def test_a_flowise_key_is_not_sent_over_http(owner: Visitor):
    server = {"base_url": "http://flows.example", "api_key": "a-key-of-the-server"}
    response = await owner.post("agents", {"action": "list_flowise", **server})

    assert (response.status_code, response.json()["message"].partition(":")[0]) == (400, "base_url")
    assert "a-key-of-the-server" not in response.text


async def test_members_who_are_no_admins_are_told_so(owner: Visitor, stack: Stack, visitor: Callable[[str], Visitor]):
    agent_id = await make(owner)
    person = await stack.sign_up()

    async with connect(stack.database_url) as connection:
        await connection.execute(
            "insert into public.account_members (account_id, user_id, role)"
            " select account_id, %s, 'member' from public.agents where id = %s",
            [person.user_id, agent_id],
        )
    member = visitor(person.access_token)

    assert (await member.post("agents", {"action": "publish", "agent_id": agent_id})).status_code == 403
    assert (await start(member, agent_id)).status_code == 201
