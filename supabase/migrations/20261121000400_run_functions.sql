-- The run's life as people see it: create, start, stop, pause, resume, respond, retry. Public wrappers are security
-- invoker and `begin atomic`, so that no API role needs USAGE on private; the definers behind them check auth.uid().
-- Errors: RUN01 no such run, RUN02 move not allowed, RUN03 stale revision, RUN04 run has ended, RUN05 idempotency key
-- reused, RUN06 not allowed, RUN07 invalid input, RUN08 no open question, RUN10 no credits. Nothing destructive.
-- Lock order everywhere: run rows by id, then credit accounts by id.

-- The tail of log lines that was not broadcast yet, one message a run. p_from_seqs are the last seqs sent before.
-- Realtime refuses messages over 256 KB, so a long tail goes as several, each with at most 150 KB and one line more.
-- realtime.send turns its own failures into warnings, so a broken Realtime never blocks a run.
create function private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[])
  returns void language plpgsql security definer set search_path = '' as $$
begin
  perform realtime.send(
    jsonb_build_object('run_id', r.id, 'status', r.status, 'revision', r.revision, 'lines', lines.lines),
    'log', 'run:' || r.id, true)
  from unnest(p_run_ids, p_from_seqs) as tail (run_id, from_seq)
  join public.agent_runs r on r.id = tail.run_id
  cross join lateral (
    select jsonb_agg(jsonb_build_object(
      'seq', l.seq, 'log_type', l.log_type, 'message', l.message, 'metadata', l.metadata, 'created_at', l.created_at
    ) order by l.seq) as lines
    from (
      select t.*, sum(octet_length(t.message) + octet_length(t.metadata::text) + 150) over (order by t.seq) as bytes
      from public.agent_task_logs t where t.run_id = r.id and t.seq > tail.from_seq
    ) l
    group by l.bytes / 150000
    order by min(l.seq)
  ) lines;
end $$;

-- Appends one line to each of the given runs, whose rows the caller has locked, and broadcasts the tails. The caller has
-- not yet counted the lines: this raises log_seq.
create function private.append_line(p_run_ids uuid[], p_log_type public.log_type, p_messages text[], p_metadata jsonb[])
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_ids uuid[];
  v_from bigint[];
begin
  with line as (
    select * from unnest(p_run_ids, p_messages, p_metadata) as x (run_id, message, metadata)
  ), before as (
    select r.id, r.broadcast_seq from public.agent_runs r where r.id = any (p_run_ids)
  ), counted as (
    update public.agent_runs r
      set log_seq = r.log_seq + 1, broadcast_seq = r.log_seq + 1, broadcast_at = private.clock()
      from before where before.id = r.id
      returning r.id, r.account_id, r.log_seq, before.broadcast_seq
  ), written as (
    insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata)
      select c.id, c.log_seq, c.account_id, p_log_type, line.message, line.metadata
      from counted c join line on line.run_id = c.id
  )
  select array_agg(id), array_agg(broadcast_seq) into v_ids, v_from from counted;
  perform private.broadcast_logs(v_ids, v_from);
end $$;

-- What every ending does besides the status: open steps and questions are cancelled, the rest of the hold goes back.
-- The runs are locked and already ended.
create function private.close_runs(p_run_ids uuid[])
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
begin
  update public.agent_steps s
    set status = 'cancelled', finished_at = v_now, waits_for = null, finished_revision = r.revision
    from public.agent_runs r
    where s.run_id = any (p_run_ids) and s.status in ('pending', 'running') and r.id = s.run_id;
  update public.human_requests set status = 'cancelled'
    where run_id = any (p_run_ids) and status = 'open';
  delete from private.step_deltas where run_id = any (p_run_ids);

  perform 1 from public.credit_accounts c
    where c.account_id in (select r.account_id from public.agent_runs r where r.id = any (p_run_ids))
    order by c.account_id for update;
  update public.credit_accounts c
    set available = c.available + t.rest, held = c.held - t.rest - t.spent, spent = c.spent + t.spent, updated_at = v_now
    from (
      select r.account_id, sum(r.credits_held) as rest, sum(r.credits_spent) as spent
      from public.agent_runs r where r.id = any (p_run_ids) group by r.account_id
    ) t
    where c.account_id = t.account_id and (t.rest > 0 or t.spent > 0);
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
    select r.account_id, r.id, 'release', 'held', 'available', r.credits_held
    from public.agent_runs r where r.id = any (p_run_ids) and r.credits_held > 0;
  update public.agent_runs set credits_held = 0, credits_reserved = 0
    where id = any (p_run_ids) and (credits_held > 0 or credits_reserved > 0);
