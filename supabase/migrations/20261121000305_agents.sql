-- Agents: what admins of an account build and publish, and who may run it. An agent's content is its versions. Content
-- that was published, or that a run has pinned, never changes: a run does what it was started with, and what a buyer was
-- shown is what he got.
-- What a seller wrote (config) and whose keys stand in (managed_credentials) reach workers through private.run_view and
-- admins through functions. No API role of users can select these columns, so no query, filter or embedding shows them.
-- Tables: public.agents, public.agent_versions, public.agent_access. Error: RUN15 frozen version. Nothing destructive.

create table public.agents (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.accounts (id) on delete cascade,
  name text not null check (char_length(name) between 1 and 200),
  description text not null default '' check (char_length(description) <= 4000),
  status text not null default 'draft' check (status in ('draft', 'published', 'retired')),
  visibility text not null default 'private' check (visibility in ('private', 'public')),
  current_version_id uuid,
  draft_version_id uuid,
  max_concurrent_runs integer check (max_concurrent_runs between 1 and 10000),
  created_at timestamptz not null default private.clock(),
  updated_at timestamptz not null default private.clock(),
  constraint agents_published_has_a_version check (status <> 'published' or current_version_id is not null)
);
comment on table public.agents is 'What can be run by its id. Written by functions; operators set max_concurrent_runs.';
comment on column public.agents.status is 'draft: its admins alone run it. published: whoever has access. retired: nobody starts it any more.';
comment on column public.agents.visibility is 'public: every signed-in user sees it once it is published. To run it takes access, either way.';
comment on column public.agents.current_version_id is 'What a new run pins: the version that was published last.';
comment on column public.agents.draft_version_id is 'What its admins edit and try, until it is published.';
comment on column public.agents.max_concurrent_runs is 'Runs of this agent that go on at a time, whoever started them; null: no limit of its own.';
create index agents_account_id on public.agents (account_id);
-- Not of public ones alone: whoever lists may see others too, and no condition of his would imply that one.
create index agents_listed on public.agents (status, created_at desc, id);

create function private.keys_of(p_value jsonb)
  returns text[] language sql immutable set search_path = '' as $$
  select array(select k from jsonb_object_keys(p_value) k order by k)
$$;

create table public.agent_versions (
  id uuid primary key default gen_random_uuid(),
  agent_id uuid not null references public.agents (id) on delete cascade,
  number integer not null check (number > 0),
  engine text not null check (engine ~ '^[a-z][a-z0-9_]{0,31}$'),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  input_schema jsonb not null default '{"type": "object"}' check (jsonb_typeof(input_schema) = 'object'),
  credential_types text[] not null default '{}',
  managed_credentials jsonb not null default '{}' check (jsonb_typeof(managed_credentials) = 'object'),
  managed_types text[] not null generated always as (private.keys_of(managed_credentials)) stored,
  price bigint not null default 0 check (price between 0 and 1000000000000000),
  created_at timestamptz not null default private.clock(),
  pinned_at timestamptz,
  published_at timestamptz,
  unique (agent_id, number),
  unique (id, agent_id)
);
comment on table public.agent_versions is 'What an agent is. Frozen once it is published or a run has pinned it.';
comment on column public.agent_versions.config is 'The engine''s settings, as the seller wrote them. Never for buyers.';
comment on column public.agent_versions.input_schema is 'JSON Schema (2020-12) of a run''s input; a form is drawn from it.';
comment on column public.agent_versions.credential_types is 'The providers of which a run needs a credential.';
comment on column public.agent_versions.managed_credentials is
  'By provider, the credential of the agent''s own account that stands in for the runner''s. Never for buyers.';
comment on column public.agent_versions.managed_types is 'The providers for which nobody needs to bring a credential.';
comment on column public.agent_versions.price is 'What starting a run costs, in micro-credits.';
comment on column public.agent_versions.pinned_at is 'When a run first pinned it as a draft.';

alter table public.agents
  add foreign key (current_version_id, id) references public.agent_versions (id, agent_id),
  add foreign key (draft_version_id, id) references public.agent_versions (id, agent_id);

create table public.agent_access (
  agent_id uuid not null references public.agents (id) on delete cascade,
  account_id uuid not null references public.accounts (id) on delete cascade,
  kind text not null check (kind in ('owned', 'purchased', 'granted')),
  expires_at timestamptz,
  created_at timestamptz not null default private.clock(),
  primary key (agent_id, account_id, kind)
);
comment on table public.agent_access is 'The accounts that may run an agent, besides its own. Runs that go on outlive it.';
comment on column public.agent_access.expires_at is 'Null: for good.';
create index agent_access_account_id on public.agent_access (account_id);

