"""credential-test over HTTP: what it finds out, for whom, how often, and that it shows no key."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID, uuid4

import pytest
from postgrest import APIError

from shared.vault.binding import Binding
from shared.vault.providers import parse
from shared.vault.ring import keys_from_env
from shared.vault.sealing import sealed_secret
from tests.functions.visitor import Visitor
from tests.support.canaries import canary, leaks_in
from tests.support.provider_server import ProviderServer, provider_server
from tests.support.runs import connect
from tests.support.stack import Person, Stack

BAD = [
    ({}, "Give one of"),
    ({"provider": "openai"}, "Give one of"),
    ({"api_key": "sk-CanaryBird7QzXaaaaaaaa"}, "provider"),
    ({"provider": "openai", "api_key": "sk-CanaryBird7QzXaaaaaaaa", "credential_id": str(uuid4())}, "Give one of"),
    ({"provider": "nobody", "api_key": "sk-CanaryBird7QzXaaaaaaaa"}, "provider"),
    ({"provider": "openai", "api_key": "CanaryBird7QzX with spaces"}, "api_key"),
    ({"provider": "openai", "api_key": "x"}, "api_key"),
    ({"provider": "openai", "api_key": ""}, "api_key"),
    ({"provider": "openai", "api_key": "CanaryBird7QzX" * 200}, "api_key"),
    ({"provider": "openai", "api_key": ["sk-CanaryBird7QzXaaaaaaaa"]}, "api_key"),
    ({"provider": "openai", "api_key": "sk-CanaryBird7QzX\u0000aaaa"}, "NUL"),
    ({"provider": 5, "api_key": "sk-CanaryBird7QzXaaaaaaaa"}, "provider"),
    (
        {"provider": "openai", "fields": {"api_key": "sk-CanaryBird7QzXaaaa", "base_url": "https://x.example"}},
        "fields",
    ),
    ({"provider": "openai", "fields": {}}, "api_key"),
    ({"provider": "openai", "fields": []}, "fields"),
    ({"provider": "flowise", "api_key": "sk-CanaryBird7QzXaaaaaaaa"}, "base_url"),
    ({"provider": "flowise", "fields": {"api_key": "CanaryBird7QzX", "base_url": "ftp://x.example"}}, "base_url"),
    ({"provider": "flowise", "fields": {"api_key": "CanaryBird7QzX", "base_url": "http://x.example"}}, "base_url"),
    (
        {"provider": "flowise", "fields": {"api_key": "CanaryBird7QzX", "base_url": "https://u:p@x.example"}},
        "base_url",
    ),
    ({"credential_id": "5"}, "credential_id"),
    ({"provider": "openai", "api_key": "sk-CanaryBird7QzXaaaaaaaa", "extra": 1}, "extra"),
]


@pytest.fixture
async def providers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ProviderServer]:
    async with provider_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
async def person(stack: Stack) -> Person:
    return await stack.sign_up()


@pytest.fixture
def owner(person: Person, visitor) -> Visitor:
    return visitor(person.access_token)


async def stored(person: Person, provider: str, **fields: object) -> str:
    """A credential of the person's own."""
    credential_id, account_id = uuid4(), UUID(person.user_id)
    secret = await sealed_secret(
        keys_from_env(os.environ), parse(provider, fields), Binding(account_id, credential_id, provider)
    )
    new = {"id": str(credential_id), "account_id": str(account_id), "provider": provider, "name": "Mine", **secret}
    await person.client.rpc("create_credential", {"p_credential": new}).execute()
    return str(credential_id)


async def judged(visitor: Visitor, **body: object) -> dict[str, Any]:
    response = await visitor.post("credential-test", body)
    assert response.status_code == 200, response.text
    assert leaks_in(response.content) == []
    return response.json()


async def test_a_key_that_works_is_valid(owner: Visitor, providers: ProviderServer) -> None:
    answer = await judged(owner, provider="openai", api_key=providers["good"])

    assert (answer["success"], answer["valid"], answer["outcome"], answer["cached"]) == (True, True, "valid", False)
    assert answer["message"] == "OpenAI accepts the key"
    assert answer["details"]["organization"] == "acme-inc"


async def test_a_wrong_key_is_told_without_being_repeated(owner: Visitor, providers: ProviderServer) -> None:
    answer = await judged(owner, provider="openai", api_key=canary())

    assert (answer["success"], answer["valid"], answer["outcome"]) == (True, False, "wrong_key")
    assert "Incorrect API key" in answer["details"]["provider_message"]


async def test_a_server_of_ones_own_is_tested_by_its_fields(owner: Visitor, providers: ProviderServer) -> None:
    fields = {"base_url": f"{providers.origin}/flowise", "api_key": providers["good"]}
    answer = await judged(owner, provider="flowise", fields=fields)

    assert (answer["valid"], answer["details"]) == (True, {"version": "3.1.4", "flows": 3})


async def test_the_same_key_is_asked_for_once_a_minute(
    owner: Visitor, stranger: Visitor, providers: ProviderServer
) -> None:
    first = await judged(owner, provider="anthropic", api_key=providers["good"])
    again = await judged(owner, provider="anthropic", api_key=providers["good"])
    elsewhere = await judged(stranger, provider="anthropic", api_key=providers["good"])

    assert again == {**first, "cached": True}
    assert elsewhere["cached"] is False
    assert [path for path, _ in providers.asked] == ["/anthropic/v1/models"] * 2


async def test_after_a_minute_the_provider_is_asked_again(
    stack: Stack, owner: Visitor, providers: ProviderServer
) -> None:
    await judged(owner, provider="gemini", api_key=providers["good"])
    async with connect(stack.database_url) as connection:
        await connection.execute("update private.clock_shift set shift = '61 s'")
    answer = await judged(owner, provider="gemini", api_key=providers["good"])

    assert (answer["valid"], answer["cached"]) == (True, False)
    assert len(providers.asked) == 2