end $$;

-- Ends runs whose rows the caller has locked and that nobody holds any more. p_errors may hold nulls.
create function private.end_runs(p_run_ids uuid[], p_status public.run_status, p_errors jsonb[])
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_from text[];
begin
  if cardinality(p_run_ids) = 0 then
    return;
  end if;
  select array_agg(r.status::text order by e.position) into v_from
    from unnest(p_run_ids) with ordinality as e (run_id, position) join public.agent_runs r on r.id = e.run_id;
  update public.agent_runs r
    set status = p_status, error = coalesce(e.error, r.error), finished_at = v_now, updated_at = v_now,
        revision = r.revision + 1, available_at = 'infinity', lease_id = null, lease_owner = null,
        lease_expires_at = null, stop_requested_at = null, pause_requested_at = null
    from unnest(p_run_ids, p_errors) as e (run_id, error)
    where r.id = e.run_id;
  perform private.close_runs(p_run_ids);
  perform private.append_line(p_run_ids, 'state_transition',
    (select array_agg(format('%s -> %s', f, p_status)) from unnest(v_from) f),
    (select array_agg(jsonb_strip_nulls(jsonb_build_object('from', f, 'to', p_status, 'error', e)))
     from unnest(v_from, p_errors) as x (f, e)));
end $$;

-- Locks a run that the caller may control and returns it. Viewers read, members control their own, admins and owners all.
-- Raises RUN01 when the caller cannot see it, RUN06 when he may only read, RUN03 when p_revision is old.
create function private.lock_my_run(p_run_id uuid, p_revision bigint)
  returns public.agent_runs language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs;
  v_role public.account_role;
begin
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
  insert into private.idempotency_keys (account_id, action, key, fingerprint)
    values (p_account_id, p_action, p_key, v_fingerprint) on conflict do nothing;
  if found then
    return null;
  end if;
  select * into strict v_known from private.idempotency_keys
    where account_id = p_account_id and action = p_action and key = p_key;
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

-- Starts a locked run: takes the hold from its account, sets the deadline, queues it and wakes the workers.
create function private.queue_run(p_run public.agent_runs)
  returns public.agent_runs language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_run public.agent_runs;
  v_available bigint;
  v_hold bigint;
begin
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
  update public.agent_runs r
    set status = 'queued', revision = r.revision + 1, available_at = v_now, started_at = v_now, updated_at = v_now,
        deadline_at = v_now + make_interval(secs => r.timeout_seconds), credits_held = v_hold
    where r.id = p_run.id;
  perform private.append_line(array[p_run.id], 'state_transition', array[format('%s -> queued', p_run.status)],
    array[jsonb_build_object('from', p_run.status, 'to', 'queued')]);
  perform pg_notify('runbase_runs', '');
  select * into v_run from public.agent_runs where id = p_run.id;
  return v_run;
end $$;

create function private.create_run(p_request jsonb, p_idempotency_key text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
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
    where k not in ('engine', 'input', 'account_id', 'max_steps', 'timeout_seconds', 'max_credits', 'autostart') limit 1;
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
  exception when invalid_text_representation or numeric_value_out_of_range then
    raise exception 'account_id must be a uuid; max_steps, timeout_seconds and max_credits must be whole numbers'
      using errcode = 'RUN07';
  end;
  v_field := case
    when v_run.engine is null or v_run.engine !~ '^[a-z][a-z0-9_]{0,31}$' then 'engine must be a lower-case name'
    when v_run.max_steps not between 1 and 10000 then 'max_steps must be from 1 to 10000'
    when v_run.timeout_seconds not between 1 and 604800 then 'timeout_seconds must be from 1 to 604800'
    when v_run.max_credits <= 0 then 'max_credits must be positive'
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

  insert into public.agent_runs (account_id, user_id, engine, input, max_steps, timeout_seconds, max_credits)
    values (v_account_id, v_user_id, v_run.engine, p_request -> 'input', v_run.max_steps, v_run.timeout_seconds,
            v_run.max_credits)
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
  returns jsonb language plpgsql security definer set search_path = '' as $$
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

create function private.control_run(p_run_id uuid, p_action text, p_revision bigint)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, p_revision);
  v_now timestamptz := private.clock();
  v_leased boolean := v_run.lease_id is not null;
  v_flag jsonb := '{}';
