"""Agents as their admins have left them, for tests that are about something else."""

from __future__ import annotations

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
