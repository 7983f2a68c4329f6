-- Credentials: people's own keys for providers, sealed by functions before they come here (shared/vault). The database
-- holds no key that opens them. Whoever works in an account may use its credentials in runs and see what they are
-- called; who made one, and the account's admins and owners, may rename, replace, test and delete it; viewers see none.
-- What is sealed reaches workers (20261121002110_open_credentials.sql) and no API role: no grant, no view has it.
-- Tables: public.credentials, public.credential_access_log, private.vault.
-- Errors: RUN16 no such credential, RUN17 the key is retired, RUN05-RUN07, RUN09. Nothing destructive; deleting a
-- credential erases what was sealed and keeps the row.

create table private.vault (
  only_row boolean primary key default true check (only_row),
  min_key_version integer not null default 0 check (min_key_version >= 0)
);
comment on column private.vault.min_key_version is 'Master keys below are retired: nothing is sealed or opened under them.';
insert into private.vault default values;
alter table private.vault enable row level security;

create table public.credentials (
  id uuid primary key,
  account_id uuid not null references public.accounts (id) on delete cascade,
  user_id uuid references auth.users (id) on delete set null,
  provider text not null check (provider ~ '^[a-z][a-z0-9_]{0,31}$'),
  name text not null check (char_length(name) between 1 and 100),
  sealed text check (char_length(sealed) between 150 and 90000),
  ticket_hash text,
  fingerprint text,
  key_version integer not null check (key_version > 0),
  last_four text check (char_length(last_four) = 4),
  created_at timestamptz not null default private.clock(),
  updated_at timestamptz not null default private.clock(),
  last_used_at timestamptz,
  last_tested_at timestamptz,
  last_test jsonb,
  deleted_at timestamptz,
  constraint credentials_erased_when_deleted check (
    (deleted_at is null) = (sealed is not null and ticket_hash is not null and fingerprint is not null)
  )
) with (fillfactor = 80);  -- room for HOT updates of last_used_at
comment on table public.credentials is 'A key for a provider, sealed. Written by functions only; never read back by people.';
comment on column public.credentials.id is 'Chosen by the function that seals, because it is sealed in.';
comment on column public.credentials.sealed is 'Base64 of an envelope bound to account, credential and provider (shared/vault/envelope.py).';
comment on column public.credentials.ticket_hash is 'SHA-256 of the ticket of whoever holds the master keys (shared/vault/marks.py).';
comment on column public.credentials.fingerprint is 'Keyed: tells a repeat, and nothing to who has no key.';
comment on column public.credentials.key_version is 'The master key that it is sealed under.';
comment on column public.credentials.last_four is 'The end of its key, for people to know it by; null where the key is too short to tell.';
comment on column public.credentials.last_used_at is 'When a step last opened it, to the minute.';
comment on column public.credentials.last_test is '{"valid", "outcome", "message"} of its last test.';
create index credentials_of_account on public.credentials (account_id, provider, created_at desc, id)
  where deleted_at is null;
create index credentials_added on public.credentials (account_id, created_at);
create index credentials_user_id on public.credentials (user_id);
create index credentials_key_version on public.credentials (key_version, id) where deleted_at is null;

create table public.credential_access_log (
  id bigint generated always as identity primary key,
  credential_id uuid not null,
  account_id uuid not null,
  run_id uuid,
  step_no integer,
  attempt integer,
  user_id uuid,
  purpose text not null check (purpose in ('step', 'test')),
  created_at timestamptz not null default private.clock(),
  constraint credential_access_log_step_of_a_run check (
    (purpose = 'step') = (run_id is not null and step_no is not null and attempt is not null)
  )
);
comment on table public.credential_access_log is 'Every opening of a credential, written with it or not opened. Append-only.';
comment on column public.credential_access_log.account_id is 'The credential''s; of a managed one not the run''s.';
comment on column public.credential_access_log.user_id is 'Whose run it was, or who tested.';
create index credential_access_log_credential on public.credential_access_log (credential_id, id desc);
create index credential_access_log_account on public.credential_access_log (account_id, id desc);
create index credential_access_log_run on public.credential_access_log (run_id) where run_id is not null;

