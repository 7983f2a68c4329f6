-- Create and start. Public wrappers are security invoker and `begin atomic`, so that no API role needs USAGE on private;
-- the definers behind them check auth.uid(). Errors: RUN04 run has ended, RUN10 no credits, RUN14 the agent has another
-- version now, RUN15 the agent is not published or is retired.
-- A run of an agent pins the version that is published when it is created. Its price is booked when it is first started.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. An agent's version is locked
-- before all of them. Nothing destructive.

-- Starts a locked run: takes the hold from its account and the price out of it, sets the deadline, gives it a place in
-- the queue and wakes the workers.
create function private.queue_run(p_run public.agent_runs)
  returns public.agent_runs language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_run public.agent_runs;
  v_available bigint;
  v_hold bigint;
  v_places record;
begin
  perform private.take_rate(p_run.account_id, 'start');
  select available into v_available from public.credit_accounts where account_id = p_run.account_id for update;
  v_hold := least(coalesce(v_available, 0), p_run.price + (select hold_credits from private.settings),
                  coalesce(p_run.max_credits, 9223372036854775807));
  if v_hold <= 0 then
    raise exception 'The account has no credits left to start run %', p_run.id
      using errcode = 'RUN10', hint = 'Add credits to the account, then start the run again.';
  end if;
  if v_hold < p_run.price then
    raise exception 'Starting run % costs % credits, and the account has %', p_run.id,
        trim_scale(p_run.price / 1000000.0), trim_scale(v_hold / 1000000.0)
      using errcode = 'RUN10', hint = 'Add credits to the account, then start the run again.';
  end if;
  update public.credit_accounts set available = available - v_hold, held = held + v_hold, updated_at = v_now
    where account_id = p_run.account_id;
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
    values (p_run.account_id, p_run.id, 'hold', 'available', 'held', v_hold);
  if p_run.price > 0 then
    insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
      values (p_run.account_id, p_run.id, 'price', 'held', 'spent', p_run.price);
  end if;
  select * into v_places from private.take_places(p_run);
  update public.agent_runs r
    set status = 'queued', revision = r.revision + 1, available_at = v_now, started_at = v_now, updated_at = v_now,
        deadline_at = v_now + make_interval(secs => r.timeout_seconds), credits_held = v_hold - p_run.price,
        credits_spent = p_run.price,
        slot_ids = v_places.slot_ids, fair_tag = v_places.fair_tag, held_for = v_places.held_for
    where r.id = p_run.id;
  perform private.append_line(array[p_run.id], 'state_transition', array[format('%s -> queued', p_run.status)],
    array[jsonb_build_object('from', p_run.status, 'to', 'queued')]);
  if v_places.held_for = 0 then
    perform pg_notify('runbase_runs', '');
  end if;
  select * into v_run from public.agent_runs where id = p_run.id;
  return v_run;
end $$;

-- What a request for a run asks for, checked, in an account where the caller may create runs. Raises RUN06, RUN07.
create function private.read_run_request(p_request jsonb)
  returns public.agent_runs language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs;
  v_role public.account_role;
  v_field text;
