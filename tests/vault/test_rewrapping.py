"""Secrets move to the current key while everything else goes on, and then the old key is refused."""

from __future__ import annotations

import asyncio
import json

import pytest

from local.development import VAULT
from shared.direct_database import DirectDatabase
from shared.errors import VaultSealed
from shared.runs.store import RunStore
from shared.vault import envelope
from shared.vault.binding import Binding
from shared.vault.opening import Vault
from shared.vault.rewrapping import Rewrapped, rewrap_all
from tests.cli.runbase import command, environment, runbase
from tests.runs.people import refused
from tests.support.canaries import canary
from tests.support.runs import Person, connect
from tests.support.wires import GatedDatabase
from tests.vault.people import add_credential, held_step, ring, sealed
from tests.vault.rotation import encryption_keys, key_versions


async def rewrapped(database, keys, **options) -> list[Rewrapped]:
    return [done async for done in rewrap_all(database, keys, **options)]


async def test_everything_moves_to_the_current_key_in_batches(
    database: DirectDatabase, person: Person, database_url: str
):
    for _ in range(5):
        await add_credential(person, ring(1))

    done = await rewrapped(database, ring(1, 2), batch=2)

    assert [one.moved for one in done] == [2, 2, 1]
    assert await key_versions(database_url) == {2: 5}
    assert await rewrapped(database, ring(1, 2)) == []


async def test_what_was_rewrapped_opens_without_the_old_key(database: DirectDatabase, store: RunStore, person: Person):
    key = canary()
    step = await held_step(store, person, {"openai": await add_credential(person, ring(1), api_key=key)})

    await rewrapped(database, ring(1, 2))

    async with Vault(database, ring(2)).open(**step.towards()) as credential:
        assert credential.fields["api_key"].reveal() == key


async def test_no_secret_is_decrypted_to_rewrap_it(
    database: DirectDatabase, person: Person, monkeypatch: pytest.MonkeyPatch
):
    """AES-GCM decrypts one thing a credential: the 32 bytes of its data key."""
    for _ in range(3):
        await add_credential(person, ring(1))
    keys = ring(1, 2)

    def refuse(*_: object) -> None:
        raise AssertionError("the secret was decrypted")

    monkeypatch.setattr(envelope, "AESGCM", refuse)

    assert [one.moved for one in await rewrapped(database, keys)] == [3]


async def test_credentials_open_all_the_while_they_are_rewrapped(
    database: DirectDatabase, store: RunStore, person: Person, database_url: str
):
    both = ring(1, 2)
    for _ in range(100):
        await add_credential(person, ring(1))
    steps = [
        await held_step(store, person, {"openai": await add_credential(person, ring(1))}, max_steps=10)
        for _ in range(4)
    ]
    moved = asyncio.Event()
    opened = 0

    async def keep_opening(index: int) -> None:
        nonlocal opened
        while not moved.is_set():
            async with Vault(database, both).open(**steps[index].towards()):
                opened += 1

    async with asyncio.TaskGroup() as workers:
        for index in range(len(steps)):
            workers.create_task(keep_opening(index))
        done = await rewrapped(database, both, batch=5)
        moved.set()

    assert sum(one.moved for one in done) == 104
    assert await key_versions(database_url) == {2: 104}
    assert opened > 4


async def test_a_secret_that_is_replaced_meanwhile_is_not_overwritten(
    database: DirectDatabase, store: RunStore, person: Person
):
    credential_id = await add_credential(person, ring(1))
    step = await held_step(store, person, {"openai": credential_id})
    gated, key = GatedDatabase(database, "rewrap_credentials"), canary()

    rewrapping = asyncio.create_task(rewrapped(gated, ring(1, 2)))
    await gated.entered.wait()
    secret = await sealed(ring(1), Binding(person.id, credential_id, "openai"), api_key=key)
    await person.call("replace_credential", credential_id, json.dumps(secret))
    gated.gate.set()

    assert await rewrapping == [Rewrapped(moved=0, changed=1, sealed=0)]
    async with Vault(database, ring(1)).open(**step.towards()) as credential:
        assert credential.fields["api_key"].reveal() == key


