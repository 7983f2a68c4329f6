"""Each function answers an API Gateway v2 event as it answers HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from functions.agent_execute.app import handler as agent_execute
from functions.agent_logs.app import handler as agent_logs
from functions.agent_status.app import handler as agent_status
from functions.queue_drain.app import handler as queue_drain
from tests.functions.visitor import PROMPT, Visitor


@dataclass(frozen=True)
class Context:
    """The part of Lambda's context that is used."""

    milliseconds: int = 20_000

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def event(method: str, slug: str, visitor: Visitor, *, body: bytes = b"", **query: object) -> dict[str, Any]:
    return {
        "version": "2.0",
        "routeKey": f"ANY /{slug}",
        "rawPath": f"/prod/{slug}",
        "rawQueryString": urlencode(query),
        "headers": {**{name.lower(): value for name, value in visitor.headers.items()}, "host": "api.example.com"},
        "requestContext": {
            "http": {"method": method, "path": f"/prod/{slug}", "sourceIp": "203.0.113.7", "protocol": "HTTP/1.1"},
            "stage": "prod",
        },
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


async def invoke(handler: Any, request: dict[str, Any], context: Context | None = None) -> dict[str, Any]:
    """Call the handler as Lambda does, outside of any event loop."""
    return await asyncio.to_thread(handler, request, context or Context())


async def test_agent_execute_creates_a_run(owner: Visitor):
    body = json.dumps({"action": "create", "prompt": PROMPT}).encode()

    answer = await invoke(agent_execute, event("POST", "agent-execute", owner, body=body))

    assert answer["statusCode"] == 201
    assert answer["headers"]["access-control-allow-origin"] == "*"
    assert (await owner.run(json.loads(answer["body"])["run_id"]))["status"] == "created"


async def test_a_warm_function_answers_again(owner: Visitor):
    body = json.dumps({"action": "create", "prompt": PROMPT}).encode()

    answers = [await invoke(agent_execute, event("POST", "agent-execute", owner, body=body)) for _ in range(3)]

    assert [answer["statusCode"] for answer in answers] == [201, 201, 201]


async def test_agent_execute_refuses_with_the_five_key_body(stack):
    answer = await invoke(agent_execute, event("POST", "agent-execute", Visitor(None, {})))  # type: ignore[arg-type]

    assert answer["statusCode"] == 401
    assert set(json.loads(answer["body"])) == {"code", "message", "details", "hint", "retryable"}


async def test_agent_status_shows_a_run(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    answer = await invoke(agent_status, event("GET", "agent-status", owner, run_id=run_id, include="logs"))

    assert (answer["statusCode"], json.loads(answer["body"])["run"]["id"]) == (200, run_id)


async def test_agent_logs_answers_a_stream_in_one_slice(owner: Visitor):
    """What streams elsewhere ends as soon as there is something, and says when to come again."""
    run_id = (await owner.create(autostart=True))["run_id"]

    answer = await invoke(agent_logs, event("GET", "agent-logs", owner, run_id=run_id, mode="stream"))

    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"].startswith("text/event-stream")
    first, line, last = answer["body"].strip().split("\n\n")
    assert (first, last) == ("retry: 1000", "retry: 200")
    assert line.startswith("id: 1\nevent: state_transition\ndata: {")


async def test_agent_logs_does_not_wait_longer_than_the_host_allows(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    request = event("GET", "agent-logs", owner, run_id=run_id, mode="stream")
    answer = await invoke(agent_logs, request, Context(milliseconds=500))

    assert answer["body"] == "retry: 1000\n\nretry: 200\n\n"


async def test_queue_drain_answers_its_tally(service: Visitor):
    answer = await invoke(queue_drain, event("POST", "queue-drain", service))

    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"claimed": 0, "left": {}, "swept": 0})


async def test_a_schedule_drains_by_iam_without_http(service: Visitor):
    answer = await invoke(queue_drain, {"version": "0", "source": "aws.events", "detail-type": "Scheduled Event"})

    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"claimed": 0, "left": {}, "swept": 0})
