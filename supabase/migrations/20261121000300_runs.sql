-- Runs and what they record. A run is a row; its steps, plans, messages, artifacts, log lines and questions hang on its
-- id without foreign keys, because they are written with every step (foreign keys there cost 10-50 % of throughput).
-- Users read under row-level security; only the functions of the next files write.
-- Tables: agent_runs agent_steps agent_plans agent_messages agent_artifacts agent_task_logs human_requests,
-- private.run_transitions private.step_transitions private.idempotency_keys private.step_deltas private.run_snapshots.
-- Nothing destructive.

create type public.run_status as enum (
  'created',         -- -> queued cancelled
  'queued',          -- -> planning executing paused cancelled timeout failed
  'planning',        -- -> executing queued awaiting_input paused failed cancelled timeout
  'executing',       -- -> planning queued awaiting_input paused completed failed cancelled timeout
  'awaiting_input',  -- -> queued paused cancelled timeout
  'paused',          -- -> queued cancelled timeout
  'completed', 'failed', 'cancelled', 'timeout'  -- final
);
create type public.step_status as enum ('pending', 'running', 'completed', 'failed', 'skipped', 'cancelled');
create type public.step_effect as enum ('pure', 'idempotent', 'effectful');
create type public.log_type as enum (
  'info', 'success', 'error', 'warning', 'state_transition', 'tool_success', 'tool_error', 'phase_advance',
  'user_input_required'
);
create type public.step_wait as enum ('human', 'timer', 'child', 'event');

-- The table of moves; shared/runs/status.py holds the same, and a test proves them equal.
create table private.run_transitions (
  from_status public.run_status not null,
  to_status public.run_status not null,
  primary key (from_status, to_status)
);
insert into private.run_transitions values
  ('created', 'queued'), ('created', 'cancelled'),
  ('queued', 'planning'), ('queued', 'executing'), ('queued', 'paused'), ('queued', 'cancelled'),
  ('queued', 'timeout'), ('queued', 'failed'),
  ('planning', 'executing'), ('planning', 'queued'), ('planning', 'awaiting_input'), ('planning', 'paused'),
  ('planning', 'failed'), ('planning', 'cancelled'), ('planning', 'timeout'),
  ('executing', 'planning'), ('executing', 'queued'), ('executing', 'awaiting_input'), ('executing', 'paused'),
  ('executing', 'completed'), ('executing', 'failed'), ('executing', 'cancelled'), ('executing', 'timeout'),
  ('awaiting_input', 'queued'), ('awaiting_input', 'paused'), ('awaiting_input', 'cancelled'),
  ('awaiting_input', 'timeout'),
  ('paused', 'queued'), ('paused', 'cancelled'), ('paused', 'timeout');
alter table private.run_transitions enable row level security;

create table private.step_transitions (
  from_status public.step_status not null,
  to_status public.step_status not null,
  primary key (from_status, to_status)
);
insert into private.step_transitions values
  ('pending', 'running'), ('pending', 'skipped'), ('pending', 'cancelled'),
  ('running', 'pending'), ('running', 'completed'), ('running', 'failed'), ('running', 'skipped'),
  ('running', 'cancelled');
alter table private.step_transitions enable row level security;

-- Only what a step changes has a check here: PostgreSQL reads and runs all of a table's checks at every update. The others
-- stand below, in triggers of the columns they are about.
create table public.agent_runs (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null,
  user_id uuid,
  agent_id uuid,
  agent_version_id uuid,
  credential_ids jsonb not null default '{}',
  price bigint not null default 0,
  engine text not null,
  status public.run_status not null default 'created',
  resumes_as public.run_status not null default 'planning',
  revision bigint not null default 1,
  input jsonb not null default '{}',
  output jsonb,
  error jsonb,
  available_at timestamptz not null default 'infinity',
  priority smallint not null default 0,
  concurrency_key text,
  concurrency_limit integer,
  fair_tag bigint,
  held_for bigint,
  slot_ids bigint[],
  started_at timestamptz,
  paused_at timestamptz,
  deadline_at timestamptz,
  finished_at timestamptz,
  created_at timestamptz not null default private.clock(),
  updated_at timestamptz not null default private.clock(),
  lease_id uuid,
  lease_owner text,
  lease_expires_at timestamptz,
  attempt integer not null default 0,
  max_attempts integer not null default 5,
  stop_requested_at timestamptz,
  pause_requested_at timestamptz,
  max_steps integer not null default 100,
  timeout_seconds integer not null default 3600,
  step_count integer not null default 0,
  max_credits bigint,
  credits_held bigint not null default 0,
  credits_reserved bigint not null default 0,
  credits_spent bigint not null default 0,
  log_seq bigint not null default 0,
  broadcast_seq bigint not null default 0,
  broadcast_at timestamptz,
  forked_from uuid,
  fork_step integer,
  constraint agent_runs_credits check (credits_held >= 0 and credits_reserved >= 0 and credits_spent >= 0)
) with (fillfactor = 70);  -- room for HOT updates: a run row changes with every step
comment on table public.agent_runs is 'One execution of any engine. Written by functions only; revision rises with every transition.';
comment on column public.agent_runs.agent_version_id is 'What it does, for good: pinned when it was created.';
comment on column public.agent_runs.credential_ids is
  'By provider, the credentials of its account that its steps may open. Those that its agent brings stand in the version.';
