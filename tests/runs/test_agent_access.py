"""Who may see, run and change an agent, and that nobody but its admins reads what they wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from shared.runs.store import RunStore
from tests.runs.people import refused
from tests.support.agents import change, grant, new_agent, new_credential, published_agent
from tests.support.runs import Person, claim, connect, join, new_person, run_row, until_lock_wait

SECRET = "You are Zanzibar, and the discount code is 4711"


@dataclass
class Shop:
    """A seller's organisation with an agent, and people of every kind around it."""

    agent_id: str
    account_id: UUID
    people: dict[str, Person]


@pytest.fixture
async def shop(database_url: str) -> Shop:
    names = ("owner", "admin", "member", "viewer", "granted", "purchased", "expired", "stranger")
    people = {name: await new_person(database_url) for name in names}
    async with connect(database_url) as connection:
        row = await (
            await connection.execute(
                "insert into public.accounts (kind, name) values ('organisation', 'Shop') returning id"
            )
        ).fetchone()
    assert row is not None
    for role in ("owner", "admin", "member", "viewer"):
        await join(database_url, people[role], row[0], role)
    owner = people["owner"]
    agent_id = await published_agent(
        owner, account_id=str(row[0]), config={"instructions": SECRET}, visibility="public"
    )
    await grant(owner, agent_id, people["granted"].id)
    await service(database_url, "give_agent_access", agent_id, people["purchased"].id, "purchased")
    async with connect(database_url) as connection:
        await connection.execute(
            "insert into public.agent_access values (%s, %s, 'granted', now() - interval '1 s')",
            [agent_id, people["expired"].id],
        )
    return Shop(agent_id, row[0], people)


async def service(url: str, function: str, *arguments: object) -> Any:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("set local role service_role")
        marks = ", ".join("%s" for _ in arguments)
        row = await (await connection.execute(f"select public.{function}({marks})", arguments)).fetchone()
        assert row is not None
        return row[0]


async def outcome(call: Awaitable[Any]) -> str:
    """`yes`, or the SQLSTATE of the refusal."""
    try:
        await call
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return "yes"


async def sees(person: Person, agent_id: str) -> bool:
    return bool(await person.query("select 1 from public.agent_catalog where id = %s", agent_id))


Ask = Callable[[Person, str], Awaitable[Any]]
ASKS: dict[str, Ask] = {
    "run": lambda person, agent_id: person.create(agent_id=agent_id),
    "run the draft": lambda person, agent_id: person.create(agent_id=agent_id, draft=True),
    "read all": lambda person, agent_id: person.call("read_agent", agent_id),
    "change": lambda person, agent_id: change(person, agent_id, name="Mine"),
    "publish": lambda person, agent_id: person.call("publish_agent", agent_id),
    "retire": lambda person, agent_id: person.call("retire_agent", agent_id),
    "grant": lambda person, agent_id: grant(person, agent_id, person.id),
    "revoke": lambda person, agent_id: person.call("revoke_agent", agent_id, person.id),
}
ADMIN = dict.fromkeys(ASKS, "yes")
NOT_THEIRS = dict.fromkeys(("read all", "change", "publish", "retire", "grant", "revoke"), "RUN01")
ONLY_WORKS_THERE = dict.fromkeys(NOT_THEIRS, "RUN06")
MAY: dict[str, dict[str, str]] = {
    "owner": ADMIN,
    "admin": ADMIN,
    "member": ONLY_WORKS_THERE | {"run": "yes", "run the draft": "RUN06"},
    "viewer": ONLY_WORKS_THERE | {"run": "RUN01", "run the draft": "RUN01"},
    "granted": NOT_THEIRS | {"run": "yes", "run the draft": "RUN06"},
    "purchased": NOT_THEIRS | {"run": "yes", "run the draft": "RUN06"},
    "expired": NOT_THEIRS | {"run": "RUN01", "run the draft": "RUN01"},
    "stranger": NOT_THEIRS | {"run": "RUN01", "run the draft": "RUN01"},
}


