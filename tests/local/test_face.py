"""The stack's face: the page at `/`, the same as JSON, and `runbase stack status`."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncGenerator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response
from starlette.routing import Route

from local.auth import Outbox
from local.auth.outbox import Mail
from local.cli.status_table import status_table
from local.config import PROJECT_DIR, StackConfig
from local.errors import StackError
from local.face import page
from local.health import health
from local.keys import Keys
from local.server import running_stack
from local.services import Part, Services
from local.status import Status
from local.status_reader import StatusReader
from tests.cli.runbase import runbase
from tests.support.stack import stack_over

KEYS = Keys()
JSON = {"accept": "application/json"}
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
TEMPLATE = (PROJECT_DIR / "local" / "face.html").read_text()
NASTY = "<script>alert('\"&')</script>\x1b[2J"


class _Page(HTMLParser):
    """The tags with their attributes, and the text outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


async def answer(_request: object) -> Response:
    return Response("hello")


@pytest.fixture
async def client(database_url) -> AsyncGenerator[httpx.AsyncClient]:
    async with (
        stack_over(database_url, functions_apps={"echo": Response("hello")}) as stack,
        httpx.AsyncClient(base_url=stack.url) as client,
    ):
        yield client


async def seen(client: httpx.AsyncClient) -> Status:
    return Status.model_validate_json((await client.get("/", headers=JSON)).raise_for_status().content)


async def test_the_page_names_what_a_person_needs(client):
    answer = await client.get("/", headers=BROWSER)
    assert answer.headers["content-type"].startswith("text/html")
    shown = _Page(answer.text)
    url = str(client.base_url).rstrip("/")
    for text in (
        url, KEYS.publishable_key, KEYS.secret_key, KEYS.anon_key, KEYS.service_role_key, "postgresql://postgres:",
        f"{url}/rest/v1", f"{url}/auth/v1", f"{url}/realtime/v1", f"{url}/functions/v1", "Everything is up",
    ):  # fmt: skip
        assert text in shown.text
    assert re.search(r"PostgreSQL \d+\.\d+, \d+ of \d+ connections in use", shown.text)
    links = {attributes.get("href") for tag, attributes in shown.tags if tag == "a"}
    assert {f"{url}/functions/v1/echo", f"{url}/mails", f"{url}/auth/v1/.well-known/jwks.json"} <= links


async def test_page_and_terminal_say_which_project_is_served_and_where_its_data_are(client):
    status = await seen(client)
    assert status.project_dir == str(PROJECT_DIR)
    shown = _Page((await client.get("/", headers=BROWSER)).text).text
    for text in (shown, status_table(status)):
        assert status.project_dir in text
        assert status.data_dir in text


async def test_the_page_loads_nothing_and_every_key_can_be_copied(client):
    answer = await client.get("/", headers=BROWSER)
    shown = _Page(answer.text)
    assert not {"img", "iframe", "object", "embed", "form"} & {tag for tag, _ in shown.tags}
    assert all("src" not in attributes for _, attributes in shown.tags)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    copied = {attributes["data-copy"] for tag, attributes in shown.tags if tag == "button"}
    assert {KEYS.publishable_key, KEYS.secret_key, KEYS.anon_key, KEYS.service_role_key} <= copied


async def test_json_is_for_who_asks_for_it_and_the_page_for_everybody_else(client):
    assert (await client.get("/")).text.startswith("<!doctype html>")
    answer = await client.get("/", headers=JSON)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["vary"] == "Accept"
    status = Status.model_validate_json(answer.content)
    assert status.healthy
    assert status.keys["Secret key"] == KEYS.secret_key
    assert status.database.connections is not None
    assert {service.name for service in status.services} >= {"rest", "auth", "realtime", "storage", "functions"}


async def test_the_links_lead_somewhere(client):
    status = await seen(client)
    ours = [url for url in status.links.values() if url.startswith(status.api_url)]
    assert len(ours) >= 4
    for url in ours:
        assert (await client.get(url)).status_code == 200, url
    described = await client.get(status.links["OpenAPI of the functions"])
    assert described.json() == json.loads((PROJECT_DIR / "docs" / "openapi.json").read_text())


async def test_the_last_mails_are_shown(client):
    assert "It has sent nothing yet" in (await client.get("/")).text
    await client.post("/auth/v1/otp", json={"email": "ada@example.com"})
    mails = (await seen(client)).mails
    assert (mails.count, mails.last[0].to) == (1, "ada@example.com")
    shown = _Page((await client.get("/", headers=BROWSER)).text)
    assert "ada@example.com" in shown.text
    assert mails.last[0].code in shown.text
    assert mails.last[0].link in {attributes.get("href") for tag, attributes in shown.tags if tag == "a"}


