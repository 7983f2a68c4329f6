"""What can go wrong before a provider answers is an outcome of its own too."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.settings import SettingsError
from shared.vault.probes import ProbeResult, probe
from shared.vault.providers import from_sealed, parse
from shared.vault.secret import Secret
from tests.support.canaries import canary
from tests.support.certificates import server_context

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(handler: Handler, context: ssl.SSLContext | None = None):
    """A server that does what `handler` does with each connection; the URL of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"127.0.0.1:{port}"


async def asked(base_url: str, seconds: float = 10.0) -> ProbeResult:
    fields = {"base_url": base_url, "headers": {"Authorization": f"Bearer {canary()}"}}
    return await probe("http", parse("http", fields).to_fields(), seconds=seconds)


@pytest.mark.usefixtures("local")
async def test_a_provider_that_is_silent_is_given_up() -> None:
    silent = asyncio.Event()

    async def handler(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await silent.wait()

    async with answering(handler) as address:
        result = await asked(f"http://{address}", seconds=0.2)
        silent.set()

    assert (result.success, result.outcome) == (False, "timeout")


@pytest.mark.usefixtures("local")
async def test_a_provider_that_drips_its_answer_is_given_up() -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not gone.is_set():
            writer.write(b".")
            try:
                await writer.drain()
                await asyncio.wait_for(gone.wait(), 0.02)
            except TimeoutError:
                continue
            except OSError:
                return

    async with answering(handler) as address:
        result = await asked(f"http://{address}", seconds=0.3)
        gone.set()

    assert result.outcome == "timeout"


@pytest.mark.usefixtures("local")
async def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_sent(tmp_path) -> None:
    received: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(100))

    async with answering(handler, server_context(tmp_path)) as address:
        result = await asked(f"https://{address}")

    assert (result.success, result.outcome) == (False, "tls")
    assert "self-signed" in result.message
    assert b"".join(received) == b""


@pytest.mark.usefixtures("local")
async def test_a_server_without_tls_is_told_apart() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with answering(handler) as address:
        assert (await asked(f"https://{address}")).outcome == "tls"


@pytest.mark.usefixtures("local")
async def test_a_connection_that_breaks_is_the_providers_trouble() -> None:
    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    async with answering(handler) as address:
        assert (await asked(f"http://{address}")).outcome == "provider_down"


@pytest.mark.usefixtures("local")
async def test_a_port_where_nothing_listens_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = await asked(f"http://127.0.0.1:{taken.getsockname()[1]}")

    assert (result.success, result.outcome) == (False, "unreachable")


async def test_a_name_without_an_address_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.delenv("EGRESS_ALLOWED_NETWORKS", raising=False)
    result = await probe("openai", {"api_key": Secret(canary())}, resolver=nowhere)

    assert result.outcome == "unreachable"


async def test_a_private_address_is_blocked_away_from_a_local_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.delenv("EGRESS_ALLOWED_NETWORKS", raising=False)
    fields = from_sealed("flowise", b'{"base_url": "http://127.0.0.1:3000", "api_key": "abcdefgh"}').to_fields()
    result = await probe("flowise", fields)

    assert (result.success, result.outcome) == (False, "address_blocked")


async def test_a_connection_string_is_not_tested_over_http() -> None:
    fields = parse("postgres", {"dsn": "postgresql://u:longpassword@db.example.com/app"}).to_fields()
    assert (await probe("postgres", fields)).outcome == "untestable"


async def test_stand_ins_for_providers_are_refused_in_a_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.setenv("RUNBASE_PROVIDER_ORIGINS", '{"openai": "https://collector.example"}')

    with pytest.raises(SettingsError, match="RUNBASE_PROVIDER_ORIGINS"):
        await probe("openai", {"api_key": Secret(canary())})