begin
  perform private.require_scope('runs:write');
  v_run.user_id := (select auth.uid());
  if v_run.user_id is null then
    raise exception 'Only a signed-in user can create a run' using errcode = 'RUN06';
  end if;
  if p_request is null or jsonb_typeof(p_request) <> 'object' then
    raise exception 'p_request must be an object' using errcode = 'RUN07';
  end if;
  select k into v_field from jsonb_object_keys(p_request) k
    where k not in ('engine', 'input', 'account_id', 'agent_id', 'version_id', 'draft', 'credentials', 'max_steps',
      'timeout_seconds', 'max_credits', 'priority', 'concurrency_key', 'concurrency_limit', 'autostart') limit 1;
  if v_field is not null then
    raise exception 'p_request has an unknown field %', quote_literal(v_field) using errcode = 'RUN07';
  end if;
  if jsonb_typeof(coalesce(p_request -> 'input', 'null')) <> 'object' then
    raise exception 'input must be an object' using errcode = 'RUN07';
  end if;
  if jsonb_typeof(coalesce(p_request -> 'credentials', '{}')) <> 'object' then
    raise exception 'credentials must be an object' using errcode = 'RUN07';
  end if;
  if cardinality(private.keys_of(coalesce(p_request -> 'credentials', '{}'))) > 20 then
    raise exception 'credentials must name at most 20' using errcode = 'RUN07';
  end if;
  v_field := private.json_problem('input', p_request -> 'input', 262144);
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;
  begin
    v_run.account_id := coalesce((p_request ->> 'account_id')::uuid, v_run.user_id);
    v_run.engine := p_request ->> 'engine';
    v_run.input := p_request -> 'input';
    v_run.max_steps := coalesce((p_request ->> 'max_steps')::integer, 100);
    v_run.timeout_seconds := coalesce((p_request ->> 'timeout_seconds')::integer, 3600);
    v_run.max_credits := (p_request ->> 'max_credits')::bigint;
    v_run.agent_id := (p_request ->> 'agent_id')::uuid;
    v_run.agent_version_id := (p_request ->> 'version_id')::uuid;
    v_run.priority := coalesce((p_request ->> 'priority')::smallint, 0);
    v_run.concurrency_key := p_request ->> 'concurrency_key';
    v_run.concurrency_limit := coalesce((p_request ->> 'concurrency_limit')::integer,
      case when v_run.concurrency_key is not null then 1 end);
  exception when invalid_text_representation or numeric_value_out_of_range then
    raise exception 'account_id, agent_id and version_id must be uuids; max_steps, timeout_seconds, max_credits, priority and concurrency_limit must be whole numbers'
      using errcode = 'RUN07';
  end;
  v_field := case
    when v_run.agent_id is null and v_run.engine is null or v_run.engine !~ '^[a-z][a-z0-9_]{0,31}$'
      then 'engine must be a lower-case name'
    when v_run.max_steps not between 1 and 10000 then 'max_steps must be from 1 to 10000'
    when v_run.timeout_seconds not between 1 and 604800 then 'timeout_seconds must be from 1 to 604800'
    when v_run.max_credits <= 0 then 'max_credits must be positive'
    when v_run.priority not between -100 and 100 then 'priority must be from -100 to 100'
    when char_length(v_run.concurrency_key) not between 1 and 200 then 'concurrency_key must have 1 to 200 characters'
    when v_run.concurrency_limit not between 1 and 10000 then 'concurrency_limit must be from 1 to 10000'
    when v_run.concurrency_limit is not null and v_run.concurrency_key is null
      then 'concurrency_limit belongs to a concurrency_key'
    when v_run.agent_id is null and (v_run.agent_version_id is not null or p_request ? 'draft')
      then 'version_id and draft belong to an agent_id'
    when p_request ? 'draft' and jsonb_typeof(p_request -> 'draft') <> 'boolean' then 'draft must be true or false'
  end;
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;

  if v_run.account_id = v_run.user_id then
    perform private.ensure_personal_account(v_run.user_id);
  end if;
  v_role := private.my_role(v_run.account_id);
  if v_role is null or v_role = 'viewer' then
    raise exception 'You may not create runs in account %', v_run.account_id using errcode = 'RUN06';
  end if;
  return v_run;
end $$;

-- The version that a new run of this agent pins: the published one, or the draft for an admin who asks for it or whose
-- agent is not published yet. Raises RUN01 where there is no agent or no access, which look alike, RUN06 and RUN15.
create function private.version_to_run(p_run public.agent_runs, p_draft boolean)
  returns public.agent_versions language plpgsql stable security definer set search_path = '' as $$
declare
  v_agent public.agents;
  v_version public.agent_versions;
  v_admin boolean;
