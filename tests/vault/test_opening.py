"""A credential opens for the step that may use it, while it is performed, and each opening is written down."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID, uuid4

import pytest

from shared.errors import LeaseLost, NotFound, VaultSealed
from shared.rest_database import RestDatabase
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, FinishStep
from shared.vault.binding import Binding
from shared.vault.opening import Vault
from shared.vault.ring import KeyRing
from tests.support.canaries import canary
from tests.support.runs import Person, claim, connect, join, new_person
from tests.support.stack import Stack
from tests.vault.people import HeldStep, add_credential, held_step, ring, sealed


async def openings(url: str) -> list[tuple[object, ...]]:
    """The access log, oldest first."""
    statement = (
        "select credential_id, account_id, run_id, step_no, attempt, user_id, purpose"
        " from public.credential_access_log order by id"
    )
    async with connect(url) as connection:
        return await (await connection.execute(statement)).fetchall()


async def test_a_step_gets_what_was_entered_and_where_it_may_go(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing
):
    key = canary()
    credential_id = await add_credential(person, keys, api_key=key, organization="org-1")
    step = await held_step(store, person, {"openai": credential_id})

    async with vault.open(**step.towards()) as credential:
        assert (credential.provider, credential.credential_id) == ("openai", credential_id)
        assert {name: secret.reveal() for name, secret in credential.fields.items()} == {
            "api_key": key,
            "organization": "org-1",
        }
        assert credential.allowed_hosts == {"api.openai.com"}
        assert [secret.reveal() for secret in credential.secrets] == [key]
        assert key not in repr(credential)

    assert dict(credential.fields) == {}


async def test_a_worker_without_a_direct_connection_opens_over_postgrest(
    stack: Stack, store: RunStore, person: Person, keys: KeyRing
):
    key = canary()
    step = await held_step(store, person, {"openai": await add_credential(person, keys, api_key=key)})
    database = RestDatabase(f"{stack.url}/rest/v1", apikey=stack.service_key)

    async with Vault(database, keys).open(**step.towards()) as credential:
        assert credential.fields["api_key"].reveal() == key
    with pytest.raises(LeaseLost):
        async with Vault(database, keys).open(**{**step.towards(), "attempt": 2}):
            pass


async def test_a_flowise_key_goes_to_its_own_server_only(vault: Vault, store: RunStore, person: Person, keys: KeyRing):
    fields = {"base_url": "https://flows.example.com:8443/base/", "api_key": canary("")}
    credential_id = await add_credential(person, keys, "flowise", **fields)
    step = await held_step(store, person, {"flowise": credential_id})

    async with vault.open(**step.towards("flowise")) as credential:
        assert credential.allowed_hosts == {"https://flows.example.com:8443"}
        assert credential.fields["base_url"].reveal() == "https://flows.example.com:8443/base"


async def test_each_opening_is_a_row_of_the_access_log(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    credential_id = await add_credential(person, keys)
    step = await held_step(store, person, {"openai": credential_id})

    for _ in range(2):
        async with vault.open(**step.towards()):
            pass

    row = (credential_id, person.id, step.run_id, 1, 1, person.id, "step")
    assert await openings(database_url) == [row, row]
    assert await person.query("select 1 from public.credentials where last_used_at is not null") == [(1,)]


@pytest.mark.parametrize(
    "other",
    [
        {"lease_id": uuid4()},
        {"run_id": uuid4()},
        {"step_no": 2},
        {"attempt": 2},
        {"step_no": 0},
    ],
)
async def test_only_the_worker_that_performs_the_step_opens(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str, other: dict[str, object]
):
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})

    with pytest.raises(LeaseLost):
        async with vault.open(**{**step.towards(), **other}):
            pass
    assert await openings(database_url) == []


async def test_a_step_that_ended_opens_nothing_more(vault: Vault, store: RunStore, person: Person, keys: KeyRing):
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})
    done = FinishStep(1, 1, StepStatus.COMPLETED, output={})
    await store.advance([Advance(step.run_id, step.lease_id, step.revision, finish=(done,))], lease_seconds=15)

    with pytest.raises(LeaseLost):
        async with vault.open(**step.towards()):
            pass


async def test_a_run_that_ended_opens_nothing_more(vault: Vault, store: RunStore, person: Person, keys: KeyRing):
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})
    end = Advance(step.run_id, step.lease_id, step.revision, status=RunStatus.FAILED)
    await store.advance([end], lease_seconds=15)

    with pytest.raises(LeaseLost):
        async with vault.open(**step.towards()):
            pass


async def test_a_worker_whose_run_another_has_taken_opens_nothing(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})
    async with connect(database_url) as connection:
        await connection.execute("update public.agent_runs set lease_expires_at = now() - interval '1 second'")
    async with vault.open(**step.towards()):
        pass  # late, and nobody else has it yet

    (taken,) = (await claim(store, owner="another")).views
    assert taken.run.id == step.run_id

    with pytest.raises(LeaseLost):
        async with vault.open(**step.towards()):
            pass


async def test_a_provider_without_a_credential_has_none_of_anothers(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing
):
    await add_credential(person, keys, "deepseek")
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})

    with pytest.raises(NotFound):
        async with vault.open(**step.towards("deepseek")):
            pass


async def test_a_credential_of_another_account_that_stands_in_the_run_does_not_open(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    """What create_run would refuse, somebody wrote into the table."""
    stranger = await new_person(database_url)
    foreign = await add_credential(stranger, keys)
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})
    async with connect(database_url) as connection:
        await connection.execute(
            "update public.agent_runs set credential_ids = jsonb_build_object('openai', %s::text)", [str(foreign)]
        )

    with pytest.raises(NotFound):
        async with vault.open(**step.towards()):
            pass
    assert await openings(database_url) == []


async def test_a_deleted_credential_is_lost_to_a_running_step_at_its_next_opening(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    key = canary()
    credential_id = await add_credential(person, keys, api_key=key)
    step = await held_step(store, person, {"openai": credential_id})

    async with vault.open(**step.towards()) as credential:
        await person.call("delete_credential", credential_id)
        assert credential.fields["api_key"].reveal() == key  # this call has begun

    with pytest.raises(NotFound):
        async with vault.open(**step.towards()):
            pass
    async with connect(database_url) as connection:
        cursor = await connection.execute("select sealed, ticket_hash, fingerprint, last_four from public.credentials")
        assert await cursor.fetchall() == [(None, None, None, None)]


async def test_a_replaced_secret_is_what_the_next_opening_gets(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing
):
    credential_id = await add_credential(person, keys)
    step = await held_step(store, person, {"openai": credential_id})
    key = canary()
    secret = await sealed(keys, Binding(person.id, credential_id, "openai"), api_key=key)

    await person.call("replace_credential", credential_id, json.dumps(secret))

    async with vault.open(**step.towards()) as credential:
        assert credential.fields["api_key"].reveal() == key


async def swap(url: str, one: UUID, two: UUID) -> None:
    """Put each credential's sealed secret into the other's row."""
    async with connect(url) as connection:
        await connection.execute(
            "update public.credentials c set sealed = o.sealed from public.credentials o"
            " where (c.id, o.id) in ((%s, %s), (%s, %s))",
            [one, two, two, one],
        )


async def test_blobs_that_were_swapped_between_rows_providers_and_owners_do_not_open(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    other = await new_person(database_url)
    mine = await add_credential(person, keys)
    for place in (
        await add_credential(person, keys),
        await add_credential(person, keys, "deepseek"),
        await add_credential(other, keys),
    ):
        step = await held_step(store, person, {"openai": mine})
        await swap(database_url, mine, place)

        with pytest.raises(VaultSealed) as refusal:
            async with vault.open(**step.towards()):
                pass
        assert refusal.value.message == "The credential cannot be opened"
        await swap(database_url, mine, place)
        async with vault.open(**step.towards()):
            pass


async def test_a_blob_that_is_no_base64_is_the_same_refusal(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})
    async with connect(database_url) as connection:
        await connection.execute("update public.credentials set sealed = repeat('*', 200)")

    with pytest.raises(VaultSealed) as refusal:
        async with vault.open(**step.towards()):
            pass
    assert refusal.value.message == "The credential cannot be opened"


async def test_a_provider_that_this_worker_does_not_know_is_the_same_refusal(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
):
    """As while a newer version of the functions is being deployed."""
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})
    monkeypatch.setattr("shared.vault.providers.PROVIDERS", {})

    with pytest.raises(VaultSealed) as refusal:
        async with vault.open(**step.towards()):
            pass
    assert refusal.value.message == "The credential cannot be opened"


async def test_a_key_that_is_not_there_any_more_opens_nothing(
    database, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    step = await held_step(store, person, {"openai": await add_credential(person, keys)})

    with pytest.raises(VaultSealed) as refusal:
        async with Vault(database, ring(2)).open(**step.towards()):
            pass
    assert refusal.value.message == "The credential cannot be opened"
    assert len(await openings(database_url)) == 1  # the attempt is on record


async def test_the_runs_own_credential_of_a_shared_account_is_its_members_to_use(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    member = await new_person(database_url)
    await join(database_url, member, person.id, "member")
    credential_id = await add_credential(person, keys)

    step = await held_step(store, member, {"openai": credential_id}, account_id=str(person.id))

    async with vault.open(**step.towards()):
        pass
    assert (await openings(database_url))[0][5] == member.id


async def managed_step(
    store: RunStore, url: str, person: Person, credential_id: UUID, owner: Person, *, own: UUID | None = None
) -> HeldStep:
    """A step of a run whose agent brings a credential of its owner's account."""
    step = await held_step(store, person, {} if own is None else {"openai": own})
    managed = json.dumps({"openai": str(credential_id)})
    async with connect(url) as connection:
        cursor = await connection.execute(
            "with agent as (insert into public.agents (account_id, name) values (%s, 'Agent') returning id)"
            " insert into public.agent_versions (agent_id, number, engine, managed_credentials)"
            " select id, 1, 'list', %s::jsonb from agent returning agent_id, id",
            [owner.id, managed],
        )
        row = await cursor.fetchone()
        assert row is not None
        await connection.execute(
            "update public.agent_runs set agent_id = %s, agent_version_id = %s where id = %s", [*row, step.run_id]
        )
    return step


