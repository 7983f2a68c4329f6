-- Claim and sweep: how runs come into a worker's hands, and how those end that nobody will end. All time is private.clock().
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- Ends what nobody else will end: expired leases of runs that are to stop, are over their deadline or are poison, and
-- waiting runs over their deadline. At most p_limit of each a call; rows that somebody holds are left for the next.
create function private.sweep_runs(p_limit integer, p_now timestamptz)
  returns integer language plpgsql security definer set search_path = '' as $$
declare
  v_row record;
  v_verdicts jsonb;
  v_ended integer := 0;
begin
  select jsonb_agg(v) into v_verdicts from (
    with stuck as (
      select r.id, r.stop_requested_at, r.deadline_at, r.attempt, r.max_attempts, r.error
      from public.agent_runs r
      where r.status in ('planning', 'executing') and r.lease_expires_at < p_now
        and (r.stop_requested_at is not null or r.deadline_at <= p_now or r.attempt + 1 >= r.max_attempts)
      order by r.engine, r.id limit p_limit for update skip locked
    ), late as (
      select r.id from public.agent_runs r
      where r.status in ('queued', 'awaiting_input') and r.deadline_at <= p_now
      order by r.deadline_at limit p_limit for update skip locked
    ), verdict as (
      select id, 'cancelled'::public.run_status as status, null::jsonb as error from stuck
        where stop_requested_at is not null
      union all
      select id, 'timeout', '{"code": "deadline", "message": "The run reached its deadline", "retryable": false}'
        from stuck where stop_requested_at is null and deadline_at <= p_now
      union all
      select id, 'failed', jsonb_build_object('code', 'poison', 'retryable', false, 'message',
          format('The worker was lost %s times in a row while it held this run', attempt + 1), 'details', error)
        from stuck where stop_requested_at is null and deadline_at > p_now
      union all
      select id, 'timeout', '{"code": "deadline", "message": "The run reached its deadline", "retryable": false}'
        from late
    )
    select * from verdict
  ) v;
  if v_verdicts is null then
    return 0;
  end if;
  -- All accounts and slots at once and in order, before the first ending touches one.
  perform 1 from public.credit_accounts c
    where c.account_id = any (array(
      select r.account_id from jsonb_to_recordset(v_verdicts) as v (id uuid)
      join public.agent_runs r on r.id = any (array[v.id])))
    order by c.account_id for update;
  perform 1 from private.slots s
    where s.id = any (array(
      select u.id from jsonb_to_recordset(v_verdicts) as v (id uuid)
      join public.agent_runs r on r.id = any (array[v.id]) and r.held_for = 0, unnest(r.slot_ids) as u (id)))
    order by s.id for update;
  for v_row in
    select v.status, array_agg(v.id order by v.id) as ids, array_agg(v.error order by v.id) as errors
    from jsonb_to_recordset(v_verdicts) as v (id uuid, status public.run_status, error jsonb)
    group by v.status
  loop
    perform private.end_runs(v_row.ids, v_row.status, v_row.errors);
    v_ended := v_ended + cardinality(v_row.ids);
  end loop;
  return v_ended;
end $$;

create function private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[])
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off
  set enable_incremental_sort = off set jit = off as $$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => p_lease_seconds);
  v_lost boolean;
  v_late boolean;
  v_old boolean;
  v_recheck boolean;
  v_first_due timestamptz;
  v_swept integer := 0;
  v_ids uuid[];
  v_tag bigint;
  v_expired uuid[];
  v_suspect boolean;
  v_suspects uuid[];
