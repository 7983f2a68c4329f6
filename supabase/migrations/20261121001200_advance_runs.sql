-- Advance: the one call that commits transitions of held runs. All time is private.clock().
-- Errors: RUN07 no time for the leases, RUN11 unknown version of the batch, RUN12 the batch does not fit the recorded steps.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.
--
-- This is the hot path, and each statement of it costs 15 microseconds before it touches a row, and more for each table,
-- join and sort in it. So what most calls are takes two statements: one moves the runs on, one writes all that hangs on
-- them; and what is rare (a change of status, a request to stop, credits that do not fit, records other than lines, an end)
-- is behind an `if`. Plans are generic and by index whatever the statistics say: planning costs more than executing here.
-- `= any (array[x])` looks a row up as `= x` does, but can be neither hashed nor merged: a plan that was made while there
-- were few rows, and is kept, must not read a whole index for each call when there are many.

-- Commits a batch of transitions, one element of "runs" a run, everything else flat; "at" is the place of its run in
-- "runs", from 1:
--   {"v": 1, "lease_seconds": 15,
--    "runs":      [{run_id, lease_id, revision, status?, available_in?, output?, error?, new_steps, completed, in_flight,
--                   charge, released, wanted, lines, decision_lines?}],
--    "finish":    [{at, step_no, attempt, status, output?, error?, credits, failed, available_in?, waits_for?}],
--    "start":     [{at, step_no, key, kind, name, phase?, effect, effect_key, input?, timeout_seconds, credits_bound,
--                   max_attempts}],
--    "restart":   [{at, step_no, credits_bound}],
--    "logs":      [{at, n, log_type, message, metadata?, of_decision?}],
--    "messages":  [{run_id, step_no, role, content}],
--    "artifacts": [{run_id, step_no, name, content_type, content}], "plans": [{run_id, step_no, goal, phases, reason}],
--    "requests":  [{run_id, step_no, kind, prompt, options}],
--    "events":    [{run_id, step_no, token_hash}],
--    "snapshots": [{run_id, version, step_count, open_steps, kept_steps, state}]}
-- A run wins if lease_id and revision both match; of a run that does not, nothing is written. Set-based: no statement is
-- made once a run. charge is the sum of credits of its finished steps, released the sum of their bounds,
-- wanted the sum of the bounds of the steps to start. A run's lines are numbered n from 1, those of its decision last.
-- "runs" are in the order of run_id, in which their rows are locked.
-- A run whose wanted credits fit neither hold nor cap starts nothing: it pauses, or, while in_flight steps go on, only
-- learns so ("short").
-- Answers {"won": how many, "runs": [{run_id, won, revision, lease_id, status, stop, pause, short}], "unsent": [run_id]}.
-- "runs" names those only of which there is more to say than: won, at revision + 1, in the status that was asked for, with
-- nobody's request waiting. "unsent" are runs of which lines wait to be broadcast.
create function private.advance_runs(p_batch jsonb)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
  -- Who waits for a lock keeps the rows of a whole batch locked and their leases from being extended; after this the
  -- worker finds out whose row it is and tries that one aside.
  set lock_timeout = '2s' as $$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => (p_batch ->> 'lease_seconds')::double precision);
  v_count integer := jsonb_array_length(p_batch -> 'runs');
  v_won uuid[];
  -- Of each run by its place in the batch; null where it lost.
  v_ids uuid[];
  v_accounts uuid[];
  v_revisions bigint[];
  v_base bigint[];
  v_told uuid[];
  v_told_from bigint[];
  v_unsent uuid[];
  v_moved private.moved_runs;
  v_moving boolean := p_batch @? '$.runs[*].status ? (@ != null)';
  v_finished bigint;
