"""What is wrong with a request is said by field, with a 4xx and the five-key body, and nothing happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from functions.agent_status import cursor as cursors
from tests.functions.visitor import Visitor
from tests.support.stack import Stack

RUN = "6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01"
ACTIONS = "'create', 'start', 'stop', 'pause', 'resume', 'retry', 'rerun', 'respond'"
CREATE = {"action": "create", "prompt": "hello"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "action: Field required"),
        (
            {"action": 5},
            f"action: '5' is unknown, use {ACTIONS}",
        ),
        (
            {"action": "launch"},
            f"action: 'launch' is unknown, use {ACTIONS}",
        ),
        ({"action": "start"}, "run_id: Field required"),
        ({"action": "rerun"}, "run_id: Field required"),
        ({"action": "rerun", "run_id": RUN, "autostart": 1}, "autostart: Input should be a valid boolean"),
        ({"action": "rerun", "run_id": RUN, "input": {}}, "input: Unknown field"),
        ({"action": "start", "run_id": 7}, "run_id: UUID input should be a string, bytes or UUID object"),
        ({"action": "start", "run_id": RUN, "revision": -1}, "revision: Input should be greater than or equal to 1"),
        ({"action": "start", "run_id": RUN, "revision": "2"}, "revision: Input should be a valid integer"),
        ({"action": "start", "run_id": RUN, "speed": 2}, "speed: Unknown field"),
        ({"action": "respond", "run_id": RUN}, "response: Field required"),
        ({"action": "create"}, "Give either prompt or agent_id"),
        ({**CREATE, "agent_id": RUN}, "Give either prompt or agent_id"),
        ({**CREATE, "input": {}}, "input belongs to agent_id; a prompt stands alone"),
        ({**CREATE, "prompt": ""}, "prompt: String should have at least 1 character"),
        ({**CREATE, "prompt": "x" * 32_001}, "prompt: String should have at most 32000 characters"),
        ({**CREATE, "prompt": ["x"]}, "prompt: Input should be a valid string"),
        ({**CREATE, "prompt": "a\0b"}, "prompt: must not contain NUL characters"),
        ({**CREATE, "options": []}, "options: Input should be an object"),
        ({**CREATE, "options": {"max_steps": 0}}, "options.max_steps: Input should be greater than or equal to 1"),
        ({**CREATE, "options": {"max_steps": 1.5}}, "options.max_steps: Input should be a valid integer"),
        (
            {**CREATE, "options": {"timeout_seconds": -1}},
            "options.timeout_seconds: Input should be greater than or equal to 1",
        ),
        (
            {**CREATE, "options": {"max_credits": -0.5}},
            "options.max_credits: Input should be greater than or equal to 0.000001",
        ),
        ({**CREATE, "options": {"autostart": "yes"}}, "options.autostart: Input should be a valid boolean"),
        ({**CREATE, "options": {"colour": "red"}}, "options.colour: Unknown field"),
    ],
)
async def test_agent_execute_names_the_field(owner: Visitor, body: object, message: str):
    response = await owner.post("agent-execute", body)

    assert response.status_code == 400
    error = response.json()
    assert set(error) == {"code", "message", "details", "hint", "retryable"}
    assert (error["code"], error["message"], error["retryable"]) == ("invalid_input", message, False)


async def test_all_problems_stand_in_the_details(owner: Visitor):
    response = await owner.post("agent-execute", {**CREATE, "options": {"max_steps": 0, "timeout_seconds": 0}})

    assert response.json()["details"] == (
        "options.max_steps: Input should be greater than or equal to 1; "
        "options.timeout_seconds: Input should be greater than or equal to 1"
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": -1}, "limit: Input should be greater than or equal to 1"),
        ({"limit": 201}, "limit: Input should be less than or equal to 200"),
        ({"limit": "many"}, "limit: Input should be a valid integer, unable to parse string as an integer"),
        ({"run_id": "1"}, "run_id: Input should be a valid UUID"),
        ({"include": "steps"}, "include needs run_id"),
        ({"run_id": RUN, "include": "secrets"}, "include.0: Input should be 'steps'"),
        ({"run_id": RUN, "include": "steps,logs", "cursor": "x"}, "cursor needs exactly one include"),
        ({"run_id": RUN, "cursor": "x"}, "cursor needs exactly one include"),
        ({"run_id": RUN, "include": "steps", "cursor": "x"}, "cursor: is not one that this list gave out"),
        ({"cursor": "WyJydW5zIl0"}, "cursor: is not one that this list gave out"),
        ({"run_id": RUN, "status": "queued"}, "status filters the history, not one run"),
        ({"status": "asleep"}, "status.0: Input should be 'created'"),
        ({"created_after": "2026-01-01T00:00:00"}, "created_after: Input should have timezone info"),
        ({"created_after": "0001-01-01T00:00:00+10:00"}, "created_after: must be a time of the years 1 to 9999 in UTC"),
        ({"created_after": "yesterday"}, "created_after: Input should be a valid datetime"),
        ({"engine": "*"}, "engine: String should match pattern"),
        ({"agent_id": "7"}, "agent_id: Input should be a valid UUID"),
        ({"account_id": "mine"}, "account_id: Input should be a valid UUID"),
        ({"created_before": "2026-13-01T00:00:00Z"}, "created_before: Input should be a valid datetime"),
        ({"text": ""}, "text: String should have at least 1 character"),
        ({"text": "x" * 201}, "text: String should have at most 200 characters"),
        ({"text": "a\0b"}, "text: must not contain NUL characters"),
        ({"run_id": RUN, "text": "x"}, "text filters the history, not one run"),
        ({"export": "xlsx"}, "export: Input should be 'csv' or 'jsonl'"),
        ({"export": "csv", "limit": 10}, "limit is of pages; an export has every run"),
        ({"run_id": RUN, "export": "csv"}, "export filters the history, not one run"),
        ({"export": "csv", "include": "steps"}, "include needs run_id"),
        ({"export": "csv", "cursor": "x"}, "cursor: is not one that this list gave out"),
        ({"offset": 3}, "offset: Unknown field"),
    ],
)
async def test_agent_status_names_the_field(owner: Visitor, query: dict[str, object], message: str):
    response = await owner.get("agent-status", **query)

    assert response.status_code == 400
    assert response.json()["message"].startswith(message)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "run_id: Field required"),
        ({"run_id": RUN, "after": -1}, "after: Input should be greater than or equal to 0"),
        ({"run_id": RUN, "after": 2**63}, "after: Input should be less than or equal to"),
        ({"run_id": RUN, "after": "9" * 6000}, "after: Unable to parse input string as an integer"),
        ({"run_id": RUN, "limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"run_id": RUN, "types": "info,gossip"}, "types.1: Input should be 'info'"),
        ({"run_id": RUN, "mode": "telepathy"}, "mode: Input should be 'poll' or 'stream'"),
    ],
)
async def test_agent_logs_names_the_field(owner: Visitor, query: dict[str, object], message: str):
    response = await owner.get("agent-logs", **query)

    assert response.status_code == 400
    assert response.json()["message"].startswith(message)


@pytest.mark.parametrize(
    ("include", "number"),
    [("steps", 2**31), ("plan", 2**31), ("logs", 2**63), ("messages", 2**63), ("artifacts", -1), ("logs", True)],
)
async def test_a_forged_cursor_behind_every_number_of_its_list_is_refused(owner: Visitor, include: str, number: int):
    run_id = (await owner.create())["run_id"]
    forged = cursors.encode(f"{include}:{run_id}", [number])

    response = await owner.get("agent-status", run_id=run_id, include=include, cursor=forged)

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    assert response.json()["message"] == "cursor: is not one that this list gave out"


@pytest.mark.parametrize(
    "created_at", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-01:00"]
)
async def test_a_forged_cursor_at_a_time_that_no_run_was_created_is_refused(
    stack: Stack, visitor: Callable[[str], Visitor], created_at: str
):
    person = await stack.sign_up()
    forged = cursors.encode(f"runs:{person.user_id}", [created_at, RUN])

    response = await visitor(person.access_token).get("agent-status", cursor=forged)

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")


async def test_a_cursors_time_zone_that_postgres_does_not_know_is_no_fault(
    stack: Stack, visitor: Callable[[str], Visitor]
):
    person = await stack.sign_up()
    forged = cursors.encode(f"runs:{person.user_id}", ["2026-01-01T00:00:00+23:59:59.5", RUN])

    response = await visitor(person.access_token).get("agent-status", cursor=forged)

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"action": ', "The body is not valid JSON (line 1, column 12)"),
        (b'{"action": NaN}', "The body is not valid JSON (line 1, column 12)"),
        (b'"create"', "The body must be a JSON object"),
        (b"[]", "The body must be a JSON object"),
        (b"null", "The body must be a JSON object"),
        (b'{"action": "\xff"}', "The body is not valid JSON"),
        (b'{"action": "create", "prompt": "\\ud800"}', "The body is not valid JSON"),
    ],
)
async def test_what_is_no_json_object_is_refused(owner: Visitor, raw: bytes, message: str):
    response = await owner.send("agent-execute", raw)

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    assert response.json()["message"].startswith(message)


async def test_json_nested_without_end_is_refused(owner: Visitor):
    response = await owner.send("agent-execute", b'{"action":' + b"[" * 100_000)

    assert response.status_code == 400


async def test_a_text_that_only_looks_like_nul_is_taken(owner: Visitor):
    response = await owner.send("agent-execute", b'{"action": "create", "prompt": "print \\\\u0000"}')

    assert response.status_code == 201


async def test_a_body_that_declares_to_be_too_large_is_refused(owner: Visitor):
    response = await owner.send("agent-execute", b" " * 1_048_577)

    assert response.status_code == 413
    assert response.json()["code"] == "payload_too_large"
    assert response.json()["message"] == "The body is larger than 1048576 bytes (1 MB)"


async def test_a_chunked_body_that_grows_too_large_is_refused(owner: Visitor):
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 65_536

    response = await owner.send("agent-execute", endless())

    assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "slug", "allow"),
    [
        ("GET", "agent-execute", "POST, OPTIONS"),
        ("DELETE", "agent-status", "GET, POST, OPTIONS"),
        ("POST", "agent-logs", "GET, OPTIONS"),
        ("PUT", "queue-drain", "POST, OPTIONS"),
    ],
)
async def test_a_method_that_a_function_does_not_know_is_refused(owner: Visitor, method: str, slug: str, allow: str):
    response = await owner.send(slug, b"", method=method)

    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("slug", ["agent-execute", "agent-status", "agent-logs", "queue-drain"])
async def test_a_browsers_preflight_is_answered_without_credentials(http, slug: str):
    response = await http.options(f"/functions/v1/{slug}", headers={"Origin": "https://app.example.com"})

    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    for header in ("authorization", "x-client-info", "apikey", "content-type", "idempotency-key", "last-event-id"):
        assert header in response.headers["access-control-allow-headers"].split(", ")


async def test_an_error_carries_cors_headers_and_a_request_id(http):
    response = await http.post("/functions/v1/agent-execute")

    assert response.headers["access-control-allow-origin"] == "*"
    assert len(response.headers["x-request-id"]) == 32


async def test_a_request_id_is_echoed_if_it_is_one(owner: Visitor):
    good = await owner.post("agent-status", headers={"X-Request-Id": "web-42"})
    bad = await owner.post("agent-status", headers={"X-Request-Id": "two words"})

    assert good.headers["x-request-id"] == "web-42"
    assert bad.headers["x-request-id"] != "two words"


async def test_the_gateways_own_parameters_are_no_unknown_fields(owner: Visitor):
    assert (await owner.get("agent-status", forceFunctionRegion="eu-west-1")).status_code == 200


async def test_a_path_below_the_function_is_the_function(owner: Visitor):
    assert (await owner.get("agent-status/anything/below")).status_code == 200


@pytest.mark.parametrize("depth", [150, 900])
async def test_a_response_nested_deeply_is_stored_or_refused_and_never_a_fault(owner: Visitor, depth: int):
    raw = b'{"action": "respond", "run_id": "%s", "response": %s}' % (RUN.encode(), b"[" * depth + b"]" * depth)

    response = await owner.send("agent-execute", raw)

    assert response.status_code in {400, 404}, response.text
