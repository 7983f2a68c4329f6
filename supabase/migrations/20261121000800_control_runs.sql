-- Stop, pause, resume and respond. A run that a worker holds is only marked; its holder sees the mark in the answer to its
-- next call. Errors: RUN02 move not allowed, RUN04 run has ended, RUN08 no open question.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

create function private.control_run(p_run_id uuid, p_action text, p_revision bigint)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, p_revision);
  v_now timestamptz := private.clock();
  v_leased boolean := v_run.lease_id is not null;
  v_flag jsonb := '{}';
  v_places record;
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
      set status = 'paused', paused_at = v_now, available_at = 'infinity', revision = revision + 1, updated_at = v_now,
          fair_tag = null, held_for = null
      where id = p_run_id;
    if v_run.held_for = 0 then
      perform private.give_places(v_run.slot_ids, v_run.slot_ids[1:1]);
    end if;
    perform private.append_line(array[p_run_id], 'state_transition', array[format('%s -> paused', v_run.status)],
      array[jsonb_build_object('from', v_run.status, 'to', 'paused')]);
  elsif p_action = 'resume' and v_run.status = 'paused' then
    select * into v_places from private.take_places(v_run);
    update public.agent_runs
      set status = 'queued', available_at = v_now, revision = revision + 1, updated_at = v_now,
          deadline_at = deadline_at + (v_now - paused_at), paused_at = null,
          slot_ids = v_places.slot_ids, fair_tag = v_places.fair_tag, held_for = v_places.held_for
      where id = p_run_id;
    perform private.append_line(array[p_run_id], 'state_transition', array['paused -> queued'],
      array['{"from": "paused", "to": "queued"}'::jsonb]);
    if v_places.held_for = 0 then
      perform pg_notify('runbase_runs', '');
    end if;
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
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
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
    set status = 'completed', output = jsonb_build_object('response', p_response), waits_for = null, available_at = null,
        finished_at = v_now, finished_revision = v_run.revision + 1
    where run_id = p_run_id and step_no = v_request.step_no;
  insert into public.agent_messages (run_id, account_id, step_no, role, content)
    values (p_run_id, v_run.account_id, v_request.step_no, 'user', jsonb_build_array(jsonb_build_object(
      'type', 'text', 'text',
      case jsonb_typeof(p_response) when 'string' then p_response #>> '{}' else p_response::text end)));
  -- A run that is not in the queue comes up; one that is keeps its turn. A leased run keeps its lease: the new revision
  -- makes its holder read the answer.
  if v_run.status in ('awaiting_input', 'queued') and v_run.held_for is null then
    v_run.available_at := v_now;
    select t.slot_ids, t.fair_tag, t.held_for into v_run.slot_ids, v_run.fair_tag, v_run.held_for
      from private.take_places(v_run) t;
  end if;
  update public.agent_runs r
    set revision = r.revision + 1, updated_at = v_now, attempt = 0,
        status = case when r.status = 'awaiting_input' then 'queued' else r.status end,
        available_at = v_run.available_at,
        slot_ids = v_run.slot_ids, fair_tag = v_run.fair_tag, held_for = v_run.held_for
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

-- Stops, pauses or resumes a run. A run that a worker holds is only marked: {"stopping": true} or {"pausing": true}.
create function public.control_run(p_run_id uuid, p_action text, p_revision bigint default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.control_run(p_run_id, p_action, p_revision); end;
revoke execute on function public.control_run(uuid, text, bigint) from public, anon;
grant execute on function public.control_run(uuid, text, bigint) to authenticated;

-- Answers a run's open question; p_request_id may be left out while there is one.
create function public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid default null,
    p_idempotency_key text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.respond_run(p_run_id, p_response, p_request_id, p_idempotency_key); end;
revoke execute on function public.respond_run(uuid, jsonb, uuid, text) from public, anon;
grant execute on function public.respond_run(uuid, jsonb, uuid, text) to authenticated;
