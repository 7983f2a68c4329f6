-- Create and start. Public wrappers are security invoker and `begin atomic`, so that no API role needs USAGE on private;
-- the definers behind them check auth.uid(). Errors: RUN04 run has ended, RUN10 no credits.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- Starts a locked run: takes the hold from its account, sets the deadline, gives it a place in the queue and wakes the
-- workers.
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
  v_hold := least(coalesce(v_available, 0), (select hold_credits from private.settings),
                  coalesce(p_run.max_credits, 9223372036854775807));
  if v_hold <= 0 then
    raise exception 'The account has no credits left to start run %', p_run.id
      using errcode = 'RUN10', hint = 'Add credits to the account, then start the run again.';
  end if;
  update public.credit_accounts set available = available - v_hold, held = held + v_hold, updated_at = v_now
    where account_id = p_run.account_id;
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
    values (p_run.account_id, p_run.id, 'hold', 'available', 'held', v_hold);
  select * into v_places from private.take_places(p_run);
  update public.agent_runs r
    set status = 'queued', revision = r.revision + 1, available_at = v_now, started_at = v_now, updated_at = v_now,
        deadline_at = v_now + make_interval(secs => r.timeout_seconds), credits_held = v_hold,
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

create function private.create_run(p_request jsonb, p_idempotency_key text)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  v_user_id uuid := (select auth.uid());
  v_account_id uuid;
  v_role public.account_role;
  v_run public.agent_runs;
  v_answer jsonb;
  v_field text;
begin
  if v_user_id is null then
    raise exception 'Only a signed-in user can create a run' using errcode = 'RUN06';
  end if;
  if p_request is null or jsonb_typeof(p_request) <> 'object' then
    raise exception 'p_request must be an object' using errcode = 'RUN07';
  end if;
  select k into v_field from jsonb_object_keys(p_request) k
    where k not in ('engine', 'input', 'account_id', 'agent_id', 'max_steps', 'timeout_seconds', 'max_credits',
      'priority', 'concurrency_key', 'concurrency_limit', 'autostart') limit 1;
  if v_field is not null then
    raise exception 'p_request has an unknown field %', quote_literal(v_field) using errcode = 'RUN07';
  end if;
  if jsonb_typeof(coalesce(p_request -> 'input', 'null')) <> 'object' then
    raise exception 'input must be an object' using errcode = 'RUN07';
  end if;
  v_field := private.json_problem('input', p_request -> 'input', 262144);
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;
  begin
    v_account_id := coalesce((p_request ->> 'account_id')::uuid, v_user_id);
    v_run.engine := p_request ->> 'engine';
    v_run.max_steps := coalesce((p_request ->> 'max_steps')::integer, 100);
    v_run.timeout_seconds := coalesce((p_request ->> 'timeout_seconds')::integer, 3600);
    v_run.max_credits := (p_request ->> 'max_credits')::bigint;
    v_run.agent_id := (p_request ->> 'agent_id')::uuid;
    v_run.priority := coalesce((p_request ->> 'priority')::smallint, 0);
    v_run.concurrency_key := p_request ->> 'concurrency_key';
    v_run.concurrency_limit := coalesce((p_request ->> 'concurrency_limit')::integer,
      case when v_run.concurrency_key is not null then 1 end);
  exception when invalid_text_representation or numeric_value_out_of_range then
    raise exception 'account_id and agent_id must be uuids; max_steps, timeout_seconds, max_credits, priority and concurrency_limit must be whole numbers'
      using errcode = 'RUN07';
  end;
  v_field := case
    when v_run.engine is null or v_run.engine !~ '^[a-z][a-z0-9_]{0,31}$' then 'engine must be a lower-case name'
    when v_run.max_steps not between 1 and 10000 then 'max_steps must be from 1 to 10000'
    when v_run.timeout_seconds not between 1 and 604800 then 'timeout_seconds must be from 1 to 604800'
    when v_run.max_credits <= 0 then 'max_credits must be positive'
    when v_run.priority not between -100 and 100 then 'priority must be from -100 to 100'
    when char_length(v_run.concurrency_key) not between 1 and 200 then 'concurrency_key must have 1 to 200 characters'
    when v_run.concurrency_limit not between 1 and 10000 then 'concurrency_limit must be from 1 to 10000'
    when v_run.concurrency_limit is not null and v_run.concurrency_key is null
      then 'concurrency_limit belongs to a concurrency_key'
  end;
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;

  if v_account_id = v_user_id then
    perform private.ensure_personal_account(v_user_id);
  end if;
  v_role := private.my_role(v_account_id);
  if v_role is null or v_role = 'viewer' then
    raise exception 'You may not create runs in account %', v_account_id using errcode = 'RUN06';
  end if;
  v_answer := private.recall(v_account_id, 'create', p_idempotency_key, p_request);
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.agent_id is not null and not private.may_use_agent(v_run.agent_id, v_account_id) then
    raise exception 'There is no agent %', v_run.agent_id using errcode = 'RUN01';
  end if;
  perform private.take_rate(v_account_id, 'create');

  insert into public.agent_runs (account_id, user_id, agent_id, engine, input, max_steps, timeout_seconds, max_credits,
      priority, concurrency_key, concurrency_limit)
    values (v_account_id, v_user_id, v_run.agent_id, v_run.engine, p_request -> 'input', v_run.max_steps,
      v_run.timeout_seconds, v_run.max_credits, v_run.priority, v_run.concurrency_key, v_run.concurrency_limit)
    returning * into v_run;
  if (p_request -> 'autostart') = 'true' then
    v_run := private.queue_run(v_run);
  end if;
  v_answer := private.run_answer(v_run) || '{"created": true}';
  perform private.remember(v_account_id, 'create', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.create_run(jsonb, text) to authenticated;

create function private.start_run(p_run_id uuid, p_revision bigint)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, p_revision);
begin
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;
  if v_run.status <> 'created' then
    raise exception 'Run % is already started: it is %', p_run_id, v_run.status using errcode = 'RUN02';
  end if;
  return private.run_answer(private.queue_run(v_run));
end $$;
grant execute on function private.start_run(uuid, bigint) to authenticated;

-- Creates a run for the caller: {engine, input, account_id?, max_steps?, timeout_seconds?, max_credits? (micro-credits),
-- agent_id?, priority?, concurrency_key?, concurrency_limit?, autostart?}. Returns {run_id, status, revision, created}; created is false when the idempotency key is known.
create function public.create_run(p_request jsonb, p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.create_run(p_request, p_idempotency_key); end;
revoke execute on function public.create_run(jsonb, text) from public, anon;
grant execute on function public.create_run(jsonb, text) to authenticated;

-- Queues a created run. Raises RUN02 when it is started already, RUN10 when the account has no credits.
create function public.start_run(p_run_id uuid, p_revision bigint default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.start_run(p_run_id, p_revision); end;
revoke execute on function public.start_run(uuid, bigint) from public, anon;
grant execute on function public.start_run(uuid, bigint) to authenticated;
