-- The schema that supabase/migrations make, written by scripts/schema. Not to be edited, nor to be applied.

CREATE SCHEMA private;

COMMENT ON SCHEMA private IS 'Helpers, transition tables and definer functions; never exposed by the API.';

CREATE SCHEMA public;

COMMENT ON SCHEMA public IS 'standard public schema';

CREATE TYPE public.run_status AS ENUM (
    'created',
    'queued',
    'planning',
    'executing',
    'awaiting_input',
    'paused',
    'completed',
    'failed',
    'cancelled',
    'timeout'
);

CREATE TYPE private.advance_move AS (
	id uuid,
	wish public.run_status,
	available_in double precision,
	output jsonb,
	error jsonb,
	new_steps integer,
	completed boolean,
	in_flight integer,
	charge bigint,
	released bigint,
	wanted bigint,
	lines integer,
	decision_lines integer,
	account_id uuid,
	was public.run_status,
	revision bigint,
	stop boolean,
	pause boolean,
	log_seq bigint,
	broadcast_seq bigint,
	broadcast_at timestamp with time zone,
	slot_ids bigint[],
	held bigint,
	spent bigint,
	need bigint,
	over_cap boolean,
	due boolean
);

CREATE TYPE public.account_kind AS ENUM (
    'personal',
    'organisation'
);

CREATE TYPE public.account_role AS ENUM (
    'owner',
    'admin',
    'member',
    'viewer'
);

CREATE TYPE public.log_type AS ENUM (
    'info',
    'success',
    'error',
    'warning',
    'state_transition',
    'tool_success',
    'tool_error',
    'phase_advance',
    'user_input_required'
);

CREATE TYPE public.step_effect AS ENUM (
    'pure',
    'idempotent',
    'effectful'
);

CREATE TYPE public.step_status AS ENUM (
    'pending',
    'running',
    'completed',
    'failed',
    'skipped',
    'cancelled'
);

CREATE FUNCTION private.clock() RETURNS timestamp with time zone
    LANGUAGE sql
    SET search_path TO ''
    AS $$ select pg_catalog.clock_timestamp() $$;

CREATE TABLE public.agent_runs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    account_id uuid NOT NULL,
    user_id uuid,
    agent_id uuid,
    agent_version_id uuid,
    credential_ids jsonb DEFAULT '{}'::jsonb NOT NULL,
    price bigint DEFAULT 0 NOT NULL,
    engine text NOT NULL,
    status public.run_status DEFAULT 'created'::public.run_status NOT NULL,
    resumes_as public.run_status DEFAULT 'planning'::public.run_status NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    input jsonb DEFAULT '{}'::jsonb NOT NULL,
    output jsonb,
    error jsonb,
    available_at timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL,
    priority smallint DEFAULT 0 NOT NULL,
    concurrency_key text,
    concurrency_limit integer,
    fair_tag bigint,
    held_for bigint,
    slot_ids bigint[],
    started_at timestamp with time zone,
    paused_at timestamp with time zone,
    deadline_at timestamp with time zone,
    finished_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    updated_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    lease_id uuid,
    lease_owner text,
    lease_expires_at timestamp with time zone,
    attempt integer DEFAULT 0 NOT NULL,
    max_attempts integer DEFAULT 5 NOT NULL,
    stop_requested_at timestamp with time zone,
    pause_requested_at timestamp with time zone,
    max_steps integer DEFAULT 100 NOT NULL,
    timeout_seconds integer DEFAULT 3600 NOT NULL,
    step_count integer DEFAULT 0 NOT NULL,
    max_credits bigint,
    credits_held bigint DEFAULT 0 NOT NULL,
    credits_reserved bigint DEFAULT 0 NOT NULL,
    credits_spent bigint DEFAULT 0 NOT NULL,
    log_seq bigint DEFAULT 0 NOT NULL,
    broadcast_seq bigint DEFAULT 0 NOT NULL,
    broadcast_at timestamp with time zone,
    forked_from uuid,
    fork_step integer,
    CONSTRAINT agent_runs_concurrency_key_check CHECK (((char_length(concurrency_key) >= 1) AND (char_length(concurrency_key) <= 200))),
    CONSTRAINT agent_runs_concurrency_limit_check CHECK (((concurrency_limit >= 1) AND (concurrency_limit <= 10000))),
    CONSTRAINT agent_runs_credits_held_check CHECK ((credits_held >= 0)),
    CONSTRAINT agent_runs_credits_reserved_check CHECK ((credits_reserved >= 0)),
    CONSTRAINT agent_runs_credits_spent_check CHECK ((credits_spent >= 0)),
    CONSTRAINT agent_runs_finished_at_the_end CHECK (((status = ANY (ARRAY['completed'::public.run_status, 'failed'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status])) = (finished_at IS NOT NULL))),
    CONSTRAINT agent_runs_in_the_queue CHECK ((((fair_tag IS NULL) = (held_for IS DISTINCT FROM 0)) AND ((held_for IS NULL) OR (status = ANY (ARRAY['queued'::public.run_status, 'planning'::public.run_status, 'executing'::public.run_status]))) AND ((status <> ALL (ARRAY['planning'::public.run_status, 'executing'::public.run_status])) OR (NOT (held_for IS DISTINCT FROM 0))))),
    CONSTRAINT agent_runs_lease_while_running CHECK ((((status = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status])) = (lease_id IS NOT NULL)) AND ((lease_id IS NULL) = (lease_owner IS NULL)) AND ((lease_id IS NULL) = (lease_expires_at IS NULL)))),
    CONSTRAINT agent_runs_limit_has_a_key CHECK (((concurrency_key IS NULL) = (concurrency_limit IS NULL))),
    CONSTRAINT agent_runs_max_attempts_check CHECK (((max_attempts >= 1) AND (max_attempts <= 100))),
    CONSTRAINT agent_runs_max_credits_check CHECK ((max_credits > 0)),
    CONSTRAINT agent_runs_max_steps_check CHECK (((max_steps >= 1) AND (max_steps <= 10000))),
    CONSTRAINT agent_runs_priority_check CHECK (((priority >= '-100'::integer) AND (priority <= 100))),
    CONSTRAINT agent_runs_resumes_as_check CHECK ((resumes_as = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status]))),
    CONSTRAINT agent_runs_timeout_seconds_check CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 604800)))
)
WITH (fillfactor='70');

COMMENT ON TABLE public.agent_runs IS 'One execution of any engine. Written by functions only; revision rises with every transition.';

COMMENT ON COLUMN public.agent_runs.agent_version_id IS 'What it does, for good: pinned when it was created.';

COMMENT ON COLUMN public.agent_runs.credential_ids IS 'By provider, the credentials of its account that its steps may open. Those that its agent brings stand in the version.';

COMMENT ON COLUMN public.agent_runs.price IS 'What its start costs besides its steps, in micro-credits; 0 when paid before.';

COMMENT ON COLUMN public.agent_runs.resumes_as IS 'What a claim moves a queued run to: planning or executing.';

COMMENT ON COLUMN public.agent_runs.revision IS 'Optimistic lock. Rises with every transition and record; heartbeats and requests to stop or pause leave it.';

COMMENT ON COLUMN public.agent_runs.available_at IS 'A queued run comes up for a place from here on; infinity waits for an event.';

COMMENT ON COLUMN public.agent_runs.priority IS 'Higher goes first among the account''s own runs; it moves nobody else''s.';

COMMENT ON COLUMN public.agent_runs.concurrency_key IS 'At most concurrency_limit runs of the account with this key go on at a time.';

COMMENT ON COLUMN public.agent_runs.fair_tag IS 'Its place in the order of claims: a start-time tag, given with its places. Null while it is held or does not queue.';

COMMENT ON COLUMN public.agent_runs.held_for IS '0: it has its places and may be claimed or is claimed. Else the slot that was full, where it waits.';

COMMENT ON COLUMN public.agent_runs.slot_ids IS 'The slots it takes a place of: its account''s first, then its agent''s and its key''s.';

COMMENT ON COLUMN public.agent_runs.deadline_at IS 'Set at start, moved by paused time; over it the run ends as timeout.';

COMMENT ON COLUMN public.agent_runs.lease_id IS 'The fence: new at every claim, named by every advance.';

COMMENT ON COLUMN public.agent_runs.attempt IS 'Leases that expired since the last completed step; above max_attempts the run is poison.';

COMMENT ON COLUMN public.agent_runs.credits_held IS 'What is left of the hold, in micro-credits.';

COMMENT ON COLUMN public.agent_runs.credits_reserved IS 'The upper bounds of the steps that are open, part of credits_held.';

COMMENT ON COLUMN public.agent_runs.log_seq IS 'The seq of the last log line; gap-free from 1.';

COMMENT ON COLUMN public.agent_runs.broadcast_seq IS 'The seq of the last log line that was broadcast.';

CREATE FUNCTION private.add_slots(p_run public.agent_runs) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  insert into private.slots (account_id, kind, key, places)
    select l.account_id, l.kind, l.key, l.places from private.limits_of(p_run) l
    on conflict do nothing
$$;

