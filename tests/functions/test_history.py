"""The history: a person's runs, newest first, found by what they remember of them, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from functions.agent_status import cursor as cursors
from tests.functions.history import agent_of, all_ids, ended_run, ids, many_runs, member, page, version_of
from tests.functions.visitor import Visitor
from tests.support.runs import connect
from tests.support.stack import Stack

FOREIGN = "cursor: is not one that this list gave out"


@dataclass(frozen=True)
class Someone:
    """Somebody with an account of his own."""

    visitor: Visitor
    user_id: str


@pytest.fixture
async def ada(stack: Stack, visitor: Callable[[str], Visitor]) -> Someone:
    person = await stack.sign_up()
    return Someone(visitor(person.access_token), person.user_id)


@pytest.fixture
async def bob(stack: Stack, visitor: Callable[[str], Visitor]) -> Someone:
    person = await stack.sign_up()
    return Someone(visitor(person.access_token), person.user_id)


async def test_it_is_newest_first_and_its_pages_join(owner: Visitor):
    run_ids = [(await owner.create())["run_id"] for _ in range(5)]

    first = await page(owner, limit=2)
    second = await page(owner, limit=2, cursor=first["next_cursor"])
    third = (await owner.post("agent-status", {"limit": 2, "cursor": second["next_cursor"]})).json()

    assert [run["id"] for part in (first, second, third) for run in part["runs"]] == run_ids[::-1]
    assert third["next_cursor"] is None


async def test_runs_that_are_made_meanwhile_move_no_later_page(owner: Visitor):
    run_ids = [(await owner.create())["run_id"] for _ in range(4)]
    first = await page(owner, limit=2)
    await owner.create()

    second = await page(owner, limit=2, cursor=first["next_cursor"])

    assert [run["id"] for run in first["runs"] + second["runs"]] == run_ids[::-1]


async def test_runs_of_the_same_instant_are_each_shown_once(stack: Stack, ada: Someone):
    instant = "2026-02-03T04:05:06.789012Z"
    made = {await ended_run(stack.database_url, ada.user_id, created_at=instant) for _ in range(5)}

    shown = await all_ids(ada.visitor, limit=2)

    assert (len(shown), set(shown)) == (5, made)


async def test_it_is_filtered_by_status_engine_and_date(owner: Visitor):
    early, late = await owner.create(), await owner.create(autostart=True)
    created_at = (await owner.run(late["run_id"]))["created_at"]

    assert await ids(owner, status="queued") == [late["run_id"]]
    assert await ids(owner, status="queued,created") == [late["run_id"], early["run_id"]]
    assert await ids(owner, engine="flowise") == []
    assert await ids(owner, created_before=created_at) == [early["run_id"]]
    assert await ids(owner, created_after="2020-01-01T00:00:00+02:00", engine="agent") == [
        late["run_id"],
        early["run_id"],
    ]


async def test_filters_hold_together_and_on_every_page(stack: Stack, ada: Someone):
    agent_id = await agent_of(stack.database_url, ada.user_id)
    wanted = [
        await ended_run(stack.database_url, ada.user_id, agent_id=agent_id, status="failed", created_at=f"2026-01-0{n}")
        for n in (5, 4, 3)
    ]
    await ended_run(stack.database_url, ada.user_id, agent_id=agent_id, created_at="2026-01-03")
    await ended_run(stack.database_url, ada.user_id, status="failed", created_at="2026-01-03")
    await ended_run(stack.database_url, ada.user_id, agent_id=agent_id, status="failed", created_at="2025-01-01")

    found = await all_ids(
        ada.visitor, agent_id=agent_id, status="failed", created_after="2026-01-01T00:00:00Z", limit=1
    )

    assert found == wanted


async def test_it_is_filtered_by_agent(stack: Stack, ada: Someone):
    one, two = [await agent_of(stack.database_url, ada.user_id, name) for name in ("One", "Two")]
    runs = {agent: await ended_run(stack.database_url, ada.user_id, agent_id=agent) for agent in (one, two, None)}

    assert await ids(ada.visitor, agent_id=one) == [runs[one]]
    assert await ids(ada.visitor, agent_id=uuid4()) == []


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"input": {"prompt": "Draw an Elephant"}}, "elephant"),
        ({"input": {"a": [{"b": "Grüße aus KÖLN"}]}}, "köln"),
        ({"output": {"text": 'He said "yes\nno"'}}, '"yes\nno'),
        ({"output": {"text": "100% of a_b (c.d)*\\"}}, "% of a_b (c.d)*\\"),
        ({"status": "failed", "error": {"code": "x", "message": "The quota is spent"}}, "QUOTA"),
    ],
)
async def test_it_is_searched_by_what_went_in_and_came_out(
    stack: Stack, ada: Someone, columns: dict[str, object], text: str
):
    run_id = await ended_run(stack.database_url, ada.user_id, **columns)
    await ended_run(stack.database_url, ada.user_id, input={"prompt": "Something else"}, output={"text": "axb"})

    assert await ids(ada.visitor, text=text) == [run_id]


async def test_it_is_searched_by_the_agents_name(stack: Stack, ada: Someone):
    agent_id = await agent_of(stack.database_url, ada.user_id, "Tax Adviser (2026)")
    run_id = await ended_run(stack.database_url, ada.user_id, agent_id=agent_id)
    await ended_run(stack.database_url, ada.user_id)

    assert await ids(ada.visitor, text="ADVISER (") == [run_id]


@pytest.mark.parametrize("text", ["prompt", ".*", "%", "$", "[", '"', "{"])
async def test_names_of_fields_and_patterns_are_not_found(owner: Visitor, text: str):
    await owner.create()

    assert await ids(owner, text=text) == []


async def test_a_search_looks_at_a_bounded_number_of_runs_a_page_and_goes_on(stack: Stack, ada: Someone):
    await many_runs(stack.database_url, ada.user_id, 1500)
    oldest = await ended_run(
        stack.database_url, ada.user_id, created_at="2020-01-01T00:00:00Z", input={"prompt": "needle"}
    )

    first = await page(ada.visitor, text="needle")
    second = await page(ada.visitor, text="needle", cursor=first["next_cursor"])

    assert (first["runs"], [run["id"] for run in second["runs"]]) == ([], [oldest])
    assert second["next_cursor"] is None


async def test_a_filter_that_fits_little_looks_at_a_bounded_number_of_runs_a_page(stack: Stack, ada: Someone):
    await many_runs(stack.database_url, ada.user_id, 10_001)
    oldest = await ended_run(stack.database_url, ada.user_id, created_at="2020-01-01T00:00:00Z", engine="flowise")

    first = await page(ada.visitor, engine="flowise")

    assert first["runs"] == []
    assert await ids(ada.visitor, engine="flowise", cursor=first["next_cursor"]) == [oldest]


@pytest.mark.parametrize("rare", ["agent", "status"])
async def test_runs_of_an_agent_or_in_a_status_are_found_behind_many_others(stack: Stack, ada: Someone, rare: str):
    await many_runs(stack.database_url, ada.user_id, 10_001)
    agent_id = await agent_of(stack.database_url, ada.user_id)
    run_id = await ended_run(
        stack.database_url, ada.user_id, created_at="2020-01-01T00:00:00Z", agent_id=agent_id, status="failed"
    )

    query = {"agent_id": agent_id} if rare == "agent" else {"status": "failed"}

    assert await page(ada.visitor, **query) | {"runs": 1} == {"runs": 1, "next_cursor": None}
    assert await ids(ada.visitor, **query) == [run_id]


async def test_a_page_ends_early_where_its_runs_are_large(stack: Stack, ada: Someone):
    await many_runs(stack.database_url, ada.user_id, 5, output={"text": "x" * 900_000})

    first = await page(ada.visitor)

    assert len(first["runs"]) == 2
    assert len(await all_ids(ada.visitor)) == 5


async def test_a_run_shows_its_agent_and_what_it_took(stack: Stack, ada: Someone):
    agent_id = await agent_of(stack.database_url, ada.user_id, "Adviser")
    version_id = await version_of(stack.database_url, agent_id)
    run_id = await ended_run(
        stack.database_url, ada.user_id, agent_id=agent_id, agent_version_id=version_id, credits_spent=1500
    )
    plain = await ended_run(stack.database_url, ada.user_id)

    listed = {run["id"]: run for run in (await page(ada.visitor))["runs"]}
    shown = await ada.visitor.run(run_id)

    assert shown == listed[run_id]
    assert shown["agent"] == {"id": agent_id, "name": "Adviser", "version": 1}
    assert (shown["duration_ms"], shown["credits"]["spent"]) == (2000, 0.0015)
    assert listed[plain]["agent"] is None


async def test_a_run_that_never_started_took_no_time(owner: Visitor):
    run_id = (await owner.create())["run_id"]
    await owner.act("stop", run_id)

    assert (await owner.run(run_id))["duration_ms"] is None


async def test_a_run_of_an_agent_that_is_gone_is_still_shown(stack: Stack, ada: Someone):
    gone = str(uuid4())
    run_id = await ended_run(stack.database_url, ada.user_id, agent_id=gone, agent_version_id=str(uuid4()))

    assert (await ada.visitor.run(run_id))["agent"] == {"id": gone, "name": None, "version": None}
    assert await ids(ada.visitor, agent_id=gone) == [run_id]


@pytest.mark.parametrize("role", ["viewer", "member", "admin", "owner"])
async def test_every_member_reads_an_organisations_history(stack: Stack, ada: Someone, bob: Someone, role: str):
    run_id = await ended_run(stack.database_url, ada.user_id, input={"prompt": "secret plan"})
    await member(stack.database_url, bob.user_id, ada.user_id, role)

    assert await ids(bob.visitor, account_id=ada.user_id, text="secret") == [run_id]
    assert await ids(bob.visitor, text="secret") == []


@pytest.mark.parametrize("query", [{}, {"text": "secret"}, {"status": "completed"}, {"agent_id": "theirs"}])
async def test_other_peoples_runs_never_appear(stack: Stack, ada: Someone, bob: Someone, query: dict[str, object]):
    """Not by naming their account, and not by a filter that fits."""
    agent_id = await agent_of(stack.database_url, ada.user_id)
    await ended_run(stack.database_url, ada.user_id, input={"prompt": "secret plan"}, agent_id=agent_id)
    query = {**query, "agent_id": agent_id} if "agent_id" in query else query

    assert await page(bob.visitor, account_id=ada.user_id, **query) == {"runs": [], "next_cursor": None}
    assert await page(bob.visitor, **query) == {"runs": [], "next_cursor": None}


async def test_who_left_an_organisation_reads_no_more_and_is_not_told_that_this_was_all(
    stack: Stack, ada: Someone, bob: Someone
):
    await ended_run(stack.database_url, ada.user_id)
    await ended_run(stack.database_url, ada.user_id)
    await member(stack.database_url, bob.user_id, ada.user_id, "member")
    first = await page(bob.visitor, account_id=ada.user_id, limit=1)
    async with connect(stack.database_url) as connection:
        await connection.execute("delete from public.account_members where user_id <> account_id")

    rest = await bob.visitor.get("agent-status", account_id=ada.user_id, limit=1, cursor=first["next_cursor"])

    assert (rest.status_code, rest.json()["code"]) == (403, "forbidden")
    assert await page(bob.visitor, account_id=ada.user_id) == {"runs": [], "next_cursor": None}


async def test_a_seller_does_not_see_who_ran_his_agent(stack: Stack, ada: Someone, bob: Someone):
    agent_id = await agent_of(stack.database_url, ada.user_id)
    await ended_run(stack.database_url, bob.user_id, agent_id=agent_id)

    assert await ids(ada.visitor, agent_id=agent_id) == []


async def test_a_cursor_belongs_to_its_account_and_filters(stack: Stack, ada: Someone, bob: Someone):
    for _ in range(2):
        await ended_run(stack.database_url, ada.user_id)
    cursor = (await page(ada.visitor, limit=1))["next_cursor"]
    filtered = (await page(ada.visitor, limit=1, status="completed"))["next_cursor"]

    answers = [
        await bob.visitor.get("agent-status", cursor=cursor),
        await ada.visitor.get("agent-status", cursor=cursor, engine="list"),
        await ada.visitor.get("agent-status", cursor=filtered),
        await ada.visitor.get("agent-status", cursor=filtered, status="failed"),
    ]

    assert [(answer.status_code, answer.json()["message"]) for answer in answers] == [(400, FOREIGN)] * 4


@pytest.mark.parametrize("position", [["2026-01-01T00:00:00Z", "x"], ["2026-01-01T00:00:00Z"], [1, 2], ["'); --", "'"]])
async def test_a_forged_cursor_is_refused(ada: Someone, position: list[str | int]):
    forged = cursors.encode(f"runs:{ada.user_id}", position)

    response = await ada.visitor.get("agent-status", cursor=forged)

    assert (response.status_code, response.json()["message"]) == (400, FOREIGN)


@pytest.mark.parametrize(
    "text", ["\\", "\\u0041", "\x01\x7f", "(" * 200, "'; drop table", '" flag "x', "\U0001f642", "$.a", "?"]
)
async def test_any_text_can_be_looked_for_and_is_found_as_it_stands(stack: Stack, ada: Someone, text: str):
    run_id = await ended_run(stack.database_url, ada.user_id, input={"prompt": f"before {text} after"})
    await ended_run(stack.database_url, ada.user_id, input={"prompt": "before A after"})

    assert await ids(ada.visitor, text=text) == [run_id]
