-- Advance: the one call that commits transitions of held runs. All time is private.clock().
-- Errors: RUN11 unknown version of the batch, RUN12 the batch does not fit the recorded steps.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.
--
-- This is the hot path, and each statement of it costs 15 microseconds before it touches a row. So the batch is parsed
-- once a list, what was read under the lock is carried on in arrays instead of being read again, and what is rare
-- (credits that do not fit, records other than lines, an end) is behind an `if`. Plans are generic and by index whatever
-- the statistics say: planning costs more than executing here.

-- Commits a batch of transitions, one element of "runs" a run, everything else flat and keyed by run_id:
--   {"v": 1, "lease_seconds": 15,
--    "runs":      [{run_id, lease_id, revision, status?, available_in?, output?, error?, new_steps, completed, in_flight,
--                   charge, released, wanted, lines, decision_lines?}],
--    "finish":    [{run_id, step_no, attempt, status, output?, error?, credits, failed, available_in?, waits_for?}],
--    "start":     [{run_id, step_no, key, kind, name, phase?, effect, effect_key, input?, timeout_seconds, credits_bound,
--                   max_attempts}],
--    "restart":   [{run_id, step_no, credits_bound}],
--    "logs":      [{run_id, log_type, message, metadata?, of_decision?}],
--    "messages":  [{run_id, step_no, role, content}],
--    "artifacts": [{run_id, step_no, name, content_type, content}], "plans": [{run_id, step_no, goal, phases, reason}],
--    "requests":  [{run_id, step_no, kind, prompt, options}],
--    "events":    [{run_id, step_no, token_hash}],
--    "snapshots": [{run_id, version, step_count, open_steps, kept_steps, state}]}
-- A run wins if lease_id and revision both match; of a run that does not, nothing is written. Set-based: one statement a
-- table for the whole batch. charge is the sum of credits of its finished steps, released the sum of their bounds,
-- wanted the sum of the bounds of the steps to start.
-- A run whose wanted credits fit neither hold nor cap starts nothing: it pauses, or, while in_flight steps go on, only
-- learns so ("short").
-- Answers {"won": how many, "runs": [{run_id, won, revision, lease_id, status, stop, pause, short}], "unsent": [run_id]}.
-- "runs" names those only of which there is more to say than: won, at revision + 1, in the status that was asked for, with
-- nobody's request waiting. "unsent" are runs of which lines wait to be broadcast.
create function private.advance_runs(p_batch jsonb)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off
  -- Who waits for a lock keeps the rows of a whole batch locked and their leases from being extended; after this the
  -- worker finds out whose row it is and tries that one aside.
  set lock_timeout = '2s' as $$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => (p_batch ->> 'lease_seconds')::double precision);
  v_moves private.advance_move[];
  v_twice boolean;
  v_plain boolean;
  v_locked boolean := p_batch @? '$.runs[*].status ? (@ != null)';
  v_needy boolean;
  v_needy_ids uuid[] := '{}';
  v_got bigint[] := '{}';
  v_short uuid[] := '{}';
  v_capped uuid[] := '{}';
  v_broke uuid[] := '{}';
  v_won uuid[];
  v_accounts uuid[];
  v_revisions bigint[];
  v_base bigint[];
  v_ended uuid[];
  v_ended_accounts uuid[];
  v_rests bigint[];
  v_spent bigint[];
  v_places bigint[];
  v_told uuid[];
  v_told_from bigint[];
  v_moved uuid[];
  v_moved_from text[];
  v_moved_to text[];
  v_special jsonb;
  v_unsent uuid[];
  v_finished bigint;
  v_count integer := jsonb_array_length(p_batch -> 'runs');
