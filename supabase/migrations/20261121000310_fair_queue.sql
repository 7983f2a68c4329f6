-- The order in which queued runs are claimed, and how many of them go on at a time.
--
-- Slots: an account, an agent and a concurrency key each let only so many runs go on. A run takes a place of each when it
-- comes up, or is held for the first that is full, taking none. Whoever ends, waits or pauses gives its places back, and
-- the best held run gets them: the highest priority, then the one that came up first. Accounts that wait for an agent they
-- share take turns, and the best run is that of the account whose turn it is.
-- Order: start-time fair queueing (Goyal, Vin, Cheng 1996). A run that gets its places gets the tag max(V, next tag of its
-- account) with them; its account's next tag moves on by 1,000,000 / share. V is the highest tag that was claimed. A held
-- run has no tag, so a tenant's hundred thousand runs stand no farther ahead than its places, and a claim reads the head
-- of one index, however long the queue is.
-- Priority decides among an account's own runs only: a better run takes over a sibling's tag, never a stranger's.
-- Table: private.slots. Nothing destructive.
-- Lock order: run rows by id, then credit accounts by id, then slots by id. What is locked after a slot is locked with
-- `skip locked` alone; what could not be had is marked for the next claim (slots.recheck).
-- Plans: each look into the queue says its order, which one index has, and may neither sort nor read a table as a whole.
-- So it finds that index whatever the statistics say: by cost alone all partial indexes of an empty table are alike, and
-- a session keeps its plans while the table fills.
-- Whatever may not read a table as a whole is not compiled either (jit): before PostgreSQL 18 what is not allowed counts ten
-- billion in a plan that has no other way, and to compile such a plan takes a tenth of a second, each time.

create sequence private.fair_time minvalue 0 start 0;
comment on sequence private.fair_time is 'V: the highest fair_tag that was claimed. A sequence, because it must not be a row that all claims lock.';

create table private.slots (
  id bigint generated always as identity primary key,
  kind text not null check (kind in ('account', 'agent', 'key')),
  account_id uuid not null,
  key text not null,
  places integer check (places > 0),
  taken integer not null default 0 check (taken >= 0),
  fair_tag bigint not null default 0,
  recheck boolean not null default false,
  last_account_id uuid not null default '00000000-0000-0000-0000-000000000000',
  unique (account_id, kind, key)
) with (fillfactor = 50);
comment on table private.slots is 'Something that lets only so many runs go on at a time. Ids are from 1: held_for = 0 means not held.';
comment on column private.slots.key is 'Empty for an account, else the agent''s id or the concurrency key.';
comment on column private.slots.places is 'Null for an account: its tier says.';
comment on column private.slots.taken is 'Runs with held_for = 0 that have this slot in slot_ids.';
comment on column private.slots.fair_tag is 'Of an account: the tag of its next run, where V is not higher.';
comment on column private.slots.recheck is 'It may have room for a run that could not be let in at the time; the next claim looks.';
comment on column private.slots.last_account_id is 'Of an agent: the account that had the last turn; of those that wait, the next one by id has the next.';
create index slots_recheck on private.slots (account_id, id) where recheck;
create index slots_keys on private.slots (id) where kind = 'key';
alter table private.slots enable row level security;

create function private.has_room(p_slot private.slots)
  returns boolean language sql stable set search_path = '' as $$
  select p_slot.taken < coalesce(p_slot.places, (
    select t.concurrent_runs from public.accounts a join private.tiers t on t.name = a.tier where a.id = p_slot.account_id))
$$;

-- What limits a run, and by how much: its account, its agent if that has a limit, its concurrency key if it has one.
create function private.limits_of(p_run public.agent_runs)
  returns table (account_id uuid, kind text, key text, places integer)
  language sql stable security definer set search_path = '' rows 2 as $$
  select p_run.account_id, 'account', '', null::integer
  union all
  select a.account_id, 'agent', a.id::text, a.max_concurrent_runs
    from public.agents a where a.id = p_run.agent_id and a.max_concurrent_runs is not null
  union all
  select p_run.account_id, 'key', p_run.concurrency_key, p_run.concurrency_limit where p_run.concurrency_key is not null
$$;

-- The slots of a run, its account's first; null while one is missing.
create function private.slots_of(p_run public.agent_runs)
  returns bigint[] language sql stable security definer set search_path = '' as $$
  select case when count(*) = count(s.id) then array_agg(s.id order by l.kind) end
    from private.limits_of(p_run) l
    left join private.slots s on s.account_id = l.account_id and s.kind = l.kind and s.key = l.key
$$;

create function private.add_slots(p_run public.agent_runs)
  returns void language sql security definer set search_path = '' as $$
  insert into private.slots (account_id, kind, key, places)
    select l.account_id, l.kind, l.key, l.places from private.limits_of(p_run) l
    on conflict do nothing
