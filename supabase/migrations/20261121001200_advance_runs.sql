-- Advance: the one call that commits transitions of held runs. All time is private.clock().
-- Errors: RUN11 unknown version of the batch, RUN12 the batch does not fit the recorded steps.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- Moves credits from accounts into the holds of runs that need more. p_needs are micro-credits beyond the hold.
-- Returns for each run what it got: all of its need, or 0. Accounts are locked in id order.
create function private.top_up(p_run_ids uuid[], p_account_ids uuid[], p_needs bigint[])
  returns bigint[] language plpgsql security definer set search_path = '' as $$
declare
  v_got bigint[] := array_fill(0::bigint, array[cardinality(p_run_ids)]);
  v_available bigint;
  v_amount bigint;
  i integer;
begin
  perform 1 from public.credit_accounts where account_id = any (p_account_ids) order by account_id for update;
  for i in 1 .. cardinality(p_run_ids) loop
    select available into v_available from public.credit_accounts where account_id = p_account_ids[i];
    continue when v_available is null or v_available < p_needs[i];
    v_amount := least(v_available, greatest(p_needs[i], (select hold_credits from private.settings)));
    update public.credit_accounts
      set available = available - v_amount, held = held + v_amount, updated_at = private.clock()
      where account_id = p_account_ids[i];
    insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
      values (p_account_ids[i], p_run_ids[i], 'hold', 'available', 'held', v_amount);
    v_got[i] := v_amount;
  end loop;
  return v_got;
end $$;

-- Commits a batch of transitions, one element of "runs" a run, everything else flat and keyed by run_id:
--   {"v": 1, "lease_seconds": 15,
--    "runs":      [{run_id, lease_id, revision, status?, available_in?, output?, error?, new_steps, completed, in_flight,
--                   charge, released, wanted, lines, decision_lines}],
--    "finish":    [{run_id, step_no, attempt, status, output?, error?, credits, failed, available_in?, waits_for?}],
--    "start":     [{run_id, step_no, again, key, kind, name, phase, effect, effect_key, input, timeout_seconds,
--                   credits_bound, max_attempts}],
--    "logs":      [{run_id, log_type, message, metadata, of_decision}], "messages": [{run_id, step_no, role, content}],
--    "artifacts": [{run_id, step_no, name, content_type, content}], "plans": [{run_id, step_no, goal, phases, reason}],
--    "requests":  [{run_id, step_no, kind, prompt, options}],
--    "snapshots": [{run_id, version, step_count, open_steps, kept_steps, state}]}
-- A run wins if lease_id and revision both match; of a run that does not, nothing is written. Set-based: one statement a
-- table for the whole batch. charge is the sum of credits of its finished steps, released the sum of their bounds,
-- wanted the sum of the bounds of the steps to start.
-- A run whose wanted credits fit neither hold nor cap starts nothing: it pauses, or, while in_flight steps go on, only
-- learns so ("short"). Returns [{run_id, won, revision, lease_id, status, stop, pause, short, unsent}] in any order.
create function private.advance_runs(p_batch jsonb)
  returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => (p_batch ->> 'lease_seconds')::double precision);
  v_won uuid[];
  v_short uuid[] := '{}';
  v_broke uuid[] := '{}';
  v_capped uuid[];
  v_needy uuid[];
  v_needy_accounts uuid[];
  v_needs bigint[];
  v_got bigint[] := '{}';
  v_base bigint[];
  v_accounts uuid[];
  v_ended uuid[];
  v_told uuid[];
  v_told_from bigint[];
  v_moved uuid[];
  v_moved_from text[];
  v_moved_to text[];
  v_places bigint[];
  v_count integer;
  v_answer jsonb;
