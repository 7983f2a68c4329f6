-- Events from outside that a step waits for: a callback that a call is done, say. Who delivers one is nobody's user, so he
-- proves himself by a token that only the worker and the webhook function can derive; here is its SHA-256, which lets a
-- token be checked and not be made. Each step takes one event. It may come before the wait is recorded, for the call out and
-- the callback race: then it is kept, unproven, until the wait says whether its token is right.
-- Table: private.step_events. Functions: take_event, await_events, deliver_event.
-- Errors: RUN01 no such wait (also a wrong token), RUN04 run has ended, RUN07 invalid input, RUN09 too many unproven events,
-- RUN21 the step had another event or has ended, RUN22 this delivery was received before.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id; a row here after its run's.
-- Nothing destructive.

create table private.step_events (
  run_id uuid not null,
  step_no integer not null,
  token_hash text not null check (token_hash ~ '^[0-9a-f]{64}$'),
  awaited boolean not null,
  event_id text check (char_length(event_id) between 1 and 200),
  payload jsonb,
  deliveries text[] not null default '{}',
  answer jsonb,
  created_at timestamptz not null default private.clock(),
  primary key (run_id, step_no, token_hash)
);
comment on table private.step_events is 'What steps wait for, and what came: before the wait, or to end it.';
comment on column private.step_events.awaited is 'The step said so itself, and with it the hash. Else whoever knew the run''s id.';
comment on column private.step_events.payload is 'Of an event that came before its wait; after that it is the step''s output.';
comment on column private.step_events.deliveries is 'Which signed requests brought it, the latest ones: none may come twice.';
comment on column private.step_events.answer is 'What the first delivery was answered; a repeat gets the same.';
create index step_events_unproven on private.step_events (created_at) where not awaited;
alter table private.step_events enable row level security;

-- Ends the waiting step with the payload as its output, in a run that the caller has locked. False: it does not wait.
-- The run comes up with the next claim. A leased run keeps its lease: the new revision makes its holder read the result.
create function private.take_event(p_run_id uuid, p_step_no integer, p_event_id text, p_payload jsonb)
  returns boolean language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_now timestamptz := private.clock();
  v_status public.run_status;
begin
  update public.agent_steps s
    set status = 'completed', output = p_payload, waits_for = null, available_at = null, finished_at = v_now,
        finished_revision = r.revision + 1
    from public.agent_runs r
    where r.id = p_run_id and s.run_id = r.id and s.step_no = p_step_no and s.status = 'running'
      and s.waits_for = 'event';
  if not found then
    return false;
  end if;
  update public.agent_runs r
    set revision = r.revision + 1, updated_at = v_now, attempt = 0,
        available_at = case when r.status = 'queued' and r.held_for is null then v_now else r.available_at end
    where r.id = p_run_id
    returning r.status into v_status;
  perform private.append_line(array[p_run_id], 'info', array['The awaited event came'],
    array[jsonb_build_object('event', 'event_delivered', 'step_no', p_step_no, 'event_id', p_event_id)]);
  if v_status = 'queued' then
    perform pg_notify('runbase_runs', '');
  end if;
  return true;
end $$;

-- Records what steps of these runs wait for, [{run_id, step_no, token_hash}], and hands them what came before. A part of
-- advance_runs: the runs are locked.
create function private.await_events(p_events jsonb, p_run_ids uuid[])
  returns void language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_event private.step_events;
begin
  for v_event in
    insert into private.step_events as known (run_id, step_no, token_hash, awaited)
      select e.run_id, e.step_no, e.token_hash, true
      from jsonb_to_recordset(p_events) as e (run_id uuid, step_no integer, token_hash text)
      where e.run_id = any (p_run_ids)
      on conflict (run_id, step_no, token_hash) do update set awaited = true
      returning known.*
  loop
    continue when v_event.payload is null;
    perform private.take_event(v_event.run_id, v_event.step_no, v_event.event_id, v_event.payload);
    update private.step_events e set payload = null
      where e.run_id = v_event.run_id and e.step_no = v_event.step_no and e.token_hash = v_event.token_hash;
  end loop;
end $$;

-- What may be told to somebody with a token of this hash: 'proven'; 'early' while the step is performed and has not said
-- what it waits for; else 'wrong', also where there is no such run.
create function private.proof_of_event(p_run_id uuid, p_step_no integer, p_token_hash text)
  returns text language sql stable security definer set search_path = '' as $$
  select case
    when bool_or(e.token_hash = p_token_hash) then 'proven'
    when count(*) = 0 and exists (
      select from public.agent_steps s
      where s.run_id = p_run_id and s.step_no = p_step_no and s.status in ('pending', 'running') and s.waits_for is null
    ) then 'early'
    else 'wrong'
  end
  from private.step_events e where e.run_id = p_run_id and e.step_no = p_step_no and e.awaited
