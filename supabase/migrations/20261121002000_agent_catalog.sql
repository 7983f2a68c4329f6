-- The catalog of agents: what everyone signed in may see of them, and what their admins do with them. Owners and admins
-- of an agent's account are its admins; to everyone else an agent that is not theirs to change does not exist.
-- View: public.agent_catalog. Functions: create_agent, update_agent, publish_agent, retire_agent, grant_agent,
-- revoke_agent and read_agent for admins; give_agent_access and take_agent_access for services.
-- Errors: RUN01 no such agent, RUN03 it was changed meanwhile, RUN06 not its admin, RUN07 problems (all of them in the
-- details), RUN09 too many versions, RUN15 its status does not allow it. Lock order: agents, then their versions, before all that runs lock. Nothing destructive.

-- The caller's accounts whose runs may be of an agent, as private.may_use_agent says: with access; all of them where he
-- works in the agent's own account, which comes first. Then his personal one.
create function private.my_accounts_for_agent(p_agent_id uuid)
  returns uuid[] language sql stable security definer set search_path = '' as $$
  select array(
    select m.account_id from public.account_members m, public.agents a
    where a.id = p_agent_id and m.user_id = (select auth.uid()) and m.role <> 'viewer'
      and private.may_use_agent(p_agent_id, m.account_id)
    order by m.account_id <> a.account_id, m.account_id <> m.user_id, m.account_id)
$$;
grant execute on function private.my_accounts_for_agent(uuid) to authenticated;

create view public.agent_catalog with (security_invoker = true) as
  select a.id, a.name, a.description, a.status, a.visibility, a.created_at, a.updated_at,
    v.id as version_id, v.number, v.engine, v.input_schema, v.credential_types, v.managed_types, v.price, v.published_at,
    a.status = 'published' and a.id in (select private.my_agent_ids()) as may_run,
    a.id in (select private.my_administered_agent_ids()) as may_edit,
    case when a.status = 'published' then private.my_accounts_for_agent(a.id) else '{}' end as run_as
  from public.agents a left join public.agent_versions v on v.id = a.current_version_id;
comment on view public.agent_catalog is 'Agents with what is published of them, as the caller may see it.';
revoke all on public.agent_catalog from anon, authenticated, service_role;
grant select on public.agent_catalog to authenticated;

create function private.agent_answer(p_agent public.agents)
  returns jsonb language sql stable set search_path = '' as $$
  select jsonb_build_object('agent_id', p_agent.id, 'status', p_agent.status,
    'current_version_id', p_agent.current_version_id, 'draft_version_id', p_agent.draft_version_id)
$$;

-- The agent, locked, for its admin. Raises RUN01 when the caller is not of its account, RUN06 when he is no admin there.
create function private.lock_my_agent(p_agent_id uuid)
  returns public.agents language plpgsql security definer set search_path = '' as $$
declare
  v_agent public.agents;
  v_role public.account_role;
begin
  perform private.require_scope('agents:write');
  -- Asked before the row is locked, so that nobody makes a stranger's agent wait.
  v_role := private.my_role((select account_id from public.agents where id = p_agent_id));
  if v_role in ('owner', 'admin') then
    select * into v_agent from public.agents where id = p_agent_id for update;
  elsif v_role is not null then
    raise exception 'Your role % in this account may not change agent %', v_role, p_agent_id using errcode = 'RUN06';
  end if;
  if v_agent.id is null then
    raise exception 'There is no agent %', p_agent_id using errcode = 'RUN01';
  end if;
  return v_agent;
end $$;

