-- Opening credentials: the only ways to what is sealed. A worker gets it for a step that it holds, a test for a person
-- who may change the credential; each opening is a row of credential_access_log in the same transaction. Then the work
-- on master keys: moving secrets to the current one, and retiring the others.
-- Errors: RUN16 no such credential, RUN17 the key is retired, RUN18 the step is not the worker's. Nothing destructive.

-- What an opener needs. Raises RUN17 for a secret under a retired key.
create function private.sealed_answer(p_credential public.credentials)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_floor integer := (select min_key_version from private.vault);
begin
  if p_credential.key_version < v_floor then
    raise exception 'The credential cannot be opened'
      using errcode = 'RUN17', hint = 'Replace its secret, or add the credential anew.';
  end if;
  return jsonb_build_object('credential_id', p_credential.id, 'account_id', p_credential.account_id,
    'provider', p_credential.provider, 'sealed', p_credential.sealed, 'min_key_version', v_floor);
end $$;

create function private.open_credential(
    p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_step record;
  v_credential public.credentials;
begin
  select r.account_id, r.user_id, (r.credential_ids ->> p_provider)::uuid as own_id, a.account_id as agent_account_id,
      (v.managed_credentials ->> p_provider)::uuid as managed_id
    into v_step
    from public.agent_runs r
    join public.agent_steps s on s.run_id = r.id and s.step_no = p_step_no
    left join public.agent_versions v on v.id = r.agent_version_id
    left join public.agents a on a.id = v.agent_id
    -- A lease that ran out is good until another worker takes the run, here as in an advance.
    where r.id = p_run_id and r.lease_id = p_lease_id
      and s.status = 'running' and s.attempt = p_attempt and s.waits_for is null;
  if not found then
    raise exception 'Step % of run % is not performed under this lease', p_step_no, p_run_id using errcode = 'RUN18';
  end if;
  -- The run's own, from its own account; else the agent's, from the agent's account; and no other.
  select * into v_credential from public.credentials c
    where c.id = coalesce(v_step.own_id, v_step.managed_id) and c.provider = p_provider and c.deleted_at is null
      and c.account_id = case when v_step.own_id is not null then v_step.account_id else v_step.agent_account_id end;
  if not found then
    raise exception 'The run has no credential for % that can be used', p_provider
      using errcode = 'RUN16', hint = 'It was never chosen, or it was deleted: start a new run with another.';
  end if;
  insert into public.credential_access_log (credential_id, account_id, run_id, step_no, attempt, user_id, purpose)
    values (v_credential.id, v_credential.account_id, p_run_id, p_step_no, p_attempt, v_step.user_id, 'step');
  -- Once a minute: written each time, the row would be a queue for all runs that share it.
  if v_credential.last_used_at is null or v_credential.last_used_at not between v_now - interval '1 minute' and v_now then
    update public.credentials set last_used_at = v_now
      where id = v_credential.id
        and (last_used_at is null or last_used_at not between v_now - interval '1 minute' and v_now);
  end if;
  return private.sealed_answer(v_credential) || jsonb_build_object('managed', v_step.own_id is null);
end $$;
grant execute on function private.open_credential(uuid, uuid, integer, integer, text) to service_role;

-- The credential for a test by the caller, who must hold a ticket: a user alone has none, so he never gets what is sealed.
create function private.open_credential_to_test(p_credential_id uuid, p_tickets text[])
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_credential public.credentials := private.credential_by_ticket(p_credential_id, p_tickets);
begin
  insert into public.credential_access_log (credential_id, account_id, user_id, purpose)
    values (p_credential_id, v_credential.account_id, (select auth.uid()), 'test');
  return private.sealed_answer(v_credential);
end $$;

-- As lock_my_credential, for who holds one of its tickets.
create function private.credential_by_ticket(p_credential_id uuid, p_tickets text[])
  returns public.credentials language plpgsql security definer set search_path = '' as $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
begin
  if not coalesce(v_credential.ticket_hash = any (array(
      select encode(sha256(convert_to(t, 'UTF8')), 'hex') from unnest(p_tickets[1:100]) t)), false) then
    raise exception 'The credential cannot be opened'
      using errcode = 'RUN17', hint = 'Replace its secret, or add the credential anew.';
  end if;
  return v_credential;
end $$;
grant execute on function private.open_credential_to_test(uuid, text[]) to authenticated;

create function private.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb)
  returns void language plpgsql security definer set search_path = '' as $$
begin
  perform private.credential_by_ticket(p_credential_id, p_tickets);
  update public.credentials set last_test = private.credential_test(p_test), last_tested_at = private.clock()
    where id = p_credential_id;
end $$;
grant execute on function private.record_credential_test(uuid, text[], jsonb) to authenticated;