$$;

-- Delivers an event to the step that waits for it, or is about to: {run_id, status, revision, step_no}, and "kept": true
-- where it came before the wait. The same event again gets the same answer; p_delivery_id stands for the signed request
-- that brought it, and comes once. Without the right token there is no such wait (RUN01), whatever there is.
create function private.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb,
    p_delivery_id text)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_hash text := encode(pg_catalog.sha256(convert_to(p_token, 'UTF8')), 'hex');
  v_proof text := private.proof_of_event(p_run_id, p_step_no, v_hash);
  v_delivery text[] := array_remove(array[p_delivery_id], null);
  v_run public.agent_runs;
  v_step public.agent_steps;
  v_known private.step_events;
  v_taken boolean;
  v_answer jsonb;
  v_problem text := case
    when p_token is null then 'token must be given'
    when p_event_id is null or char_length(p_event_id) not between 1 and 200 then 'event_id must have 1 to 200 characters'
    when char_length(p_delivery_id) not between 1 and 200 then 'delivery_id must have 1 to 200 characters'
    when p_payload is null or jsonb_typeof(p_payload) <> 'object' then 'payload must be an object'
    else private.json_problem('payload', p_payload, 2097152)
  end;
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  -- Asked before the run is locked, so that nobody makes a stranger's run wait; and again behind the lock, because the wait
  -- may have been recorded meanwhile.
  if v_proof <> 'wrong' then
    select * into v_run from public.agent_runs where id = p_run_id for update;
    v_proof := private.proof_of_event(p_run_id, p_step_no, v_hash);
  end if;
  if v_proof = 'wrong' then
    raise exception 'Run % has no step % that waits for this event', p_run_id, p_step_no using errcode = 'RUN01';
  end if;

  select * into v_known from private.step_events e
    where e.run_id = p_run_id and e.step_no = p_step_no and e.token_hash = v_hash;
  if v_known.event_id is not null then
    if p_delivery_id = any (v_known.deliveries) then
      raise exception 'This delivery was received before' using errcode = 'RUN22',
        hint = 'Sign each delivery anew; the same event again is answered as the first time.';
    end if;
    if v_known.event_id <> p_event_id then
      raise exception 'Step % of run % had another event', p_step_no, p_run_id using errcode = 'RUN21';
    end if;
    update private.step_events e set deliveries = (v_delivery || e.deliveries)[1:100]
      where e.run_id = p_run_id and e.step_no = p_step_no and e.token_hash = v_hash;
    return v_known.answer;
  end if;
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;

  v_taken := v_proof = 'proven' and private.take_event(p_run_id, p_step_no, p_event_id, p_payload);
  if not v_taken then
    select * into v_step from public.agent_steps s where s.run_id = p_run_id and s.step_no = p_step_no;
    if v_step.status not in ('pending', 'running') then
      raise exception 'Step % of run % has ended as %', p_step_no, p_run_id, v_step.status using errcode = 'RUN21';
    end if;
    if v_proof = 'early' and 4 <= (
      select count(*) from private.step_events e where e.run_id = p_run_id and e.step_no = p_step_no)
    then
      raise exception 'Step % of run % does not wait yet', p_step_no, p_run_id using errcode = 'RUN09',
        detail = '{"retry_after_seconds": 5}';
    end if;
  end if;
  select * into v_run from public.agent_runs where id = p_run_id;
  v_answer := private.run_answer(v_run) || jsonb_build_object('step_no', p_step_no)
    || case when v_taken then '{}' else '{"kept": true}'::jsonb end;
  insert into private.step_events (run_id, step_no, token_hash, awaited, event_id, payload, deliveries, answer)
    values (p_run_id, p_step_no, v_hash, false, p_event_id, case when not v_taken then p_payload end, v_delivery, v_answer)
    on conflict (run_id, step_no, token_hash) do update
      set event_id = excluded.event_id, payload = excluded.payload, deliveries = excluded.deliveries,
          answer = excluded.answer;
  return v_answer;
end $$;
grant execute on function private.deliver_event(uuid, integer, text, text, jsonb, text) to anon;

-- For the webhook function, which speaks as anybody: the token is what counts.
create function public.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb,
    p_delivery_id text default null)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.deliver_event(p_run_id, p_step_no, p_token, p_event_id, p_payload, p_delivery_id); end;
revoke execute on function public.deliver_event(uuid, integer, text, text, jsonb, text) from public, authenticated;
grant execute on function public.deliver_event(uuid, integer, text, text, jsonb, text) to anon;