CREATE FUNCTION private.administers(p_account_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select coalesce(private.my_role(p_account_id) in ('owner', 'admin'), false)
$$;

CREATE FUNCTION private.advance_runs(p_batch jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET lock_timeout TO '2s'
    AS $_$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => (p_batch ->> 'lease_seconds')::double precision);
  v_moves private.advance_move[];
  v_twice boolean;
  v_plain boolean;
  v_locked boolean := p_batch @? '$.runs[*].status ? (@ != null)';
  v_needy boolean;
  v_needy_ids uuid[] := '{}';
  v_got bigint[] := '{}';
  v_short uuid[] := '{}';
  v_capped uuid[] := '{}';
  v_broke uuid[] := '{}';
  v_won uuid[];
  v_accounts uuid[];
  v_revisions bigint[];
  v_base bigint[];
  v_ended uuid[];
  v_ended_accounts uuid[];
  v_rests bigint[];
  v_spent bigint[];
  v_places bigint[];
  v_told uuid[];
  v_told_from bigint[];
  v_moved uuid[];
  v_moved_from text[];
  v_moved_to text[];
  v_special jsonb;
  v_unsent uuid[];
  v_finished bigint;
  v_count integer := jsonb_array_length(p_batch -> 'runs');
begin
  if (p_batch ->> 'v') is distinct from '1' then
    raise exception 'advance_runs speaks version 1, not %', p_batch -> 'v' using errcode = 'RUN11';
  end if;

  -- A batch in which no run changes its status is read without a lock: the update checks the revision, and every
  -- transition raises that. The others are locked first, in the order of ids; and what seemed plain and is not, too.
  loop
    if v_locked then
      perform 1 from public.agent_runs r
        where r.id = any (array(
          select x.run_id from jsonb_to_recordset(p_batch -> 'runs') as x (run_id uuid)))
        order by r.id for update;
    end if;
    select array_agg(row(i.run_id, i.status, i.available_in, i.output, i.error, i.new_steps, i.completed, i.in_flight,
        i.charge, i.released, i.wanted, i.lines, coalesce(i.decision_lines, 0),
        r.account_id, r.status, r.revision, r.stop_requested_at is not null, r.pause_requested_at is not null, r.log_seq,
        r.broadcast_seq, r.broadcast_at, r.slot_ids, r.credits_held, r.credits_spent,
        r.credits_reserved - i.released + i.wanted - (r.credits_held - i.charge),
        coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false),
        d.due)::private.advance_move),
      bool_or(i.times > 1),
      bool_and(i.status is null and r.stop_requested_at is null and r.pause_requested_at is null),
      bool_or(i.wanted > 0 and (
        r.credits_reserved - i.released + i.wanted > r.credits_held - i.charge
        or coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false)))
      into v_moves, v_twice, v_plain, v_needy
      from (
        select x.*, count(*) over (partition by x.run_id) as times
        from jsonb_to_recordset(p_batch -> 'runs') as x (
          run_id uuid, lease_id uuid, revision bigint, status public.run_status, available_in double precision,
          output jsonb, error jsonb, new_steps integer, completed boolean, in_flight integer, charge bigint,
          released bigint, wanted bigint, lines integer, decision_lines integer)
        order by x.run_id
      ) i
      join public.agent_runs r on r.id = i.run_id
      cross join lateral (
        -- At once, then at most every 100 ms.
        select r.log_seq + i.lines > r.broadcast_seq
          and (r.broadcast_at is null or v_now - r.broadcast_at >= interval '100 milliseconds') as due
      ) d
      where r.lease_id = i.lease_id and r.revision = i.revision;
    v_plain := v_plain and not v_needy;
    exit when v_locked or v_plain or v_moves is null;
    v_locked := true;
  end loop;
  if v_twice then
    raise exception 'A batch names each run once' using errcode = 'RUN12';
  end if;
  if v_needy then
    select c.ids, c.got, c.short, c.capped, c.broke into v_needy_ids, v_got, v_short, v_capped, v_broke
      from private.find_credits(v_moves) c;
  end if;

  if v_plain then
    -- What most calls are: runs that take a step further and stay as they are.
    with written as (
      update public.agent_runs r set
        revision = r.revision + 1,
        updated_at = v_now,
        step_count = r.step_count + m.new_steps,
        attempt = case when m.completed then 0 else r.attempt end,
        credits_held = r.credits_held - m.charge,
        credits_spent = r.credits_spent + m.charge,
        credits_reserved = r.credits_reserved - m.released + m.wanted,
        log_seq = r.log_seq + m.lines,
        -- Unless the worker's tick was faster: then what is left goes with its next.
        broadcast_seq = case when m.due and r.broadcast_seq = m.broadcast_seq then r.log_seq + m.lines
          else r.broadcast_seq end,
        broadcast_at = case when m.due and r.broadcast_seq = m.broadcast_seq then v_now else r.broadcast_at end,
        lease_expires_at = v_expires
        from unnest(v_moves) m
        where r.id = m.id and r.revision = m.revision
        returning r.id, r.account_id, r.revision, m.log_seq, r.broadcast_at = v_now as told, m.broadcast_seq as told_before,
          r.log_seq > r.broadcast_seq as unsent
    )
    select array_agg(w.id), array_agg(w.account_id), array_agg(w.revision), array_agg(w.log_seq),
        array_agg(w.id) filter (where w.told), array_agg(w.told_before) filter (where w.told),
        array_agg(w.id) filter (where w.unsent)
      into v_won, v_accounts, v_revisions, v_base, v_told, v_told_from, v_unsent
      from written w;
  elsif v_moves is not null then
    with move as materialized (
      select m.*, w.target, m.id = any (v_short) as is_short,
        w.target <> m.was as moved,
        w.target in ('completed', 'failed', 'cancelled', 'timeout') as ended,
        w.target in ('planning', 'executing') as leased,
        -- Who is only given back keeps its places and its turn; who waits, pauses or ends leaves the queue.
        w.target not in ('planning', 'executing')
          and not (w.target = 'queued' and coalesce(m.available_in <= 0, false)) as leaves,
        m.lines - case when m.id = any (v_short) then m.decision_lines else 0 end + (w.target <> m.was)::integer
          + (m.id = any (v_broke))::integer as new_lines,
        coalesce((select g.got from unnest(v_needy_ids, v_got) as g (id, got) where g.id = m.id), 0) as got
      from unnest(v_moves) m
      cross join lateral (
        -- A request that came while this was under way must not be lost with the lease: who lets go of a run that is to
        -- stop ends it, and who lets go of one that is to pause leaves it paused.
        select case
          when m.id = any (v_broke) and not m.stop then 'paused'::public.run_status
          when m.id = any (v_broke) then 'cancelled'
          when m.wish is null then m.was
          when m.wish not in ('queued', 'awaiting_input', 'paused') then m.wish
          when m.stop then 'cancelled'
          when m.pause then 'paused'
          else m.wish
        end as target
      ) w
    ), written as (
      update public.agent_runs r set
        status = m.target,
        resumes_as = case when m.leased then m.target else r.resumes_as end,
        revision = r.revision + 1,
        updated_at = v_now,
        output = coalesce(m.output, r.output),
        error = coalesce(m.error, r.error),
        step_count = r.step_count + case when m.is_short then 0 else m.new_steps end,
        attempt = case when m.completed then 0 else r.attempt end,
        credits_held = case when m.ended then 0 else r.credits_held - m.charge + m.got end,
        credits_spent = r.credits_spent + m.charge,
        credits_reserved = case when m.ended then 0
          else r.credits_reserved - m.released + case when m.is_short then 0 else m.wanted end end,
        log_seq = r.log_seq + m.new_lines,
        broadcast_seq = case when d.due then r.log_seq + m.new_lines else r.broadcast_seq end,
        broadcast_at = case when d.due then v_now else r.broadcast_at end,
        lease_id = case when m.leased then r.lease_id end,
        lease_owner = case when m.leased then r.lease_owner end,
        lease_expires_at = case when m.leased then v_expires end,
        available_at = case when m.target = 'queued' and m.available_in is not null
          then v_now + make_interval(secs => m.available_in) else 'infinity' end,
        fair_tag = case when not m.leaves then r.fair_tag end,
        held_for = case when not m.leaves then r.held_for end,
        paused_at = case when m.target = 'paused' then v_now end,
        pause_requested_at = case when m.leased then r.pause_requested_at end,
        stop_requested_at = case when m.leased then r.stop_requested_at end,
        finished_at = case when m.ended then v_now end
      from move m
      cross join lateral (
        select m.moved or m.due as due  -- a change of status always
      ) d
      where r.id = m.id
      returning m.id, m.account_id, r.revision, r.lease_id, m.target, m.was, m.wish, m.ended, m.moved, m.leaves, m.stop,
        m.pause, m.is_short, m.log_seq, m.broadcast_seq, m.slot_ids, m.held - m.charge + m.got as rest,
        r.credits_spent, d.due, not d.due and r.log_seq > r.broadcast_seq as unsent
    )
    select array_agg(w.id), array_agg(w.account_id), array_agg(w.revision), array_agg(w.log_seq),
        array_agg(w.id) filter (where w.ended), array_agg(w.account_id) filter (where w.ended),
        array_agg(w.rest) filter (where w.ended), array_agg(w.credits_spent) filter (where w.ended),
        (select array_agg(u.id) from written x, unnest(x.slot_ids) as u (id) where x.leaves),
        array_agg(w.id) filter (where w.due), array_agg(w.broadcast_seq) filter (where w.due),
        array_agg(w.id) filter (where w.moved), array_agg(w.was::text) filter (where w.moved),
        array_agg(w.target::text) filter (where w.moved),
        array_agg(w.id) filter (where w.unsent),
        jsonb_agg(jsonb_build_object('run_id', w.id, 'won', true, 'revision', w.revision, 'lease_id', w.lease_id,
            'status', w.target, 'stop', w.stop, 'pause', w.pause, 'short', w.is_short))
          filter (where w.stop or w.pause or w.is_short or w.target <> coalesce(w.wish, w.was))
      into v_won, v_accounts, v_revisions, v_base, v_ended, v_ended_accounts, v_rests, v_spent, v_places, v_told,
        v_told_from, v_moved, v_moved_from, v_moved_to, v_unsent, v_special
      from written w;
  end if;

  if v_won is not null then
    if p_batch ? 'finish' then
      with done as (
        update public.agent_steps s set
            status = f.status,
            attempt = s.attempt + (f.status = 'pending')::integer,
            failed_attempts = s.failed_attempts + coalesce(f.failed, false)::integer,
            output = f.output,
            error = f.error,
            waits_for = f.waits_for,
            available_at = case when f.status in ('pending', 'running') then
              case when f.available_in is null then 'infinity' else v_now + make_interval(secs => f.available_in) end
              else s.available_at end,
            credits_spent = s.credits_spent + f.credits,
            finished_at = case when f.status not in ('pending', 'running') then v_now end,
            finished_revision = case when f.status not in ('pending', 'running') then w.revision end
          from jsonb_to_recordset(p_batch -> 'finish') as f (
            run_id uuid, step_no integer, attempt integer, status public.step_status, output jsonb, error jsonb,
            credits bigint, failed boolean, available_in double precision, waits_for text)
          join unnest(v_won, v_revisions) as w (id, revision) on w.id = f.run_id
          where s.run_id = f.run_id and s.step_no = f.step_no and s.status = 'running' and s.attempt = f.attempt
          returning s.account_id, s.run_id, s.step_no, f.attempt, f.credits
      ), booked as (
        insert into public.credit_ledger (account_id, run_id, step_no, attempt, kind, debit, credit, amount, created_at)
          select d.account_id, d.run_id, d.step_no, d.attempt, 'settle', 'held', 'spent', d.credits, v_now
          from done d where d.credits > 0
      )
      select count(*) into v_finished from done;
      if v_finished <> jsonb_array_length(p_batch -> 'finish') and v_finished <> (
        select count(*) from jsonb_to_recordset(p_batch -> 'finish') as f (run_id uuid) where f.run_id = any (v_won)
      ) then
        raise exception 'A step to finish is not running in that attempt' using errcode = 'RUN12';
      end if;
      if exists (select from private.step_deltas) then
        delete from private.step_deltas d
          using jsonb_to_recordset(p_batch -> 'finish') as f (run_id uuid, step_no integer)
          where d.run_id = f.run_id and d.step_no = f.step_no and d.run_id = any (v_won);
      end if;
    end if;

    if p_batch ? 'start' then
      insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
          effect_key, input, timeout_seconds, credits_bound, available_at, created_at, started_at)
        select s.run_id, s.step_no, w.account_id, s.key, s.kind, s.name, s.phase, 'running', s.max_attempts, s.effect,
          s.effect_key, coalesce(s.input, '{}'), s.timeout_seconds, s.credits_bound, v_now, v_now, v_now
        from jsonb_to_recordset(p_batch -> 'start') as s (
          run_id uuid, step_no integer, key text, kind text, name text, phase text, max_attempts integer,
          effect public.step_effect, effect_key uuid, input jsonb, timeout_seconds double precision,
          credits_bound bigint)
        join unnest(v_won, v_accounts) as w (id, account_id) on w.id = s.run_id
        where s.run_id <> all (v_short);
    end if;
    if p_batch ? 'restart' then
      update public.agent_steps t
        set status = 'running', started_at = v_now, credits_bound = s.credits_bound, waits_for = null
        from jsonb_to_recordset(p_batch -> 'restart') as s (run_id uuid, step_no integer, credits_bound bigint)
        where s.run_id = any (v_won) and s.run_id <> all (v_short) and t.run_id = s.run_id and t.step_no = s.step_no;
    end if;

    if p_batch ? 'logs' or v_moved is not null or v_broke <> '{}' then
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select l.run_id, w.base + row_number() over (partition by l.run_id order by l.rank, l.position), w.account_id,
          l.log_type, l.message, coalesce(l.metadata, '{}'), v_now
        from (
          select x.run_id, 1 as rank, x.position, x.log_type, x.message, x.metadata
            from rows from (jsonb_to_recordset(p_batch -> 'logs')
              as (run_id uuid, log_type public.log_type, message text, metadata jsonb, of_decision boolean))
              with ordinality as x (run_id, log_type, message, metadata, of_decision, position)
            -- A decision that starts nothing is drawn again later, and says its lines then.
            where x.of_decision is not true or x.run_id <> all (v_short)
          union all
          select b.id, 2, 1, 'warning',
            case when b.id = any (v_capped)
              then 'Out of credits: the next step does not fit the run''s own limit (max_credits)'
              else 'Out of credits: the run is paused until credits are added and it is resumed' end,
            jsonb_build_object('event', 'out_of_credits', 'limit', case when b.id = any (v_capped) then 'run'
              else 'account' end)
            from unnest(v_broke) as b (id)
          union all
          select m.id, 3, 1, 'state_transition', m.was || ' -> ' || m.is_now,
            jsonb_build_object('from', m.was, 'to', m.is_now)
            from unnest(v_moved, v_moved_from, v_moved_to) as m (id, was, is_now)
        ) l
        join unnest(v_won, v_accounts, v_base) as w (id, account_id, base) on w.id = l.run_id;
    end if;

    if p_batch ?| '{messages,artifacts,plans,requests,snapshots}' then
      perform private.write_records(p_batch, v_won, v_accounts, v_revisions);
    end if;
    if v_ended is not null then
      perform private.close_runs(v_ended, v_ended_accounts, v_rests, v_spent);
    end if;
    if v_places is not null then
      perform private.give_places(v_places);
    end if;
    if v_told is not null then
      perform private.broadcast_logs(v_told, v_told_from);
    end if;
  end if;

  if v_won is null or cardinality(v_won) < v_count then
    select coalesce(v_special, '[]') || jsonb_agg(jsonb_build_object('run_id', i.run_id, 'won', false,
        'revision', r.revision, 'lease_id', r.lease_id, 'status', r.status))
      into v_special
      from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid)
      left join public.agent_runs r on r.id = i.run_id
      where v_won is null or i.run_id <> all (v_won);
  end if;
  return jsonb_build_object('won', coalesce(cardinality(v_won), 0), 'runs', coalesce(v_special, '[]'),
    'unsent', to_jsonb(coalesce(v_unsent, '{}')));
end $_$;