-- Secrets under keys below p_below, in order of id: [{id, account_id, provider, sealed, min_key_version}].
create function private.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'account_id', c.account_id, 'provider', c.provider,
    'sealed', c.sealed, 'min_key_version', (select min_key_version from private.vault)) order by c.id), '[]')
  from (
    select * from public.credentials
    where deleted_at is null and key_version < p_below and (p_after is null or id > p_after)
    order by id limit greatest(1, least(p_limit, 500))
  ) c
$$;
grant execute on function private.credentials_to_rewrap(integer, uuid, integer) to service_role;

-- Stores [{id, before, sealed, ticket_hash, key_version}] where the secret is still what it was before; whoever replaced
-- or deleted it meanwhile wins. Returns how many were stored.
create function private.rewrap_credentials(p_items jsonb)
  returns integer language plpgsql security definer set search_path = '' as $$
declare
  v_count integer;
begin
  perform private.refuse_retired_key((select min(i.key_version)
    from jsonb_to_recordset(p_items) as i (key_version integer)));
  with item as (
    select i.* from jsonb_to_recordset(p_items)
      as i (id uuid, before text, sealed text, ticket_hash text, key_version integer)
  ), locked as (
    select c.id from public.credentials c join item i on i.id = c.id
    where c.sealed = i.before and c.key_version < i.key_version
    order by c.id for update of c
  )
  update public.credentials c
    set sealed = i.sealed, ticket_hash = i.ticket_hash, key_version = i.key_version
    from item i, locked where c.id = i.id and locked.id = c.id and c.sealed = i.before;
  get diagnostics v_count = row_count;
  return v_count;
end $$;
grant execute on function private.rewrap_credentials(jsonb) to service_role;

-- Retires the keys below p_key_version, unless something is still sealed under one. Returns {min_key_version, left}.
create function private.retire_keys(p_key_version integer)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_floor integer;
  v_left bigint;
begin
  -- Waits for whoever is about to store a secret, and then sees it.
  select min_key_version into v_floor from private.vault for update;
  select count(*) into v_left from public.credentials where deleted_at is null and key_version < p_key_version;
  if v_left = 0 and p_key_version > v_floor then
    update private.vault set min_key_version = p_key_version returning min_key_version into v_floor;
  end if;
  return jsonb_build_object('min_key_version', v_floor, 'left', v_left);
end $$;
grant execute on function private.retire_keys(integer) to service_role;

-- {min_key_version, versions: [{key_version, credentials}]}
create function private.vault_status()
  returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('min_key_version', (select min_key_version from private.vault), 'versions', coalesce((
    select jsonb_agg(jsonb_build_object('key_version', v.key_version, 'credentials', v.credentials) order by v.key_version)
    from (select key_version, count(*) as credentials from public.credentials where deleted_at is null group by 1) v), '[]'))
$$;
grant execute on function private.vault_status() to service_role;

-- What a step of the run may use towards a provider: {credential_id, account_id, provider, sealed, min_key_version, managed}.
-- Only for the worker that holds the run and performs this attempt of this step. Raises RUN16, RUN17, RUN18.
create function public.open_credential(
    p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.open_credential(p_run_id, p_lease_id, p_step_no, p_attempt, p_provider); end;
revoke execute on function public.open_credential(uuid, uuid, integer, integer, text) from public, anon, authenticated;
grant execute on function public.open_credential(uuid, uuid, integer, integer, text) to service_role;

create function public.open_credential_to_test(p_credential_id uuid, p_tickets text[])
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.open_credential_to_test(p_credential_id, p_tickets); end;
revoke execute on function public.open_credential_to_test(uuid, text[]) from public, anon;
grant execute on function public.open_credential_to_test(uuid, text[]) to authenticated;

create function public.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb)
  returns void language sql security invoker set search_path = ''
  begin atomic select private.record_credential_test(p_credential_id, p_tickets, p_test); end;
revoke execute on function public.record_credential_test(uuid, text[], jsonb) from public, anon;
grant execute on function public.record_credential_test(uuid, text[], jsonb) to authenticated;

create function public.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.credentials_to_rewrap(p_below, p_after, p_limit); end;
revoke execute on function public.credentials_to_rewrap(integer, uuid, integer) from public, anon, authenticated;
grant execute on function public.credentials_to_rewrap(integer, uuid, integer) to service_role;

create function public.rewrap_credentials(p_items jsonb)
  returns integer language sql security invoker set search_path = ''
  begin atomic select private.rewrap_credentials(p_items); end;
revoke execute on function public.rewrap_credentials(jsonb) from public, anon, authenticated;
grant execute on function public.rewrap_credentials(jsonb) to service_role;

create function public.retire_keys(p_key_version integer)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.retire_keys(p_key_version); end;
revoke execute on function public.retire_keys(integer) from public, anon, authenticated;
grant execute on function public.retire_keys(integer) to service_role;

create function public.vault_status()
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.vault_status(); end;
revoke execute on function public.vault_status() from public, anon, authenticated;
grant execute on function public.vault_status() to service_role;