@pytest.mark.parametrize("who", MAY)
async def test_who_may_do_what_with_a_published_agent(shop: Shop, who: str) -> None:
    await change(shop.people["owner"], shop.agent_id, price=1)

    assert await sees(shop.people[who], shop.agent_id)
    assert {name: await outcome(ask(shop.people[who], shop.agent_id)) for name, ask in ASKS.items()} == MAY[who]


@pytest.mark.parametrize(
    ("who", "sees", "runs"),
    [
        ("owner", True, "yes"),
        ("admin", True, "yes"),
        ("member", True, "RUN15"),
        ("viewer", True, "RUN01"),
        ("granted", False, "RUN01"),
        ("stranger", False, "RUN01"),
    ],
)
async def test_a_draft_is_its_admins_alone(shop: Shop, who: str, *, sees: bool, runs: str) -> None:
    owner = shop.people["owner"]
    agent_id = await new_agent(owner, account_id=str(shop.account_id), visibility="public")
    await grant(owner, agent_id, shop.people["granted"].id)

    found = await shop.people[who].query("select 1 from public.agents where id = %s", agent_id)
    versions = await shop.people[who].query("select 1 from public.agent_versions where agent_id = %s", agent_id)

    assert bool(found) is sees
    assert bool(versions) is (who in {"owner", "admin"})
    assert await outcome(shop.people[who].create(agent_id=agent_id)) == runs


@pytest.mark.parametrize(("who", "sees"), [("owner", True), ("viewer", True), ("granted", True), ("stranger", False)])
async def test_a_private_agent_is_seen_by_its_account_and_by_who_has_access(
    shop: Shop, who: str, *, sees: bool
) -> None:
    await change(shop.people["owner"], shop.agent_id, visibility="private")

    found = await shop.people[who].query("select 1 from public.agent_catalog where id = %s", shop.agent_id)

    assert bool(found) is sees


@pytest.mark.parametrize("who", ["owner", "member", "granted"])
async def test_nobody_starts_or_retries_a_run_of_a_retired_agent(shop: Shop, who: str) -> None:
    person = shop.people[who]
    created = await person.create(agent_id=shop.agent_id)
    stopped = await person.queue(agent_id=shop.agent_id)
    await person.call("control_run", stopped, "stop")

    await shop.people["owner"].call("retire_agent", shop.agent_id)

    assert await refused(person.create(agent_id=shop.agent_id)) == "RUN15"
    assert await refused(person.call("start_run", created["run_id"])) == "RUN15"
    assert await refused(person.call("retry_run", stopped)) == "RUN15"
    await shop.people["owner"].call("publish_agent", shop.agent_id)
    assert (await person.call("start_run", created["run_id"]))["status"] == "queued"


async def test_access_ends_when_it_expires_and_when_it_is_revoked(shop: Shop, database_url: str) -> None:
    buyer, owner = shop.people["granted"], shop.people["owner"]
    created = await buyer.create(agent_id=shop.agent_id)

    await owner.call("revoke_agent", shop.agent_id, buyer.id)

    assert await refused(buyer.create(agent_id=shop.agent_id)) == "RUN01"
    assert await refused(buyer.call("start_run", created["run_id"])) == "RUN01"
    await grant(owner, shop.agent_id, buyer.id, "2100-01-01T00:00:00Z")
    assert (await buyer.call("start_run", created["run_id"]))["status"] == "queued"
    async with connect(database_url) as connection:
        await connection.execute("update public.agent_access set expires_at = now() where account_id = %s", [buyer.id])
    assert await refused(buyer.create(agent_id=shop.agent_id)) == "RUN01"


