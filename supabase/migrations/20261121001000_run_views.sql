-- A run as a worker and its engine need it, and what they load by key. For service_role alone.
-- Functions: run_view, load_run, load_artifacts. Nothing destructive.

-- One run as a worker and its engine need it: {run, steps, messages, plans}.
create function private.run_view(p_run_ids uuid[])
  returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'run', jsonb_build_object(
      'id', r.id, 'account_id', r.account_id, 'user_id', r.user_id, 'engine', r.engine, 'status', r.status,
      'revision', r.revision, 'lease_id', r.lease_id, 'attempt', r.attempt, 'input', r.input,
      'step_count', r.step_count, 'max_steps', r.max_steps,
      'remaining_seconds', extract(epoch from r.deadline_at - c.now),
      'stop_requested', r.stop_requested_at is not null, 'pause_requested', r.pause_requested_at is not null),
    'steps', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'step_no', s.step_no, 'key', s.key, 'kind', s.kind, 'name', s.name, 'status', s.status, 'attempt', s.attempt,
        'failed_attempts', s.failed_attempts, 'max_attempts', s.max_attempts, 'effect', s.effect,
        'effect_key', s.effect_key, 'input', s.input, 'output', s.output, 'error', s.error, 'waits_for', s.waits_for,
        'due_in_seconds', case when s.available_at = 'infinity' then 1e9
          else greatest(0, extract(epoch from s.available_at - c.now)) end,
        'timeout_seconds', s.timeout_seconds, 'credits_bound', s.credits_bound, 'phase', s.phase,
        'finished_revision', s.finished_revision) order by s.step_no), '[]')
      from public.agent_steps s where s.run_id = r.id),
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', m.step_no, 'role', m.role, 'content', m.content)
        order by m.message_no), '[]')
      from public.agent_messages m where m.run_id = r.id),
    'plans', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', p.step_no, 'goal', p.goal, 'phases', p.phases,
        'reason', p.reason) order by p.number), '[]')
      from public.agent_plans p where p.run_id = r.id)
  ) order by r.id), '[]')
  from public.agent_runs r, (select private.clock() as now) c
  where r.id = any (p_run_ids)
$$;
grant execute on function private.run_view(uuid[]) to service_role;

-- The newest artifact of each name: [{name, content, content_type}].
create function private.load_artifacts(p_run_id uuid, p_names text[])
  returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('name', a.name, 'content', a.content, 'content_type', a.content_type)), '[]')
  from (
    select distinct on (name) name, content, content_type from public.agent_artifacts
    where run_id = p_run_id and name = any (p_names) order by name, artifact_no desc
  ) a
$$;
grant execute on function private.load_artifacts(uuid, text[]) to service_role;

create function public.load_run(p_run_id uuid)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.run_view(array[p_run_id]) -> 0; end;
revoke execute on function public.load_run(uuid) from public, anon, authenticated;
grant execute on function public.load_run(uuid) to service_role;

create function public.load_artifacts(p_run_id uuid, p_names text[])
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.load_artifacts(p_run_id, p_names); end;
revoke execute on function public.load_artifacts(uuid, text[]) from public, anon, authenticated;
grant execute on function public.load_artifacts(uuid, text[]) to service_role;