begin
  if p_action is null or p_action not in ('stop', 'pause', 'resume') then
    raise exception 'p_action must be stop, pause or resume' using errcode = 'RUN07';
  end if;
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;

  if p_action = 'stop' and v_leased then
    -- Its holder sees the mark in the answer to its next call and ends the run with its results and costs.
    update public.agent_runs set stop_requested_at = coalesce(stop_requested_at, v_now) where id = p_run_id;
    v_flag := '{"stopping": true}';
  elsif p_action = 'stop' then
    perform private.end_runs(array[p_run_id], 'cancelled', array[null::jsonb]);
  elsif p_action = 'pause' and v_leased then
    update public.agent_runs set pause_requested_at = coalesce(pause_requested_at, v_now) where id = p_run_id;
    v_flag := '{"pausing": true}';
  elsif p_action = 'pause' and v_run.status in ('queued', 'awaiting_input') then
    update public.agent_runs
      set status = 'paused', paused_at = v_now, available_at = 'infinity', revision = revision + 1, updated_at = v_now
      where id = p_run_id;
    perform private.append_line(array[p_run_id], 'state_transition', array[format('%s -> paused', v_run.status)],
      array[jsonb_build_object('from', v_run.status, 'to', 'paused')]);
  elsif p_action = 'resume' and v_run.status = 'paused' then
    update public.agent_runs
      set status = 'queued', available_at = v_now, revision = revision + 1, updated_at = v_now,
          deadline_at = deadline_at + (v_now - paused_at), paused_at = null
      where id = p_run_id;
    perform private.append_line(array[p_run_id], 'state_transition', array['paused -> queued'],
      array['{"from": "paused", "to": "queued"}'::jsonb]);
    perform pg_notify('runbase_runs', '');
  elsif p_action = 'resume' and v_run.pause_requested_at is not null then
    update public.agent_runs set pause_requested_at = null where id = p_run_id;
  else
    raise exception 'Run % is % and cannot % now', p_run_id, v_run.status, p_action using errcode = 'RUN02';
  end if;
  select * into v_run from public.agent_runs where id = p_run_id;
  return private.run_answer(v_run) || v_flag;
end $$;
grant execute on function private.control_run(uuid, text, bigint) to authenticated;

create function private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, null);
  v_now timestamptz := private.clock();
  v_request public.human_requests;
  v_open integer;
  v_problem text;
  v_answer jsonb;
