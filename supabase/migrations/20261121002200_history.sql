-- History: the runs of an account, newest first, found by what a person remembers of them, and re-run.
-- A page looks at a bounded number of runs, not only answers one: a search that finds nothing costs as much as one that
-- does, and says where to go on. What is looked at is ordered by an index; anything else is a condition on that.
-- View: public.execution_logs. Errors: RUN01 no such run or agent, RUN06 not allowed, RUN07 invalid input, RUN15 retired.
-- Nothing destructive.

-- Both lead by what their query compares for equality and end in an order that only they have after it (nulls last), so no
-- statistics choose another index. agent_id, account_id, created_at and id never change. status does, but it is in the
-- conditions of other indexes: an update of it was never HOT, and the others stay so.
create index agent_runs_of_agent on public.agent_runs (agent_id, account_id, created_at desc nulls last, id)
  where agent_id is not null;
create index agent_runs_by_status on public.agent_runs (status, account_id, created_at desc nulls last, id);

-- How long a run took from its start to its end, in milliseconds; null before its end, or when it never started.
create function private.duration_ms(p_started_at timestamptz, p_finished_at timestamptz)
  returns bigint language sql immutable set search_path = '' as $$
  select (extract(epoch from p_finished_at - p_started_at) * 1000)::bigint
$$;
grant execute on function private.duration_ms(timestamptz, timestamptz) to authenticated;

-- The agent of a run: {id, name, version}. Definer: whose run it is may see what it was of, also when the agent is retired
-- or the access has run out; name and number are all there is to see.
create function private.agent_of_run(p_agent_id uuid, p_version_id uuid)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('id', p_agent_id,
      'name', (select a.name from public.agents a where a.id = p_agent_id),
      'version', (select v.number from public.agent_versions v where v.id = p_version_id))
    where p_agent_id is not null
$$;
grant execute on function private.agent_of_run(uuid, uuid) to authenticated;

-- The runs of a page, newest first: their ids, and the place (created_at, id) behind which the next page begins, null at
-- the end. A page ends at p_limit runs and at two megabytes of what they hold (one run it always has). It looks at 10,000
-- runs at most; in a search of text at 1,000, and at 32 MB of them as stored: then it is short, or empty, with a next place.
-- Looked at are the runs of the agent if one is given, or those in the status if it is one, else all of the account.
create function private.find_runs(
    p_account_id uuid, p_statuses public.run_status[], p_engine text, p_agent_id uuid, p_created_after timestamptz,
    p_created_before timestamptz, p_text text, p_behind_at timestamptz, p_behind_id uuid, p_limit integer,
    out run_ids uuid[], out next_at timestamptz, out next_id uuid)
  language plpgsql stable security definer
  set search_path = '' set enable_seqscan = off set jit = off set enable_sort = off as $$
declare
  v_limit constant integer := greatest(1, least(p_limit, 200));
  v_look_at constant integer := case when p_text is null then 10000 else 1000 end;
  v_path jsonpath;
  v_driver text := '';
  v_run record;
  v_looked integer := 0;
  v_searched bigint := 0;
  v_bytes bigint := 0;
  v_goes_on boolean := false;
