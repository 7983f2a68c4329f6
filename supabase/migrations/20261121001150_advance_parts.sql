-- What an advance does only sometimes: moving runs that change their status, are asked to stop, or need credits that do not
-- fit the hold; writing records other than lines; and telling who lost a race.
-- Functions: private.top_up, private.find_credits, private.move_runs, private.write_records, private.lost_races.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- One run of a batch that won its race: what the batch says of it, beside what was read under its lock.
create type private.advance_move as (
  id uuid, wish public.run_status, available_in double precision, output jsonb, error jsonb, new_steps integer,
  completed boolean, in_flight integer, charge bigint, released bigint, wanted bigint, lines integer,
  decision_lines integer,
  account_id uuid, was public.run_status, revision bigint, stop boolean, pause boolean, log_seq bigint,
  broadcast_seq bigint, broadcast_at timestamptz, slot_ids bigint[], held bigint, spent bigint, need bigint,
  over_cap boolean, due boolean
);

-- Moves credits from accounts into the holds of runs that need more. p_needs are micro-credits beyond the hold.
-- Returns for each run what it got: all of its need, or 0. The accounts are locked.
create function private.top_up(p_run_ids uuid[], p_account_ids uuid[], p_needs bigint[])
  returns bigint[] language plpgsql security definer set search_path = '' as $$
declare
  v_got bigint[] := array_fill(0::bigint, array[cardinality(p_run_ids)]);
  v_available bigint;
  v_amount bigint;
  i integer;
begin
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

-- Finds credits for the runs whose wanted steps do not fit their hold. Answers what each got (p_ids and got go together),
-- and who starts nothing: short, of these capped by their own limit, and broke with nothing left in flight.
create function private.find_credits(p_moves private.advance_move[],
    out ids uuid[], out got bigint[], out short uuid[], out capped uuid[], out broke uuid[])
  language plpgsql security definer set search_path = '' as $$
declare
  v_accounts uuid[];
  v_needs bigint[];
begin
  select coalesce(array_agg(m.id), '{}') into capped
    from unnest(p_moves) m where m.wanted > 0 and m.over_cap;
  select coalesce(array_agg(m.id), '{}'), array_agg(m.account_id), array_agg(m.need) into ids, v_accounts, v_needs
    from unnest(p_moves) m where m.wanted > 0 and m.need > 0 and not m.over_cap;
  -- Every account that the advance will touch, in order: those to draw from, and those of runs that end.
  perform 1 from public.credit_accounts c
    where c.account_id = any (array(
      select m.account_id from unnest(p_moves) m
      where m.id = any (ids) or m.stop or m.wish in ('completed', 'failed', 'cancelled', 'timeout')))
    order by c.account_id for update;
  got := '{}';
  short := capped;
  if ids <> '{}' then
    got := private.top_up(ids, v_accounts, v_needs);
    short := short || array(select u.id from unnest(ids, got) as u (id, got) where u.got = 0);
  end if;
  select coalesce(array_agg(m.id), '{}') into broke
    from unnest(p_moves) m where m.id = any (short) and m.in_flight = 0;
end $$;

-- What moving some runs of a batch came to. Arrays that begin alike go together: won, accounts, revisions and base (the seq
-- that their lines follow); ended, ended_accounts, rests and spent; told and told_from. short start nothing. lines are what
-- is to be said of the moves, [{run_id, seq, account_id, log_type, message, metadata}].
create type private.moved_runs as (
  won uuid[], accounts uuid[], revisions bigint[], base bigint[], ended uuid[], ended_accounts uuid[], rests bigint[],
  spent bigint[], places bigint[], told uuid[], told_from bigint[], unsent uuid[], short uuid[], special jsonb, lines jsonb
);

-- Moves the runs of a batch that are not in p_won, whatever becomes of them. What hangs on them is the caller's to write,
-- the lines that say so last, and to close. Who may have rows locked already waits for no other (p_wait): a run that
-- somebody holds then loses its race, and its worker reads it again.
create function private.move_runs(p_batch jsonb, p_won uuid[], p_wait boolean, p_now timestamptz, p_expires timestamptz)
  returns private.moved_runs language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_locked uuid[];
  v_moves private.advance_move[];
  v_needy boolean;
  v_needy_ids uuid[] := '{}';
  v_got bigint[] := '{}';
  v_capped uuid[] := '{}';
  v_broke uuid[] := '{}';
  v_moved private.moved_runs;