-- The accounts that the caller works in, rather than only reads.
create function private.my_working_account_ids()
  returns setof uuid language sql stable security definer set search_path = '' rows 3 as $$
  select account_id from public.account_members where user_id = (select auth.uid()) and role <> 'viewer'
$$;
grant execute on function private.my_working_account_ids() to authenticated;

alter table public.credentials enable row level security;
revoke all on public.credentials from anon, authenticated, service_role;
grant select (id, account_id, user_id, provider, name, key_version, last_four, created_at, updated_at, last_used_at,
    last_tested_at, last_test)
  on public.credentials to authenticated, service_role;
create policy "Who works in an account sees its credentials" on public.credentials
  for select to authenticated using (
    deleted_at is null and account_id in (select private.my_working_account_ids())
    and (select private.has_scope('credentials:read'))
  );

alter table public.credential_access_log enable row level security;
revoke all on public.credential_access_log from anon, authenticated, service_role;
grant select on public.credential_access_log to authenticated, service_role;
create policy "Who works in an account sees when its credentials were opened" on public.credential_access_log
  for select to authenticated using (
    account_id in (select private.my_working_account_ids()) and (select private.has_scope('credentials:read'))
  );

create function private.credential_answer(p_credential public.credentials)
  returns jsonb language sql immutable set search_path = '' as $$
  select to_jsonb(p_credential) - array['sealed', 'ticket_hash', 'fingerprint', 'key_version', 'deleted_at']
$$;

-- The credential, locked, for a caller who may change it. Raises RUN16 when he may not see it, RUN06 when he may only use it.
create function private.lock_my_credential(p_credential_id uuid)
  returns public.credentials language plpgsql security definer set search_path = '' as $$
declare
  v_credential public.credentials;
  v_role public.account_role;
begin
  perform private.require_scope('credentials:write');
  -- Asked before the row is locked, so that nobody makes a stranger's steps wait.
  v_role := private.my_role((select account_id from public.credentials where id = p_credential_id));
  if v_role is not null and v_role <> 'viewer' then
    select * into v_credential from public.credentials where id = p_credential_id and deleted_at is null for update;
  end if;
  if v_credential.id is null then
    raise exception 'There is no credential %', p_credential_id using errcode = 'RUN16';
  end if;
  if v_role = 'member' and v_credential.user_id is distinct from (select auth.uid()) then
    raise exception 'Your role % in this account may use credential % and not change it', v_role, p_credential_id
      using errcode = 'RUN06';
  end if;
  return v_credential;
end $$;

-- Refuses what is sealed under a retired key. Keeps the floor where it is until the transaction ends.
create function private.refuse_retired_key(p_key_version integer)
  returns void language plpgsql security definer set search_path = '' as $$
begin
  if p_key_version < (select min_key_version from private.vault for share) then
    raise exception 'The master key of version % is retired', p_key_version
      using errcode = 'RUN17', hint = 'Deploy the function with the current ENCRYPTION_KEYS.';
  end if;
end $$;

-- What a function sealed, checked: {sealed, ticket_hash, fingerprint, key_version, last_four?, test?} into a row.
create function private.sealed_secret(p_secret jsonb)
  returns public.credentials language plpgsql security definer set search_path = '' as $$
declare
  v_new public.credentials;
  v_test jsonb := nullif(p_secret -> 'test', 'null');