async def test_a_draft_is_not_started_or_retried_by_who_is_no_admin_any_more(shop: Shop, database_url: str) -> None:
    admin = shop.people["admin"]
    agent_id = await new_agent(shop.people["owner"], account_id=str(shop.account_id))
    created = await admin.create(agent_id=agent_id)
    stopped = await admin.queue(agent_id=agent_id)
    await admin.call("control_run", stopped, "stop")

    await set_role(database_url, admin, "member")
    refusals = [
        await refused(admin.call("start_run", created["run_id"])),
        await refused(admin.call("retry_run", stopped)),
    ]
    await set_role(database_url, admin, "admin")

    assert refusals == ["RUN06", "RUN06"]
    assert (await admin.call("start_run", created["run_id"]))["status"] == "queued"
    assert (await admin.call("retry_run", stopped))["status"] == "queued"


async def set_role(url: str, person: Person, role: str) -> None:
    """In every organisation that the person is in."""
    async with connect(url) as connection:
        await connection.execute(
            "update public.account_members set role = %s where user_id = %s and account_id <> user_id",
            [role, person.id],
        )


async def test_what_was_purchased_is_not_an_admins_to_take(shop: Shop, database_url: str) -> None:
    buyer = shop.people["purchased"]

    answer = await shop.people["owner"].call("revoke_agent", shop.agent_id, buyer.id)

    assert answer["revoked"] is False
    assert await outcome(buyer.create(agent_id=shop.agent_id)) == "yes"
    await service(database_url, "take_agent_access", shop.agent_id, buyer.id, "purchased")
    assert await outcome(buyer.create(agent_id=shop.agent_id)) == "RUN01"


async def test_access_is_the_accounts_for_which_it_was_given(shop: Shop, database_url: str) -> None:
    """Who may work in two accounts runs the agent in the one that has access."""
    buyer, other = shop.people["granted"], shop.people["stranger"]
    await join(database_url, buyer, other.id, "member")

    assert await outcome(buyer.create(agent_id=shop.agent_id)) == "yes"
    assert await outcome(buyer.create(agent_id=shop.agent_id, account_id=str(other.id))) == "RUN01"


@pytest.mark.parametrize("column", ["account_id", "draft_version_id", "max_concurrent_runs"])
async def test_of_an_agent_nobody_selects_the_inner_columns(shop: Shop, column: str) -> None:
    for who in ("owner", "granted", "stranger"):
        assert await refused(shop.people[who].query(f"select {column} from public.agents")) == "42501"


READS = [
    "select config from public.agent_versions",
    "select managed_credentials from public.agent_versions",
    "select * from public.agent_versions",
    "select v from public.agent_versions v",
    "select to_jsonb(v) from public.agent_versions v",
    "select number from public.agent_versions where config ->> 'instructions' ~ '^You'",
    "select number from public.agent_versions order by config",
    "select count(config) from public.agent_versions",
    "select a.name, v.config from public.agents a join public.agent_versions v on v.id = a.current_version_id",
    "select config from public.agent_catalog",
    "select private.version_for_admins(id) from public.agent_versions",
    "select private.run_view(array[id]) from public.agent_runs",
    "select public.load_run(id) from public.agent_runs",
]


@pytest.mark.parametrize("who", ["owner", "granted", "stranger"])
async def test_no_query_of_a_user_reads_a_config(shop: Shop, who: str) -> None:
    """Not even an admin's: they have a function for it."""
    refusals = {statement: await refused(shop.people[who].query(statement)) for statement in READS}

    assert {statement for statement, code in refusals.items() if code not in {"42501", "42703"}} == set()