CREATE FUNCTION private.append_line(p_run_ids uuid[], p_log_type public.log_type, p_messages text[], p_metadata jsonb[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.bring_up_due(p_now timestamp with time zone, p_limit integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.broadcast(p_event text, p_topics text[], p_payloads jsonb[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET lock_timeout TO '50ms'
    AS $$
begin
  if p_topics is null or not private.realtime_takes() then
    return;
  end if;
  begin
    -- What realtime.send does, once for all: message by message it takes three times as long.
    insert into realtime.messages (id, payload, event, topic, private, extension)
      select m.id, m.payload || jsonb_build_object('id', m.id), p_event, m.topic, true, 'broadcast'
      from (select gen_random_uuid() as id, u.* from unnest(p_topics, p_payloads) as u (topic, payload)) m;
  exception
    -- Its table may look otherwise some day; the function stays. A locked partition would make it wait for each message.
    when undefined_column or undefined_table or undefined_function or invalid_column_reference or datatype_mismatch
        or generated_always or not_null_violation or wrong_object_type or insufficient_privilege then
      perform realtime.send(u.payload, p_event, u.topic, true) from unnest(p_topics, p_payloads) as u (topic, payload);
  end;
exception when others then
  raise warning 'Realtime takes no % messages: %', p_event, sqlerrm;
end $$;

CREATE FUNCTION private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select private.broadcast('log', array_agg(m.topic), array_agg(m.payload))
  from private.log_messages(p_run_ids, p_from_seqs) m
$$;

CREATE FUNCTION private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    AS $$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => p_lease_seconds);
  v_swept integer;
  v_ids uuid[];
  v_tag bigint;
  v_next double precision;
  v_expired uuid[];
  v_suspect boolean;
  v_suspects uuid[];
begin
  if p_limit not between 0 and 100 then
    raise exception 'p_limit must be from 0 to 100' using errcode = 'RUN07';
  end if;
  v_swept := private.sweep_runs(100, v_now);
  perform private.purge_old(v_now, 100);

  -- Expired leases first: their people have waited longest. The rival that still works loses by the new lease_id.
  -- A run that loses its worker a second time in a row may be what kills it, and all that were held beside it look the
  -- same: each of them is handed out alone, and its worker claims no other until it has come a step further.
  with lost as materialized (
    select r.id, r.attempt > 0 as suspect from public.agent_runs r
    where r.status in ('planning', 'executing') and r.lease_expires_at < v_now and r.engine = any (p_engines)
    order by r.engine, r.id  -- the order of the one index that is to be read
  )
  select array_agg(id order by suspect desc, id), bool_or(suspect) into v_expired, v_suspect from (
    select r.id, lost.suspect from lost join public.agent_runs r on r.id = lost.id
    where r.status in ('planning', 'executing') and r.lease_expires_at < v_now
    order by lost.suspect desc, r.id limit p_limit for update of r skip locked
  ) x;
  if v_suspect then
    v_expired := v_expired[1:1];
    p_limit := 1;
  end if;
  if v_expired is not null then
    update public.agent_runs r
      set lease_id = gen_random_uuid(), lease_owner = p_owner, lease_expires_at = v_expires, attempt = r.attempt + 1,
          revision = r.revision + 1, updated_at = v_now
      where r.id = any (v_expired);
    -- What the lost worker had in hand is tried anew under the same effect_key, booked as another attempt.
    update public.agent_steps s set attempt = s.attempt + 1, started_at = v_now
      where s.run_id = any (v_expired) and s.status = 'running' and s.waits_for is null and s.effect <> 'effectful';
    delete from private.step_deltas where run_id = any (v_expired);
    perform private.append_line(v_expired, 'warning',
      array_fill('The worker was lost; another one goes on'::text, array[cardinality(v_expired)]),
      array_fill('{"event": "lease_expired"}'::jsonb, array[cardinality(v_expired)]));
  end if;

  perform private.bring_up_due(v_now, 100);
  -- The head of the fair order of each engine, and of these the first. More rows are locked than claimed where there are
  -- several engines, until this commits: a rival then takes the next ones.
  select array_agg(x.id), max(x.fair_tag) into v_ids, v_tag from (
    select r.id, r.fair_tag
    from unnest(p_engines) as e (name)
    cross join lateral (
      select q.id, q.fair_tag from public.agent_runs q
      where q.status = 'queued' and q.held_for = 0 and q.engine = e.name
      order by q.fair_tag, q.id limit p_limit - coalesce(cardinality(v_expired), 0) for update skip locked
    ) r
    order by r.fair_tag, r.id limit p_limit - coalesce(cardinality(v_expired), 0)
  ) x;
  if v_ids is not null then
    perform setval('private.fair_time', v_tag) where v_tag > (select last_value from private.fair_time);
    v_ids := private.prefer_by_priority(v_ids, p_engines);
    -- A suspect that was given back before it came a step further is still one.
    v_suspects := array(select r.id from public.agent_runs r where r.id = any (v_ids) and r.attempt > 1);
    if cardinality(v_suspects) > 0 then
      v_ids := case when v_expired is null then v_suspects[1:1]
        else array(select u.id from unnest(v_ids) as u (id) where u.id <> all (v_suspects)) end;
    end if;
    -- The line goes out with the first advance, which follows at once, or with the worker's tick.
    with claimed as (
      update public.agent_runs r
        set status = r.resumes_as, lease_id = gen_random_uuid(), lease_owner = p_owner, lease_expires_at = v_expires,
            revision = r.revision + 1, updated_at = v_now, log_seq = r.log_seq + 1
        where r.id = any (v_ids)
        returning r.id, r.account_id, r.log_seq, r.status
    )
    insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
      select c.id, c.log_seq, c.account_id, 'state_transition', 'queued -> ' || c.status,
        jsonb_build_object('from', 'queued', 'to', c.status), v_now
      from claimed c;
  end if;

  -- Timers that somebody had locked, and slots to recheck, are due at once.
  select extract(epoch from r.available_at - v_now) into v_next
    from public.agent_runs r
    where r.status = 'queued' and r.held_for is null and r.available_at < 'infinity'
    order by r.available_at, r.id limit 1;
  perform 1 from private.slots s where s.recheck order by s.account_id, s.id limit 1;
  if found then
    v_next := least(v_next, 0.2);
  end if;
  return jsonb_build_object(
    'runs', private.run_view(coalesce(v_expired, '{}') || coalesce(v_ids, '{}')),
    'next_in_seconds', case when v_next is not null then greatest(v_next, 0) end,
    'swept', v_swept);
end $$;

CREATE FUNCTION private.close_runs(p_run_ids uuid[], p_account_ids uuid[], p_rests bigint[], p_spent bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_now timestamptz := private.clock();
begin
  update public.agent_steps s
    set status = 'cancelled', finished_at = v_now, waits_for = null, finished_revision = r.revision
    from public.agent_runs r
    where r.id = any (p_run_ids) and s.run_id = r.id and s.status in ('pending', 'running');
  update public.human_requests set status = 'cancelled'
    where run_id = any (p_run_ids) and status = 'open';
  if exists (select from private.step_deltas) then
    delete from private.step_deltas where run_id = any (p_run_ids);
  end if;
  delete from private.run_snapshots where run_id = any (p_run_ids);

  perform 1 from public.credit_accounts c where c.account_id = any (p_account_ids) order by c.account_id for update;
  update public.credit_accounts c
    set available = c.available + t.rest, held = c.held - t.rest - t.spent, spent = c.spent + t.spent, updated_at = v_now
    from (
      select u.account_id, sum(u.rest) as rest, sum(u.spent) as spent
      from unnest(p_account_ids, p_rests, p_spent) as u (account_id, rest, spent) group by u.account_id
    ) t
    where c.account_id = t.account_id and (t.rest > 0 or t.spent > 0);
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount, created_at)
    select u.account_id, u.run_id, 'release', 'held', 'available', u.rest, v_now
    from unnest(p_run_ids, p_account_ids, p_rests) as u (run_id, account_id, rest) where u.rest > 0;
end $$;

CREATE FUNCTION private.control_run(p_run_id uuid, p_action text, p_revision bigint) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, p_revision);
  v_now timestamptz := private.clock();
  v_leased boolean := v_run.lease_id is not null;
  v_flag jsonb := '{}';
  v_places record;
begin
  if p_action is null or p_action not in ('stop', 'pause', 'resume') then
    raise exception 'p_action must be stop, pause or resume' using errcode = 'RUN07';
  end if;
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;

  if p_action = 'stop' and v_leased then
    -- Its holder sees the mark in the answer to its next call and ends the run with its results and costs.
    update public.agent_runs set stop_requested_at = coalesce(stop_requested_at, v_now) where id = p_run_id;
    v_flag := '{"stopping": true}';
  elsif p_action = 'stop' then
    perform private.end_runs(array[p_run_id], 'cancelled', array[null::jsonb]);
  elsif p_action = 'pause' and v_leased then
    update public.agent_runs set pause_requested_at = coalesce(pause_requested_at, v_now) where id = p_run_id;
    v_flag := '{"pausing": true}';
  elsif p_action = 'pause' and v_run.status in ('queued', 'awaiting_input') then
    update public.agent_runs
      set status = 'paused', paused_at = v_now, available_at = 'infinity', revision = revision + 1, updated_at = v_now,
          fair_tag = null, held_for = null
      where id = p_run_id;
    if v_run.held_for = 0 then
      perform private.give_places(v_run.slot_ids, v_run.slot_ids[1:1]);
    end if;
    perform private.append_line(array[p_run_id], 'state_transition', array[format('%s -> paused', v_run.status)],
      array[jsonb_build_object('from', v_run.status, 'to', 'paused')]);
  elsif p_action = 'resume' and v_run.status = 'paused' then
    select * into v_places from private.take_places(v_run);
    update public.agent_runs
      set status = 'queued', available_at = v_now, revision = revision + 1, updated_at = v_now,
          deadline_at = deadline_at + (v_now - paused_at), paused_at = null,
          slot_ids = v_places.slot_ids, fair_tag = v_places.fair_tag, held_for = v_places.held_for
      where id = p_run_id;
    perform private.append_line(array[p_run_id], 'state_transition', array['paused -> queued'],
      array['{"from": "paused", "to": "queued"}'::jsonb]);
    if v_places.held_for = 0 then
      perform pg_notify('runbase_runs', '');
    end if;
  elsif p_action = 'resume' and v_run.pause_requested_at is not null then
    update public.agent_runs set pause_requested_at = null where id = p_run_id;
  else
    raise exception 'Run % is % and cannot % now', p_run_id, v_run.status, p_action using errcode = 'RUN02';
  end if;
  select * into v_run from public.agent_runs where id = p_run_id;
  return private.run_answer(v_run) || v_flag;
end $$;

CREATE FUNCTION private.create_run(p_request jsonb, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $_$
declare
  v_user_id uuid := (select auth.uid());
  v_account_id uuid;
  v_role public.account_role;
  v_run public.agent_runs;
  v_answer jsonb;
  v_field text;
begin
  if v_user_id is null then
    raise exception 'Only a signed-in user can create a run' using errcode = 'RUN06';
  end if;
  if p_request is null or jsonb_typeof(p_request) <> 'object' then
    raise exception 'p_request must be an object' using errcode = 'RUN07';
  end if;
  select k into v_field from jsonb_object_keys(p_request) k
    where k not in ('engine', 'input', 'account_id', 'agent_id', 'max_steps', 'timeout_seconds', 'max_credits',
      'priority', 'concurrency_key', 'concurrency_limit', 'autostart') limit 1;
  if v_field is not null then
    raise exception 'p_request has an unknown field %', quote_literal(v_field) using errcode = 'RUN07';
  end if;
  if jsonb_typeof(coalesce(p_request -> 'input', 'null')) <> 'object' then
    raise exception 'input must be an object' using errcode = 'RUN07';
  end if;
  v_field := private.json_problem('input', p_request -> 'input', 262144);
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;
  begin
    v_account_id := coalesce((p_request ->> 'account_id')::uuid, v_user_id);
    v_run.engine := p_request ->> 'engine';
    v_run.max_steps := coalesce((p_request ->> 'max_steps')::integer, 100);
    v_run.timeout_seconds := coalesce((p_request ->> 'timeout_seconds')::integer, 3600);
    v_run.max_credits := (p_request ->> 'max_credits')::bigint;
    v_run.agent_id := (p_request ->> 'agent_id')::uuid;
    v_run.priority := coalesce((p_request ->> 'priority')::smallint, 0);
    v_run.concurrency_key := p_request ->> 'concurrency_key';
    v_run.concurrency_limit := coalesce((p_request ->> 'concurrency_limit')::integer,
      case when v_run.concurrency_key is not null then 1 end);
  exception when invalid_text_representation or numeric_value_out_of_range then
    raise exception 'account_id and agent_id must be uuids; max_steps, timeout_seconds, max_credits, priority and concurrency_limit must be whole numbers'
      using errcode = 'RUN07';
  end;
  v_field := case
    when v_run.engine is null or v_run.engine !~ '^[a-z][a-z0-9_]{0,31}$' then 'engine must be a lower-case name'
    when v_run.max_steps not between 1 and 10000 then 'max_steps must be from 1 to 10000'
    when v_run.timeout_seconds not between 1 and 604800 then 'timeout_seconds must be from 1 to 604800'
    when v_run.max_credits <= 0 then 'max_credits must be positive'
    when v_run.priority not between -100 and 100 then 'priority must be from -100 to 100'
    when char_length(v_run.concurrency_key) not between 1 and 200 then 'concurrency_key must have 1 to 200 characters'
    when v_run.concurrency_limit not between 1 and 10000 then 'concurrency_limit must be from 1 to 10000'
    when v_run.concurrency_limit is not null and v_run.concurrency_key is null
      then 'concurrency_limit belongs to a concurrency_key'
  end;
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;

  if v_account_id = v_user_id then
    perform private.ensure_personal_account(v_user_id);
  end if;
  v_role := private.my_role(v_account_id);
  if v_role is null or v_role = 'viewer' then
    raise exception 'You may not create runs in account %', v_account_id using errcode = 'RUN06';
  end if;
  v_answer := private.recall(v_account_id, 'create', p_idempotency_key, p_request);
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.agent_id is not null and not private.may_use_agent(v_run.agent_id, v_account_id) then
    raise exception 'There is no agent %', v_run.agent_id using errcode = 'RUN01';
  end if;
  perform private.take_rate(v_account_id, 'create');

  insert into public.agent_runs (account_id, user_id, agent_id, engine, input, max_steps, timeout_seconds, max_credits,
      priority, concurrency_key, concurrency_limit)
    values (v_account_id, v_user_id, v_run.agent_id, v_run.engine, p_request -> 'input', v_run.max_steps,
      v_run.timeout_seconds, v_run.max_credits, v_run.priority, v_run.concurrency_key, v_run.concurrency_limit)
    returning * into v_run;
  if (p_request -> 'autostart') = 'true' then
    v_run := private.queue_run(v_run);
  end if;
  v_answer := private.run_answer(v_run) || '{"created": true}';
  perform private.remember(v_account_id, 'create', p_idempotency_key, v_answer);
  return v_answer;
end $_$;

CREATE FUNCTION private.draw_tag(p_slot_id bigint) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  update private.slots s
    set fair_tag = greatest(s.fair_tag, (select v.last_value from private.fair_time v)) + 1000000 / t.share
    from public.accounts a join private.tiers t on t.name = a.tier
    where s.id = p_slot_id and a.id = s.account_id
    returning s.fair_tag - 1000000 / t.share
$$;

CREATE FUNCTION private.end_runs(p_run_ids uuid[], p_status public.run_status, p_errors jsonb[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_now timestamptz := private.clock();
  v_from text[];
  v_places bigint[];
  v_unused bigint[];
  v_accounts uuid[];
  v_rests bigint[];
  v_spent bigint[];
begin
  if cardinality(p_run_ids) = 0 then
    return;
  end if;
  select array_agg(u.id), array_agg(u.id) filter (where r.status = 'queued' and u.id = r.slot_ids[1])
    into v_places, v_unused
    from public.agent_runs r, unnest(r.slot_ids) as u (id) where r.id = any (p_run_ids) and r.held_for = 0;
  select array_agg(r.status::text order by e.position), array_agg(r.account_id order by e.position),
      array_agg(r.credits_held order by e.position), array_agg(r.credits_spent order by e.position)
    into v_from, v_accounts, v_rests, v_spent
    from unnest(p_run_ids) with ordinality as e (run_id, position) join public.agent_runs r on r.id = e.run_id;
  update public.agent_runs r
    set status = p_status, error = coalesce(e.error, r.error), finished_at = v_now, updated_at = v_now,
        revision = r.revision + 1, available_at = 'infinity', lease_id = null, lease_owner = null,
        lease_expires_at = null, stop_requested_at = null, pause_requested_at = null, fair_tag = null, held_for = null,
        credits_held = 0, credits_reserved = 0
    from unnest(p_run_ids, p_errors) as e (run_id, error)
    where r.id = e.run_id;
  perform private.close_runs(p_run_ids, v_accounts, v_rests, v_spent);
  if v_places is not null then
    perform private.give_places(v_places, v_unused);
  end if;
  perform private.append_line(p_run_ids, 'state_transition',
    (select array_agg(format('%s -> %s', f, p_status)) from unnest(v_from) f),
    (select array_agg(jsonb_strip_nulls(jsonb_build_object('from', f, 'to', p_status, 'error', e)))
     from unnest(v_from, p_errors) as x (f, e)));
end $$;

CREATE FUNCTION private.ensure_personal_account(p_user_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  insert into public.accounts (id, kind, name) values (p_user_id, 'personal', 'Personal') on conflict do nothing;
  insert into public.account_members (account_id, user_id, role)
    values (p_user_id, p_user_id, 'owner') on conflict do nothing;
end $$;

CREATE FUNCTION private.find_credits(p_moves private.advance_move[], OUT ids uuid[], OUT got bigint[], OUT short uuid[], OUT capped uuid[], OUT broke uuid[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_accounts uuid[];
  v_needs bigint[];
begin
  select coalesce(array_agg(m.id), '{}') into capped
    from unnest(p_moves) m where m.wanted > 0 and m.over_cap;
  select coalesce(array_agg(m.id), '{}'), array_agg(m.account_id), array_agg(m.need) into ids, v_accounts, v_needs
    from unnest(p_moves) m where m.wanted > 0 and m.need > 0 and not m.over_cap;
  -- Every account that the advance will touch, in order: those to draw from, and those of runs that end.
  perform 1 from public.credit_accounts c
    where c.account_id = any (array(
      select m.account_id from unnest(p_moves) m
      where m.id = any (ids) or m.stop or m.wish in ('completed', 'failed', 'cancelled', 'timeout')))
    order by c.account_id for update;
  got := '{}';
  short := capped;
  if ids <> '{}' then
    got := private.top_up(ids, v_accounts, v_needs);
    short := short || array(select u.id from unnest(ids, got) as u (id, got) where u.got = 0);
  end if;
  select coalesce(array_agg(m.id), '{}') into broke
    from unnest(p_moves) m where m.id = any (short) and m.in_flight = 0;
end $$;

CREATE FUNCTION private.flush_logs(p_run_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_ids uuid[];
  v_from bigint[];
begin
  with tail as (
    select r.id, r.broadcast_seq from public.agent_runs r
    where r.id = any (p_run_ids) and r.log_seq > r.broadcast_seq order by r.id for update skip locked
  ), told as (
    update public.agent_runs r set broadcast_seq = r.log_seq, broadcast_at = private.clock()
    from tail where r.id = tail.id returning r.id, tail.broadcast_seq
  )
  select array_agg(id), array_agg(broadcast_seq) into v_ids, v_from from told;
  if v_ids is not null then
    perform private.broadcast_logs(v_ids, v_from);
  end if;
end $$;

CREATE FUNCTION private.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_limit integer := greatest(1, least(p_limit, 500));
  v_account_id uuid;
  v_answer jsonb;
begin
  select r.account_id into v_account_id from public.agent_runs r
    where r.id = p_run_id and r.account_id in (select private.my_account_ids());
  if not found then
    raise exception 'There is no run %', p_run_id using errcode = 'RUN01';
  end if;
  if p_opening then
    perform private.take_rate(v_account_id, 'stream');
  end if;
  -- One statement, so that all is of one moment: every line up to log_seq was committed with it.
  with line as (
    select l.seq, l.log_type, l.message, l.metadata, l.created_at, row_number() over w as place,
      sum(octet_length(l.message) + octet_length(l.metadata::text)) over w as bytes
    from (
      select t.* from public.agent_task_logs t
      where t.run_id = p_run_id and t.seq > p_after and (p_types is null or t.log_type = any (p_types))
      order by t.seq limit v_limit + 1
    ) l
    window w as (order by l.seq)
  ), page as (
    select coalesce(jsonb_agg(jsonb_build_object('seq', line.seq, 'log_type', line.log_type, 'message', line.message,
        'metadata', line.metadata, 'created_at', line.created_at) order by line.seq), '[]') as lines,
      max(line.seq) as last_seq, count(*) < (select count(*) from line) as more
    from line where line.place = 1 or (line.place <= v_limit and line.bytes <= 1000000)
  ), delta as (
    select coalesce(jsonb_agg(jsonb_build_object('step_no', d.step_no, 'attempt', d.attempt, 'offset', d.text_offset,
        'text', d.text) order by d.step_no, d.attempt, d.text_offset), '[]') as deltas
    from private.step_deltas d
    left join jsonb_to_recordset(p_written) as w (step_no integer, attempt integer, characters integer)
      on w.step_no = d.step_no and w.attempt = d.attempt
    where d.run_id = p_run_id and p_written is not null
      and d.text_offset + char_length(d.text) > coalesce(w.characters, 0)
  )
  select jsonb_build_object('status', r.status, 'revision', r.revision, 'lines', page.lines, 'more', page.more,
      'reached', case when page.more then page.last_seq else greatest(r.log_seq, p_after) end, 'deltas', delta.deltas)
    into strict v_answer
    from public.agent_runs r, page, delta where r.id = p_run_id;
  return v_answer;
end $$;

CREATE FUNCTION private.give_places(p_slot_ids bigint[], p_unused bigint[] DEFAULT NULL::bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_ids bigint[] := array(select distinct u.id from unnest(p_slot_ids) as u (id) order by u.id);
begin
  perform 1 from private.slots s where s.id = any (v_ids) order by s.id for update;
  update private.slots s set taken = s.taken - g.places
    from (select u.id, count(*)::integer as places from unnest(p_slot_ids) as u (id) group by u.id) g
    where s.id = g.id;
  if p_unused is not null then
    update private.slots s set fair_tag = greatest(0, s.fair_tag - g.runs * 1000000 / t.share)
      from (select u.id, count(*) as runs from unnest(p_unused) as u (id) group by u.id) g, public.accounts a
      join private.tiers t on t.name = a.tier
      where s.id = g.id and a.id = s.account_id;
  end if;
  perform private.hand_on(v_ids);
end $$;

CREATE FUNCTION private.grant_credits(p_account_id uuid, p_amount bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_available bigint;
begin
  if p_amount is null or p_amount <= 0 then
    raise exception 'p_amount must be a positive number of micro-credits' using errcode = 'RUN07';
  end if;
  insert into public.credit_accounts as c (account_id, available) values (p_account_id, p_amount)
    on conflict (account_id) do update
      set available = c.available + excluded.available, updated_at = private.clock()
    returning available into v_available;
  insert into public.credit_ledger (account_id, kind, debit, credit, amount)
    values (p_account_id, 'grant', 'issued', 'available', p_amount);
  return v_available;
end $$;

CREATE FUNCTION private.hand_on(p_slot_ids bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    AS $$
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

CREATE TABLE private.slots (
    id bigint NOT NULL,
    kind text NOT NULL,
    account_id uuid NOT NULL,
    key text NOT NULL,
    places integer,
    taken integer DEFAULT 0 NOT NULL,
    fair_tag bigint DEFAULT 0 NOT NULL,
    recheck boolean DEFAULT false NOT NULL,
    last_account_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    CONSTRAINT slots_kind_check CHECK ((kind = ANY (ARRAY['account'::text, 'agent'::text, 'key'::text]))),
    CONSTRAINT slots_places_check CHECK ((places > 0)),
    CONSTRAINT slots_taken_check CHECK ((taken >= 0))
)
WITH (fillfactor='50');

COMMENT ON TABLE private.slots IS 'Something that lets only so many runs go on at a time. Ids are from 1: held_for = 0 means not held.';

COMMENT ON COLUMN private.slots.key IS 'Empty for an account, else the agent''s id or the concurrency key.';

COMMENT ON COLUMN private.slots.places IS 'Null for an account: its tier says.';

COMMENT ON COLUMN private.slots.taken IS 'Runs with held_for = 0 that have this slot in slot_ids.';

COMMENT ON COLUMN private.slots.fair_tag IS 'Of an account: the tag of its next run, where V is not higher.';

COMMENT ON COLUMN private.slots.recheck IS 'It may have room for a run that could not be let in at the time; the next claim looks.';

COMMENT ON COLUMN private.slots.last_account_id IS 'Of an agent: the account that had the last turn; of those that wait, the next one by id has the next.';

CREATE FUNCTION private.has_room(p_slot private.slots) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select p_slot.taken < coalesce(p_slot.places, (
    select t.concurrent_runs from public.accounts a join private.tiers t on t.name = a.tier where a.id = p_slot.account_id))
$$;

CREATE FUNCTION private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) RETURNS jsonb
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  with locked as (
    select r.id from public.agent_runs r
    join jsonb_to_recordset(p_leases) as l (run_id uuid, lease_id uuid) on l.run_id = r.id and l.lease_id = r.lease_id
    order by r.id for update of r skip locked
  ), beaten as (
    update public.agent_runs r set lease_expires_at = private.clock() + make_interval(secs => p_lease_seconds)
    from locked where r.id = locked.id
    returning r.id, r.lease_id, r.revision, r.stop_requested_at, r.pause_requested_at
  )
  select coalesce(jsonb_agg(jsonb_build_object('run_id', id, 'lease_id', lease_id, 'revision', revision,
    'stop', stop_requested_at is not null, 'pause', pause_requested_at is not null)), '[]') from beaten
$$;

CREATE FUNCTION private.is_taken_over(p_run_id uuid, p_step_no integer) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select exists (select from public.agent_steps
    where run_id = p_run_id and step_no = p_step_no and status in ('completed', 'skipped'))
$$;

CREATE FUNCTION private.json_problem(p_name text, p_value jsonb, p_max_bytes integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $_$
  select case
    when octet_length(p_value::text) > p_max_bytes then format('%s must be at most %s bytes', p_name, p_max_bytes)
    when jsonb_path_exists(p_value, 'strict $.**{32}') then format('%s is nested more than 32 deep', p_name)
    when jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))')
      then format('%s has a number beyond 1e308', p_name)
  end
$_$;

CREATE FUNCTION private.limits_of(p_run public.agent_runs) RETURNS TABLE(account_id uuid, kind text, key text, places integer)
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 2
    SET search_path TO ''
    AS $$
  select p_run.account_id, 'account', '', null::integer
  union all
  select a.account_id, 'agent', a.id::text, a.max_concurrent_runs
    from public.agents a where a.id = p_run.agent_id and a.max_concurrent_runs is not null
  union all
  select p_run.account_id, 'key', p_run.concurrency_key, p_run.concurrency_limit where p_run.concurrency_key is not null
$$;

CREATE FUNCTION private.load_artifacts(p_run_id uuid, p_names text[]) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object('name', a.name, 'content', a.content, 'content_type', a.content_type)), '[]')
  from (
    select distinct on (name) name, content, content_type from public.agent_artifacts
    where run_id = p_run_id and name = any (p_names) order by name, artifact_no desc
  ) a
$$;

CREATE FUNCTION private.load_results(p_run_id uuid, p_step_nos jsonb) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select private.recorded_steps(p_run_id, 2147483647, array(select n::integer from jsonb_array_elements_text(p_step_nos) n))
$$;

CREATE FUNCTION private.lock_my_run(p_run_id uuid, p_revision bigint) RETURNS public.agent_runs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_run public.agent_runs;
  v_role public.account_role;
begin
  -- Asked before the row is locked, so that nobody makes a stranger's run wait. A run never changes its account.
  v_role := private.my_role((select account_id from public.agent_runs where id = p_run_id));
  if v_role is null then
    raise exception 'There is no run %', p_run_id using errcode = 'RUN01';
  end if;
  select * into strict v_run from public.agent_runs where id = p_run_id for update;
  if v_role = 'viewer' or (v_role = 'member' and v_run.user_id is distinct from (select auth.uid())) then
    raise exception 'Your role % in this account may read run % and not control it', v_role, p_run_id
      using errcode = 'RUN06';
  end if;
  if p_revision is not null and p_revision <> v_run.revision then
    raise exception 'Run % is at revision % and %, not at revision %', p_run_id, v_run.revision, v_run.status, p_revision
      using errcode = 'RUN03', hint = 'Read the run again, then decide again.',
        detail = jsonb_build_object('revision', v_run.revision, 'status', v_run.status)::text;
  end if;
  return v_run;
end $$;

CREATE FUNCTION private.log_messages(p_run_ids uuid[], p_from_seqs bigint[]) RETURNS TABLE(topic text, payload jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select 'run:' || r.id,
    jsonb_build_object('run_id', r.id, 'status', r.status, 'revision', r.revision, 'lines', part.lines)
  from unnest(p_run_ids, p_from_seqs) as told (run_id, from_seq)
  join public.agent_runs r on r.id = told.run_id
  cross join lateral (
    select jsonb_agg(jsonb_build_object('seq', l.seq, 'log_type', l.log_type, 'message', l.message,
      'metadata', l.metadata, 'created_at', l.created_at) order by l.seq) as lines
    from (
      select t.*, sum(octet_length(t.message) + octet_length(t.metadata::text) + 150) over (order by t.seq) as bytes
      from public.agent_task_logs t where t.run_id = r.id and t.seq > told.from_seq
    ) l
    group by l.bytes / 150000
    order by min(l.seq)
  ) part
$$;

CREATE FUNCTION private.made_slots_of(p_run public.agent_runs) RETURNS bigint[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET lock_timeout TO '50ms'
    AS $$
begin
  perform private.add_slots(p_run);
  return private.slots_of(p_run);
exception when lock_not_available then
  return null;
end $$;

CREATE FUNCTION private.may_hear(p_topic text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $_$
  select p_topic ~ '^run:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and exists (
    select from public.agent_runs r
    where r.id = substring(p_topic from 5)::uuid and r.account_id in (select private.my_account_ids()))
$_$;

CREATE FUNCTION private.may_use_agent(p_agent_id uuid, p_account_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select exists (select from public.agents a where a.id = p_agent_id and private.my_role(a.account_id) <> 'viewer')
    or exists (
      select from public.agent_access x
      where x.agent_id = p_agent_id and x.account_id = p_account_id and coalesce(x.expires_at > private.clock(), true))
$$;

CREATE FUNCTION private.my_account_ids() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 3
    SET search_path TO ''
    AS $$
  select account_id from public.account_members where user_id = (select auth.uid())
$$;

CREATE FUNCTION private.my_administered_agent_ids() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 10
    SET search_path TO ''
    AS $$
  select a.id from public.agents a join public.account_members m on m.account_id = a.account_id
  where m.user_id = (select auth.uid()) and m.role in ('owner', 'admin')
$$;

CREATE FUNCTION private.my_agent_ids() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 10
    SET search_path TO ''
    AS $$
  select x.agent_id from public.agent_access x
  where x.account_id in (select private.my_account_ids()) and coalesce(x.expires_at > private.clock(), true)
$$;

CREATE FUNCTION private.my_role(p_account_id uuid) RETURNS public.account_role
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select role from public.account_members where account_id = p_account_id and user_id = (select auth.uid())
$$;

CREATE FUNCTION private.on_account_created() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_amount bigint := (select sign_up_credits from private.settings);
begin
  insert into public.credit_accounts (account_id) values (new.id);
  if v_amount > 0 then
    perform private.grant_credits(new.id, v_amount);
  end if;
  return new;
end $$;

CREATE FUNCTION private.on_user_created() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform private.ensure_personal_account(new.id);
  return new;
end $$;

CREATE FUNCTION private.prefer_by_priority(p_run_ids uuid[], p_engines text[]) RETURNS uuid[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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
      where r.id = i.id and r.fair_tag <> t.fair_tag;
    v_ids := array(select u.id from unnest(v_ids) as u (id) where u.id <> all (v_account.picked)) || v_better;
  end loop;
  return v_ids;
end $$;

CREATE FUNCTION private.publish_deltas(p_deltas jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  with fresh as (
    insert into private.step_deltas (run_id, step_no, attempt, text_offset, text)
      select d.run_id, d.step_no, d.attempt, d."offset", d.text
      from jsonb_to_recordset(p_deltas) as d (
        run_id uuid, lease_id uuid, step_no integer, attempt integer, "offset" integer, text text)
      join public.agent_steps s on s.run_id = d.run_id and s.step_no = d.step_no and s.attempt = d.attempt
        and s.status = 'running' and s.waits_for is null
      join public.agent_runs r on r.id = d.run_id and r.lease_id = d.lease_id
      order by r.id
      for share of r, s  -- both checked anew after a wait: what comes late would stay behind
      on conflict do nothing
      returning *
  )
  select private.broadcast('delta', array_agg('run:' || run_id order by run_id, step_no, text_offset),
    array_agg(jsonb_build_object('run_id', run_id, 'step_no', step_no, 'attempt', attempt,
      'offset', text_offset, 'text', text) order by run_id, step_no, text_offset))
  from fresh
$$;

CREATE FUNCTION private.purge_old(p_now timestamp with time zone, p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION private.queue_run(p_run public.agent_runs) RETURNS public.agent_runs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_now timestamptz := private.clock();
  v_run public.agent_runs;
  v_available bigint;
  v_hold bigint;
  v_places record;
begin
  perform private.take_rate(p_run.account_id, 'start');
  select available into v_available from public.credit_accounts where account_id = p_run.account_id for update;
  v_hold := least(coalesce(v_available, 0), (select hold_credits from private.settings),
                  coalesce(p_run.max_credits, 9223372036854775807));
  if v_hold <= 0 then
    raise exception 'The account has no credits left to start run %', p_run.id
      using errcode = 'RUN10', hint = 'Add credits to the account, then start the run again.';
  end if;
  update public.credit_accounts set available = available - v_hold, held = held + v_hold, updated_at = v_now
    where account_id = p_run.account_id;
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
    values (p_run.account_id, p_run.id, 'hold', 'available', 'held', v_hold);
  select * into v_places from private.take_places(p_run);
  update public.agent_runs r
    set status = 'queued', revision = r.revision + 1, available_at = v_now, started_at = v_now, updated_at = v_now,
        deadline_at = v_now + make_interval(secs => r.timeout_seconds), credits_held = v_hold,
        slot_ids = v_places.slot_ids, fair_tag = v_places.fair_tag, held_for = v_places.held_for
    where r.id = p_run.id;
  perform private.append_line(array[p_run.id], 'state_transition', array[format('%s -> queued', p_run.status)],
    array[jsonb_build_object('from', p_run.status, 'to', 'queued')]);
  if v_places.held_for = 0 then
    perform pg_notify('runbase_runs', '');
  end if;
  select * into v_run from public.agent_runs where id = p_run.id;
  return v_run;
end $$;

CREATE FUNCTION private.realtime_takes() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET lock_timeout TO '50ms'
    AS $$
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

CREATE FUNCTION private.recall(p_account_id uuid, p_action text, p_key text, p_request jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_fingerprint bytea := pg_catalog.sha256(convert_to(p_request::text, 'UTF8'));
  v_known private.idempotency_keys;
begin
  if p_key is null then
    return null;
  end if;
  if char_length(p_key) not between 1 and 200 then
    raise exception 'The idempotency key must have 1 to 200 characters' using errcode = 'RUN07';
  end if;
  loop
    insert into private.idempotency_keys (account_id, action, key, fingerprint)
      values (p_account_id, p_action, p_key, v_fingerprint) on conflict do nothing;
    if found then
      return null;
    end if;
    select * into v_known from private.idempotency_keys
      where account_id = p_account_id and action = p_action and key = p_key;
    exit when found;  -- else it was purged just now
  end loop;
  if v_known.fingerprint <> v_fingerprint then
    raise exception 'The idempotency key % was used before with another % request', quote_literal(p_key), p_action
      using errcode = 'RUN05';
  end if;
  return v_known.response;
end $$;

CREATE FUNCTION private.recheck_slots() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.recorded_steps(p_run_id uuid, p_after integer, p_listed integer[]) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select jsonb_build_object(
    'steps', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'step_no', s.step_no, 'key', s.key, 'kind', s.kind, 'name', s.name, 'status', s.status, 'attempt', s.attempt,
        'failed_attempts', s.failed_attempts, 'max_attempts', s.max_attempts, 'effect', s.effect,
        'effect_key', s.effect_key, 'input', s.input, 'output', s.output, 'error', s.error, 'waits_for', s.waits_for,
        'due_in_seconds', case when s.available_at = 'infinity' then 1e9
          else greatest(0, extract(epoch from s.available_at - c.now)) end,
        'timeout_seconds', s.timeout_seconds, 'credits_bound', s.credits_bound, 'phase', s.phase,
        'finished_revision', s.finished_revision) order by s.step_no), '[]')
      from (
        select * from public.agent_steps where run_id = p_run_id and step_no > p_after
        union all
        select * from public.agent_steps where run_id = p_run_id and step_no = any (p_listed)
      ) s, (select private.clock() as now) c),
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', m.step_no, 'role', m.role, 'content', m.content)
        order by m.message_no), '[]')
      from (
        select * from public.agent_messages where run_id = p_run_id and step_no > p_after
        union all
        select * from public.agent_messages where run_id = p_run_id and step_no = any (p_listed)
      ) m),
    'plans', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', p.step_no, 'goal', p.goal, 'phases', p.phases,
        'reason', p.reason) order by p.number), '[]')
      from (
        select * from public.agent_plans where run_id = p_run_id and step_no > p_after
        union all
        select * from public.agent_plans where run_id = p_run_id and step_no = any (p_listed)
      ) p))
$$;

CREATE FUNCTION private.refuse_frozen_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  if to_jsonb(new) - array['pinned_at', 'published_at'] <> to_jsonb(old) - array['pinned_at', 'published_at']
      or (old.published_at is not null and new.published_at is distinct from old.published_at)
      or (old.pinned_at is not null and new.pinned_at is distinct from old.pinned_at) then
    raise exception 'Version % of agent % is published or has runs, and cannot change', old.number, old.agent_id
      using errcode = 'RUN15';
  end if;
  return new;
end $$;

CREATE FUNCTION private.refuse_move() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  if tg_table_name = 'agent_runs' then
    raise exception 'Run % is % and cannot become %', old.id, old.status, new.status using errcode = 'RUN02';
  end if;
  raise exception 'Step % of run % is % and cannot become %', old.step_no, old.run_id, old.status, new.status
    using errcode = 'RUN02';
end $$;

CREATE FUNCTION private.remember(p_account_id uuid, p_action text, p_key text, p_response jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  update private.idempotency_keys set response = p_response
    where account_id = p_account_id and action = p_action and key = p_key
$$;

CREATE FUNCTION private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, null);
  v_now timestamptz := private.clock();
  v_request public.human_requests;
  v_open integer;
  v_problem text;
  v_answer jsonb;
begin
  v_answer := private.recall(v_run.account_id, 'respond', p_idempotency_key,
    jsonb_build_object('run_id', p_run_id, 'response', p_response, 'request_id', p_request_id));
  if v_answer is not null then
    return v_answer;
  end if;
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;
  v_problem := case
    when p_response is null or jsonb_typeof(p_response) = 'null' then 'response must be given'
    else private.json_problem('response', p_response, 65536)
  end;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  select count(*) into v_open from public.human_requests where run_id = p_run_id and status = 'open';
  if v_open = 0 then
    raise exception 'Run % has no open question; it is %', p_run_id, v_run.status using errcode = 'RUN08';
  end if;
  if p_request_id is null and v_open > 1 then
    raise exception 'Run % has % open questions: name one by request_id', p_run_id, v_open using errcode = 'RUN07';
  end if;
  select * into v_request from public.human_requests
    where run_id = p_run_id and status = 'open' and (p_request_id is null or id = p_request_id);
  if v_request.id is null then
    raise exception 'Question % of run % is not open', p_request_id, p_run_id using errcode = 'RUN08';
  end if;
  if jsonb_array_length(v_request.options) > 0 and not v_request.options @> jsonb_build_array(p_response) then
    raise exception 'response must be one of %', v_request.options using errcode = 'RUN07';
  end if;

  update public.human_requests
    set status = 'answered', response = p_response, responded_by = (select auth.uid()), responded_at = v_now
    where id = v_request.id;
  update public.agent_steps
    set status = 'completed', output = jsonb_build_object('response', p_response), waits_for = null,
        finished_at = v_now, finished_revision = v_run.revision + 1
    where run_id = p_run_id and step_no = v_request.step_no;
  insert into public.agent_messages (run_id, account_id, step_no, role, content)
    values (p_run_id, v_run.account_id, v_request.step_no, 'user', jsonb_build_array(jsonb_build_object(
      'type', 'text', 'text',
      case jsonb_typeof(p_response) when 'string' then p_response #>> '{}' else p_response::text end)));
  -- A run that is not in the queue comes up; one that is keeps its turn. A leased run keeps its lease: the new revision
  -- makes its holder read the answer.
  if v_run.status in ('awaiting_input', 'queued') and v_run.held_for is null then
    v_run.available_at := v_now;
    select t.slot_ids, t.fair_tag, t.held_for into v_run.slot_ids, v_run.fair_tag, v_run.held_for
      from private.take_places(v_run) t;
  end if;
  update public.agent_runs r
    set revision = r.revision + 1, updated_at = v_now, attempt = 0,
        status = case when r.status = 'awaiting_input' then 'queued' else r.status end,
        available_at = v_run.available_at,
        slot_ids = v_run.slot_ids, fair_tag = v_run.fair_tag, held_for = v_run.held_for
    where r.id = p_run_id;
  perform private.append_line(array[p_run_id], 'info', array['A person answered'],
    array[jsonb_build_object('request_id', v_request.id, 'step_no', v_request.step_no)]);
  if v_run.status = 'awaiting_input' then
    perform private.append_line(array[p_run_id], 'state_transition', array['awaiting_input -> queued'],
      array['{"from": "awaiting_input", "to": "queued"}'::jsonb]);
  end if;
  if v_run.status in ('awaiting_input', 'queued') then
    perform pg_notify('runbase_runs', '');
  end if;
  select * into v_run from public.agent_runs where id = p_run_id;
  v_answer := private.run_answer(v_run) || jsonb_build_object('request_id', v_request.id);
  perform private.remember(v_run.account_id, 'respond', p_idempotency_key, v_answer);
  return v_answer;
end $$;

CREATE FUNCTION private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, null);
  v_new public.agent_runs;
  v_fork integer;
  v_fork_ended timestamptz;
  v_answer jsonb;
begin
  v_answer := private.recall(v_run.account_id, 'retry', p_idempotency_key, jsonb_build_object('run_id', p_run_id));
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.status not in ('failed', 'cancelled', 'timeout') then
    raise exception 'Run % is %; only a failed, cancelled or timed-out run can be retried', p_run_id, v_run.status
      using errcode = 'RUN02';
  end if;
  -- The first step that did not complete; where all did, the engine gave up on the last result, so that is tried again.
  select coalesce(min(step_no) filter (where status in ('failed', 'cancelled')), max(step_no), 1) into v_fork
    from public.agent_steps where run_id = p_run_id;
  if v_run.error ->> 'code' = 'max_steps' then
    raise exception 'Run % ended at its limit of % steps, which a retry would meet again', p_run_id, v_run.max_steps
      using errcode = 'RUN02', hint = 'Create a new run with a higher max_steps.';
  end if;
  select coalesce(finished_at, 'infinity') into v_fork_ended
    from public.agent_steps where run_id = p_run_id and step_no = v_fork;

  -- A deleted agent has no places to take.
  if exists (select from public.agents a where a.id = v_run.agent_id) and not private.may_use_agent(v_run.agent_id, v_run.account_id) then
    raise exception 'There is no agent %', v_run.agent_id using errcode = 'RUN01';
  end if;

  perform private.take_rate(v_run.account_id, 'create');
  insert into public.agent_runs (account_id, user_id, agent_id, engine, input, max_steps, timeout_seconds, max_credits,
      priority, concurrency_key, concurrency_limit, resumes_as, step_count, forked_from, fork_step, revision)
    values (v_run.account_id, (select auth.uid()), v_run.agent_id, v_run.engine, v_run.input, v_run.max_steps,
      v_run.timeout_seconds, v_run.max_credits, v_run.priority, v_run.concurrency_key, v_run.concurrency_limit,
      v_run.resumes_as, 0, p_run_id, v_fork, v_run.revision)
    returning * into v_new;
  -- What was started before the fork's step ended cannot depend on how it ended: that is taken over as it is, parallel
  -- siblings too. It costs nothing again, and its order stays, for the new run's revisions go on from the old one's.
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, attempt, failed_attempts,
      max_attempts, effect, effect_key, input, output, error, timeout_seconds, credits_bound, created_at, started_at,
      finished_at, finished_revision)
    select v_new.id, step_no, account_id, key, kind, name, phase, status, attempt, failed_attempts,
      max_attempts, effect, effect_key, input, output, error, timeout_seconds, credits_bound, created_at, started_at,
      finished_at, finished_revision
    from public.agent_steps
    where run_id = p_run_id and status in ('completed', 'skipped') and step_no <> v_fork
      and (step_no < v_fork or created_at < v_fork_ended);
  -- The step at the fork, and siblings that did not complete either, are tried again under their old effect_key, so that
  -- a provider can tell a repeat.
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, created_at)
    select v_new.id, step_no, account_id, key, kind, name, phase, 'pending', max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, created_at
    from public.agent_steps
    where run_id = p_run_id
      and (step_no = v_fork or (step_no > v_fork and status in ('failed', 'cancelled') and created_at < v_fork_ended));
  update public.agent_runs
    set step_count = (select coalesce(max(step_no), 0) from public.agent_steps where run_id = v_new.id)
    where id = v_new.id
    returning * into v_new;
  insert into public.agent_messages (run_id, account_id, step_no, role, content, created_at)
    select v_new.id, account_id, step_no, role, content, created_at
    from public.agent_messages m
    where m.run_id = p_run_id and private.is_taken_over(v_new.id, m.step_no) order by m.message_no;
  insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases, reason, created_at)
    select v_new.id, number, account_id, step_no, goal, phases, reason, created_at
    from public.agent_plans p where p.run_id = p_run_id and private.is_taken_over(v_new.id, p.step_no);
  insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes, created_at)
    select v_new.id, account_id, step_no, name, content_type, content, size_bytes, created_at
    from public.agent_artifacts a
    where a.run_id = p_run_id and private.is_taken_over(v_new.id, a.step_no) order by a.artifact_no;

  if p_autostart then
    v_new := private.queue_run(v_new);
  end if;
  v_answer := private.run_answer(v_new)
    || jsonb_build_object('created', true, 'forked_from', p_run_id, 'fork_step', v_fork);
  perform private.remember(v_run.account_id, 'retry', p_idempotency_key, v_answer);
  return v_answer;
end $$;

CREATE FUNCTION private.run_answer(p_run public.agent_runs) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select jsonb_build_object('run_id', p_run.id, 'status', p_run.status, 'revision', p_run.revision)
$$;

CREATE FUNCTION private.run_view(p_run_ids uuid[], p_whole boolean DEFAULT false) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'run', jsonb_build_object(
      'id', r.id, 'account_id', r.account_id, 'user_id', r.user_id, 'engine', r.engine, 'status', r.status,
      'revision', r.revision, 'lease_id', r.lease_id, 'attempt', r.attempt, 'input', r.input,
      'step_count', r.step_count, 'max_steps', r.max_steps,
      'remaining_seconds', extract(epoch from r.deadline_at - c.now),
      'stop_requested', r.stop_requested_at is not null, 'pause_requested', r.pause_requested_at is not null,
      'credential_ids', coalesce(v.managed_credentials, '{}') || r.credential_ids,
      'agent', case when v.id is not null then jsonb_build_object(
        'agent_id', v.agent_id, 'version_id', v.id, 'number', v.number, 'engine', v.engine, 'config', v.config,
        'input_schema', v.input_schema, 'credential_types', v.credential_types,
        'managed', v.managed_credentials <> '{}', 'price', v.price) end),
    'snapshot', case when n.run_id is not null then
      jsonb_build_object('version', n.version, 'state', n.state, 'kept_steps', n.kept_steps) end
  ) || private.recorded_steps(r.id, coalesce(n.step_count, 0), n.open_steps || n.kept_steps) order by r.id), '[]')
  from public.agent_runs r
  left join private.run_snapshots n on n.run_id = r.id and not p_whole
  left join public.agent_versions v on v.id = r.agent_version_id,
  (select private.clock() as now) c
  where r.id = any (p_run_ids)
