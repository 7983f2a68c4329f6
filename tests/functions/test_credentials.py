"""People's credentials over HTTP: taken, shown without their secrets, erased."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.functions.programs import Owner
from tests.functions.visitor import Visitor
from tests.support.canaries import canary, leaks_in
from tests.support.provider_server import ProviderServer, provider_server
from tests.support.runs import Person, connect, join
from tests.support.stack import Stack

ID = "6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01"
SHOWN = {
    "id", "account_id", "user_id", "provider", "name", "last_four", "created_at", "updated_at", "last_used_at",
    "last_tested_at", "last_test",
}  # fmt: skip


async def act(visitor: Visitor, action: str, **fields: Any) -> dict[str, Any]:
    """Call the function, expecting success, and that it shows no secret."""
    response = await visitor.post("credentials", {"action": action, **fields})
    assert response.is_success, response.text
    assert leaks_in(response.text) == []
    return response.json()


async def add(visitor: Visitor, key: str | None = None, **fields: Any) -> dict[str, Any]:
    request = {"provider": "openai", "fields": {"api_key": key or canary()}, **fields}
    return (await act(visitor, "create", **request))["credential"]


async def listed(visitor: Visitor, **filters: Any) -> list[dict[str, Any]]:
    return (await act(visitor, "list", **filters))["credentials"]


async def test_a_credential_is_taken_and_shown_without_its_secret(owner: Visitor):
    key = canary()

    response = await owner.post("credentials", {"action": "create", "provider": "openai", "fields": {"api_key": key}})

    assert response.status_code == 201
    credential = response.json()["credential"]
    assert set(credential) == SHOWN
    assert (credential["provider"], credential["name"]) == ("openai", "OpenAI")
    assert credential["last_four"] == key[-4:]
    assert credential["last_used_at"] is credential["last_tested_at"] is credential["last_test"] is None
    assert leaks_in(response.text) == []
    assert await listed(owner) == [credential]


async def test_what_is_stored_opens_to_nobody_who_has_only_the_database(owner: Visitor, stack: Stack):
    await add(owner)

    async with connect(stack.database_url) as connection:
        cursor = await connection.execute("select to_jsonb(c) from public.credentials c")
        rows = await cursor.fetchall()
    assert leaks_in(json.dumps(rows, default=str)) == []
    assert rows[0][0]["key_version"] == 1


async def test_the_list_is_newest_first_and_can_be_of_one_provider(owner: Visitor):
    await add(owner, name="First")
    await add(owner, provider="deepseek", name="Second")
    await add(owner, name="Third")

    assert [one["name"] for one in await listed(owner)] == ["Third", "Second", "First"]
    assert [one["name"] for one in await listed(owner, provider="deepseek")] == ["Second"]


async def test_a_credential_is_renamed(owner: Visitor):
    credential = await add(owner)

    renamed = (await act(owner, "rename", credential_id=credential["id"], name="  Work "))["credential"]

    assert renamed == {**credential, "name": "Work", "updated_at": renamed["updated_at"]}
    assert await listed(owner) == [renamed]


async def test_a_secret_is_replaced_and_the_credential_stays(owner: Visitor, stack: Stack):
    credential = await add(owner)
    key = canary()

    replaced = (await act(owner, "replace", credential_id=credential["id"], fields={"api_key": key}))["credential"]

    assert (replaced["id"], replaced["last_four"]) == (credential["id"], key[-4:])


async def test_a_secret_is_replaced_by_one_of_the_same_provider_only(owner: Visitor):
    credential = await add(owner)

    fields = {"base_url": "https://evil.example", "api_key": canary()}
    response = await owner.post(
        "credentials", {"action": "replace", "credential_id": credential["id"], "fields": fields}
    )

    assert (response.status_code, response.json()["message"]) == (400, "fields: Unknown field")


async def test_a_deleted_credential_is_gone(owner: Visitor):
    credential = await add(owner)

    assert await act(owner, "delete", credential_id=credential["id"]) == {"id": credential["id"], "deleted": True}

    assert await listed(owner) == []
    for action, fields in (("delete", {}), ("rename", {"name": "x"}), ("replace", {"fields": {"api_key": canary()}})):
        response = await owner.post("credentials", {"action": action, "credential_id": credential["id"], **fields})
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_somebody_elses_credential_does_not_exist(owner: Visitor, stranger: Visitor):
    credential = await add(owner)

    assert await listed(stranger) == []
    assert await listed(stranger, account_id=credential["account_id"]) == []
    for action, fields in (("delete", {}), ("rename", {"name": "x"}), ("replace", {"fields": {"api_key": canary()}})):
        theirs = await stranger.post("credentials", {"action": action, "credential_id": credential["id"], **fields})
        nobodys = await stranger.post("credentials", {"action": action, "credential_id": str(uuid4()), **fields})
        assert theirs.status_code == nobodys.status_code == 404
        assert re.sub(r"[0-9a-f-]{36}", "", theirs.text) == re.sub(r"[0-9a-f-]{36}", "", nobodys.text)
    response = await stranger.post(
        "credentials",
        {
            "action": "create",
            "provider": "openai",
            "fields": {"api_key": canary()},
            "account_id": credential["account_id"],
        },
    )
    assert response.status_code == 403


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("member", 201), ("admin", 201)])
async def test_members_of_an_account_add_to_it_and_viewers_do_not(
    stack: Stack, visitor: Callable[[str], Visitor], role: str, status: int
):
    host, guest = await stack.sign_up(), await stack.sign_up()
    await join(stack.database_url, Person(stack.database_url, UUID(guest.user_id)), UUID(host.user_id), role)
    hosts = await add(visitor(host.access_token))

    response = await visitor(guest.access_token).post(
        "credentials",
        {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "account_id": host.user_id},
    )

    assert response.status_code == status
    seen = [one["id"] for one in await listed(visitor(guest.access_token), account_id=host.user_id)]
    assert (hosts["id"] in seen) is (role != "viewer")


async def test_a_repeated_create_with_its_key_adds_nothing(owner: Visitor):
    body = {"action": "create", "provider": "openai", "fields": {"api_key": canary()}}
    headers = {"Idempotency-Key": "add-1"}

    first = await owner.post("credentials", body, headers=headers)
    again = await owner.post("credentials", body, headers=headers)
    other = await owner.post("credentials", {**body, "fields": {"api_key": canary()}}, headers=headers)

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json() == {**first.json(), "created": False}
    assert other.json()["code"] == "idempotency_conflict"
    assert len(await listed(owner)) == 1


@pytest.fixture
async def providers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ProviderServer]:
    async with provider_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


async def test_a_key_that_its_provider_takes_is_stored_with_the_result(owner: Visitor, providers: ProviderServer):
    credential = await add(owner, providers["good"], test=True)

    assert credential["last_test"] == {"valid": True, "outcome": "valid", "message": "OpenAI accepts the key"}
    assert credential["last_tested_at"] is not None


@pytest.mark.parametrize(
    ("kind", "status", "code", "outcome"),
    [
        ("unknown", 400, "invalid_input", "wrong_key"),
        ("deactivated", 400, "invalid_input", "revoked"),
        ("poor", 400, "invalid_input", "no_credit"),
        ("limited", 502, "upstream_busy", "rate_limited"),
        ("down", 502, "upstream_busy", "provider_down"),
    ],
)
async def test_a_key_that_its_provider_does_not_take_is_not_stored(
    owner: Visitor, providers: ProviderServer, kind: str, status: int, code: str, outcome: str
):
    key = canary() if kind == "unknown" else providers[kind]

    response = await owner.post(
        "credentials", {"action": "create", "provider": "openai", "fields": {"api_key": key}, "test": True}
    )

    assert (response.status_code, response.json()["code"], response.json()["details"]) == (status, code, outcome)
    assert leaks_in(response.text) == []
    assert await listed(owner) == []


async def test_a_replacement_that_its_provider_does_not_take_leaves_the_old_secret(
    owner: Visitor, providers: ProviderServer
):
    credential = await add(owner)
    body = {"action": "replace", "credential_id": credential["id"], "fields": {"api_key": canary()}, "test": True}

    response = await owner.post("credentials", body)

    assert (response.status_code, response.json()["details"]) == (400, "wrong_key")
    assert await listed(owner) == [credential]


async def test_a_credential_that_cannot_be_tested_is_stored_untested_only(owner: Visitor):
    fields = {"dsn": f"postgresql://user:{canary()}@db.example.com/app"}

    response = await owner.post(
        "credentials", {"action": "create", "provider": "postgres", "fields": fields, "test": True}
    )

    assert (response.status_code, response.json()["details"]) == (400, "untestable")
    assert await listed(owner) == []


async def test_tests_at_creation_count_as_tests(owner: Visitor, providers: ProviderServer):
    body = {"action": "create", "provider": "openai", "fields": {"api_key": providers["poor"]}, "test": True}

    answers = [(await owner.post("credentials", body)).status_code for _ in range(21)]

    assert answers == [400] * 20 + [429]


async def test_the_forms_tell_what_to_ask_for(owner: Visitor):
    forms = {form["provider"]: form for form in (await act(owner, "providers"))["providers"]}

    assert list(forms) == ["openai", "deepseek", "anthropic", "gemini", "flowise", "http", "postgres"]
    assert forms["flowise"]["fields"] == [
        {
            "name": "api_key",
            "label": "API key",
            "format": "key",
            "secret": True,
            "required": True,
            "help": None,
        },
        {
            "name": "base_url",
            "label": "Base URL",
            "format": "url",
            "secret": False,
            "required": True,
            "help": "https://… ; the key is sent nowhere else",
        },
    ]


@pytest.mark.parametrize(
    ("provider", "fields"),
    [
        ("flowise", {"base_url": "https://flows.example.com", "api_key": canary()}),
        ("http", {"base_url": "https://api.example.com", "headers": {"Authorization": f"Bearer {canary()}"}}),
        ("postgres", {"dsn": f"postgresql://user:{canary()}@db.example.com/app"}),
    ],
)
async def test_every_kind_of_credential_is_taken(owner: Visitor, provider: str, fields: dict[str, Any]):
    credential = await add(owner, provider=provider, fields=fields)

    assert credential["provider"] == provider


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "action: Field required"),
        ({"action": "reveal", "credential_id": ID}, "action: 'reveal' is unknown, use "),
        ({"action": "create"}, "provider: Field required"),
        ({"action": "create", "provider": "mistral", "fields": {}}, "provider: Input should be 'openai'"),
        ({"action": "create", "provider": 5, "fields": {}}, "provider: Input should be 'openai'"),
        ({"action": "create", "provider": "openai"}, "fields: Field required"),
        ({"action": "create", "provider": "openai", "fields": []}, "fields: Input should be an object"),
        ({"action": "create", "provider": "openai", "fields": "sk-1234567"}, "fields: Input should be an object"),
        ({"action": "create", "provider": "openai", "fields": {}}, "fields.api_key: Field required"),
        ({"action": "create", "provider": "openai", "fields": {"api_key": 1}}, "fields.api_key: Input should be"),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": "a\0b"}},
            "fields.api_key: must not contain NUL",
        ),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "name": ""},
            "name: String should",
        ),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "name": " "},
            "name: String should",
        ),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "name": "x" * 101},
            "name: String",
        ),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "account_id": "me"},
            "account_id: ",
        ),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "test": "yes"},
            "test: Input should",
        ),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "sealed": "AA"},
            "sealed: Unknown",
        ),
        ({"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "id": ID}, "id: Unknown field"),
        (
            {"action": "create", "provider": "openai", "fields": {"api_key": canary()}, "user_id": ID},
            "user_id: Unknown",
        ),
        ({"action": "list", "account_id": "1"}, "account_id: Input should be a valid UUID"),
        ({"action": "list", "provider": "*"}, "provider: Input should be 'openai'"),
        ({"action": "list", "include": "secrets"}, "include: Unknown field"),
        ({"action": "rename", "credential_id": ID}, "name: Field required"),
        ({"action": "rename", "credential_id": "*", "name": "x"}, "credential_id: Input should be a valid UUID"),
        ({"action": "replace", "credential_id": ID}, "fields: Field required"),
        ({"action": "replace", "credential_id": ID, "fields": {}, "provider": "http"}, "provider: Unknown field"),
        ({"action": "delete"}, "credential_id: Field required"),
        ({"action": "delete", "credential_id": [ID]}, "credential_id: UUID input should be"),
    ],
)
async def test_bad_input_is_named_and_no_key_comes_back(owner: Visitor, body: dict[str, Any], message: str):
    response = await owner.post("credentials", body)

    assert response.status_code == 400
    assert response.json()["message"].startswith(message)
    assert leaks_in(response.text) == []
    assert await listed(owner) == []


async def test_a_key_that_is_broken_json_is_not_repeated(owner: Visitor):
    response = await owner.send("credentials", f'{{"action": "create", "fields": {{"api_key": "{canary()}'.encode())

    assert response.status_code == 400
    assert leaks_in(response.text) == []


async def test_a_caller_without_a_token_is_refused(stack: Stack, visitor: Callable[[str], Visitor]):
    response = await visitor("nonsense").post("credentials", {"action": "list"})

    assert response.status_code == 401


async def test_a_program_with_both_scopes_does_what_its_person_may(key_owner: Owner):
    program = (await key_owner.make(["credentials:read", "credentials:write"])).visitor
    credential = await add(program)
    key = canary()

    await act(program, "rename", credential_id=credential["id"], name="Program's")
    await act(program, "replace", credential_id=credential["id"], fields={"api_key": key})

    shown = await listed(program)
    assert [(one["name"], one["last_four"]) for one in shown] == [("Program's", key[-4:])]
    await act(program, "delete", credential_id=credential["id"])


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [("credentials:read", {"providers", "list"}), ("credentials:write", {"providers", "create", "rename", "delete"})],
)
async def test_a_program_without_a_scope_is_told_which(key_owner: Owner, scope: str, allowed: set[str]):
    credential = await add(key_owner.visitor)
    program = (await key_owner.make([scope])).visitor
    mine = {"credential_id": credential["id"]}
    bodies: dict[str, dict[str, Any]] = {
        "providers": {},
        "list": {},
        "create": {"provider": "openai", "fields": {"api_key": canary()}},
        "rename": {**mine, "name": "x"},
        "replace": {**mine, "fields": {"api_key": canary()}},
        "delete": mine,
    }

    answers = {action: await program.post("credentials", {"action": action, **body}) for action, body in bodies.items()}

    assert {action for action, answer in answers.items() if answer.is_success} == allowed
    refusals = [answer for action, answer in answers.items() if action not in allowed]
    assert {answer.status_code for answer in refusals} == {403}
    assert all("lacks the scope credentials:" in answer.json()["message"] for answer in refusals)


async def test_a_function_without_keys_stores_nothing(owner: Visitor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENCRYPTION_KEYS", "")

    response = await owner.post(
        "credentials", {"action": "create", "provider": "openai", "fields": {"api_key": canary()}}
    )

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert await listed(owner) == []


async def test_a_function_with_a_retired_key_stores_nothing(owner: Visitor, stack: Stack):
    async with connect(stack.database_url) as connection:
        await connection.execute("update private.vault set min_key_version = 2")

    response = await owner.post(
        "credentials", {"action": "create", "provider": "openai", "fields": {"api_key": canary()}}
    )

    assert (response.status_code, response.json()["code"]) == (500, "vault_sealed")
    assert await listed(owner) == []
