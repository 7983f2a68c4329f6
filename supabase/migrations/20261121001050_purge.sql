-- Purge: rows that nobody asks for any more, of tables that would grow for ever: idempotency keys after seven days, rate
-- limits that are long full again, slots of concurrency keys that no unended run has, events that no step owned up to
-- within a week. A part of the sweep: a little at a time, and waiting for nobody. Table: private.housekeeping. Deletes data,
-- as it says.

create table private.housekeeping (
  only_row boolean primary key default true check (only_row),
  due_at timestamptz not null default '-infinity',
  slot_id bigint not null default 0
);
comment on table private.housekeeping is 'One row: when to purge next, and the last slot that was looked at.';
insert into private.housekeeping default values;
alter table private.housekeeping enable row level security;

create index idempotency_keys_created_at on private.idempotency_keys (created_at);
create index rate_limits_full_at on private.rate_limits (full_at);
create index agent_runs_keyed on public.agent_runs (account_id, concurrency_key)
  where concurrency_key is not null and finished_at is null;

-- Deletes at most p_limit rows of each table and returns how many in all. Once a minute, or once a second while there is
-- more; a call in between, or beside another, does nothing.
create function private.purge_old(p_now timestamptz, p_limit integer)
  returns integer language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off
  set jit = off as $$
declare
  v_last_slot_id bigint;
  v_slot_ids bigint[];
  v_unused bigint[];
  v_count integer;
  v_deleted integer := 0;
  v_more boolean;
begin
  select h.slot_id into v_last_slot_id from private.housekeeping h
    where h.due_at <= p_now or h.due_at > p_now + interval '1 minute'  -- the clock was set back
    for update skip locked;
  if not found then
    return 0;
  end if;

  -- By ctid: the rows are locked, so they stay where they are.
  delete from private.idempotency_keys k where k.ctid = any (array(
    select o.ctid from private.idempotency_keys o
    where o.created_at < p_now - interval '7 days' order by o.created_at limit p_limit for update skip locked));
  get diagnostics v_count = row_count;
  v_deleted := v_deleted + v_count;
  v_more := v_count = p_limit;

  delete from private.rate_limits l where l.ctid = any (array(
    select o.ctid from private.rate_limits o
    where o.full_at < p_now - interval '1 hour' order by o.full_at limit p_limit for update skip locked));
  get diagnostics v_count = row_count;
  v_deleted := v_deleted + v_count;
  v_more := v_more or v_count = p_limit;

  delete from private.step_events e where e.ctid = any (array(
    select o.ctid from private.step_events o
    where not o.awaited and o.created_at < p_now - interval '7 days' order by o.created_at limit p_limit
    for update skip locked));
  get diagnostics v_count = row_count;
  v_deleted := v_deleted + v_count;
  v_more := v_more or v_count = p_limit;

  -- Slots in turn. First locked, then asked for: a run that comes up with the key meanwhile finds the slot gone and makes
  -- it again, and one that has come up is seen.
  v_slot_ids := array(
    select s.id from private.slots s where s.kind = 'key' and s.id > v_last_slot_id order by s.id limit p_limit);
  v_unused := array(
    select s.id from private.slots s where s.id = any (v_slot_ids) and s.taken = 0 for update skip locked);
  delete from private.slots s
    where s.id = any (v_unused) and not exists (
      select from public.agent_runs r
      where r.account_id = s.account_id and r.concurrency_key = s.key and r.finished_at is null);
  get diagnostics v_count = row_count;
  v_deleted := v_deleted + v_count;
  v_more := v_more or cardinality(v_slot_ids) = p_limit;

  update private.housekeeping
    set due_at = p_now + case when v_more then interval '1 second' else interval '1 minute' end,
        slot_id = case when cardinality(v_slot_ids) = p_limit then v_slot_ids[p_limit] else 0 end;
  return v_deleted;
end $$;