begin
  select * into v_agent from public.agents where id = p_run.agent_id;
  if v_agent.id is null or not private.may_use_agent(v_agent.id, p_run.account_id)
      or (v_agent.status = 'draft' and private.my_role(v_agent.account_id) is null) then
    raise exception 'There is no agent %', p_run.agent_id using errcode = 'RUN01';
  end if;
  if v_agent.status = 'retired' then
    raise exception 'Agent % is retired', v_agent.id using errcode = 'RUN15';
  end if;
  v_admin := private.administers(v_agent.account_id);
  if p_draft and not v_admin then
    raise exception 'Only admins of its account run the draft of agent %', v_agent.id using errcode = 'RUN06';
  end if;
  if v_agent.status = 'draft' and not v_admin then
    raise exception 'Agent % is not published', v_agent.id using errcode = 'RUN15';
  end if;
  p_draft := p_draft or v_agent.status = 'draft';
  select * into v_version from public.agent_versions
    where id = case when p_draft then v_agent.draft_version_id else v_agent.current_version_id end;
  if v_version.id is null then
    raise exception 'Agent % has no draft', v_agent.id using errcode = 'RUN15';
  end if;
  return v_version;
end $$;

-- By provider, the credentials that a run's steps may open, and what is wrong: [{field, message}]. Of each type that the
-- version needs: the one that was named, else the agent's own where it brings one (that stands in the version, and not
-- in the run), else the account's newest that did not fail its last test. Without an agent, what was named.
create function private.resolve_credentials(
    p_account_id uuid, p_version public.agent_versions, p_named jsonb, out credential_ids jsonb, out problems jsonb)
  language plpgsql stable security definer set search_path = '' as $$
declare
  v_types text[] := case when p_version.id is null then private.keys_of(p_named) else p_version.credential_types end;
  v_type text;
  v_id uuid;
  v_problem text;
begin
  credential_ids := '{}';
  problems := coalesce((
    select jsonb_agg(jsonb_build_object('field', 'credentials.' || k, 'message', 'the agent takes no such credential'))
    from jsonb_object_keys(p_named) k where k <> all (v_types)), '[]');
  foreach v_type in array v_types loop
    v_problem := null;
    if p_named ? v_type then
      v_id := case when p_named ->> v_type ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (p_named ->> v_type)::uuid end;
      select c.id into v_id from public.credentials c
        where c.id = v_id and c.account_id = p_account_id and c.provider = v_type and c.deleted_at is null;
      v_problem := case when v_id is null then 'is no credential of this account for ' || v_type end;
    elsif p_version.managed_credentials ? v_type then
      v_id := null;
      perform 1 from public.credentials c join public.agents a on a.account_id = c.account_id
        where a.id = p_version.agent_id and c.id = (p_version.managed_credentials ->> v_type)::uuid
          and c.provider = v_type and c.deleted_at is null;
      v_problem := case when not found then 'the agent brings its own, and that is gone' end;
    else
      select c.id into v_id from public.credentials c
        where c.account_id = p_account_id and c.provider = v_type and c.deleted_at is null
          and c.last_test ->> 'valid' is distinct from 'false'
        order by c.created_at desc, c.id limit 1;
      v_problem := case when v_id is null then 'is needed: add a credential for ' || v_type end;
    end if;
    if v_problem is not null then
      problems := problems || jsonb_build_object('field', 'credentials.' || v_type, 'message', v_problem);
    elsif v_id is not null then
      credential_ids := credential_ids || jsonb_build_object(v_type, v_id);
    end if;
  end loop;
end $$;

-- What is wrong with a request of this version besides its credentials.
create function private.problems_of_request(p_run public.agent_runs, p_version public.agent_versions)
  returns jsonb language sql immutable set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('field', x.field, 'message', x.message)), '[]') from (
    select 'engine' as field, format('the agent''s engine is %s', p_version.engine) as message
      where p_run.engine <> p_version.engine
    union all
    select 'max_credits', format('starting this agent costs %s credits', trim_scale(p_run.price / 1000000.0))
      where p_run.max_credits < p_run.price
  ) x