begin
  if exists (
    select from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid) group by i.run_id having count(*) > 1
  ) then
    raise exception 'A batch names each run once' using errcode = 'RUN12';
  end if;
  if p_wait then
    v_locked := array(
      select r.id from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, lease_id uuid, revision bigint)
      join public.agent_runs r on r.id = any (array[i.run_id])
      where r.lease_id = i.lease_id and r.revision = i.revision
      order by i.run_id for update of r);
  else
    v_locked := array(
      select r.id from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, lease_id uuid, revision bigint)
      join public.agent_runs r on r.id = any (array[i.run_id])
      where r.lease_id = i.lease_id and r.revision = i.revision and r.id <> all (p_won)
      order by i.run_id for update of r skip locked);
  end if;
  select array_agg(row(i.run_id, i.status, i.available_in, i.output, i.error, i.new_steps, i.completed, i.in_flight,
      i.charge, i.released, i.wanted, i.lines, coalesce(i.decision_lines, 0),
      r.account_id, r.status, r.revision, r.stop_requested_at is not null, r.pause_requested_at is not null, r.log_seq,
      r.broadcast_seq, r.broadcast_at, r.slot_ids, r.credits_held, r.credits_spent,
      r.credits_reserved - i.released + i.wanted - (r.credits_held - i.charge),
      coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false),
      r.log_seq + i.lines > r.broadcast_seq
        and (r.broadcast_at is null or p_now - r.broadcast_at >= interval '100 milliseconds'))::private.advance_move),
    bool_or(i.wanted > 0 and (
      r.credits_reserved - i.released + i.wanted > r.credits_held - i.charge
      or coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false)))
    into v_moves, v_needy
    from jsonb_to_recordset(p_batch -> 'runs') as i (
      run_id uuid, status public.run_status, available_in double precision, output jsonb, error jsonb,
      new_steps integer, completed boolean, in_flight integer, charge bigint, released bigint, wanted bigint,
      lines integer, decision_lines integer)
    join public.agent_runs r on r.id = any (array[i.run_id])
    where i.run_id = any (v_locked);
  if v_moves is null then
    return v_moved;
  end if;
  v_moved.short := '{}';
  if v_needy then
    select c.ids, c.got, c.short, c.capped, c.broke into v_needy_ids, v_got, v_moved.short, v_capped, v_broke
      from private.find_credits(v_moves) c;
  end if;

  with move as materialized (
    select m.*, w.target, m.id = any (v_moved.short) as is_short, m.id = any (v_broke) as is_broke,
      w.target <> m.was as moved,
      w.target in ('completed', 'failed', 'cancelled', 'timeout') as ended,
      w.target in ('planning', 'executing') as leased,
      -- Who is only given back keeps its places and its turn; who waits, pauses or ends leaves the queue.
      w.target not in ('planning', 'executing')
        and not (w.target = 'queued' and coalesce(m.available_in <= 0, false)) as leaves,
      m.lines - case when m.id = any (v_moved.short) then m.decision_lines else 0 end + (w.target <> m.was)::integer
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
      updated_at = p_now,
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
      broadcast_at = case when d.due then p_now else r.broadcast_at end,
      lease_id = case when m.leased then r.lease_id end,
      lease_owner = case when m.leased then r.lease_owner end,
      lease_expires_at = case when m.leased then p_expires end,
      available_at = case when m.target = 'queued' and m.available_in is not null
        then p_now + make_interval(secs => m.available_in) else 'infinity' end,
      fair_tag = case when not m.leaves then r.fair_tag end,
      held_for = case when not m.leaves then r.held_for end,
      paused_at = case when m.target = 'paused' then p_now end,
      pause_requested_at = case when m.leased then r.pause_requested_at end,
      stop_requested_at = case when m.leased then r.stop_requested_at end,
      finished_at = case when m.ended then p_now end
    from move m
    cross join lateral (
      select m.moved or m.due as due  -- a change of status always
    ) d
    where r.id = any (array[m.id])
    returning m.id, m.account_id, r.revision, r.lease_id, m.target, m.was, m.wish, m.ended, m.moved, m.leaves, m.stop,
      m.pause, m.is_short, m.is_broke, m.log_seq, r.log_seq as last_seq, m.broadcast_seq, m.slot_ids,
      m.held - m.charge + m.got as rest, r.credits_spent, d.due, not d.due and r.log_seq > r.broadcast_seq as unsent
  ), line as (
    select w.id as run_id, w.last_seq - w.moved::integer as seq, w.account_id, 'warning' as log_type,
      case when w.id = any (v_capped)
        then 'Out of credits: the next step does not fit the run''s own limit (max_credits)'
        else 'Out of credits: the run is paused until credits are added and it is resumed' end as message,
      jsonb_build_object('event', 'out_of_credits', 'limit',
        case when w.id = any (v_capped) then 'run' else 'account' end) as metadata
      from written w where w.is_broke
    union all
    select w.id, w.last_seq, w.account_id, 'state_transition', w.was || ' -> ' || w.target,
      jsonb_build_object('from', w.was, 'to', w.target)
      from written w where w.moved
  )
  select array_agg(w.id), array_agg(w.account_id), array_agg(w.revision), array_agg(w.log_seq),
      array_agg(w.id) filter (where w.ended), array_agg(w.account_id) filter (where w.ended),
      array_agg(w.rest) filter (where w.ended), array_agg(w.credits_spent) filter (where w.ended),
      (select array_agg(u.id) from written x, unnest(x.slot_ids) as u (id) where x.leaves),
      array_agg(w.id) filter (where w.due), array_agg(w.broadcast_seq) filter (where w.due),
      array_agg(w.id) filter (where w.unsent),
      jsonb_agg(jsonb_build_object('run_id', w.id, 'won', true, 'revision', w.revision, 'lease_id', w.lease_id,
          'status', w.target, 'stop', w.stop, 'pause', w.pause, 'short', w.is_short))
        filter (where w.stop or w.pause or w.is_short or w.target <> coalesce(w.wish, w.was)),
      (select jsonb_agg(to_jsonb(l) order by l.run_id, l.seq) from line l)
    into v_moved.won, v_moved.accounts, v_moved.revisions, v_moved.base, v_moved.ended, v_moved.ended_accounts,
      v_moved.rests, v_moved.spent, v_moved.places, v_moved.told, v_moved.told_from, v_moved.unsent, v_moved.special,
      v_moved.lines
    from written w;
  return v_moved;
