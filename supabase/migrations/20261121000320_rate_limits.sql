-- Limits a minute by tier: creates and starts of runs, and streams of logs, for each account. One call, one row.
-- The generic cell rate algorithm (ITU-T I.371): full_at is when the account could again do a whole minute's worth at
-- once; each action moves it on by 60 s / limit, and it may be at most 60 s ahead of now. Refused calls are not counted.
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
  v_limit integer;
  v_each interval;
  v_wait double precision;
begin
  select case p_action when 'create' then t.creates_per_minute when 'start' then t.starts_per_minute
      else t.streams_per_minute end
    into strict v_limit
    from public.accounts a join private.tiers t on t.name = a.tier where a.id = p_account_id;
  v_each := interval '60 s' / v_limit;
  insert into private.rate_limits as l (account_id, action, full_at) values (p_account_id, p_action, v_now + v_each)
    on conflict (account_id, action) do update
      set full_at = greatest(l.full_at, v_now) + v_each
      where greatest(l.full_at, v_now) + v_each <= v_now + interval '60 s';
  if not found then
    select extract(epoch from l.full_at + v_each - v_now) - 60 into v_wait
      from private.rate_limits l where l.account_id = p_account_id and l.action = p_action;
    raise exception '%', format(case p_action
        when 'create' then 'This account may create at most %s runs a minute'
        when 'start' then 'This account may start at most %s runs a minute'
        else 'This account may open at most %s log streams a minute' end, v_limit)
      using errcode = 'RUN09', hint = format('Try again in %s seconds.', ceil(greatest(v_wait, 1))),
        detail = jsonb_build_object('action', p_action, 'limit', v_limit,
          'retry_after_seconds', round(greatest(v_wait, 0.001)::numeric, 3))::text;
  end if;
end $$;
