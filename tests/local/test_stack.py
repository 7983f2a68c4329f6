"""The gateway and the whole stack: keys, CORS, functions, start and stop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import jwt
import psutil
import psycopg
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from local import stack as background
from local.config import StackConfig
from local.errors import StackError
from local.keys import InvalidToken, Keys
from local.postgres import PostgresServer
from local.server import running_stack
from local.services import Services
from shared import errors
from tests.support.stack import stack_over

KEYS = Keys()


async def echo(scope, receive, send):
    """A function that answers what it was asked."""
    request = Request(scope, receive)
    body = {
        "method": request.method,
        "path": request.url.path,
        "query": request.url.query,
        "root_path": scope["root_path"],
        "authorization": request.headers.get("authorization"),
        "body": (await request.body()).decode(),
    }
    await JSONResponse(body)(scope, receive, send)


@pytest.fixture
async def gateway(database_url):
    async with (
        stack_over(database_url, functions_apps={"echo": echo}) as stack,
        httpx.AsyncClient(base_url=stack.url) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("apikey", "authorization", "seen"),
    [
        (KEYS.publishable_key, None, KEYS.anon_key),
        (KEYS.publishable_key, KEYS.publishable_key, KEYS.anon_key),
        (KEYS.secret_key, KEYS.secret_key, KEYS.service_role_key),
        (KEYS.secret_key, "a-users-token", "a-users-token"),
        ("a-legacy-jwt", None, "a-legacy-jwt"),
        (None, None, None),
    ],
)
async def test_an_api_key_arrives_as_its_jwt_and_a_users_token_wins(gateway, apikey, authorization, seen):
    headers = {"apikey": apikey, "authorization": authorization and f"Bearer {authorization}"}
    answer = await gateway.get("/functions/v1/echo", headers={key: value for key, value in headers.items() if value})
    assert answer.json()["authorization"] == (seen and f"Bearer {seen}")


async def test_a_functions_query_is_its_own(gateway):
    answer = await gateway.get("/functions/v1/echo", params={"apikey": KEYS.secret_key})
    assert (answer.json()["query"], answer.json()["authorization"]) == (f"apikey={KEYS.secret_key}", None)


async def test_a_function_gets_every_method_body_and_sub_path(gateway):
    answer = await gateway.patch("/functions/v1/echo/deep/er?x=1", content=b"hello")
    assert answer.json()["method"] == "PATCH"
    assert answer.json()["path"] == "/functions/v1/echo/deep/er"
    assert answer.json()["root_path"] == "/functions/v1/echo"
    assert answer.json()["body"] == "hello"


async def test_an_unknown_function_or_route_is_404_with_cors(gateway):
    for path in ("/functions/v1/nobody", "/functions/v1", "/nowhere/v1"):
        answer = await gateway.get(path)
        assert answer.status_code == 404
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.json()["message"]


@pytest.mark.parametrize("path", ["/rest/v1/people", "/auth/v1/signup", "/realtime/v1/api/broadcast"])
async def test_a_client_that_goes_in_the_middle_of_its_body_is_no_error(gateway, caplog, path):
    url = gateway.base_url
    headers = f"Host: {url.host}\r\napikey: {KEYS.secret_key}\r\nContent-Type: application/json\r\nContent-Length: 9"
    for _ in range(5):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"POST {path} HTTP/1.1\r\n{headers}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # the body is being read
        writer.close()
        await writer.wait_closed()
    assert (await gateway.get("/health")).status_code == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_preflight_allows_what_the_clients_send(gateway):
    headers = {"origin": "http://localhost:3000", "access-control-request-method": "GET"}
    answer = await gateway.options("/rest/v1/notes", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    for header in ("authorization", "apikey", "x-client-info", "prefer", "accept-profile"):
        assert header in answer.headers["access-control-allow-headers"]


async def test_a_preflight_allows_an_applications_own_headers(gateway):
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "apikey,x-my-app"}
    for path in ("/rest/v1/notes", "/auth/v1/user", "/storage/v1/bucket"):
        answer = await gateway.options(path, headers={"origin": "http://localhost:3000", **asked})
        assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (204, "apikey,x-my-app")


async def test_a_function_that_cannot_start_leaves_the_others_alone(tmp_path):
    for name, code in {
        "broken": "raise RuntimeError",
        "empty": "",
        "whole": "from tests.local.test_stack import echo as app",
    }.items():
        (tmp_path / "functions" / name).mkdir(parents=True)
        (tmp_path / "functions" / name / "app.py").write_text(code)
    config = StackConfig(port=0, db_port=0, ephemeral=True, project_dir=tmp_path)
    async with running_stack(config) as stack, httpx.AsyncClient(base_url=stack.config.api_url) as client:
        for name in ("broken", "empty"):
            answer = await client.post(f"/functions/v1/{name}")
            assert (answer.status_code, answer.json()["code"]) == (503, "BOOT_ERROR")
        assert (await client.post("/functions/v1/whole")).status_code == 200
        assert os.environ["SUPABASE_URL"] == stack.config.api_url
        assert json.loads(os.environ["SUPABASE_SECRET_KEYS"]) == {"default": KEYS.secret_key}


async def test_changed_code_is_loaded_anew(tmp_path):
    code = "async def app(scope, receive, send):\n    from starlette.responses import Response\n"
    file = tmp_path / "functions" / "version" / "app.py"
    for folder in (file.parent, tmp_path / "shared"):
        folder.mkdir(parents=True)
    file.write_text(code + "    await Response('old')(scope, receive, send)")
    config = StackConfig(port=0, db_port=0, ephemeral=True, project_dir=tmp_path, reload=True)
    async with running_stack(config) as stack, httpx.AsyncClient(base_url=stack.config.api_url) as client:
        assert (await client.get("/functions/v1/version")).text == "old"
        deadline = time.monotonic() + 30
        while (await client.get("/functions/v1/version")).text == "old":
            assert time.monotonic() < deadline
            # Written again each time: the watch may begin after the first.
            file.write_text(code + "    await Response('new')(scope, receive, send)")
            await asyncio.sleep(0.1)
        assert (await client.get("/functions/v1/version")).text == "new"
    assert sys.modules["shared.errors"] is errors, "what another folder holds was imported once and stays"


async def test_the_gateway_outlives_a_crash_of_the_database(tmp_path):
    async with running_stack(StackConfig(port=0, db_port=0, ephemeral=True, project_dir=tmp_path)) as stack:
        services = Services.of(stack.config, stack.database_url)
        async with services.lifespan():
            for _ in range(3):
                await asyncio.to_thread(stack.postgres.restart, immediate=True)
                async with services.pool.connection() as connection:
                    assert await (await connection.execute("select current_user")).fetchone() == ("authenticator",)


async def test_a_person_signs_up_with_the_official_client(stack):
    person = await stack.sign_up()
    claims = KEYS.verify_jwt(person.access_token)
    assert claims["sub"] == person.user_id
    assert claims["iss"] == stack.config.auth_url
    with psycopg.connect(stack.database_url) as connection:
        rows = connection.execute("select email from auth.users where id = %s", [person.user_id]).fetchall()
    assert rows == [(person.email,)]


async def test_a_taken_gateway_port_is_named_before_anything_starts(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"^Port {port} for the gateway is taken"):
            async with running_stack(StackConfig(port=port, db_port=0, data_dir=data_dir)):
                pass
    assert not data_dir.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])  # noqa: S104 - it is refused
async def test_the_stack_never_listens_beyond_this_machine(data_dir, host):
    with pytest.raises(StackError, match="this machine only"):
        async with running_stack(StackConfig(host=host, port=0, db_port=0, data_dir=data_dir)):
            pass


async def test_a_migration_that_fails_stops_the_stack_and_its_server(tmp_path, data_dir):
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "1_broken.sql").write_text("create tabel notes ();")
    config = StackConfig(port=0, db_port=0, data_dir=data_dir, project_dir=tmp_path)
    with pytest.raises(StackError, match=r"1_broken\.sql:1: syntax error"):
        async with running_stack(config):
            pass
    assert not PostgresServer(data_dir).is_running()


def test_a_background_stack_is_started_found_and_stopped(data_dir):
    config = StackConfig(port=0, db_port=0, data_dir=data_dir)
    running = background.start(config)
    try:
        assert background.start(config) == running
        assert httpx.get(f"{running.api_url}/health").json() == {"status": "ok"}
        assert f'API_URL="{running.api_url}"' in background.status_env(running)
    finally:
        assert background.stop(config)
    assert background.status(config) is None
    assert not background.stop(config)


def test_what_a_killed_stack_left_is_cleared_by_the_next_start(data_dir):
    config = StackConfig(port=0, db_port=0, data_dir=data_dir)
    background.start(config)
    state = background.StackState.read(config.data_dir)
    killed = state.process()
    killed.kill()
    psutil.wait_procs([killed], timeout=10)
    assert background.status(config) is None
    running = background.start(config)
    try:
        assert httpx.get(f"{running.api_url}/health").status_code == 200
    finally:
        background.stop(config)


def test_a_background_start_that_fails_repeats_the_reason(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = StackConfig(port=taken.getsockname()[1], db_port=0, data_dir=data_dir)
        with pytest.raises(StackError, match=r"^Port \d+ for the gateway is taken by "):
            background.start(config)


def test_status_env_can_be_sourced_by_a_shell(tmp_path):
    file = tmp_path / "env"
    file.write_text(background.status_env(StackConfig()))
    shell = ["sh", "-c", f". {file}; printf %s $SERVICE_ROLE_KEY"]
    assert subprocess.run(shell, check=True, capture_output=True, text=True).stdout == KEYS.service_role_key


def test_the_legacy_keys_are_the_ones_every_local_supabase_has():
    assert KEYS.anon_key.endswith(".CRXP1A7WOeoJeXxjNni43kdQwgnWNReilDMblYTn_I0")
    assert KEYS.verify_jwt(KEYS.service_role_key)["role"] == "service_role"


def test_tokens_of_both_kinds_verify():
    claims = {"sub": "someone", "role": "authenticated", "exp": 4_000_000_000}
    assert KEYS.verify_jwt(KEYS.sign_jwt(claims)) == claims
    assert KEYS.verify_jwt(KEYS.sign_legacy_jwt(claims)) == claims


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "malformed"),
        ("not.a.jwt", "malformed"),
        (jwt.encode({"role": "service_role"}, None, algorithm="none"), "signature"),
        (jwt.encode({"role": "anon"}, "another secret of more than thirty-two bytes", algorithm="HS256"), "signature"),
        (KEYS.sign_legacy_jwt({"role": "anon", "exp": 1}), "expired"),
        (KEYS.sign_jwt({"role": "anon", "nbf": 4_000_000_000}), "claims"),
        (jwt.encode({}, KEYS.jwt_secret, algorithm="HS256", headers={"kid": "b81269f1"}), "signature"),
        (jwt.encode({}, KEYS.jwt_secret * 2, algorithm="HS512"), "signature"),
    ],
)
def test_a_token_that_proves_nothing_is_refused_with_its_reason(token, reason):
    with pytest.raises(InvalidToken) as refused:
        KEYS.verify_jwt(token)
    assert refused.value.reason == reason


def test_the_public_keys_hold_no_private_part():
    (key,) = KEYS.jwks()["keys"]
    assert "d" not in key
    assert key["kid"] == jwt.get_unverified_header(KEYS.sign_jwt({}))["kid"]


def test_the_server_module_fails_with_a_sentence_and_exit_code_1(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "local.server", "--port", port, "--data-dir", str(data_dir)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path.cwd())
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Port {port} for the gateway is taken by {psutil.Process().name()} (process {os.getpid()}). "
        "Stop it, or choose another with --port (0 takes a free one).\n"
    )
