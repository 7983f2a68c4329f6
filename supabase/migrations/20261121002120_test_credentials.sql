-- Testing keys at their providers, and asking Flowise servers for their flows: how often a user may, and what the last
-- minute's tests found out, so that the same key is not asked for twice. What was found is known by the key's fingerprint,
-- which only functions can make, for the user who tested alone. The stored credential itself is opened by
-- 20261121002110_open_credentials.sql.
-- Tables: private.test_rates, private.test_results. Error: RUN09 too often, detail {"action", "limit",
-- "retry_after_seconds"}. Deletes results that are over a minute old.

-- The generic cell rate algorithm, as in 20261121000320_rate_limits.sql; for users, because a key that is tested belongs
-- to no account yet.
create table private.test_rates (
  user_id uuid primary key references auth.users (id) on delete cascade,
  full_at timestamptz not null
) with (fillfactor = 50);
alter table private.test_rates enable row level security;

create table private.test_results (
  user_id uuid not null references auth.users (id) on delete cascade,
  fingerprint text not null check (fingerprint ~ '^[0-9a-f]{32}$'),
  result jsonb not null check (octet_length(result::text) <= 16384),
  created_at timestamptz not null default private.clock(),
  primary key (user_id, fingerprint)
);
create index test_results_created_at on private.test_results (created_at);
alter table private.test_results enable row level security;

-- Counts a call that the caller has made to a server with a key he has just entered. p_refusal says so to who makes more
-- than 20 a minute.
create function private.take_test(p_refusal text)
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_user_id uuid := (select auth.uid());
  v_now timestamptz := private.clock();
  v_minute timestamptz := v_now + interval '60 s';
  v_limit constant integer := 20;
  v_each constant interval := interval '3 s';
  v_wait numeric;
begin
  if v_user_id is null then
    raise exception 'Only a signed-in user can test a key' using errcode = 'RUN06';
  end if;
  insert into private.test_rates as r (user_id, full_at) values (v_user_id, v_now + v_each)
    on conflict (user_id) do update
      set full_at = case when r.full_at between v_now and v_minute then r.full_at else v_now end + v_each
      where not (r.full_at > v_minute - v_each and r.full_at <= v_minute);
  if not found then
    select greatest(extract(epoch from r.full_at + v_each - v_minute), 0.001) into v_wait
      from private.test_rates r where r.user_id = v_user_id;
    raise exception '%', format(p_refusal, v_limit)
      using errcode = 'RUN09', hint = format('Try again in %s s.', ceil(v_wait)),
        detail = jsonb_build_object('action', 'test', 'limit', v_limit, 'retry_after_seconds', v_wait)::text;
  end if;
end $$;

create function private.begin_credential_test()
  returns void language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_scope('credentials:write');
  perform private.take_test('You may test at most %s keys a minute');
end $$;
grant execute on function private.begin_credential_test() to authenticated;

create function private.begin_flowise_call()
  returns void language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_scope('agents:write');
  perform private.take_test('You may ask Flowise servers, and test keys, at most %s times a minute');
end $$;
grant execute on function private.begin_flowise_call() to authenticated;

create function private.known_credential_test(p_fingerprint text)
  returns jsonb language sql stable security definer set search_path = '' as $$
  select result from private.test_results
  where user_id = (select auth.uid()) and fingerprint = p_fingerprint and private.has_scope('credentials:write')
    and created_at between private.clock() - interval '1 minute' and private.clock()
$$;
grant execute on function private.known_credential_test(text) to authenticated;

create function private.remember_credential_test(p_fingerprint text, p_result jsonb)
  returns void language plpgsql security definer set search_path = '' as $$
declare
  v_user_id uuid := (select auth.uid());
begin
  perform private.require_scope('credentials:write');
  if v_user_id is null or coalesce(p_fingerprint, '') !~ '^[0-9a-f]{32}$' or jsonb_typeof(p_result) is distinct from 'object'
      or octet_length(p_result::text) > 16384 then
    raise exception 'p_fingerprint and p_result must be what a function made' using errcode = 'RUN07';
  end if;
  -- Each result that is added takes away old ones, so the table holds little more than the last minute's.
  delete from private.test_results t where t.ctid = any (array(
    select o.ctid from private.test_results o where o.created_at < private.clock() - interval '1 minute'
    order by o.created_at limit 50 for update skip locked));
  if (select count(*) from private.test_results where user_id = v_user_id) < 100 then
    insert into private.test_results (user_id, fingerprint, result) values (v_user_id, p_fingerprint, p_result)
      on conflict (user_id, fingerprint) do update set result = excluded.result, created_at = excluded.created_at;
  end if;
end $$;
grant execute on function private.remember_credential_test(text, jsonb) to authenticated;

-- Counts a test of the caller's. Raises RUN09 above 20 a minute.
create function public.begin_credential_test()
  returns void language sql security invoker set search_path = ''
  begin atomic select private.begin_credential_test(); end;
revoke execute on function public.begin_credential_test() from public, anon;
grant execute on function public.begin_credential_test() to authenticated;

-- Counts a call of the caller's to a Flowise server that he names, as a test is: both let a stranger's server be tried.
create function public.begin_flowise_call()
  returns void language sql security invoker set search_path = ''
  begin atomic select private.begin_flowise_call(); end;
revoke execute on function public.begin_flowise_call() from public, anon;
grant execute on function public.begin_flowise_call() to authenticated;

-- What the caller's last test of this key found out, if it was within a minute; else null.
create function public.known_credential_test(p_fingerprint text)
  returns jsonb language sql stable security invoker set search_path = ''
  begin atomic select private.known_credential_test(p_fingerprint); end;
revoke execute on function public.known_credential_test(text) from public, anon;
grant execute on function public.known_credential_test(text) to authenticated;

create function public.remember_credential_test(p_fingerprint text, p_result jsonb)
  returns void language sql security invoker set search_path = ''
  begin atomic select private.remember_credential_test(p_fingerprint, p_result); end;
revoke execute on function public.remember_credential_test(text, jsonb) from public, anon;
grant execute on function public.remember_credential_test(text, jsonb) to authenticated;