$$;

CREATE FUNCTION private.set_tier(p_account_id uuid, p_tier text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  if not exists (select from private.tiers where name = p_tier) then
    raise exception 'There is no tier %', quote_literal(p_tier) using errcode = 'RUN07';
  end if;
  update public.accounts set tier = p_tier where id = p_account_id;
  if not found then
    raise exception 'There is no account %', p_account_id using errcode = 'RUN01';
  end if;
end $$;

CREATE FUNCTION private.slots_of(p_run public.agent_runs) RETURNS bigint[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select case when count(*) = count(s.id) then array_agg(s.id order by l.kind) end
    from private.limits_of(p_run) l
    left join private.slots s on s.account_id = l.account_id and s.kind = l.kind and s.key = l.key
$$;

CREATE FUNCTION private.start_run(p_run_id uuid, p_revision bigint) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, p_revision);
begin
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;
  if v_run.status <> 'created' then
    raise exception 'Run % is already started: it is %', p_run_id, v_run.status using errcode = 'RUN02';
  end if;
  return private.run_answer(private.queue_run(v_run));
end $$;

CREATE FUNCTION private.sweep_runs(p_limit integer, p_now timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_row record;
  v_verdicts jsonb;
  v_ended integer := 0;
begin
  select jsonb_agg(v) into v_verdicts from (
    with stuck as (
      select r.id, r.stop_requested_at, r.deadline_at, r.attempt, r.max_attempts, r.error
      from public.agent_runs r
      where r.status in ('planning', 'executing') and r.lease_expires_at < p_now
        and (r.stop_requested_at is not null or r.deadline_at <= p_now or r.attempt + 1 >= r.max_attempts)
      order by r.engine, r.id limit p_limit for update skip locked
    ), late as (
      select r.id from public.agent_runs r
      where r.status in ('queued', 'awaiting_input') and r.deadline_at <= p_now
      order by r.deadline_at limit p_limit for update skip locked
    ), verdict as (
      select id, 'cancelled'::public.run_status as status, null::jsonb as error from stuck
        where stop_requested_at is not null
      union all
      select id, 'timeout', '{"code": "deadline", "message": "The run reached its deadline", "retryable": false}'
        from stuck where stop_requested_at is null and deadline_at <= p_now
      union all
      select id, 'failed', jsonb_build_object('code', 'poison', 'retryable', false, 'message',
          format('The worker was lost %s times in a row while it held this run', attempt + 1), 'details', error)
        from stuck where stop_requested_at is null and deadline_at > p_now
      union all
      select id, 'timeout', '{"code": "deadline", "message": "The run reached its deadline", "retryable": false}'
        from late
    )
    select * from verdict
  ) v;
  if v_verdicts is null then
    return 0;
  end if;
  -- All accounts and slots at once and in order, before the first ending touches one.
  perform 1 from public.credit_accounts c
    where c.account_id = any (array(
      select r.account_id from public.agent_runs r
      join jsonb_to_recordset(v_verdicts) as v (id uuid) on v.id = r.id))
    order by c.account_id for update;
  perform 1 from private.slots s
    where s.id = any (array(
      select u.id from jsonb_to_recordset(v_verdicts) as v (id uuid)
      join public.agent_runs r on r.id = v.id and r.held_for = 0, unnest(r.slot_ids) as u (id)))
    order by s.id for update;
  for v_row in
    select v.status, array_agg(v.id order by v.id) as ids, array_agg(v.error order by v.id) as errors
    from jsonb_to_recordset(v_verdicts) as v (id uuid, status public.run_status, error jsonb)
    group by v.status
  loop
    perform private.end_runs(v_row.ids, v_row.status, v_row.errors);
    v_ended := v_ended + cardinality(v_row.ids);
  end loop;
  return v_ended;
end $$;

CREATE FUNCTION private.take_places(p_run public.agent_runs, OUT slot_ids bigint[], OUT fair_tag bigint, OUT held_for bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.take_places_of(p_run public.agent_runs, p_slot_ids bigint[], OUT slot_ids bigint[], OUT fair_tag bigint, OUT held_for bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    AS $$
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

CREATE FUNCTION private.take_rate(p_account_id uuid, p_action text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.top_up(p_run_ids uuid[], p_account_ids uuid[], p_needs bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_got bigint[] := array_fill(0::bigint, array[cardinality(p_run_ids)]);
  v_available bigint;
  v_amount bigint;
  i integer;
begin
  for i in 1 .. cardinality(p_run_ids) loop
    select available into v_available from public.credit_accounts where account_id = p_account_ids[i];
    continue when v_available is null or v_available < p_needs[i];
    v_amount := least(v_available, greatest(p_needs[i], (select hold_credits from private.settings)));
    update public.credit_accounts
      set available = available - v_amount, held = held + v_amount, updated_at = private.clock()
      where account_id = p_account_ids[i];
    insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
      values (p_account_ids[i], p_run_ids[i], 'hold', 'available', 'held', v_amount);
    v_got[i] := v_amount;
  end loop;
  return v_got;
end $$;

CREATE FUNCTION private.write_records(p_batch jsonb, p_run_ids uuid[], p_account_ids uuid[], p_revisions bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  if p_batch ? 'messages' then
    insert into public.agent_messages (run_id, account_id, step_no, role, content, created_at)
      select m.run_id, w.account_id, m.step_no, m.role, m.content, private.clock()
      from rows from (jsonb_to_recordset(p_batch -> 'messages')
        as (run_id uuid, step_no integer, role text, content jsonb)) with ordinality
        as m (run_id, step_no, role, content, position)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = m.run_id
      order by m.position;
  end if;
  if p_batch ? 'artifacts' then
    insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes, created_at)
      select a.run_id, w.account_id, a.step_no, a.name, a.content_type, a.content, octet_length(a.content),
        private.clock()
      from rows from (jsonb_to_recordset(p_batch -> 'artifacts')
        as (run_id uuid, step_no integer, name text, content_type text, content text)) with ordinality
        as a (run_id, step_no, name, content_type, content, position)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = a.run_id
      order by a.position;
  end if;
  if p_batch ? 'plans' then
    insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases, reason, created_at)
      select p.run_id,
        (select count(*) from public.agent_plans o where o.run_id = p.run_id)
          + row_number() over (partition by p.run_id order by p.position),
        w.account_id, p.step_no, p.goal, p.phases, p.reason, private.clock()
      from rows from (jsonb_to_recordset(p_batch -> 'plans')
        as (run_id uuid, step_no integer, goal text, phases jsonb, reason text)) with ordinality
        as p (run_id, step_no, goal, phases, reason, position)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = p.run_id;
  end if;
  if p_batch ? 'requests' then
    insert into public.human_requests (run_id, account_id, step_no, kind, prompt, options)
      select q.run_id, w.account_id, q.step_no, q.kind, q.prompt, coalesce(q.options, '[]')
      from jsonb_to_recordset(p_batch -> 'requests') as q (
        run_id uuid, step_no integer, kind text, prompt text, options jsonb)
      join unnest(p_run_ids, p_account_ids) as w (id, account_id) on w.id = q.run_id;
  end if;
  if p_batch ? 'snapshots' then
    insert into private.run_snapshots (run_id, revision, version, step_count, open_steps, kept_steps, state)
      select s.run_id, w.revision, s.version, s.step_count, s.open_steps, s.kept_steps, s.state
      from jsonb_to_recordset(p_batch -> 'snapshots') as s (
        run_id uuid, version integer, step_count integer, open_steps integer[], kept_steps integer[], state jsonb)
      join unnest(p_run_ids, p_revisions) as w (id, revision) on w.id = s.run_id
      on conflict (run_id) do update
        set revision = excluded.revision, version = excluded.version, step_count = excluded.step_count,
            open_steps = excluded.open_steps, kept_steps = excluded.kept_steps, state = excluded.state;
  end if;
end $$;

CREATE FUNCTION public.advance_runs(p_batch jsonb) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.advance_runs(p_batch) AS advance_runs;
END;

CREATE FUNCTION public.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.claim_runs(p_owner, p_limit, p_lease_seconds, p_engines) AS claim_runs;
END;

CREATE FUNCTION public.control_run(p_run_id uuid, p_action text, p_revision bigint DEFAULT NULL::bigint) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.control_run(p_run_id, p_action, p_revision) AS control_run;
END;

CREATE FUNCTION public.create_run(p_request jsonb, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.create_run(p_request, p_idempotency_key) AS create_run;
END;

CREATE FUNCTION public.flush_logs(p_run_ids uuid[]) RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.flush_logs(p_run_ids) AS flush_logs;
END;

CREATE FUNCTION public.follow_run(p_run_id uuid, p_after bigint DEFAULT 0, p_limit integer DEFAULT 100, p_types public.log_type[] DEFAULT NULL::public.log_type[], p_written jsonb DEFAULT NULL::jsonb, p_opening boolean DEFAULT false) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.follow_run(p_run_id, p_after, p_limit, p_types, p_written, p_opening) AS follow_run;
END;

CREATE FUNCTION public.grant_credits(p_account_id uuid, p_amount bigint) RETURNS bigint
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.grant_credits(p_account_id, p_amount) AS grant_credits;
END;

CREATE FUNCTION public.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.heartbeat_runs(p_leases, p_lease_seconds) AS heartbeat_runs;
END;

CREATE FUNCTION public.load_artifacts(p_run_id uuid, p_names text[]) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.load_artifacts(p_run_id, p_names) AS load_artifacts;
END;

CREATE FUNCTION public.load_results(p_run_id uuid, p_step_nos jsonb) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.load_results(p_run_id, p_step_nos) AS load_results;
END;

CREATE FUNCTION public.load_run(p_run_id uuid, p_whole boolean DEFAULT false) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT (private.run_view(ARRAY[p_run_id], p_whole) -> 0);
END;

CREATE FUNCTION public.publish_deltas(p_deltas jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.publish_deltas(p_deltas) AS publish_deltas;
END;

CREATE FUNCTION public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid DEFAULT NULL::uuid, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.respond_run(p_run_id, p_response, p_request_id, p_idempotency_key) AS respond_run;
END;

CREATE FUNCTION public.retry_run(p_run_id uuid, p_idempotency_key text DEFAULT NULL::text, p_autostart boolean DEFAULT true) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.retry_run(p_run_id, p_idempotency_key, p_autostart) AS retry_run;
END;

CREATE FUNCTION public.set_tier(p_account_id uuid, p_tier text) RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.set_tier(p_account_id, p_tier) AS set_tier;
END;

CREATE FUNCTION public.start_run(p_run_id uuid, p_revision bigint DEFAULT NULL::bigint) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.start_run(p_run_id, p_revision) AS start_run;
END;

CREATE SEQUENCE private.fair_time
    START WITH 0
    INCREMENT BY 1
    MINVALUE 0
    NO MAXVALUE
    CACHE 1;

COMMENT ON SEQUENCE private.fair_time IS 'V: the highest fair_tag that was claimed. A sequence, because it must not be a row that all claims lock.';

CREATE TABLE private.housekeeping (
    only_row boolean DEFAULT true NOT NULL,
    due_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    slot_id bigint DEFAULT 0 NOT NULL,
    CONSTRAINT housekeeping_only_row_check CHECK (only_row)
);

COMMENT ON TABLE private.housekeeping IS 'One row: when to purge next, and the last slot that was looked at.';

CREATE TABLE private.idempotency_keys (
    account_id uuid NOT NULL,
    action text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    response jsonb,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT idempotency_keys_key_check CHECK (((char_length(key) >= 1) AND (char_length(key) <= 200)))
);

COMMENT ON TABLE private.idempotency_keys IS 'The first answer to each key, scoped to account and action.';

CREATE TABLE private.rate_limits (
    account_id uuid NOT NULL,
    action text NOT NULL,
    full_at timestamp with time zone NOT NULL,
    CONSTRAINT rate_limits_action_check CHECK ((action = ANY (ARRAY['create'::text, 'start'::text, 'stream'::text])))
)
WITH (fillfactor='50');

CREATE UNLOGGED TABLE private.run_snapshots (
    run_id uuid NOT NULL,
    revision bigint NOT NULL,
    version integer NOT NULL,
    step_count integer NOT NULL,
    open_steps integer[] NOT NULL,
    kept_steps integer[] NOT NULL,
    state jsonb NOT NULL,
    CONSTRAINT run_snapshots_state_check CHECK ((octet_length((state)::text) <= 65536))
);

COMMENT ON COLUMN private.run_snapshots.revision IS 'Results committed up to this revision are in the state.';

COMMENT ON COLUMN private.run_snapshots.version IS 'The engine''s version of its state''s shape; another one is not read.';

COMMENT ON COLUMN private.run_snapshots.step_count IS 'Steps above this number were started later.';

COMMENT ON COLUMN private.run_snapshots.open_steps IS 'Steps up to step_count that had not ended.';

COMMENT ON COLUMN private.run_snapshots.kept_steps IS 'Ended steps whose results the engine wants to see again with the state.';

CREATE TABLE private.run_transitions (
    from_status public.run_status NOT NULL,
    to_status public.run_status NOT NULL
);

CREATE TABLE private.settings (
    only_row boolean DEFAULT true NOT NULL,
    sign_up_credits bigint DEFAULT 100000000 NOT NULL,
    hold_credits bigint DEFAULT 1000000 NOT NULL,
    CONSTRAINT settings_hold_credits_check CHECK ((hold_credits > 0)),
    CONSTRAINT settings_only_row_check CHECK (only_row),
    CONSTRAINT settings_sign_up_credits_check CHECK ((sign_up_credits >= 0))
);

COMMENT ON TABLE private.settings IS 'One row of settings that SQL needs; operators change it with update.';

ALTER TABLE private.slots ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME private.slots_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE UNLOGGED TABLE private.step_deltas (
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    attempt integer NOT NULL,
    text_offset integer NOT NULL,
    text text NOT NULL
);

CREATE TABLE private.step_transitions (
    from_status public.step_status NOT NULL,
    to_status public.step_status NOT NULL
);

CREATE TABLE private.tiers (
    name text NOT NULL,
    concurrent_runs integer NOT NULL,
    share integer DEFAULT 1 NOT NULL,
    creates_per_minute integer NOT NULL,
    starts_per_minute integer NOT NULL,
    streams_per_minute integer NOT NULL,
    CONSTRAINT tiers_concurrent_runs_check CHECK (((concurrent_runs >= 1) AND (concurrent_runs <= 10000))),
    CONSTRAINT tiers_creates_per_minute_check CHECK ((creates_per_minute > 0)),
    CONSTRAINT tiers_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,31}$'::text)),
    CONSTRAINT tiers_share_check CHECK (((share >= 1) AND (share <= 1000))),
    CONSTRAINT tiers_starts_per_minute_check CHECK ((starts_per_minute > 0)),
    CONSTRAINT tiers_streams_per_minute_check CHECK ((streams_per_minute > 0))
);

COMMENT ON COLUMN private.tiers.concurrent_runs IS 'Runs of one account that go on or may be claimed; the others are held.';

COMMENT ON COLUMN private.tiers.share IS 'An account gets claims in proportion to it while there are not enough for all.';

CREATE TABLE public.account_members (
    account_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role public.account_role NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL
);

COMMENT ON TABLE public.account_members IS 'Viewers read, members create and control their own, admins and owners all.';

CREATE TABLE public.accounts (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    kind public.account_kind NOT NULL,
    tier text DEFAULT 'free'::text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT accounts_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200)))
);

COMMENT ON TABLE public.accounts IS 'Who owns and pays. Never deleted with a user: the ledger refers to it.';

CREATE TABLE public.agent_access (
    agent_id uuid NOT NULL,
    account_id uuid NOT NULL,
    kind text NOT NULL,
    expires_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT agent_access_kind_check CHECK ((kind = ANY (ARRAY['owned'::text, 'purchased'::text, 'granted'::text])))
);

COMMENT ON TABLE public.agent_access IS 'The accounts that may run an agent, besides its own. Runs that go on outlive it.';

COMMENT ON COLUMN public.agent_access.expires_at IS 'Null: for good.';

CREATE TABLE public.agent_artifacts (
    run_id uuid NOT NULL,
    artifact_no bigint NOT NULL,
    account_id uuid NOT NULL,
    step_no integer NOT NULL,
    name text NOT NULL,
    content_type text NOT NULL,
    content text NOT NULL,
    size_bytes integer NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT agent_artifacts_content_check CHECK ((octet_length(content) <= 65536)),
    CONSTRAINT agent_artifacts_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200)))
);