async def test_a_credential_that_is_deleted_meanwhile_stays_deleted(
    database: DirectDatabase, person: Person, database_url: str
):
    credential_id = await add_credential(person, ring(1))
    gated = GatedDatabase(database, "rewrap_credentials")

    rewrapping = asyncio.create_task(rewrapped(gated, ring(1, 2)))
    await gated.entered.wait()
    await person.call("delete_credential", credential_id)
    gated.gate.set()

    assert await rewrapping == [Rewrapped(moved=0, changed=1, sealed=0)]
    async with connect(database_url) as connection:
        assert await (await connection.execute("select sealed from public.credentials")).fetchall() == [(None,)]


async def test_what_does_not_open_stays_and_is_told(database: DirectDatabase, person: Person, database_url: str):
    await add_credential(person, ring(1))
    await add_credential(person, ring(3))

    done = await rewrapped(database, ring(3, 4))

    assert done == [Rewrapped(moved=1, changed=0, sealed=1)]
    assert await key_versions(database_url) == {1: 1, 4: 1}


async def test_two_rewraps_at_once_move_each_secret_once(database: DirectDatabase, person: Person, database_url: str):
    for _ in range(20):
        await add_credential(person, ring(1))

    one, two = await asyncio.gather(rewrapped(database, ring(1, 2), batch=3), rewrapped(database, ring(1, 2), batch=4))

    assert sum(done.moved for done in [*one, *two]) == 20
    assert await key_versions(database_url) == {2: 20}


async def test_a_retired_key_neither_opens_nor_seals(
    database: DirectDatabase, store: RunStore, person: Person, database_url: str
):
    credential_id = await add_credential(person, ring(1))
    step = await held_step(store, person, {"openai": credential_id})
    async with connect(database_url) as connection:
        cursor = await connection.execute("select sealed from public.credentials")
        old = await cursor.fetchone()
        assert old is not None
    await rewrapped(database, ring(1, 2))
    answer = await database.call("retire_keys", {"p_key_version": 2})
    assert answer == {"min_key_version": 2, "left": 0}

    async with Vault(database, ring(1, 2)).open(**step.towards()):
        pass
    assert await refused(add_credential(person, ring(1))) == "RUN17"

    # Somebody puts the blob of before back, with its version and without.
    for version in (1, 2):
        async with connect(database_url) as connection:
            await connection.execute("update public.credentials set sealed = %s, key_version = %s", [*old, version])
        with pytest.raises(VaultSealed) as refusal:
            async with Vault(database, ring(1, 2)).open(**step.towards()):
                pass
        assert refusal.value.message == "The credential cannot be opened"


@pytest.mark.parametrize("version", [1, 2])
async def test_what_is_under_a_retired_key_is_not_brought_back_by_another_rotation(
    database: DirectDatabase, person: Person, database_url: str, version: int
):
    await add_credential(person, ring(1))
    async with connect(database_url) as connection:
        old = await (await connection.execute("select sealed from public.credentials")).fetchone()
        assert old is not None
    await rewrapped(database, ring(1, 2))
    await database.call("retire_keys", {"p_key_version": 2})
    async with connect(database_url) as connection:
        await connection.execute("update public.credentials set sealed = %s, key_version = %s", [*old, version])

    assert await rewrapped(database, ring(1, 2, 3)) == [Rewrapped(moved=0, changed=0, sealed=1)]
    assert await key_versions(database_url) == {version: 1}


async def test_no_key_is_retired_while_something_is_sealed_under_it(
    database: DirectDatabase, person: Person, database_url: str
):
    await add_credential(person, ring(1))

    assert await database.call("retire_keys", {"p_key_version": 2}) == {"min_key_version": 0, "left": 1}
    await add_credential(person, ring(1))