begin
  if (p_batch ->> 'v') is distinct from '1' then
    raise exception 'advance_runs speaks version 1, not %', p_batch -> 'v' using errcode = 'RUN11';
  end if;
  if v_expires is null then
    raise exception 'lease_seconds must be given' using errcode = 'RUN07';  -- a lease without an end is nobody's to take
  end if;

  -- Runs that take a step further and stay as they are, in the batch's order, which is that of ids. Where one changes its
  -- status, all are moved below, under locks in that order.
  if not v_moving then
    with written as (
      update public.agent_runs r set
        revision = r.revision + 1,
        updated_at = v_now,
        step_count = r.step_count + i.new_steps,
        attempt = case when i.completed then 0 else r.attempt end,
        credits_held = r.credits_held - i.charge,
        credits_spent = r.credits_spent + i.charge,
        credits_reserved = r.credits_reserved - i.released + i.wanted,
        log_seq = r.log_seq + i.lines,
        -- At once, then at most every 100 ms; and unless the worker's tick was faster: then what is left goes with its next.
        broadcast_seq = case when d.due and r.broadcast_seq = b.broadcast_seq then r.log_seq + i.lines
          else r.broadcast_seq end,
        broadcast_at = case when d.due and r.broadcast_seq = b.broadcast_seq then v_now else r.broadcast_at end,
        lease_expires_at = v_expires
        from rows from (jsonb_to_recordset(p_batch -> 'runs') as (
          run_id uuid, lease_id uuid, revision bigint, new_steps integer, completed boolean, charge bigint,
          released bigint, wanted bigint, lines integer)) with ordinality
          as i (run_id, lease_id, revision, new_steps, completed, charge, released, wanted, lines, at)
        join public.agent_runs b on b.id = any (array[i.run_id])
        cross join lateral (
          select b.log_seq + i.lines > b.broadcast_seq
            and (b.broadcast_at is null or v_now - b.broadcast_at >= interval '100 milliseconds') as due
        ) d
        where r.id = any (array[i.run_id]) and r.lease_id = i.lease_id and r.revision = i.revision
          and r.stop_requested_at is null and r.pause_requested_at is null
          and (i.wanted = 0 or r.credits_reserved - i.released + i.wanted <= r.credits_held - i.charge
            and (r.max_credits is null
              or r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted <= r.max_credits))
        returning i.at, r.id, r.account_id, r.revision, r.log_seq - i.lines as base, r.broadcast_at = v_now as told,
          b.broadcast_seq as told_before, r.log_seq > r.broadcast_seq as unsent
    )
    select array_agg(w.id order by w.at), array_agg(w.account_id order by w.at), array_agg(w.revision order by w.at),
        array_agg(w.base order by w.at), array_agg(w.id order by w.at) filter (where w.told),
        array_agg(w.told_before order by w.at) filter (where w.told), array_agg(w.id order by w.at) filter (where w.unsent)
      into v_ids, v_accounts, v_revisions, v_base, v_told, v_told_from, v_unsent
      from written w;
  end if;
  v_won := v_ids;
  if v_won is null or cardinality(v_won) < v_count then
    -- The update above has locked what it found changed behind a lock, too: with others it is not waited for a second time.
    v_moved := private.move_runs(p_batch, coalesce(v_won, '{}'), v_moving or v_count = 1, v_now, v_expires);
    select array_agg(w.id order by i.at), array_agg(w.account_id order by i.at), array_agg(w.revision order by i.at),
        array_agg(w.base order by i.at), array_agg(w.id) filter (where w.id is not null)
      into v_ids, v_accounts, v_revisions, v_base, v_won
      from rows from (jsonb_to_recordset(p_batch -> 'runs') as (run_id uuid)) with ordinality as i (run_id, at)
      left join unnest(v_won || v_moved.won, v_accounts || v_moved.accounts, v_revisions || v_moved.revisions,
        v_base || v_moved.base) as w (id, account_id, revision, base) on w.id = i.run_id;
    v_told := v_told || v_moved.told;
    v_told_from := v_told_from || v_moved.told_from;
    v_unsent := v_unsent || v_moved.unsent;
  end if;

  if v_won is not null then
    -- Without a finish, start or line its part of this has no rows. One of no run of the batch
    -- is refused: its run_id is null.
    with done as (
      update public.agent_steps s set
          status = f.status,
          attempt = s.attempt + (f.status = 'pending')::integer,
          failed_attempts = s.failed_attempts + coalesce(f.failed, false)::integer,
          output = f.output,
          error = f.error,
          waits_for = f.waits_for,
          available_at = case when f.status in ('pending', 'running') then
            case when f.available_in is null then 'infinity' else v_now + make_interval(secs => f.available_in) end end,
          credits_spent = s.credits_spent + f.credits,
          finished_at = case when f.status not in ('pending', 'running') then v_now end,
          finished_revision = case when f.status not in ('pending', 'running') then v_revisions[f.at] end
        from jsonb_to_recordset(p_batch -> 'finish') as f (
          at integer, step_no integer, attempt integer, status public.step_status, output jsonb, error jsonb,
          credits bigint, failed boolean, available_in double precision, waits_for public.step_wait)
        where s.run_id = any (array[v_ids[f.at]]) and s.step_no = f.step_no and s.status = 'running' and s.attempt = f.attempt
        returning s.account_id, s.run_id, s.step_no, f.attempt, f.credits
    ), booked as (
      insert into public.credit_ledger (account_id, run_id, step_no, attempt, kind, debit, credit, amount, created_at)
        select d.account_id, d.run_id, d.step_no, d.attempt, 'settle', 'held', 'spent', d.credits, v_now
        from done d where d.credits > 0
    ), started as (
      insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
          effect_key, input, timeout_seconds, credits_bound, created_at, started_at)
        select v_ids[s.at], s.step_no, v_accounts[s.at], s.key, s.kind, s.name, s.phase, 'running', s.max_attempts,
          s.effect, s.effect_key, coalesce(s.input, '{}'), s.timeout_seconds, s.credits_bound, v_now, v_now
        from jsonb_to_recordset(p_batch -> 'start') as s (
          at integer, step_no integer, key text, kind text, name text, phase text, max_attempts integer,
          effect public.step_effect, effect_key uuid, input jsonb, timeout_seconds double precision,
          credits_bound bigint)
        where (v_ids[s.at] is not null or (s.at between 1 and v_count) is not true)
          and (v_moved.short is null or (v_ids[s.at] = any (v_moved.short)) is not true)
    ), said as (
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select v_ids[l.at], v_base[l.at] + l.n, v_accounts[l.at], l.log_type, l.message, coalesce(l.metadata, '{}'), v_now
        from jsonb_to_recordset(p_batch -> 'logs') as l (
          at integer, n integer, log_type public.log_type, message text, metadata jsonb, of_decision boolean)
        -- A decision that starts nothing is drawn again later, and says its lines then.
        where (v_ids[l.at] is not null or (l.at between 1 and v_count) is not true)
          and (l.of_decision is not true or v_moved.short is null or (v_ids[l.at] = any (v_moved.short)) is not true)
    )
    select count(*) into v_finished from done;
    if p_batch ? 'finish' then
      if v_finished <> jsonb_array_length(p_batch -> 'finish') and v_finished <> (
        select count(*) from jsonb_to_recordset(p_batch -> 'finish') as f (at integer)
          where v_ids[f.at] is not null or (f.at between 1 and v_count) is not true
      ) then
        raise exception 'A step to finish is not running in that attempt' using errcode = 'RUN12';
      end if;
      if exists (select from private.step_deltas) then
        delete from private.step_deltas d
          using jsonb_to_recordset(p_batch -> 'finish') as f (at integer, step_no integer)
          where d.run_id = any (array[v_ids[f.at]]) and d.step_no = f.step_no;
      end if;
    end if;
    if p_batch ? 'restart' then
      update public.agent_steps t
        set status = 'running', started_at = v_now, credits_bound = s.credits_bound, waits_for = null,
            available_at = null
        from jsonb_to_recordset(p_batch -> 'restart') as s (at integer, step_no integer, credits_bound bigint)
        where (v_moved.short is null or v_ids[s.at] <> all (v_moved.short))
          and t.run_id = any (array[v_ids[s.at]]) and t.step_no = s.step_no;
    end if;
    if v_moved.lines is not null then
      -- Behind the batch's own: who follows the table's changes hears the lines in the order they have.
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select l.run_id, l.seq, l.account_id, l.log_type, l.message, l.metadata, v_now
        from jsonb_to_recordset(v_moved.lines) as l (
          run_id uuid, seq bigint, account_id uuid, log_type public.log_type, message text, metadata jsonb);
    end if;
    if p_batch ?| '{messages,artifacts,plans,requests,snapshots}' then
      perform private.write_records(p_batch, v_ids, v_accounts, v_revisions);
    end if;
    if v_moved.ended is not null then
      perform private.close_runs(v_moved.ended, v_moved.ended_accounts, v_moved.rests, v_moved.spent);
    end if;
    if v_moved.places is not null then
      perform private.give_places(v_moved.places);
    end if;
    if v_told is not null then
      perform private.broadcast_logs(v_told, v_told_from);
    end if;
    if p_batch ? 'events' then
      -- Last: an event that was there before its wait writes to the run anew.
      perform private.await_events(p_batch -> 'events', v_won);
    end if;
  end if;

  return jsonb_build_object('won', coalesce(cardinality(v_won), 0), 'runs',
    coalesce(v_moved.special, '[]') || case when v_won is null or cardinality(v_won) < v_count
      then private.lost_races(p_batch -> 'runs', v_won) else '[]' end,
    'unsent', to_jsonb(coalesce(v_unsent, '{}')));
end $$;
grant execute on function private.advance_runs(jsonb) to service_role;

create function public.advance_runs(p_batch jsonb)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.advance_runs(p_batch); end;
revoke execute on function public.advance_runs(jsonb) from public, anon, authenticated;
grant execute on function public.advance_runs(jsonb) to service_role;
