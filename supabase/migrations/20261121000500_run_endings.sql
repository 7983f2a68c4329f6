-- What every ending of a run does, whoever brings it about: a person, a worker or the sweep.
-- Functions: private.close_runs, private.end_runs.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- What every ending does besides the run's own row: open steps and questions are cancelled, and the account's row learns
-- what was spent and gets the rest of the hold. The runs are locked and already ended; accounts, rests and spent go with
-- them one by one.
create function private.close_runs(p_run_ids uuid[], p_account_ids uuid[], p_rests bigint[], p_spent bigint[])
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
begin
  update public.agent_steps s
    set status = 'cancelled', finished_at = v_now, waits_for = null, available_at = null, finished_revision = r.revision
    from public.agent_runs r
    where r.id = any (p_run_ids) and s.run_id = any (array[r.id]) and s.status in ('pending', 'running');
  update public.human_requests set status = 'cancelled'
    where run_id = any (p_run_ids) and status = 'open';
  if exists (select from private.step_deltas) then
    delete from private.step_deltas where run_id = any (p_run_ids);
  end if;
  delete from private.run_snapshots where run_id = any (p_run_ids);

  perform 1 from public.credit_accounts c where c.account_id = any (p_account_ids) order by c.account_id for update;
  update public.credit_accounts c
    set available = c.available + t.rest, held = c.held - t.rest - t.spent, spent = c.spent + t.spent, updated_at = v_now
    from (
      select u.account_id, sum(u.rest) as rest, sum(u.spent) as spent
      from unnest(p_account_ids, p_rests, p_spent) as u (account_id, rest, spent) group by u.account_id
    ) t
    where c.account_id = any (array[t.account_id]) and (t.rest > 0 or t.spent > 0);
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount, created_at)
    select u.account_id, u.run_id, 'release', 'held', 'available', u.rest, v_now
    from unnest(p_run_ids, p_account_ids, p_rests) as u (run_id, account_id, rest) where u.rest > 0;
end $$;

-- Ends runs whose rows the caller has locked and that nobody holds any more. p_errors may hold nulls.
create function private.end_runs(p_run_ids uuid[], p_status public.run_status, p_errors jsonb[])
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_from text[];
  v_places bigint[];
  v_unused bigint[];
  v_accounts uuid[];
  v_rests bigint[];
  v_spent bigint[];
begin
  if cardinality(p_run_ids) = 0 then
    return;
  end if;
  select array_agg(u.id), array_agg(u.id) filter (where r.status = 'queued' and u.id = r.slot_ids[1])
    into v_places, v_unused
    from public.agent_runs r, unnest(r.slot_ids) as u (id) where r.id = any (p_run_ids) and r.held_for = 0;
  select array_agg(r.status::text order by e.position), array_agg(r.account_id order by e.position),
      array_agg(r.credits_held order by e.position), array_agg(r.credits_spent order by e.position)
    into v_from, v_accounts, v_rests, v_spent
    from unnest(p_run_ids) with ordinality as e (run_id, position) join public.agent_runs r on r.id = any (array[e.run_id]);
  update public.agent_runs r
    set status = p_status, error = coalesce(e.error, r.error), finished_at = v_now, updated_at = v_now,
        revision = r.revision + 1, available_at = 'infinity', lease_id = null, lease_owner = null,
        lease_expires_at = null, stop_requested_at = null, pause_requested_at = null, fair_tag = null, held_for = null,
        credits_held = 0, credits_reserved = 0
    from unnest(p_run_ids, p_errors) as e (run_id, error)
    where r.id = any (array[e.run_id]);
  perform private.close_runs(p_run_ids, v_accounts, v_rests, v_spent);
  if v_places is not null then
    perform private.give_places(v_places, v_unused);
  end if;
  perform private.append_line(p_run_ids, 'state_transition',
    (select array_agg(format('%s -> %s', f, p_status)) from unnest(v_from) f),
    (select array_agg(jsonb_strip_nulls(jsonb_build_object('from', f, 'to', p_status, 'error', e)))
     from unnest(v_from, p_errors) as x (f, e)));
end $$;
