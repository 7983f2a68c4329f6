-- Retry: a new run that takes over what was recorded before the first step that did not complete, so that history is
-- never rewritten. Errors: RUN01 no such agent any more, RUN02 move not allowed, RUN15
-- agent retired. A retry keeps the version and the credentials.
-- Lock order everywhere: run rows by id, then credit accounts by id, then slots by id. Nothing destructive.

-- True for a step that a fork copied as it ended: what it recorded comes along.
create function private.is_taken_over(p_run_id uuid, p_step_no integer)
  returns boolean language sql stable set search_path = '' as $$
  select exists (select from public.agent_steps
    where run_id = p_run_id and step_no = p_step_no and status in ('completed', 'skipped'))
$$;

create function private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, null);
  v_new public.agent_runs;
  v_fork integer;
  v_fork_ended timestamptz;
  v_price bigint;
  v_answer jsonb;
begin
  v_answer := private.recall(v_run.account_id, 'retry', p_idempotency_key, jsonb_build_object('run_id', p_run_id));
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.status not in ('failed', 'cancelled', 'timeout') then
    raise exception 'Run % is %; only a failed, cancelled or timed-out run can be retried', p_run_id, v_run.status
      using errcode = 'RUN02';
  end if;
  -- The first step that did not complete; where all did, the engine gave up on the last result, so that is tried again.
  select coalesce(min(step_no) filter (where status in ('failed', 'cancelled')), max(step_no), 1) into v_fork
    from public.agent_steps where run_id = p_run_id;
  if v_run.error ->> 'code' = 'max_steps' then
    raise exception 'Run % ended at its limit of % steps, which a retry would meet again', p_run_id, v_run.max_steps
      using errcode = 'RUN02', hint = 'Create a new run with a higher max_steps.';
  end if;
  select coalesce(finished_at, 'infinity') into v_fork_ended
    from public.agent_steps where run_id = p_run_id and step_no = v_fork;

  perform private.refuse_without_agent(v_run);
  -- What was paid for the agent is paid for the first retry too, and not for more: they would be runs for nothing.
  v_price := case
    when v_run.started_at is null then v_run.price
    when not exists (select from public.agent_runs f where f.forked_from = p_run_id and f.fork_step is not null) then 0
    when v_run.agent_id is null or private.is_agent_of(v_run.agent_id, v_run.account_id) then 0
    else (select price from public.agent_versions where id = v_run.agent_version_id)
  end;

  perform private.take_rate(v_run.account_id, 'create');
  insert into public.agent_runs (account_id, user_id, agent_id, agent_version_id, credential_ids, price, engine, input,
      max_steps, timeout_seconds, max_credits, priority, concurrency_key, concurrency_limit, resumes_as, step_count,
      forked_from, fork_step, revision)
    values (v_run.account_id, (select auth.uid()), v_run.agent_id, v_run.agent_version_id, v_run.credential_ids, v_price,
      v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds, v_run.max_credits, v_run.priority, v_run.concurrency_key, v_run.concurrency_limit,
      v_run.resumes_as, 0, p_run_id, v_fork, v_run.revision)
    returning * into v_new;
  -- What was started before the fork's step ended cannot depend on how it ended: that is taken over as it is, parallel
  -- siblings too. It costs nothing again, and its order stays, for the new run's revisions go on from the old one's.
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, attempt, failed_attempts,
      max_attempts, effect, effect_key, input, output, error, timeout_seconds, credits_bound, created_at, started_at,
      finished_at, finished_revision)
    select v_new.id, step_no, account_id, key, kind, name, phase, status, attempt, failed_attempts,
      max_attempts, effect, effect_key, input, output, error, timeout_seconds, credits_bound, created_at, started_at,
      finished_at, finished_revision
    from public.agent_steps
    where run_id = p_run_id and status in ('completed', 'skipped') and step_no <> v_fork
      and (step_no < v_fork or created_at < v_fork_ended);
  -- The step at the fork, and siblings that did not complete either, are tried again under their old effect_key, so that
  -- a provider can tell a repeat.
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, available_at, created_at)
    select v_new.id, step_no, account_id, key, kind, name, phase, 'pending', max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, private.clock(), created_at
    from public.agent_steps
    where run_id = p_run_id
      and (step_no = v_fork or (step_no > v_fork and status in ('failed', 'cancelled') and created_at < v_fork_ended));
  update public.agent_runs
    set step_count = (select coalesce(max(step_no), 0) from public.agent_steps where run_id = v_new.id)
    where id = v_new.id
    returning * into v_new;
  insert into public.agent_messages (run_id, account_id, step_no, role, content, created_at)
    select v_new.id, account_id, step_no, role, content, created_at
    from public.agent_messages m
    where m.run_id = p_run_id and private.is_taken_over(v_new.id, m.step_no) order by m.message_no;
  insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases, reason, created_at)
    select v_new.id, number, account_id, step_no, goal, phases, reason, created_at
    from public.agent_plans p where p.run_id = p_run_id and private.is_taken_over(v_new.id, p.step_no);
  insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes, created_at)
    select v_new.id, account_id, step_no, name, content_type, content, size_bytes, created_at
    from public.agent_artifacts a
    where a.run_id = p_run_id and private.is_taken_over(v_new.id, a.step_no) order by a.artifact_no;

  if p_autostart then
    v_new := private.queue_run(v_new);
  end if;
  v_answer := private.run_answer(v_new)
    || jsonb_build_object('created', true, 'forked_from', p_run_id, 'fork_step', v_fork);
  perform private.remember(v_run.account_id, 'retry', p_idempotency_key, v_answer);
  return v_answer;
end $$;
grant execute on function private.retry_run(uuid, text, boolean) to authenticated;

-- Makes a new run that takes over the steps before the first one that did not complete.
create function public.retry_run(p_run_id uuid, p_idempotency_key text default null, p_autostart boolean default true)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.retry_run(p_run_id, p_idempotency_key, p_autostart); end;
revoke execute on function public.retry_run(uuid, text, boolean) from public, anon;
grant execute on function public.retry_run(uuid, text, boolean) to authenticated;