async def test_no_table_that_a_buyer_reads_holds_the_config_of_what_he_runs(
    shop: Shop, store: RunStore, database_url: str
) -> None:
    """Non-vacuous: the worker that claims the run does get it."""
    buyer = shop.people["granted"]
    run_id = await buyer.queue(agent_id=shop.agent_id, input={"topic": "tea"})
    (view,) = (await claim(store)).views
    assert view.run.agent is not None
    assert view.run.agent.config == {"instructions": SECRET}
    assert (view.run.id, view.run.agent.agent_id, view.run.agent.number) == (run_id, UUID(shop.agent_id), 1)

    async with connect(database_url) as connection:
        rows = await (
            await connection.execute(
                "select c.table_name, string_agg(quote_ident(c.column_name), ', ') from information_schema.columns c"
                " where c.table_schema = 'public' and has_column_privilege('authenticated',"
                " 'public.' || quote_ident(c.table_name), c.column_name, 'select') group by 1"
            )
        ).fetchall()
    assert {"agents", "agent_versions", "agent_runs", "agent_catalog"} <= {name for name, _ in rows}
    for table, columns in rows:
        shown = await buyer.query(f"select row_to_json(x)::text from (select {columns} from public.{table}) x")
        assert not [row for row in shown if "Zanzibar" in row[0]], table


WRITES = ["insert into public.{} default values", "update public.{} set created_at = now()", "delete from public.{}"]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
async def test_nobody_writes_to_the_tables_by_himself(shop: Shop, role: str) -> None:
    statements = [write.format(table) for table in ("agents", "agent_versions", "agent_access") for write in WRITES]

    refusals = [await refused(shop.people["owner"].query(statement, role=role)) for statement in statements]

    assert set(refusals) == {"42501"}


@pytest.mark.parametrize("function", ["give_agent_access(%s, %s, 'owned')", "take_agent_access(%s, %s, 'purchased')"])
@pytest.mark.parametrize("who", ["owner", "stranger"])
async def test_no_user_gives_access_of_any_kind(shop: Shop, who: str, function: str) -> None:
    person = shop.people[who]

    assert await refused(person.query(f"select public.{function}", shop.agent_id, person.id)) == "42501"


async def test_nobody_without_a_session_sees_an_agent(shop: Shop) -> None:
    for name in ("agents", "agent_versions", "agent_access", "agent_catalog"):
        assert await refused(shop.people["stranger"].query(f"select 1 from public.{name}", role="anon")) == "42501"


FOREIGN_FIELDS = [
    "id",
    "agent_id",
    "status",
    "current_version_id",
    "draft_version_id",
    "number",
    "published_at",
    "pinned_at",
    "managed_types",
    "created_at",
    "updated_at",
    "user_id",
    "created_by",
]


async def test_no_field_but_those_that_are_an_admins_is_taken(shop: Shop) -> None:
    owner = shop.people["owner"]
    sent = [{field: str(uuid4())} for field in FOREIGN_FIELDS]

    changes = [await refused(change(owner, shop.agent_id, **fields)) for fields in sent]
    creations = [await refused(new_agent(owner, **fields)) for fields in sent]

    assert {*changes, *creations} == {"RUN07"}


async def test_an_agent_stays_in_its_account(shop: Shop) -> None:
    owner = shop.people["owner"]

    assert await refused(change(owner, shop.agent_id, account_id=str(owner.id))) == "RUN07"
    assert await refused(new_agent(shop.people["member"], account_id=str(shop.account_id))) == "RUN06"
    assert await refused(new_agent(shop.people["stranger"], account_id=str(shop.account_id))) == "RUN06"


async def test_a_published_version_never_changes_whoever_asks(shop: Shop, database_url: str) -> None:
    async with connect(database_url) as connection:
        for column in ("config", "input_schema", "managed_credentials"):
            with pytest.raises(psycopg.Error) as caught:
                await connection.execute(f"update public.agent_versions set {column} = '{{\"a\": 1}}'")
            assert caught.value.sqlstate == "RUN15"
        with pytest.raises(psycopg.Error) as caught:
            await connection.execute("update public.agent_versions set published_at = null")
    assert caught.value.sqlstate == "RUN15"


