"""What an API key may do: its person's rights, narrowed to its scopes, by whatever way it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable
from uuid import uuid4

import pytest
from realtime import RealtimeSubscribeStates
from supabase import AsyncClientOptions, acreate_client

from functions.openapi import DOCUMENT
from local.config import PROJECT_DIR
from shared.api_keys.scopes import SCOPES
from shared.runs.status import RunStatus
from tests.functions.programs import Direct, Owner, Program
from tests.functions.visitor import PROMPT, HandWorker
from tests.local.realtime import until
from tests.support.node import run_script
from tests.support.runs import connect

CREATE = {"action": "create", "prompt": PROMPT}
OTHERS = [
    (("agents", {"action": "list"}), "agents:read"),
    (("agents", {"action": "retire", "agent_id": str(uuid4())}), "agents:write"),
    (("credentials", {"action": "list"}), "credentials:read"),
    (("credentials", {"action": "delete", "credential_id": str(uuid4())}), "credentials:write"),
    (("credential-test", {"credential_id": str(uuid4())}), "credentials:write"),
]


async def direct(owner: Owner, program: Program) -> Direct:
    return Direct(owner.visit(await program.token()))


async def refused(call: Awaitable[object]) -> tuple[int, str]:
    response = await call
    return response.status_code, response.json()["code"]  # type: ignore[attr-defined]


async def readable_tables(database_url: str) -> list[str]:
    """Every table and view of the API that a signed-in user may read some column of, with the columns."""
    async with connect(database_url) as connection:
        cursor = await connection.execute(
            "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v')"
            " and has_any_column_privilege('authenticated', c.oid, 'select') order by 1"
        )
        return [name for (name,) in await cursor.fetchall()]


async def test_every_function_of_users_takes_a_key_in_place_of_a_token(key_owner: Owner):
    program = await key_owner.make()
    visitor = program.visitor

    run = await visitor.create(autostart=True)
    run_id = run["run_id"]

    assert (await visitor.get("agent-status", run_id=run_id)).json()["run"]["user_id"] == key_owner.person.user_id
    assert (await visitor.post("agent-status")).json()["runs"][0]["id"] == run_id
    assert (await visitor.get("agent-logs", run_id=run_id)).json()["logs"] != []
    assert (await visitor.act("stop", run_id)).json()["status"] == "cancelled"


async def test_a_key_is_taken_as_apikey_unless_a_person_is_signed_in(key_owner: Owner, http):
    program = await key_owner.make(["runs:read"])
    alone = {"apikey": program.key}
    with_public_bearer = {"apikey": program.key, "Authorization": f"Bearer {key_owner.stack.anon_key}"}
    with_person = {"apikey": program.key, "Authorization": f"Bearer {key_owner.person.access_token}"}

    for headers, status in ((alone, 403), (with_public_bearer, 403), (with_person, 201)):
        response = await http.post("/functions/v1/agent-execute", json=CREATE, headers=headers)
        assert response.status_code == status


async def test_the_official_client_calls_functions_with_a_key(key_owner: Owner):
    program = await key_owner.make()
    options = AsyncClientOptions(headers={"Authorization": f"Bearer {program.key}"})
    client = await acreate_client(key_owner.stack.url, key_owner.stack.anon_key, options=options)

    answer = json.loads(await client.functions.invoke("agent-execute", {"body": CREATE}))

    assert answer["created"] is True


async def test_supabase_js_works_with_a_key(key_owner: Owner):
    program = await key_owner.make(["runs:read", "runs:write"])

    seen = await run_script("api_key.mjs", key_owner.stack, RUNBASE_API_KEY=program.key)

    assert seen["runs"] == [{"id": seen["run"]}]
    assert seen["accounts"] == []
    assert seen["status"] == "queued"
    assert seen["exchanges"] == 1


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_does_what_its_one_scope_says_and_nothing_else(key_owner: Owner, scope: str):
    run_id = (await key_owner.visitor.create())["run_id"]
    program = await key_owner.make([scope])
    visitor = program.visitor
    may_write, may_read = scope == "runs:write", scope == "runs:read"
    tables = await direct(key_owner, program)

    assert (await visitor.post("agent-execute", CREATE)).status_code == (201 if may_write else 403)
    assert (await visitor.act("start", run_id)).status_code == (200 if may_write else 403)
    assert (await visitor.act("stop", run_id)).status_code == (200 if may_write else 403)
    assert (await visitor.get("agent-logs", run_id=run_id)).status_code == (200 if may_read else 403)
    assert (await visitor.post("agent-status")).status_code == (200 if may_read else 403)
    for body, needed in OTHERS:
        answer = await visitor.post(*body)
        assert (answer.status_code == 403) is (scope != needed), answer.text
    assert bool(await tables.rows("agent_runs")) is may_read
    assert bool(await tables.rows("accounts")) is (scope == "account:read")
    assert bool(await tables.rows("credit_accounts")) is (scope == "account:read")


async def test_no_key_drains_the_queue(key_owner: Owner):
    program = await key_owner.make()

    assert await refused(program.visitor.post("queue-drain")) == (403, "forbidden")


async def test_a_refusal_names_the_scope(key_owner: Owner):
    program = await key_owner.make(["runs:read"])

    answer = await program.visitor.post("agent-execute", CREATE)

    assert answer.json()["message"] == "The API key lacks the scope runs:write"


async def test_every_table_that_people_read_asks_for_a_scope(database_url: str):
    async with connect(database_url) as connection:
        cursor = await connection.execute(
            "select p.tablename, string_agg(p.qual, ' ') from pg_policies p where p.schemaname = 'public' group by 1"
        )
        conditions = dict(await cursor.fetchall())
        views = {
            name
            for (name,) in await (
                await connection.execute(
                    "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'v'"
                    " and 'security_invoker=true' = any (reloptions)"
                )
            ).fetchall()
        }

    tables = set(await readable_tables(database_url)) - views
    assert {name for name in tables if not re.search(r"has_scope|my_scopes", conditions.get(name, ""))} == set()


async def test_every_function_that_people_call_asks_for_a_scope(database_url: str):
    """A wrapper in public calls its definer in private; that, or something it calls, asks."""
    async with connect(database_url) as connection:
        cursor = await connection.execute(
            "select p.pronamespace::regnamespace || '.' || p.proname, pg_get_functiondef(p.oid),"
            " p.pronamespace = 'public'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')"
            " from pg_proc p where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
        )
        rows = await cursor.fetchall()
    calls = {name: set(re.findall(r"private\.\w+(?=\()", body)) - {name} for name, body, _ in rows}

    def asks(name: str, seen: frozenset[str] = frozenset()) -> bool:
        called = calls.get(name, set()) - seen
        return bool(called & {"private.require_scope", "private.has_scope", "private.key_owner"}) or any(
            asks(one, seen | called) for one in called
        )

    # show_runs reads one table as its caller, whose policy asks.
    asked = {"public.show_runs"} | {name for name in calls if asks(name)}
    assert sorted({name for name, _, is_for_people in rows if is_for_people} - asked) == []


async def test_no_key_manages_keys_by_any_way(key_owner: Owner):
    program = await key_owner.make()
    tables = await direct(key_owner, program)
    new = {"p_hash": "0" * 64, "p_last_four": "abcd", "p_name": "CI", "p_scopes": ["runs:read"]}
    rotation = {"p_api_key_id": program.id, "p_hash": "1" * 64, "p_last_four": "abcd"}

    for body in ({"action": "list"}, {"action": "create", "name": "x", "scopes": ["runs:read"]}):
        assert await refused(program.visitor.post("api-keys", body)) == (403, "forbidden")
    assert await refused(tables.call("create_api_key", **new)) == (400, "RUN06")
    assert await refused(tables.call("rotate_api_key", **rotation)) == (400, "RUN06")
    assert await refused(tables.call("revoke_api_key", p_api_key_id=program.id)) == (400, "RUN06")
    assert await tables.rows("api_keys") == []
    assert len(await key_owner.listed()) == 1


async def test_people_cannot_write_keys_or_exchange_them_past_the_functions(key_owner: Owner):
    program = await key_owner.make()
    tables = Direct(key_owner.visitor)
    path, headers = f"/rest/v1/api_keys?id=eq.{program.id}", key_owner.visitor.headers

    patched = await tables.visitor.http.patch(path, json={"scopes": ["runs:write"]}, headers=headers)
    exchanged = await tables.call("exchange_api_key", p_hash="0" * 64)

    assert (patched.status_code, patched.json()["code"]) == (403, "42501")
    assert (exchanged.status_code, exchanged.json()["code"]) == (403, "42501")


async def test_a_lost_role_is_lost_to_the_key_at_once(key_owner: Owner, database_url: str):
    host = await key_owner.stack.sign_up()
    async with connect(database_url) as connection:
        member = "insert into account_members (account_id, user_id, role) values (%s, %s, 'member')"
        await connection.execute(member, [host.user_id, key_owner.person.user_id])
        program = await key_owner.make()
        body = {**CREATE, "account_id": host.user_id}
        assert (await program.visitor.post("agent-execute", body)).status_code == 201

        demoted = "update account_members set role = 'viewer' where user_id = %s and account_id = %s"
        await connection.execute(demoted, [key_owner.person.user_id, host.user_id])
        assert (await program.visitor.post("agent-execute", body)).status_code == 403

        removed = "delete from account_members where user_id = %s and account_id = %s"
        await connection.execute(removed, [key_owner.person.user_id, host.user_id])
    listed = await program.visitor.post("agent-status", {"account_id": host.user_id})
    assert listed.status_code >= 400 or listed.json()["runs"] == []


@pytest.mark.parametrize(("method", "path"), [("GET", "user"), ("PUT", "user"), ("POST", "logout")])
async def test_the_auth_server_takes_no_token_of_a_key(key_owner: Owner, http, method: str, path: str):
    """Else whoever finds a key could change its owner's password."""
    token = await (await key_owner.make()).token()
    headers = {"apikey": key_owner.stack.anon_key, "Authorization": f"Bearer {token}"}

    answer = await http.request(method, f"/auth/v1/{path}", headers=headers, json={"password": "a new password"})

    assert (answer.status_code, answer.json()["error_code"]) == (403, "session_not_found")