COMMENT ON TABLE public.agent_artifacts IS 'Files that steps produced; the newest artifact_no of a name is current.';

ALTER TABLE public.agent_artifacts ALTER COLUMN artifact_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.agent_artifacts_artifact_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.agent_messages (
    run_id uuid NOT NULL,
    message_no bigint NOT NULL,
    account_id uuid NOT NULL,
    step_no integer NOT NULL,
    role text NOT NULL,
    content jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT agent_messages_role_check CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'tool'::text])))
);

COMMENT ON TABLE public.agent_messages IS 'The conversation of a run in order of message_no. Text lives here once; steps refer to it.';

ALTER TABLE public.agent_messages ALTER COLUMN message_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.agent_messages_message_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.agent_plans (
    run_id uuid NOT NULL,
    number integer NOT NULL,
    account_id uuid NOT NULL,
    step_no integer NOT NULL,
    goal text NOT NULL,
    phases jsonb NOT NULL,
    reason text,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL
);

COMMENT ON TABLE public.agent_plans IS 'The plans of a run; a replan is the next number and says its reason.';

CREATE TABLE public.agent_steps (
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    account_id uuid NOT NULL,
    key text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    phase text,
    status public.step_status NOT NULL,
    attempt integer DEFAULT 1 NOT NULL,
    failed_attempts integer DEFAULT 0 NOT NULL,
    max_attempts integer DEFAULT 3 NOT NULL,
    effect public.step_effect NOT NULL,
    effect_key uuid NOT NULL,
    input jsonb DEFAULT '{}'::jsonb NOT NULL,
    output jsonb,
    error jsonb,
    waits_for text,
    available_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    timeout_seconds double precision NOT NULL,
    credits_bound bigint DEFAULT 0 NOT NULL,
    credits_spent bigint DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    finished_revision bigint,
    CONSTRAINT agent_steps_credits_bound_check CHECK ((credits_bound >= 0)),
    CONSTRAINT agent_steps_credits_spent_check CHECK ((credits_spent >= 0)),
    CONSTRAINT agent_steps_waits_for_check CHECK ((waits_for = ANY (ARRAY['human'::text, 'timer'::text, 'child'::text, 'event'::text])))
)
WITH (fillfactor='80');

