"""The catalog of agents page by page, whatever is asked of it and whatever was written past the functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from functions.agent_status import cursor as cursors
from tests.functions.history import member
from tests.functions.test_agents import account_of, act, make, start
from tests.functions.visitor import Visitor
from tests.support.rest import configure_rest
from tests.support.runs import connect, new_person
from tests.support.stack import Stack

MANY_AGENTS = """
with new as (
  insert into public.agents (account_id, name, visibility, created_at)
    select %s, 'Agent ' || n, 'public', now() - n * interval '1 s' from generate_series(1, 5000) n returning id
)
insert into public.agent_versions (agent_id, number, engine, published_at) select id, 1, 'list', now() from new
"""
PUBLISHED = """
update public.agents a set current_version_id = v.id, status = 'published'
  from public.agent_versions v where v.agent_id = a.id
"""
ID = "0f7b0f3e-6a0c-4f0e-9a53-3a0f7c1b2d11"


@dataclass
class Someone:
    """A person with accounts of several kinds."""

    url: str
    visitor: Visitor
    id: str

    async def joins(self, role: str) -> str:
        """The id of a new organisation that he has this role in."""
        async with connect(self.url) as connection:
            cursor = await connection.execute(
                "insert into public.accounts (kind, name) values ('organisation', 'O') returning id::text"
            )
            (account_id,) = await cursor.fetchone() or ()
        await member(self.url, self.id, account_id, role)
        return account_id


@pytest.fixture
async def buyer(stack: Stack, stranger: Visitor) -> Someone:
    return Someone(stack.database_url, stranger, await account_of(stranger))


@pytest.mark.parametrize(
    "place",
    [
        ["2026-W01-1", ID],
        ["2026-01-01", ID],
        ["0001-01-01T00:00:00+23:59", ID],
        ["9999-12-31T23:59:59-23:59", ID],
        ["yesterday", ID],
        ["2026-01-01T00:00:00+00:00", "1"],
        [1, ID],
    ],
    ids=str,
)
async def test_a_forged_cursor_is_refused(owner: Visitor, place: list[str | int]):
    response = await owner.post("agents", {"action": "list", "cursor": cursors.encode("agents", place)})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input"), response.text


async def test_a_cursors_time_is_the_same_in_any_zone(owner: Visitor):
    agent_id = await make(owner)

    for time, found in (("9999-01-01T00:00:00+23:59", [agent_id]), ("0002-01-01T00:00:00-23:59", [])):
        cursor = cursors.encode("agents", [time, str(UUID(int=0))])
        page = await act(owner, "list", only="editable", cursor=cursor)
        assert [agent["agent_id"] for agent in page["agents"]] == found


@pytest.fixture
def two_rows_at_most(database_url: str) -> None:
    """A project whose REST interface gives fewer rows than were asked for (its setting max-rows)."""
    configure_rest(database_url, db_max_rows="2")


@pytest.mark.usefixtures("two_rows_at_most")
async def test_its_pages_are_whole_where_the_database_cuts_answers_short(owner: Visitor):
    ids = [await make(owner) for _ in range(5)][::-1]

    first = await act(owner, "list", only="editable", limit=3)
    rest = await act(owner, "list", only="editable", limit=3, cursor=first["next_cursor"])

    assert [[agent["agent_id"] for agent in page["agents"]] for page in (first, rest)] == [ids[:3], ids[3:]]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("schema", [{"properties": [1]}, {"properties": {"a": {}}, "required": 5}], ids=str)
async def test_a_schema_that_was_written_past_the_functions_has_no_form(
    owner: Visitor, http: httpx.AsyncClient, schema: dict[str, Any]
):
    request = {"name": "Broken", "engine": "prompt", "input_schema": {"type": "object", **schema}}
    made = await http.post("/rest/v1/rpc/create_agent", headers=owner.headers, json={"p_request": request})
    agent_id = made.json()["agent_id"]
    await http.post("/rest/v1/rpc/publish_agent", headers=owner.headers, json={"p_agent_id": agent_id})

    shown = await act(owner, "get", agent_id=agent_id)

    assert shown["agent"]["status"] == "published"
    assert shown["form"] == []


@pytest.mark.parametrize(
    ("expires_at", "status"),
    [
        ("0001-01-01T00:00:00+23:00", 400),
        ("9999-12-31T23:59:59-23:00", 400),
        ("2001-01-01T00:00:00+23:59", 400),
        ("2999-01-01T00:00:00+23:59", 200),
    ],
)
async def test_the_end_of_an_access_is_a_time_in_any_zone(owner: Visitor, expires_at: str, status: int):
    agent_id, account_id = await make(owner), await account_of(owner)

    response = await owner.post(
        "agents", {"action": "grant", "agent_id": agent_id, "account_id": account_id, "expires_at": expires_at}
    )

    assert response.status_code == status, response.text


async def test_it_says_which_accounts_may_run_an_agent(owner: Visitor, buyer: Someone):
    """Of who only reads in an account that has access, and of accounts without, nothing is said."""
    agent_id = await make(owner)
    works_in, reads_in, _ = [await buyer.joins(role) for role in ("member", "viewer", "admin")]
    for account_id in (works_in, reads_in):
        await act(owner, "grant", agent_id=agent_id, account_id=account_id)

    (card,) = [one for one in (await act(buyer.visitor, "list"))["agents"] if one["agent_id"] == agent_id]
    refused = await start(buyer.visitor, agent_id)
    started = await start(buyer.visitor, agent_id, account_id=card["run_as"][0])
    await act(owner, "grant", agent_id=agent_id, account_id=buyer.id)
    with_own = (await act(buyer.visitor, "get", agent_id=agent_id))["agent"]
    await act(owner, "retire", agent_id=agent_id)
    retired = (await act(buyer.visitor, "get", agent_id=agent_id))["agent"]

    assert (card["run_as"], card["may_run"]) == ([works_in], True)
    assert (refused.status_code, started.status_code) == (404, 201)
    assert with_own["run_as"] == [buyer.id, works_in]
    assert (retired["run_as"], retired["may_run"]) == ([], False)


async def test_who_works_where_an_agent_is_made_may_run_it_in_any_account_of_his(stack: Stack, owner: Visitor):
    agent_id, account_id = await make(owner), await account_of(owner)
    someone = Someone(stack.database_url, owner, account_id)
    others = sorted([await someone.joins("member"), await someone.joins("owner")])

    card = (await act(owner, "get", agent_id=agent_id))["agent"]

    assert card["run_as"] == [account_id, *others]


async def test_a_page_reads_little_of_a_large_catalog(database_url: str):
    """By the index that they are ordered by, from its start, for who is not of their account."""
    person = await new_person(database_url)
    async with connect(database_url) as connection:
        await connection.execute(MANY_AGENTS, [person.id])
        await connection.execute(PUBLISHED)
        await connection.execute("analyze public.agents, public.agent_versions")
    rows = await person.query(
        "explain (analyze, format json) select name, run_as from public.agent_catalog"
        " where status = 'published' order by created_at desc, id limit 51"
    )
    (scan,) = [node for node in nodes(rows[0][0][0]["Plan"]) if node.get("Relation Name") == "agents"]

    assert (scan.get("Index Name"), scan["Actual Rows"]) == ("agents_listed", 51)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)
