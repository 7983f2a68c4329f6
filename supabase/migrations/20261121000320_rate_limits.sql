-- Limits a minute by tier: creates and starts of runs, and streams of logs, for each account. One call, one row.
-- The generic cell rate algorithm (ITU-T I.371): full_at is when the account could again do a whole minute's worth at
-- once; each action moves it on by 60 s / limit, and it may be at most 60 s ahead of now. What is farther ahead was
-- written by a clock that was set back since, and says nothing. A refusal rolls its call back and is not counted.
-- Table: private.rate_limits. Error: RUN09 too often, detail {"action", "limit", "retry_after_seconds"}. Nothing destructive.

create table private.rate_limits (
  account_id uuid not null,
  action text not null check (action in ('create', 'start', 'stream')),
  full_at timestamptz not null,
  primary key (account_id, action)
) with (fillfactor = 50);
alter table private.rate_limits enable row level security;

create function private.take_rate(p_account_id uuid, p_action text)
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := private.clock();
  v_minute timestamptz := v_now + interval '60 s';
  v_limit integer;
  v_each interval;
  v_wait numeric;
begin
  select case p_action when 'create' then t.creates_per_minute when 'start' then t.starts_per_minute
      else t.streams_per_minute end
    into strict v_limit
    from public.accounts a join private.tiers t on t.name = a.tier where a.id = p_account_id;
  -- Rounded down to microseconds: rounded up, the last of a minute's worth would not fit.
  v_each := make_interval(secs => (60000000 / v_limit) / 1e6);
  insert into private.rate_limits as l (account_id, action, full_at) values (p_account_id, p_action, v_now + v_each)
    on conflict (account_id, action) do update
      set full_at = case when l.full_at between v_now and v_minute then l.full_at else v_now end + v_each
      where not (l.full_at > v_minute - v_each and l.full_at <= v_minute);
  if not found then
    select extract(epoch from l.full_at + v_each - v_minute) into v_wait
      from private.rate_limits l where l.account_id = p_account_id and l.action = p_action;
    v_wait := greatest(v_wait, 0.001);
    raise exception '%', format(case p_action
        when 'create' then 'This account may create at most %s runs a minute'
        when 'start' then 'This account may start at most %s runs a minute'
        else 'This account may open at most %s log streams a minute' end, v_limit)
      using errcode = 'RUN09', hint = format('Try again in %s s.', ceil(v_wait)),
        detail = jsonb_build_object('action', p_action, 'limit', v_limit, 'retry_after_seconds', v_wait)::text;
  end if;
end $$;