-- Only what was never published nor pinned may change; of the rest, the two dates may be set once.
create function private.refuse_frozen_version()
  returns trigger language plpgsql set search_path = '' as $$
declare
  -- Generated columns are not computed yet here; what this one is made of is compared.
  v_apart constant text[] := array['pinned_at', 'published_at', 'managed_types'];
begin
  if to_jsonb(new) - v_apart <> to_jsonb(old) - v_apart
      or (old.published_at is not null and new.published_at is distinct from old.published_at)
      or (old.pinned_at is not null and new.pinned_at is distinct from old.pinned_at) then
    raise exception 'Version % of agent % is published or has runs, and cannot change', old.number, old.agent_id
      using errcode = 'RUN15';
  end if;
  return new;
end $$;
create trigger frozen before update on public.agent_versions for each row
  when (old.published_at is not null or old.pinned_at is not null) execute function private.refuse_frozen_version();

-- Whether the caller administers the account of an agent.
create function private.administers(p_account_id uuid)
  returns boolean language sql stable security definer set search_path = '' as $$
  select coalesce(private.my_role(p_account_id) in ('owner', 'admin'), false)
$$;

create function private.is_agent_of(p_agent_id uuid, p_account_id uuid)
  returns boolean language sql stable security definer set search_path = '' as $$
  select exists (select from public.agents where id = p_agent_id and account_id = p_account_id)
$$;

-- The agents that the caller may run once they are published: his accounts' own, and those with access. Who only reads
-- in an account runs nothing there.
create function private.my_agent_ids()
  returns setof uuid language sql stable security definer set search_path = '' rows 10 as $$
  select x.agent_id from public.agent_access x join public.account_members m on m.account_id = x.account_id
  where m.user_id = (select auth.uid()) and m.role <> 'viewer' and coalesce(x.expires_at > private.clock(), true)
  union
  select a.id from public.agents a join public.account_members m on m.account_id = a.account_id
  where m.user_id = (select auth.uid()) and m.role <> 'viewer'
$$;
grant execute on function private.my_agent_ids() to authenticated;

-- The agents that the caller administers.
create function private.my_administered_agent_ids()
  returns setof uuid language sql stable security definer set search_path = '' rows 10 as $$
  select a.id from public.agents a join public.account_members m on m.account_id = a.account_id
  where m.user_id = (select auth.uid()) and m.role in ('owner', 'admin')
$$;
grant execute on function private.my_administered_agent_ids() to authenticated;

-- Whether a run of p_account_id, which the caller may create runs in, may be of this agent: its own account's people may
-- (who only reads there may not), and accounts that have access.
create function private.may_use_agent(p_agent_id uuid, p_account_id uuid)
  returns boolean language sql stable security definer set search_path = '' as $$
  select exists (select from public.agents a where a.id = p_agent_id and private.my_role(a.account_id) <> 'viewer')
    or exists (
      select from public.agent_access x
      where x.agent_id = p_agent_id and x.account_id = p_account_id and coalesce(x.expires_at > private.clock(), true))
$$;

alter table public.agents enable row level security;
revoke all on public.agents from anon, authenticated, service_role;
grant select (id, name, description, status, visibility, current_version_id, created_at, updated_at)
  on public.agents to authenticated;
grant select on public.agents to service_role;
create policy "Signed-in users read what is published, what they may run and what is their accounts'" on public.agents
  for select to authenticated using (
    (status = 'published' and visibility = 'public')
    or account_id in (select private.my_account_ids())
    or (status <> 'draft' and id in (select private.my_agent_ids()))
  );

alter table public.agent_versions enable row level security;
revoke all on public.agent_versions from anon, authenticated, service_role;
grant select (id, agent_id, number, engine, input_schema, credential_types, managed_types, price, created_at,
  published_at) on public.agent_versions to authenticated;
grant select on public.agent_versions to service_role;
create policy "Who reads an agent reads its published versions, and its admins all" on public.agent_versions
  for select to authenticated using (
    (published_at is not null and exists (select from public.agents a where a.id = agent_id))
    or agent_id in (select private.my_administered_agent_ids())
  );

alter table public.agent_access enable row level security;
revoke all on public.agent_access from anon, authenticated, service_role;
grant select on public.agent_access to authenticated, service_role;
create policy "Members read their accounts' access, and admins whom they gave it" on public.agent_access
  for select to authenticated using (
    account_id in (select private.my_account_ids()) or agent_id in (select private.my_administered_agent_ids())
  );
