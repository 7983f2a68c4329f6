-- What a worker says between advances: heartbeats, tails of log lines, model output while it is being written.
-- Errors: RUN07 no time for the leases.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- When a lease ends that is extended now. One without an end would be nobody's to take.
create function private.lease_end(p_seconds double precision)
  returns timestamptz language plpgsql set search_path = '' as $$
begin
  if p_seconds is null then
    raise exception 'lease_seconds must be given' using errcode = 'RUN07';
  end if;
  return private.clock() + make_interval(secs => p_seconds);
end $$;

-- Extends the leases [{run_id, lease_id}] and answers [{run_id, lease_id, revision, stop, pause}] for those still held.
-- A row that an advance has locked is skipped: that advance extends it. Leaves revision alone, so it loses nobody a race.
create function private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision)
  returns jsonb language sql security definer set search_path = '' set enable_seqscan = off set jit = off as $$
  with locked as (
    select r.id from jsonb_to_recordset(p_leases) as l (run_id uuid, lease_id uuid)
    join public.agent_runs r on r.id = any (array[l.run_id]) and r.lease_id = l.lease_id
    order by l.run_id for update of r skip locked
  ), beaten as (
    update public.agent_runs r set lease_expires_at = private.lease_end(p_lease_seconds)
    from locked where r.id = any (array[locked.id])
    returning r.id, r.lease_id, r.revision, r.stop_requested_at, r.pause_requested_at
  )
  select coalesce(jsonb_agg(jsonb_build_object('run_id', id, 'lease_id', lease_id, 'revision', revision,
    'stop', stop_requested_at is not null, 'pause', pause_requested_at is not null)), '[]') from beaten
$$;
grant execute on function private.heartbeat_runs(jsonb, double precision) to service_role;

-- Broadcasts what is still unsent of these runs. For the worker's tick, after a burst has ended.
create function private.flush_logs(p_run_ids uuid[])
  returns void language plpgsql security definer set search_path = '' set enable_seqscan = off set jit = off as $$
declare
  v_ids uuid[];
  v_from bigint[];
begin
  with tail as (
    select r.id, r.broadcast_seq from public.agent_runs r
    where r.id = any (p_run_ids) and r.log_seq > r.broadcast_seq order by r.id for update skip locked
  ), told as (
    update public.agent_runs r set broadcast_seq = r.log_seq, broadcast_at = private.clock()
    from tail where r.id = any (array[tail.id]) returning r.id, tail.broadcast_seq
  )
  select array_agg(id), array_agg(broadcast_seq) into v_ids, v_from from told;
  if v_ids is not null then
    perform private.broadcast_logs(v_ids, v_from);
  end if;
end $$;
grant execute on function private.flush_logs(uuid[]) to service_role;

-- Keeps and broadcasts model output while it is written: [{run_id, lease_id, step_no, attempt, offset, text}]. Only the
-- broadcast gives up on a lock: until this commits, it keeps its runs from going on.
create function private.publish_deltas(p_deltas jsonb)
  returns void language sql security definer set search_path = '' set enable_seqscan = off set jit = off as $$
  with fresh as (
    insert into private.step_deltas (run_id, step_no, attempt, text_offset, text)
      select d.run_id, d.step_no, d.attempt, d."offset", d.text
      from jsonb_to_recordset(p_deltas) as d (
        run_id uuid, lease_id uuid, step_no integer, attempt integer, "offset" integer, text text)
      join public.agent_steps s on s.run_id = any (array[d.run_id]) and s.step_no = d.step_no and s.attempt = d.attempt
        and s.status = 'running' and s.waits_for is null
      join public.agent_runs r on r.id = any (array[d.run_id]) and r.lease_id = d.lease_id
      order by d.run_id
      for share of r, s  -- both checked anew after a wait: what comes late would stay behind
      on conflict do nothing
      returning *
  )
  select private.broadcast('delta', array_agg('run:' || run_id order by run_id, step_no, text_offset),
    array_agg(jsonb_build_object('id', gen_random_uuid(), 'run_id', run_id, 'step_no', step_no, 'attempt', attempt,
      'offset', text_offset, 'text', text) order by run_id, step_no, text_offset))
  from fresh
$$;
grant execute on function private.publish_deltas(jsonb) to service_role;

create function public.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.heartbeat_runs(p_leases, p_lease_seconds); end;
revoke execute on function public.heartbeat_runs(jsonb, double precision) from public, anon, authenticated;
grant execute on function public.heartbeat_runs(jsonb, double precision) to service_role;

create function public.flush_logs(p_run_ids uuid[])
  returns void language sql security invoker set search_path = ''
  begin atomic select private.flush_logs(p_run_ids); end;
revoke execute on function public.flush_logs(uuid[]) from public, anon, authenticated;
grant execute on function public.flush_logs(uuid[]) to service_role;

create function public.publish_deltas(p_deltas jsonb)
  returns void language sql security invoker set search_path = ''
  begin atomic select private.publish_deltas(p_deltas); end;
revoke execute on function public.publish_deltas(jsonb) from public, anon, authenticated;
grant execute on function public.publish_deltas(jsonb) to service_role;
