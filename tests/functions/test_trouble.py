"""When something behind a function fails, the answer says whether to try again and tells nothing else."""

from __future__ import annotations

import logging
import subprocess
import sys

import httpx
import pytest
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from functions.agent_execute.app import app as agent_execute
from functions.agent_status.app import app as agent_status
from local.config import PROJECT_DIR
from local.ports import listening
from local.serving import serving
from shared.http import Answer, Call, endpoint
from tests.functions.visitor import Visitor
from tests.support.stack import Stack


def over(app: ASGIApp, visitor: Visitor) -> Visitor:
    """The same visitor, in front of one application without a gateway."""
    return Visitor(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test"), visitor.headers)


async def test_a_database_that_does_not_answer_is_unavailable_and_worth_another_try(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
):
    with listening("127.0.0.1", 0) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("SUPABASE_URL", f"http://127.0.0.1:{port}")
    token = stack.keys.sign_jwt(
        {
            "iss": f"http://127.0.0.1:{port}/auth/v1", "sub": "6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01",
            "aud": "authenticated", "role": "authenticated", "exp": 4_000_000_000,
        }
    )  # fmt: skip

    response = await over(agent_status, Visitor(None, {"Authorization": f"Bearer {token}"})).get("agent-status")  # type: ignore[arg-type]

    assert response.status_code == 503
    assert (response.json()["code"], response.json()["retryable"]) == ("database_unavailable", True)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxys_error_page_is_an_unavailable_database(
    stack: Stack, owner: Visitor, monkeypatch: pytest.MonkeyPatch, status: int
):
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("<html>upstream at 10.0.0.7 is down</html>", status)

    with listening("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with serving(Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])]), listener):
            monkeypatch.setenv("SUPABASE_URL", url)
            token = stack.keys.sign_jwt(
                {
                    "iss": f"{url}/auth/v1", "sub": "6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01", "aud": "authenticated",
                    "role": "authenticated", "exp": 4_000_000_000,
                }
            )  # fmt: skip
            visitor = Visitor(None, {"Authorization": f"Bearer {token}"})  # type: ignore[arg-type]
            response = await over(agent_status, visitor).get("agent-status")

    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert "10.0.0.7" not in response.text


async def test_a_declared_length_of_thousands_of_digits_is_too_large(owner: Visitor):
    """A host without an HTTP server of its own in front passes any header on."""
    response = await over(agent_execute, owner).post("agent-execute", headers={"Content-Length": "9" * 6000})

    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


async def test_an_unexpected_failure_tells_the_caller_nothing_and_the_log_all(
    owner: Visitor, caplog: pytest.LogCaptureFixture
):
    async def fail(_call: Call[dict[str, object]]) -> Answer:
        raise RuntimeError("password=hunter2")

    app = endpoint(fail, slug="fail", accepts=TypeAdapter(dict[str, object]), replies={})

    with caplog.at_level(logging.ERROR):
        response = await over(app, owner).post("fail", headers={"X-Request-Id": "abc-1"})

    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "hunter2" not in response.text
    (record,) = caplog.records
    assert record.message == "function.crashed slug=fail request_id=abc-1"
    assert "hunter2" in str(record.exc_info)


async def test_a_function_without_settings_fails_without_telling_them(
    owner: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.delenv("SUPABASE_URL")

    response = await over(agent_status, owner).get("agent-status")

    assert response.status_code == 500
    assert "SUPABASE_URL" not in response.text
    (failure,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "SUPABASE_URL is missing, and has no default." in str(failure.exc_info)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (PROJECT_DIR / "functions").glob("*/app.py")))
def test_a_cold_start_imports_no_model_sdk_and_no_worker(name: str):
    """The budget of a cold start is kept by what is not imported; a time would measure the machine."""
    heavy = "anthropic openai boto3 supabase wasmtime psycopg shared.tools shared.runs.worker"
    if name != "agents":  # which checks what an engine's settings say
        heavy += " shared.engines shared.llm jsonschema"
    program = f"import sys, functions.{name}.app; print([m for m in {heavy.split()} if m in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown.strip() == "[]"
