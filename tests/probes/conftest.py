"""Providers on this machine, in the place of the real ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from shared.vault.probes import ProbeResult, probe
from shared.vault.providers import parse
from tests.support.provider_server import ProviderServer, provider_server

Ask = Callable[[str, str], Awaitable[ProbeResult]]


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a local stack."""
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("EGRESS_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128")
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)


@pytest.fixture
async def providers(local: None, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ProviderServer]:
    async with provider_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def ask(providers: ProviderServer) -> Ask:
    """Probe a provider with a key as its form takes it."""

    async def asked(provider: str, key: str) -> ProbeResult:
        fields: dict[str, object] = {"api_key": key}
        if provider == "flowise":
            fields["base_url"] = f"{providers.origin}/flowise"
        if provider == "http":
            fields = {"base_url": f"{providers.origin}/service", "headers": {"Authorization": f"Bearer {key}"}}
        return await probe(provider, parse(provider, fields).to_fields())

    return asked