async def test_a_managed_agent_brings_its_sellers_key(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    seller = await new_person(database_url)
    credential_id = await add_credential(seller, keys)
    step = await managed_step(store, database_url, person, credential_id, seller)

    async with vault.open(**step.towards()) as credential:
        assert credential.credential_id == credential_id
    assert await openings(database_url) == [(credential_id, seller.id, step.run_id, 1, 1, person.id, "step")]


async def test_a_managed_agent_cannot_bring_a_key_of_another_account(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    seller, victim = await new_person(database_url), await new_person(database_url)
    step = await managed_step(store, database_url, person, await add_credential(victim, keys), seller)

    with pytest.raises(NotFound):
        async with vault.open(**step.towards()):
            pass


async def test_a_deleted_own_key_is_not_made_up_for_by_the_agents(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    seller = await new_person(database_url)
    own = await add_credential(person, keys)
    step = await managed_step(store, database_url, person, await add_credential(seller, keys), seller, own=own)
    await person.call("delete_credential", own)

    with pytest.raises(NotFound):
        async with vault.open(**step.towards()):
            pass


async def test_many_steps_open_one_credential_at_once(
    vault: Vault, store: RunStore, person: Person, keys: KeyRing, database_url: str
):
    credential_id = await add_credential(person, keys)
    held = [await held_step(store, person, {"openai": credential_id}) for _ in range(5)]

    async def open_often(step: HeldStep) -> None:
        for _ in range(10):
            async with vault.open(**step.towards()) as credential:
                assert credential.credential_id == credential_id

    await asyncio.gather(*map(open_often, held))

    assert len(await openings(database_url)) == 50
