"""The history as a file: whole, well-formed, harmless in a spreadsheet, and of the caller's runs alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from functions.agent_status.app import handler
from tests.functions.history import agent_of, all_ids, ended_run, many_runs, version_of
from tests.functions.test_lambda import Context, event, invoke
from tests.functions.visitor import Visitor
from tests.support.runs import connect
from tests.support.stack import Stack

COLUMNS = [
    "id", "created_at", "started_at", "finished_at", "duration_ms", "status", "engine", "agent_id", "agent_name",
    "agent_version", "account_id", "user_id", "credits_spent", "step_count", "input", "output", "error_code",
    "error_message", "forked_from",
]  # fmt: skip


@pytest.fixture
async def user_id(stack: Stack) -> str:
    return (await stack.sign_up("exporter@example.com")).user_id


@pytest.fixture
async def exporter(stack: Stack, user_id: str, visitor: Callable[[str], Visitor]) -> Visitor:
    client = await stack.client()
    answer = await client.auth.sign_in_with_password(
        {"email": "exporter@example.com", "password": "correct horse battery"}
    )
    assert answer.session is not None
    return visitor(answer.session.access_token)


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


async def test_csv_has_a_line_of_names_and_one_for_each_run(stack: Stack, user_id: str, exporter: Visitor):
    agent_id = await agent_of(stack.database_url, user_id, "Adviser")
    version_id = await version_of(stack.database_url, agent_id)
    old = await ended_run(
        stack.database_url, user_id, created_at="2026-01-01T10:00:00Z", status="failed",
        error={"code": "model_refused", "message": "No, thanks"},
    )  # fmt: skip
    new = await ended_run(
        stack.database_url, user_id, created_at="2026-01-02T10:00:00Z", agent_id=agent_id, agent_version_id=version_id,
        input={"prompt": "a"}, output={"text": "b"}, credits_spent=2_500_000, step_count=3, forked_from=old,
    )  # fmt: skip

    response = await exporter.get("agent-status", export="csv")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.text.startswith(",".join(COLUMNS) + "\r\n")
    first, second = table(response.text)
    assert first == {
        "id": new, "created_at": "2026-01-02T10:00:00+00:00", "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:00:02+00:00", "duration_ms": "2000", "status": "completed", "engine": "list",
        "agent_id": agent_id, "agent_name": "Adviser", "agent_version": "1", "account_id": user_id, "user_id": user_id,
        "credits_spent": "2.5", "step_count": "3", "input": '{"prompt":"a"}', "output": '{"text":"b"}',
        "error_code": "", "error_message": "", "forked_from": old,
    }  # fmt: skip
    assert (second["id"], second["error_code"], second["error_message"]) == (old, "model_refused", "No, thanks")


async def test_json_lines_hold_each_run_as_the_history_shows_it(stack: Stack, user_id: str, exporter: Visitor):
    for number in range(3):
        await ended_run(stack.database_url, user_id, input={"prompt": f"Zeile\n{number}"})

    response = await exporter.get("agent-status", export="jsonl")
    shown = (await exporter.get("agent-status")).json()["runs"]

    assert response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) | {"human_requests": []} for line in response.text.splitlines()] == shown


@pytest.mark.parametrize(("form", "name"), [("csv", ".csv"), ("jsonl", ".jsonl")])
async def test_a_browser_saves_it_as_a_file_and_no_cache_keeps_it(exporter: Visitor, form: str, name: str):
    headers = (await exporter.get("agent-status", export=form)).headers

    assert headers["content-disposition"].startswith('attachment; filename="runs-2')
    assert headers["content-disposition"].endswith(f'{name}"')
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store, no-transform", "nosniff")


async def test_an_empty_history_is_a_line_of_names_or_nothing(exporter: Visitor):
    assert (await exporter.get("agent-status", export="csv")).text == ",".join(COLUMNS) + "\r\n"
    assert (await exporter.post("agent-status", {"export": "jsonl"})).text == ""


@pytest.mark.parametrize(
    ("message", "cell"),
    [
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ("+1", "'+1"),
        ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("1=1", "1=1"),
        ('a "b", c\r\nd', 'a "b", c\r\nd'),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
    ],
)
async def test_a_text_is_one_cell_and_no_formula(
    stack: Stack, user_id: str, exporter: Visitor, message: str, cell: str
):
    await ended_run(stack.database_url, user_id, status="failed", error={"code": "x", "message": message})

    (row,) = table((await exporter.get("agent-status", export="csv")).text)

    assert (row["error_message"], row["forked_from"]) == (cell, "")


async def test_an_agents_name_is_no_formula(stack: Stack, user_id: str, exporter: Visitor):
    agent_id = await agent_of(stack.database_url, user_id, "=1+1")
    await ended_run(stack.database_url, user_id, agent_id=agent_id)

    (row,) = table((await exporter.get("agent-status", export="csv")).text)

    assert row["agent_name"] == "'=1+1"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_what_looks_like_a_secret_is_in_no_file(stack: Stack, user_id: str, exporter: Visitor, form: str):
    key = "sk-proj-" + "a1B2c3D4" * 6
    agent_id = await agent_of(stack.database_url, user_id, f"Agent {key}")
    await ended_run(
        stack.database_url, user_id, agent_id=agent_id, status="failed", output={"text": key},
        input={"prompt": f"Use {key}", "api_key": "0p3n-s3s4m3"}, error={"code": "x", "message": f"refused {key}"},
    )  # fmt: skip

    text = (await exporter.get("agent-status", export=form)).text

    assert (key in text, "0p3n-s3s4m3" in text) == (False, False)
    assert text.count("[redacted]") == 5


async def test_it_holds_every_run_however_many(stack: Stack, user_id: str, exporter: Visitor):
    await many_runs(stack.database_url, user_id, 1001)

    lines = (await exporter.get("agent-status", export="jsonl")).text.splitlines()

    assert [json.loads(line)["id"] for line in lines] == await all_ids(exporter, limit=200)
    assert len(lines) == 1001


async def test_it_is_filtered_as_the_history_is(stack: Stack, user_id: str, exporter: Visitor):
    await many_runs(stack.database_url, user_id, 1200)
    wanted = await ended_run(stack.database_url, user_id, created_at="2020-01-01", input={"prompt": "needle"})

    got = await exporter.get("agent-status", export="csv", text="NEEDLE", status="completed,failed")
    posted = await exporter.post("agent-status", {"export": "csv", "text": "NEEDLE", "status": ["completed", "failed"]})

    assert [row["id"] for row in table(got.text)] == [wanted]
    assert posted.text == got.text


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_other_peoples_runs_are_in_no_file(
    stack: Stack, user_id: str, exporter: Visitor, stranger: Visitor, form: str
):
    run_id = await ended_run(stack.database_url, user_id)

    theirs = await stranger.get("agent-status", export=form, account_id=user_id)

    assert run_id in (await exporter.get("agent-status", export=form)).text
    assert theirs.status_code == 200
    assert run_id not in theirs.text


async def test_a_refusal_is_an_error_and_no_file(exporter: Visitor):
    response = await exporter.get("agent-status", export="csv", cursor="x")

    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")


def answered(answer: dict[str, Any]) -> str:
    assert answer["statusCode"] == 200, answer["body"]
    return answer["body"]


async def test_a_host_that_buffers_answers_with_parts_that_join(stack: Stack, user_id: str, exporter: Visitor):
    await many_runs(stack.database_url, user_id, 7, output={"text": "x" * 900_000})
    streamed = (await exporter.get("agent-status", export="csv")).text

    parts: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await invoke(handler, event("GET", "agent-status", exporter, export="csv", **cursor))
        parts.append(answered(answer))
        if "x-next-cursor" not in answer["headers"]:
            break
        cursor = {"cursor": answer["headers"]["x-next-cursor"]}

    assert len(parts) == 4
    assert max(len(part) for part in parts) < 4_000_000
    assert "".join(parts) == streamed


async def test_a_part_ends_when_the_hosts_time_is_nearly_up(stack: Stack, user_id: str, exporter: Visitor):
    await many_runs(stack.database_url, user_id, 201)

    request = event("GET", "agent-status", exporter, export="csv")
    answer = await invoke(handler, request, Context(milliseconds=0))

    assert len(table(answered(answer))) == 200
    assert answer["headers"]["x-next-cursor"]


async def test_a_client_that_goes_away_ends_the_reading(stack: Stack, user_id: str, exporter: Visitor):
    """Nothing is left open behind it: the next one is answered as ever."""
    await many_runs(stack.database_url, user_id, 2000, output={"text": "x" * 10_000})

    async with exporter.http.stream(
        "GET", "/functions/v1/agent-status", params={"export": "jsonl"}, headers=exporter.headers
    ) as response:
        first = await anext(response.aiter_bytes())

    assert first.startswith(b'{"id":')
    assert len((await exporter.get("agent-status")).json()["runs"]) == 50


async def test_a_file_that_cannot_be_finished_is_cut_off_and_not_taken_for_whole(
    stack: Stack, user_id: str, exporter: Visitor
):
    await many_runs(stack.database_url, user_id, 6000, output={"text": "x" * 10_000})

    async def read_while_the_database_fails() -> None:
        async with exporter.http.stream(
            "GET", "/functions/v1/agent-status", params={"export": "jsonl"}, headers=exporter.headers
        ) as response:
            async with connect(stack.database_url) as connection:
                await connection.execute("alter function public.list_runs rename to list_runs_no_more")
            assert response.status_code == 200
            await response.aread()

    with pytest.raises(httpx.RemoteProtocolError):
        await read_while_the_database_fails()