$$;

-- As slots_of, for a caller that has locked slots already: what is missing is made, where nobody else is making it. Null
-- where somebody is. Of a run that has come up before none should be missing (an agent's is made with its limit, a key's
-- is purged only when no run that has not ended has the key), but an operator may have deleted one.
create function private.made_slots_of(p_run public.agent_runs)
  returns bigint[] language plpgsql security definer set search_path = '' set lock_timeout = '50ms' as $$
begin
  perform private.add_slots(p_run);
  return private.slots_of(p_run);
exception when lock_not_available then
  return null;
end $$;

-- The tag of the account's next run: V, or behind its last one. The caller has locked the account's slot.
create function private.draw_tag(p_slot_id bigint)
  returns bigint language sql security definer set search_path = '' as $$
  update private.slots s
    set fair_tag = greatest(s.fair_tag, (select v.last_value from private.fair_time v)) + 1000000 / t.share
    from public.accounts a join private.tiers t on t.name = a.tier
    where s.id = p_slot_id and a.id = s.account_id
    returning s.fair_tag - 1000000 / t.share
$$;

-- As take_places, for slots that the caller has found (slots_of) and locked.
create function private.take_places_of(
    p_run public.agent_runs, p_slot_ids bigint[], out slot_ids bigint[], out fair_tag bigint, out held_for bigint)
  language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off
  set enable_incremental_sort = off set jit = off as $$
declare
  v_full bigint;
  v_rival public.agent_runs;
begin
  -- A key's limit is what the run says that came up last. Who is held learns of more places by the recheck.
  update private.slots s set places = l.places, recheck = s.recheck or l.places > s.places
    from private.limits_of(p_run) l
    where s.id = any (p_slot_ids) and s.account_id = l.account_id and s.kind = l.kind and s.key = l.key
      and s.places <> l.places;
  select s.id into v_full from private.slots s
    where s.id = any (p_slot_ids) and not private.has_room(s) order by s.kind limit 1;

  if v_full = p_slot_ids[1] then
    -- A sibling of less priority that was let in, but not claimed yet, lets this run have its places and its tag: where
    -- that makes room enough, and what else it took is what this one needs.
    select * into v_rival from public.agent_runs r
      where r.account_id = p_run.account_id and r.status = 'queued' and r.held_for = 0 and r.priority < p_run.priority
        and r.slot_ids <@ p_slot_ids
        and not exists (
          select from private.slots s
          where s.id = any (p_slot_ids) and s.id <> all (r.slot_ids) and not private.has_room(s))
      order by r.priority, r.fair_tag desc limit 1 for update skip locked;
    if found then
      update public.agent_runs r set held_for = v_full, fair_tag = null where r.id = v_rival.id;
      update private.slots s set taken = s.taken - 1 where s.id = any (v_rival.slot_ids);
      fair_tag := v_rival.fair_tag;
      v_full := null;
    end if;
  end if;
  slot_ids := p_slot_ids;
  held_for := coalesce(v_full, 0);
  if held_for = 0 then
    update private.slots s set taken = s.taken + 1, last_account_id = p_run.account_id where s.id = any (p_slot_ids);
    fair_tag := coalesce(fair_tag, private.draw_tag(p_slot_ids[1]));
  end if;
end $$;

-- Brings a locked run up: what the caller is to write into its row. It has a place of each of its slots then
-- (held_for 0), or waits for the first that is full.
create function private.take_places(p_run public.agent_runs, out slot_ids bigint[], out fair_tag bigint, out held_for bigint)
  language plpgsql security definer set search_path = '' as $$
declare
  v_ids bigint[];
begin
  loop
    v_ids := private.slots_of(p_run);
    if v_ids is null then
      perform private.add_slots(p_run);
    else
      perform 1 from private.slots s where s.id = any (v_ids) order by s.id for update;
      -- Fewer are left where one was purged since it was found.
      exit when (select count(*) from private.slots s where s.id = any (v_ids)) = cardinality(v_ids);
    end if;
  end loop;
  select * into slot_ids, fair_tag, held_for from private.take_places_of(p_run, v_ids);
end $$;

-- Lets held runs into the room of these slots, which the caller has locked. A run for which another of its slots is full
-- goes on waiting there. Bounded: what is left is rechecked.
create function private.hand_on(p_slot_ids bigint[])
  returns void language plpgsql security definer
  set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off
  set enable_incremental_sort = off set jit = off as $$
declare
  v_slot_id bigint;
  v_account_id uuid;
  v_run public.agent_runs;
  v_locked integer;
  v_full bigint;
  v_wake boolean := false;
