"""Other people's flows as agents: what an import refuses before it calls anybody, and how often it may call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.ports import listening
from local.serving import serving
from tests.functions.visitor import Visitor
from tests.support.runs import connect
from tests.support.stack import Stack


class Server:
    """A Flowise server without flows that counts who asks."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0

    async def chatflows(self, _request: Request) -> Response:
        self.asked += 1
        return JSONResponse({"data": [], "total": 0})


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Server]:
    monkeypatch.setenv("EGRESS_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128")
    server = Server()
    app = Starlette(routes=[Route("/api/v1/chatflows", server.chatflows)])
    with listening("127.0.0.1", 0) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with serving(app, listener):
            yield server


@pytest.mark.parametrize("action", ["list_flowise", "import_flowise"])
async def test_a_server_is_asked_twenty_times_a_minute_at_most(
    stack: Stack, visitor: Callable[[str], Visitor], stranger: Visitor, server: Server, action: str
):
    person = await stack.sign_up()
    owner = visitor(person.access_token)
    body: dict[str, Any] = {"action": action, "base_url": server.url}
    if action == "import_flowise":
        body["flow_id"] = str(uuid4())
    await owner.post("agents", body)
    async with connect(stack.database_url) as connection:
        await connection.execute(
            "update private.test_rates set full_at = private.clock() + interval '60 s' where user_id = %s",
            [person.user_id],
        )

    refused = await owner.post("agents", body)
    strangers = await stranger.post("agents", body)

    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert strangers.status_code == {"list_flowise": 200, "import_flowise": 404}[action]
    assert server.asked == 2


async def test_what_two_inputs_claim_is_named_before_anybody_is_asked(owner: Visitor, server: Server):
    inputs = [
        {"name": "topic"},
        {"name": "tone", "becomes": "vars.tone"},
        {"name": "topic", "becomes": "form.topic"},
        {"name": "mood", "becomes": "vars.tone"},
        {"name": "words"},
    ]

    response = await owner.post(
        "agents", {"action": "import_flowise", "base_url": server.url, "flow_id": str(uuid4()), "inputs": inputs}
    )

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    for problem in ("two inputs are named topic", "two inputs become vars.tone", "two inputs become question"):
        assert problem in response.json()["message"]
    assert server.asked == 0