async def test_a_function_that_cannot_start_is_named_with_its_error(tmp_path: Path):
    for name, code in {"broken": "raise RuntimeError('<b>no</b>')", "whole": "async def app(*_): ..."}.items():
        (tmp_path / "functions" / name).mkdir(parents=True)
        (tmp_path / "functions" / name / "app.py").write_text(code)
    config = StackConfig(port=0, db_port=0, ephemeral=True, project_dir=tmp_path)
    async with running_stack(config) as stack, httpx.AsyncClient(base_url=stack.config.api_url) as client:
        status = await seen(client)
        assert not status.healthy
        (functions,) = [service for service in status.services if service.name == "functions"]
        assert functions.healthy
        assert {one.name: one.trouble for one in functions.members} == {
            "broken": "It could not be imported: RuntimeError: <b>no</b>",
            "whole": None,
        }
        shown = (await client.get("/", headers=BROWSER)).text
        assert "<b>no" not in shown
        assert "RuntimeError: &lt;b&gt;no" in shown
        assert "OpenAPI of the functions" not in status.links
        assert (await client.get("/openapi.json")).status_code == 404


async def test_a_database_that_is_away_is_shown_and_its_return_too(tmp_path: Path):
    config = StackConfig(port=0, db_port=0, ephemeral=True, project_dir=tmp_path)
    async with running_stack(config) as stack, httpx.AsyncClient(base_url=stack.config.api_url) as client:
        assert (await seen(client)).healthy
        await asyncio.to_thread(stack.postgres.stop, immediate=True)
        shown = await client.get("/", headers=BROWSER)
        assert shown.status_code == 200
        assert "Something is down" in _Page(shown.text).text
        status = await seen(client)
        assert not status.healthy
        assert status.database.trouble is not None
        assert "onnection refused" in status.database.trouble
        assert {service.name: service.trouble for service in status.services} == {
            **dict.fromkeys((one.name for one in status.services), "It cannot reach the database."),
            "functions": None,
        }
        await asyncio.to_thread(stack.postgres.restart)
        assert (await seen(client)).healthy


async def test_a_server_that_takes_connections_and_is_silent_is_down(database_url):
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        services = Services.of(StackConfig(), f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres")
        status = await StatusReader(services, {}, Outbox()).read()
    assert status.database.trouble is not None
    assert not status.healthy


async def test_any_part_is_listed_and_whatever_it_says_is_escaped(database_url):
    """Storage, or what comes next, needs no word here; and nobody can write into the page or steer the terminal."""
    outbox = Outbox()
    outbox.post([Mail("invite", f"{NASTY}@example.com", NASTY, f"http://127.0.0.1/?{NASTY}")])
    parts = {
        "storage": Part([Route("/storage/v1", answer)], trouble=lambda: NASTY),
        "other": Part([], needs_database=False, members=lambda: {NASTY: NASTY, "fine": None}),
    }
    status = await StatusReader(Services.of(StackConfig(), database_url), parts, outbox).read()
    assert {service.name: service.trouble for service in status.services} == {"storage": NASTY, "other": None}
    assert not status.healthy
    shown = page(TEMPLATE, status)
    assert shown.count("<script>") == TEMPLATE.count("<script>") == 1
    assert "&lt;script&gt;alert(&#x27;&quot;&amp;" in shown
    table = status_table(status)
    assert "\x1b" not in table
    assert "http://127.0.0.1:54321/storage/v1" in table


async def test_the_terminal_shows_the_same(data_dir, tmp_path):
    config = StackConfig(port=0, db_port=0, data_dir=data_dir, project_dir=tmp_path)

    async def status(*options: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(runbase, "stack", "status", *options, "--data-dir", data_dir)

    async with running_stack(config) as stack:
        table = await status()
        assert table.returncode == 0, table.stderr
        for text in (stack.config.api_url, stack.database_url, KEYS.secret_key, "realtime", "connections in use"):
            assert text in table.stdout
        for option in (("--json",), ("-o", "json")):
            told = Status.model_validate_json((await status(*option)).stdout)
            assert (told.api_url, told.healthy) == (stack.config.api_url, True)
        await asyncio.to_thread(stack.postgres.stop, immediate=True)
        down = await status()
        assert down.returncode == 3
        assert down.stdout.startswith("Something is down\n")
        assert re.search(r"^rest +down  .*It cannot reach the database\.$", down.stdout, re.MULTILINE)
        assert not Status.model_validate_json((await status("--json")).stdout).healthy


def test_a_gateway_that_does_not_answer_as_one_is_a_sentence(tmp_path):
    with pytest.raises(StackError, match=r"but http://127\.0\.0\.1:1 does not answer\.$"):
        health(StackConfig(port=1, data_dir=tmp_path))
