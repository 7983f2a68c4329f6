"""Agents as their admins have left them, for tests that are about something else."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.support.runs import Person, connect

PUBLISHED_AGENT = """
with new as (select gen_random_uuid() as id, gen_random_uuid() as version_id), version as (
  insert into public.agent_versions (id, agent_id, number, engine, published_at)
    select version_id, id, 1, 'list', now() from new
)
insert into public.agents (id, account_id, name, status, current_version_id, max_concurrent_runs)
  select id, %s, 'Agent', 'published', version_id, %s from new
  returning id::text
"""
"""An agent of an account (its id) with places for so many runs at a time (or null)."""


async def new_agent(admin: Person, /, **fields: Any) -> str:
    """The id of an agent of the admin's personal account, with a draft."""
    request = {"name": "Agent", "engine": "list", **fields}
    return (await admin.call("create_agent", json.dumps(request)))["agent_id"]


async def published_agent(admin: Person, /, **fields: Any) -> str:
    """The same, published."""
    agent_id = await new_agent(admin, **fields)
    await admin.call("publish_agent", agent_id)
    return agent_id


async def change(admin: Person, agent_id: str, /, **changes: Any) -> dict[str, Any]:
    return await admin.call("update_agent", agent_id, json.dumps(changes))


async def grant(admin: Person, agent_id: str, account_id: object, expires_at: str | None = None) -> None:
    await admin.call("grant_agent", agent_id, account_id, expires_at)


async def new_credential(url: str, account_id: object, provider: str, **columns: object) -> str:
    """The id of a credential with something in the place of a sealed secret."""
    row = {"id": str(uuid4()), "account_id": str(account_id), "provider": provider, "name": provider, **columns}
    stored = {"sealed": "A" * 200, "ticket_hash": "0" * 64, "fingerprint": "0" * 32, "key_version": 1, **row}
    names = ", ".join(stored)
    async with connect(url) as connection:
        await connection.execute(
            f"insert into public.credentials ({names}) select {names} from jsonb_populate_record("
            "null::public.credentials, %s::jsonb || jsonb_build_object('created_at', clock_timestamp(),"
            " 'updated_at', clock_timestamp()))",
            [json.dumps(stored)],
        )
    return row["id"]