-- What is wrong with the fields of an agent that an admin of p_account_id sends: [{field, message}]. Absent ones are not.
create function private.problems_of_agent(p_fields jsonb, p_account_id uuid)
  returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  -- In plpgsql, so that the table of credentials may come later.
  return (select coalesce(jsonb_agg(jsonb_build_object('field', f.key, 'message', f.message)), '[]') from (
    select e.key, case e.key
      when 'name' then case
        when jsonb_typeof(e.value) <> 'string' or char_length(btrim(e.value #>> '{}')) not between 1 and 200
          then 'must have 1 to 200 characters' end
      when 'description' then case
        when jsonb_typeof(e.value) <> 'string' or char_length(e.value #>> '{}') > 4000
          then 'must have at most 4000 characters' end
      when 'visibility' then case
        when e.value not in ('"private"', '"public"') then 'must be private or public' end
      when 'max_concurrent_runs' then case
        when e.value <> 'null' and not (jsonb_typeof(e.value) = 'number' and e.value #>> '{}' ~ '^[0-9]{1,5}$'
            and (e.value #>> '{}')::integer between 1 and 10000)
          then 'must be a whole number from 1 to 10000, or null' end
      when 'engine' then case
        when jsonb_typeof(e.value) <> 'string' or e.value #>> '{}' !~ '^[a-z][a-z0-9_]{0,31}$'
          then 'must be a lower-case name' end
      when 'config' then case
        when jsonb_typeof(e.value) <> 'object' then 'must be an object'
        else private.json_problem('config', e.value, 65536) end
      when 'input_schema' then case
        when jsonb_typeof(e.value) <> 'object' then 'must be an object'
        else private.json_problem('input_schema', e.value, 32768) end
      when 'credential_types' then case
        when jsonb_typeof(e.value) <> 'array' or jsonb_array_length(e.value) > 20 or exists (
            select from jsonb_array_elements(e.value) t
            where jsonb_typeof(t) <> 'string' or t #>> '{}' !~ '^[a-z][a-z0-9_]{0,31}$')
          then 'must be a list of at most 20 providers'
        when (select count(distinct t) <> count(*) from jsonb_array_elements(e.value) t) then 'names one twice' end
      when 'managed_credentials' then case
        when jsonb_typeof(e.value) <> 'object' or cardinality(private.keys_of(e.value)) > 20
          then 'must be an object of at most 20 credentials' end
      when 'price' then case
        when jsonb_typeof(e.value) <> 'number' or e.value #>> '{}' !~ '^[0-9]{1,16}$'
            or (e.value #>> '{}')::numeric > 1000000000000000
          then 'must be a whole number of micro-credits from 0 to 1000000000000000' end
      when 'account_id' then null
      else 'is unknown'
    end as message
    from jsonb_each(p_fields) e
    union all
    select 'managed_credentials.' || m.key, 'is no credential of the agent''s account for ' || m.key
    from jsonb_each(case when jsonb_typeof(p_fields -> 'managed_credentials') = 'object'
      then p_fields -> 'managed_credentials' else '{}' end) m
    where not exists (
      select from public.credentials c
      where c.id::text = lower(m.value #>> '{}') and c.account_id = p_account_id and c.provider = m.key
        and c.deleted_at is null)
  ) f
  where f.message is not null);
end $$;

create function private.create_agent(p_request jsonb, p_idempotency_key text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_user_id uuid := (select auth.uid());
  v_account_id uuid;
  v_agent public.agents;
  v_version public.agent_versions;
  v_answer jsonb;
begin
  perform private.require_scope('agents:write');
  if v_user_id is null then
    raise exception 'Only a signed-in user can create an agent' using errcode = 'RUN06';
  end if;
  if p_request is null or jsonb_typeof(p_request) <> 'object' then
    raise exception 'p_request must be an object' using errcode = 'RUN07';
  end if;
  begin
    v_account_id := coalesce((p_request ->> 'account_id')::uuid, v_user_id);
  exception when invalid_text_representation then
    raise exception 'account_id must be a uuid' using errcode = 'RUN07';
  end;
  if v_account_id = v_user_id then
    perform private.ensure_personal_account(v_user_id);
  end if;
  if not private.administers(v_account_id) then
    raise exception 'You may not create agents in account %', v_account_id using errcode = 'RUN06';
  end if;
  v_answer := private.recall(v_account_id, 'create_agent', p_idempotency_key, p_request);
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  perform private.refuse_problems(private.problems_of_agent(p_request, v_account_id) || coalesce((
    select jsonb_agg(jsonb_build_object('field', f, 'message', 'is missing'))
    from unnest(array['name', 'engine']) f where not p_request ? f), '[]'));

  v_version := jsonb_populate_record(null::public.agent_versions, '{"config": {}, "input_schema": {"type": "object"},
    "credential_types": [], "managed_credentials": {}, "price": 0}' || p_request);
  perform private.refuse_unneeded_keys(v_version);
  insert into public.agents (account_id, name, description, visibility, max_concurrent_runs)
    values (v_account_id, btrim(p_request ->> 'name'), coalesce(p_request ->> 'description', ''),
      coalesce(p_request ->> 'visibility', 'private'), (p_request ->> 'max_concurrent_runs')::integer)
    returning * into v_agent;
  v_version.agent_id := v_agent.id;
  v_version := private.add_version(v_version);
  update public.agents set draft_version_id = v_version.id where id = v_agent.id returning * into v_agent;
  v_answer := private.agent_answer(v_agent) || '{"created": true}';
  perform private.remember(v_account_id, 'create_agent', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.create_agent(jsonb, text) to authenticated;

-- A key that stands in for one that the agent does not need would never be used.
create function private.refuse_unneeded_keys(p_version public.agent_versions)
  returns void language sql stable set search_path = '' as $$
  select private.refuse_problems(coalesce((
    select jsonb_agg(jsonb_build_object('field', 'managed_credentials.' || k, 'message', 'is not in credential_types'))
    from unnest(private.keys_of(p_version.managed_credentials)) k where k <> all (p_version.credential_types)), '[]'))
$$;

-- Stores the content as the next version of its agent, which the caller has locked or just made. Raises RUN09 where its
-- account made too many today: versions are kept for good.
create function private.add_version(p_version public.agent_versions)
  returns public.agent_versions language plpgsql security definer set search_path = '' as $$
declare
  v_account_id uuid;
  v_version public.agent_versions;
begin
  select account_id into strict v_account_id from public.agents where id = p_version.agent_id;
  perform from public.accounts where id = v_account_id for no key update;  -- those that are made at once are counted
  if (select count(*) from public.agents a join public.agent_versions v on v.agent_id = a.id
      where a.account_id = v_account_id and v.created_at > private.clock() - interval '1 day') >= 500 then
    raise exception 'An account may make at most 500 versions of agents a day' using errcode = 'RUN09';
  end if;
  insert into public.agent_versions
      (agent_id, number, engine, config, input_schema, credential_types, managed_credentials, price)
    select p_version.agent_id, coalesce(max(v.number), 0) + 1, p_version.engine, p_version.config,
      p_version.input_schema, p_version.credential_types, p_version.managed_credentials, p_version.price
    from public.agent_versions v where v.agent_id = p_version.agent_id
    returning * into v_version;
  return v_version;
end $$;

-- Whoever judged the agent as it was at p_seen (its updated_at) must not change another one. Null: whatever it is now.
create function private.refuse_stale_agent(p_agent public.agents, p_seen timestamptz)
  returns void language plpgsql immutable set search_path = '' as $$
begin
  if p_seen <> p_agent.updated_at then
    raise exception 'Agent % was changed meanwhile', p_agent.id
      using errcode = 'RUN03', hint = 'Read the agent again, then decide again.';
  end if;
end $$;

create function private.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamptz)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_agent public.agents := private.lock_my_agent(p_agent_id);
  v_version public.agent_versions;
  v_content jsonb;
begin
  perform private.refuse_stale_agent(v_agent, p_seen);
  if p_changes is null or jsonb_typeof(p_changes) <> 'object' or p_changes = '{}' then
    raise exception 'p_changes must name what is to change' using errcode = 'RUN07';
  end if;
  if p_changes ? 'account_id' then
    raise exception 'account_id: an agent stays in its account' using errcode = 'RUN07';
  end if;
  perform private.refuse_problems(private.problems_of_agent(p_changes, v_agent.account_id));
  update public.agents a
    set name = coalesce(btrim(p_changes ->> 'name'), a.name),
        description = coalesce(p_changes ->> 'description', a.description),
        visibility = coalesce(p_changes ->> 'visibility', a.visibility), updated_at = private.clock()
    where a.id = p_agent_id;
  if p_changes ? 'max_concurrent_runs' then
    -- Apart, because it makes the queue look at its places again.
    update public.agents set max_concurrent_runs = (p_changes ->> 'max_concurrent_runs')::integer where id = p_agent_id;
  end if;

  v_content := p_changes - array['name', 'description', 'visibility', 'max_concurrent_runs'];
  if v_content <> '{}' then
    select * into v_version from public.agent_versions
      where id = coalesce(v_agent.draft_version_id, v_agent.current_version_id) for update;
    v_version := jsonb_populate_record(v_version, v_content);
    perform private.refuse_unneeded_keys(v_version);
    if v_version.published_at is null and v_version.pinned_at is null then
      update public.agent_versions
        set engine = v_version.engine, config = v_version.config, input_schema = v_version.input_schema,
            credential_types = v_version.credential_types, managed_credentials = v_version.managed_credentials,
            price = v_version.price
        where id = v_version.id;
    else
      v_version := private.add_version(v_version);
      update public.agents set draft_version_id = v_version.id where id = p_agent_id;
    end if;
  end if;
  select * into v_agent from public.agents where id = p_agent_id;
  return private.agent_answer(v_agent);
end $$;
grant execute on function private.update_agent(uuid, jsonb, timestamptz) to authenticated;

create function private.publish_agent(p_agent_id uuid, p_seen timestamptz)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_agent public.agents := private.lock_my_agent(p_agent_id);
  v_now timestamptz := private.clock();
  v_version public.agent_versions;
begin
  perform private.refuse_stale_agent(v_agent, p_seen);
  if v_agent.draft_version_id is null and v_agent.status <> 'retired' then
    raise exception 'Agent % has nothing to publish: its draft is what is published', p_agent_id using errcode = 'RUN15';
  end if;
  select * into v_version from public.agent_versions
    where id = coalesce(v_agent.draft_version_id, v_agent.current_version_id) for update;
  perform private.refuse_problems(private.problems_of_agent(
    jsonb_build_object('managed_credentials', v_version.managed_credentials), v_agent.account_id));
  update public.agent_versions set published_at = v_now where id = v_version.id and published_at is null;
  update public.agents
    set status = 'published', current_version_id = v_version.id, draft_version_id = null, updated_at = v_now
    where id = p_agent_id returning * into v_agent;
  return private.agent_answer(v_agent);
end $$;
grant execute on function private.publish_agent(uuid, timestamptz) to authenticated;

create function private.retire_agent(p_agent_id uuid)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_agent public.agents := private.lock_my_agent(p_agent_id);
begin
  update public.agents set status = 'retired', updated_at = private.clock()
    where id = p_agent_id and current_version_id is not null returning * into v_agent;
  if not found then
    raise exception 'Agent % was never published', p_agent_id using errcode = 'RUN15';
  end if;
  return private.agent_answer(v_agent);
end $$;
grant execute on function private.retire_agent(uuid) to authenticated;

create function private.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamptz)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_problem text := case
    when p_account_id is null or not exists (select from public.accounts where id = p_account_id)
      then 'account_id: there is no such account'
    when p_kind is null or p_kind not in ('owned', 'purchased', 'granted')
      then 'kind: must be owned, purchased or granted'
    when p_expires_at <= private.clock() then 'expires_at: must be in the future'
  end;
begin
  if not exists (select from public.agents where id = p_agent_id) then
    raise exception 'There is no agent %', p_agent_id using errcode = 'RUN01';
  end if;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  insert into public.agent_access (agent_id, account_id, kind, expires_at)
    values (p_agent_id, p_account_id, p_kind, p_expires_at)
    on conflict (agent_id, account_id, kind) do update set expires_at = excluded.expires_at;
  return jsonb_build_object('agent_id', p_agent_id, 'account_id', p_account_id, 'kind', p_kind,
    'expires_at', p_expires_at);
end $$;
grant execute on function private.give_agent_access(uuid, uuid, text, timestamptz) to service_role;

create function private.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  delete from public.agent_access where agent_id = p_agent_id and account_id = p_account_id and kind = p_kind;
  return jsonb_build_object('agent_id', p_agent_id, 'account_id', p_account_id, 'revoked', found);
end $$;
grant execute on function private.take_agent_access(uuid, uuid, text) to service_role;

create function private.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamptz)
  returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  perform private.lock_my_agent(p_agent_id);
  return private.give_agent_access(p_agent_id, p_account_id, 'granted', p_expires_at);
end $$;
grant execute on function private.grant_agent(uuid, uuid, timestamptz) to authenticated;

create function private.revoke_agent(p_agent_id uuid, p_account_id uuid)
  returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  perform private.lock_my_agent(p_agent_id);
  return private.take_agent_access(p_agent_id, p_account_id, 'granted');
end $$;
grant execute on function private.revoke_agent(uuid, uuid) to authenticated;

create function private.version_for_admins(p_version_id uuid)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('version_id', v.id, 'number', v.number, 'engine', v.engine, 'config', v.config,
    'input_schema', v.input_schema, 'credential_types', v.credential_types,
    'managed_credentials', v.managed_credentials, 'price', v.price, 'published_at', v.published_at)
  from public.agent_versions v where v.id = p_version_id
$$;

create function private.read_agent(p_agent_id uuid)
  returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare
  v_agent public.agents;
begin
  perform private.require_scope('agents:read');
  select * into v_agent from public.agents where id = p_agent_id;
  if v_agent.id is null or private.my_role(v_agent.account_id) is null then
    raise exception 'There is no agent %', p_agent_id using errcode = 'RUN01';
  end if;
  if not private.administers(v_agent.account_id) then
    raise exception 'Only its admins read all of agent %', p_agent_id using errcode = 'RUN06';
  end if;
  return jsonb_build_object('agent_id', v_agent.id, 'account_id', v_agent.account_id, 'name', v_agent.name,
    'description', v_agent.description, 'status', v_agent.status, 'visibility', v_agent.visibility,
    'max_concurrent_runs', v_agent.max_concurrent_runs, 'created_at', v_agent.created_at,
    'updated_at', v_agent.updated_at, 'published', private.version_for_admins(v_agent.current_version_id),
    'draft', private.version_for_admins(v_agent.draft_version_id));
end $$;
grant execute on function private.read_agent(uuid) to authenticated;

-- Makes an agent with a draft: {name, engine, account_id?, description?, visibility?, max_concurrent_runs?, config?,
-- input_schema?, credential_types?, managed_credentials? {provider: credential_id}, price? (micro-credits)}. Returns
-- {agent_id, status, current_version_id, draft_version_id, created}.
create function public.create_agent(p_request jsonb, p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.create_agent(p_request, p_idempotency_key); end;
revoke execute on function public.create_agent(jsonb, text) from public, anon;
grant execute on function public.create_agent(jsonb, text) to authenticated;

-- Changes what is named. Name, description, visibility and the limit hold at once; the rest makes or changes the draft.
-- With p_seen it raises RUN03 unless that is the agent's updated_at: what an engine needs of its settings is checked by the
-- agents function, and must hold of what becomes of them.
create function public.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamptz default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.update_agent(p_agent_id, p_changes, p_seen); end;
revoke execute on function public.update_agent(uuid, jsonb, timestamptz) from public, anon;
grant execute on function public.update_agent(uuid, jsonb, timestamptz) to authenticated;

-- Freezes the draft and makes it what new runs pin; a retired agent without a draft is put back as it was. p_seen as above.
create function public.publish_agent(p_agent_id uuid, p_seen timestamptz default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.publish_agent(p_agent_id, p_seen); end;
revoke execute on function public.publish_agent(uuid, timestamptz) from public, anon;
grant execute on function public.publish_agent(uuid, timestamptz) to authenticated;

-- Takes the agent out of use: nothing of it is started or retried any more; what goes on ends as it would.
create function public.retire_agent(p_agent_id uuid)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.retire_agent(p_agent_id); end;
revoke execute on function public.retire_agent(uuid) from public, anon;
grant execute on function public.retire_agent(uuid) to authenticated;

-- Lets an account run the agent, for good or until a time; repeated, it sets the time anew.
create function public.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamptz default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.grant_agent(p_agent_id, p_account_id, p_expires_at); end;
revoke execute on function public.grant_agent(uuid, uuid, timestamptz) from public, anon;
grant execute on function public.grant_agent(uuid, uuid, timestamptz) to authenticated;

-- Takes back what was granted; what was purchased or is owned is not an admin's to take.
create function public.revoke_agent(p_agent_id uuid, p_account_id uuid)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.revoke_agent(p_agent_id, p_account_id); end;
revoke execute on function public.revoke_agent(uuid, uuid) from public, anon;
grant execute on function public.revoke_agent(uuid, uuid) to authenticated;

-- Everything about an agent, config and managed credentials too, for its admins.
create function public.read_agent(p_agent_id uuid)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.read_agent(p_agent_id); end;
revoke execute on function public.read_agent(uuid) from public, anon;
grant execute on function public.read_agent(uuid) to authenticated;

-- Access of any kind, for whoever sells: a service of the product's, after a payment.
create function public.give_agent_access(
    p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamptz default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.give_agent_access(p_agent_id, p_account_id, p_kind, p_expires_at); end;
revoke execute on function public.give_agent_access(uuid, uuid, text, timestamptz) from public, anon, authenticated;
grant execute on function public.give_agent_access(uuid, uuid, text, timestamptz) to service_role;

create function public.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.take_agent_access(p_agent_id, p_account_id, p_kind); end;
revoke execute on function public.take_agent_access(uuid, uuid, text) from public, anon, authenticated;
grant execute on function public.take_agent_access(uuid, uuid, text) to service_role;
