-- What every request of a person goes through: who may control a run, idempotency keys, bounds of what is sent.
-- Functions: private.lock_my_run, run_answer, recall, remember, json_problem.
-- Errors: RUN01 no such run, RUN03 stale revision, RUN05 idempotency key reused, RUN06 not allowed, RUN07 invalid input.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- Locks a run that the caller may control and returns it. Viewers read, members control their own, admins and owners all.
-- Raises RUN01 when the caller cannot see it, RUN06 when he may only read, RUN03 when p_revision is old.
create function private.lock_my_run(p_run_id uuid, p_revision bigint)
  returns public.agent_runs language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs;
  v_role public.account_role;
begin
  perform private.require_scope('runs:write');
  -- Asked before the row is locked, so that nobody makes a stranger's run wait. A run never changes its account.
  v_role := private.my_role((select account_id from public.agent_runs where id = p_run_id));
  if v_role is null then
    raise exception 'There is no run %', p_run_id using errcode = 'RUN01';
  end if;
  select * into strict v_run from public.agent_runs where id = p_run_id for update;
  if v_role = 'viewer' or (v_role = 'member' and v_run.user_id is distinct from (select auth.uid())) then
    raise exception 'Your role % in this account may read run % and not control it', v_role, p_run_id
      using errcode = 'RUN06';
  end if;
  if p_revision is not null and p_revision <> v_run.revision then
    raise exception 'Run % is at revision % and %, not at revision %', p_run_id, v_run.revision, v_run.status, p_revision
      using errcode = 'RUN03', hint = 'Read the run again, then decide again.',
        detail = jsonb_build_object('revision', v_run.revision, 'status', v_run.status)::text;
  end if;
  return v_run;
end $$;

create function private.run_answer(p_run public.agent_runs)
  returns jsonb language sql immutable set search_path = '' as $$
  select jsonb_build_object('run_id', p_run.id, 'status', p_run.status, 'revision', p_run.revision)
$$;

-- Remembers a first answer, or returns it. Null means: go on, and call private.remember. Two callers with one key wait
-- for each other on the key's row. Raises RUN05 when the key came with another request before.
create function private.recall(p_account_id uuid, p_action text, p_key text, p_request jsonb)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_fingerprint bytea := pg_catalog.sha256(convert_to(p_request::text, 'UTF8'));
  v_known private.idempotency_keys;
begin
  if p_key is null then
    return null;
  end if;
  if char_length(p_key) not between 1 and 200 then
    raise exception 'The idempotency key must have 1 to 200 characters' using errcode = 'RUN07';
  end if;
  loop
    insert into private.idempotency_keys (account_id, action, key, fingerprint)
      values (p_account_id, p_action, p_key, v_fingerprint) on conflict do nothing;
    if found then
      return null;
    end if;
    select * into v_known from private.idempotency_keys
      where account_id = p_account_id and action = p_action and key = p_key;
    exit when found;  -- else it was purged just now
  end loop;
  if v_known.fingerprint <> v_fingerprint then
    raise exception 'The idempotency key % was used before with another % request', quote_literal(p_key), p_action
      using errcode = 'RUN05';
  end if;
  return v_known.response;
end $$;

create function private.remember(p_account_id uuid, p_action text, p_key text, p_response jsonb)
  returns void language sql security definer set search_path = '' as $$
  update private.idempotency_keys set response = p_response
    where account_id = p_account_id and action = p_action and key = p_key
$$;

-- Why JSON from a caller cannot be taken, or null. Workers must be able to read back whatever is stored: their parsers
-- stop at a depth and at the range of a double.
create function private.json_problem(p_name text, p_value jsonb, p_max_bytes integer)
  returns text language sql immutable set search_path = '' as $$
  select case
    when octet_length(p_value::text) > p_max_bytes then format('%s must be at most %s bytes', p_name, p_max_bytes)
    when jsonb_path_exists(p_value, 'strict $.**{32}') then format('%s is nested more than 32 deep', p_name)
    when jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))')
      then format('%s has a number beyond 1e308', p_name)
  end
$$;
