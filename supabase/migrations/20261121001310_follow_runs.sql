-- Follow: what a reader of a run's log asks again and again, in one call: where the run stands, the lines behind a seq,
-- and the text that its model wrote since. Errors: RUN01 no such run, RUN09 too many streams. Nothing destructive.

create function private.follow_run(
    p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean)
  returns jsonb language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  v_limit integer := greatest(1, least(p_limit, 500));
  v_account_id uuid;
  v_answer jsonb;
begin
  perform private.require_scope('runs:read');
  select r.account_id into v_account_id from public.agent_runs r
    where r.id = p_run_id and r.account_id in (select private.my_account_ids());
  if not found then
    raise exception 'There is no run %', p_run_id using errcode = 'RUN01';
  end if;
  if p_opening then
    perform private.take_rate(v_account_id, 'stream');
  end if;
  -- One statement, so that all is of one moment: every line up to log_seq was committed with it.
  with line as (
    select l.seq, l.log_type, l.message, l.metadata, l.created_at, row_number() over w as place,
      sum(octet_length(l.message) + octet_length(l.metadata::text)) over w as bytes
    from (
      select t.* from public.agent_task_logs t
      where t.run_id = p_run_id and t.seq > p_after and (p_types is null or t.log_type = any (p_types))
      order by t.seq limit v_limit + 1
    ) l
    window w as (order by l.seq)
  ), page as (
    select coalesce(jsonb_agg(jsonb_build_object('seq', line.seq, 'log_type', line.log_type, 'message', line.message,
        'metadata', line.metadata, 'created_at', line.created_at) order by line.seq), '[]') as lines,
      max(line.seq) as last_seq, count(*) < (select count(*) from line) as more
    from line where line.place = 1 or (line.place <= v_limit and line.bytes <= 1000000)
  ), delta as (
    select coalesce(jsonb_agg(jsonb_build_object('step_no', d.step_no, 'attempt', d.attempt, 'offset', d.text_offset,
        'text', d.text) order by d.step_no, d.attempt, d.text_offset), '[]') as deltas
    from private.step_deltas d
    left join jsonb_to_recordset(p_written) as w (step_no integer, attempt integer, characters integer)
      on w.step_no = d.step_no and w.attempt = d.attempt
    where d.run_id = p_run_id and p_written is not null
      and d.text_offset + char_length(d.text) > coalesce(w.characters, 0)
  )
  select jsonb_build_object('status', r.status, 'revision', r.revision, 'lines', page.lines, 'more', page.more,
      'reached', case when page.more then page.last_seq else greatest(r.log_seq, p_after) end, 'deltas', delta.deltas)
    into strict v_answer
    from public.agent_runs r, page, delta where r.id = p_run_id;
  return v_answer;
end $$;
grant execute on function private.follow_run(uuid, bigint, integer, public.log_type[], jsonb, boolean) to authenticated;

-- Reads on in a run's log: {status, revision, lines, reached, more, deltas}. The lines are those behind p_after, of p_types
-- if given; `reached` is the next p_after, and `more` says that lines follow at once (an answer has at most p_limit, 500,
-- and about a megabyte). p_written, [{step_no, attempt, characters}], is the model output that the caller has; null asks
-- for none. p_opening counts as the opening of a stream.
create function public.follow_run(
    p_run_id uuid, p_after bigint default 0, p_limit integer default 100, p_types public.log_type[] default null,
    p_written jsonb default null, p_opening boolean default false)
  returns jsonb language sql security invoker set search_path = ''
  begin atomic select private.follow_run(p_run_id, p_after, p_limit, p_types, p_written, p_opening); end;
revoke execute on function public.follow_run(uuid, bigint, integer, public.log_type[], jsonb, boolean) from public, anon;
grant execute on function public.follow_run(uuid, bigint, integer, public.log_type[], jsonb, boolean) to authenticated;