comment on column public.agent_runs.price is 'What its start costs besides its steps, in micro-credits; 0 when paid before.';
comment on column public.agent_runs.resumes_as is 'What a claim moves a queued run to: planning or executing.';
comment on column public.agent_runs.revision is
  'Optimistic lock. Rises with every transition and record; heartbeats and requests to stop or pause leave it.';
comment on column public.agent_runs.available_at is 'A queued run comes up for a place from here on; infinity waits for an event.';
comment on column public.agent_runs.priority is 'Higher goes first among the account''s own runs; it moves nobody else''s.';
comment on column public.agent_runs.concurrency_key is 'At most concurrency_limit runs of the account with this key go on at a time.';
comment on column public.agent_runs.fair_tag is 'Its place in the order of claims: a start-time tag, given with its places. Null while it is held or does not queue.';
comment on column public.agent_runs.held_for is '0: it has its places and may be claimed or is claimed. Else the slot that was full, where it waits.';
comment on column public.agent_runs.slot_ids is 'The slots it takes a place of: its account''s first, then its agent''s and its key''s.';
comment on column public.agent_runs.lease_id is 'The fence: new at every claim, named by every advance.';
comment on column public.agent_runs.attempt is 'Leases that expired since the last completed step; above max_attempts the run is poison.';
comment on column public.agent_runs.deadline_at is 'Set at start, moved by paused time; over it the run ends as timeout.';
comment on column public.agent_runs.credits_held is 'What is left of the hold, in micro-credits.';
comment on column public.agent_runs.credits_reserved is 'The upper bounds of the steps that are open, part of credits_held.';
comment on column public.agent_runs.log_seq is 'The seq of the last log line; gap-free from 1.';
comment on column public.agent_runs.broadcast_seq is 'The seq of the last log line that was broadcast.';

-- Never an index on revision, lease_expires_at, updated_at or a counter: steps must stay HOT updates.
create index agent_runs_ready on public.agent_runs (engine, fair_tag, id) where status = 'queued' and held_for = 0;
create index agent_runs_ready_of_account on public.agent_runs (account_id, priority desc, fair_tag, id)
  where status = 'queued' and held_for = 0;
create index agent_runs_held on public.agent_runs (held_for, account_id, priority desc, available_at, id)
  where status = 'queued' and held_for > 0;
create index agent_runs_timers on public.agent_runs (available_at, id) where status = 'queued' and held_for is null;
create index agent_runs_leased on public.agent_runs (engine, id) where status in ('planning', 'executing');
create index agent_runs_deadline on public.agent_runs (deadline_at) where status in ('queued', 'awaiting_input');
create index agent_runs_history on public.agent_runs (account_id, created_at desc, id);
create index agent_runs_forked_from on public.agent_runs (forked_from) where forked_from is not null;

create table public.agent_steps (
  run_id uuid not null,
  step_no integer not null,
  account_id uuid not null,
  key text not null,
  kind text not null,
  name text not null,
  phase text,
  status public.step_status not null,
  attempt integer not null default 1,
  failed_attempts integer not null default 0,
  max_attempts integer not null default 3,
  effect public.step_effect not null,
  effect_key uuid not null,
  input jsonb not null default '{}',
  output jsonb,
  error jsonb,
  waits_for public.step_wait,
  available_at timestamptz,
  created_at timestamptz not null default private.clock(),
  timeout_seconds double precision not null,
  credits_bound bigint not null default 0,
  credits_spent bigint not null default 0,
  started_at timestamptz,
  finished_at timestamptz,
  finished_revision bigint,
  primary key (run_id, step_no),
  constraint agent_steps_credits check (credits_bound >= 0 and credits_spent >= 0)
) with (fillfactor = 80);
comment on table public.agent_steps is 'A unit of work with a stored result, numbered from 1 within its run.';
comment on column public.agent_steps.key is 'The engine''s name of the step, the same whenever the same decision is drawn.';
comment on column public.agent_steps.attempt is 'Tries so far; each is booked apart. failed_attempts counts those that max_attempts limits.';
comment on column public.agent_steps.effect_key is 'What outward calls carry as idempotency key; attempts and retry keep it.';
comment on column public.agent_steps.available_at is
  'When a pending step is tried, or a wait ends; infinity until the event. Null while it is performed and when it has ended.';