async def test_a_run_keeps_the_version_that_it_was_created_with(shop: Shop, database_url: str, store: RunStore) -> None:
    owner, buyer = shop.people["owner"], shop.people["granted"]
    first = await buyer.queue(agent_id=shop.agent_id)
    await change(owner, shop.agent_id, config={"instructions": "new"})
    await owner.call("publish_agent", shop.agent_id)
    second = await buyer.queue(agent_id=shop.agent_id)

    numbers = {view.run.id: view.run.agent and view.run.agent.number for view in (await claim(store)).views}

    assert numbers == {first: 1, second: 2}
    await buyer.call("control_run", (stopped := await buyer.queue(agent_id=shop.agent_id)), "stop")
    await change(owner, shop.agent_id, config={"instructions": "newest"})
    await owner.call("publish_agent", shop.agent_id)
    retried = await buyer.call("retry_run", stopped)
    pinned = [(await run_row(database_url, run_id))["agent_version_id"] for run_id in (stopped, retried["run_id"])]
    assert pinned[0] == pinned[1]


async def test_a_draft_that_was_run_is_frozen_and_changed_in_a_copy(shop: Shop, database_url: str) -> None:
    owner = shop.people["owner"]
    agent_id = await new_agent(owner, config={"a": 1})
    run_id = (await owner.create(agent_id=agent_id))["run_id"]

    before = await owner.call("read_agent", agent_id)
    await change(owner, agent_id, config={"a": 2})
    after = await owner.call("read_agent", agent_id)

    assert (before["draft"]["number"], after["draft"]["number"]) == (1, 2)
    assert (await run_row(database_url, run_id))["agent_version_id"] == before["draft"]["version_id"]
    await change(owner, agent_id, config={"a": 3})
    assert (await owner.call("read_agent", agent_id))["draft"]["number"] == 2


async def test_publishing_needs_a_draft_and_retiring_a_publication(shop: Shop) -> None:
    owner = shop.people["owner"]

    assert await refused(owner.call("publish_agent", shop.agent_id)) == "RUN15"
    assert await refused(owner.call("retire_agent", await new_agent(owner))) == "RUN15"


async def test_the_engine_is_the_versions(shop: Shop, database_url: str) -> None:
    buyer = shop.people["granted"]

    assert await refused(buyer.create(agent_id=shop.agent_id, engine="agent")) == "RUN07"
    made = await buyer.call("create_run", json.dumps({"agent_id": shop.agent_id, "input": {}}))
    assert (await run_row(database_url, made["run_id"]))["engine"] == "list"


async def test_a_managed_credential_is_the_sellers_and_not_in_the_buyers_run(
    shop: Shop, store: RunStore, database_url: str
) -> None:
    owner, buyer = shop.people["owner"], shop.people["granted"]
    key = await new_credential(database_url, shop.account_id, "openai")
    foreign = await new_credential(database_url, buyer.id, "openai")
    types = {"credential_types": ["openai"]}

    assert await refused(change(owner, shop.agent_id, **types, managed_credentials={"openai": foreign})) == "RUN07"
    assert await refused(change(owner, shop.agent_id, managed_credentials={"openai": key})) == "RUN07"
    await change(owner, shop.agent_id, **types, managed_credentials={"openai": key})
    await owner.call("publish_agent", shop.agent_id)
    run_id = await buyer.queue(agent_id=shop.agent_id)

    (view,) = (await claim(store)).views
    assert view.run.credential_ids == {"openai": UUID(key)}
    assert (await run_row(database_url, run_id))["credential_ids"] == {}
    assert await buyer.query("select credential_ids from public.agent_runs where id = %s", run_id) == [({},)]


async def test_credentials_are_the_named_one_else_the_newest_that_works(shop: Shop, database_url: str) -> None:
    owner, buyer = shop.people["owner"], shop.people["granted"]
    await change(owner, shop.agent_id, credential_types=["openai"])
    await owner.call("publish_agent", shop.agent_id)
    old = await new_credential(database_url, buyer.id, "openai")
    newer = await new_credential(database_url, buyer.id, "openai")
    await new_credential(database_url, buyer.id, "openai", last_test={"valid": False})
    await new_credential(database_url, buyer.id, "gemini")

    by_default = await buyer.create(agent_id=shop.agent_id)
    named = await buyer.create(agent_id=shop.agent_id, credentials={"openai": old})

    assert (await run_row(database_url, by_default["run_id"]))["credential_ids"] == {"openai": newer}
    assert (await run_row(database_url, named["run_id"]))["credential_ids"] == {"openai": old}


