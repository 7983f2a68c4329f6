-- A run as a worker and its engine need it, and what they load by key. For service_role alone.
-- With a snapshot only what it does not cover is read, so a new slice costs the same however long a run is.
-- Functions: recorded_steps, run_view, load_run, load_results, load_artifacts. Nothing destructive.

-- What was recorded in the steps above p_after and in those of p_listed (none of them above p_after):
-- {steps, messages, plans}. A range of the index a table, and one look-up for each listed step: with "or" every PostgreSQL
-- reads the whole run, and with the list in one condition older ones do.
create function private.recorded_steps(p_run_id uuid, p_after integer, p_listed integer[])
  returns jsonb language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'steps', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'step_no', s.step_no, 'key', s.key, 'kind', s.kind, 'name', s.name, 'status', s.status, 'attempt', s.attempt,
        'failed_attempts', s.failed_attempts, 'max_attempts', s.max_attempts, 'effect', s.effect,
        'effect_key', s.effect_key, 'input', s.input, 'output', s.output, 'error', s.error, 'waits_for', s.waits_for,
        'due_in_seconds', case when s.available_at = 'infinity' then 1e9
          else greatest(0, extract(epoch from s.available_at - c.now)) end,
        'timeout_seconds', s.timeout_seconds, 'credits_bound', s.credits_bound, 'phase', s.phase,
        'finished_revision', s.finished_revision) order by s.step_no), '[]')
      from (
        select * from public.agent_steps where run_id = p_run_id and step_no > p_after
        union all
        select t.* from (select distinct l from unnest(p_listed) l) as n (step_no)
          cross join lateral (
            select * from public.agent_steps o where o.run_id = p_run_id and o.step_no = n.step_no offset 0) t
      ) s, (select private.clock() as now) c),
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', m.step_no, 'role', m.role, 'content', m.content)
        order by m.message_no), '[]')
      from (
        select * from public.agent_messages where run_id = p_run_id and step_no > p_after
        union all
        select t.* from (select distinct l from unnest(p_listed) l) as n (step_no)
          cross join lateral (
            select * from public.agent_messages o where o.run_id = p_run_id and o.step_no = n.step_no offset 0) t
      ) m),
    'plans', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', p.step_no, 'goal', p.goal, 'phases', p.phases,
        'reason', p.reason) order by p.number), '[]')
      from (
        select * from public.agent_plans where run_id = p_run_id and step_no > p_after
        union all
        select t.* from (select distinct l from unnest(p_listed) l) as n (step_no)
          cross join lateral (
            select * from public.agent_plans o where o.run_id = p_run_id and o.step_no = n.step_no offset 0) t
      ) p))
$$;

-- Runs as a worker and its engine need them: [{run, snapshot: {version, state, kept_steps} or null, steps, messages,
-- plans}]. With a snapshot the steps are those that were open when it was taken, later ones, and kept ones.
-- p_whole reads all steps and no snapshot. `agent` is the version that the run has pinned, null when it is of none;
-- `credential_ids` are those that its steps may open, the agent's own among them.
create function private.run_view(p_run_ids uuid[], p_whole boolean default false)
  returns jsonb language sql stable security definer set search_path = '' set enable_seqscan = off set jit = off as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'run', jsonb_build_object(
      'id', r.id, 'account_id', r.account_id, 'user_id', r.user_id, 'engine', r.engine, 'status', r.status,
      'revision', r.revision, 'lease_id', r.lease_id, 'attempt', r.attempt, 'input', r.input,
      'step_count', r.step_count, 'max_steps', r.max_steps,
      'remaining_seconds', extract(epoch from r.deadline_at - c.now),
      'stop_requested', r.stop_requested_at is not null, 'pause_requested', r.pause_requested_at is not null,
      'credential_ids', coalesce(v.managed_credentials, '{}') || r.credential_ids,
      'agent', case when v.id is not null then jsonb_build_object(
        'agent_id', v.agent_id, 'version_id', v.id, 'number', v.number, 'engine', v.engine, 'config', v.config,
        'input_schema', v.input_schema, 'credential_types', v.credential_types,
        'managed', v.managed_credentials <> '{}', 'price', v.price) end),
    'snapshot', case when n.run_id is not null then
      jsonb_build_object('version', n.version, 'state', n.state, 'kept_steps', n.kept_steps) end
  ) || case when r.step_count = 0 then '{"steps": [], "messages": [], "plans": []}'
    else private.recorded_steps(r.id, coalesce(n.step_count, 0), n.open_steps || n.kept_steps) end order by r.id), '[]')
  from public.agent_runs r
  left join private.run_snapshots n on n.run_id = r.id and not p_whole
  -- By its key for each run, and never hashed: a catalogue of any size costs a claim the same.
  left join lateral (select * from public.agent_versions o where o.id = r.agent_version_id limit 1) v on true,
  (select private.clock() as now) c
  where r.id = any (p_run_ids)
$$;
grant execute on function private.run_view(uuid[], boolean) to service_role;

-- What the steps of these numbers recorded: {steps, messages, plans}.
create function private.load_results(p_run_id uuid, p_step_nos jsonb)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select private.recorded_steps(p_run_id, 2147483647, array(select n::integer from jsonb_array_elements_text(p_step_nos) n))
$$;
grant execute on function private.load_results(uuid, jsonb) to service_role;

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

-- p_whole: without the snapshot, for an engine that cannot read it.
create function public.load_run(p_run_id uuid, p_whole boolean default false)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.run_view(array[p_run_id], p_whole) -> 0; end;
revoke execute on function public.load_run(uuid, boolean) from public, anon, authenticated;
grant execute on function public.load_run(uuid, boolean) to service_role;

create function public.load_results(p_run_id uuid, p_step_nos jsonb)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.load_results(p_run_id, p_step_nos); end;
revoke execute on function public.load_results(uuid, jsonb) from public, anon, authenticated;
grant execute on function public.load_results(uuid, jsonb) to service_role;

create function public.load_artifacts(p_run_id uuid, p_names text[])
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.load_artifacts(p_run_id, p_names); end;
revoke execute on function public.load_artifacts(uuid, text[]) from public, anon, authenticated;
grant execute on function public.load_artifacts(uuid, text[]) to service_role;