comment on column public.agent_steps.created_at is 'When it was first started; started_at moves with every try.';
comment on column public.agent_steps.credits_bound is
  'What it may cost; reserved in the run while it is performed, not while it waits.';
comment on column public.agent_steps.finished_revision is 'The run''s revision that committed the result: the order of results.';

create table public.agent_plans (
  run_id uuid not null,
  number integer not null,
  account_id uuid not null,
  step_no integer not null,
  goal text not null,
  phases jsonb not null,
  reason text,
  created_at timestamptz not null default private.clock(),
  primary key (run_id, number)
);
comment on table public.agent_plans is 'The plans of a run; a replan is the next number and says its reason.';
create index agent_plans_of_step on public.agent_plans (run_id, step_no);

create table public.agent_messages (
  run_id uuid not null,
  message_no bigint generated always as identity,
  account_id uuid not null,
  step_no integer not null,
  role text not null check (role in ('user', 'assistant', 'tool')),
  content jsonb not null,
  created_at timestamptz not null default private.clock(),
  primary key (run_id, message_no)
);
comment on table public.agent_messages is 'The conversation of a run in order of message_no. Text lives here once; steps refer to it.';
create index agent_messages_of_step on public.agent_messages (run_id, step_no);

create table public.agent_artifacts (
  run_id uuid not null,
  artifact_no bigint generated always as identity,
  account_id uuid not null,
  step_no integer not null,
  name text not null check (char_length(name) between 1 and 200),
  content_type text not null,
  content text not null check (octet_length(content) <= 65536),
  size_bytes integer not null,
  created_at timestamptz not null default private.clock(),
  primary key (run_id, artifact_no)
);
comment on table public.agent_artifacts is 'Files that steps produced; the newest artifact_no of a name is current.';

create table public.agent_task_logs (
  run_id uuid not null,
  seq bigint not null,
  account_id uuid not null,
  log_type public.log_type not null,
  message text not null check (octet_length(message) <= 8192),
  metadata jsonb not null default '{}',
  created_at timestamptz not null default private.clock(),
  primary key (run_id, seq)
);
comment on table public.agent_task_logs is 'What a run tells its people: append-only, gap-free by seq, broadcast and published.';

create table public.human_requests (
  id uuid primary key default gen_random_uuid(),
  run_id uuid not null,
  account_id uuid not null,
  step_no integer not null,
  kind text not null check (kind in ('question', 'approval')),
  prompt text not null,
  options jsonb not null default '[]' check (jsonb_typeof(options) = 'array'),
  status text not null default 'open' check (status in ('open', 'answered', 'cancelled')),
  response jsonb,
  responded_by uuid,
  created_at timestamptz not null default private.clock(),
  responded_at timestamptz
);
comment on table public.human_requests is 'Questions of a run to its people; an answer completes the step that asked.';
create index human_requests_run_id on public.human_requests (run_id);
create index human_requests_account_id on public.human_requests (account_id, created_at desc);

create table private.idempotency_keys (
  account_id uuid not null,
  action text not null,
  key text not null check (char_length(key) between 1 and 200),
  fingerprint bytea not null,
  response jsonb,
  created_at timestamptz not null default private.clock(),
  primary key (account_id, action, key)
);
comment on table private.idempotency_keys is 'The first answer to each key, scoped to account and action.';
alter table private.idempotency_keys enable row level security;

-- Model output while it is being written. Unlogged: losing it costs nothing, the step's full text is stored at its end.
create unlogged table private.step_deltas (
  run_id uuid not null,
  step_no integer not null,
  attempt integer not null,
  text_offset integer not null,
  text text not null,
  primary key (run_id, step_no, attempt, text_offset)
);
alter table private.step_deltas enable row level security;

-- An engine's state after the results up to a revision, so that a new slice reads only what came since. Unlogged: it can
-- be lost at any time, for the same state comes from folding all results.
create unlogged table private.run_snapshots (
  run_id uuid primary key,
  revision bigint not null,
  version integer not null,
  step_count integer not null,
  open_steps integer[] not null,
  kept_steps integer[] not null,
  state jsonb not null check (octet_length(state::text) <= 65536)  -- the worker sends at most 32 KB of lean JSON
);
comment on column private.run_snapshots.revision is 'Results committed up to this revision are in the state.';
comment on column private.run_snapshots.version is 'The engine''s version of its state''s shape; another one is not read.';
comment on column private.run_snapshots.step_count is 'Steps above this number were started later.';
comment on column private.run_snapshots.open_steps is 'Steps up to step_count that had not ended.';
comment on column private.run_snapshots.kept_steps is 'Ended steps whose results the engine wants to see again with the state.';
alter table private.run_snapshots enable row level security;

