-- Accounts: who owns rows and pays. A personal account comes with each user and has the user's id; organisations are
-- accounts with members and roles. Every policy asks one helper, private.my_account_ids().
-- What an API key may do is asked here too, because every right comes through these helpers.
-- Tables: public.accounts, public.account_members, private.tiers. Errors: RUN19, RUN20 of API keys. Adds a trigger to auth.users. Nothing destructive.

create schema if not exists private;
revoke all on schema private from public;
comment on schema private is 'Helpers, transition tables and definer functions; never exposed by the API.';

-- Grants are explicit. The form with `in schema` cannot take away what PUBLIC has by default, so it stands without.
alter default privileges revoke execute on functions from public;
alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema public revoke execute on functions from anon, authenticated, service_role;

-- The one clock. Leases and deadlines need the time now, not the time the transaction began. Tests replace it.
create function private.clock()
  returns timestamptz language sql volatile set search_path = '' as $$ select pg_catalog.clock_timestamp() $$;

create type public.account_kind as enum ('personal', 'organisation');
create type public.account_role as enum ('owner', 'admin', 'member', 'viewer');

-- What an account may do at a time and a minute. Operators change rows and add their own.
create table private.tiers (
  name text primary key check (name ~ '^[a-z][a-z0-9_]{0,31}$'),
  concurrent_runs integer not null check (concurrent_runs between 1 and 10000),
  share integer not null default 1 check (share between 1 and 1000),
  creates_per_minute integer not null check (creates_per_minute > 0),
  starts_per_minute integer not null check (starts_per_minute > 0),
  streams_per_minute integer not null check (streams_per_minute > 0)
);
comment on column private.tiers.concurrent_runs is 'Runs of one account that go on or may be claimed; the others are held.';
comment on column private.tiers.share is 'An account gets claims in proportion to it while there are not enough for all.';
alter table private.tiers enable row level security;
insert into private.tiers values
  ('free', 25, 1, 120, 120, 120), ('pro', 100, 4, 600, 600, 600), ('scale', 1000, 16, 6000, 6000, 6000);

create table public.accounts (
  id uuid primary key default gen_random_uuid(),
  kind public.account_kind not null,
  tier text not null default 'free' references private.tiers (name) on update cascade,
  name text not null check (char_length(name) between 1 and 200),
  created_at timestamptz not null default private.clock()
);
comment on table public.accounts is 'Who owns and pays. Never deleted with a user: the ledger refers to it.';

create table public.account_members (
  account_id uuid not null references public.accounts (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role public.account_role not null,
  created_at timestamptz not null default private.clock(),
  primary key (account_id, user_id)
);
comment on table public.account_members is 'Viewers read, members create and control their own, admins and owners all.';
create index account_members_user_id on public.account_members (user_id);

-- What the caller's API key may do: null for a person's own session, empty when the key is no longer good. The token says
-- which key and secret it was made of; their rows say what they are worth now. In plpgsql, so that the tables may come
-- later (20261121002300_api_keys.sql).
create function private.my_scopes()
  returns text[] language plpgsql stable security definer set search_path = '' as $$
declare
  v_claims jsonb := auth.jwt();
  v_key record;
begin
  if v_claims is null or not v_claims ? 'api_key_id' then
    return null;
  end if;
  select k.id, k.user_id, k.scopes into v_key
    from private.live_api_key((v_claims ->> 'session_id')::uuid, private.clock()) k;
  if v_key.id = (v_claims ->> 'api_key_id')::uuid and v_key.user_id = (select auth.uid()) then
    return v_key.scopes;
  end if;
  return '{}';
end $$;
grant execute on function private.my_scopes() to authenticated;

-- Whether the caller may: a person may all, an API key what it has the scope for. For policies, which must not raise: one
-- listener's key would end the changes of all others.
create function private.has_scope(p_scope text)
  returns boolean language sql stable security definer set search_path = '' as $$
  select coalesce(p_scope = any (private.my_scopes()), true)
$$;
grant execute on function private.has_scope(text) to authenticated;

-- The same for functions. Raises RUN19 when the key is no longer good, RUN20 when it lacks the scope.
create function private.require_scope(p_scope text)
  returns void language plpgsql stable security definer set search_path = '' as $$
declare
  v_scopes text[] := private.my_scopes();
begin
  if cardinality(v_scopes) = 0 then
    raise exception 'The API key is no longer valid' using errcode = 'RUN19';
  end if;
  if p_scope <> all (v_scopes) then
    raise exception 'The API key lacks the scope %', p_scope
      using errcode = 'RUN20', hint = 'A key keeps the scopes it was made with: create one that has it.';
  end if;
end $$;

-- The accounts whose rows the caller may read. Definer: a policy on account_members would otherwise ask itself.
create function private.my_account_ids()
  returns setof uuid language sql stable security definer set search_path = '' rows 3 as $$
  select account_id from public.account_members
  where user_id = (select auth.uid()) and (select private.my_scopes()) is distinct from '{}'
$$;
grant execute on function private.my_account_ids() to authenticated;

-- The caller's role in an account, null when not a member.
create function private.my_role(p_account_id uuid)
  returns public.account_role language sql stable security definer set search_path = '' as $$
  select role from public.account_members
  where account_id = p_account_id and user_id = (select auth.uid()) and (select private.my_scopes()) is distinct from '{}'
$$;

alter table public.accounts enable row level security;
revoke all on public.accounts from anon, authenticated, service_role;
grant select on public.accounts to authenticated, service_role;
create policy "Members read their accounts" on public.accounts
  for select to authenticated using (id in (select private.my_account_ids()));

alter table public.account_members enable row level security;
revoke all on public.account_members from anon, authenticated, service_role;
grant select on public.account_members to authenticated, service_role;
create policy "Members read who else is a member" on public.account_members
  for select to authenticated using (account_id in (select private.my_account_ids()));

-- Makes a user's personal account if it is missing. Safe to repeat and to race.
create function private.ensure_personal_account(p_user_id uuid)
  returns void language plpgsql security definer set search_path = '' as $$
begin
  insert into public.accounts (id, kind, name) values (p_user_id, 'personal', 'Personal') on conflict do nothing;
  insert into public.account_members (account_id, user_id, role)
    values (p_user_id, p_user_id, 'owner') on conflict do nothing;
end $$;

create function private.on_user_created()
  returns trigger language plpgsql security definer set search_path = '' as $$
begin
  perform private.ensure_personal_account(new.id);
  return new;
end $$;

create trigger runbase_personal_account after insert on auth.users
  for each row execute function private.on_user_created();
