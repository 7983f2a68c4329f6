-- API keys: how a program acts for the person who made the key. The key itself is never here. Its caller sends SHA-256 of
-- it, and the database keeps SHA-256 of that: who reads a dump, or a log of calls, has nothing to show for a key.
-- One function (api-key-exchange) turns a key into a user's token of five minutes with two claims more: `api_key_id`, and
-- in `session_id` the secret that was shown. Such a token may be sent to PostgREST and Realtime directly, so what a key may
-- do is decided here and at each statement: revoking, expiring, rotating out, banning and deleting work at once.
-- A key has the scopes it was made with, and never manages keys. Lost roles are lost to its keys too: they have none of
-- their own.
-- Tables: public.api_keys, private.api_key_scopes, api_key_secrets, api_key_refusals. Adds a restrictive policy to each
-- table that users read. Errors: RUN01 no such key, RUN02 it has ended, RUN06 not by a key, RUN09 too many, RUN19 the key
-- is no longer valid, RUN20 it lacks the scope. Nothing destructive.

create table private.api_key_scopes (
  name text primary key check (name ~ '^[a-z]+:(read|write)$')
);
comment on table private.api_key_scopes is 'What a key may be given; shared/api_keys/scopes.py has the same.';
alter table private.api_key_scopes enable row level security;
insert into private.api_key_scopes values
  ('runs:read'), ('runs:write'), ('agents:read'), ('agents:write'), ('credentials:read'), ('credentials:write'),
  ('account:read');

create table public.api_keys (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  name text not null check (char_length(name) between 1 and 100),
  scopes text[] not null check (cardinality(scopes) > 0),
  last_four text not null check (last_four ~ '^[0-9A-Za-z]{4}$'),
  created_at timestamptz not null default private.clock(),
  rotated_at timestamptz,
  previous_expires_at timestamptz,
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
comment on column public.api_keys.last_four is 'The end of the present key, by which its owner knows it.';
comment on column public.api_keys.previous_expires_at is 'Until when the key before the last rotation works too.';
comment on column public.api_keys.expires_at is 'Null: it works until it is revoked.';
comment on column public.api_keys.last_used_at is 'When it was last exchanged; written at most once a minute.';
create index api_keys_user_id on public.api_keys (user_id, created_at);

create table private.api_key_secrets (
  id uuid primary key default gen_random_uuid(),
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  digest bytea not null unique check (octet_length(digest) = 32),
  expires_at timestamptz not null default 'infinity',
  full_at timestamptz not null default '-infinity'
) with (fillfactor = 70);
comment on table private.api_key_secrets is 'What works now: one a key, two while a rotation overlaps, none of a revoked one.';
comment on column private.api_key_secrets.full_at is 'As in private.rate_limits, of exchanges.';
create index api_key_secrets_api_key_id on private.api_key_secrets (api_key_id);
alter table private.api_key_secrets enable row level security;

-- Refusals are counted in a fixed number of rows, picked by digest: who invents keys makes the table no bigger, and a key
-- that exists is never refused for the sake of others that do not.
create table private.api_key_refusals (
  bucket smallint primary key check (bucket between 0 and 63),
  full_at timestamptz not null default '-infinity'
) with (fillfactor = 50);
alter table private.api_key_refusals enable row level security;
insert into private.api_key_refusals (bucket) select generate_series(0, 63);

-- Whose key a secret is, if all is well with both and with the person. Banned and deleted people have no keys.
create function private.live_api_key(p_secret_id uuid, p_now timestamptz)
  returns public.api_keys language sql stable security definer set search_path = '' as $$
  select k from private.api_key_secrets s
    join public.api_keys k on k.id = s.api_key_id
    join auth.users u on u.id = k.user_id
    where s.id = p_secret_id and s.expires_at > p_now and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > p_now)
      and (u.banned_until is null or u.banned_until <= p_now) and u.deleted_at is null and u.role = 'authenticated'
$$;

-- Keys are managed by people. Returns who it is.
create function private.key_owner()
  returns uuid language plpgsql stable security definer set search_path = '' as $$
begin
  if (select auth.uid()) is null then
    raise exception 'Only a signed-in user has API keys' using errcode = 'RUN06';
  end if;
  if private.my_scopes() is not null then
    raise exception 'An API key cannot manage API keys' using errcode = 'RUN06', hint = 'Sign in, and do it yourself.';
  end if;
  return (select auth.uid());
end $$;

-- Locks a key of the caller's that may still be changed.
create function private.lock_my_api_key(p_api_key_id uuid)
  returns public.api_keys language plpgsql security definer set search_path = '' as $$
declare
  v_key public.api_keys;
begin
  select k.* into v_key from public.api_keys k where k.id = p_api_key_id and k.user_id = private.key_owner() for update;
  if not found then
    raise exception 'There is no API key %', p_api_key_id using errcode = 'RUN01';
  end if;
  return v_key;
end $$;

create function private.api_key_digest(p_hash text)
  returns bytea language plpgsql immutable set search_path = '' as $$
