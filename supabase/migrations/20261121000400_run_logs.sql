-- Log lines: appended under the run row's lock, so that seq has no gaps, and broadcast in tails.
-- Functions: private.realtime_takes, private.broadcast_long_tail, private.broadcast_logs, private.append_line. Nothing
-- destructive.

-- Whether Realtime takes messages now. Somebody may have locked its table (a restore, a change of its partitions), and a
-- run waits for no viewer: at most 50 ms a call, however many messages follow. What else is wrong, realtime.send will say.
create function private.realtime_takes()
  returns boolean language plpgsql security definer set search_path = '' set lock_timeout = '50ms' as $$
begin
  lock table only realtime.messages in row exclusive mode;
  return true;
exception
  when lock_not_available then
    raise warning 'realtime.messages is locked; nothing is broadcast';
    return false;
  when others then
    return true;
end $$;

-- A long tail of one run, in messages of at most 150 KB and one line more: Realtime refuses those over 256 KB.
create function private.broadcast_long_tail(p_run public.agent_runs, p_from_seq bigint)
  returns void language sql security definer set search_path = '' as $$
  select realtime.send(
    jsonb_build_object('run_id', p_run.id, 'status', p_run.status, 'revision', p_run.revision, 'lines', part.lines),
    'log', 'run:' || p_run.id, true)
  from (
    select jsonb_agg(jsonb_build_object('seq', l.seq, 'log_type', l.log_type, 'message', l.message,
      'metadata', l.metadata, 'created_at', l.created_at) order by l.seq) as lines
    from (
      select t.*, sum(octet_length(t.message) + octet_length(t.metadata::text) + 150) over (order by t.seq) as bytes
      from public.agent_task_logs t where t.run_id = p_run.id and t.seq > p_from_seq
    ) l
    group by l.bytes / 150000
    order by min(l.seq)
  ) part
$$;

-- The tail of log lines that was not broadcast yet, one message a run. p_from_seqs are the last seqs sent before.
-- Nothing that is wrong with Realtime fails or delays a run: what cannot be sent is a warning. The lines are in their rows,
-- and who listens sees the gap by seq.
create function private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[])
  returns void language plpgsql security definer set search_path = '' set lock_timeout = '50ms' as $$
begin
  if not private.realtime_takes() then
    return;
  end if;
  perform case when tail.bytes <= 150000
      then realtime.send(
        jsonb_build_object('run_id', r.id, 'status', r.status, 'revision', r.revision, 'lines', tail.lines),
        'log', 'run:' || r.id, true)
      else private.broadcast_long_tail(r, told.from_seq) end
  from unnest(p_run_ids, p_from_seqs) as told (run_id, from_seq)
  join public.agent_runs r on r.id = told.run_id
  cross join lateral (
    select jsonb_agg(jsonb_build_object('seq', l.seq, 'log_type', l.log_type, 'message', l.message,
        'metadata', l.metadata, 'created_at', l.created_at)) as lines,
      sum(octet_length(l.message) + pg_column_size(l.metadata) * 2 + 150) as bytes
    from (
      select * from public.agent_task_logs t where t.run_id = r.id and t.seq > told.from_seq order by t.seq
    ) l
  ) tail
  where tail.lines is not null;
exception when others then
  raise warning 'Realtime takes no log lines: %', sqlerrm;
end $$;

-- Appends one line to each of the given runs, whose rows the caller has locked, and broadcasts the tails. The caller has
-- not yet counted the lines: this raises log_seq.
create function private.append_line(p_run_ids uuid[], p_log_type public.log_type, p_messages text[], p_metadata jsonb[])
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_ids uuid[];
  v_from bigint[];
begin
  with line as (
    select * from unnest(p_run_ids, p_messages, p_metadata) as x (run_id, message, metadata)
  ), before as (
    select r.id, r.broadcast_seq from public.agent_runs r where r.id = any (p_run_ids)
  ), counted as (
    update public.agent_runs r
      set log_seq = r.log_seq + 1, broadcast_seq = r.log_seq + 1, broadcast_at = private.clock()
      from before where before.id = r.id
      returning r.id, r.account_id, r.log_seq, before.broadcast_seq
  ), written as (
    insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata)
      select c.id, c.log_seq, c.account_id, p_log_type, line.message, line.metadata
      from counted c join line on line.run_id = c.id
  )
  select array_agg(id), array_agg(broadcast_seq) into v_ids, v_from from counted;
  perform private.broadcast_logs(v_ids, v_from);
end $$;