COMMENT ON TABLE public.agent_steps IS 'A unit of work with a stored result, numbered from 1 within its run.';

COMMENT ON COLUMN public.agent_steps.key IS 'The engine''s name of the step, the same whenever the same decision is drawn.';

COMMENT ON COLUMN public.agent_steps.attempt IS 'Tries so far; each is booked apart. failed_attempts counts those that max_attempts limits.';

COMMENT ON COLUMN public.agent_steps.effect_key IS 'What outward calls carry as idempotency key; attempts and retry keep it.';

COMMENT ON COLUMN public.agent_steps.created_at IS 'When it was first started; started_at moves with every try.';

COMMENT ON COLUMN public.agent_steps.credits_bound IS 'What it may cost; reserved in the run while it is performed, not while it waits.';

COMMENT ON COLUMN public.agent_steps.finished_revision IS 'The run''s revision that committed the result: the order of results.';

CREATE TABLE public.agent_task_logs (
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    account_id uuid NOT NULL,
    log_type public.log_type NOT NULL,
    message text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT agent_task_logs_message_check CHECK ((octet_length(message) <= 8192))
);

COMMENT ON TABLE public.agent_task_logs IS 'What a run tells its people: append-only, gap-free by seq, broadcast and published.';

CREATE TABLE public.agent_versions (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id uuid NOT NULL,
    number integer NOT NULL,
    engine text NOT NULL,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    input_schema jsonb DEFAULT '{"type": "object"}'::jsonb NOT NULL,
    credential_types text[] DEFAULT '{}'::text[] NOT NULL,
    managed_credentials jsonb DEFAULT '{}'::jsonb NOT NULL,
    price bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    pinned_at timestamp with time zone,
    published_at timestamp with time zone,
    CONSTRAINT agent_versions_config_check CHECK ((jsonb_typeof(config) = 'object'::text)),
    CONSTRAINT agent_versions_engine_check CHECK ((engine ~ '^[a-z][a-z0-9_]{0,31}$'::text)),
    CONSTRAINT agent_versions_input_schema_check CHECK ((jsonb_typeof(input_schema) = 'object'::text)),
    CONSTRAINT agent_versions_managed_credentials_check CHECK ((jsonb_typeof(managed_credentials) = 'object'::text)),
    CONSTRAINT agent_versions_number_check CHECK ((number > 0)),
    CONSTRAINT agent_versions_price_check CHECK (((price >= 0) AND (price <= '1000000000000000'::bigint)))
);