$$;

-- Raises all problems at once: the first in the message, all in the details.
create function private.refuse_problems(p_problems jsonb)
  returns void language plpgsql immutable set search_path = '' as $$
begin
  if jsonb_array_length(p_problems) > 0 then
    raise exception '%: %', p_problems -> 0 ->> 'field', p_problems -> 0 ->> 'message'
      using errcode = 'RUN07', detail = p_problems::text;
  end if;
end $$;

-- A request as far as it can be answered without making the run, and what is wrong with it.
create type private.prepared_run as (run public.agent_runs, version public.agent_versions, problems jsonb);

create function private.prepare(p_request jsonb, p_run public.agent_runs)
  returns private.prepared_run language plpgsql stable security definer set search_path = '' as $$
declare
  v_prepared private.prepared_run;
  v_run public.agent_runs := p_run;
  v_version public.agent_versions;
  v_problems jsonb := '[]';
  v_credentials record;
begin
  if v_run.agent_id is not null then
    v_version := private.version_to_run(v_run, coalesce((p_request -> 'draft')::boolean, false));
    if v_run.agent_version_id <> v_version.id then
      raise exception 'Agent % has another version now', v_run.agent_id
        using errcode = 'RUN14', hint = 'Read the agent again, then decide again.';
    end if;
    v_run.agent_version_id := v_version.id;
    v_run.price := case when private.is_agent_of(v_run.agent_id, v_run.account_id) then 0 else v_version.price end;
    v_problems := private.problems_of_request(v_run, v_version);
    v_run.engine := v_version.engine;
  end if;
  select * into v_credentials
    from private.resolve_credentials(v_run.account_id, v_version, coalesce(p_request -> 'credentials', '{}'));
  v_run.credential_ids := v_credentials.credential_ids;
  v_prepared.run := v_run;
  v_prepared.version := v_version;
  v_prepared.problems := v_problems || v_credentials.problems;
  return v_prepared;
end $$;

create function private.create_run(p_request jsonb, p_idempotency_key text)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_run public.agent_runs := private.read_run_request(p_request);
  v_prepared private.prepared_run;
  v_answer jsonb;