begin
  if p_hash is null or p_hash !~ '^[0-9a-f]{64}$' then
    raise exception 'p_hash must be 64 hexadecimal digits' using errcode = 'RUN07';
  end if;
  return pg_catalog.sha256(decode(p_hash, 'hex'));
end $$;

create function private.create_api_key(
    p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer)
  returns uuid language plpgsql security definer set search_path = '' as $$
declare
  v_user_id uuid := private.key_owner();
  v_digest bytea := private.api_key_digest(p_hash);
  v_now timestamptz := private.clock();
  v_problem text;
  v_id uuid;
begin
  v_problem := case
    when coalesce(char_length(btrim(p_name)), 0) not between 1 and 100 then 'name must have 1 to 100 characters'
    when coalesce(p_last_four, '') !~ '^[0-9A-Za-z]{4}$' then 'p_last_four must be the last four characters of the key'
    when coalesce(cardinality(p_scopes), 0) = 0 then 'scopes must name at least one'
    when p_days not between 1 and 3650 then 'p_days must be from 1 to 3650'
    when exists (select from unnest(p_scopes) s where s is null or s not in (select name from private.api_key_scopes))
      then 'scopes names one that there is not'
  end;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  -- The personal account's row stands for the person: two creates of one person count one after the other.
  perform private.ensure_personal_account(v_user_id);
  perform from public.accounts where id = v_user_id for update;
  if (select count(*) from public.api_keys k where k.user_id = v_user_id and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > v_now)) >= 50 then
    raise exception 'You have 50 API keys that work; revoke one first' using errcode = 'RUN09';
  end if;
  -- What has ended is kept for its owner to see, the last hundred of it.
  delete from public.api_keys k where k.id in (
    select o.id from public.api_keys o
    where o.user_id = v_user_id and (o.revoked_at is not null or o.expires_at <= v_now)
    order by o.created_at desc, o.id offset 100);

  insert into public.api_keys (user_id, name, scopes, last_four, created_at, expires_at)
    values (v_user_id, btrim(p_name), array(select distinct s from unnest(p_scopes) s order by s), p_last_four, v_now,
      v_now + make_interval(days => p_days))
    returning id into v_id;
  insert into private.api_key_secrets (api_key_id, digest) values (v_id, v_digest);
  return v_id;
end $$;
grant execute on function private.create_api_key(text, text, text, text[], integer) to authenticated;

create function private.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer)
  returns uuid language plpgsql security definer set search_path = '' as $$
declare
  v_key public.api_keys := private.lock_my_api_key(p_api_key_id);
  v_digest bytea := private.api_key_digest(p_hash);
  v_now timestamptz := private.clock();
  v_until timestamptz;
begin
  if p_overlap_hours is null or p_overlap_hours not between 0 and 168 then
    raise exception 'overlap_hours must be from 0 to 168' using errcode = 'RUN07';
  end if;
  if coalesce(p_last_four, '') !~ '^[0-9A-Za-z]{4}$' then
    raise exception 'p_last_four must be the last four characters of the key' using errcode = 'RUN07';
  end if;
  if v_key.revoked_at is not null or v_key.expires_at <= v_now then
    raise exception 'API key % is %', p_api_key_id, case when v_key.revoked_at is null then 'expired' else 'revoked' end
      using errcode = 'RUN02', hint = 'Create another one.';
  end if;
  -- At most two work: what an earlier rotation left ends now, and with no overlap the present one too.
  delete from private.api_key_secrets s
    where s.api_key_id = p_api_key_id and (s.expires_at < 'infinity' or p_overlap_hours = 0);
  v_until := v_now + make_interval(hours => p_overlap_hours);
  update private.api_key_secrets s set expires_at = v_until where s.api_key_id = p_api_key_id;
  insert into private.api_key_secrets (api_key_id, digest) values (p_api_key_id, v_digest);
  update public.api_keys k
    set last_four = p_last_four, rotated_at = v_now, previous_expires_at = case when p_overlap_hours > 0 then v_until end
    where k.id = p_api_key_id;
  return p_api_key_id;
end $$;
grant execute on function private.rotate_api_key(uuid, text, text, integer) to authenticated;

create function private.revoke_api_key(p_api_key_id uuid)
  returns uuid language plpgsql security definer set search_path = '' as $$
declare
  v_key public.api_keys := private.lock_my_api_key(p_api_key_id);
begin
  if v_key.revoked_at is null then
    update public.api_keys k set revoked_at = private.clock(), previous_expires_at = null where k.id = p_api_key_id;
    delete from private.api_key_secrets s where s.api_key_id = p_api_key_id;
  end if;
  return p_api_key_id;
end $$;
grant execute on function private.revoke_api_key(uuid) to authenticated;

-- Takes one of p_per_minute from what fills up at p_full_at: when it is full next, or null if nothing is left.
create function private.take_one(p_full_at timestamptz, p_per_minute integer, p_now timestamptz)
  returns timestamptz language sql immutable set search_path = '' as $$
  select case when full_at <= p_now + interval '60 s' then full_at end
  from (select case when p_full_at between p_now and p_now + interval '60 s' then p_full_at else p_now end
    + make_interval(secs => (60000000 / p_per_minute) / 1e6)) t (full_at)