begin
  foreach v_slot_id in array p_slot_ids loop
    for v_try in 1 .. 101 loop
      exit when not (select private.has_room(s) from private.slots s where s.id = v_slot_id);
      -- `held_for > 0` says nothing new to the reader, but it lets a plan for any slot use the partial index.
      select coalesce((
        select r.account_id from public.agent_runs r
          where r.held_for = v_slot_id and r.held_for > 0 and r.status = 'queued' and r.account_id > s.last_account_id
          order by r.account_id limit 1
      ), (
        select r.account_id from public.agent_runs r
          where r.held_for = v_slot_id and r.held_for > 0 and r.status = 'queued'
          order by r.account_id limit 1
      )) into v_account_id from private.slots s where s.id = v_slot_id;
      exit when v_account_id is null;
      -- A turn is over whatever comes of it: a run that somebody has locked, or that goes on to wait for its own account,
      -- keeps no other account from the agent.
      update private.slots s set last_account_id = v_account_id
        where s.id = v_slot_id and s.last_account_id <> v_account_id;
      select * into v_run from public.agent_runs r
        where r.held_for = v_slot_id and r.held_for > 0 and r.status = 'queued' and r.account_id = v_account_id
        order by r.priority desc, r.available_at, r.id limit 1 for update skip locked;
      v_locked := 0;
      if found then
        -- Found anew: its agent may have got a limit since, or another account.
        v_run.slot_ids := coalesce(private.slots_of(v_run), private.made_slots_of(v_run));
        select count(*), min(s.id) filter (where not private.has_room(s)) into v_locked, v_full
          from (select * from private.slots o where o.id = any (v_run.slot_ids) for update skip locked) s;
      end if;
      if v_try > 100 or v_locked = 0 or v_locked < cardinality(v_run.slot_ids) then
        update private.slots s set recheck = true where s.id = v_slot_id;
        v_wake := true;
        exit;
      end if;
      if v_full is null then
        update private.slots s set taken = s.taken + 1 where s.id = any (v_run.slot_ids);
        v_run.fair_tag := private.draw_tag(v_run.slot_ids[1]);
        v_wake := true;
      end if;
      update public.agent_runs r
        set held_for = coalesce(v_full, 0), fair_tag = v_run.fair_tag, slot_ids = v_run.slot_ids
        where r.id = v_run.id;
    end loop;
  end loop;
  if v_wake then
    perform pg_notify('runbase_runs', '');
  end if;
end $$;

-- Gives places back, one of each element (an id may come several times), and hands them on. p_unused are the accounts'
-- slots of runs that leave before they were claimed: their tags were for nothing, so their accounts' next runs stand no
-- farther behind for them.
create function private.give_places(p_slot_ids bigint[], p_unused bigint[] default null)
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_ids bigint[] := array(select distinct u.id from unnest(p_slot_ids) as u (id) order by u.id);
begin
  perform 1 from private.slots s where s.id = any (v_ids) order by s.id for update;
  update private.slots s set taken = s.taken - g.places
    from (select u.id, count(*)::integer as places from unnest(p_slot_ids) as u (id) group by u.id) g
    where s.id = any (array[g.id]);
  if p_unused is not null then
    update private.slots s
      set fair_tag = greatest(0, s.fair_tag - cardinality(array_positions(p_unused, s.id))::bigint * 1000000 / (
        select t.share from public.accounts a join private.tiers t on t.name = a.tier where a.id = s.account_id))
      where s.id = any (p_unused);
  end if;
  perform private.hand_on(v_ids);
end $$;

-- Brings up runs whose timer is due, and lets runs into slots that had room and could not be handed on at the time. Both
-- pass over what somebody has locked: the next claim sees to it. A row that is wrong stops nobody else's claim: its run is
-- tried again a minute later.
create function private.bring_up_due(p_now timestamptz, p_limit integer)
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_run public.agent_runs;
  v_ids bigint[];
  v_slot_id bigint;
begin
  for v_run in
    select * from public.agent_runs r
    where r.status = 'queued' and r.held_for is null and r.available_at <= p_now
    order by r.available_at, r.id limit p_limit for update skip locked
  loop
    begin
      v_ids := coalesce(private.slots_of(v_run), private.made_slots_of(v_run));
      continue when v_ids is null or cardinality(v_ids) > (
        select count(*) from (select from private.slots s where s.id = any (v_ids) for update skip locked) x);
      select * into v_run.slot_ids, v_run.fair_tag, v_run.held_for from private.take_places_of(v_run, v_ids);
      update public.agent_runs r
        set slot_ids = v_run.slot_ids, fair_tag = v_run.fair_tag, held_for = v_run.held_for
        where r.id = v_run.id;
    exception when others then
      raise warning 'Run % does not come up: %', v_run.id, sqlerrm;
      update public.agent_runs r set available_at = p_now + interval '1 minute' where r.id = v_run.id;
    end;
  end loop;
  for v_slot_id in
    select s.id from private.slots s where s.recheck order by s.account_id, s.id limit p_limit for update skip locked
  loop
    begin
      update private.slots s set recheck = false where s.id = v_slot_id;
      perform private.hand_on(array[v_slot_id]);
    exception when others then
      raise warning 'The places of slot % are not handed on: %', v_slot_id, sqlerrm;
    end;
  end loop;
