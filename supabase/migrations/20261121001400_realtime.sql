-- Live updates: log lines by postgres_changes (INSERT under row-level security) and, the one that scales, by broadcast on
-- the private topic run:<run_id>. Alters publication supabase_realtime; adds a policy to realtime.messages.

alter publication supabase_realtime add table public.agent_task_logs;

-- True when the topic is run:<id> of a run whose account the caller belongs to; an API key needs the scope to read runs.
create function private.may_hear(p_topic text)
  returns boolean language sql stable security definer set search_path = '' as $$
  select p_topic ~ '^run:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and private.has_scope('runs:read') and exists (
    select from public.agent_runs r
    where r.id = substring(p_topic from 5)::uuid and r.account_id in (select private.my_account_ids()))
$$;
grant execute on function private.may_hear(text) to authenticated;

create policy "Members hear the runs of their accounts" on realtime.messages
  for select to authenticated
  using (extension = 'broadcast' and (select private.may_hear((select realtime.topic()))));