begin
  v_answer := private.recall(v_run.account_id, 'respond', p_idempotency_key,
    jsonb_build_object('run_id', p_run_id, 'response', p_response, 'request_id', p_request_id));
  if v_answer is not null then
    return v_answer;
  end if;
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;
  v_problem := case
    when p_response is null or jsonb_typeof(p_response) = 'null' then 'response must be given'
    else private.json_problem('response', p_response, 65536)
  end;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  select count(*) into v_open from public.human_requests where run_id = p_run_id and status = 'open';
  if v_open = 0 then
    raise exception 'Run % has no open question; it is %', p_run_id, v_run.status using errcode = 'RUN08';
  end if;
  if p_request_id is null and v_open > 1 then
    raise exception 'Run % has % open questions: name one by request_id', p_run_id, v_open using errcode = 'RUN07';
  end if;
  select * into v_request from public.human_requests
    where run_id = p_run_id and status = 'open' and (p_request_id is null or id = p_request_id);
  if v_request.id is null then
    raise exception 'Question % of run % is not open', p_request_id, p_run_id using errcode = 'RUN08';
  end if;
  if jsonb_array_length(v_request.options) > 0 and not v_request.options @> jsonb_build_array(p_response) then
    raise exception 'response must be one of %', v_request.options using errcode = 'RUN07';
  end if;

  update public.human_requests
    set status = 'answered', response = p_response, responded_by = (select auth.uid()), responded_at = v_now
    where id = v_request.id;
  update public.agent_steps
    set status = 'completed', output = jsonb_build_object('response', p_response), waits_for = null,
        finished_at = v_now, finished_revision = v_run.revision + 1
    where run_id = p_run_id and step_no = v_request.step_no;
  insert into public.agent_messages (run_id, account_id, step_no, role, content)
    values (p_run_id, v_run.account_id, v_request.step_no, 'user', jsonb_build_array(jsonb_build_object(
      'type', 'text', 'text',
      case jsonb_typeof(p_response) when 'string' then p_response #>> '{}' else p_response::text end)));
  -- A leased run keeps its lease: the new revision makes its holder read the answer.
  update public.agent_runs r
    set revision = r.revision + 1, updated_at = v_now, attempt = 0,
        status = case when r.status = 'awaiting_input' then 'queued' else r.status end,
        available_at = case when r.status in ('awaiting_input', 'queued') then v_now else r.available_at end
    where r.id = p_run_id;
  perform private.append_line(array[p_run_id], 'info', array['A person answered'],
    array[jsonb_build_object('request_id', v_request.id, 'step_no', v_request.step_no)]);
  if v_run.status = 'awaiting_input' then
    perform private.append_line(array[p_run_id], 'state_transition', array['awaiting_input -> queued'],
      array['{"from": "awaiting_input", "to": "queued"}'::jsonb]);
  end if;
  if v_run.status in ('awaiting_input', 'queued') then
    perform pg_notify('runbase_runs', '');
  end if;
  select * into v_run from public.agent_runs where id = p_run_id;
  v_answer := private.run_answer(v_run) || jsonb_build_object('request_id', v_request.id);
  perform private.remember(v_run.account_id, 'respond', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.respond_run(uuid, jsonb, uuid, text) to authenticated;

-- True for a step that a fork copied as it ended: what it recorded comes along.
create function private.is_taken_over(p_run_id uuid, p_step_no integer)
  returns boolean language sql stable set search_path = '' as $$
  select exists (select from public.agent_steps
    where run_id = p_run_id and step_no = p_step_no and status in ('completed', 'skipped'))
$$;

create function private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, null);
  v_new public.agent_runs;
  v_fork integer;
  v_fork_ended timestamptz;
  v_answer jsonb;
begin
  v_answer := private.recall(v_run.account_id, 'retry', p_idempotency_key, jsonb_build_object('run_id', p_run_id));
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.status not in ('failed', 'cancelled', 'timeout') then
    raise exception 'Run % is %; only a failed, cancelled or timed-out run can be retried', p_run_id, v_run.status
      using errcode = 'RUN02';
  end if;
  -- The first step that did not complete; where all did, the engine gave up on the last result, so that is tried again.
  select coalesce(min(step_no) filter (where status in ('failed', 'cancelled')), max(step_no), 1) into v_fork
    from public.agent_steps where run_id = p_run_id;
  if v_run.error ->> 'code' = 'max_steps' then
    raise exception 'Run % ended at its limit of % steps, which a retry would meet again', p_run_id, v_run.max_steps
      using errcode = 'RUN02', hint = 'Create a new run with a higher max_steps.';
  end if;
  select coalesce(finished_at, 'infinity') into v_fork_ended
    from public.agent_steps where run_id = p_run_id and step_no = v_fork;

  insert into public.agent_runs (account_id, user_id, engine, input, max_steps, timeout_seconds, max_credits,
      resumes_as, step_count, forked_from, fork_step, revision)
    values (v_run.account_id, (select auth.uid()), v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds,
      v_run.max_credits, v_run.resumes_as, 0, p_run_id, v_fork, v_run.revision)
    returning * into v_new;
  -- What was started before the fork's step ended cannot depend on how it ended: that is taken over as it is, parallel
  -- siblings too. It costs nothing again, and its order stays, for the new run's revisions go on from the old one's.
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, attempt, failed_attempts,
      max_attempts, effect, effect_key, input, output, error, timeout_seconds, credits_bound, created_at, started_at,
      finished_at, finished_revision)
    select v_new.id, step_no, account_id, key, kind, name, phase, status, attempt, failed_attempts,
      max_attempts, effect, effect_key, input, output, error, timeout_seconds, credits_bound, created_at, started_at,
      finished_at, finished_revision
    from public.agent_steps
    where run_id = p_run_id and status in ('completed', 'skipped') and step_no <> v_fork
      and (step_no < v_fork or created_at < v_fork_ended);
  -- The step at the fork, and siblings that did not complete either, are tried again under their old effect_key, so that
  -- a provider can tell a repeat.
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, created_at)
    select v_new.id, step_no, account_id, key, kind, name, phase, 'pending', max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, created_at
    from public.agent_steps
    where run_id = p_run_id
      and (step_no = v_fork or (step_no > v_fork and status in ('failed', 'cancelled') and created_at < v_fork_ended));
  update public.agent_runs
    set step_count = (select coalesce(max(step_no), 0) from public.agent_steps where run_id = v_new.id)
    where id = v_new.id
    returning * into v_new;
  insert into public.agent_messages (run_id, account_id, step_no, role, content, created_at)
    select v_new.id, account_id, step_no, role, content, created_at
    from public.agent_messages m
    where m.run_id = p_run_id and private.is_taken_over(v_new.id, m.step_no) order by m.message_no;
  insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases, reason, created_at)
    select v_new.id, number, account_id, step_no, goal, phases, reason, created_at
    from public.agent_plans p where p.run_id = p_run_id and private.is_taken_over(v_new.id, p.step_no);
  insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes, created_at)
    select v_new.id, account_id, step_no, name, content_type, content, size_bytes, created_at
    from public.agent_artifacts a
    where a.run_id = p_run_id and private.is_taken_over(v_new.id, a.step_no) order by a.artifact_no;

  if p_autostart then
    v_new := private.queue_run(v_new);
  end if;
  v_answer := private.run_answer(v_new)
    || jsonb_build_object('created', true, 'forked_from', p_run_id, 'fork_step', v_fork);
  perform private.remember(v_run.account_id, 'retry', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.retry_run(uuid, text, boolean) to authenticated;

create function private.run_deltas(p_run_id uuid)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'step_no', d.step_no, 'attempt', d.attempt, 'offset', d.text_offset, 'text', d.text
  ) order by d.step_no, d.attempt, d.text_offset), '[]')
  from private.step_deltas d
  where d.run_id = p_run_id and exists (
    select from public.agent_runs r
    where r.id = p_run_id and r.account_id in (select private.my_account_ids()))