begin
  v_new.sealed := p_secret ->> 'sealed';
  v_new.ticket_hash := p_secret ->> 'ticket_hash';
  v_new.fingerprint := p_secret ->> 'fingerprint';
  v_new.last_four := p_secret ->> 'last_four';
  if coalesce(v_new.sealed, '') !~ '^[A-Za-z0-9+/]{150,}={0,2}$' or char_length(v_new.sealed) > 90000
      or coalesce(v_new.ticket_hash, '') !~ '^[0-9a-f]{64}$' or coalesce(v_new.fingerprint, '') !~ '^[0-9a-f]{32}$'
      or coalesce(p_secret ->> 'key_version', '') !~ '^[1-9][0-9]{0,8}$' or char_length(v_new.last_four) <> 4 then
    raise exception 'The secret is not one that a function sealed' using errcode = 'RUN07';
  end if;
  v_new.key_version := (p_secret ->> 'key_version')::integer;
  if v_test is not null then
    v_new.last_test := private.credential_test(v_test);
    v_new.last_tested_at := private.clock();
  end if;
  perform private.refuse_retired_key(v_new.key_version);
  return v_new;
end $$;

-- The result of a test, checked and cut to {valid, outcome, message}.
create function private.credential_test(p_test jsonb)
  returns jsonb language plpgsql immutable set search_path = '' as $$
begin
  if jsonb_typeof(p_test) is distinct from 'object' or jsonb_typeof(p_test -> 'valid') is distinct from 'boolean'
      or coalesce(p_test ->> 'outcome', '') !~ '^[a-z][a-z_]{0,31}$'
      or coalesce(char_length(p_test ->> 'message'), 9999) > 1000 then
    raise exception 'The test must be {valid, outcome, message}' using errcode = 'RUN07';
  end if;
  return jsonb_build_object('valid', p_test -> 'valid', 'outcome', p_test -> 'outcome', 'message', p_test -> 'message');
end $$;