async def test_everything_that_is_wrong_with_a_request_is_said_at_once(shop: Shop, database_url: str) -> None:
    owner, buyer = shop.people["owner"], shop.people["granted"]
    await change(owner, shop.agent_id, credential_types=["openai", "gemini", "deepseek"], price=5)
    await owner.call("publish_agent", shop.agent_id)
    of_owner = await new_credential(database_url, shop.account_id, "openai")
    other_provider = await new_credential(database_url, buyer.id, "anthropic")

    with pytest.raises(psycopg.Error) as caught:
        await buyer.create(
            agent_id=shop.agent_id,
            max_credits=1,
            engine="agent",
            credentials={"openai": of_owner, "deepseek": other_provider, "http": other_provider},
        )

    problems = json.loads(caught.value.diag.message_detail or "")
    assert {problem["field"] for problem in problems} == {
        "engine", "max_credits", "credentials.openai", "credentials.gemini", "credentials.deepseek", "credentials.http",
    }  # fmt: skip


async def test_a_named_version_must_be_the_one_that_is_pinned(shop: Shop) -> None:
    owner, buyer = shop.people["owner"], shop.people["granted"]
    seen = (await buyer.query("select version_id from public.agent_catalog where id = %s", shop.agent_id))[0][0]
    await change(owner, shop.agent_id, price=1)
    assert await outcome(buyer.create(agent_id=shop.agent_id, version_id=str(seen))) == "yes"

    await owner.call("publish_agent", shop.agent_id)

    assert await refused(buyer.create(agent_id=shop.agent_id, version_id=str(seen))) == "RUN14"


async def test_a_publication_that_comes_between_is_waited_for_or_named(shop: Shop, database_url: str) -> None:
    """The admin's run of his draft waits for who is changing it, and then pins nothing that he has not seen."""
    owner = shop.people["owner"]
    agent_id = await new_agent(owner, config={"a": 1})
    draft_id = (await owner.call("read_agent", agent_id))["draft"]["version_id"]

    async with await psycopg.AsyncConnection.connect(database_url) as editor:
        await editor.execute("update public.agent_versions set config = '{\"a\": 2}' where id = %s", [draft_id])
        rival = Person(make_conninfo(database_url, application_name="rival"), owner.id)
        creating = asyncio.create_task(outcome(rival.create(agent_id=agent_id)))
        await until_lock_wait(database_url, "rival")
        await editor.commit()

    assert await creating == "RUN14"
    assert await outcome(owner.create(agent_id=agent_id)) == "yes"


async def test_runs_and_publications_at_once_pin_versions_that_were_published(shop: Shop, database_url: str) -> None:
    owner, buyer = shop.people["owner"], shop.people["granted"]

    async def publish() -> None:
        for number in range(5):
            await change(owner, shop.agent_id, config={"number": number})
            await owner.call("publish_agent", shop.agent_id)

    async def create() -> list[str]:
        return [(await buyer.create(agent_id=shop.agent_id))["run_id"] for _ in range(10)]

    _, *created = await asyncio.gather(publish(), create(), create())

    async with connect(database_url) as connection:
        rows = await (
            await connection.execute(
                "select count(*), count(v.published_at <= r.created_at or null) from public.agent_runs r"
                " join public.agent_versions v on v.id = r.agent_version_id where r.agent_id = %s",
                [shop.agent_id],
            )
        ).fetchall()
    assert sum(map(len, created)) == 20
    assert rows == [(20, 20)]