async def test_a_ticket_of_the_old_key_is_made_anew_with_the_current_one(database: DirectDatabase, person: Person):
    credential_id = await add_credential(person, ring(1))

    await rewrapped(database, ring(1, 2))

    tickets = ring(2).marks.tickets(credential_id)
    answer = await person.call("open_credential_to_test", credential_id, tickets)
    assert answer["credential_id"] == str(credential_id)
    assert await refused(person.call("open_credential_to_test", credential_id, ring(1).marks.tickets(credential_id)))


async def test_the_command_moves_tells_and_retires(database: DirectDatabase, person: Person, database_url: str):
    for _ in range(3):
        await add_credential(person, ring(1))
    env = {"SUPABASE_DB_URL": database_url, "ENCRYPTION_KEYS": encryption_keys(1, 2)}

    before = runbase("vault", "status", **env)
    moved = runbase("vault", "rewrap", "--batch", "2", "--retire", **env)
    after = runbase("vault", "status", **env)

    assert before.stdout.splitlines() == ["key 1: 3 credentials", "key 2: 0 credentials (current)"]
    assert moved.stdout.splitlines() == [
        "2 of 3 moved to key 2",
        "3 of 3 moved to key 2",
        "Everything that opens is under key 2: 3 moved, 0 changed meanwhile.",
        "Keys below 2 are retired: take them out of ENCRYPTION_KEYS.",
    ]
    assert after.stdout.splitlines() == ["key 1: 0 credentials (retired)", "key 2: 3 credentials (current)"]
    assert [before.returncode, moved.returncode, after.returncode] == [0, 0, 0]


async def test_the_command_fails_while_something_is_under_a_key_that_is_gone(
    database: DirectDatabase, person: Person, database_url: str
):
    await add_credential(person, ring(1))
    env = {"SUPABASE_DB_URL": database_url, "ENCRYPTION_KEYS": encryption_keys(2)}

    seen = runbase("vault", "status", **env)
    moved = runbase("vault", "rewrap", "--retire", **env)

    assert seen.stdout.splitlines()[0] == "key 1: 1 credentials (not in the environment)"
    assert "1 cannot be opened" in moved.stderr
    assert "none was retired" in moved.stderr
    assert [seen.returncode, moved.returncode] == [1, 1]


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ("not json", "postgresql://postgres:postgres@127.0.0.1:1/postgres"),
        (VAULT["ENCRYPTION_KEYS"], "postgresql://postgres:postgres@db.example.com/postgres"),
    ],
)
def test_the_command_refuses_wrong_keys_before_it_begins(keys: str, url: str):
    ended = runbase("vault", "status", "--db-url", url, ENCRYPTION_KEYS=keys)

    assert ended.returncode == 2
    assert "ENCRYPTION_KEYS" in ended.stderr


def test_the_command_without_a_database_is_one_sentence():
    ended = runbase("vault", "status", "--db-url", "postgresql://postgres:postgres@127.0.0.1:1/postgres")

    assert (ended.returncode, ended.stderr) == (1, "Error: The database does not answer\n")


async def test_a_rewrap_that_was_killed_goes_on_where_it_was(person: Person, database_url: str):
    for _ in range(60):
        await add_credential(person, ring(1))
    env = environment(SUPABASE_DB_URL=database_url, ENCRYPTION_KEYS=encryption_keys(1, 2))
    arguments = command("vault", "rewrap", "--batch", "1")
    process = await asyncio.create_subprocess_exec(*arguments, env=env, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"1 of 60 moved to key 2\n"
    process.kill()
    await process.communicate()

    again = runbase("vault", "rewrap", "--retire", SUPABASE_DB_URL=database_url, ENCRYPTION_KEYS=encryption_keys(1, 2))

    assert again.returncode == 0
    assert await key_versions(database_url) == {2: 60}