begin
  if (p_batch ->> 'v') is distinct from '1' then
    raise exception 'advance_runs speaks version 1, not %', p_batch -> 'v' using errcode = 'RUN11';
  end if;

  -- A batch in which no run changes its status is read without a lock: the update checks the revision, and every
  -- transition raises that. The others are locked first, in the order of ids; and what seemed plain and is not, too.
  loop
    if v_locked then
      perform 1 from public.agent_runs r
        where r.id = any (array(
          select x.run_id from jsonb_to_recordset(p_batch -> 'runs') as x (run_id uuid)))
        order by r.id for update;
    end if;
    select array_agg(row(i.run_id, i.status, i.available_in, i.output, i.error, i.new_steps, i.completed, i.in_flight,
        i.charge, i.released, i.wanted, i.lines, coalesce(i.decision_lines, 0),
        r.account_id, r.status, r.revision, r.stop_requested_at is not null, r.pause_requested_at is not null, r.log_seq,
        r.broadcast_seq, r.broadcast_at, r.slot_ids, r.credits_held, r.credits_spent,
        r.credits_reserved - i.released + i.wanted - (r.credits_held - i.charge),
        coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false),
        d.due)::private.advance_move),
      bool_or(i.times > 1),
      bool_and(i.status is null and r.stop_requested_at is null and r.pause_requested_at is null),
      bool_or(i.wanted > 0 and (
        r.credits_reserved - i.released + i.wanted > r.credits_held - i.charge
        or coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false)))
      into v_moves, v_twice, v_plain, v_needy
      from (
        select x.*, count(*) over (partition by x.run_id) as times
        from jsonb_to_recordset(p_batch -> 'runs') as x (
          run_id uuid, lease_id uuid, revision bigint, status public.run_status, available_in double precision,
          output jsonb, error jsonb, new_steps integer, completed boolean, in_flight integer, charge bigint,
          released bigint, wanted bigint, lines integer, decision_lines integer)
        order by x.run_id
      ) i
      join public.agent_runs r on r.id = i.run_id
      cross join lateral (
        -- At once, then at most every 100 ms.
        select r.log_seq + i.lines > r.broadcast_seq
          and (r.broadcast_at is null or v_now - r.broadcast_at >= interval '100 milliseconds') as due
      ) d
      where r.lease_id = i.lease_id and r.revision = i.revision;
    v_plain := v_plain and not v_needy;
    exit when v_locked or v_plain or v_moves is null;
    v_locked := true;
  end loop;
  if v_twice then
    raise exception 'A batch names each run once' using errcode = 'RUN12';
  end if;
  if v_needy then
    select c.ids, c.got, c.short, c.capped, c.broke into v_needy_ids, v_got, v_short, v_capped, v_broke
      from private.find_credits(v_moves) c;
  end if;

  if v_plain then
    -- What most calls are: runs that take a step further and stay as they are.
    with written as (
      update public.agent_runs r set
        revision = r.revision + 1,
        updated_at = v_now,
        step_count = r.step_count + m.new_steps,
        attempt = case when m.completed then 0 else r.attempt end,
        credits_held = r.credits_held - m.charge,
        credits_spent = r.credits_spent + m.charge,
        credits_reserved = r.credits_reserved - m.released + m.wanted,
        log_seq = r.log_seq + m.lines,
        -- Unless the worker's tick was faster: then what is left goes with its next.
        broadcast_seq = case when m.due and r.broadcast_seq = m.broadcast_seq then r.log_seq + m.lines
          else r.broadcast_seq end,
        broadcast_at = case when m.due and r.broadcast_seq = m.broadcast_seq then v_now else r.broadcast_at end,
        lease_expires_at = v_expires
        from unnest(v_moves) m
        where r.id = m.id and r.revision = m.revision
        returning r.id, r.account_id, r.revision, m.log_seq, r.broadcast_at = v_now as told, m.broadcast_seq as told_before,
          r.log_seq > r.broadcast_seq as unsent
    )
    select array_agg(w.id), array_agg(w.account_id), array_agg(w.revision), array_agg(w.log_seq),
        array_agg(w.id) filter (where w.told), array_agg(w.told_before) filter (where w.told),
        array_agg(w.id) filter (where w.unsent)
      into v_won, v_accounts, v_revisions, v_base, v_told, v_told_from, v_unsent
      from written w;
  elsif v_moves is not null then
    with move as materialized (
      select m.*, w.target, m.id = any (v_short) as is_short,
        w.target <> m.was as moved,
        w.target in ('completed', 'failed', 'cancelled', 'timeout') as ended,
        w.target in ('planning', 'executing') as leased,
        -- Who is only given back keeps its places and its turn; who waits, pauses or ends leaves the queue.
        w.target not in ('planning', 'executing')
          and not (w.target = 'queued' and coalesce(m.available_in <= 0, false)) as leaves,
        m.lines - case when m.id = any (v_short) then m.decision_lines else 0 end + (w.target <> m.was)::integer
          + (m.id = any (v_broke))::integer as new_lines,
        coalesce((select g.got from unnest(v_needy_ids, v_got) as g (id, got) where g.id = m.id), 0) as got
      from unnest(v_moves) m
      cross join lateral (
        -- A request that came while this was under way must not be lost with the lease: who lets go of a run that is to
        -- stop ends it, and who lets go of one that is to pause leaves it paused.
        select case
          when m.id = any (v_broke) and not m.stop then 'paused'::public.run_status
          when m.id = any (v_broke) then 'cancelled'
          when m.wish is null then m.was
          when m.wish not in ('queued', 'awaiting_input', 'paused') then m.wish
          when m.stop then 'cancelled'
          when m.pause then 'paused'
          else m.wish
        end as target
      ) w
    ), written as (
      update public.agent_runs r set
        status = m.target,
        resumes_as = case when m.leased then m.target else r.resumes_as end,
        revision = r.revision + 1,
        updated_at = v_now,
        output = coalesce(m.output, r.output),
        error = coalesce(m.error, r.error),
        step_count = r.step_count + case when m.is_short then 0 else m.new_steps end,
        attempt = case when m.completed then 0 else r.attempt end,
        credits_held = case when m.ended then 0 else r.credits_held - m.charge + m.got end,
        credits_spent = r.credits_spent + m.charge,
        credits_reserved = case when m.ended then 0
          else r.credits_reserved - m.released + case when m.is_short then 0 else m.wanted end end,
        log_seq = r.log_seq + m.new_lines,
        broadcast_seq = case when d.due then r.log_seq + m.new_lines else r.broadcast_seq end,
        broadcast_at = case when d.due then v_now else r.broadcast_at end,
        lease_id = case when m.leased then r.lease_id end,
        lease_owner = case when m.leased then r.lease_owner end,
        lease_expires_at = case when m.leased then v_expires end,
        available_at = case when m.target = 'queued' and m.available_in is not null
          then v_now + make_interval(secs => m.available_in) else 'infinity' end,
        fair_tag = case when not m.leaves then r.fair_tag end,
        held_for = case when not m.leaves then r.held_for end,
        paused_at = case when m.target = 'paused' then v_now end,
        pause_requested_at = case when m.leased then r.pause_requested_at end,
        stop_requested_at = case when m.leased then r.stop_requested_at end,
        finished_at = case when m.ended then v_now end
      from move m
      cross join lateral (
        select m.moved or m.due as due  -- a change of status always
      ) d
      where r.id = m.id
      returning m.id, m.account_id, r.revision, r.lease_id, m.target, m.was, m.wish, m.ended, m.moved, m.leaves, m.stop,
        m.pause, m.is_short, m.log_seq, m.broadcast_seq, m.slot_ids, m.held - m.charge + m.got as rest,
        r.credits_spent, d.due, not d.due and r.log_seq > r.broadcast_seq as unsent
    )
    select array_agg(w.id), array_agg(w.account_id), array_agg(w.revision), array_agg(w.log_seq),
        array_agg(w.id) filter (where w.ended), array_agg(w.account_id) filter (where w.ended),
        array_agg(w.rest) filter (where w.ended), array_agg(w.credits_spent) filter (where w.ended),
        (select array_agg(u.id) from written x, unnest(x.slot_ids) as u (id) where x.leaves),
        array_agg(w.id) filter (where w.due), array_agg(w.broadcast_seq) filter (where w.due),
        array_agg(w.id) filter (where w.moved), array_agg(w.was::text) filter (where w.moved),
        array_agg(w.target::text) filter (where w.moved),
        array_agg(w.id) filter (where w.unsent),
        jsonb_agg(jsonb_build_object('run_id', w.id, 'won', true, 'revision', w.revision, 'lease_id', w.lease_id,
            'status', w.target, 'stop', w.stop, 'pause', w.pause, 'short', w.is_short))
          filter (where w.stop or w.pause or w.is_short or w.target <> coalesce(w.wish, w.was))
      into v_won, v_accounts, v_revisions, v_base, v_ended, v_ended_accounts, v_rests, v_spent, v_places, v_told,
        v_told_from, v_moved, v_moved_from, v_moved_to, v_unsent, v_special
      from written w;
  end if;

  if v_won is not null then
    if p_batch ? 'finish' then
      with done as (
        update public.agent_steps s set
            status = f.status,
            attempt = s.attempt + (f.status = 'pending')::integer,
            failed_attempts = s.failed_attempts + coalesce(f.failed, false)::integer,
            output = f.output,
            error = f.error,
            waits_for = f.waits_for,
            available_at = case when f.status in ('pending', 'running') then
              case when f.available_in is null then 'infinity' else v_now + make_interval(secs => f.available_in) end
              else s.available_at end,
            credits_spent = s.credits_spent + f.credits,
            finished_at = case when f.status not in ('pending', 'running') then v_now end,
            finished_revision = case when f.status not in ('pending', 'running') then w.revision end
          from jsonb_to_recordset(p_batch -> 'finish') as f (
            run_id uuid, step_no integer, attempt integer, status public.step_status, output jsonb, error jsonb,
            credits bigint, failed boolean, available_in double precision, waits_for text)
          join unnest(v_won, v_revisions) as w (id, revision) on w.id = f.run_id
          where s.run_id = f.run_id and s.step_no = f.step_no and s.status = 'running' and s.attempt = f.attempt
          returning s.account_id, s.run_id, s.step_no, f.attempt, f.credits
      ), booked as (
        insert into public.credit_ledger (account_id, run_id, step_no, attempt, kind, debit, credit, amount, created_at)
          select d.account_id, d.run_id, d.step_no, d.attempt, 'settle', 'held', 'spent', d.credits, v_now
          from done d where d.credits > 0
      )
      select count(*) into v_finished from done;
      if v_finished <> jsonb_array_length(p_batch -> 'finish') and v_finished <> (
        select count(*) from jsonb_to_recordset(p_batch -> 'finish') as f (run_id uuid) where f.run_id = any (v_won)
      ) then
        raise exception 'A step to finish is not running in that attempt' using errcode = 'RUN12';
      end if;
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
          run_id uuid, step_no integer, key text, kind text, name text, phase text, max_attempts integer,
          effect public.step_effect, effect_key uuid, input jsonb, timeout_seconds double precision,
          credits_bound bigint)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = s.run_id
        where s.run_id <> all (v_short);
    end if;
    if p_batch ? 'restart' then
      update public.agent_steps t
        set status = 'running', started_at = v_now, credits_bound = s.credits_bound, waits_for = null
        from jsonb_to_recordset(p_batch -> 'restart') as s (run_id uuid, step_no integer, credits_bound bigint)
        where s.run_id = any (v_won) and s.run_id <> all (v_short) and t.run_id = s.run_id and t.step_no = s.step_no;
    end if;

    if p_batch ? 'logs' or v_moved is not null or v_broke <> '{}' then
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select l.run_id, w.base + row_number() over (partition by l.run_id order by l.rank, l.position), w.account_id,
          l.log_type, l.message, coalesce(l.metadata, '{}'), v_now
        from (
          select x.run_id, 1 as rank, x.position, x.log_type, x.message, x.metadata
            from rows from (jsonb_to_recordset(p_batch -> 'logs')
              as (run_id uuid, log_type public.log_type, message text, metadata jsonb, of_decision boolean))
              with ordinality as x (run_id, log_type, message, metadata, of_decision, position)
            -- A decision that starts nothing is drawn again later, and says its lines then.
            where x.of_decision is not true or x.run_id <> all (v_short)
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

    if p_batch ?| '{messages,artifacts,plans,requests,snapshots}' then
      perform private.write_records(p_batch, v_won, v_accounts, v_revisions);
    end if;
    if v_ended is not null then
      perform private.close_runs(v_ended, v_ended_accounts, v_rests, v_spent);
    end if;
    if v_places is not null then
      perform private.give_places(v_places);
    end if;
    if v_told is not null then
      perform private.broadcast_logs(v_told, v_told_from);
    end if;
    if p_batch ? 'events' then
      -- Last: an event that was there before its wait writes to the run anew.
      perform private.await_events(p_batch -> 'events', v_won);
    end if;
  end if;

  if v_won is null or cardinality(v_won) < v_count then
    select coalesce(v_special, '[]') || jsonb_agg(jsonb_build_object('run_id', i.run_id, 'won', false,
        'revision', r.revision, 'lease_id', r.lease_id, 'status', r.status))
      into v_special
      from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid)
      left join public.agent_runs r on r.id = i.run_id
      where v_won is null or i.run_id <> all (v_won);
  end if;
  return jsonb_build_object('won', coalesce(cardinality(v_won), 0), 'runs', coalesce(v_special, '[]'),
    'unsent', to_jsonb(coalesce(v_unsent, '{}')));
end $$;
grant execute on function private.advance_runs(jsonb) to service_role;

create function public.advance_runs(p_batch jsonb)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.advance_runs(p_batch); end;
revoke execute on function public.advance_runs(jsonb) from public, anon, authenticated;
grant execute on function public.advance_runs(jsonb) to service_role;
