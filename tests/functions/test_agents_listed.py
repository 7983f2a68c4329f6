"""The catalog of agents page by page, whatever is asked of it and whatever was written past the functions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from functions.agent_status import cursor as cursors
from tests.functions.test_agents import account_of, act, make
from tests.functions.visitor import Visitor

ID = "0f7b0f3e-6a0c-4f0e-9a53-3a0f7c1b2d11"


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
def two_rows_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose REST interface gives fewer rows than were asked for (its setting max-rows)."""
    monkeypatch.setattr("local.rest.relation_plans.MAX_ROWS", 2)


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