end $$;

-- The account's places go to its runs by priority: of runs picked for a claim, those with a better sibling let it have
-- their place in the order, and their tag. Returns the runs to claim instead. All are locked by this transaction.
create function private.prefer_by_priority(p_run_ids uuid[], p_engines text[])
  returns uuid[] language plpgsql security definer set search_path = '' as $$
declare
  v_account record;
  v_better uuid[];
  v_ids uuid[] := p_run_ids;
begin
  for v_account in
    select c.account_id, array_agg(c.id) as picked
    from public.agent_runs c
    where c.id = any (p_run_ids)
    group by c.account_id
    having min(c.priority) < (
      select b.priority from public.agent_runs b
      where b.account_id = c.account_id and b.status = 'queued' and b.held_for = 0
      order by b.priority desc, b.fair_tag, b.id limit 1)
  loop
    select array_agg(x.id) into v_better from (
      select b.id from public.agent_runs b
      where b.account_id = v_account.account_id and b.status = 'queued' and b.held_for = 0 and b.engine = any (p_engines)
      order by b.priority desc, b.fair_tag, b.id limit cardinality(v_account.picked) for update skip locked
    ) x;
    with involved as (
      select r.id, r.fair_tag, row_number() over (order by r.priority desc, r.fair_tag, r.id) as place
      from public.agent_runs r where r.id = any (v_account.picked || v_better)
    ), tags as (
      select i.fair_tag, row_number() over (order by i.fair_tag, i.id) as place from involved i
    )
    update public.agent_runs r set fair_tag = t.fair_tag
      from involved i join tags t on t.place = i.place
      where r.id = any (array[i.id]) and r.fair_tag <> t.fair_tag;
    v_ids := array(select u.id from unnest(v_ids) as u (id) where u.id <> all (v_account.picked)) || v_better;
  end loop;
  return v_ids;
end $$;

-- A limit that operators change holds from the next claim on: more places are filled then, and of fewer none is given
-- before enough came back. Runs that have their places keep them.
create function private.recheck_slots()
  returns trigger language plpgsql security definer set search_path = '' as $$
declare
  v_account_ids uuid[] := '{}';
begin
  if tg_table_name = 'tiers' then
    v_account_ids := array(select a.id from public.accounts a where a.tier = new.name);
  elsif tg_table_name = 'accounts' then
    v_account_ids := array[new.id];
  else
    -- The slot of an agent that has no limit now, is deleted or was of another account: who waits there need not.
    if old.max_concurrent_runs is not null and (
      new.max_concurrent_runs is null or new.account_id <> old.account_id
    ) then
      update private.slots set places = 2147483647, recheck = true
        where account_id = old.account_id and kind = 'agent' and key = old.id::text;
    end if;
    if new.max_concurrent_runs is not null then
      insert into private.slots (account_id, kind, key, places)
        values (new.account_id, 'agent', new.id::text, new.max_concurrent_runs)
        on conflict (account_id, kind, key) do update set places = excluded.places, recheck = true;
    end if;
  end if;
  -- In the order of all: an operator must not make workers deadlock.
  update private.slots set recheck = true where id in (
    select s.id from private.slots s
    where s.account_id = any (v_account_ids) and s.kind = 'account' order by s.id for update);
  perform pg_notify('runbase_runs', '');
  return null;
end $$;
create trigger recheck_slots after update of concurrent_runs on private.tiers
  for each row execute function private.recheck_slots();
create trigger recheck_slots after update of tier on public.accounts
  for each row execute function private.recheck_slots();
create trigger recheck_slots after insert or delete or update of account_id, max_concurrent_runs on public.agents
  for each row execute function private.recheck_slots();

create function private.set_tier(p_account_id uuid, p_tier text)
  returns void language plpgsql security definer set search_path = '' as $$
begin
  if not exists (select from private.tiers where name = p_tier) then
    raise exception 'There is no tier %', quote_literal(p_tier) using errcode = 'RUN07';
  end if;
  update public.accounts set tier = p_tier where id = p_account_id;
  if not found then
    raise exception 'There is no account %', p_account_id using errcode = 'RUN01';
  end if;
end $$;
grant execute on function private.set_tier(uuid, text) to service_role;

-- Moves an account to another tier. Operators only.
create function public.set_tier(p_account_id uuid, p_tier text)
  returns void language sql security invoker set search_path = ''
  begin atomic select private.set_tier(p_account_id, p_tier); end;
revoke execute on function public.set_tier(uuid, text) from public;
grant execute on function public.set_tier(uuid, text) to service_role;
