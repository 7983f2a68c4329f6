-- Log lines: appended under the run row's lock, so that seq has no gaps, and broadcast in tails.
-- Functions: private.realtime_takes, private.broadcast, private.log_messages, private.broadcast_logs,
-- private.append_line. Why rows are looked up by `= any (array[x])`, here and in the next files: see advance_runs.
-- Nothing destructive.

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

-- Sends a message to each of the topics; each payload names its "id", as realtime.send would. Nothing that is wrong with
-- Realtime fails or delays a run: what cannot be sent is a warning.
create function private.broadcast(p_event text, p_topics text[], p_payloads jsonb[])
  returns void language plpgsql security definer set search_path = '' set lock_timeout = '50ms' as $$
begin
  if p_topics is null or not private.realtime_takes() then
    return;
  end if;
  begin
    -- What realtime.send does, once for all: message by message it takes three times as long.
    insert into realtime.messages (id, payload, event, topic, private, extension)
      select (u.payload ->> 'id')::uuid, u.payload, p_event, u.topic, true, 'broadcast'
      from unnest(p_topics, p_payloads) as u (topic, payload);
  exception
    -- Its table may look otherwise some day; the function stays. A locked partition would make it wait for each message.
    when undefined_column or undefined_table or undefined_function or invalid_column_reference or datatype_mismatch
        or generated_always or not_null_violation or wrong_object_type or insufficient_privilege then
      perform realtime.send(u.payload, p_event, u.topic, true) from unnest(p_topics, p_payloads) as u (topic, payload);
  end;
exception when others then
  raise warning 'Realtime takes no % messages: %', p_event, sqlerrm;
end $$;

-- The messages that tell the lines of these runs behind p_from_seqs, in order: one a run, or for a long tail several of at
-- most 150 KB and one line more, because Realtime refuses those over 256 KB. A line is made of its row at once, and a
-- message as a whole: each more time that JSON is copied costs a step of a busy run a microsecond.
create function private.log_messages(p_run_ids uuid[], p_from_seqs bigint[])
  returns table (topic text, payload jsonb) language sql security definer set search_path = '' as $$
  select 'run:' || r.id, jsonb_build_object('id', gen_random_uuid(), 'run_id', r.id, 'status', r.status,
    'revision', r.revision, 'lines', part.lines)
  from unnest(p_run_ids, p_from_seqs) as told (run_id, from_seq)
  join public.agent_runs r on r.id = any (array[told.run_id])
  cross join lateral (
    select jsonb_agg(l.line order by l.seq) as lines
    from (
      select line, line.seq, sum(octet_length(line.message) + octet_length(line.metadata::text) + 150)
        over (order by line.seq) as bytes
      from (
        select t.seq, t.log_type, t.message, t.metadata, t.created_at
        from public.agent_task_logs t where t.run_id = r.id and t.seq > told.from_seq
      ) line
    ) l
    group by l.bytes / 150000
    order by min(l.seq)
  ) part
$$;

-- Broadcasts what these runs have said since p_from_seqs. The lines are in their rows, so who listens sees by seq what
-- could not be sent.
create function private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[])
  returns void language sql security definer set search_path = '' as $$
  select private.broadcast('log', array_agg(m.topic), array_agg(m.payload))
  from private.log_messages(p_run_ids, p_from_seqs) m
$$;

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
      from before where r.id = any (array[before.id])
      returning r.id, r.account_id, r.log_seq, before.broadcast_seq
  ), written as (
    insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata)
      select c.id, c.log_seq, c.account_id, p_log_type, line.message, line.metadata
      from counted c join line on line.run_id = c.id
  )
  select array_agg(id), array_agg(broadcast_seq) into v_ids, v_from from counted;
  perform private.broadcast_logs(v_ids, v_from);
end $$;