begin
  -- Which version the caller has seen is no part of what he asks for: a repeat after a publication is still a repeat.
  v_answer := private.recall(v_run.account_id, 'create', p_idempotency_key, p_request - 'version_id');
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  v_prepared := private.prepare(p_request, v_run);
  perform private.refuse_problems(v_prepared.problems);
  v_run := v_prepared.run;
  if (v_prepared.version).id is not null and (v_prepared.version).published_at is null then
    -- A draft that is being changed is waited for; from here on it is frozen.
    update public.agent_versions v set pinned_at = coalesce(v.pinned_at, private.clock())
      where v.id = v_run.agent_version_id and to_jsonb(v) - array['pinned_at', 'published_at']
        = to_jsonb(v_prepared.version) - array['pinned_at', 'published_at'];
    if not found then
      raise exception 'Agent % has another version now', v_run.agent_id
        using errcode = 'RUN14', hint = 'Read the agent again, then decide again.';
    end if;
  end if;
  perform private.take_rate(v_run.account_id, 'create');

  insert into public.agent_runs (account_id, user_id, agent_id, agent_version_id, credential_ids, price, engine, input,
      max_steps, timeout_seconds, max_credits, priority, concurrency_key, concurrency_limit)
    values (v_run.account_id, v_run.user_id, v_run.agent_id, v_run.agent_version_id, v_run.credential_ids,
      coalesce(v_run.price, 0), v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds, v_run.max_credits,
      v_run.priority, v_run.concurrency_key, v_run.concurrency_limit)
    returning * into v_run;
  if (p_request -> 'autostart') = 'true' then
    v_run := private.queue_run(v_run);
  end if;
  v_answer := private.run_answer(v_run) || '{"created": true}';
  perform private.remember(v_run.account_id, 'create', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.create_run(jsonb, text) to authenticated;

create function private.check_run(p_request jsonb, p_idempotency_key text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs := private.read_run_request(p_request);
  v_prepared private.prepared_run;
begin
  if exists (
    select from private.idempotency_keys k
    where k.account_id = v_run.account_id and k.action = 'create' and k.key = p_idempotency_key
  ) then
    return '{"known": true}';
  end if;
  v_prepared := private.prepare(p_request, v_run);
  return jsonb_build_object('known', false, 'version_id', (v_prepared.version).id,
    'input_schema', (v_prepared.version).input_schema, 'problems', v_prepared.problems);
end $$;
grant execute on function private.check_run(jsonb, text) to authenticated;

-- Whether a run that was created earlier may start: its agent may be retired, deleted or no longer the caller's to use, and
-- he no longer an admin, who alone runs drafts.
create function private.refuse_without_agent(p_run public.agent_runs)
  returns void language plpgsql stable security definer set search_path = '' as $$
declare
  v_agent public.agents;
  v_version public.agent_versions;
begin
  if p_run.agent_id is null then
    return;
  end if;
  select * into v_agent from public.agents where id = p_run.agent_id;
  select * into v_version from public.agent_versions where id = p_run.agent_version_id;
  if v_version.id is null or not private.may_use_agent(p_run.agent_id, p_run.account_id) then
    raise exception 'There is no agent %', p_run.agent_id using errcode = 'RUN01';
  end if;
  if v_agent.status = 'retired' then
    raise exception 'Agent % is retired', p_run.agent_id using errcode = 'RUN15';
  end if;
  if v_version.published_at is null and not private.administers(v_agent.account_id) then
    raise exception 'Only admins of its account run the draft of agent %', p_run.agent_id using errcode = 'RUN06';
  end if;
end $$;

create function private.start_run(p_run_id uuid, p_revision bigint)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, p_revision);
begin
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;
  if v_run.status <> 'created' then
    raise exception 'Run % is already started: it is %', p_run_id, v_run.status using errcode = 'RUN02';
  end if;
  perform private.refuse_without_agent(v_run);
  return private.run_answer(private.queue_run(v_run));
end $$;
grant execute on function private.start_run(uuid, bigint) to authenticated;

-- Creates a run for the caller: {engine | agent_id, input, account_id?, credentials? {provider: id}, version_id?, draft?,
-- max_steps?, timeout_seconds?, max_credits? (micro-credits), priority?, concurrency_key?, concurrency_limit?, autostart?}.
-- Returns {run_id, status, revision, created}; created is false when the idempotency key is known. With version_id it
-- raises RUN14 unless that is the version it would pin. Several problems come at once: RUN07, all of them in the details.
create function public.create_run(p_request jsonb, p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.create_run(p_request, p_idempotency_key); end;
revoke execute on function public.create_run(jsonb, text) from public, anon;
grant execute on function public.create_run(jsonb, text) to authenticated;

-- What create_run would say: {known: the idempotency key is, version_id, input_schema, problems: [{field, message}]}. Makes
-- nothing. The input is not checked against the schema here: PostgreSQL has no means to.
create function public.check_run(p_request jsonb, p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.check_run(p_request, p_idempotency_key); end;
revoke execute on function public.check_run(jsonb, text) from public, anon;
grant execute on function public.check_run(jsonb, text) to authenticated;

-- Queues a created run. Raises RUN02 when it is started already, RUN10 when the account has no credits.
create function public.start_run(p_run_id uuid, p_revision bigint default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.start_run(p_run_id, p_revision); end;
revoke execute on function public.start_run(uuid, bigint) from public, anon;
grant execute on function public.start_run(uuid, bigint) to authenticated;
