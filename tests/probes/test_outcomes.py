"""Each answer that a provider is known to give has its own outcome, and none of them shows the key."""

from __future__ import annotations

import json

import pytest

from shared.vault.probes import ProbeResult, probe
from shared.vault.providers import parse
from tests.probes.conftest import Ask
from tests.support.canaries import canary, leaks_in
from tests.support.provider_server import ProviderServer

OUTCOMES = [
    ("openai", "good", "valid"),
    ("openai", "deactivated", "revoked"),
    ("openai", "scoped", "no_permission"),
    ("openai", "member", "no_permission"),
    ("openai", "address", "no_permission"),
    ("openai", "poor", "no_credit"),
    ("openai", "limited", "rate_limited"),
    ("openai", "down", "provider_down"),
    ("openai", "page", "not_this_provider"),
    ("openai", "redirected", "not_this_provider"),
    ("deepseek", "good", "valid"),
    ("deepseek", "poor", "no_credit"),
    ("deepseek", "limited", "rate_limited"),
    ("deepseek", "down", "provider_down"),
    ("anthropic", "good", "valid"),
    ("anthropic", "poor", "no_credit"),
    ("anthropic", "disabled", "revoked"),
    ("anthropic", "scoped", "no_permission"),
    ("anthropic", "limited", "rate_limited"),
    ("anthropic", "down", "provider_down"),
    ("gemini", "good", "valid"),
    ("gemini", "expired", "revoked"),
    ("gemini", "leaked", "revoked"),
    ("gemini", "suspended", "revoked"),
    ("gemini", "disabled", "no_permission"),
    ("gemini", "abroad", "no_permission"),
    ("gemini", "poor", "no_credit"),
    ("gemini", "limited", "rate_limited"),
    ("gemini", "down", "provider_down"),
    ("flowise", "good", "valid"),
    ("flowise", "scoped", "no_permission"),
    ("flowise", "down", "provider_down"),
    ("http", "good", "valid"),
    ("http", "scoped", "no_permission"),
    ("http", "poor", "no_credit"),
    ("http", "limited", "rate_limited"),
    ("http", "down", "provider_down"),
    ("http", "page", "not_this_provider"),
    ("http", "redirected", "not_this_provider"),
    ("http", "other", "untestable"),
]
PROVIDERS = ("openai", "deepseek", "anthropic", "gemini", "flowise", "http")


def shown(result: ProbeResult) -> str:
    return json.dumps([result.message, result.details])


@pytest.mark.parametrize(("provider", "kind", "outcome"), OUTCOMES)
async def test_an_answer_has_its_own_outcome_and_does_not_show_the_key(
    ask: Ask, providers: ProviderServer, provider: str, kind: str, outcome: str
) -> None:
    result = await ask(provider, providers[kind])

    assert (result.outcome, result.valid) == (outcome, outcome == "valid")
    assert result.success is (outcome not in {"rate_limited", "provider_down", "untestable"})
    assert leaks_in(shown(result)) == []
    assert ("/stolen", "") not in [(path, "") for path, _ in providers.asked]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_key_that_nobody_knows_is_wrong_and_is_not_shown_although_the_provider_repeats_it(
    ask: Ask, providers: ProviderServer, provider: str
) -> None:
    key = canary()
    result = await ask(provider, key)

    assert (result.success, result.valid, result.outcome) == (True, False, "wrong_key")
    assert leaks_in(shown(result)) == []
    assert key in [given for _, given in providers.asked]


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Authorization": "Basic dXNlcjpodW50ZXIyLXRoZS1zZWNvbmQ="}, "hunter2-the-second"),
        ({"X-Pin": "9f3kd82x"}, "9f3kd82x"),
        ({"X-Pin": "9f3kd82x", "Referer": "https://app.example/a"}, "9f3kd82x"),
    ],
)
async def test_no_header_of_a_service_is_shown_although_it_repeats_them(
    providers: ProviderServer, headers: dict[str, str], told: str
) -> None:
    entered = parse("http", {"base_url": f"{providers.origin}/service", "headers": headers})

    result = await probe("http", entered.to_fields())

    assert result.outcome == "wrong_key"
    assert "Nobody knows" in shown(result)
    assert told not in shown(result)


async def test_what_a_provider_tells_of_the_account_is_passed_on(ask: Ask, providers: ProviderServer) -> None:
    key = providers["good"]

    openai = (await ask("openai", key)).details
    assert openai == {
        "models": ["gpt-4o", "gpt-5"],
        "model_count": 2,
        "organization": "acme-inc",
        "rate_limits": {"requests": {"limit": 10000, "remaining": 9999, "reset": "6ms"}},
    }
    deepseek = (await ask("deepseek", key)).details
    assert deepseek["credit"] == [
        {"currency": "CNY", "total_balance": "110.00", "granted_balance": "10.00", "topped_up_balance": "100.00"}
    ]
    anthropic = (await ask("anthropic", key)).details
    assert anthropic["organization"] == "org-1"
    assert anthropic["rate_limits"] == {
        "requests": {"limit": 50, "remaining": 49},
        "input_tokens": {"remaining": 30000},
    }
    assert (await ask("gemini", key)).details["models"] == ["models/gemini-3-pro"]
    assert (await ask("flowise", key)).details == {"version": "3.1.4", "flows": 3}


async def test_a_rate_limit_says_when_to_come_back(ask: Ask, providers: ProviderServer) -> None:
    assert (await ask("openai", providers["limited"])).details["retry_after"] == "7"