begin
  if p_limit not between 0 and 100 then
    raise exception 'p_limit must be from 0 to 100' using errcode = 'RUN07';
  end if;
  -- Most claims find nothing of this, so one statement looks for all of it. Each part names the order of the one index that
  -- is to be read.
  select
    (select true from public.agent_runs r where r.status in ('planning', 'executing') and r.lease_expires_at < v_now
      order by r.engine, r.id limit 1),
    (select true from public.agent_runs r where r.status in ('queued', 'awaiting_input') and r.deadline_at <= v_now
      order by r.deadline_at limit 1),
    (select h.due_at <= v_now or h.due_at > v_now + interval '1 minute' from private.housekeeping h),  -- as purge_old asks
    (select true from private.slots s where s.recheck order by s.account_id, s.id limit 1),
    (select r.available_at from public.agent_runs r
      where r.status = 'queued' and r.held_for is null and r.available_at < 'infinity'
      order by r.available_at, r.id limit 1)
    into v_lost, v_late, v_old, v_recheck, v_first_due;
  if v_lost or v_late then
    v_swept := private.sweep_runs(100, v_now);
  end if;
  if v_old then
    perform private.purge_old(v_now, 100);
  end if;

  -- Expired leases first: their people have waited longest. The rival that still works loses by the new lease_id.
  -- A run that loses its worker a second time in a row may be what kills it, and all that were held beside it look the
  -- same: each of them is handed out alone, and its worker claims no other until it has come a step further.
  if v_lost then
    with lost as materialized (
      select r.id, r.attempt > 0 as suspect from public.agent_runs r
      where r.status in ('planning', 'executing') and r.lease_expires_at < v_now and r.engine = any (p_engines)
      order by r.engine, r.id
    )
    select array_agg(id order by suspect desc, id), bool_or(suspect) into v_expired, v_suspect from (
      select r.id, lost.suspect from lost join public.agent_runs r on r.id = any (array[lost.id])
      where r.status in ('planning', 'executing') and r.lease_expires_at < v_now
      order by lost.suspect desc, lost.id limit p_limit for update of r skip locked
    ) x;
  end if;
  if v_suspect then
    v_expired := v_expired[1:1];
    p_limit := 1;
  end if;
  if v_expired is not null then
    update public.agent_runs r
      set lease_id = gen_random_uuid(), lease_owner = p_owner, lease_expires_at = v_expires, attempt = r.attempt + 1,
          revision = r.revision + 1, updated_at = v_now
      where r.id = any (v_expired);
    -- What the lost worker had in hand is tried anew under the same effect_key, booked as another attempt.
    update public.agent_steps s set attempt = s.attempt + 1, started_at = v_now
      where s.run_id = any (v_expired) and s.status = 'running' and s.waits_for is null and s.effect <> 'effectful';
    delete from private.step_deltas where run_id = any (v_expired);
    perform private.append_line(v_expired, 'warning',
      array_fill('The worker was lost; another one goes on'::text, array[cardinality(v_expired)]),
      array_fill('{"event": "lease_expired"}'::jsonb, array[cardinality(v_expired)]));
  end if;

  if v_swept > 0 or v_recheck or v_first_due <= v_now then
    perform private.bring_up_due(v_now, 100);
    v_first_due := (select r.available_at from public.agent_runs r
      where r.status = 'queued' and r.held_for is null and r.available_at < 'infinity'
      order by r.available_at, r.id limit 1);
    v_recheck := (select true from private.slots s where s.recheck order by s.account_id, s.id limit 1);
  end if;
  -- The head of the fair order of each engine, and of these the first. More rows are locked than claimed where there are
  -- several engines, until this commits: a rival then takes the next ones.
  select array_agg(x.id), max(x.fair_tag) into v_ids, v_tag from (
    select r.id, r.fair_tag
    from unnest(p_engines) as e (name)
    cross join lateral (
      select q.id, q.fair_tag from public.agent_runs q
      where q.status = 'queued' and q.held_for = 0 and q.engine = e.name
      order by q.fair_tag, q.id limit p_limit - coalesce(cardinality(v_expired), 0) for update skip locked
    ) r
    order by r.fair_tag, r.id limit p_limit - coalesce(cardinality(v_expired), 0)
  ) x;
  if v_ids is not null then
    perform setval('private.fair_time', v_tag) where v_tag > (select last_value from private.fair_time);
    v_ids := private.prefer_by_priority(v_ids, p_engines);
    -- A suspect that was given back before it came a step further is still one.
    v_suspects := array(select r.id from public.agent_runs r where r.id = any (v_ids) and r.attempt > 1);
    if cardinality(v_suspects) > 0 then
      v_ids := case when v_expired is null then v_suspects[1:1]
        else array(select u.id from unnest(v_ids) as u (id) where u.id <> all (v_suspects)) end;
    end if;
    -- The line goes out with the first advance, which follows at once, or with the worker's tick.
    with claimed as (
      update public.agent_runs r
        set status = r.resumes_as, lease_id = gen_random_uuid(), lease_owner = p_owner, lease_expires_at = v_expires,
            revision = r.revision + 1, updated_at = v_now, log_seq = r.log_seq + 1
        where r.id = any (v_ids)
        returning r.id, r.account_id, r.log_seq, r.status
    )
    insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
      select c.id, c.log_seq, c.account_id, 'state_transition', 'queued -> ' || c.status,
        jsonb_build_object('from', 'queued', 'to', c.status), v_now
      from claimed c;
  end if;

  return jsonb_build_object(
    'runs', private.run_view(coalesce(v_expired, '{}') || coalesce(v_ids, '{}')),
    -- Timers that somebody had locked are due at once, and slots to recheck soon.
    'next_in_seconds', case when v_recheck or v_first_due is not null
      then greatest(0, least(extract(epoch from v_first_due - v_now), case when v_recheck then 0.2 end)) end,
    'swept', v_swept);
end $$;
grant execute on function private.claim_runs(text, integer, double precision, text[]) to service_role;

-- Leases up to p_limit due runs of p_engines to p_owner, expired leases first, and sweeps. Answers
-- {"runs": [{run, steps, messages, plans}], "next_in_seconds": until the next timer or null, "swept": runs ended}.
create function public.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[])
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.claim_runs(p_owner, p_limit, p_lease_seconds, p_engines); end;
revoke execute on function public.claim_runs(text, integer, double precision, text[]) from public, anon, authenticated;
grant execute on function public.claim_runs(text, integer, double precision, text[]) to service_role;
