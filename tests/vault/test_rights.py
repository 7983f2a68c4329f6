"""Who may see, use and change a credential; what is sealed is seen by nobody."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.direct_database import DirectDatabase
from shared.rest_database import RestDatabase
from shared.vault.binding import Binding
from shared.vault.opening import open_to_test, record_test
from shared.vault.ring import KeyRing
from tests.runs.people import may, refused
from tests.support.canaries import canary
from tests.support.runs import Person, connect, join, new_person, until_lock_wait
from tests.support.stack import Stack
from tests.vault.people import add_credential, ring, sealed

SEEN = "select id, name, provider, last_four from public.credentials"


async def new_credential(keys: KeyRing, owner: UUID, **changes: Any) -> str:
    """A request as the function makes it, but for some changes."""
    binding = Binding(owner, uuid4(), "openai")
    credential = {
        **await sealed(keys, binding),
        "id": str(binding.credential_id),
        "account_id": str(owner),
        "provider": "openai",
        "name": "Mine",
        **changes,
    }
    return json.dumps({name: value for name, value in credential.items() if value != "absent"})


@pytest.mark.parametrize(
    ("role", "sees", "adds", "changes_own", "changes_others"),
    [
        ("viewer", False, False, False, False),
        ("member", True, True, True, False),
        ("admin", True, True, True, True),
        ("owner", True, True, True, True),
    ],
)
async def test_roles_in_an_account(
    person: Person,
    keys: KeyRing,
    database_url: str,
    role: str,
    *,
    sees: bool,
    adds: bool,
    changes_own: bool,
    changes_others: bool,
):
    guest = await new_person(database_url)
    await join(database_url, guest, person.id, role)
    theirs = await add_credential(person, keys)

    assert bool(await guest.query(SEEN)) is sees
    assert await may(guest.call("create_credential", await new_credential(keys, person.id))) is adds
    if adds:
        own = await add_credential(guest, keys, account_id=person.id)
        assert await may(guest.call("rename_credential", own, "New")) is changes_own
    secret = json.dumps(await sealed(keys, Binding(person.id, theirs, "openai")))
    refusal = "RUN06" if sees else "RUN16"
    for call in (
        lambda: guest.call("rename_credential", theirs, "New"),
        lambda: guest.call("replace_credential", theirs, secret),
        lambda: guest.call("open_credential_to_test", theirs, keys.marks.tickets(theirs)),
        lambda: guest.call("delete_credential", theirs),
    ):
        if changes_others:
            await call()
        else:
            assert await refused(call()) == refusal


async def test_a_strangers_credential_does_not_exist(person: Person, keys: KeyRing, database_url: str):
    credential_id = await add_credential(person, keys)
    stranger = await new_person(database_url)
    secret = json.dumps(await sealed(keys, Binding(person.id, credential_id, "openai")))
    tickets = keys.marks.tickets(credential_id)

    assert await person.query(SEEN) != []
    assert await stranger.query(SEEN) == []
    for function, *arguments in (
        ("rename_credential", credential_id, "Mine now"),
        ("replace_credential", credential_id, secret),
        ("delete_credential", credential_id),
        ("open_credential_to_test", credential_id, tickets),
        ("record_credential_test", credential_id, tickets, '{"valid": true, "outcome": "valid", "message": ""}'),
    ):
        assert await refused(stranger.call(function, *arguments)) == "RUN16"
        assert await refused(stranger.call(function, uuid4(), *arguments[1:])) == "RUN16"
    assert await refused(stranger.call("create_credential", await new_credential(keys, person.id))) == "RUN06"


@pytest.mark.parametrize("role", ["authenticated", "service_role", "anon"])
async def test_nobody_reads_what_is_sealed_nor_writes_by_himself(person: Person, keys: KeyRing, role: str):
    await add_credential(person, keys)
    statements = [
        "select * from public.credentials",
        "select sealed from public.credentials",
        "select ticket_hash from public.credentials",
        "select fingerprint from public.credentials",
        "select 1 from public.credentials where sealed > ''",
        "select 1 from public.credentials order by fingerprint",
        "select to_jsonb(c) from public.credentials c",
        "update public.credentials set name = 'x'",
        "update public.credentials set account_id = id",
        "delete from public.credentials",
        "insert into public.credentials default values",
        "insert into public.credential_access_log default values",
        "delete from public.credential_access_log",
        "update public.credential_access_log set purpose = 'test'",
    ]

    refusals = {statement: await refused(person.query(statement, role=role)) for statement in statements}

    assert refusals == dict.fromkeys(statements, "42501")


@pytest.mark.parametrize("role", ["authenticated", "anon"])
async def test_what_workers_and_operators_call_is_not_for_people(person: Person, role: str):
    calls = [
        "open_credential(gen_random_uuid(), gen_random_uuid(), 1, 1, 'openai')",
        "credentials_to_rewrap(9, null, 10)",
        "rewrap_credentials('[]')",
        "retire_keys(9)",
        "vault_status()",
    ]

    refusals = {call: await refused(person.query(f"select public.{call}", role=role)) for call in calls}

    assert refusals == dict.fromkeys(calls, "42501")


async def test_a_person_without_a_ticket_never_gets_what_is_sealed(person: Person, keys: KeyRing, database_url: str):
    """Not even his own: the ticket comes of keys that functions hold."""
    credential_id = await add_credential(person, keys)
    other = ring(2).marks.tickets(credential_id)

    for tickets in ([], [""], [str(credential_id)], other, None, keys.marks.tickets(uuid4())):
        assert await refused(person.call("open_credential_to_test", credential_id, tickets)) == "RUN17"
    async with connect(database_url) as connection:
        cursor = await connection.execute("select ticket_hash from public.credentials")
        (told,) = await cursor.fetchall()
        assert await refused(person.call("open_credential_to_test", credential_id, [*told])) == "RUN17"
        assert await (await connection.execute("select 1 from public.credential_access_log")).fetchall() == []


async def test_a_test_opens_the_credential_of_who_asks_and_is_written_down(stack: Stack, keys: KeyRing):
    someone = await stack.sign_up()
    person = Person(stack.database_url, UUID(someone.user_id))
    key = canary()
    credential_id = await add_credential(person, keys, api_key=key)
    database = RestDatabase(f"{stack.url}/rest/v1", apikey=stack.anon_key, token=someone.access_token)

    async with open_to_test(database, keys, credential_id) as credential:
        assert credential.fields["api_key"].reveal() == key
    await record_test(database, keys, credential_id, valid=False, outcome="wrong_key", message="Unknown key")

    assert await person.query("select purpose, run_id, user_id::text from public.credential_access_log") == [
        ("test", None, someone.user_id)
    ]
    rows = await person.query("select last_test, last_tested_at is not null, last_used_at from public.credentials")
    assert rows == [({"valid": False, "outcome": "wrong_key", "message": "Unknown key"}, True, None)]


async def test_openings_are_seen_by_who_works_in_the_credentials_account(
    person: Person, keys: KeyRing, database_url: str
):
    viewer, stranger = await new_person(database_url), await new_person(database_url)
    await join(database_url, viewer, person.id, "viewer")
    credential_id = await add_credential(person, keys)
    await person.call("open_credential_to_test", credential_id, keys.marks.tickets(credential_id))

    seen = "select credential_id from public.credential_access_log"
    assert await person.query(seen) == [(credential_id,)]
    assert await viewer.query(seen) == []
    assert await stranger.query(seen) == []


WRONG: list[dict[str, Any]] = [
    {"id": "x"},
    {"id": None},
    {"id": "absent"},
    {"account_id": None},
    {"provider": "Open AI"},
    {"provider": None},
    {"name": ""},
    {"name": "x" * 101},
    {"name": None},
    {"sealed": "short"},
    {"sealed": None},
    {"sealed": "*" * 300},
    {"sealed": "A" * 90_001},
    {"ticket_hash": "x"},
    {"ticket_hash": None},
    {"fingerprint": None},
    {"key_version": 0},
    {"key_version": "one"},
    {"key_version": 10**12},
    {"key_version": None},
    {"last_four": "12345"},
    {"test": []},
    {"test": {"valid": "yes", "outcome": "valid", "message": ""}},
    {"test": {"valid": True, "outcome": "V", "message": ""}},
    {"test": {"valid": True, "outcome": "valid", "message": "x" * 1001}},
    {"test": {"valid": True, "outcome": "valid"}},
    {"user_id": str(uuid4())},
    {"deleted_at": None},
    {"created_at": "2020-01-01"},
]


async def test_what_no_function_would_send_is_refused(person: Person, keys: KeyRing):
    requests = [await new_credential(keys, person.id, **changes) for changes in WRONG]

    refusals = [await refused(person.call("create_credential", request)) for request in requests]

    assert refusals == ["RUN07"] * len(WRONG)
    assert await person.query(SEEN) == []


async def test_the_id_of_a_credential_that_there_is_is_refused(person: Person, keys: KeyRing, database_url: str):
    stranger = await new_person(database_url)
    credential_id = await add_credential(person, keys)

    request = await new_credential(keys, stranger.id, id=str(credential_id))

    assert await refused(stranger.call("create_credential", request)) == "RUN07"


async def test_an_account_has_at_most_two_hundred_also_when_all_come_at_once(
    person: Person, keys: KeyRing, database_url: str
):
    await add_credential(person, keys)
    async with connect(database_url) as connection:
        await connection.execute(
            "insert into public.credentials (id, account_id, user_id, provider, name, sealed, ticket_hash, fingerprint,"
            " key_version) select gen_random_uuid(), account_id, user_id, provider, name, sealed, ticket_hash,"
            " fingerprint, key_version from public.credentials, generate_series(1, 196)"
        )
    requests = [await new_credential(keys, person.id) for _ in range(6)]

    outcomes = await asyncio.gather(
        *(person.call("create_credential", request) for request in requests), return_exceptions=True
    )

    refusals = [one for one in outcomes if isinstance(one, psycopg.Error)]
    assert [one.sqlstate for one in refusals] == ["RUN09"] * 3
    assert len(await person.query(SEEN)) == 200


async def test_adding_and_deleting_without_end_has_an_end(person: Person, keys: KeyRing, database_url: str):
    await add_credential(person, keys)
    async with connect(database_url) as connection:
        await connection.execute(
            "insert into public.credentials (id, account_id, provider, name, key_version, deleted_at)"
            " select gen_random_uuid(), account_id, provider, name, 1, now()"
            " from public.credentials, generate_series(1, 499)"
        )

    assert await refused(add_credential(person, keys)) == "RUN09"


async def test_deleting_makes_room_and_leaves_nothing_to_see(person: Person, keys: KeyRing):
    credential_id = await add_credential(person, keys)

    await person.call("delete_credential", credential_id)

    assert await person.query(SEEN) == []
    for function, *arguments in (("delete_credential",), ("rename_credential", "x")):
        assert await refused(person.call(function, credential_id, *arguments)) == "RUN16"


async def test_a_key_is_not_retired_before_what_is_just_being_sealed_under_it_is_stored(
    person: Person, keys: KeyRing, database: DirectDatabase, database_url: str
):
    request = await new_credential(keys, person.id)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        claims = json.dumps({"sub": str(person.id), "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        await connection.execute("select public.create_credential(%s)", [request])  # not committed yet
        retiring = asyncio.create_task(database.call("retire_keys", {"p_key_version": 2}))
        await until_lock_wait(database_url, "runbase")

    assert await retiring == {"min_key_version": 0, "left": 1}