$$;

-- The work is the same for a key that is good and for one that is none: one look by digest, one row counted. Locks are
-- taken as by a rotation: the key's row, then its secret's.
create function private.exchange_api_key(p_hash text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_digest bytea := private.api_key_digest(p_hash);
  v_now timestamptz := private.clock();
  v_secret private.api_key_secrets;
  v_key public.api_keys;
begin
  select * into v_secret from private.api_key_secrets s where s.digest = v_digest;
  v_key := private.live_api_key(v_secret.id, v_now);
  if v_key.id is null then
    update private.api_key_refusals r set full_at = private.take_one(r.full_at, 60, v_now)
      where r.bucket = get_byte(v_digest, 0) % 64 and private.take_one(r.full_at, 60, v_now) is not null;
  else
    update public.api_keys k set last_used_at = v_now
      where k.id = v_key.id and (k.last_used_at between v_now - interval '1 minute' and v_now) is not true;
    update private.api_key_secrets s set full_at = private.take_one(s.full_at, 600, v_now)
      where s.id = v_secret.id and private.take_one(s.full_at, 600, v_now) is not null;
  end if;
  if not found then
    raise exception 'API keys are exchanged too often' using errcode = 'RUN09', hint = 'Try again in 1 s.',
      detail = '{"action": "exchange", "retry_after_seconds": 1}';
  end if;
  if v_key.id is null then
    return null;
  end if;
  return jsonb_build_object('api_key_id', v_key.id, 'secret_id', v_secret.id, 'user_id', v_key.user_id,
    'scopes', v_key.scopes,
    'is_anonymous', (select u.is_anonymous from auth.users u where u.id = v_key.user_id),
    'seconds_left', floor(extract(epoch from
      nullif(least(v_secret.expires_at, coalesce(v_key.expires_at, 'infinity')), 'infinity') - v_now)));
end $$;
grant execute on function private.exchange_api_key(text) to anon;

-- People read their own keys; a key reads none. Everything is written by the functions below.
alter table public.api_keys enable row level security;
revoke all on public.api_keys from anon, authenticated, service_role;
grant select on public.api_keys to authenticated, service_role;
create policy "People read their own API keys" on public.api_keys
  for select to authenticated using (user_id = (select auth.uid()));
create policy "API keys do not read API keys" on public.api_keys as restrictive
  for select to authenticated using ((select private.my_scopes()) is null);

-- What a key may read. Restrictive, so that it narrows whatever other policies say.
do $$
declare
  v_rule record;
begin
  for v_rule in
    values ('runs:read', array['agent_runs', 'agent_steps', 'agent_plans', 'agent_messages', 'agent_artifacts',
        'agent_task_logs', 'human_requests']),
      ('agents:read', array['agents', 'agent_versions', 'agent_access']),
      ('account:read', array['accounts', 'account_members', 'credit_accounts', 'credit_ledger'])
  loop
    for i in 1 .. cardinality(v_rule.column2) loop
      execute format('create policy %I on public.%I as restrictive for select to authenticated '
        'using ((select private.has_scope(%L)))', 'API keys need ' || v_rule.column1, v_rule.column2[i], v_rule.column1);
    end loop;
  end loop;
end $$;

-- Creates a key for the caller, good for p_days (null: until it is revoked), and returns its id. p_hash is SHA-256 of the
-- key in hexadecimal.
create function public.create_api_key(
    p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer default null)
  returns uuid language sql security invoker set search_path = ''
  begin atomic select private.create_api_key(p_hash, p_last_four, p_name, p_scopes, p_days); end;
revoke execute on function public.create_api_key(text, text, text, text[], integer) from public, anon;
grant execute on function public.create_api_key(text, text, text, text[], integer) to authenticated;

-- Gives a key of the caller's a new secret; the one it had works for p_overlap_hours (0 to 168) more.
create function public.rotate_api_key(
    p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer default 24)
  returns uuid language sql security invoker set search_path = ''
  begin atomic select private.rotate_api_key(p_api_key_id, p_hash, p_last_four, p_overlap_hours); end;
revoke execute on function public.rotate_api_key(uuid, text, text, integer) from public, anon;
grant execute on function public.rotate_api_key(uuid, text, text, integer) to authenticated;

-- Ends a key of the caller's, at once and for good. Again: nothing.
create function public.revoke_api_key(p_api_key_id uuid)
  returns uuid language sql security invoker set search_path = ''
  begin atomic select private.revoke_api_key(p_api_key_id); end;
revoke execute on function public.revoke_api_key(uuid) from public, anon;
grant execute on function public.revoke_api_key(uuid) to authenticated;

-- Whom a key stands for: {api_key_id, secret_id, user_id, scopes, is_anonymous, seconds_left (null: no end)}, or null for
-- a key that is not good, whatever the reason. It proves nothing to PostgREST: only api-key-exchange can sign a token.
create function public.exchange_api_key(p_hash text)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.exchange_api_key(p_hash); end;
revoke execute on function public.exchange_api_key(text) from public, authenticated;
grant execute on function public.exchange_api_key(text) to anon;