async def subscribe(owner: Owner, program: Program, run_id: str) -> tuple[list[RealtimeSubscribeStates], list[object]]:
    """Join the run's topic with the program's token: the states, and what is heard."""
    client = await owner.stack.client()
    await client.realtime.set_auth(await program.token())
    states: list[RealtimeSubscribeStates] = []
    heard: list[object] = []
    channel = client.channel(f"run:{run_id}", {"config": {"private": True}})  # type: ignore[typeddict-item]
    channel.on_broadcast("log", heard.append)
    await channel.subscribe(lambda state, _: states.append(state))
    await until(lambda: states)
    if states[0] == RealtimeSubscribeStates.SUBSCRIBED:
        await channel.send_broadcast("log", {"forged": True})
    return states, heard


async def test_a_key_that_reads_runs_listens_and_says_nothing(key_owner: Owner, database):
    run_id = (await key_owner.visitor.create(autostart=True))["run_id"]
    worker = HandWorker(database, run_id)
    await worker.claim()
    states, heard = await subscribe(key_owner, await key_owner.make(["runs:read"]), run_id)

    await worker.say("hello")
    await until(lambda: "hello" in str(heard))

    assert states[0] == RealtimeSubscribeStates.SUBSCRIBED
    assert "forged" not in str(heard)