async def test_another_key_of_the_same_provider_is_another_question(owner: Visitor, providers: ProviderServer) -> None:
    assert (await judged(owner, provider="openai", api_key=providers["good"]))["valid"] is True
    assert (await judged(owner, provider="openai", api_key=providers["deactivated"]))["valid"] is False
    assert (await judged(owner, provider="deepseek", api_key=providers["good"]))["cached"] is False


async def test_what_failed_on_the_way_is_tried_anew(owner: Visitor, providers: ProviderServer) -> None:
    answers = [await judged(owner, provider="gemini", api_key=providers["down"]) for _ in range(2)]

    assert [(one["success"], one["outcome"], one["cached"]) for one in answers] == [(False, "provider_down", False)] * 2


async def test_a_stored_credential_is_tested_and_the_result_and_the_opening_are_kept(
    owner: Visitor, person: Person, providers: ProviderServer
) -> None:
    credential_id = await stored(person, "deepseek", api_key=providers["poor"])
    answer = await judged(owner, credential_id=credential_id)

    assert (answer["outcome"], answer["valid"]) == ("no_credit", False)
    row = (await person.client.from_("credentials").select("last_test,last_tested_at").execute()).data[0]
    assert row["last_test"] == {name: answer[name] for name in ("valid", "outcome", "message")}
    assert row["last_tested_at"] is not None
    log = (await person.client.from_("credential_access_log").select("credential_id,purpose,user_id").execute()).data
    assert log == [{"credential_id": credential_id, "purpose": "test", "user_id": person.user_id}]


async def test_a_stored_credential_of_another_provider_is_refused(
    owner: Visitor, person: Person, providers: ProviderServer
) -> None:
    credential_id = await stored(person, "deepseek", api_key=providers["good"])
    response = await owner.post("credential-test", {"credential_id": credential_id, "provider": "openai"})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    assert providers.asked == []


async def test_a_strangers_credential_does_not_exist(
    stranger: Visitor, person: Person, providers: ProviderServer
) -> None:
    credential_id = await stored(person, "openai", api_key=providers["good"])
    response = await stranger.post("credential-test", {"credential_id": credential_id})

    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert providers.asked == []
    assert (await person.client.from_("credential_access_log").select("id").execute()).data == []


@pytest.mark.parametrize(("role", "status"), [("viewer", 404), ("member", 403), ("admin", 200), ("owner", 200)])
async def test_who_may_change_a_credential_may_test_it(
    stack: Stack, visitor, person: Person, providers: ProviderServer, role: str, status: int
) -> None:
    credential_id = await stored(person, "openai", api_key=providers["good"])
    guest = await stack.sign_up()
    async with connect(stack.database_url) as connection:
        await connection.execute(
            "insert into public.account_members (account_id, user_id, role) values (%s, %s, %s)",
            [person.user_id, guest.user_id, role],
        )
    response = await visitor(guest.access_token).post("credential-test", {"credential_id": credential_id})

    assert response.status_code == status, response.text
    assert len(providers.asked) == (1 if status == 200 else 0)


async def test_a_user_may_make_twenty_tests_a_minute(
    stack: Stack, owner: Visitor, stranger: Visitor, person: Person, providers: ProviderServer
) -> None:
    async with connect(stack.database_url) as connection:
        await connection.execute(
            "insert into private.test_rates values (%s, private.clock() + interval '60 s')", [person.user_id]
        )
    refused = await owner.post("credential-test", {"provider": "openai", "api_key": providers["good"]})

    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert providers.asked == []
    assert (await judged(stranger, provider="openai", api_key=providers["good"]))["valid"] is True


async def test_a_limit_lets_as_many_pass_as_it_says(person: Person) -> None:
    passed = 0

    async def until_refused() -> None:
        nonlocal passed
        while passed < 40:
            await person.client.rpc("begin_credential_test", {}).execute()
            passed += 1

    with pytest.raises(APIError) as refusal:
        await until_refused()
    assert refusal.value.code == "RUN09"
    assert passed >= 20  # a place comes free every three seconds


async def test_what_cannot_be_tested_is_refused_by_the_name_of_the_field_and_without_its_value(owner: Visitor) -> None:
    for body, problem in BAD:
        response = await owner.post("credential-test", body)

        assert (response.status_code, response.json()["code"]) == (400, "invalid_input"), (body, response.text)
        assert problem in response.text
        assert leaks_in(response.content) == []


async def test_only_a_signed_in_user_may_test(service: Visitor, http, providers: ProviderServer) -> None:
    body = {"provider": "openai", "api_key": providers["good"]}

    assert (await Visitor(http).post("credential-test", body)).status_code == 401
    assert (await service.post("credential-test", body)).status_code in {401, 403}
    assert providers.asked == []


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.7", "[fd00:ec2::254]", "metadata.google.internal", "100.64.0.1"]
)
async def test_an_address_inside_is_not_asked(owner: Visitor, providers: ProviderServer, host: str) -> None:
    fields = {"base_url": f"https://{host}", "headers": {"X-Key": canary()}}
    answer = await judged(owner, provider="http", fields=fields)

    assert (answer["success"], answer["valid"]) == (False, False)
    assert answer["outcome"] in {"address_blocked", "unreachable"}


async def test_the_stacks_own_ports_are_not_asked_although_they_are_on_this_machine(
    owner: Visitor, stack: Stack, providers: ProviderServer
) -> None:
    answer = await judged(owner, provider="http", fields={"base_url": stack.url, "headers": {"apikey": stack.anon_key}})

    assert answer["outcome"] == "address_blocked"
