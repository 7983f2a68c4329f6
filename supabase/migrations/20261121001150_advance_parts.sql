-- What an advance does beside the runs' and steps' own rows, and only sometimes: finding credits that do not fit the hold,
-- and writing records other than lines. Functions: private.find_credits, private.write_records.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- One run of a batch that won its race: what the batch says of it, beside what was read under the lock.
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