-- Members read the runs of their accounts; every write goes through functions. service_role reads too, and writes no more.
do $$
declare
  v_table text;
begin
  foreach v_table in array array['agent_runs', 'agent_steps', 'agent_plans', 'agent_messages', 'agent_artifacts',
    'agent_task_logs', 'human_requests']
  loop
    execute format('alter table public.%I enable row level security', v_table);
    execute format('revoke all on public.%I from anon, authenticated, service_role', v_table);
    execute format('grant select on public.%I to authenticated, service_role', v_table);
    execute format(
      'create policy "Members read what belongs to their accounts" on public.%I for select to authenticated '
      'using (account_id in (select private.my_account_ids()))', v_table);
  end loop;
end $$;

-- The guard: no other move, whoever asks. Its condition is written out from the tables of moves, because a trigger that
-- only fires to refuse costs a step nothing; and it fires after the update, because before it PostgreSQL would lock the row
-- first and log that.
create function private.refuse_move()
  returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_table_name = 'agent_runs' then
    raise exception 'Run % is % and cannot become %', old.id, old.status, new.status using errcode = 'RUN02';
  end if;
  raise exception 'Step % of run % is % and cannot become %', old.step_no, old.run_id, old.status, new.status
    using errcode = 'RUN02';
end $$;
do $$
declare
  v_guard record;
begin
  for v_guard in
    select m.name, string_agg(format('old.status = %L and new.status = any (%L)', m.from_status, m.others), ' or ') as moves
    from (
      select 'agent_runs' as name, from_status::text, array_agg(to_status order by to_status)::text as others
        from private.run_transitions group by from_status
      union all
      select 'agent_steps', from_status::text, array_agg(to_status order by to_status)::text
        from private.step_transitions group by from_status
    ) m
    group by m.name
  loop
    execute format('create trigger guard after update of status on public.%I for each row '
      'when (old.status is distinct from new.status and not (%s)) execute function private.refuse_move()',
      v_guard.name, v_guard.moves);
  end loop;
end $$;

-- What a run's columns must be to one another, and within which bounds a person may choose: a violated check, whoever
-- writes. lease_expires_at goes with lease_id and fires none, for every step and heartbeat moves it: these two refuse to
-- take it away.
create function private.refuse_run()
  returns trigger language plpgsql set search_path = '' as $$
begin
  raise exception 'Run % violates %', new.id, tg_name
    using errcode = 'check_violation', constraint = tg_name, table = tg_table_name, schema = tg_table_schema;
end $$;
create trigger agent_runs_lease_while_running
  after insert or update of status, resumes_as, lease_id, lease_owner on public.agent_runs for each row when (not (
    new.resumes_as in ('planning', 'executing')
    and (new.status in ('planning', 'executing')) = (new.lease_id is not null)
    and (new.lease_id is null) = (new.lease_owner is null)
    and (new.lease_id is null) = (new.lease_expires_at is null)
  )) execute function private.refuse_run();
create trigger agent_runs_in_the_queue
  after insert or update of status, fair_tag, held_for on public.agent_runs for each row when (not (
    (new.fair_tag is null) = (new.held_for is distinct from 0)
    and (new.held_for is null or new.status in ('queued', 'planning', 'executing'))
    and (new.status not in ('planning', 'executing') or new.held_for is not distinct from 0)
  )) execute function private.refuse_run();
create trigger agent_runs_finished_at_the_end
  after insert or update of status, finished_at on public.agent_runs for each row when (
    (new.status in ('completed', 'failed', 'cancelled', 'timeout')) = (new.finished_at is null)
  ) execute function private.refuse_run();
create trigger agent_runs_chosen
  after insert or update of priority, concurrency_key, concurrency_limit, max_attempts, max_steps,
    timeout_seconds, max_credits
  on public.agent_runs for each row when (not (
    new.priority between -100 and 100
    and (new.concurrency_key is null) = (new.concurrency_limit is null)
    and (new.concurrency_key is null or char_length(new.concurrency_key) between 1 and 200)
    and (new.concurrency_limit is null or new.concurrency_limit between 1 and 10000)
    and new.max_attempts between 1 and 100
    and new.max_steps between 1 and 10000
    and new.timeout_seconds between 1 and 604800
    and (new.max_credits is null or new.max_credits > 0)
  )) execute function private.refuse_run();