begin
  if (p_batch ->> 'v') is distinct from '1' then
    raise exception 'advance_runs speaks version 1, not %', p_batch -> 'v' using errcode = 'RUN11';
  end if;

  if (select count(*) <> count(distinct x.run_id) from jsonb_to_recordset(p_batch -> 'runs') as x (run_id uuid)) then
    raise exception 'A batch names each run once' using errcode = 'RUN12';
  end if;
  select array_agg(r.id) into v_won
    from (
      select r.id, r.lease_id, r.revision from public.agent_runs r
      where r.id in (select x.run_id from jsonb_to_recordset(p_batch -> 'runs') as x (run_id uuid))
      order by r.id for update
    ) r
    join jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, lease_id uuid, revision bigint)
      on i.run_id = r.id and i.lease_id = r.lease_id and i.revision = r.revision;
  v_won := coalesce(v_won, '{}');

  -- Credits. Only a run that needs more than its hold touches its account's row, after all run rows.
  select array_agg(r.id), array_agg(r.account_id), array_agg(n.need),
         array_agg(r.id) filter (where n.spend > r.max_credits)
    into v_needy, v_needy_accounts, v_needs, v_short
    from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, charge bigint, released bigint, wanted bigint)
    join public.agent_runs r on r.id = i.run_id
    cross join lateral (
      select r.credits_reserved - i.released + i.wanted - (r.credits_held - i.charge) as need,
             r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted as spend
    ) n
    where r.id = any (v_won) and i.wanted > 0 and (n.need > 0 or n.spend > r.max_credits);
  v_short := coalesce(v_short, '{}');
  v_capped := v_short;
  -- Every account that this call will touch, in order: those to draw from and those of runs that end.
  perform 1 from public.credit_accounts c
    where c.account_id = any (v_needy_accounts) or c.account_id in (
      select r.account_id
      from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, status public.run_status)
      join public.agent_runs r on r.id = i.run_id
      where r.id = any (v_won)
        and (i.status in ('completed', 'failed', 'cancelled', 'timeout') or r.stop_requested_at is not null))
    order by c.account_id for update;
  if v_needy is not null then
    -- Those over their own cap ask for nothing.
    select array_agg(x.id), array_agg(x.account), array_agg(x.need) into v_needy, v_needy_accounts, v_needs
      from unnest(v_needy, v_needy_accounts, v_needs) as x (id, account, need)
      where x.need > 0 and x.id <> all (v_short);
    if v_needy is not null then
      v_got := private.top_up(v_needy, v_needy_accounts, v_needs);
      v_short := v_short || coalesce(
        (select array_agg(x.id) from unnest(v_needy, v_got) as x (id, got) where x.got = 0), '{}');
    end if;
  end if;
  if cardinality(v_short) > 0 then
    select coalesce(array_agg(i.run_id), '{}') into v_broke
      from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, in_flight integer)
      where i.run_id = any (v_short) and i.in_flight = 0;
  end if;

  with item as (
    select i.*,
      i.run_id = any (v_short) as short,
      -- A request that came while this was under way must not be lost with the lease: who lets go of a run that is to
      -- stop ends it, and who lets go of one that is to pause leaves it paused.
      case
        when coalesce(w.target, r.status) not in ('queued', 'awaiting_input', 'paused') then w.target
        when r.stop_requested_at is not null then 'cancelled'
        when r.pause_requested_at is not null then 'paused'
        else w.target
      end as target
    from jsonb_to_recordset(p_batch -> 'runs') as i (
      run_id uuid, status public.run_status, available_in double precision, output jsonb, error jsonb,
      new_steps integer, completed boolean, charge bigint, released bigint, wanted bigint, lines integer,
      decision_lines integer)
    join public.agent_runs r on r.id = i.run_id
    cross join lateral (
      select case when i.run_id = any (v_broke) then 'paused'::public.run_status else i.status end as target
    ) w
    where i.run_id = any (v_won)
  ), before as (
    select r.id, r.status, r.log_seq, r.broadcast_seq, r.broadcast_at,
      i.target is not null and i.target <> r.status as moved,
      coalesce(i.target, r.status) as target,
      i.lines - case when i.short then i.decision_lines else 0 end
        + (i.target is not null and i.target <> r.status)::integer + (i.run_id = any (v_broke))::integer as lines,
      -- Who is only given back keeps its places and its turn; who waits, pauses or ends leaves the queue.
      coalesce(i.target, r.status) not in ('planning', 'executing')
        and not (i.target = 'queued' and coalesce(i.available_in <= 0, false)) as leaves
    from public.agent_runs r join item i on i.run_id = r.id
  ), written as (
    update public.agent_runs r set
      status = b.target,
      resumes_as = case when b.target in ('planning', 'executing') then b.target else r.resumes_as end,
      revision = r.revision + 1,
      updated_at = v_now,
      output = coalesce(i.output, r.output),
      error = coalesce(i.error, r.error),
      step_count = r.step_count + case when i.short then 0 else i.new_steps end,
      attempt = case when i.completed then 0 else r.attempt end,
      credits_held = r.credits_held - i.charge
        + coalesce((select g.got from unnest(v_needy, v_got) as g (id, got) where g.id = r.id), 0),
      credits_spent = r.credits_spent + i.charge,
      credits_reserved = r.credits_reserved - i.released + case when i.short then 0 else i.wanted end,
      log_seq = r.log_seq + b.lines,
      broadcast_seq = case when d.due then r.log_seq + b.lines else r.broadcast_seq end,
      broadcast_at = case when d.due then v_now else r.broadcast_at end,
      lease_id = case when b.target in ('planning', 'executing') then r.lease_id end,
      lease_owner = case when b.target in ('planning', 'executing') then r.lease_owner end,
      lease_expires_at = case when b.target in ('planning', 'executing') then v_expires end,
      available_at = case when b.target = 'queued' and i.available_in is not null
        then v_now + make_interval(secs => i.available_in) else 'infinity' end,
      fair_tag = case when not b.leaves then r.fair_tag end,
      held_for = case when not b.leaves then r.held_for end,
      paused_at = case when b.target = 'paused' then v_now end,
      pause_requested_at = case when b.target in ('planning', 'executing') then r.pause_requested_at end,
      stop_requested_at = case when b.target in ('planning', 'executing') then r.stop_requested_at end,
      finished_at = case when b.target in ('completed', 'failed', 'cancelled', 'timeout') then v_now end
    from item i
    join before b on b.id = i.run_id
    cross join lateral (
      -- At once, then at most every 100 ms; a change of status always.
      select b.moved or (b.log_seq + b.lines > b.broadcast_seq
        and (b.broadcast_at is null or v_now - b.broadcast_at >= interval '100 milliseconds')) as due
    ) d
    where r.id = i.run_id
    returning r.id, r.account_id, r.revision, r.lease_id, r.status, r.finished_at is not null as ended,
      r.stop_requested_at is not null as stop, r.pause_requested_at is not null as pause, i.short,
      r.log_seq > r.broadcast_seq as unsent, d.due, b.moved, b.status as from_status, b.log_seq as base,
      b.broadcast_seq as told_before, b.leaves, r.slot_ids
  )
  select array_agg(w.id), array_agg(w.account_id), array_agg(w.base),
      array_agg(w.id) filter (where w.ended),
      array_agg(w.id) filter (where w.due), array_agg(w.told_before) filter (where w.due),
      array_agg(w.id) filter (where w.moved), array_agg(w.from_status::text) filter (where w.moved),
      array_agg(w.status::text) filter (where w.moved),
      (select array_agg(u.id) from written x, unnest(x.slot_ids) as u (id) where x.leaves),
      jsonb_agg(jsonb_build_object('run_id', w.id, 'won', true, 'revision', w.revision, 'lease_id', w.lease_id,
        'status', w.status, 'stop', w.stop, 'pause', w.pause, 'short', w.short, 'unsent', w.unsent))
    into v_won, v_accounts, v_base, v_ended, v_told, v_told_from, v_moved, v_moved_from, v_moved_to, v_places, v_answer
    from written w;

  if v_won is not null then
    if p_batch ? 'finish' then
      update public.agent_steps s set
          status = f.status,
          attempt = s.attempt + (f.status = 'pending')::integer,
          failed_attempts = s.failed_attempts + f.failed::integer,
          output = f.output,
          error = f.error,
          waits_for = f.waits_for,
          available_at = case when f.status in ('pending', 'running') then
            case when f.available_in is null then 'infinity' else v_now + make_interval(secs => f.available_in) end
            else s.available_at end,
          credits_spent = s.credits_spent + f.credits,
          finished_at = case when f.status in ('pending', 'running') then null else v_now end,
          finished_revision = case when f.status in ('pending', 'running') then null else i.revision + 1 end
        from jsonb_to_recordset(p_batch -> 'finish') as f (
          run_id uuid, step_no integer, attempt integer, status public.step_status, output jsonb, error jsonb,
          credits bigint, failed boolean, available_in double precision, waits_for text)
        join jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, revision bigint) on i.run_id = f.run_id
        where f.run_id = any (v_won) and s.run_id = f.run_id and s.step_no = f.step_no and s.status = 'running'
          and s.attempt = f.attempt;
      get diagnostics v_count = row_count;
      if v_count <> (select count(*) from jsonb_to_recordset(p_batch -> 'finish') as f (run_id uuid)
                     where f.run_id = any (v_won)) then
        raise exception 'A step to finish is not running in that attempt' using errcode = 'RUN12';
      end if;
      insert into public.credit_ledger (account_id, run_id, step_no, attempt, kind, debit, credit, amount)
        select w.account_id, f.run_id, f.step_no, f.attempt, 'settle', 'held', 'spent', f.credits
        from jsonb_to_recordset(p_batch -> 'finish') as f (
          run_id uuid, step_no integer, attempt integer, credits bigint)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = f.run_id
        where f.credits > 0;
      if exists (select from private.step_deltas) then
        delete from private.step_deltas d
          using jsonb_to_recordset(p_batch -> 'finish') as f (run_id uuid, step_no integer)
          where d.run_id = f.run_id and d.step_no = f.step_no and d.run_id = any (v_won);
      end if;
    end if;

    if p_batch ? 'start' then
      insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
          effect_key, input, timeout_seconds, credits_bound, available_at, created_at, started_at)
        select s.run_id, s.step_no, w.account_id, s.key, s.kind, s.name, s.phase, 'running', s.max_attempts, s.effect,
          s.effect_key, coalesce(s.input, '{}'), s.timeout_seconds, s.credits_bound, v_now, v_now, v_now
        from jsonb_to_recordset(p_batch -> 'start') as s (
          run_id uuid, step_no integer, again boolean, key text, kind text, name text, phase text,
          max_attempts integer, effect public.step_effect, effect_key uuid, input jsonb,
          timeout_seconds double precision, credits_bound bigint)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = s.run_id
        where not s.again and s.run_id <> all (v_short);
      update public.agent_steps t
        set status = 'running', started_at = v_now, credits_bound = s.credits_bound, waits_for = null
        from jsonb_to_recordset(p_batch -> 'start') as s (
          run_id uuid, step_no integer, again boolean, credits_bound bigint)
        where s.again and s.run_id = any (v_won) and s.run_id <> all (v_short)
          and t.run_id = s.run_id and t.step_no = s.step_no;
    end if;

    if p_batch ? 'logs' or v_moved is not null or cardinality(v_broke) > 0 then
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select l.run_id, w.base + row_number() over (partition by l.run_id order by l.rank, l.position), w.account_id,
          l.log_type, l.message, coalesce(l.metadata, '{}'), v_now
        from (
          select x.run_id, 1 as rank, x.position, x.log_type, x.message, x.metadata
            from rows from (jsonb_to_recordset(p_batch -> 'logs')
              as (run_id uuid, log_type public.log_type, message text, metadata jsonb, of_decision boolean))
              with ordinality as x (run_id, log_type, message, metadata, of_decision, position)
            -- A decision that starts nothing is drawn again later, and says its lines then.
            where not (x.of_decision and x.run_id = any (v_short))
          union all
          select b.id, 2, 1, 'warning',
            case when b.id = any (v_capped)
              then 'Out of credits: the next step does not fit the run''s own limit (max_credits)'
              else 'Out of credits: the run is paused until credits are added and it is resumed' end,
            jsonb_build_object('event', 'out_of_credits', 'limit', case when b.id = any (v_capped) then 'run'
              else 'account' end)
            from unnest(v_broke) as b (id)
          union all
          select m.id, 3, 1, 'state_transition', m.was || ' -> ' || m.is_now,
            jsonb_build_object('from', m.was, 'to', m.is_now)
            from unnest(v_moved, v_moved_from, v_moved_to) as m (id, was, is_now)
        ) l
        join unnest(v_won, v_accounts, v_base) as w (id, account_id, base) on w.id = l.run_id;
    end if;

    if p_batch ? 'messages' then
      insert into public.agent_messages (run_id, account_id, step_no, role, content, created_at)
        select m.run_id, w.account_id, m.step_no, m.role, m.content, v_now
        from rows from (jsonb_to_recordset(p_batch -> 'messages')
          as (run_id uuid, step_no integer, role text, content jsonb)) with ordinality
          as m (run_id, step_no, role, content, position)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = m.run_id
        order by m.position;
    end if;
    if p_batch ? 'artifacts' then
      insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes, created_at)
        select a.run_id, w.account_id, a.step_no, a.name, a.content_type, a.content, octet_length(a.content), v_now
        from rows from (jsonb_to_recordset(p_batch -> 'artifacts')
          as (run_id uuid, step_no integer, name text, content_type text, content text)) with ordinality
          as a (run_id, step_no, name, content_type, content, position)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = a.run_id
        order by a.position;
    end if;
    if p_batch ? 'plans' then
      insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases, reason, created_at)
        select p.run_id,
          (select count(*) from public.agent_plans o where o.run_id = p.run_id)
            + row_number() over (partition by p.run_id order by p.position),
          w.account_id, p.step_no, p.goal, p.phases, p.reason, v_now
        from rows from (jsonb_to_recordset(p_batch -> 'plans')
          as (run_id uuid, step_no integer, goal text, phases jsonb, reason text)) with ordinality
          as p (run_id, step_no, goal, phases, reason, position)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = p.run_id;
    end if;
    if p_batch ? 'requests' then
      insert into public.human_requests (run_id, account_id, step_no, kind, prompt, options)
        select q.run_id, w.account_id, q.step_no, q.kind, q.prompt, coalesce(q.options, '[]')
        from jsonb_to_recordset(p_batch -> 'requests') as q (
          run_id uuid, step_no integer, kind text, prompt text, options jsonb)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = q.run_id;
    end if;

    -- After the messages: the newest of them is the last that the snapshot covers.
    if p_batch ? 'snapshots' then
      insert into private.run_snapshots (run_id, revision, version, step_count, open_steps, kept_steps, message_no, state)
        select s.run_id, i.revision + 1, s.version, s.step_count, s.open_steps, s.kept_steps,
          coalesce((select max(m.message_no) from public.agent_messages m where m.run_id = s.run_id), 0), s.state
        from jsonb_to_recordset(p_batch -> 'snapshots') as s (
          run_id uuid, version integer, step_count integer, open_steps integer[], kept_steps integer[], state jsonb)
        join jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, revision bigint) on i.run_id = s.run_id
        where s.run_id = any (v_won)
        on conflict (run_id) do update
          set revision = excluded.revision, version = excluded.version, step_count = excluded.step_count,
              open_steps = excluded.open_steps, kept_steps = excluded.kept_steps, message_no = excluded.message_no,
              state = excluded.state;
    end if;

    if v_ended is not null then
      perform private.close_runs(v_ended);
    end if;
    if v_places is not null then
      perform private.give_places(v_places);
    end if;
    if v_told is not null then
      perform private.broadcast_logs(v_told, v_told_from);
    end if;
  end if;

  return coalesce(v_answer, '[]') || coalesce((
    select jsonb_agg(jsonb_build_object('run_id', i.run_id, 'won', false, 'revision', r.revision,
      'lease_id', r.lease_id, 'status', r.status))
    from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid)
    left join public.agent_runs r on r.id = i.run_id
    where v_won is null or i.run_id <> all (v_won)), '[]');
end $$;
grant execute on function private.advance_runs(jsonb) to service_role;

create function public.advance_runs(p_batch jsonb)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.advance_runs(p_batch); end;
revoke execute on function public.advance_runs(jsonb) from public, anon, authenticated;
grant execute on function public.advance_runs(jsonb) to service_role;