COMMENT ON TABLE public.agent_versions IS 'What an agent is. Frozen once it is published or a run has pinned it.';

COMMENT ON COLUMN public.agent_versions.config IS 'The engine''s settings, as the seller wrote them. Never for buyers.';

COMMENT ON COLUMN public.agent_versions.input_schema IS 'JSON Schema (2020-12) of a run''s input; a form is drawn from it.';

COMMENT ON COLUMN public.agent_versions.credential_types IS 'The providers of which a run needs a credential.';

COMMENT ON COLUMN public.agent_versions.managed_credentials IS 'By provider, the credential of the agent''s own account that stands in for the runner''s. Never for buyers.';

COMMENT ON COLUMN public.agent_versions.price IS 'What starting a run costs, in micro-credits.';

COMMENT ON COLUMN public.agent_versions.pinned_at IS 'When a run first pinned it as a draft.';

CREATE TABLE public.agents (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    account_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    status text DEFAULT 'draft'::text NOT NULL,
    visibility text DEFAULT 'private'::text NOT NULL,
    current_version_id uuid,
    draft_version_id uuid,
    max_concurrent_runs integer,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    updated_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT agents_description_check CHECK ((char_length(description) <= 4000)),
    CONSTRAINT agents_max_concurrent_runs_check CHECK (((max_concurrent_runs >= 1) AND (max_concurrent_runs <= 10000))),
    CONSTRAINT agents_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200))),
    CONSTRAINT agents_published_has_a_version CHECK (((status <> 'published'::text) OR (current_version_id IS NOT NULL))),
    CONSTRAINT agents_status_check CHECK ((status = ANY (ARRAY['draft'::text, 'published'::text, 'retired'::text]))),
    CONSTRAINT agents_visibility_check CHECK ((visibility = ANY (ARRAY['private'::text, 'public'::text])))
);

COMMENT ON TABLE public.agents IS 'What can be run by its id. Written by functions; operators set max_concurrent_runs.';

COMMENT ON COLUMN public.agents.status IS 'draft: its admins alone run it. published: whoever has access. retired: nobody starts it any more.';

COMMENT ON COLUMN public.agents.visibility IS 'public: every signed-in user sees it once it is published. To run it takes access, either way.';

COMMENT ON COLUMN public.agents.current_version_id IS 'What a new run pins: the version that was published last.';

COMMENT ON COLUMN public.agents.draft_version_id IS 'What its admins edit and try, until it is published.';

COMMENT ON COLUMN public.agents.max_concurrent_runs IS 'Runs of this agent that go on at a time, whoever started them; null: no limit of its own.';

CREATE TABLE public.credit_accounts (
    account_id uuid NOT NULL,
    available bigint DEFAULT 0 NOT NULL,
    held bigint DEFAULT 0 NOT NULL,
    spent bigint DEFAULT 0 NOT NULL,
    updated_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT credit_accounts_available_check CHECK ((available >= 0)),
    CONSTRAINT credit_accounts_held_check CHECK ((held >= 0)),
    CONSTRAINT credit_accounts_spent_check CHECK ((spent >= 0))
);

COMMENT ON TABLE public.credit_accounts IS 'An account''s micro-credits. held covers what its unended runs hold or have spent.';

CREATE TABLE public.credit_ledger (
    id bigint NOT NULL,
    account_id uuid NOT NULL,
    run_id uuid,
    step_no integer,
    attempt integer,
    kind text NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    amount bigint NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT credit_ledger_amount_check CHECK ((amount > 0)),
    CONSTRAINT credit_ledger_credit_check CHECK ((credit = ANY (ARRAY['available'::text, 'held'::text, 'spent'::text]))),
    CONSTRAINT credit_ledger_debit_check CHECK ((debit = ANY (ARRAY['issued'::text, 'available'::text, 'held'::text]))),
    CONSTRAINT credit_ledger_kind_check CHECK ((kind = ANY (ARRAY['grant'::text, 'hold'::text, 'settle'::text, 'release'::text])))
);

COMMENT ON TABLE public.credit_ledger IS 'One transfer a row: amount leaves debit and enters credit. No foreign keys: it is written with every step and outlives all.';

ALTER TABLE public.credit_ledger ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.credit_ledger_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.human_requests (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    run_id uuid NOT NULL,
    account_id uuid NOT NULL,
    step_no integer NOT NULL,
    kind text NOT NULL,
    prompt text NOT NULL,
    options jsonb DEFAULT '[]'::jsonb NOT NULL,
    status text DEFAULT 'open'::text NOT NULL,
    response jsonb,
    responded_by uuid,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    responded_at timestamp with time zone,
    CONSTRAINT human_requests_kind_check CHECK ((kind = ANY (ARRAY['question'::text, 'approval'::text]))),
    CONSTRAINT human_requests_options_check CHECK ((jsonb_typeof(options) = 'array'::text)),
    CONSTRAINT human_requests_status_check CHECK ((status = ANY (ARRAY['open'::text, 'answered'::text, 'cancelled'::text])))
);

COMMENT ON TABLE public.human_requests IS 'Questions of a run to its people; an answer completes the step that asked.';

ALTER TABLE ONLY private.housekeeping
    ADD CONSTRAINT housekeeping_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY private.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (account_id, action, key);

ALTER TABLE ONLY private.rate_limits
    ADD CONSTRAINT rate_limits_pkey PRIMARY KEY (account_id, action);

ALTER TABLE ONLY private.run_snapshots
    ADD CONSTRAINT run_snapshots_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY private.run_transitions
    ADD CONSTRAINT run_transitions_pkey PRIMARY KEY (from_status, to_status);

ALTER TABLE ONLY private.settings
    ADD CONSTRAINT settings_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY private.slots
    ADD CONSTRAINT slots_account_id_kind_key_key UNIQUE (account_id, kind, key);

ALTER TABLE ONLY private.slots
    ADD CONSTRAINT slots_pkey PRIMARY KEY (id);

ALTER TABLE ONLY private.step_deltas
    ADD CONSTRAINT step_deltas_pkey PRIMARY KEY (run_id, step_no, attempt, text_offset);

ALTER TABLE ONLY private.step_transitions
    ADD CONSTRAINT step_transitions_pkey PRIMARY KEY (from_status, to_status);

ALTER TABLE ONLY private.tiers
    ADD CONSTRAINT tiers_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.account_members
    ADD CONSTRAINT account_members_pkey PRIMARY KEY (account_id, user_id);

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.agent_access
    ADD CONSTRAINT agent_access_pkey PRIMARY KEY (agent_id, account_id, kind);

ALTER TABLE ONLY public.agent_artifacts
    ADD CONSTRAINT agent_artifacts_pkey PRIMARY KEY (run_id, artifact_no);

ALTER TABLE ONLY public.agent_messages
    ADD CONSTRAINT agent_messages_pkey PRIMARY KEY (run_id, message_no);

ALTER TABLE ONLY public.agent_plans
    ADD CONSTRAINT agent_plans_pkey PRIMARY KEY (run_id, number);

ALTER TABLE ONLY public.agent_runs
    ADD CONSTRAINT agent_runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.agent_steps
    ADD CONSTRAINT agent_steps_pkey PRIMARY KEY (run_id, step_no);

ALTER TABLE ONLY public.agent_task_logs
    ADD CONSTRAINT agent_task_logs_pkey PRIMARY KEY (run_id, seq);

ALTER TABLE ONLY public.agent_versions
    ADD CONSTRAINT agent_versions_agent_id_number_key UNIQUE (agent_id, number);

ALTER TABLE ONLY public.agent_versions
    ADD CONSTRAINT agent_versions_id_agent_id_key UNIQUE (id, agent_id);

ALTER TABLE ONLY public.agent_versions
    ADD CONSTRAINT agent_versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.credit_accounts
    ADD CONSTRAINT credit_accounts_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY public.credit_ledger
    ADD CONSTRAINT credit_ledger_pkey PRIMARY KEY (account_id, id);

ALTER TABLE ONLY public.human_requests
    ADD CONSTRAINT human_requests_pkey PRIMARY KEY (id);

CREATE INDEX idempotency_keys_created_at ON private.idempotency_keys USING btree (created_at);

CREATE INDEX rate_limits_full_at ON private.rate_limits USING btree (full_at);

CREATE INDEX slots_keys ON private.slots USING btree (id) WHERE (kind = 'key'::text);

CREATE INDEX slots_recheck ON private.slots USING btree (account_id, id) WHERE recheck;

CREATE INDEX account_members_user_id ON public.account_members USING btree (user_id);

CREATE INDEX agent_access_account_id ON public.agent_access USING btree (account_id);

CREATE INDEX agent_messages_of_step ON public.agent_messages USING btree (run_id, step_no);

CREATE INDEX agent_plans_of_step ON public.agent_plans USING btree (run_id, step_no);

CREATE INDEX agent_runs_deadline ON public.agent_runs USING btree (deadline_at) WHERE (status = ANY (ARRAY['queued'::public.run_status, 'awaiting_input'::public.run_status]));

CREATE INDEX agent_runs_forked_from ON public.agent_runs USING btree (forked_from) WHERE (forked_from IS NOT NULL);

CREATE INDEX agent_runs_held ON public.agent_runs USING btree (held_for, account_id, priority DESC, available_at, id) WHERE ((status = 'queued'::public.run_status) AND (held_for > 0));

CREATE INDEX agent_runs_history ON public.agent_runs USING btree (account_id, created_at DESC, id);

CREATE INDEX agent_runs_keyed ON public.agent_runs USING btree (account_id, concurrency_key) WHERE ((concurrency_key IS NOT NULL) AND (finished_at IS NULL));

CREATE INDEX agent_runs_leased ON public.agent_runs USING btree (engine, id) WHERE (status = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status]));