begin
  perform private.require_scope('runs:read');
  run_ids := '{}';
  if private.my_role(p_account_id) is null then
    -- A stranger's history is empty; but it must not end in the middle as if that were its end.
    if p_behind_id is not null then
      raise exception 'You may not read the runs of account %', p_account_id using errcode = 'RUN06';
    end if;
    return;
  end if;
  if char_length(p_text) not between 1 and 200 then
    raise exception 'text must have 1 to 200 characters' using errcode = 'RUN07';
  end if;
  if p_text is not null then
    -- In any text within the JSON, whatever the case; not in the names of fields. q: it is no pattern.
    v_path := format('strict $.** ? (@ like_regex %s flag "iq")', to_jsonb(p_text));
  end if;
  if p_agent_id is not null then
    v_driver := 'i.agent_id = $5 and';
  elsif cardinality(p_statuses) = 1 then
    v_driver := 'i.status = ($3)[1] and';
  end if;

  for v_run in execute format($query$
    select r.id, r.created_at, r.input, r.output, r.error,
      pg_column_size(r.input) + coalesce(pg_column_size(r.output), 0) as stored,
      ($3 is null or r.status = any ($3)) and ($4 is null or r.engine = $4)
        and ($6 is null or jsonb_path_exists(r.input, $6) or coalesce(jsonb_path_exists(r.output, $6), false)
          or coalesce(jsonb_path_exists(r.error, $6), false)
          -- A value: of an `exists` the planner may make a table of all agents.
          or coalesce((select strpos(lower(a.name), lower($7)) > 0 from public.agents a where a.id = r.agent_id), false)
        ) as fits
    from (
      select i.id, i.created_at, i.status, i.engine, i.agent_id, i.input, i.output, i.error
      from public.agent_runs i
      where %1$s i.account_id = $1 and i.created_at > $8 and i.created_at < $9
        and i.created_at <= $10 and (i.created_at < $10 or i.id > $11)
      order by i.created_at %2$s, i.id limit $2
    ) r
    order by r.created_at %2$s, r.id
  $query$, v_driver, case when v_driver = '' then 'desc' else 'desc nulls last' end)
    using p_account_id, v_look_at, p_statuses, p_engine, p_agent_id, v_path, p_text,
      coalesce(p_created_after, '-infinity'), coalesce(p_created_before, 'infinity'),
      coalesce(p_behind_at, 'infinity'), p_behind_id
  loop
    v_goes_on := cardinality(run_ids) = v_limit or (p_text is not null and v_searched > 33554432);
    exit when v_goes_on;
    if v_run.fits then
      v_bytes := v_bytes + octet_length(v_run.input::text) + coalesce(octet_length(v_run.output::text), 0)
        + coalesce(octet_length(v_run.error::text), 0);
      v_goes_on := v_bytes > 2000000 and cardinality(run_ids) > 0;
      exit when v_goes_on;
      run_ids := run_ids || v_run.id;
    end if;
    v_looked := v_looked + 1;
    v_searched := v_searched + v_run.stored;
    next_at := v_run.created_at;
    next_id := v_run.id;
    v_goes_on := v_looked = v_look_at;
  end loop;
  if not v_goes_on then
    next_at := null;
    next_id := null;
  end if;
end $$;
grant execute on function private.find_runs(uuid, public.run_status[], text, uuid, timestamptz, timestamptz, text, timestamptz,
  uuid, integer) to authenticated;

-- Runs as their people may see them, newest first, without the machinery: [{id, status, input, output, agent, ...}].
-- Which of the ids are theirs, row-level security decides.
create function public.show_runs(p_run_ids uuid[])
  returns jsonb language sql stable security invoker set search_path = '' set enable_seqscan = off set jit = off
  begin atomic
    select coalesce(jsonb_agg(to_jsonb(s) order by s.created_at desc, s.id), '[]')
    from (
      select r.id, r.account_id, r.user_id, r.status, r.held_for, r.revision, r.engine, r.input, r.output, r.error,
        r.created_at, r.started_at, r.finished_at, private.duration_ms(r.started_at, r.finished_at) as duration_ms,
        r.deadline_at, r.step_count, r.max_steps, r.timeout_seconds, r.priority, r.concurrency_key, r.concurrency_limit,
        r.forked_from, r.fork_step, r.log_seq, r.credits_held, r.credits_reserved, r.credits_spent, r.max_credits,
        private.agent_of_run(r.agent_id, r.agent_version_id) as agent
      from public.agent_runs r where r.id = any (p_run_ids)
    ) s;
  end;
revoke execute on function public.show_runs(uuid[]) from public, anon;
grant execute on function public.show_runs(uuid[]) to authenticated;

-- A page of an account's history: {runs, next: {created_at, id} or null}, as private.find_runs says. The next page is
-- behind that place; runs that are made meanwhile come before it and move nothing.
create function public.list_runs(
    p_account_id uuid, p_statuses public.run_status[] default null, p_engine text default null,
    p_agent_id uuid default null, p_created_after timestamptz default null, p_created_before timestamptz default null,
    p_text text default null, p_behind_at timestamptz default null, p_behind_id uuid default null,
    p_limit integer default 50)
  returns jsonb language sql stable security invoker set search_path = ''
  begin atomic
    select jsonb_build_object('runs', public.show_runs(f.run_ids),
      'next', case when f.next_id is not null then jsonb_build_object('created_at', f.next_at, 'id', f.next_id) end)
    from private.find_runs(p_account_id, p_statuses, p_engine, p_agent_id, p_created_after, p_created_before, p_text,
      p_behind_at, p_behind_id, p_limit) f;
  end;
revoke execute on function public.list_runs(uuid, public.run_status[], text, uuid, timestamptz, timestamptz, text,
  timestamptz, uuid, integer) from public, anon;
grant execute on function public.list_runs(uuid, public.run_status[], text, uuid, timestamptz, timestamptz, text,
  timestamptz, uuid, integer) to authenticated;