create function private.create_credential(p_credential jsonb, p_idempotency_key text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_user_id uuid := (select auth.uid());
  v_new public.credentials;
  v_id uuid;
  v_account_id uuid;
  v_role public.account_role;
  v_request jsonb;
  v_answer jsonb;
begin
  perform private.require_scope('credentials:write');
  if v_user_id is null then
    raise exception 'Only a signed-in user can add a credential' using errcode = 'RUN06';
  end if;
  if jsonb_typeof(p_credential) is distinct from 'object' or exists (
      select from jsonb_object_keys(p_credential) k
      where k not in ('id', 'account_id', 'provider', 'name', 'sealed', 'ticket_hash', 'fingerprint', 'key_version',
        'last_four', 'test')) then
    raise exception 'p_credential must be an object of known fields' using errcode = 'RUN07';
  end if;
  begin
    v_id := (p_credential ->> 'id')::uuid;
    v_account_id := (p_credential ->> 'account_id')::uuid;
  exception when invalid_text_representation then
    raise exception 'id and account_id must be uuids' using errcode = 'RUN07';
  end;
  if v_id is null or v_account_id is null or coalesce(p_credential ->> 'provider', '') !~ '^[a-z][a-z0-9_]{0,31}$'
      or coalesce(char_length(p_credential ->> 'name'), 0) not between 1 and 100 then
    raise exception 'p_credential needs id, account_id, provider and a name of 1 to 100 characters'
      using errcode = 'RUN07';
  end if;
  v_new := private.sealed_secret(p_credential);

  if v_account_id = v_user_id then
    perform private.ensure_personal_account(v_user_id);
  end if;
  v_role := private.my_role(v_account_id);
  if v_role is null or v_role = 'viewer' then
    raise exception 'You may not add credentials to account %', v_account_id using errcode = 'RUN06';
  end if;
  v_request := jsonb_build_object('provider', p_credential -> 'provider', 'name', p_credential -> 'name',
    'fingerprint', v_new.fingerprint);
  v_answer := private.recall(v_account_id, 'create_credential', p_idempotency_key, v_request);
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  perform from public.accounts where id = v_account_id for no key update;  -- those that are added at once are counted
  if (select count(*) from public.credentials where account_id = v_account_id and deleted_at is null) >= 200 then
    raise exception 'An account may have at most 200 credentials'
      using errcode = 'RUN09', hint = 'Delete one that is not used any more.';
  end if;
  if (select count(*) from public.credentials
      where account_id = v_account_id and created_at > private.clock() - interval '1 day') >= 500 then
    raise exception 'An account may add at most 500 credentials a day' using errcode = 'RUN09';
  end if;
  insert into public.credentials (id, account_id, user_id, provider, name, sealed, ticket_hash, fingerprint, key_version,
      last_four, last_tested_at, last_test)
    values (v_id, v_account_id, v_user_id, p_credential ->> 'provider', p_credential ->> 'name', v_new.sealed,
      v_new.ticket_hash, v_new.fingerprint, v_new.key_version, v_new.last_four, v_new.last_tested_at, v_new.last_test)
    on conflict do nothing
    returning * into v_new;
  if not found then
    raise exception 'id must be a new one' using errcode = 'RUN07';
  end if;
  v_answer := private.credential_answer(v_new) || '{"created": true}';
  perform private.remember(v_account_id, 'create_credential', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.create_credential(jsonb, text) to authenticated;

create function private.rename_credential(p_credential_id uuid, p_name text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
begin
  if coalesce(char_length(p_name), 0) not between 1 and 100 then
    raise exception 'p_name must have 1 to 100 characters' using errcode = 'RUN07';
  end if;
  update public.credentials set name = p_name, updated_at = private.clock() where id = p_credential_id
    returning * into v_credential;
  return private.credential_answer(v_credential);
end $$;
grant execute on function private.rename_credential(uuid, text) to authenticated;

create function private.replace_credential(p_credential_id uuid, p_secret jsonb)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
  v_new public.credentials := private.sealed_secret(p_secret);
begin
  update public.credentials
    set sealed = v_new.sealed, ticket_hash = v_new.ticket_hash, fingerprint = v_new.fingerprint,
        key_version = v_new.key_version, last_four = v_new.last_four, last_tested_at = v_new.last_tested_at,
        last_test = v_new.last_test, updated_at = private.clock()
    where id = p_credential_id
    returning * into v_credential;
  return private.credential_answer(v_credential);
end $$;
grant execute on function private.replace_credential(uuid, jsonb) to authenticated;

create function private.delete_credential(p_credential_id uuid)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
begin
  update public.credentials
    set deleted_at = private.clock(), updated_at = private.clock(), sealed = null, ticket_hash = null,
        fingerprint = null, last_four = null, last_test = null, last_tested_at = null
    where id = p_credential_id
    returning * into v_credential;
  return private.credential_answer(v_credential);
end $$;
grant execute on function private.delete_credential(uuid) to authenticated;

-- Adds a credential that a function sealed: {id, account_id, provider, name, sealed, ticket_hash, fingerprint, key_version,
-- last_four?, test?}. Returns what is told of it, and `created`: false when the idempotency key is known. Raises RUN09 where
-- there are 200, or 500 were added within a day.
create function public.create_credential(p_credential jsonb, p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.create_credential(p_credential, p_idempotency_key); end;
revoke execute on function public.create_credential(jsonb, text) from public, anon;
grant execute on function public.create_credential(jsonb, text) to authenticated;

create function public.rename_credential(p_credential_id uuid, p_name text)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.rename_credential(p_credential_id, p_name); end;
revoke execute on function public.rename_credential(uuid, text) from public, anon;
grant execute on function public.rename_credential(uuid, text) to authenticated;

-- Puts another secret in a credential's place. Steps that start later get it; one that has opened the old one keeps it.
create function public.replace_credential(p_credential_id uuid, p_secret jsonb)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.replace_credential(p_credential_id, p_secret); end;
revoke execute on function public.replace_credential(uuid, jsonb) from public, anon;
grant execute on function public.replace_credential(uuid, jsonb) to authenticated;

-- Erases a credential's secret. The row stays, unseen, for the access log to refer to.
create function public.delete_credential(p_credential_id uuid)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.delete_credential(p_credential_id); end;
revoke execute on function public.delete_credential(uuid) from public, anon;
grant execute on function public.delete_credential(uuid) to authenticated;