@pytest.mark.parametrize("scopes", [["runs:write"], ["account:read", "agents:write"]])
async def test_a_key_that_reads_no_runs_hears_nothing(key_owner: Owner, scopes: list[str]):
    run_id = (await key_owner.visitor.create(autostart=True))["run_id"]

    states, _ = await subscribe(key_owner, await key_owner.make(scopes), run_id)

    assert states[0] == RealtimeSubscribeStates.CHANNEL_ERROR


async def test_a_stream_of_logs_is_open_to_a_key(key_owner: Owner, database):
    run_id = (await key_owner.visitor.create(autostart=True))["run_id"]
    worker = HandWorker(database, run_id)
    await worker.claim()
    await worker.say("hello")
    await worker.end(RunStatus.FAILED)

    program = await key_owner.make(["runs:read"])
    answer = await program.visitor.get("agent-logs", run_id=run_id, mode="stream")

    assert "hello" in answer.text
    assert "event: done" in answer.text


async def test_the_scopes_are_the_same_everywhere(database_url: str):
    async with connect(database_url) as connection:
        cursor = await connection.execute("select name from private.api_key_scopes")
        known = {name for (name,) in await cursor.fetchall()}

    page = (DOCUMENT.parent / "api-keys.md").read_text()
    assert known == set(SCOPES) == set(re.findall(r"^\| `([a-z]+:[a-z]+)` \|", page, re.MULTILINE))


def test_the_exchange_alone_gets_the_signing_key():
    template = (PROJECT_DIR / "infra" / "template.yaml").read_text()
    blocks = re.split(r"\n  (?=[A-Z])", template.split("\nResources:")[1])

    holders = [block.split(":")[0].strip() for block in blocks if "RUNBASE_JWT_SIGNING_KEY:" in block]

    assert holders == ["ApiKeyExchange"]