end $$;

-- What there is to say of the runs of a batch that did not win.
create function private.lost_races(p_runs jsonb, p_won uuid[])
  returns jsonb language sql stable security definer set search_path = '' set enable_seqscan = off set jit = off as $$
  select coalesce(jsonb_agg(jsonb_build_object('run_id', i.run_id, 'won', false, 'revision', r.revision,
    'lease_id', r.lease_id, 'status', r.status)), '[]')
  from jsonb_to_recordset(p_runs) as i (run_id uuid)
  left join public.agent_runs r on r.id = any (array[i.run_id])
  where p_won is null or i.run_id <> all (p_won)
$$;

-- What steps record besides lines, and the snapshots. The account of each comes from its run's row.
create function private.write_records(p_batch jsonb, p_run_ids uuid[], p_account_ids uuid[], p_revisions bigint[])
  returns void language plpgsql security definer set search_path = '' as $$
begin
  if p_batch ? 'messages' then
    insert into public.agent_messages (run_id, account_id, step_no, role, content, created_at)
      select m.run_id, w.account_id, m.step_no, m.role, m.content, private.clock()
      from rows from (jsonb_to_recordset(p_batch -> 'messages')
        as (run_id uuid, step_no integer, role text, content jsonb)) with ordinality
        as m (run_id, step_no, role, content, position)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = m.run_id
      order by m.position;
  end if;
  if p_batch ? 'artifacts' then
    insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes, created_at)
      select a.run_id, w.account_id, a.step_no, a.name, a.content_type, a.content, octet_length(a.content),
        private.clock()
      from rows from (jsonb_to_recordset(p_batch -> 'artifacts')
        as (run_id uuid, step_no integer, name text, content_type text, content text)) with ordinality
        as a (run_id, step_no, name, content_type, content, position)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = a.run_id
      order by a.position;
  end if;
  if p_batch ? 'plans' then
    insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases, reason, created_at)
      select p.run_id,
        (select count(*) from public.agent_plans o where o.run_id = p.run_id)
          + row_number() over (partition by p.run_id order by p.position),
        w.account_id, p.step_no, p.goal, p.phases, p.reason, private.clock()
      from rows from (jsonb_to_recordset(p_batch -> 'plans')
        as (run_id uuid, step_no integer, goal text, phases jsonb, reason text)) with ordinality
        as p (run_id, step_no, goal, phases, reason, position)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = p.run_id;
  end if;
  if p_batch ? 'requests' then
    insert into public.human_requests (run_id, account_id, step_no, kind, prompt, options)
      select q.run_id, w.account_id, q.step_no, q.kind, q.prompt, coalesce(q.options, '[]')
      from jsonb_to_recordset(p_batch -> 'requests') as q (
        run_id uuid, step_no integer, kind text, prompt text, options jsonb)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = q.run_id;
  end if;
  if p_batch ? 'snapshots' then
    insert into private.run_snapshots (run_id, revision, version, step_count, open_steps, kept_steps, state)
      select s.run_id, w.revision, s.version, s.step_count, s.open_steps, s.kept_steps, s.state
      from jsonb_to_recordset(p_batch -> 'snapshots') as s (
        run_id uuid, version integer, step_count integer, open_steps integer[], kept_steps integer[], state jsonb)
      join unnest(p_run_ids, p_revisions) as w (id, revision) on w.id = s.run_id
      on conflict (run_id) do update
        set revision = excluded.revision, version = excluded.version, step_count = excluded.step_count,
            open_steps = excluded.open_steps, kept_steps = excluded.kept_steps, state = excluded.state;
  end if;
end $$;