CREATE INDEX agent_runs_ready ON public.agent_runs USING btree (engine, fair_tag, id) WHERE ((status = 'queued'::public.run_status) AND (held_for = 0));

CREATE INDEX agent_runs_ready_of_account ON public.agent_runs USING btree (account_id, priority DESC, fair_tag, id) WHERE ((status = 'queued'::public.run_status) AND (held_for = 0));

CREATE INDEX agent_runs_timers ON public.agent_runs USING btree (available_at, id) WHERE ((status = 'queued'::public.run_status) AND (held_for IS NULL));

CREATE INDEX agents_account_id ON public.agents USING btree (account_id);

CREATE INDEX agents_listed ON public.agents USING btree (created_at DESC, id) WHERE ((status = 'published'::text) AND (visibility = 'public'::text));

CREATE UNIQUE INDEX credit_ledger_booked_once ON public.credit_ledger USING btree (run_id, step_no, attempt, kind);

CREATE INDEX human_requests_account_id ON public.human_requests USING btree (account_id, created_at DESC);

CREATE INDEX human_requests_run_id ON public.human_requests USING btree (run_id);

CREATE TRIGGER recheck_slots AFTER UPDATE OF concurrent_runs ON private.tiers FOR EACH ROW EXECUTE FUNCTION private.recheck_slots();

CREATE TRIGGER frozen BEFORE UPDATE ON public.agent_versions FOR EACH ROW WHEN (((old.published_at IS NOT NULL) OR (old.pinned_at IS NOT NULL))) EXECUTE FUNCTION private.refuse_frozen_version();

CREATE TRIGGER guard AFTER UPDATE OF status ON public.agent_runs FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (NOT (((old.status = 'created'::public.run_status) AND (new.status = ANY (ARRAY['queued'::public.run_status, 'cancelled'::public.run_status]))) OR ((old.status = 'queued'::public.run_status) AND (new.status = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status, 'paused'::public.run_status, 'failed'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status]))) OR ((old.status = 'planning'::public.run_status) AND (new.status = ANY (ARRAY['queued'::public.run_status, 'executing'::public.run_status, 'awaiting_input'::public.run_status, 'paused'::public.run_status, 'failed'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status]))) OR ((old.status = 'executing'::public.run_status) AND (new.status = ANY (ARRAY['queued'::public.run_status, 'planning'::public.run_status, 'awaiting_input'::public.run_status, 'paused'::public.run_status, 'completed'::public.run_status, 'failed'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status]))) OR ((old.status = 'awaiting_input'::public.run_status) AND (new.status = ANY (ARRAY['queued'::public.run_status, 'paused'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status]))) OR ((old.status = 'paused'::public.run_status) AND (new.status = ANY (ARRAY['queued'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status]))))))) EXECUTE FUNCTION private.refuse_move();

CREATE TRIGGER guard AFTER UPDATE OF status ON public.agent_steps FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (NOT (((old.status = 'pending'::public.step_status) AND (new.status = ANY (ARRAY['running'::public.step_status, 'skipped'::public.step_status, 'cancelled'::public.step_status]))) OR ((old.status = 'running'::public.step_status) AND (new.status = ANY (ARRAY['pending'::public.step_status, 'completed'::public.step_status, 'failed'::public.step_status, 'skipped'::public.step_status, 'cancelled'::public.step_status]))))))) EXECUTE FUNCTION private.refuse_move();

CREATE TRIGGER open_credit_account AFTER INSERT ON public.accounts FOR EACH ROW EXECUTE FUNCTION private.on_account_created();

CREATE TRIGGER recheck_slots AFTER UPDATE OF tier ON public.accounts FOR EACH ROW EXECUTE FUNCTION private.recheck_slots();

CREATE TRIGGER recheck_slots AFTER INSERT OR DELETE OR UPDATE OF account_id, max_concurrent_runs ON public.agents FOR EACH ROW EXECUTE FUNCTION private.recheck_slots();

ALTER TABLE ONLY public.account_members
    ADD CONSTRAINT account_members_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.account_members
    ADD CONSTRAINT account_members_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_tier_fkey FOREIGN KEY (tier) REFERENCES private.tiers(name) ON UPDATE CASCADE;

ALTER TABLE ONLY public.agent_access
    ADD CONSTRAINT agent_access_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.agent_access
    ADD CONSTRAINT agent_access_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.agent_versions
    ADD CONSTRAINT agent_versions_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_current_version_id_id_fkey FOREIGN KEY (current_version_id, id) REFERENCES public.agent_versions(id, agent_id);

ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_draft_version_id_id_fkey FOREIGN KEY (draft_version_id, id) REFERENCES public.agent_versions(id, agent_id);

ALTER TABLE ONLY public.credit_accounts
    ADD CONSTRAINT credit_accounts_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);

ALTER TABLE private.housekeeping ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.idempotency_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.rate_limits ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.run_snapshots ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.run_transitions ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.settings ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.slots ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.step_deltas ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.step_transitions ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.tiers ENABLE ROW LEVEL SECURITY;

CREATE POLICY "Members read their accounts" ON public.accounts FOR SELECT TO authenticated USING ((id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read their accounts' access, and admins whom they gave " ON public.agent_access FOR SELECT TO authenticated USING (((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)) OR (agent_id IN ( SELECT private.my_administered_agent_ids() AS my_administered_agent_ids))));

CREATE POLICY "Members read their credits" ON public.credit_accounts FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read their ledger" ON public.credit_ledger FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.agent_artifacts FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.agent_messages FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.agent_plans FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.agent_runs FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.agent_steps FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.agent_task_logs FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read what belongs to their accounts" ON public.human_requests FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Members read who else is a member" ON public.account_members FOR SELECT TO authenticated USING ((account_id IN ( SELECT private.my_account_ids() AS my_account_ids)));

CREATE POLICY "Signed-in users read what is published, what they may run and w" ON public.agents FOR SELECT TO authenticated USING ((((status = 'published'::text) AND (visibility = 'public'::text)) OR (account_id IN ( SELECT private.my_account_ids() AS my_account_ids)) OR ((status <> 'draft'::text) AND (id IN ( SELECT private.my_agent_ids() AS my_agent_ids)))));

CREATE POLICY "Who reads an agent reads its published versions, and its admins" ON public.agent_versions FOR SELECT TO authenticated USING ((((published_at IS NOT NULL) AND (EXISTS ( SELECT
   FROM public.agents a
  WHERE (a.id = agent_versions.agent_id)))) OR (agent_id IN ( SELECT private.my_administered_agent_ids() AS my_administered_agent_ids))));

ALTER TABLE public.account_members ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.accounts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_access ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_artifacts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_messages ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_plans ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_steps ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_task_logs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agent_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.agents ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credit_accounts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credit_ledger ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.human_requests ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA public TO anon;
GRANT USAGE ON SCHEMA public TO authenticated;
GRANT USAGE ON SCHEMA public TO service_role;

REVOKE ALL ON FUNCTION private.clock() FROM PUBLIC;

GRANT SELECT ON TABLE public.agent_runs TO authenticated;
GRANT SELECT ON TABLE public.agent_runs TO service_role;

REVOKE ALL ON FUNCTION private.add_slots(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.administers(p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.advance_runs(p_batch jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.advance_runs(p_batch jsonb) TO service_role;

REVOKE ALL ON FUNCTION private.append_line(p_run_ids uuid[], p_log_type public.log_type, p_messages text[], p_metadata jsonb[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.bring_up_due(p_now timestamp with time zone, p_limit integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.broadcast(p_event text, p_topics text[], p_payloads jsonb[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) TO service_role;

REVOKE ALL ON FUNCTION private.close_runs(p_run_ids uuid[], p_account_ids uuid[], p_rests bigint[], p_spent bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.control_run(p_run_id uuid, p_action text, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION private.control_run(p_run_id uuid, p_action text, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION private.create_run(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.create_run(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION private.draw_tag(p_slot_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.end_runs(p_run_ids uuid[], p_status public.run_status, p_errors jsonb[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.ensure_personal_account(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.find_credits(p_moves private.advance_move[], OUT ids uuid[], OUT got bigint[], OUT short uuid[], OUT capped uuid[], OUT broke uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.flush_logs(p_run_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.flush_logs(p_run_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION private.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) TO authenticated;

REVOKE ALL ON FUNCTION private.give_places(p_slot_ids bigint[], p_unused bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.grant_credits(p_account_id uuid, p_amount bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION private.grant_credits(p_account_id uuid, p_amount bigint) TO service_role;

REVOKE ALL ON FUNCTION private.hand_on(p_slot_ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.has_room(p_slot private.slots) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) TO service_role;

REVOKE ALL ON FUNCTION private.is_taken_over(p_run_id uuid, p_step_no integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.json_problem(p_name text, p_value jsonb, p_max_bytes integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.limits_of(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.load_artifacts(p_run_id uuid, p_names text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.load_artifacts(p_run_id uuid, p_names text[]) TO service_role;

REVOKE ALL ON FUNCTION private.load_results(p_run_id uuid, p_step_nos jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.load_results(p_run_id uuid, p_step_nos jsonb) TO service_role;

REVOKE ALL ON FUNCTION private.lock_my_run(p_run_id uuid, p_revision bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.log_messages(p_run_ids uuid[], p_from_seqs bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.made_slots_of(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.may_hear(p_topic text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.may_hear(p_topic text) TO authenticated;

REVOKE ALL ON FUNCTION private.may_use_agent(p_agent_id uuid, p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.my_account_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_account_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.my_administered_agent_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_administered_agent_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.my_agent_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_agent_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.my_role(p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.on_account_created() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.on_user_created() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.prefer_by_priority(p_run_ids uuid[], p_engines text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.publish_deltas(p_deltas jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.publish_deltas(p_deltas jsonb) TO service_role;

REVOKE ALL ON FUNCTION private.purge_old(p_now timestamp with time zone, p_limit integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.queue_run(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.realtime_takes() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.recall(p_account_id uuid, p_action text, p_key text, p_request jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.recheck_slots() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.recorded_steps(p_run_id uuid, p_after integer, p_listed integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_frozen_version() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_move() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.remember(p_account_id uuid, p_action text, p_key text, p_response jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) TO authenticated;

REVOKE ALL ON FUNCTION private.run_answer(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.run_view(p_run_ids uuid[], p_whole boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.run_view(p_run_ids uuid[], p_whole boolean) TO service_role;

REVOKE ALL ON FUNCTION private.set_tier(p_account_id uuid, p_tier text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.set_tier(p_account_id uuid, p_tier text) TO service_role;

REVOKE ALL ON FUNCTION private.slots_of(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.start_run(p_run_id uuid, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION private.start_run(p_run_id uuid, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION private.sweep_runs(p_limit integer, p_now timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_places(p_run public.agent_runs, OUT slot_ids bigint[], OUT fair_tag bigint, OUT held_for bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_places_of(p_run public.agent_runs, p_slot_ids bigint[], OUT slot_ids bigint[], OUT fair_tag bigint, OUT held_for bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_rate(p_account_id uuid, p_action text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.top_up(p_run_ids uuid[], p_account_ids uuid[], p_needs bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.write_records(p_batch jsonb, p_run_ids uuid[], p_account_ids uuid[], p_revisions bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.advance_runs(p_batch jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.advance_runs(p_batch jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) TO service_role;

REVOKE ALL ON FUNCTION public.control_run(p_run_id uuid, p_action text, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.control_run(p_run_id uuid, p_action text, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION public.create_run(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.create_run(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.flush_logs(p_run_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.flush_logs(p_run_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION public.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) TO authenticated;

REVOKE ALL ON FUNCTION public.grant_credits(p_account_id uuid, p_amount bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.grant_credits(p_account_id uuid, p_amount bigint) TO service_role;

REVOKE ALL ON FUNCTION public.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION public.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) TO service_role;

REVOKE ALL ON FUNCTION public.load_artifacts(p_run_id uuid, p_names text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.load_artifacts(p_run_id uuid, p_names text[]) TO service_role;

REVOKE ALL ON FUNCTION public.load_results(p_run_id uuid, p_step_nos jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.load_results(p_run_id uuid, p_step_nos jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.load_run(p_run_id uuid, p_whole boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.load_run(p_run_id uuid, p_whole boolean) TO service_role;

REVOKE ALL ON FUNCTION public.publish_deltas(p_deltas jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.publish_deltas(p_deltas jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) TO authenticated;

REVOKE ALL ON FUNCTION public.set_tier(p_account_id uuid, p_tier text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.set_tier(p_account_id uuid, p_tier text) TO service_role;

REVOKE ALL ON FUNCTION public.start_run(p_run_id uuid, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.start_run(p_run_id uuid, p_revision bigint) TO authenticated;

GRANT SELECT ON TABLE public.account_members TO authenticated;
GRANT SELECT ON TABLE public.account_members TO service_role;

GRANT SELECT ON TABLE public.accounts TO authenticated;
GRANT SELECT ON TABLE public.accounts TO service_role;

GRANT SELECT ON TABLE public.agent_access TO authenticated;
GRANT SELECT ON TABLE public.agent_access TO service_role;

GRANT SELECT ON TABLE public.agent_artifacts TO authenticated;
GRANT SELECT ON TABLE public.agent_artifacts TO service_role;

GRANT SELECT ON TABLE public.agent_messages TO authenticated;
GRANT SELECT ON TABLE public.agent_messages TO service_role;

GRANT SELECT ON TABLE public.agent_plans TO authenticated;
GRANT SELECT ON TABLE public.agent_plans TO service_role;

GRANT SELECT ON TABLE public.agent_steps TO authenticated;
GRANT SELECT ON TABLE public.agent_steps TO service_role;

GRANT SELECT ON TABLE public.agent_task_logs TO authenticated;
GRANT SELECT ON TABLE public.agent_task_logs TO service_role;

GRANT SELECT ON TABLE public.agent_versions TO service_role;

GRANT SELECT(id) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(agent_id) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(number) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(engine) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(input_schema) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(credential_types) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(price) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(created_at) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(published_at) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT ON TABLE public.agents TO service_role;

GRANT SELECT(id) ON TABLE public.agents TO authenticated;

GRANT SELECT(name) ON TABLE public.agents TO authenticated;

GRANT SELECT(description) ON TABLE public.agents TO authenticated;

GRANT SELECT(status) ON TABLE public.agents TO authenticated;

GRANT SELECT(visibility) ON TABLE public.agents TO authenticated;

GRANT SELECT(current_version_id) ON TABLE public.agents TO authenticated;

GRANT SELECT(created_at) ON TABLE public.agents TO authenticated;

GRANT SELECT(updated_at) ON TABLE public.agents TO authenticated;

GRANT SELECT ON TABLE public.credit_accounts TO authenticated;
GRANT SELECT ON TABLE public.credit_accounts TO service_role;

GRANT SELECT ON TABLE public.credit_ledger TO authenticated;
GRANT SELECT ON TABLE public.credit_ledger TO service_role;

GRANT SELECT ON TABLE public.human_requests TO authenticated;
GRANT SELECT ON TABLE public.human_requests TO service_role;