-- For programs that read a table of this name. Row-level security of agent_runs decides, because the view is its reader's;
-- its own condition says the same in a form that an index serves.
create view public.execution_logs with (security_invoker = true) as
  select r.id, r.user_id, r.agent_id, r.status, r.input as input_snapshot, r.output as output_snapshot,
    r.error ->> 'message' as error_message, private.duration_ms(r.started_at, r.finished_at) as duration_ms,
    trim_scale(r.credits_spent / 1000000.0) as credits_consumed, r.created_at, r.finished_at as completed_at
  from public.agent_runs r
  where r.account_id = any (array(select private.my_account_ids()));
comment on view public.execution_logs is 'Runs in the shape of an execution log. Read only; credits_consumed is in credits.';
revoke all on public.execution_logs from anon, authenticated, service_role;
grant select on public.execution_logs to authenticated;

-- By provider, the credentials to name for a re-run: the same as before while they can be used; where one is gone, that of
-- a run without an agent is the account's newest, and an agent's is looked for again as at a creation.
create function private.credentials_again(p_run public.agent_runs)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_object_agg(o.provider, coalesce(same.id, newest.id::text, o.id))
      filter (where same.id is not null or p_run.agent_id is null), '{}')
  from jsonb_each_text(p_run.credential_ids) o (provider, id)
  left join lateral (
    select o.id from public.credentials c
    where c.id::text = o.id and c.account_id = p_run.account_id and c.provider = o.provider and c.deleted_at is null
      and c.last_test ->> 'valid' is distinct from 'false'
  ) same on true
  left join lateral (
    select c.id from public.credentials c
    where c.account_id = p_run.account_id and c.provider = o.provider and c.deleted_at is null
      and c.last_test ->> 'valid' is distinct from 'false'
    order by c.created_at desc, c.id limit 1
  ) newest on true
$$;

create function private.rerun_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_run public.agent_runs;  -- not locked: what is read of it never changes
  v_new public.agent_runs;
  v_version public.agent_versions;
  v_role public.account_role;
  v_credentials record;
  v_answer jsonb;
begin
  perform private.require_scope('runs:write');
  select * into v_run from public.agent_runs where id = p_run_id;
  v_role := private.my_role(v_run.account_id);
  if v_role is null then
    raise exception 'There is no run %', p_run_id using errcode = 'RUN01';
  end if;
  if v_role = 'viewer' then
    raise exception 'Your role viewer in this account may read run % and not run it again', p_run_id
      using errcode = 'RUN06';
  end if;
  v_answer := private.recall(v_run.account_id, 'rerun', p_idempotency_key, jsonb_build_object('run_id', p_run_id));
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.agent_id is not null then
    perform private.refuse_without_agent(v_run);
    select * into strict v_version from public.agent_versions where id = v_run.agent_version_id;
  end if;
  select * into v_credentials
    from private.resolve_credentials(v_run.account_id, v_version, private.credentials_again(v_run));
  perform private.refuse_problems(v_credentials.problems);

  perform private.take_rate(v_run.account_id, 'create');
  insert into public.agent_runs (account_id, user_id, agent_id, agent_version_id, credential_ids, price, engine, input,
      max_steps, timeout_seconds, max_credits, priority, concurrency_key, concurrency_limit, forked_from)
    values (v_run.account_id, (select auth.uid()), v_run.agent_id, v_run.agent_version_id, v_credentials.credential_ids,
      case when v_run.agent_id is null or private.is_agent_of(v_run.agent_id, v_run.account_id) then 0
        else v_version.price end,
      v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds, v_run.max_credits, v_run.priority,
      v_run.concurrency_key, v_run.concurrency_limit, p_run_id)
    returning * into v_new;
  if p_autostart then
    v_new := private.queue_run(v_new);
  end if;
  v_answer := private.run_answer(v_new) || jsonb_build_object('created', true, 'forked_from', p_run_id);
  perform private.remember(v_run.account_id, 'rerun', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.rerun_run(uuid, text, boolean) to authenticated;

-- Runs the same again: a new run with the input, options and agent version of any run that the caller may read and whose
-- account he may create runs in. Nothing is taken over but that (fork_step stays null), so its steps draw new effect keys.
-- Access to the agent, its price and the credentials are looked at again: a version that was replaced since may be
-- re-run, a retired agent may not (RUN15).
create function public.rerun_run(p_run_id uuid, p_idempotency_key text default null, p_autostart boolean default true)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.rerun_run(p_run_id, p_idempotency_key, p_autostart); end;
revoke execute on function public.rerun_run(uuid, text, boolean) from public, anon;
grant execute on function public.rerun_run(uuid, text, boolean) to authenticated;
