-- Log lines: appended under the run row's lock, so that seq has no gaps, and broadcast in tails.
-- Functions: private.broadcast_logs, private.append_line. Nothing destructive.

-- The tail of log lines that was not broadcast yet, one message a run. p_from_seqs are the last seqs sent before.
-- Realtime refuses messages over 256 KB, so a long tail goes as several, each with at most 150 KB and one line more.
-- realtime.send turns its own failures into warnings, so a broken Realtime never blocks a run.
create function private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[])
  returns void language plpgsql security definer set search_path = '' as $$
begin
  perform realtime.send(
    jsonb_build_object('run_id', r.id, 'status', r.status, 'revision', r.revision, 'lines', lines.lines),
    'log', 'run:' || r.id, true)
  from unnest(p_run_ids, p_from_seqs) as tail (run_id, from_seq)
  join public.agent_runs r on r.id = tail.run_id
  cross join lateral (
    select jsonb_agg(jsonb_build_object(
      'seq', l.seq, 'log_type', l.log_type, 'message', l.message, 'metadata', l.metadata, 'created_at', l.created_at
    ) order by l.seq) as lines
    from (
      select t.*, sum(octet_length(t.message) + octet_length(t.metadata::text) + 150) over (order by t.seq) as bytes
      from public.agent_task_logs t where t.run_id = r.id and t.seq > tail.from_seq
    ) l
    group by l.bytes / 150000
    order by min(l.seq)
  ) lines;
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