$$;
grant execute on function private.run_deltas(uuid) to authenticated;

------------------------------------------------------------------------------------------------------------------------
-- The public API
------------------------------------------------------------------------------------------------------------------------

-- Creates a run for the caller: {engine, input, account_id?, max_steps?, timeout_seconds?, max_credits? (micro-credits),
-- autostart?}. Returns {run_id, status, revision, created}; created is false when the idempotency key is known.
create function public.create_run(p_request jsonb, p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.create_run(p_request, p_idempotency_key); end;

-- Queues a created run. Raises RUN02 when it is started already, RUN10 when the account has no credits.
create function public.start_run(p_run_id uuid, p_revision bigint default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.start_run(p_run_id, p_revision); end;

-- Stops, pauses or resumes a run. A run that a worker holds is only marked: {"stopping": true} or {"pausing": true}.
create function public.control_run(p_run_id uuid, p_action text, p_revision bigint default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.control_run(p_run_id, p_action, p_revision); end;

-- Answers a run's open question; p_request_id may be left out while there is one.
create function public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid default null,
    p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.respond_run(p_run_id, p_response, p_request_id, p_idempotency_key); end;

-- Makes a new run that takes over the steps before the first one that did not complete.
create function public.retry_run(p_run_id uuid, p_idempotency_key text default null, p_autostart boolean default true)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.retry_run(p_run_id, p_idempotency_key, p_autostart); end;

-- Model output of the run's open steps, as far as it is written: [{step_no, attempt, offset, text}].
create function public.run_deltas(p_run_id uuid)
  returns jsonb language sql stable security invoker set search_path = ''
  begin atomic select private.run_deltas(p_run_id); end;

do $$
declare
  v_function text;
begin
  foreach v_function in array array['create_run(jsonb, text)', 'start_run(uuid, bigint)',
    'control_run(uuid, text, bigint)', 'respond_run(uuid, jsonb, uuid, text)', 'retry_run(uuid, text, boolean)',
    'run_deltas(uuid)']
  loop
    execute format('revoke execute on function public.%s from public, anon', v_function);
    execute format('grant execute on function public.%s to authenticated', v_function);
  end loop;
end $$;
