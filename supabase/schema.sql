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

CREATE TYPE private.moved_runs AS (
	won uuid[],
	accounts uuid[],
	revisions bigint[],
	base bigint[],
	ended uuid[],
	ended_accounts uuid[],
	rests bigint[],
	spent bigint[],
	places bigint[],
	told uuid[],
	told_from bigint[],
	unsent uuid[],
	short uuid[],
	special jsonb,
	lines jsonb
);

CREATE FUNCTION private.clock() RETURNS timestamp with time zone
    LANGUAGE sql
    SET search_path TO ''
    AS $$ select pg_catalog.clock_timestamp() $$;

CREATE FUNCTION private.keys_of(p_value jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select array(select k from jsonb_object_keys(p_value) k order by k)
$$;

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
    CONSTRAINT agent_runs_credits CHECK (((credits_held >= 0) AND (credits_reserved >= 0) AND (credits_spent >= 0)))
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

CREATE TABLE public.agent_versions (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id uuid NOT NULL,
    number integer NOT NULL,
    engine text NOT NULL,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    input_schema jsonb DEFAULT '{"type": "object"}'::jsonb NOT NULL,
    credential_types text[] DEFAULT '{}'::text[] NOT NULL,
    managed_credentials jsonb DEFAULT '{}'::jsonb NOT NULL,
    managed_types text[] GENERATED ALWAYS AS (private.keys_of(managed_credentials)) STORED NOT NULL,
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

COMMENT ON COLUMN public.agent_versions.managed_types IS 'The providers for which nobody needs to bring a credential.';

COMMENT ON COLUMN public.agent_versions.price IS 'What starting a run costs, in micro-credits.';

COMMENT ON COLUMN public.agent_versions.pinned_at IS 'When a run first pinned it as a draft.';

CREATE TYPE private.prepared_run AS (
	run public.agent_runs,
	version public.agent_versions,
	problems jsonb
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

CREATE TYPE public.credit_place AS ENUM (
    'issued',
    'available',
    'held',
    'spent'
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

CREATE TYPE public.step_wait AS ENUM (
    'human',
    'timer',
    'child',
    'event'
);

CREATE TYPE public.transfer_kind AS ENUM (
    'grant',
    'hold',
    'price',
    'settle',
    'release'
);

CREATE FUNCTION private.add_slots(p_run public.agent_runs) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  insert into private.slots (account_id, kind, key, places)
    select l.account_id, l.kind, l.key, l.places from private.limits_of(p_run) l
    on conflict do nothing
$$;

CREATE FUNCTION private.add_version(p_version public.agent_versions) RETURNS public.agent_versions
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_account_id uuid;
  v_version public.agent_versions;
begin
  select account_id into strict v_account_id from public.agents where id = p_version.agent_id;
  perform from public.accounts where id = v_account_id for no key update;  -- those that are made at once are counted
  if (select count(*) from public.agents a join public.agent_versions v on v.agent_id = a.id
      where a.account_id = v_account_id and v.created_at > private.clock() - interval '1 day') >= 500 then
    raise exception 'An account may make at most 500 versions of agents a day' using errcode = 'RUN09';
  end if;
  insert into public.agent_versions
      (agent_id, number, engine, config, input_schema, credential_types, managed_credentials, price)
    select p_version.agent_id, coalesce(max(v.number), 0) + 1, p_version.engine, p_version.config,
      p_version.input_schema, p_version.credential_types, p_version.managed_credentials, p_version.price
    from public.agent_versions v where v.agent_id = p_version.agent_id
    returning * into v_version;
  return v_version;
end $$;

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
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS $_$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => (p_batch ->> 'lease_seconds')::double precision);
  v_count integer := jsonb_array_length(p_batch -> 'runs');
  v_won uuid[];
  -- Of each run by its place in the batch; null where it lost.
  v_ids uuid[];
  v_accounts uuid[];
  v_revisions bigint[];
  v_base bigint[];
  v_told uuid[];
  v_told_from bigint[];
  v_unsent uuid[];
  v_moved private.moved_runs;
  v_moving boolean := p_batch @? '$.runs[*].status ? (@ != null)';
  v_finished bigint;
begin
  if (p_batch ->> 'v') is distinct from '1' then
    raise exception 'advance_runs speaks version 1, not %', p_batch -> 'v' using errcode = 'RUN11';
  end if;
  if v_expires is null then
    raise exception 'lease_seconds must be given' using errcode = 'RUN07';  -- a lease without an end is nobody's to take
  end if;

  -- Runs that take a step further and stay as they are, in the batch's order, which is that of ids. Where one changes its
  -- status, all are moved below, under locks in that order.
  if not v_moving then
    with written as (
      update public.agent_runs r set
        revision = r.revision + 1,
        updated_at = v_now,
        step_count = r.step_count + i.new_steps,
        attempt = case when i.completed then 0 else r.attempt end,
        credits_held = r.credits_held - i.charge,
        credits_spent = r.credits_spent + i.charge,
        credits_reserved = r.credits_reserved - i.released + i.wanted,
        log_seq = r.log_seq + i.lines,
        -- At once, then at most every 100 ms; and unless the worker's tick was faster: then what is left goes with its next.
        broadcast_seq = case when d.due and r.broadcast_seq = b.broadcast_seq then r.log_seq + i.lines
          else r.broadcast_seq end,
        broadcast_at = case when d.due and r.broadcast_seq = b.broadcast_seq then v_now else r.broadcast_at end,
        lease_expires_at = v_expires
        from rows from (jsonb_to_recordset(p_batch -> 'runs') as (
          run_id uuid, lease_id uuid, revision bigint, new_steps integer, completed boolean, charge bigint,
          released bigint, wanted bigint, lines integer)) with ordinality
          as i (run_id, lease_id, revision, new_steps, completed, charge, released, wanted, lines, at)
        join public.agent_runs b on b.id = any (array[i.run_id])
        cross join lateral (
          select b.log_seq + i.lines > b.broadcast_seq
            and (b.broadcast_at is null or v_now - b.broadcast_at >= interval '100 milliseconds') as due
        ) d
        where r.id = any (array[i.run_id]) and r.lease_id = i.lease_id and r.revision = i.revision
          and r.stop_requested_at is null and r.pause_requested_at is null
          and (i.wanted = 0 or r.credits_reserved - i.released + i.wanted <= r.credits_held - i.charge
            and (r.max_credits is null
              or r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted <= r.max_credits))
        returning i.at, r.id, r.account_id, r.revision, r.log_seq - i.lines as base, r.broadcast_at = v_now as told,
          b.broadcast_seq as told_before, r.log_seq > r.broadcast_seq as unsent
    )
    select array_agg(w.id order by w.at), array_agg(w.account_id order by w.at), array_agg(w.revision order by w.at),
        array_agg(w.base order by w.at), array_agg(w.id order by w.at) filter (where w.told),
        array_agg(w.told_before order by w.at) filter (where w.told), array_agg(w.id order by w.at) filter (where w.unsent)
      into v_ids, v_accounts, v_revisions, v_base, v_told, v_told_from, v_unsent
      from written w;
  end if;
  v_won := v_ids;
  if v_won is null or cardinality(v_won) < v_count then
    -- The update above has locked what it found changed behind a lock, too: with others it is not waited for a second time.
    v_moved := private.move_runs(p_batch, coalesce(v_won, '{}'), v_moving or v_count = 1, v_now, v_expires);
    select array_agg(w.id order by i.at), array_agg(w.account_id order by i.at), array_agg(w.revision order by i.at),
        array_agg(w.base order by i.at), array_agg(w.id) filter (where w.id is not null)
      into v_ids, v_accounts, v_revisions, v_base, v_won
      from rows from (jsonb_to_recordset(p_batch -> 'runs') as (run_id uuid)) with ordinality as i (run_id, at)
      left join unnest(v_won || v_moved.won, v_accounts || v_moved.accounts, v_revisions || v_moved.revisions,
        v_base || v_moved.base) as w (id, account_id, revision, base) on w.id = i.run_id;
    v_told := v_told || v_moved.told;
    v_told_from := v_told_from || v_moved.told_from;
    v_unsent := v_unsent || v_moved.unsent;
  end if;

  if v_won is not null then
    -- Without a finish, start or line its part of this has no rows. One of no run of the batch
    -- is refused: its run_id is null.
    with done as (
      update public.agent_steps s set
          status = f.status,
          attempt = s.attempt + (f.status = 'pending')::integer,
          failed_attempts = s.failed_attempts + coalesce(f.failed, false)::integer,
          output = f.output,
          error = f.error,
          waits_for = f.waits_for,
          available_at = case when f.status in ('pending', 'running') then
            case when f.available_in is null then 'infinity' else v_now + make_interval(secs => f.available_in) end end,
          credits_spent = s.credits_spent + f.credits,
          finished_at = case when f.status not in ('pending', 'running') then v_now end,
          finished_revision = case when f.status not in ('pending', 'running') then v_revisions[f.at] end
        from jsonb_to_recordset(p_batch -> 'finish') as f (
          at integer, step_no integer, attempt integer, status public.step_status, output jsonb, error jsonb,
          credits bigint, failed boolean, available_in double precision, waits_for public.step_wait)
        where s.run_id = any (array[v_ids[f.at]]) and s.step_no = f.step_no and s.status = 'running' and s.attempt = f.attempt
        returning s.account_id, s.run_id, s.step_no, f.attempt, f.credits
    ), booked as (
      insert into public.credit_ledger (account_id, run_id, step_no, attempt, kind, debit, credit, amount, created_at)
        select d.account_id, d.run_id, d.step_no, d.attempt, 'settle', 'held', 'spent', d.credits, v_now
        from done d where d.credits > 0
    ), started as (
      insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, phase, status, max_attempts, effect,
          effect_key, input, timeout_seconds, credits_bound, created_at, started_at)
        select v_ids[s.at], s.step_no, v_accounts[s.at], s.key, s.kind, s.name, s.phase, 'running', s.max_attempts,
          s.effect, s.effect_key, coalesce(s.input, '{}'), s.timeout_seconds, s.credits_bound, v_now, v_now
        from jsonb_to_recordset(p_batch -> 'start') as s (
          at integer, step_no integer, key text, kind text, name text, phase text, max_attempts integer,
          effect public.step_effect, effect_key uuid, input jsonb, timeout_seconds double precision,
          credits_bound bigint)
        where (v_ids[s.at] is not null or (s.at between 1 and v_count) is not true)
          and (v_moved.short is null or (v_ids[s.at] = any (v_moved.short)) is not true)
    ), said as (
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select v_ids[l.at], v_base[l.at] + l.n, v_accounts[l.at], l.log_type, l.message, coalesce(l.metadata, '{}'), v_now
        from jsonb_to_recordset(p_batch -> 'logs') as l (
          at integer, n integer, log_type public.log_type, message text, metadata jsonb, of_decision boolean)
        -- A decision that starts nothing is drawn again later, and says its lines then.
        where (v_ids[l.at] is not null or (l.at between 1 and v_count) is not true)
          and (l.of_decision is not true or v_moved.short is null or (v_ids[l.at] = any (v_moved.short)) is not true)
    )
    select count(*) into v_finished from done;
    if p_batch ? 'finish' then
      if v_finished <> jsonb_array_length(p_batch -> 'finish') and v_finished <> (
        select count(*) from jsonb_to_recordset(p_batch -> 'finish') as f (at integer)
          where v_ids[f.at] is not null or (f.at between 1 and v_count) is not true
      ) then
        raise exception 'A step to finish is not running in that attempt' using errcode = 'RUN12';
      end if;
      if exists (select from private.step_deltas) then
        delete from private.step_deltas d
          using jsonb_to_recordset(p_batch -> 'finish') as f (at integer, step_no integer)
          where d.run_id = any (array[v_ids[f.at]]) and d.step_no = f.step_no;
      end if;
    end if;
    if p_batch ? 'restart' then
      update public.agent_steps t
        set status = 'running', started_at = v_now, credits_bound = s.credits_bound, waits_for = null,
            available_at = null
        from jsonb_to_recordset(p_batch -> 'restart') as s (at integer, step_no integer, credits_bound bigint)
        where (v_moved.short is null or v_ids[s.at] <> all (v_moved.short))
          and t.run_id = any (array[v_ids[s.at]]) and t.step_no = s.step_no;
    end if;
    if v_moved.lines is not null then
      -- Behind the batch's own: who follows the table's changes hears the lines in the order they have.
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata, created_at)
        select l.run_id, l.seq, l.account_id, l.log_type, l.message, l.metadata, v_now
        from jsonb_to_recordset(v_moved.lines) as l (
          run_id uuid, seq bigint, account_id uuid, log_type public.log_type, message text, metadata jsonb);
    end if;
    if p_batch ?| '{messages,artifacts,plans,requests,snapshots}' then
      perform private.write_records(p_batch, v_ids, v_accounts, v_revisions);
    end if;
    if v_moved.ended is not null then
      perform private.close_runs(v_moved.ended, v_moved.ended_accounts, v_moved.rests, v_moved.spent);
    end if;
    if v_moved.places is not null then
      perform private.give_places(v_moved.places);
    end if;
    if v_told is not null then
      perform private.broadcast_logs(v_told, v_told_from);
    end if;
    if p_batch ? 'events' then
      -- Last: an event that was there before its wait writes to the run anew.
      perform private.await_events(p_batch -> 'events', v_won);
    end if;
  end if;

  return jsonb_build_object('won', coalesce(cardinality(v_won), 0), 'runs',
    coalesce(v_moved.special, '[]') || case when v_won is null or cardinality(v_won) < v_count
      then private.lost_races(p_batch -> 'runs', v_won) else '[]' end,
    'unsent', to_jsonb(coalesce(v_unsent, '{}')));
end $_$;

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

CREATE FUNCTION private.agent_answer(p_agent public.agents) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select jsonb_build_object('agent_id', p_agent.id, 'status', p_agent.status,
    'current_version_id', p_agent.current_version_id, 'draft_version_id', p_agent.draft_version_id)
$$;

CREATE FUNCTION private.agent_of_run(p_agent_id uuid, p_version_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select jsonb_build_object('id', p_agent_id,
      'name', (select a.name from public.agents a where a.id = p_agent_id),
      'version', (select v.number from public.agent_versions v where v.id = p_version_id))
    where p_agent_id is not null
$$;

CREATE FUNCTION private.api_key_digest(p_hash text) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $_$
begin
  if p_hash is null or p_hash !~ '^[0-9a-f]{64}$' then
    raise exception 'p_hash must be 64 hexadecimal digits' using errcode = 'RUN07';
  end if;
  return pg_catalog.sha256(decode(p_hash, 'hex'));
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

CREATE FUNCTION private.await_events(p_events jsonb, p_run_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_event private.step_events;
begin
  for v_event in
    insert into private.step_events as known (run_id, step_no, token_hash, awaited)
      select e.run_id, e.step_no, e.token_hash, true
      from jsonb_to_recordset(p_events) as e (run_id uuid, step_no integer, token_hash text)
      where e.run_id = any (p_run_ids)
      on conflict (run_id, step_no, token_hash) do update set awaited = true
      returning known.*
  loop
    continue when v_event.payload is null;
    perform private.take_event(v_event.run_id, v_event.step_no, v_event.event_id, v_event.payload);
    update private.step_events e set payload = null
      where e.run_id = v_event.run_id and e.step_no = v_event.step_no and e.token_hash = v_event.token_hash;
  end loop;
end $$;

CREATE FUNCTION private.begin_credential_test() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform private.require_scope('credentials:write');
  perform private.take_test('You may test at most %s keys a minute');
end $$;

CREATE FUNCTION private.begin_flowise_call() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform private.require_scope('agents:write');
  perform private.take_test('You may ask Flowise servers, and test keys, at most %s times a minute');
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

CREATE FUNCTION private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select private.broadcast('log', array_agg(m.topic), array_agg(m.payload))
  from private.log_messages(p_run_ids, p_from_seqs) m
$$;

CREATE FUNCTION private.check_run(p_request jsonb, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_run public.agent_runs := private.read_run_request(p_request);
  v_prepared private.prepared_run;
begin
  if exists (
    select from private.idempotency_keys k
    where k.account_id = v_run.account_id and k.action = 'create' and k.key = p_idempotency_key
  ) then
    return '{"known": true}';
  end if;
  v_prepared := private.prepare(p_request, v_run);
  return jsonb_build_object('known', false, 'version_id', (v_prepared.version).id,
    'input_schema', (v_prepared.version).input_schema, 'problems', v_prepared.problems);
end $$;

CREATE FUNCTION private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_now timestamptz := private.clock();
  v_expires timestamptz := v_now + make_interval(secs => p_lease_seconds);
  v_lost boolean;
  v_late boolean;
  v_old boolean;
  v_recheck boolean;
  v_first_due timestamptz;
  v_swept integer := 0;
  v_ids uuid[];
  v_tag bigint;
  v_expired uuid[];
  v_suspect boolean;
  v_suspects uuid[];
begin
  if p_limit not between 0 and 100 then
    raise exception 'p_limit must be from 0 to 100' using errcode = 'RUN07';
  end if;
  -- Most claims find nothing of this, so one statement looks for all of it. Each part names the order of the one index that
  -- is to be read.
  select
    (select true from public.agent_runs r where r.status in ('planning', 'executing') and r.lease_expires_at < v_now
      order by r.engine, r.id limit 1),
    (select true from public.agent_runs r where r.status in ('queued', 'awaiting_input') and r.deadline_at <= v_now
      order by r.deadline_at limit 1),
    (select h.due_at <= v_now or h.due_at > v_now + interval '1 minute' from private.housekeeping h),  -- as purge_old asks
    (select true from private.slots s where s.recheck order by s.account_id, s.id limit 1),
    (select r.available_at from public.agent_runs r
      where r.status = 'queued' and r.held_for is null and r.available_at < 'infinity'
      order by r.available_at, r.id limit 1)
    into v_lost, v_late, v_old, v_recheck, v_first_due;
  if v_lost or v_late then
    v_swept := private.sweep_runs(100, v_now);
  end if;
  if v_old then
    perform private.purge_old(v_now, 100);
  end if;

  -- Expired leases first: their people have waited longest. The rival that still works loses by the new lease_id.
  -- A run that loses its worker a second time in a row may be what kills it, and all that were held beside it look the
  -- same: each of them is handed out alone, and its worker claims no other until it has come a step further.
  if v_lost then
    with lost as materialized (
      select r.id, r.attempt > 0 as suspect from public.agent_runs r
      where r.status in ('planning', 'executing') and r.lease_expires_at < v_now and r.engine = any (p_engines)
      order by r.engine, r.id
    )
    select array_agg(id order by suspect desc, id), bool_or(suspect) into v_expired, v_suspect from (
      select r.id, lost.suspect from lost join public.agent_runs r on r.id = any (array[lost.id])
      where r.status in ('planning', 'executing') and r.lease_expires_at < v_now
      order by lost.suspect desc, lost.id limit p_limit for update of r skip locked
    ) x;
  end if;
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

  if v_swept > 0 or v_recheck or v_first_due <= v_now then
    perform private.bring_up_due(v_now, 100);
    v_first_due := (select r.available_at from public.agent_runs r
      where r.status = 'queued' and r.held_for is null and r.available_at < 'infinity'
      order by r.available_at, r.id limit 1);
    v_recheck := (select true from private.slots s where s.recheck order by s.account_id, s.id limit 1);
  end if;
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

  return jsonb_build_object(
    'runs', private.run_view(coalesce(v_expired, '{}') || coalesce(v_ids, '{}')),
    -- Timers that somebody had locked are due at once, and slots to recheck soon.
    'next_in_seconds', case when v_recheck or v_first_due is not null
      then greatest(0, least(extract(epoch from v_first_due - v_now), case when v_recheck then 0.2 end)) end,
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
    set status = 'cancelled', finished_at = v_now, waits_for = null, available_at = null, finished_revision = r.revision
    from public.agent_runs r
    where r.id = any (p_run_ids) and s.run_id = any (array[r.id]) and s.status in ('pending', 'running');
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
    where c.account_id = any (array[t.account_id]) and (t.rest > 0 or t.spent > 0);
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount, created_at)
    select u.account_id, u.run_id, 'release', 'held', 'available', u.rest, v_now
    from unnest(p_run_ids, p_account_ids, p_rests) as u (run_id, account_id, rest) where u.rest > 0;
end $$;

CREATE FUNCTION private.control_run(p_run_id uuid, p_action text, p_revision bigint) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
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

CREATE FUNCTION private.create_agent(p_request jsonb, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_user_id uuid := (select auth.uid());
  v_account_id uuid;
  v_agent public.agents;
  v_version public.agent_versions;
  v_answer jsonb;
begin
  perform private.require_scope('agents:write');
  if v_user_id is null then
    raise exception 'Only a signed-in user can create an agent' using errcode = 'RUN06';
  end if;
  if p_request is null or jsonb_typeof(p_request) <> 'object' then
    raise exception 'p_request must be an object' using errcode = 'RUN07';
  end if;
  begin
    v_account_id := coalesce((p_request ->> 'account_id')::uuid, v_user_id);
  exception when invalid_text_representation then
    raise exception 'account_id must be a uuid' using errcode = 'RUN07';
  end;
  if v_account_id = v_user_id then
    perform private.ensure_personal_account(v_user_id);
  end if;
  if not private.administers(v_account_id) then
    raise exception 'You may not create agents in account %', v_account_id using errcode = 'RUN06';
  end if;
  v_answer := private.recall(v_account_id, 'create_agent', p_idempotency_key, p_request);
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  perform private.refuse_problems(private.problems_of_agent(p_request, v_account_id) || coalesce((
    select jsonb_agg(jsonb_build_object('field', f, 'message', 'is missing'))
    from unnest(array['name', 'engine']) f where not p_request ? f), '[]'));

  v_version := jsonb_populate_record(null::public.agent_versions, '{"config": {}, "input_schema": {"type": "object"},
    "credential_types": [], "managed_credentials": {}, "price": 0}' || p_request);
  perform private.refuse_unneeded_keys(v_version);
  insert into public.agents (account_id, name, description, visibility, max_concurrent_runs)
    values (v_account_id, btrim(p_request ->> 'name'), coalesce(p_request ->> 'description', ''),
      coalesce(p_request ->> 'visibility', 'private'), (p_request ->> 'max_concurrent_runs')::integer)
    returning * into v_agent;
  v_version.agent_id := v_agent.id;
  v_version := private.add_version(v_version);
  update public.agents set draft_version_id = v_version.id where id = v_agent.id returning * into v_agent;
  v_answer := private.agent_answer(v_agent) || '{"created": true}';
  perform private.remember(v_account_id, 'create_agent', p_idempotency_key, v_answer);
  return v_answer;
end $$;

CREATE FUNCTION private.create_api_key(p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $_$
declare
  v_user_id uuid := private.key_owner();
  v_digest bytea := private.api_key_digest(p_hash);
  v_now timestamptz := private.clock();
  v_problem text;
  v_id uuid;
begin
  v_problem := case
    when coalesce(char_length(btrim(p_name)), 0) not between 1 and 100 then 'name must have 1 to 100 characters'
    when coalesce(p_last_four, '') !~ '^[0-9A-Za-z]{4}$' then 'p_last_four must be the last four characters of the key'
    when coalesce(cardinality(p_scopes), 0) = 0 then 'scopes must name at least one'
    when p_days not between 1 and 3650 then 'p_days must be from 1 to 3650'
    when exists (select from unnest(p_scopes) s where s is null or s not in (select name from private.api_key_scopes))
      then 'scopes names one that there is not'
  end;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  -- The personal account's row stands for the person: two creates of one person count one after the other.
  perform private.ensure_personal_account(v_user_id);
  perform from public.accounts where id = v_user_id for update;
  if (select count(*) from public.api_keys k where k.user_id = v_user_id and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > v_now)) >= 50 then
    raise exception 'You have 50 API keys that work; revoke one first' using errcode = 'RUN09';
  end if;
  -- What has ended is kept for its owner to see, the last hundred of it.
  delete from public.api_keys k where k.id in (
    select o.id from public.api_keys o
    where o.user_id = v_user_id and (o.revoked_at is not null or o.expires_at <= v_now)
    order by o.created_at desc, o.id offset 100);

  insert into public.api_keys (user_id, name, scopes, last_four, created_at, expires_at)
    values (v_user_id, btrim(p_name), array(select distinct s from unnest(p_scopes) s order by s), p_last_four, v_now,
      v_now + make_interval(days => p_days))
    returning id into v_id;
  insert into private.api_key_secrets (api_key_id, digest) values (v_id, v_digest);
  return v_id;
end $_$;

CREATE FUNCTION private.create_credential(p_credential jsonb, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $_$
declare
  v_user_id uuid := (select auth.uid());
  v_new public.credentials;
  v_id uuid;
  v_account_id uuid;
  v_role public.account_role;
  v_request jsonb;
  v_answer jsonb;
begin
  perform private.require_scope('credentials:write');
  if v_user_id is null then
    raise exception 'Only a signed-in user can add a credential' using errcode = 'RUN06';
  end if;
  if jsonb_typeof(p_credential) is distinct from 'object' or exists (
      select from jsonb_object_keys(p_credential) k
      where k not in ('id', 'account_id', 'provider', 'name', 'sealed', 'ticket_hash', 'fingerprint', 'key_version',
        'last_four', 'test')) then
    raise exception 'p_credential must be an object of known fields' using errcode = 'RUN07';
  end if;
  begin
    v_id := (p_credential ->> 'id')::uuid;
    v_account_id := (p_credential ->> 'account_id')::uuid;
  exception when invalid_text_representation then
    raise exception 'id and account_id must be uuids' using errcode = 'RUN07';
  end;
  if v_id is null or v_account_id is null or coalesce(p_credential ->> 'provider', '') !~ '^[a-z][a-z0-9_]{0,31}$'
      or coalesce(char_length(p_credential ->> 'name'), 0) not between 1 and 100 then
    raise exception 'p_credential needs id, account_id, provider and a name of 1 to 100 characters'
      using errcode = 'RUN07';
  end if;
  v_new := private.sealed_secret(p_credential);

  if v_account_id = v_user_id then
    perform private.ensure_personal_account(v_user_id);
  end if;
  v_role := private.my_role(v_account_id);
  if v_role is null or v_role = 'viewer' then
    raise exception 'You may not add credentials to account %', v_account_id using errcode = 'RUN06';
  end if;
  v_request := jsonb_build_object('provider', p_credential -> 'provider', 'name', p_credential -> 'name',
    'fingerprint', v_new.fingerprint);
  v_answer := private.recall(v_account_id, 'create_credential', p_idempotency_key, v_request);
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  perform from public.accounts where id = v_account_id for no key update;  -- those that are added at once are counted
  if (select count(*) from public.credentials where account_id = v_account_id and deleted_at is null) >= 200 then
    raise exception 'An account may have at most 200 credentials'
      using errcode = 'RUN09', hint = 'Delete one that is not used any more.';
  end if;
  if (select count(*) from public.credentials
      where account_id = v_account_id and created_at > private.clock() - interval '1 day') >= 500 then
    raise exception 'An account may add at most 500 credentials a day' using errcode = 'RUN09';
  end if;
  insert into public.credentials (id, account_id, user_id, provider, name, sealed, ticket_hash, fingerprint, key_version,
      last_four, last_tested_at, last_test)
    values (v_id, v_account_id, v_user_id, p_credential ->> 'provider', p_credential ->> 'name', v_new.sealed,
      v_new.ticket_hash, v_new.fingerprint, v_new.key_version, v_new.last_four, v_new.last_tested_at, v_new.last_test)
    on conflict do nothing
    returning * into v_new;
  if not found then
    raise exception 'id must be a new one' using errcode = 'RUN07';
  end if;
  v_answer := private.credential_answer(v_new) || '{"created": true}';
  perform private.remember(v_account_id, 'create_credential', p_idempotency_key, v_answer);
  return v_answer;
end $_$;

CREATE FUNCTION private.create_run(p_request jsonb, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_run public.agent_runs := private.read_run_request(p_request);
  v_prepared private.prepared_run;
  v_answer jsonb;
begin
  -- Which version the caller has seen is no part of what he asks for: a repeat after a publication is still a repeat.
  v_answer := private.recall(v_run.account_id, 'create', p_idempotency_key, p_request - 'version_id');
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  v_prepared := private.prepare(p_request, v_run);
  perform private.refuse_problems(v_prepared.problems);
  v_run := v_prepared.run;
  if (v_prepared.version).id is not null and (v_prepared.version).published_at is null then
    -- A draft that is being changed is waited for; from here on it is frozen.
    update public.agent_versions v set pinned_at = coalesce(v.pinned_at, private.clock())
      where v.id = v_run.agent_version_id and to_jsonb(v) - array['pinned_at', 'published_at']
        = to_jsonb(v_prepared.version) - array['pinned_at', 'published_at'];
    if not found then
      raise exception 'Agent % has another version now', v_run.agent_id
        using errcode = 'RUN14', hint = 'Read the agent again, then decide again.';
    end if;
  end if;
  perform private.take_rate(v_run.account_id, 'create');

  insert into public.agent_runs (account_id, user_id, agent_id, agent_version_id, credential_ids, price, engine, input,
      max_steps, timeout_seconds, max_credits, priority, concurrency_key, concurrency_limit)
    values (v_run.account_id, v_run.user_id, v_run.agent_id, v_run.agent_version_id, v_run.credential_ids,
      coalesce(v_run.price, 0), v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds, v_run.max_credits,
      v_run.priority, v_run.concurrency_key, v_run.concurrency_limit)
    returning * into v_run;
  if (p_request -> 'autostart') = 'true' then
    v_run := private.queue_run(v_run);
  end if;
  v_answer := private.run_answer(v_run) || '{"created": true}';
  perform private.remember(v_run.account_id, 'create', p_idempotency_key, v_answer);
  return v_answer;
end $$;

CREATE TABLE public.credentials (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    user_id uuid,
    provider text NOT NULL,
    name text NOT NULL,
    sealed text,
    ticket_hash text,
    fingerprint text,
    key_version integer NOT NULL,
    last_four text,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    updated_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    last_used_at timestamp with time zone,
    last_tested_at timestamp with time zone,
    last_test jsonb,
    deleted_at timestamp with time zone,
    CONSTRAINT credentials_erased_when_deleted CHECK (((deleted_at IS NULL) = ((sealed IS NOT NULL) AND (ticket_hash IS NOT NULL) AND (fingerprint IS NOT NULL)))),
    CONSTRAINT credentials_key_version_check CHECK ((key_version > 0)),
    CONSTRAINT credentials_last_four_check CHECK ((char_length(last_four) = 4)),
    CONSTRAINT credentials_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 100))),
    CONSTRAINT credentials_provider_check CHECK ((provider ~ '^[a-z][a-z0-9_]{0,31}$'::text)),
    CONSTRAINT credentials_sealed_check CHECK (((char_length(sealed) >= 150) AND (char_length(sealed) <= 90000)))
)
WITH (fillfactor='80');

COMMENT ON TABLE public.credentials IS 'A key for a provider, sealed. Written by functions only; never read back by people.';

COMMENT ON COLUMN public.credentials.id IS 'Chosen by the function that seals, because it is sealed in.';

COMMENT ON COLUMN public.credentials.sealed IS 'Base64 of an envelope bound to account, credential and provider (shared/vault/envelope.py).';

COMMENT ON COLUMN public.credentials.ticket_hash IS 'SHA-256 of the ticket of whoever holds the master keys (shared/vault/marks.py).';

COMMENT ON COLUMN public.credentials.fingerprint IS 'Keyed: tells a repeat, and nothing to who has no key.';

COMMENT ON COLUMN public.credentials.key_version IS 'The master key that it is sealed under.';

COMMENT ON COLUMN public.credentials.last_four IS 'The end of its key, for people to know it by; null where the key is too short to tell.';

COMMENT ON COLUMN public.credentials.last_used_at IS 'When a step last opened it, to the minute.';

COMMENT ON COLUMN public.credentials.last_test IS '{"valid", "outcome", "message"} of its last test.';

CREATE FUNCTION private.credential_answer(p_credential public.credentials) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select to_jsonb(p_credential) - array['sealed', 'ticket_hash', 'fingerprint', 'key_version', 'deleted_at']
$$;

CREATE FUNCTION private.credential_by_ticket(p_credential_id uuid, p_tickets text[]) RETURNS public.credentials
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
begin
  if not coalesce(v_credential.ticket_hash = any (array(
      select encode(sha256(convert_to(t, 'UTF8')), 'hex') from unnest(p_tickets[1:100]) t)), false) then
    raise exception 'The credential cannot be opened'
      using errcode = 'RUN17', hint = 'Replace its secret, or add the credential anew.';
  end if;
  return v_credential;
end $$;

CREATE FUNCTION private.credential_test(p_test jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $_$
begin
  if jsonb_typeof(p_test) is distinct from 'object' or jsonb_typeof(p_test -> 'valid') is distinct from 'boolean'
      or coalesce(p_test ->> 'outcome', '') !~ '^[a-z][a-z_]{0,31}$'
      or coalesce(char_length(p_test ->> 'message'), 9999) > 1000 then
    raise exception 'The test must be {valid, outcome, message}' using errcode = 'RUN07';
  end if;
  return jsonb_build_object('valid', p_test -> 'valid', 'outcome', p_test -> 'outcome', 'message', p_test -> 'message');
end $_$;

CREATE FUNCTION private.credentials_again(p_run public.agent_runs) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select coalesce(jsonb_object_agg(o.provider, coalesce(same.id, newest.id::text, o.id))
      filter (where same.id is not null or p_run.agent_id is null), '{}')
  from jsonb_each_text(p_run.credential_ids) o (provider, id)
  left join lateral (
    select o.id from public.credentials c
    where c.id::text = o.id and c.account_id = p_run.account_id and c.provider = o.provider and c.deleted_at is null
      and c.last_test ->> 'valid' is distinct from 'false'
  ) same on true
  left join lateral (
    select c.id from public.credentials c
    where c.account_id = p_run.account_id and c.provider = o.provider and c.deleted_at is null
      and c.last_test ->> 'valid' is distinct from 'false'
    order by c.created_at desc, c.id limit 1
  ) newest on true
$$;

CREATE FUNCTION private.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'account_id', c.account_id, 'provider', c.provider,
    'sealed', c.sealed, 'min_key_version', (select min_key_version from private.vault)) order by c.id), '[]')
  from (
    select * from public.credentials
    where deleted_at is null and key_version < p_below and (p_after is null or id > p_after)
    order by id limit greatest(1, least(p_limit, 500))
  ) c
$$;

CREATE FUNCTION private.delete_credential(p_credential_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
begin
  update public.credentials
    set deleted_at = private.clock(), updated_at = private.clock(), sealed = null, ticket_hash = null,
        fingerprint = null, last_four = null, last_test = null, last_tested_at = null
    where id = p_credential_id
    returning * into v_credential;
  return private.credential_answer(v_credential);
end $$;

CREATE FUNCTION private.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb, p_delivery_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_hash text := encode(pg_catalog.sha256(convert_to(p_token, 'UTF8')), 'hex');
  v_proof text := private.proof_of_event(p_run_id, p_step_no, v_hash);
  v_delivery text[] := array_remove(array[p_delivery_id], null);
  v_run public.agent_runs;
  v_step public.agent_steps;
  v_known private.step_events;
  v_taken boolean;
  v_answer jsonb;
  v_problem text := case
    when p_token is null then 'token must be given'
    when p_event_id is null or char_length(p_event_id) not between 1 and 200 then 'event_id must have 1 to 200 characters'
    when char_length(p_delivery_id) not between 1 and 200 then 'delivery_id must have 1 to 200 characters'
    when p_payload is null or jsonb_typeof(p_payload) <> 'object' then 'payload must be an object'
    else private.json_problem('payload', p_payload, 2097152)
  end;
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  -- Asked before the run is locked, so that nobody makes a stranger's run wait; and again behind the lock, because the wait
  -- may have been recorded meanwhile.
  if v_proof <> 'wrong' then
    select * into v_run from public.agent_runs where id = p_run_id for update;
    v_proof := private.proof_of_event(p_run_id, p_step_no, v_hash);
  end if;
  if v_proof = 'wrong' then
    raise exception 'Run % has no step % that waits for this event', p_run_id, p_step_no using errcode = 'RUN01';
  end if;

  select * into v_known from private.step_events e
    where e.run_id = p_run_id and e.step_no = p_step_no and e.token_hash = v_hash;
  if v_known.event_id is not null then
    if p_delivery_id = any (v_known.deliveries) then
      raise exception 'This delivery was received before' using errcode = 'RUN22',
        hint = 'Sign each delivery anew; the same event again is answered as the first time.';
    end if;
    if v_known.event_id <> p_event_id then
      raise exception 'Step % of run % had another event', p_step_no, p_run_id using errcode = 'RUN21';
    end if;
    update private.step_events e set deliveries = (v_delivery || e.deliveries)[1:100]
      where e.run_id = p_run_id and e.step_no = p_step_no and e.token_hash = v_hash;
    return v_known.answer;
  end if;
  if v_run.finished_at is not null then
    raise exception 'Run % has ended as %', p_run_id, v_run.status using errcode = 'RUN04';
  end if;

  v_taken := v_proof = 'proven' and private.take_event(p_run_id, p_step_no, p_event_id, p_payload);
  if not v_taken then
    select * into v_step from public.agent_steps s where s.run_id = p_run_id and s.step_no = p_step_no;
    if v_step.status not in ('pending', 'running') then
      raise exception 'Step % of run % has ended as %', p_step_no, p_run_id, v_step.status using errcode = 'RUN21';
    end if;
    if v_proof = 'early' and 4 <= (
      select count(*) from private.step_events e where e.run_id = p_run_id and e.step_no = p_step_no)
    then
      raise exception 'Step % of run % does not wait yet', p_step_no, p_run_id using errcode = 'RUN09',
        detail = '{"retry_after_seconds": 5}';
    end if;
  end if;
  select * into v_run from public.agent_runs where id = p_run_id;
  v_answer := private.run_answer(v_run) || jsonb_build_object('step_no', p_step_no)
    || case when v_taken then '{}' else '{"kept": true}'::jsonb end;
  insert into private.step_events (run_id, step_no, token_hash, awaited, event_id, payload, deliveries, answer)
    values (p_run_id, p_step_no, v_hash, false, p_event_id, case when not v_taken then p_payload end, v_delivery, v_answer)
    on conflict (run_id, step_no, token_hash) do update
      set event_id = excluded.event_id, payload = excluded.payload, deliveries = excluded.deliveries,
          answer = excluded.answer;
  return v_answer;
end $$;

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

CREATE FUNCTION private.duration_ms(p_started_at timestamp with time zone, p_finished_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select (extract(epoch from p_finished_at - p_started_at) * 1000)::bigint
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
    from unnest(p_run_ids) with ordinality as e (run_id, position) join public.agent_runs r on r.id = any (array[e.run_id]);
  update public.agent_runs r
    set status = p_status, error = coalesce(e.error, r.error), finished_at = v_now, updated_at = v_now,
        revision = r.revision + 1, available_at = 'infinity', lease_id = null, lease_owner = null,
        lease_expires_at = null, stop_requested_at = null, pause_requested_at = null, fair_tag = null, held_for = null,
        credits_held = 0, credits_reserved = 0
    from unnest(p_run_ids, p_errors) as e (run_id, error)
    where r.id = any (array[e.run_id]);
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

CREATE FUNCTION private.exchange_api_key(p_hash text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_digest bytea := private.api_key_digest(p_hash);
  v_now timestamptz := private.clock();
  v_secret private.api_key_secrets;
  v_key public.api_keys;
begin
  select * into v_secret from private.api_key_secrets s where s.digest = v_digest;
  v_key := private.live_api_key(v_secret.id, v_now);
  if v_key.id is null then
    update private.api_key_refusals r set full_at = private.take_one(r.full_at, 60, v_now)
      where r.bucket = get_byte(v_digest, 0) % 64 and private.take_one(r.full_at, 60, v_now) is not null;
  else
    update public.api_keys k set last_used_at = v_now
      where k.id = v_key.id and (k.last_used_at between v_now - interval '1 minute' and v_now) is not true;
    update private.api_key_secrets s set full_at = private.take_one(s.full_at, 600, v_now)
      where s.id = v_secret.id and private.take_one(s.full_at, 600, v_now) is not null;
  end if;
  if not found then
    raise exception 'API keys are exchanged too often' using errcode = 'RUN09', hint = 'Try again in 1 s.',
      detail = '{"action": "exchange", "retry_after_seconds": 1}';
  end if;
  if v_key.id is null then
    return null;
  end if;
  return jsonb_build_object('api_key_id', v_key.id, 'secret_id', v_secret.id, 'user_id', v_key.user_id,
    'scopes', v_key.scopes,
    'is_anonymous', (select u.is_anonymous from auth.users u where u.id = v_key.user_id),
    'seconds_left', floor(extract(epoch from
      nullif(least(v_secret.expires_at, coalesce(v_key.expires_at, 'infinity')), 'infinity') - v_now)));
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

CREATE FUNCTION private.find_runs(p_account_id uuid, p_statuses public.run_status[], p_engine text, p_agent_id uuid, p_created_after timestamp with time zone, p_created_before timestamp with time zone, p_text text, p_behind_at timestamp with time zone, p_behind_id uuid, p_limit integer, OUT run_ids uuid[], OUT next_at timestamp with time zone, OUT next_id uuid) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    SET enable_sort TO 'off'
    AS $_$
declare
  v_limit constant integer := greatest(1, least(p_limit, 200));
  v_look_at constant integer := case when p_text is null then 10000 else 1000 end;
  v_path jsonpath;
  v_driver text := '';
  v_run record;
  v_looked integer := 0;
  v_searched bigint := 0;
  v_bytes bigint := 0;
  v_goes_on boolean := false;
begin
  perform private.require_scope('runs:read');
  run_ids := '{}';
  if private.my_role(p_account_id) is null then
    -- A stranger's history is empty; but it must not end in the middle as if that were its end.
    if p_behind_id is not null then
      raise exception 'You may not read the runs of account %', p_account_id using errcode = 'RUN06';
    end if;
    return;
  end if;
  if char_length(p_text) not between 1 and 200 then
    raise exception 'text must have 1 to 200 characters' using errcode = 'RUN07';
  end if;
  if p_text is not null then
    -- In any text within the JSON, whatever the case; not in the names of fields. q: it is no pattern.
    v_path := format('strict $.** ? (@ like_regex %s flag "iq")', to_jsonb(p_text));
  end if;
  if p_agent_id is not null then
    v_driver := 'i.agent_id = $5 and';
  elsif cardinality(p_statuses) = 1 then
    v_driver := 'i.status = ($3)[1] and';
  end if;

  for v_run in execute format($query$
    select r.id, r.created_at, r.input, r.output, r.error,
      pg_column_size(r.input) + coalesce(pg_column_size(r.output), 0) as stored,
      ($3 is null or r.status = any ($3)) and ($4 is null or r.engine = $4)
        and ($6 is null or jsonb_path_exists(r.input, $6) or coalesce(jsonb_path_exists(r.output, $6), false)
          or coalesce(jsonb_path_exists(r.error, $6), false)
          -- A value: of an `exists` the planner may make a table of all agents.
          or coalesce((select strpos(lower(a.name), lower($7)) > 0 from public.agents a where a.id = r.agent_id), false)
        ) as fits
    from (
      select i.id, i.created_at, i.status, i.engine, i.agent_id, i.input, i.output, i.error
      from public.agent_runs i
      where %1$s i.account_id = $1 and i.created_at > $8 and i.created_at < $9
        and i.created_at <= $10 and (i.created_at < $10 or i.id > $11)
      order by i.created_at %2$s, i.id limit $2
    ) r
    order by r.created_at %2$s, r.id
  $query$, v_driver, case when v_driver = '' then 'desc' else 'desc nulls last' end)
    using p_account_id, v_look_at, p_statuses, p_engine, p_agent_id, v_path, p_text,
      coalesce(p_created_after, '-infinity'), coalesce(p_created_before, 'infinity'),
      coalesce(p_behind_at, 'infinity'), p_behind_id
  loop
    v_goes_on := cardinality(run_ids) = v_limit or (p_text is not null and v_searched > 33554432);
    exit when v_goes_on;
    if v_run.fits then
      v_bytes := v_bytes + octet_length(v_run.input::text) + coalesce(octet_length(v_run.output::text), 0)
        + coalesce(octet_length(v_run.error::text), 0);
      v_goes_on := v_bytes > 2000000 and cardinality(run_ids) > 0;
      exit when v_goes_on;
      run_ids := run_ids || v_run.id;
    end if;
    v_looked := v_looked + 1;
    v_searched := v_searched + v_run.stored;
    next_at := v_run.created_at;
    next_id := v_run.id;
    v_goes_on := v_looked = v_look_at;
  end loop;
  if not v_goes_on then
    next_at := null;
    next_id := null;
  end if;
end $_$;

CREATE FUNCTION private.flush_logs(p_run_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
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
    from tail where r.id = any (array[tail.id]) returning r.id, tail.broadcast_seq
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
    SET jit TO 'off'
    AS $$
declare
  v_limit integer := greatest(1, least(p_limit, 500));
  v_account_id uuid;
  v_answer jsonb;
begin
  perform private.require_scope('runs:read');
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

CREATE FUNCTION private.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_problem text := case
    when p_account_id is null or not exists (select from public.accounts where id = p_account_id)
      then 'account_id: there is no such account'
    when p_kind is null or p_kind not in ('owned', 'purchased', 'granted')
      then 'kind: must be owned, purchased or granted'
    when p_expires_at <= private.clock() then 'expires_at: must be in the future'
  end;
begin
  if not exists (select from public.agents where id = p_agent_id) then
    raise exception 'There is no agent %', p_agent_id using errcode = 'RUN01';
  end if;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'RUN07';
  end if;
  insert into public.agent_access (agent_id, account_id, kind, expires_at)
    values (p_agent_id, p_account_id, p_kind, p_expires_at)
    on conflict (agent_id, account_id, kind) do update set expires_at = excluded.expires_at;
  return jsonb_build_object('agent_id', p_agent_id, 'account_id', p_account_id, 'kind', p_kind,
    'expires_at', p_expires_at);
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
    where s.id = any (array[g.id]);
  if p_unused is not null then
    update private.slots s
      set fair_tag = greatest(0, s.fair_tag - cardinality(array_positions(p_unused, s.id))::bigint * 1000000 / (
        select t.share from public.accounts a join private.tiers t on t.name = a.tier where a.id = s.account_id))
      where s.id = any (p_unused);
  end if;
  perform private.hand_on(v_ids);
end $$;

CREATE FUNCTION private.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform private.lock_my_agent(p_agent_id);
  return private.give_agent_access(p_agent_id, p_account_id, 'granted', p_expires_at);
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
    SET jit TO 'off'
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

CREATE FUNCTION private.has_scope(p_scope text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select coalesce(p_scope = any (private.my_scopes()), true)
$$;

CREATE FUNCTION private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) RETURNS jsonb
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
  with locked as (
    select r.id from jsonb_to_recordset(p_leases) as l (run_id uuid, lease_id uuid)
    join public.agent_runs r on r.id = any (array[l.run_id]) and r.lease_id = l.lease_id
    order by l.run_id for update of r skip locked
  ), beaten as (
    update public.agent_runs r set lease_expires_at = private.lease_end(p_lease_seconds)
    from locked where r.id = any (array[locked.id])
    returning r.id, r.lease_id, r.revision, r.stop_requested_at, r.pause_requested_at
  )
  select coalesce(jsonb_agg(jsonb_build_object('run_id', id, 'lease_id', lease_id, 'revision', revision,
    'stop', stop_requested_at is not null, 'pause', pause_requested_at is not null)), '[]') from beaten
$$;

CREATE FUNCTION private.is_agent_of(p_agent_id uuid, p_account_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select exists (select from public.agents where id = p_agent_id and account_id = p_account_id)
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

CREATE FUNCTION private.key_owner() RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  if (select auth.uid()) is null then
    raise exception 'Only a signed-in user has API keys' using errcode = 'RUN06';
  end if;
  if private.my_scopes() is not null then
    raise exception 'An API key cannot manage API keys' using errcode = 'RUN06', hint = 'Sign in, and do it yourself.';
  end if;
  return (select auth.uid());
end $$;

CREATE FUNCTION private.known_credential_test(p_fingerprint text) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select result from private.test_results
  where user_id = (select auth.uid()) and fingerprint = p_fingerprint and private.has_scope('credentials:write')
    and created_at between private.clock() - interval '1 minute' and private.clock()
$$;

CREATE FUNCTION private.lease_end(p_seconds double precision) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  if p_seconds is null then
    raise exception 'lease_seconds must be given' using errcode = 'RUN07';
  end if;
  return private.clock() + make_interval(secs => p_seconds);
end $$;

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

CREATE TABLE public.api_keys (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    last_four text NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    rotated_at timestamp with time zone,
    previous_expires_at timestamp with time zone,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT api_keys_last_four_check CHECK ((last_four ~ '^[0-9A-Za-z]{4}$'::text)),
    CONSTRAINT api_keys_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 100))),
    CONSTRAINT api_keys_scopes_check CHECK ((cardinality(scopes) > 0))
);

COMMENT ON COLUMN public.api_keys.last_four IS 'The end of the present key, by which its owner knows it.';

COMMENT ON COLUMN public.api_keys.previous_expires_at IS 'Until when the key before the last rotation works too.';

COMMENT ON COLUMN public.api_keys.expires_at IS 'Null: it works until it is revoked.';

COMMENT ON COLUMN public.api_keys.last_used_at IS 'When it was last exchanged; written at most once a minute.';

CREATE FUNCTION private.live_api_key(p_secret_id uuid, p_now timestamp with time zone) RETURNS public.api_keys
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select k from private.api_key_secrets s
    join public.api_keys k on k.id = s.api_key_id
    join auth.users u on u.id = k.user_id
    where s.id = p_secret_id and s.expires_at > p_now and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > p_now)
      and (u.banned_until is null or u.banned_until <= p_now) and u.deleted_at is null and u.role = 'authenticated'
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

CREATE FUNCTION private.lock_my_agent(p_agent_id uuid) RETURNS public.agents
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents;
  v_role public.account_role;
begin
  perform private.require_scope('agents:write');
  -- Asked before the row is locked, so that nobody makes a stranger's agent wait.
  v_role := private.my_role((select account_id from public.agents where id = p_agent_id));
  if v_role in ('owner', 'admin') then
    select * into v_agent from public.agents where id = p_agent_id for update;
  elsif v_role is not null then
    raise exception 'Your role % in this account may not change agent %', v_role, p_agent_id using errcode = 'RUN06';
  end if;
  if v_agent.id is null then
    raise exception 'There is no agent %', p_agent_id using errcode = 'RUN01';
  end if;
  return v_agent;
end $$;

CREATE FUNCTION private.lock_my_api_key(p_api_key_id uuid) RETURNS public.api_keys
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_key public.api_keys;
begin
  select k.* into v_key from public.api_keys k where k.id = p_api_key_id and k.user_id = private.key_owner() for update;
  if not found then
    raise exception 'There is no API key %', p_api_key_id using errcode = 'RUN01';
  end if;
  return v_key;
end $$;

CREATE FUNCTION private.lock_my_credential(p_credential_id uuid) RETURNS public.credentials
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_credential public.credentials;
  v_role public.account_role;
begin
  perform private.require_scope('credentials:write');
  -- Asked before the row is locked, so that nobody makes a stranger's steps wait.
  v_role := private.my_role((select account_id from public.credentials where id = p_credential_id));
  if v_role is not null and v_role <> 'viewer' then
    select * into v_credential from public.credentials where id = p_credential_id and deleted_at is null for update;
  end if;
  if v_credential.id is null then
    raise exception 'There is no credential %', p_credential_id using errcode = 'RUN16';
  end if;
  if v_role = 'member' and v_credential.user_id is distinct from (select auth.uid()) then
    raise exception 'Your role % in this account may use credential % and not change it', v_role, p_credential_id
      using errcode = 'RUN06';
  end if;
  return v_credential;
end $$;

CREATE FUNCTION private.lock_my_run(p_run_id uuid, p_revision bigint) RETURNS public.agent_runs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_run public.agent_runs;
  v_role public.account_role;
begin
  perform private.require_scope('runs:write');
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
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.lost_races(p_runs jsonb, p_won uuid[]) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object('run_id', i.run_id, 'won', false, 'revision', r.revision,
    'lease_id', r.lease_id, 'status', r.status)), '[]')
  from jsonb_to_recordset(p_runs) as i (run_id uuid)
  left join public.agent_runs r on r.id = any (array[i.run_id])
  where p_won is null or i.run_id <> all (p_won)
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
  select p_topic ~ '^run:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and private.has_scope('runs:read') and exists (
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

CREATE FUNCTION private.move_runs(p_batch jsonb, p_won uuid[], p_wait boolean, p_now timestamp with time zone, p_expires timestamp with time zone) RETURNS private.moved_runs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_locked uuid[];
  v_moves private.advance_move[];
  v_needy boolean;
  v_needy_ids uuid[] := '{}';
  v_got bigint[] := '{}';
  v_capped uuid[] := '{}';
  v_broke uuid[] := '{}';
  v_moved private.moved_runs;
begin
  if exists (
    select from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid) group by i.run_id having count(*) > 1
  ) then
    raise exception 'A batch names each run once' using errcode = 'RUN12';
  end if;
  if p_wait then
    v_locked := array(
      select r.id from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, lease_id uuid, revision bigint)
      join public.agent_runs r on r.id = any (array[i.run_id])
      where r.lease_id = i.lease_id and r.revision = i.revision
      order by i.run_id for update of r);
  else
    v_locked := array(
      select r.id from jsonb_to_recordset(p_batch -> 'runs') as i (run_id uuid, lease_id uuid, revision bigint)
      join public.agent_runs r on r.id = any (array[i.run_id])
      where r.lease_id = i.lease_id and r.revision = i.revision and r.id <> all (p_won)
      order by i.run_id for update of r skip locked);
  end if;
  select array_agg(row(i.run_id, i.status, i.available_in, i.output, i.error, i.new_steps, i.completed, i.in_flight,
      i.charge, i.released, i.wanted, i.lines, coalesce(i.decision_lines, 0),
      r.account_id, r.status, r.revision, r.stop_requested_at is not null, r.pause_requested_at is not null, r.log_seq,
      r.broadcast_seq, r.broadcast_at, r.slot_ids, r.credits_held, r.credits_spent,
      r.credits_reserved - i.released + i.wanted - (r.credits_held - i.charge),
      coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false),
      r.log_seq + i.lines > r.broadcast_seq
        and (r.broadcast_at is null or p_now - r.broadcast_at >= interval '100 milliseconds'))::private.advance_move),
    bool_or(i.wanted > 0 and (
      r.credits_reserved - i.released + i.wanted > r.credits_held - i.charge
      or coalesce(r.credits_spent + i.charge + r.credits_reserved - i.released + i.wanted > r.max_credits, false)))
    into v_moves, v_needy
    from jsonb_to_recordset(p_batch -> 'runs') as i (
      run_id uuid, status public.run_status, available_in double precision, output jsonb, error jsonb,
      new_steps integer, completed boolean, in_flight integer, charge bigint, released bigint, wanted bigint,
      lines integer, decision_lines integer)
    join public.agent_runs r on r.id = any (array[i.run_id])
    where i.run_id = any (v_locked);
  if v_moves is null then
    return v_moved;
  end if;
  v_moved.short := '{}';
  if v_needy then
    select c.ids, c.got, c.short, c.capped, c.broke into v_needy_ids, v_got, v_moved.short, v_capped, v_broke
      from private.find_credits(v_moves) c;
  end if;

  with move as materialized (
    select m.*, w.target, m.id = any (v_moved.short) as is_short, m.id = any (v_broke) as is_broke,
      w.target <> m.was as moved,
      w.target in ('completed', 'failed', 'cancelled', 'timeout') as ended,
      w.target in ('planning', 'executing') as leased,
      -- Who is only given back keeps its places and its turn; who waits, pauses or ends leaves the queue.
      w.target not in ('planning', 'executing')
        and not (w.target = 'queued' and coalesce(m.available_in <= 0, false)) as leaves,
      m.lines - case when m.id = any (v_moved.short) then m.decision_lines else 0 end + (w.target <> m.was)::integer
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
      updated_at = p_now,
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
      broadcast_at = case when d.due then p_now else r.broadcast_at end,
      lease_id = case when m.leased then r.lease_id end,
      lease_owner = case when m.leased then r.lease_owner end,
      lease_expires_at = case when m.leased then p_expires end,
      available_at = case when m.target = 'queued' and m.available_in is not null
        then p_now + make_interval(secs => m.available_in) else 'infinity' end,
      fair_tag = case when not m.leaves then r.fair_tag end,
      held_for = case when not m.leaves then r.held_for end,
      paused_at = case when m.target = 'paused' then p_now end,
      pause_requested_at = case when m.leased then r.pause_requested_at end,
      stop_requested_at = case when m.leased then r.stop_requested_at end,
      finished_at = case when m.ended then p_now end
    from move m
    cross join lateral (
      select m.moved or m.due as due  -- a change of status always
    ) d
    where r.id = any (array[m.id])
    returning m.id, m.account_id, r.revision, r.lease_id, m.target, m.was, m.wish, m.ended, m.moved, m.leaves, m.stop,
      m.pause, m.is_short, m.is_broke, m.log_seq, r.log_seq as last_seq, m.broadcast_seq, m.slot_ids,
      m.held - m.charge + m.got as rest, r.credits_spent, d.due, not d.due and r.log_seq > r.broadcast_seq as unsent
  ), line as (
    select w.id as run_id, w.last_seq - w.moved::integer as seq, w.account_id, 'warning' as log_type,
      case when w.id = any (v_capped)
        then 'Out of credits: the next step does not fit the run''s own limit (max_credits)'
        else 'Out of credits: the run is paused until credits are added and it is resumed' end as message,
      jsonb_build_object('event', 'out_of_credits', 'limit',
        case when w.id = any (v_capped) then 'run' else 'account' end) as metadata
      from written w where w.is_broke
    union all
    select w.id, w.last_seq, w.account_id, 'state_transition', w.was || ' -> ' || w.target,
      jsonb_build_object('from', w.was, 'to', w.target)
      from written w where w.moved
  )
  select array_agg(w.id), array_agg(w.account_id), array_agg(w.revision), array_agg(w.log_seq),
      array_agg(w.id) filter (where w.ended), array_agg(w.account_id) filter (where w.ended),
      array_agg(w.rest) filter (where w.ended), array_agg(w.credits_spent) filter (where w.ended),
      (select array_agg(u.id) from written x, unnest(x.slot_ids) as u (id) where x.leaves),
      array_agg(w.id) filter (where w.due), array_agg(w.broadcast_seq) filter (where w.due),
      array_agg(w.id) filter (where w.unsent),
      jsonb_agg(jsonb_build_object('run_id', w.id, 'won', true, 'revision', w.revision, 'lease_id', w.lease_id,
          'status', w.target, 'stop', w.stop, 'pause', w.pause, 'short', w.is_short))
        filter (where w.stop or w.pause or w.is_short or w.target <> coalesce(w.wish, w.was)),
      (select jsonb_agg(to_jsonb(l) order by l.run_id, l.seq) from line l)
    into v_moved.won, v_moved.accounts, v_moved.revisions, v_moved.base, v_moved.ended, v_moved.ended_accounts,
      v_moved.rests, v_moved.spent, v_moved.places, v_moved.told, v_moved.told_from, v_moved.unsent, v_moved.special,
      v_moved.lines
    from written w;
  return v_moved;
end $$;

CREATE FUNCTION private.my_account_ids() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 3
    SET search_path TO ''
    AS $$
  select account_id from public.account_members
  where user_id = (select auth.uid()) and (select private.my_scopes()) is distinct from '{}'
$$;

CREATE FUNCTION private.my_accounts_for_agent(p_agent_id uuid) RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select array(
    select m.account_id from public.account_members m, public.agents a
    where a.id = p_agent_id and m.user_id = (select auth.uid()) and m.role <> 'viewer'
      and private.may_use_agent(p_agent_id, m.account_id)
    order by m.account_id <> a.account_id, m.account_id <> m.user_id, m.account_id)
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
  select x.agent_id from public.agent_access x join public.account_members m on m.account_id = x.account_id
  where m.user_id = (select auth.uid()) and m.role <> 'viewer' and coalesce(x.expires_at > private.clock(), true)
  union
  select a.id from public.agents a join public.account_members m on m.account_id = a.account_id
  where m.user_id = (select auth.uid()) and m.role <> 'viewer'
$$;

CREATE FUNCTION private.my_role(p_account_id uuid) RETURNS public.account_role
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select role from public.account_members
  where account_id = p_account_id and user_id = (select auth.uid()) and (select private.my_scopes()) is distinct from '{}'
$$;

CREATE FUNCTION private.my_scopes() RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_claims jsonb := auth.jwt();
  v_key record;
begin
  if v_claims is null or not v_claims ? 'api_key_id' then
    return null;
  end if;
  select k.id, k.user_id, k.scopes into v_key
    from private.live_api_key((v_claims ->> 'session_id')::uuid, private.clock()) k;
  if v_key.id = (v_claims ->> 'api_key_id')::uuid and v_key.user_id = (select auth.uid()) then
    return v_key.scopes;
  end if;
  return '{}';
end $$;

CREATE FUNCTION private.my_working_account_ids() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 3
    SET search_path TO ''
    AS $$
  select account_id from public.account_members where user_id = (select auth.uid()) and role <> 'viewer'
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

CREATE FUNCTION private.open_credential(p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_now timestamptz := private.clock();
  v_step record;
  v_credential public.credentials;
begin
  select r.account_id, r.user_id, (r.credential_ids ->> p_provider)::uuid as own_id, a.account_id as agent_account_id,
      (v.managed_credentials ->> p_provider)::uuid as managed_id
    into v_step
    from public.agent_runs r
    join public.agent_steps s on s.run_id = r.id and s.step_no = p_step_no
    left join public.agent_versions v on v.id = r.agent_version_id
    left join public.agents a on a.id = v.agent_id
    -- A lease that ran out is good until another worker takes the run, here as in an advance.
    where r.id = p_run_id and r.lease_id = p_lease_id
      and s.status = 'running' and s.attempt = p_attempt and s.waits_for is null;
  if not found then
    raise exception 'Step % of run % is not performed under this lease', p_step_no, p_run_id using errcode = 'RUN18';
  end if;
  -- The run's own, from its own account; else the agent's, from the agent's account; and no other.
  select * into v_credential from public.credentials c
    where c.id = coalesce(v_step.own_id, v_step.managed_id) and c.provider = p_provider and c.deleted_at is null
      and c.account_id = case when v_step.own_id is not null then v_step.account_id else v_step.agent_account_id end;
  if not found then
    raise exception 'The run has no credential for % that can be used', p_provider
      using errcode = 'RUN16', hint = 'It was never chosen, or it was deleted: start a new run with another.';
  end if;
  insert into public.credential_access_log (credential_id, account_id, run_id, step_no, attempt, user_id, purpose)
    values (v_credential.id, v_credential.account_id, p_run_id, p_step_no, p_attempt, v_step.user_id, 'step');
  -- Once a minute: written each time, the row would be a queue for all runs that share it.
  if v_credential.last_used_at is null or v_credential.last_used_at not between v_now - interval '1 minute' and v_now then
    update public.credentials set last_used_at = v_now
      where id = v_credential.id
        and (last_used_at is null or last_used_at not between v_now - interval '1 minute' and v_now);
  end if;
  return private.sealed_answer(v_credential) || jsonb_build_object('managed', v_step.own_id is null);
end $$;

CREATE FUNCTION private.open_credential_to_test(p_credential_id uuid, p_tickets text[]) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_credential public.credentials := private.credential_by_ticket(p_credential_id, p_tickets);
begin
  insert into public.credential_access_log (credential_id, account_id, user_id, purpose)
    values (p_credential_id, v_credential.account_id, (select auth.uid()), 'test');
  return private.sealed_answer(v_credential);
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
      where r.id = any (array[i.id]) and r.fair_tag <> t.fair_tag;
    v_ids := array(select u.id from unnest(v_ids) as u (id) where u.id <> all (v_account.picked)) || v_better;
  end loop;
  return v_ids;
end $$;

CREATE FUNCTION private.prepare(p_request jsonb, p_run public.agent_runs) RETURNS private.prepared_run
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_prepared private.prepared_run;
  v_run public.agent_runs := p_run;
  v_version public.agent_versions;
  v_problems jsonb := '[]';
  v_credentials record;
begin
  if v_run.agent_id is not null then
    v_version := private.version_to_run(v_run, coalesce((p_request -> 'draft')::boolean, false));
    if v_run.agent_version_id <> v_version.id then
      raise exception 'Agent % has another version now', v_run.agent_id
        using errcode = 'RUN14', hint = 'Read the agent again, then decide again.';
    end if;
    v_run.agent_version_id := v_version.id;
    v_run.price := case when private.is_agent_of(v_run.agent_id, v_run.account_id) then 0 else v_version.price end;
    v_problems := private.problems_of_request(v_run, v_version);
    v_run.engine := v_version.engine;
  end if;
  select * into v_credentials
    from private.resolve_credentials(v_run.account_id, v_version, coalesce(p_request -> 'credentials', '{}'));
  v_run.credential_ids := v_credentials.credential_ids;
  v_prepared.run := v_run;
  v_prepared.version := v_version;
  v_prepared.problems := v_problems || v_credentials.problems;
  return v_prepared;
end $$;

CREATE FUNCTION private.problems_of_agent(p_fields jsonb, p_account_id uuid) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $_$
begin
  -- In plpgsql, so that the table of credentials may come later.
  return (select coalesce(jsonb_agg(jsonb_build_object('field', f.key, 'message', f.message)), '[]') from (
    select e.key, case e.key
      when 'name' then case
        when jsonb_typeof(e.value) <> 'string' or char_length(btrim(e.value #>> '{}')) not between 1 and 200
          then 'must have 1 to 200 characters' end
      when 'description' then case
        when jsonb_typeof(e.value) <> 'string' or char_length(e.value #>> '{}') > 4000
          then 'must have at most 4000 characters' end
      when 'visibility' then case
        when e.value not in ('"private"', '"public"') then 'must be private or public' end
      when 'max_concurrent_runs' then case
        when e.value <> 'null' and not (jsonb_typeof(e.value) = 'number' and e.value #>> '{}' ~ '^[0-9]{1,5}$'
            and (e.value #>> '{}')::integer between 1 and 10000)
          then 'must be a whole number from 1 to 10000, or null' end
      when 'engine' then case
        when jsonb_typeof(e.value) <> 'string' or e.value #>> '{}' !~ '^[a-z][a-z0-9_]{0,31}$'
          then 'must be a lower-case name' end
      when 'config' then case
        when jsonb_typeof(e.value) <> 'object' then 'must be an object'
        else private.json_problem('config', e.value, 65536) end
      when 'input_schema' then case
        when jsonb_typeof(e.value) <> 'object' then 'must be an object'
        else private.json_problem('input_schema', e.value, 32768) end
      when 'credential_types' then case
        when jsonb_typeof(e.value) <> 'array' or jsonb_array_length(e.value) > 20 or exists (
            select from jsonb_array_elements(e.value) t
            where jsonb_typeof(t) <> 'string' or t #>> '{}' !~ '^[a-z][a-z0-9_]{0,31}$')
          then 'must be a list of at most 20 providers'
        when (select count(distinct t) <> count(*) from jsonb_array_elements(e.value) t) then 'names one twice' end
      when 'managed_credentials' then case
        when jsonb_typeof(e.value) <> 'object' or cardinality(private.keys_of(e.value)) > 20
          then 'must be an object of at most 20 credentials' end
      when 'price' then case
        when jsonb_typeof(e.value) <> 'number' or e.value #>> '{}' !~ '^[0-9]{1,16}$'
            or (e.value #>> '{}')::numeric > 1000000000000000
          then 'must be a whole number of micro-credits from 0 to 1000000000000000' end
      when 'account_id' then null
      else 'is unknown'
    end as message
    from jsonb_each(p_fields) e
    union all
    select 'managed_credentials.' || m.key, 'is no credential of the agent''s account for ' || m.key
    from jsonb_each(case when jsonb_typeof(p_fields -> 'managed_credentials') = 'object'
      then p_fields -> 'managed_credentials' else '{}' end) m
    where not exists (
      select from public.credentials c
      where c.id::text = lower(m.value #>> '{}') and c.account_id = p_account_id and c.provider = m.key
        and c.deleted_at is null)
  ) f
  where f.message is not null);
end $_$;

CREATE FUNCTION private.problems_of_request(p_run public.agent_runs, p_version public.agent_versions) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object('field', x.field, 'message', x.message)), '[]') from (
    select 'engine' as field, format('the agent''s engine is %s', p_version.engine) as message
      where p_run.engine <> p_version.engine
    union all
    select 'max_credits', format('starting this agent costs %s credits', trim_scale(p_run.price / 1000000.0))
      where p_run.max_credits < p_run.price
  ) x
$$;

CREATE FUNCTION private.proof_of_event(p_run_id uuid, p_step_no integer, p_token_hash text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select case
    when bool_or(e.token_hash = p_token_hash) then 'proven'
    when count(*) = 0 and exists (
      select from public.agent_steps s
      where s.run_id = p_run_id and s.step_no = p_step_no and s.status in ('pending', 'running') and s.waits_for is null
    ) then 'early'
    else 'wrong'
  end
  from private.step_events e where e.run_id = p_run_id and e.step_no = p_step_no and e.awaited
$$;

CREATE FUNCTION private.publish_agent(p_agent_id uuid, p_seen timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents := private.lock_my_agent(p_agent_id);
  v_now timestamptz := private.clock();
  v_version public.agent_versions;
begin
  perform private.refuse_stale_agent(v_agent, p_seen);
  if v_agent.draft_version_id is null and v_agent.status <> 'retired' then
    raise exception 'Agent % has nothing to publish: its draft is what is published', p_agent_id using errcode = 'RUN15';
  end if;
  select * into v_version from public.agent_versions
    where id = coalesce(v_agent.draft_version_id, v_agent.current_version_id) for update;
  perform private.refuse_problems(private.problems_of_agent(
    jsonb_build_object('managed_credentials', v_version.managed_credentials), v_agent.account_id));
  update public.agent_versions set published_at = v_now where id = v_version.id and published_at is null;
  update public.agents
    set status = 'published', current_version_id = v_version.id, draft_version_id = null, updated_at = v_now
    where id = p_agent_id returning * into v_agent;
  return private.agent_answer(v_agent);
end $$;

CREATE FUNCTION private.publish_deltas(p_deltas jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
  with fresh as (
    insert into private.step_deltas (run_id, step_no, attempt, text_offset, text)
      select d.run_id, d.step_no, d.attempt, d."offset", d.text
      from jsonb_to_recordset(p_deltas) as d (
        run_id uuid, lease_id uuid, step_no integer, attempt integer, "offset" integer, text text)
      join public.agent_steps s on s.run_id = any (array[d.run_id]) and s.step_no = d.step_no and s.attempt = d.attempt
        and s.status = 'running' and s.waits_for is null
      join public.agent_runs r on r.id = any (array[d.run_id]) and r.lease_id = d.lease_id
      order by d.run_id
      for share of r, s  -- both checked anew after a wait: what comes late would stay behind
      on conflict do nothing
      returning *
  )
  select private.broadcast('delta', array_agg('run:' || run_id order by run_id, step_no, text_offset),
    array_agg(jsonb_build_object('id', gen_random_uuid(), 'run_id', run_id, 'step_no', step_no, 'attempt', attempt,
      'offset', text_offset, 'text', text) order by run_id, step_no, text_offset))
  from fresh
$$;

CREATE FUNCTION private.purge_old(p_now timestamp with time zone, p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
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
  v_hold := least(coalesce(v_available, 0), p_run.price + (select hold_credits from private.settings),
                  coalesce(p_run.max_credits, 9223372036854775807));
  if v_hold <= 0 then
    raise exception 'The account has no credits left to start run %', p_run.id
      using errcode = 'RUN10', hint = 'Add credits to the account, then start the run again.';
  end if;
  if v_hold < p_run.price then
    raise exception 'Starting run % costs % credits, and the account has %', p_run.id,
        trim_scale(p_run.price / 1000000.0), trim_scale(v_hold / 1000000.0)
      using errcode = 'RUN10', hint = 'Add credits to the account, then start the run again.';
  end if;
  update public.credit_accounts set available = available - v_hold, held = held + v_hold, updated_at = v_now
    where account_id = p_run.account_id;
  insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
    values (p_run.account_id, p_run.id, 'hold', 'available', 'held', v_hold);
  if p_run.price > 0 then
    insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
      values (p_run.account_id, p_run.id, 'price', 'held', 'spent', p_run.price);
  end if;
  select * into v_places from private.take_places(p_run);
  update public.agent_runs r
    set status = 'queued', revision = r.revision + 1, available_at = v_now, started_at = v_now, updated_at = v_now,
        deadline_at = v_now + make_interval(secs => r.timeout_seconds), credits_held = v_hold - p_run.price,
        credits_spent = p_run.price,
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

CREATE FUNCTION private.read_agent(p_agent_id uuid) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents;
begin
  perform private.require_scope('agents:read');
  select * into v_agent from public.agents where id = p_agent_id;
  if v_agent.id is null or private.my_role(v_agent.account_id) is null then
    raise exception 'There is no agent %', p_agent_id using errcode = 'RUN01';
  end if;
  if not private.administers(v_agent.account_id) then
    raise exception 'Only its admins read all of agent %', p_agent_id using errcode = 'RUN06';
  end if;
  return jsonb_build_object('agent_id', v_agent.id, 'account_id', v_agent.account_id, 'name', v_agent.name,
    'description', v_agent.description, 'status', v_agent.status, 'visibility', v_agent.visibility,
    'max_concurrent_runs', v_agent.max_concurrent_runs, 'created_at', v_agent.created_at,
    'updated_at', v_agent.updated_at, 'published', private.version_for_admins(v_agent.current_version_id),
    'draft', private.version_for_admins(v_agent.draft_version_id));
end $$;

CREATE FUNCTION private.read_run_request(p_request jsonb) RETURNS public.agent_runs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $_$
declare
  v_run public.agent_runs;
  v_role public.account_role;
  v_field text;
begin
  perform private.require_scope('runs:write');
  v_run.user_id := (select auth.uid());
  if v_run.user_id is null then
    raise exception 'Only a signed-in user can create a run' using errcode = 'RUN06';
  end if;
  if p_request is null or jsonb_typeof(p_request) <> 'object' then
    raise exception 'p_request must be an object' using errcode = 'RUN07';
  end if;
  select k into v_field from jsonb_object_keys(p_request) k
    where k not in ('engine', 'input', 'account_id', 'agent_id', 'version_id', 'draft', 'credentials', 'max_steps',
      'timeout_seconds', 'max_credits', 'priority', 'concurrency_key', 'concurrency_limit', 'autostart') limit 1;
  if v_field is not null then
    raise exception 'p_request has an unknown field %', quote_literal(v_field) using errcode = 'RUN07';
  end if;
  if jsonb_typeof(coalesce(p_request -> 'input', 'null')) <> 'object' then
    raise exception 'input must be an object' using errcode = 'RUN07';
  end if;
  if jsonb_typeof(coalesce(p_request -> 'credentials', '{}')) <> 'object' then
    raise exception 'credentials must be an object' using errcode = 'RUN07';
  end if;
  if cardinality(private.keys_of(coalesce(p_request -> 'credentials', '{}'))) > 20 then
    raise exception 'credentials must name at most 20' using errcode = 'RUN07';
  end if;
  v_field := private.json_problem('input', p_request -> 'input', 262144);
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;
  begin
    v_run.account_id := coalesce((p_request ->> 'account_id')::uuid, v_run.user_id);
    v_run.engine := p_request ->> 'engine';
    v_run.input := p_request -> 'input';
    v_run.max_steps := coalesce((p_request ->> 'max_steps')::integer, 100);
    v_run.timeout_seconds := coalesce((p_request ->> 'timeout_seconds')::integer, 3600);
    v_run.max_credits := (p_request ->> 'max_credits')::bigint;
    v_run.agent_id := (p_request ->> 'agent_id')::uuid;
    v_run.agent_version_id := (p_request ->> 'version_id')::uuid;
    v_run.priority := coalesce((p_request ->> 'priority')::smallint, 0);
    v_run.concurrency_key := p_request ->> 'concurrency_key';
    v_run.concurrency_limit := coalesce((p_request ->> 'concurrency_limit')::integer,
      case when v_run.concurrency_key is not null then 1 end);
  exception when invalid_text_representation or numeric_value_out_of_range then
    raise exception 'account_id, agent_id and version_id must be uuids; max_steps, timeout_seconds, max_credits, priority and concurrency_limit must be whole numbers'
      using errcode = 'RUN07';
  end;
  v_field := case
    when v_run.agent_id is null and v_run.engine is null or v_run.engine !~ '^[a-z][a-z0-9_]{0,31}$'
      then 'engine must be a lower-case name'
    when v_run.max_steps not between 1 and 10000 then 'max_steps must be from 1 to 10000'
    when v_run.timeout_seconds not between 1 and 604800 then 'timeout_seconds must be from 1 to 604800'
    when v_run.max_credits <= 0 then 'max_credits must be positive'
    when v_run.priority not between -100 and 100 then 'priority must be from -100 to 100'
    when char_length(v_run.concurrency_key) not between 1 and 200 then 'concurrency_key must have 1 to 200 characters'
    when v_run.concurrency_limit not between 1 and 10000 then 'concurrency_limit must be from 1 to 10000'
    when v_run.concurrency_limit is not null and v_run.concurrency_key is null
      then 'concurrency_limit belongs to a concurrency_key'
    when v_run.agent_id is null and (v_run.agent_version_id is not null or p_request ? 'draft')
      then 'version_id and draft belong to an agent_id'
    when p_request ? 'draft' and jsonb_typeof(p_request -> 'draft') <> 'boolean' then 'draft must be true or false'
  end;
  if v_field is not null then
    raise exception '%', v_field using errcode = 'RUN07';
  end if;

  if v_run.account_id = v_run.user_id then
    perform private.ensure_personal_account(v_run.user_id);
  end if;
  v_role := private.my_role(v_run.account_id);
  if v_role is null or v_role = 'viewer' then
    raise exception 'You may not create runs in account %', v_run.account_id using errcode = 'RUN06';
  end if;
  return v_run;
end $_$;

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

CREATE FUNCTION private.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform private.credential_by_ticket(p_credential_id, p_tickets);
  update public.credentials set last_test = private.credential_test(p_test), last_tested_at = private.clock()
    where id = p_credential_id;
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
        select t.* from (select distinct l from unnest(p_listed) l) as n (step_no)
          cross join lateral (
            select * from public.agent_steps o where o.run_id = p_run_id and o.step_no = n.step_no offset 0) t
      ) s, (select private.clock() as now) c),
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', m.step_no, 'role', m.role, 'content', m.content)
        order by m.message_no), '[]')
      from (
        select * from public.agent_messages where run_id = p_run_id and step_no > p_after
        union all
        select t.* from (select distinct l from unnest(p_listed) l) as n (step_no)
          cross join lateral (
            select * from public.agent_messages o where o.run_id = p_run_id and o.step_no = n.step_no offset 0) t
      ) m),
    'plans', (
      select coalesce(jsonb_agg(jsonb_build_object('step_no', p.step_no, 'goal', p.goal, 'phases', p.phases,
        'reason', p.reason) order by p.number), '[]')
      from (
        select * from public.agent_plans where run_id = p_run_id and step_no > p_after
        union all
        select t.* from (select distinct l from unnest(p_listed) l) as n (step_no)
          cross join lateral (
            select * from public.agent_plans o where o.run_id = p_run_id and o.step_no = n.step_no offset 0) t
      ) p))
$$;

CREATE FUNCTION private.refuse_frozen_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  -- Generated columns are not computed yet here; what this one is made of is compared.
  v_apart constant text[] := array['pinned_at', 'published_at', 'managed_types'];
begin
  if to_jsonb(new) - v_apart <> to_jsonb(old) - v_apart
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

CREATE FUNCTION private.refuse_problems(p_problems jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
begin
  if jsonb_array_length(p_problems) > 0 then
    raise exception '%: %', p_problems -> 0 ->> 'field', p_problems -> 0 ->> 'message'
      using errcode = 'RUN07', detail = p_problems::text;
  end if;
end $$;

CREATE FUNCTION private.refuse_retired_key(p_key_version integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  if p_key_version < (select min_key_version from private.vault for share) then
    raise exception 'The master key of version % is retired', p_key_version
      using errcode = 'RUN17', hint = 'Deploy the function with the current ENCRYPTION_KEYS.';
  end if;
end $$;

CREATE FUNCTION private.refuse_run() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  raise exception 'Run % violates %', new.id, tg_name
    using errcode = 'check_violation', constraint = tg_name, table = tg_table_name, schema = tg_table_schema;
end $$;

CREATE FUNCTION private.refuse_stale_agent(p_agent public.agents, p_seen timestamp with time zone) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
begin
  if p_seen <> p_agent.updated_at then
    raise exception 'Agent % was changed meanwhile', p_agent.id
      using errcode = 'RUN03', hint = 'Read the agent again, then decide again.';
  end if;
end $$;

CREATE FUNCTION private.refuse_unneeded_keys(p_version public.agent_versions) RETURNS void
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select private.refuse_problems(coalesce((
    select jsonb_agg(jsonb_build_object('field', 'managed_credentials.' || k, 'message', 'is not in credential_types'))
    from unnest(private.keys_of(p_version.managed_credentials)) k where k <> all (p_version.credential_types)), '[]'))
$$;

CREATE FUNCTION private.refuse_without_agent(p_run public.agent_runs) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents;
  v_version public.agent_versions;
begin
  if p_run.agent_id is null then
    return;
  end if;
  select * into v_agent from public.agents where id = p_run.agent_id;
  select * into v_version from public.agent_versions where id = p_run.agent_version_id;
  if v_version.id is null or not private.may_use_agent(p_run.agent_id, p_run.account_id) then
    raise exception 'There is no agent %', p_run.agent_id using errcode = 'RUN01';
  end if;
  if v_agent.status = 'retired' then
    raise exception 'Agent % is retired', p_run.agent_id using errcode = 'RUN15';
  end if;
  if v_version.published_at is null and not private.administers(v_agent.account_id) then
    raise exception 'Only admins of its account run the draft of agent %', p_run.agent_id using errcode = 'RUN06';
  end if;
end $$;

CREATE FUNCTION private.remember(p_account_id uuid, p_action text, p_key text, p_response jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
  update private.idempotency_keys set response = p_response
    where account_id = p_account_id and action = p_action and key = p_key
$$;

CREATE FUNCTION private.remember_credential_test(p_fingerprint text, p_result jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $_$
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
end $_$;

CREATE FUNCTION private.rename_credential(p_credential_id uuid, p_name text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
begin
  if coalesce(char_length(p_name), 0) not between 1 and 100 then
    raise exception 'p_name must have 1 to 100 characters' using errcode = 'RUN07';
  end if;
  update public.credentials set name = p_name, updated_at = private.clock() where id = p_credential_id
    returning * into v_credential;
  return private.credential_answer(v_credential);
end $$;

CREATE FUNCTION private.replace_credential(p_credential_id uuid, p_secret jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_credential public.credentials := private.lock_my_credential(p_credential_id);
  v_new public.credentials := private.sealed_secret(p_secret);
begin
  update public.credentials
    set sealed = v_new.sealed, ticket_hash = v_new.ticket_hash, fingerprint = v_new.fingerprint,
        key_version = v_new.key_version, last_four = v_new.last_four, last_tested_at = v_new.last_tested_at,
        last_test = v_new.last_test, updated_at = private.clock()
    where id = p_credential_id
    returning * into v_credential;
  return private.credential_answer(v_credential);
end $$;

CREATE FUNCTION private.require_scope(p_scope text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_scopes text[] := private.my_scopes();
begin
  if cardinality(v_scopes) = 0 then
    raise exception 'The API key is no longer valid' using errcode = 'RUN19';
  end if;
  if p_scope <> all (v_scopes) then
    raise exception 'The API key lacks the scope %', p_scope
      using errcode = 'RUN20', hint = 'A key keeps the scopes it was made with: create one that has it.';
  end if;
end $$;

CREATE FUNCTION private.rerun_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_run public.agent_runs;  -- not locked: what is read of it never changes
  v_new public.agent_runs;
  v_version public.agent_versions;
  v_role public.account_role;
  v_credentials record;
  v_answer jsonb;
begin
  perform private.require_scope('runs:write');
  select * into v_run from public.agent_runs where id = p_run_id;
  v_role := private.my_role(v_run.account_id);
  if v_role is null then
    raise exception 'There is no run %', p_run_id using errcode = 'RUN01';
  end if;
  if v_role = 'viewer' then
    raise exception 'Your role viewer in this account may read run % and not run it again', p_run_id
      using errcode = 'RUN06';
  end if;
  v_answer := private.recall(v_run.account_id, 'rerun', p_idempotency_key, jsonb_build_object('run_id', p_run_id));
  if v_answer is not null then
    return v_answer || '{"created": false}';
  end if;
  if v_run.agent_id is not null then
    perform private.refuse_without_agent(v_run);
    select * into strict v_version from public.agent_versions where id = v_run.agent_version_id;
  end if;
  select * into v_credentials
    from private.resolve_credentials(v_run.account_id, v_version, private.credentials_again(v_run));
  perform private.refuse_problems(v_credentials.problems);

  perform private.take_rate(v_run.account_id, 'create');
  insert into public.agent_runs (account_id, user_id, agent_id, agent_version_id, credential_ids, price, engine, input,
      max_steps, timeout_seconds, max_credits, priority, concurrency_key, concurrency_limit, forked_from)
    values (v_run.account_id, (select auth.uid()), v_run.agent_id, v_run.agent_version_id, v_credentials.credential_ids,
      case when v_run.agent_id is null or private.is_agent_of(v_run.agent_id, v_run.account_id) then 0
        else v_version.price end,
      v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds, v_run.max_credits, v_run.priority,
      v_run.concurrency_key, v_run.concurrency_limit, p_run_id)
    returning * into v_new;
  if p_autostart then
    v_new := private.queue_run(v_new);
  end if;
  v_answer := private.run_answer(v_new) || jsonb_build_object('created', true, 'forked_from', p_run_id);
  perform private.remember(v_run.account_id, 'rerun', p_idempotency_key, v_answer);
  return v_answer;
end $$;

CREATE FUNCTION private.resolve_credentials(p_account_id uuid, p_version public.agent_versions, p_named jsonb, OUT credential_ids jsonb, OUT problems jsonb) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $_$
declare
  v_types text[] := case when p_version.id is null then private.keys_of(p_named) else p_version.credential_types end;
  v_type text;
  v_id uuid;
  v_problem text;
begin
  credential_ids := '{}';
  problems := coalesce((
    select jsonb_agg(jsonb_build_object('field', 'credentials.' || k, 'message', 'the agent takes no such credential'))
    from jsonb_object_keys(p_named) k where k <> all (v_types)), '[]');
  foreach v_type in array v_types loop
    v_problem := null;
    if p_named ? v_type then
      v_id := case when p_named ->> v_type ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (p_named ->> v_type)::uuid end;
      select c.id into v_id from public.credentials c
        where c.id = v_id and c.account_id = p_account_id and c.provider = v_type and c.deleted_at is null;
      v_problem := case when v_id is null then 'is no credential of this account for ' || v_type end;
    elsif p_version.managed_credentials ? v_type then
      v_id := null;
      perform 1 from public.credentials c join public.agents a on a.account_id = c.account_id
        where a.id = p_version.agent_id and c.id = (p_version.managed_credentials ->> v_type)::uuid
          and c.provider = v_type and c.deleted_at is null;
      v_problem := case when not found then 'the agent brings its own, and that is gone' end;
    else
      select c.id into v_id from public.credentials c
        where c.account_id = p_account_id and c.provider = v_type and c.deleted_at is null
          and c.last_test ->> 'valid' is distinct from 'false'
        order by c.created_at desc, c.id limit 1;
      v_problem := case when v_id is null then 'is needed: add a credential for ' || v_type end;
    end if;
    if v_problem is not null then
      problems := problems || jsonb_build_object('field', 'credentials.' || v_type, 'message', v_problem);
    elsif v_id is not null then
      credential_ids := credential_ids || jsonb_build_object(v_type, v_id);
    end if;
  end loop;
end $_$;

CREATE FUNCTION private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
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
    set status = 'completed', output = jsonb_build_object('response', p_response), waits_for = null, available_at = null,
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

CREATE FUNCTION private.retire_agent(p_agent_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents := private.lock_my_agent(p_agent_id);
begin
  update public.agents set status = 'retired', updated_at = private.clock()
    where id = p_agent_id and current_version_id is not null returning * into v_agent;
  if not found then
    raise exception 'Agent % was never published', p_agent_id using errcode = 'RUN15';
  end if;
  return private.agent_answer(v_agent);
end $$;

CREATE FUNCTION private.retire_keys(p_key_version integer) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_floor integer;
  v_left bigint;
begin
  -- Waits for whoever is about to store a secret, and then sees it.
  select min_key_version into v_floor from private.vault for update;
  select count(*) into v_left from public.credentials where deleted_at is null and key_version < p_key_version;
  if v_left = 0 and p_key_version > v_floor then
    update private.vault set min_key_version = p_key_version returning min_key_version into v_floor;
  end if;
  return jsonb_build_object('min_key_version', v_floor, 'left', v_left);
end $$;

CREATE FUNCTION private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_run public.agent_runs := private.lock_my_run(p_run_id, null);
  v_new public.agent_runs;
  v_fork integer;
  v_fork_ended timestamptz;
  v_price bigint;
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

  perform private.refuse_without_agent(v_run);
  -- What was paid for the agent is paid for the first retry too, and not for more: they would be runs for nothing.
  v_price := case
    when v_run.started_at is null then v_run.price
    when not exists (select from public.agent_runs f where f.forked_from = p_run_id and f.fork_step is not null) then 0
    when v_run.agent_id is null or private.is_agent_of(v_run.agent_id, v_run.account_id) then 0
    else (select price from public.agent_versions where id = v_run.agent_version_id)
  end;

  perform private.take_rate(v_run.account_id, 'create');
  insert into public.agent_runs (account_id, user_id, agent_id, agent_version_id, credential_ids, price, engine, input,
      max_steps, timeout_seconds, max_credits, priority, concurrency_key, concurrency_limit, resumes_as, step_count,
      forked_from, fork_step, revision)
    values (v_run.account_id, (select auth.uid()), v_run.agent_id, v_run.agent_version_id, v_run.credential_ids, v_price,
      v_run.engine, v_run.input, v_run.max_steps, v_run.timeout_seconds, v_run.max_credits, v_run.priority, v_run.concurrency_key, v_run.concurrency_limit,
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
      effect_key, input, timeout_seconds, credits_bound, available_at, created_at)
    select v_new.id, step_no, account_id, key, kind, name, phase, 'pending', max_attempts, effect,
      effect_key, input, timeout_seconds, credits_bound, private.clock(), created_at
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

CREATE FUNCTION private.revoke_agent(p_agent_id uuid, p_account_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform private.lock_my_agent(p_agent_id);
  return private.take_agent_access(p_agent_id, p_account_id, 'granted');
end $$;

CREATE FUNCTION private.revoke_api_key(p_api_key_id uuid) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_key public.api_keys := private.lock_my_api_key(p_api_key_id);
begin
  if v_key.revoked_at is null then
    update public.api_keys k set revoked_at = private.clock(), previous_expires_at = null where k.id = p_api_key_id;
    delete from private.api_key_secrets s where s.api_key_id = p_api_key_id;
  end if;
  return p_api_key_id;
end $$;

CREATE FUNCTION private.rewrap_credentials(p_items jsonb) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_count integer;
begin
  perform private.refuse_retired_key((select min(i.key_version)
    from jsonb_to_recordset(p_items) as i (key_version integer)));
  with item as (
    select i.* from jsonb_to_recordset(p_items)
      as i (id uuid, before text, sealed text, ticket_hash text, key_version integer)
  ), locked as (
    select c.id from public.credentials c join item i on i.id = c.id
    where c.sealed = i.before and c.key_version < i.key_version
    order by c.id for update of c
  )
  update public.credentials c
    set sealed = i.sealed, ticket_hash = i.ticket_hash, key_version = i.key_version
    from item i, locked where c.id = i.id and locked.id = c.id and c.sealed = i.before;
  get diagnostics v_count = row_count;
  return v_count;
end $$;

CREATE FUNCTION private.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $_$
declare
  v_key public.api_keys := private.lock_my_api_key(p_api_key_id);
  v_digest bytea := private.api_key_digest(p_hash);
  v_now timestamptz := private.clock();
  v_until timestamptz;
begin
  if p_overlap_hours is null or p_overlap_hours not between 0 and 168 then
    raise exception 'overlap_hours must be from 0 to 168' using errcode = 'RUN07';
  end if;
  if coalesce(p_last_four, '') !~ '^[0-9A-Za-z]{4}$' then
    raise exception 'p_last_four must be the last four characters of the key' using errcode = 'RUN07';
  end if;
  if v_key.revoked_at is not null or v_key.expires_at <= v_now then
    raise exception 'API key % is %', p_api_key_id, case when v_key.revoked_at is null then 'expired' else 'revoked' end
      using errcode = 'RUN02', hint = 'Create another one.';
  end if;
  -- At most two work: what an earlier rotation left ends now, and with no overlap the present one too.
  delete from private.api_key_secrets s
    where s.api_key_id = p_api_key_id and (s.expires_at < 'infinity' or p_overlap_hours = 0);
  v_until := v_now + make_interval(hours => p_overlap_hours);
  update private.api_key_secrets s set expires_at = v_until where s.api_key_id = p_api_key_id;
  insert into private.api_key_secrets (api_key_id, digest) values (p_api_key_id, v_digest);
  update public.api_keys k
    set last_four = p_last_four, rotated_at = v_now, previous_expires_at = case when p_overlap_hours > 0 then v_until end
    where k.id = p_api_key_id;
  return p_api_key_id;
end $_$;

CREATE FUNCTION private.run_answer(p_run public.agent_runs) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select jsonb_build_object('run_id', p_run.id, 'status', p_run.status, 'revision', p_run.revision)
$$;

CREATE FUNCTION private.run_view(p_run_ids uuid[], p_whole boolean DEFAULT false) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
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
  ) || case when r.step_count = 0 then '{"steps": [], "messages": [], "plans": []}'
    else private.recorded_steps(r.id, coalesce(n.step_count, 0), n.open_steps || n.kept_steps) end order by r.id), '[]')
  from public.agent_runs r
  left join private.run_snapshots n on n.run_id = r.id and not p_whole
  -- By its key for each run, and never hashed: a catalogue of any size costs a claim the same.
  left join lateral (select * from public.agent_versions o where o.id = r.agent_version_id limit 1) v on true,
  (select private.clock() as now) c
  where r.id = any (p_run_ids)
$$;

CREATE FUNCTION private.sealed_answer(p_credential public.credentials) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_floor integer := (select min_key_version from private.vault);
begin
  if p_credential.key_version < v_floor then
    raise exception 'The credential cannot be opened'
      using errcode = 'RUN17', hint = 'Replace its secret, or add the credential anew.';
  end if;
  return jsonb_build_object('credential_id', p_credential.id, 'account_id', p_credential.account_id,
    'provider', p_credential.provider, 'sealed', p_credential.sealed, 'min_key_version', v_floor);
end $$;

CREATE FUNCTION private.sealed_secret(p_secret jsonb) RETURNS public.credentials
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $_$
declare
  v_new public.credentials;
  v_test jsonb := nullif(p_secret -> 'test', 'null');
begin
  v_new.sealed := p_secret ->> 'sealed';
  v_new.ticket_hash := p_secret ->> 'ticket_hash';
  v_new.fingerprint := p_secret ->> 'fingerprint';
  v_new.last_four := p_secret ->> 'last_four';
  if coalesce(v_new.sealed, '') !~ '^[A-Za-z0-9+/]{150,}={0,2}$' or char_length(v_new.sealed) > 90000
      or coalesce(v_new.ticket_hash, '') !~ '^[0-9a-f]{64}$' or coalesce(v_new.fingerprint, '') !~ '^[0-9a-f]{32}$'
      or coalesce(p_secret ->> 'key_version', '') !~ '^[1-9][0-9]{0,8}$' or char_length(v_new.last_four) <> 4 then
    raise exception 'The secret is not one that a function sealed' using errcode = 'RUN07';
  end if;
  v_new.key_version := (p_secret ->> 'key_version')::integer;
  if v_test is not null then
    v_new.last_test := private.credential_test(v_test);
    v_new.last_tested_at := private.clock();
  end if;
  perform private.refuse_retired_key(v_new.key_version);
  return v_new;
end $_$;

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
    SET jit TO 'off'
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
  perform private.refuse_without_agent(v_run);
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
      select r.account_id from jsonb_to_recordset(v_verdicts) as v (id uuid)
      join public.agent_runs r on r.id = any (array[v.id])))
    order by c.account_id for update;
  perform 1 from private.slots s
    where s.id = any (array(
      select u.id from jsonb_to_recordset(v_verdicts) as v (id uuid)
      join public.agent_runs r on r.id = any (array[v.id]) and r.held_for = 0, unnest(r.slot_ids) as u (id)))
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

CREATE FUNCTION private.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  delete from public.agent_access where agent_id = p_agent_id and account_id = p_account_id and kind = p_kind;
  return jsonb_build_object('agent_id', p_agent_id, 'account_id', p_account_id, 'revoked', found);
end $$;

CREATE FUNCTION private.take_event(p_run_id uuid, p_step_no integer, p_event_id text, p_payload jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
  v_now timestamptz := private.clock();
  v_status public.run_status;
begin
  update public.agent_steps s
    set status = 'completed', output = p_payload, waits_for = null, available_at = null, finished_at = v_now,
        finished_revision = r.revision + 1
    from public.agent_runs r
    where r.id = p_run_id and s.run_id = r.id and s.step_no = p_step_no and s.status = 'running'
      and s.waits_for = 'event';
  if not found then
    return false;
  end if;
  update public.agent_runs r
    set revision = r.revision + 1, updated_at = v_now, attempt = 0,
        available_at = case when r.status = 'queued' and r.held_for is null then v_now else r.available_at end
    where r.id = p_run_id
    returning r.status into v_status;
  perform private.append_line(array[p_run_id], 'info', array['The awaited event came'],
    array[jsonb_build_object('event', 'event_delivered', 'step_no', p_step_no, 'event_id', p_event_id)]);
  if v_status = 'queued' then
    perform pg_notify('runbase_runs', '');
  end if;
  return true;
end $$;

CREATE FUNCTION private.take_one(p_full_at timestamp with time zone, p_per_minute integer, p_now timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select case when full_at <= p_now + interval '60 s' then full_at end
  from (select case when p_full_at between p_now and p_now + interval '60 s' then p_full_at else p_now end
    + make_interval(secs => (60000000 / p_per_minute) / 1e6)) t (full_at)
$$;

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
    SET jit TO 'off'
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

CREATE FUNCTION private.take_test(p_refusal text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION private.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents := private.lock_my_agent(p_agent_id);
  v_version public.agent_versions;
  v_content jsonb;
begin
  perform private.refuse_stale_agent(v_agent, p_seen);
  if p_changes is null or jsonb_typeof(p_changes) <> 'object' or p_changes = '{}' then
    raise exception 'p_changes must name what is to change' using errcode = 'RUN07';
  end if;
  if p_changes ? 'account_id' then
    raise exception 'account_id: an agent stays in its account' using errcode = 'RUN07';
  end if;
  perform private.refuse_problems(private.problems_of_agent(p_changes, v_agent.account_id));
  update public.agents a
    set name = coalesce(btrim(p_changes ->> 'name'), a.name),
        description = coalesce(p_changes ->> 'description', a.description),
        visibility = coalesce(p_changes ->> 'visibility', a.visibility), updated_at = private.clock()
    where a.id = p_agent_id;
  if p_changes ? 'max_concurrent_runs' then
    -- Apart, because it makes the queue look at its places again.
    update public.agents set max_concurrent_runs = (p_changes ->> 'max_concurrent_runs')::integer where id = p_agent_id;
  end if;

  v_content := p_changes - array['name', 'description', 'visibility', 'max_concurrent_runs'];
  if v_content <> '{}' then
    select * into v_version from public.agent_versions
      where id = coalesce(v_agent.draft_version_id, v_agent.current_version_id) for update;
    v_version := jsonb_populate_record(v_version, v_content);
    perform private.refuse_unneeded_keys(v_version);
    if v_version.published_at is null and v_version.pinned_at is null then
      update public.agent_versions
        set engine = v_version.engine, config = v_version.config, input_schema = v_version.input_schema,
            credential_types = v_version.credential_types, managed_credentials = v_version.managed_credentials,
            price = v_version.price
        where id = v_version.id;
    else
      v_version := private.add_version(v_version);
      update public.agents set draft_version_id = v_version.id where id = p_agent_id;
    end if;
  end if;
  select * into v_agent from public.agents where id = p_agent_id;
  return private.agent_answer(v_agent);
end $$;

CREATE FUNCTION private.vault_status() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select jsonb_build_object('min_key_version', (select min_key_version from private.vault), 'versions', coalesce((
    select jsonb_agg(jsonb_build_object('key_version', v.key_version, 'credentials', v.credentials) order by v.key_version)
    from (select key_version, count(*) as credentials from public.credentials where deleted_at is null group by 1) v), '[]'))
$$;

CREATE FUNCTION private.version_for_admins(p_version_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select jsonb_build_object('version_id', v.id, 'number', v.number, 'engine', v.engine, 'config', v.config,
    'input_schema', v.input_schema, 'credential_types', v.credential_types,
    'managed_credentials', v.managed_credentials, 'price', v.price, 'published_at', v.published_at)
  from public.agent_versions v where v.id = p_version_id
$$;

CREATE FUNCTION private.version_to_run(p_run public.agent_runs, p_draft boolean) RETURNS public.agent_versions
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_agent public.agents;
  v_version public.agent_versions;
  v_admin boolean;
begin
  select * into v_agent from public.agents where id = p_run.agent_id;
  if v_agent.id is null or not private.may_use_agent(v_agent.id, p_run.account_id)
      or (v_agent.status = 'draft' and private.my_role(v_agent.account_id) is null) then
    raise exception 'There is no agent %', p_run.agent_id using errcode = 'RUN01';
  end if;
  if v_agent.status = 'retired' then
    raise exception 'Agent % is retired', v_agent.id using errcode = 'RUN15';
  end if;
  v_admin := private.administers(v_agent.account_id);
  if p_draft and not v_admin then
    raise exception 'Only admins of its account run the draft of agent %', v_agent.id using errcode = 'RUN06';
  end if;
  if v_agent.status = 'draft' and not v_admin then
    raise exception 'Agent % is not published', v_agent.id using errcode = 'RUN15';
  end if;
  p_draft := p_draft or v_agent.status = 'draft';
  select * into v_version from public.agent_versions
    where id = case when p_draft then v_agent.draft_version_id else v_agent.current_version_id end;
  if v_version.id is null then
    raise exception 'Agent % has no draft', v_agent.id using errcode = 'RUN15';
  end if;
  return v_version;
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

CREATE FUNCTION public.begin_credential_test() RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.begin_credential_test() AS begin_credential_test;
END;

CREATE FUNCTION public.begin_flowise_call() RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.begin_flowise_call() AS begin_flowise_call;
END;

CREATE FUNCTION public.check_run(p_request jsonb, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.check_run(p_request, p_idempotency_key) AS check_run;
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

CREATE FUNCTION public.create_agent(p_request jsonb, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.create_agent(p_request, p_idempotency_key) AS create_agent;
END;

CREATE FUNCTION public.create_api_key(p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer DEFAULT NULL::integer) RETURNS uuid
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.create_api_key(p_hash, p_last_four, p_name, p_scopes, p_days) AS create_api_key;
END;

CREATE FUNCTION public.create_credential(p_credential jsonb, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.create_credential(p_credential, p_idempotency_key) AS create_credential;
END;

CREATE FUNCTION public.create_run(p_request jsonb, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.create_run(p_request, p_idempotency_key) AS create_run;
END;

CREATE FUNCTION public.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.credentials_to_rewrap(p_below, p_after, p_limit) AS credentials_to_rewrap;
END;

CREATE FUNCTION public.delete_credential(p_credential_id uuid) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.delete_credential(p_credential_id) AS delete_credential;
END;

CREATE FUNCTION public.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb, p_delivery_id text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.deliver_event(p_run_id, p_step_no, p_token, p_event_id, p_payload, p_delivery_id) AS deliver_event;
END;

CREATE FUNCTION public.exchange_api_key(p_hash text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.exchange_api_key(p_hash) AS exchange_api_key;
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

CREATE FUNCTION public.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.give_agent_access(p_agent_id, p_account_id, p_kind, p_expires_at) AS give_agent_access;
END;

CREATE FUNCTION public.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.grant_agent(p_agent_id, p_account_id, p_expires_at) AS grant_agent;
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

CREATE FUNCTION public.known_credential_test(p_fingerprint text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.known_credential_test(p_fingerprint) AS known_credential_test;
END;

CREATE FUNCTION public.show_runs(p_run_ids uuid[]) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    BEGIN ATOMIC
 SELECT COALESCE(jsonb_agg(to_jsonb(s.*) ORDER BY s.created_at DESC, s.id), '[]'::jsonb) AS "coalesce"
    FROM ( SELECT r.id,
             r.account_id,
             r.user_id,
             r.status,
             r.held_for,
             r.revision,
             r.engine,
             r.input,
             r.output,
             r.error,
             r.created_at,
             r.started_at,
             r.finished_at,
             private.duration_ms(r.started_at, r.finished_at) AS duration_ms,
             r.deadline_at,
             r.step_count,
             r.max_steps,
             r.timeout_seconds,
             r.priority,
             r.concurrency_key,
             r.concurrency_limit,
             r.forked_from,
             r.fork_step,
             r.log_seq,
             r.credits_held,
             r.credits_reserved,
             r.credits_spent,
             r.max_credits,
             private.agent_of_run(r.agent_id, r.agent_version_id) AS agent
            FROM public.agent_runs r
           WHERE (r.id = ANY (show_runs.p_run_ids))) s;
END;

CREATE FUNCTION public.list_runs(p_account_id uuid, p_statuses public.run_status[] DEFAULT NULL::public.run_status[], p_engine text DEFAULT NULL::text, p_agent_id uuid DEFAULT NULL::uuid, p_created_after timestamp with time zone DEFAULT NULL::timestamp with time zone, p_created_before timestamp with time zone DEFAULT NULL::timestamp with time zone, p_text text DEFAULT NULL::text, p_behind_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_behind_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 50) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT jsonb_build_object('runs', public.show_runs(f.run_ids), 'next',
         CASE
             WHEN (f.next_id IS NOT NULL) THEN jsonb_build_object('created_at', f.next_at, 'id', f.next_id)
             ELSE NULL::jsonb
         END) AS jsonb_build_object
    FROM private.find_runs(list_runs.p_account_id, list_runs.p_statuses, list_runs.p_engine, list_runs.p_agent_id, list_runs.p_created_after, list_runs.p_created_before, list_runs.p_text, list_runs.p_behind_at, list_runs.p_behind_id, list_runs.p_limit) f(run_ids, next_at, next_id);
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

CREATE FUNCTION public.open_credential(p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.open_credential(p_run_id, p_lease_id, p_step_no, p_attempt, p_provider) AS open_credential;
END;

CREATE FUNCTION public.open_credential_to_test(p_credential_id uuid, p_tickets text[]) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.open_credential_to_test(p_credential_id, p_tickets) AS open_credential_to_test;
END;

CREATE FUNCTION public.publish_agent(p_agent_id uuid, p_seen timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.publish_agent(p_agent_id, p_seen) AS publish_agent;
END;

CREATE FUNCTION public.publish_deltas(p_deltas jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.publish_deltas(p_deltas) AS publish_deltas;
END;

CREATE FUNCTION public.read_agent(p_agent_id uuid) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.read_agent(p_agent_id) AS read_agent;
END;

CREATE FUNCTION public.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.record_credential_test(p_credential_id, p_tickets, p_test) AS record_credential_test;
END;

CREATE FUNCTION public.remember_credential_test(p_fingerprint text, p_result jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.remember_credential_test(p_fingerprint, p_result) AS remember_credential_test;
END;

CREATE FUNCTION public.rename_credential(p_credential_id uuid, p_name text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.rename_credential(p_credential_id, p_name) AS rename_credential;
END;

CREATE FUNCTION public.replace_credential(p_credential_id uuid, p_secret jsonb) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.replace_credential(p_credential_id, p_secret) AS replace_credential;
END;

CREATE FUNCTION public.rerun_run(p_run_id uuid, p_idempotency_key text DEFAULT NULL::text, p_autostart boolean DEFAULT true) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.rerun_run(p_run_id, p_idempotency_key, p_autostart) AS rerun_run;
END;

CREATE FUNCTION public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid DEFAULT NULL::uuid, p_idempotency_key text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.respond_run(p_run_id, p_response, p_request_id, p_idempotency_key) AS respond_run;
END;

CREATE FUNCTION public.retire_agent(p_agent_id uuid) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.retire_agent(p_agent_id) AS retire_agent;
END;

CREATE FUNCTION public.retire_keys(p_key_version integer) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.retire_keys(p_key_version) AS retire_keys;
END;

CREATE FUNCTION public.retry_run(p_run_id uuid, p_idempotency_key text DEFAULT NULL::text, p_autostart boolean DEFAULT true) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.retry_run(p_run_id, p_idempotency_key, p_autostart) AS retry_run;
END;

CREATE FUNCTION public.revoke_agent(p_agent_id uuid, p_account_id uuid) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.revoke_agent(p_agent_id, p_account_id) AS revoke_agent;
END;

CREATE FUNCTION public.revoke_api_key(p_api_key_id uuid) RETURNS uuid
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.revoke_api_key(p_api_key_id) AS revoke_api_key;
END;

CREATE FUNCTION public.rewrap_credentials(p_items jsonb) RETURNS integer
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.rewrap_credentials(p_items) AS rewrap_credentials;
END;

CREATE FUNCTION public.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer DEFAULT 24) RETURNS uuid
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.rotate_api_key(p_api_key_id, p_hash, p_last_four, p_overlap_hours) AS rotate_api_key;
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

CREATE FUNCTION public.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.take_agent_access(p_agent_id, p_account_id, p_kind) AS take_agent_access;
END;

CREATE FUNCTION public.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.update_agent(p_agent_id, p_changes, p_seen) AS update_agent;
END;

CREATE FUNCTION public.vault_status() RETURNS jsonb
    LANGUAGE sql
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT private.vault_status() AS vault_status;
END;

CREATE TABLE private.api_key_refusals (
    bucket smallint NOT NULL,
    full_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT api_key_refusals_bucket_check CHECK (((bucket >= 0) AND (bucket <= 63)))
)
WITH (fillfactor='50');

CREATE TABLE private.api_key_scopes (
    name text NOT NULL,
    CONSTRAINT api_key_scopes_name_check CHECK ((name ~ '^[a-z]+:(read|write)$'::text))
);

COMMENT ON TABLE private.api_key_scopes IS 'What a key may be given; shared/api_keys/scopes.py has the same.';

CREATE TABLE private.api_key_secrets (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    api_key_id uuid NOT NULL,
    digest bytea NOT NULL,
    expires_at timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL,
    full_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT api_key_secrets_digest_check CHECK ((octet_length(digest) = 32))
)
WITH (fillfactor='70');

COMMENT ON TABLE private.api_key_secrets IS 'What works now: one a key, two while a rotation overlaps, none of a revoked one.';

COMMENT ON COLUMN private.api_key_secrets.full_at IS 'As in private.rate_limits, of exchanges.';

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

CREATE TABLE private.step_events (
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    token_hash text NOT NULL,
    awaited boolean NOT NULL,
    event_id text,
    payload jsonb,
    deliveries text[] DEFAULT '{}'::text[] NOT NULL,
    answer jsonb,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT step_events_event_id_check CHECK (((char_length(event_id) >= 1) AND (char_length(event_id) <= 200))),
    CONSTRAINT step_events_token_hash_check CHECK ((token_hash ~ '^[0-9a-f]{64}$'::text))
);

COMMENT ON TABLE private.step_events IS 'What steps wait for, and what came: before the wait, or to end it.';

COMMENT ON COLUMN private.step_events.awaited IS 'The step said so itself, and with it the hash. Else whoever knew the run''s id.';

COMMENT ON COLUMN private.step_events.payload IS 'Of an event that came before its wait; after that it is the step''s output.';

COMMENT ON COLUMN private.step_events.deliveries IS 'Which signed requests brought it, the latest ones: none may come twice.';

COMMENT ON COLUMN private.step_events.answer IS 'What the first delivery was answered; a repeat gets the same.';

CREATE TABLE private.step_transitions (
    from_status public.step_status NOT NULL,
    to_status public.step_status NOT NULL
);

CREATE TABLE private.test_rates (
    user_id uuid NOT NULL,
    full_at timestamp with time zone NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE private.test_results (
    user_id uuid NOT NULL,
    fingerprint text NOT NULL,
    result jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT test_results_fingerprint_check CHECK ((fingerprint ~ '^[0-9a-f]{32}$'::text)),
    CONSTRAINT test_results_result_check CHECK ((octet_length((result)::text) <= 16384))
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

CREATE TABLE private.vault (
    only_row boolean DEFAULT true NOT NULL,
    min_key_version integer DEFAULT 0 NOT NULL,
    CONSTRAINT vault_min_key_version_check CHECK ((min_key_version >= 0)),
    CONSTRAINT vault_only_row_check CHECK (only_row)
);

COMMENT ON COLUMN private.vault.min_key_version IS 'Master keys below are retired: nothing is sealed or opened under them.';

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

CREATE VIEW public.agent_catalog WITH (security_invoker='true') AS
 SELECT a.id,
    a.name,
    a.description,
    a.status,
    a.visibility,
    a.created_at,
    a.updated_at,
    v.id AS version_id,
    v.number,
    v.engine,
    v.input_schema,
    v.credential_types,
    v.managed_types,
    v.price,
    v.published_at,
    ((a.status = 'published'::text) AND (a.id IN ( SELECT private.my_agent_ids() AS my_agent_ids))) AS may_run,
    (a.id IN ( SELECT private.my_administered_agent_ids() AS my_administered_agent_ids)) AS may_edit,
        CASE
            WHEN (a.status = 'published'::text) THEN private.my_accounts_for_agent(a.id)
            ELSE '{}'::uuid[]
        END AS run_as
   FROM (public.agents a
     LEFT JOIN public.agent_versions v ON ((v.id = a.current_version_id)));

COMMENT ON VIEW public.agent_catalog IS 'Agents with what is published of them, as the caller may see it.';

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
    waits_for public.step_wait,
    available_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    timeout_seconds double precision NOT NULL,
    credits_bound bigint DEFAULT 0 NOT NULL,
    credits_spent bigint DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    finished_revision bigint,
    CONSTRAINT agent_steps_credits CHECK (((credits_bound >= 0) AND (credits_spent >= 0)))
)
WITH (fillfactor='80');

COMMENT ON TABLE public.agent_steps IS 'A unit of work with a stored result, numbered from 1 within its run.';

COMMENT ON COLUMN public.agent_steps.key IS 'The engine''s name of the step, the same whenever the same decision is drawn.';

COMMENT ON COLUMN public.agent_steps.attempt IS 'Tries so far; each is booked apart. failed_attempts counts those that max_attempts limits.';

COMMENT ON COLUMN public.agent_steps.effect_key IS 'What outward calls carry as idempotency key; attempts and retry keep it.';

COMMENT ON COLUMN public.agent_steps.available_at IS 'When a pending step is tried, or a wait ends; infinity until the event. Null while it is performed and when it has ended.';

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

CREATE TABLE public.credential_access_log (
    id bigint NOT NULL,
    credential_id uuid NOT NULL,
    account_id uuid NOT NULL,
    run_id uuid,
    step_no integer,
    attempt integer,
    user_id uuid,
    purpose text NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT credential_access_log_purpose_check CHECK ((purpose = ANY (ARRAY['step'::text, 'test'::text]))),
    CONSTRAINT credential_access_log_step_of_a_run CHECK (((purpose = 'step'::text) = ((run_id IS NOT NULL) AND (step_no IS NOT NULL) AND (attempt IS NOT NULL))))
);

COMMENT ON TABLE public.credential_access_log IS 'Every opening of a credential, written with it or not opened. Append-only.';

COMMENT ON COLUMN public.credential_access_log.account_id IS 'The credential''s; of a managed one not the run''s.';

COMMENT ON COLUMN public.credential_access_log.user_id IS 'Whose run it was, or who tested.';

ALTER TABLE public.credential_access_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.credential_access_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

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
    kind public.transfer_kind NOT NULL,
    debit public.credit_place NOT NULL,
    credit public.credit_place NOT NULL,
    amount bigint NOT NULL,
    created_at timestamp with time zone DEFAULT private.clock() NOT NULL,
    CONSTRAINT credit_ledger_transfers CHECK (((amount > 0) AND (debit <> 'spent'::public.credit_place) AND (credit <> 'issued'::public.credit_place)))
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

CREATE VIEW public.execution_logs WITH (security_invoker='true') AS
 SELECT id,
    user_id,
    agent_id,
    status,
    input AS input_snapshot,
    output AS output_snapshot,
    (error ->> 'message'::text) AS error_message,
    private.duration_ms(started_at, finished_at) AS duration_ms,
    trim_scale(((credits_spent)::numeric / 1000000.0)) AS credits_consumed,
    created_at,
    finished_at AS completed_at
   FROM public.agent_runs r
  WHERE (account_id = ANY (ARRAY( SELECT private.my_account_ids() AS my_account_ids)));

COMMENT ON VIEW public.execution_logs IS 'Runs in the shape of an execution log. Read only; credits_consumed is in credits.';

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

ALTER TABLE ONLY private.api_key_refusals
    ADD CONSTRAINT api_key_refusals_pkey PRIMARY KEY (bucket);

ALTER TABLE ONLY private.api_key_scopes
    ADD CONSTRAINT api_key_scopes_pkey PRIMARY KEY (name);

ALTER TABLE ONLY private.api_key_secrets
    ADD CONSTRAINT api_key_secrets_digest_key UNIQUE (digest);

ALTER TABLE ONLY private.api_key_secrets
    ADD CONSTRAINT api_key_secrets_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY private.step_events
    ADD CONSTRAINT step_events_pkey PRIMARY KEY (run_id, step_no, token_hash);

ALTER TABLE ONLY private.step_transitions
    ADD CONSTRAINT step_transitions_pkey PRIMARY KEY (from_status, to_status);

ALTER TABLE ONLY private.test_rates
    ADD CONSTRAINT test_rates_pkey PRIMARY KEY (user_id);

ALTER TABLE ONLY private.test_results
    ADD CONSTRAINT test_results_pkey PRIMARY KEY (user_id, fingerprint);

ALTER TABLE ONLY private.tiers
    ADD CONSTRAINT tiers_pkey PRIMARY KEY (name);

ALTER TABLE ONLY private.vault
    ADD CONSTRAINT vault_pkey PRIMARY KEY (only_row);

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

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.credential_access_log
    ADD CONSTRAINT credential_access_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.credentials
    ADD CONSTRAINT credentials_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.credit_accounts
    ADD CONSTRAINT credit_accounts_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY public.credit_ledger
    ADD CONSTRAINT credit_ledger_pkey PRIMARY KEY (account_id, id);

ALTER TABLE ONLY public.human_requests
    ADD CONSTRAINT human_requests_pkey PRIMARY KEY (id);

CREATE INDEX api_key_secrets_api_key_id ON private.api_key_secrets USING btree (api_key_id);

CREATE INDEX idempotency_keys_created_at ON private.idempotency_keys USING btree (created_at);

CREATE INDEX rate_limits_full_at ON private.rate_limits USING btree (full_at);

CREATE INDEX slots_keys ON private.slots USING btree (id) WHERE (kind = 'key'::text);

CREATE INDEX slots_recheck ON private.slots USING btree (account_id, id) WHERE recheck;

CREATE INDEX step_events_unproven ON private.step_events USING btree (created_at) WHERE (NOT awaited);

CREATE INDEX test_results_created_at ON private.test_results USING btree (created_at);

CREATE INDEX account_members_user_id ON public.account_members USING btree (user_id);

CREATE INDEX agent_access_account_id ON public.agent_access USING btree (account_id);

CREATE INDEX agent_messages_of_step ON public.agent_messages USING btree (run_id, step_no);

CREATE INDEX agent_plans_of_step ON public.agent_plans USING btree (run_id, step_no);

CREATE INDEX agent_runs_by_status ON public.agent_runs USING btree (status, account_id, created_at DESC NULLS LAST, id);

CREATE INDEX agent_runs_deadline ON public.agent_runs USING btree (deadline_at) WHERE (status = ANY (ARRAY['queued'::public.run_status, 'awaiting_input'::public.run_status]));

CREATE INDEX agent_runs_forked_from ON public.agent_runs USING btree (forked_from) WHERE (forked_from IS NOT NULL);

CREATE INDEX agent_runs_held ON public.agent_runs USING btree (held_for, account_id, priority DESC, available_at, id) WHERE ((status = 'queued'::public.run_status) AND (held_for > 0));

CREATE INDEX agent_runs_history ON public.agent_runs USING btree (account_id, created_at DESC, id);

CREATE INDEX agent_runs_keyed ON public.agent_runs USING btree (account_id, concurrency_key) WHERE ((concurrency_key IS NOT NULL) AND (finished_at IS NULL));

CREATE INDEX agent_runs_leased ON public.agent_runs USING btree (engine, id) WHERE (status = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status]));

CREATE INDEX agent_runs_of_agent ON public.agent_runs USING btree (agent_id, account_id, created_at DESC NULLS LAST, id) WHERE (agent_id IS NOT NULL);

CREATE INDEX agent_runs_ready ON public.agent_runs USING btree (engine, fair_tag, id) WHERE ((status = 'queued'::public.run_status) AND (held_for = 0));

CREATE INDEX agent_runs_ready_of_account ON public.agent_runs USING btree (account_id, priority DESC, fair_tag, id) WHERE ((status = 'queued'::public.run_status) AND (held_for = 0));

CREATE INDEX agent_runs_timers ON public.agent_runs USING btree (available_at, id) WHERE ((status = 'queued'::public.run_status) AND (held_for IS NULL));

CREATE INDEX agents_account_id ON public.agents USING btree (account_id);

CREATE INDEX agents_listed ON public.agents USING btree (status, created_at DESC, id);

CREATE INDEX api_keys_user_id ON public.api_keys USING btree (user_id, created_at);

CREATE INDEX credential_access_log_account ON public.credential_access_log USING btree (account_id, id DESC);

CREATE INDEX credential_access_log_credential ON public.credential_access_log USING btree (credential_id, id DESC);

CREATE INDEX credential_access_log_run ON public.credential_access_log USING btree (run_id) WHERE (run_id IS NOT NULL);

CREATE INDEX credentials_added ON public.credentials USING btree (account_id, created_at);

CREATE INDEX credentials_key_version ON public.credentials USING btree (key_version, id) WHERE (deleted_at IS NULL);

CREATE INDEX credentials_of_account ON public.credentials USING btree (account_id, provider, created_at DESC, id) WHERE (deleted_at IS NULL);

CREATE INDEX credentials_user_id ON public.credentials USING btree (user_id);

CREATE UNIQUE INDEX credit_ledger_booked_once ON public.credit_ledger USING btree (run_id, step_no, attempt, kind);

CREATE INDEX human_requests_account_id ON public.human_requests USING btree (account_id, created_at DESC);

CREATE INDEX human_requests_run_id ON public.human_requests USING btree (run_id);

CREATE TRIGGER recheck_slots AFTER UPDATE OF concurrent_runs ON private.tiers FOR EACH ROW EXECUTE FUNCTION private.recheck_slots();

CREATE TRIGGER agent_runs_chosen AFTER INSERT OR UPDATE OF priority, concurrency_key, concurrency_limit, max_attempts, max_steps, timeout_seconds, max_credits ON public.agent_runs FOR EACH ROW WHEN ((NOT (((new.priority >= '-100'::integer) AND (new.priority <= 100)) AND ((new.concurrency_key IS NULL) = (new.concurrency_limit IS NULL)) AND ((new.concurrency_key IS NULL) OR ((char_length(new.concurrency_key) >= 1) AND (char_length(new.concurrency_key) <= 200))) AND ((new.concurrency_limit IS NULL) OR ((new.concurrency_limit >= 1) AND (new.concurrency_limit <= 10000))) AND ((new.max_attempts >= 1) AND (new.max_attempts <= 100)) AND ((new.max_steps >= 1) AND (new.max_steps <= 10000)) AND ((new.timeout_seconds >= 1) AND (new.timeout_seconds <= 604800)) AND ((new.max_credits IS NULL) OR (new.max_credits > 0))))) EXECUTE FUNCTION private.refuse_run();

CREATE TRIGGER agent_runs_finished_at_the_end AFTER INSERT OR UPDATE OF status, finished_at ON public.agent_runs FOR EACH ROW WHEN (((new.status = ANY (ARRAY['completed'::public.run_status, 'failed'::public.run_status, 'cancelled'::public.run_status, 'timeout'::public.run_status])) = (new.finished_at IS NULL))) EXECUTE FUNCTION private.refuse_run();

CREATE TRIGGER agent_runs_in_the_queue AFTER INSERT OR UPDATE OF status, fair_tag, held_for ON public.agent_runs FOR EACH ROW WHEN ((NOT (((new.fair_tag IS NULL) = (new.held_for IS DISTINCT FROM 0)) AND ((new.held_for IS NULL) OR (new.status = ANY (ARRAY['queued'::public.run_status, 'planning'::public.run_status, 'executing'::public.run_status]))) AND ((new.status <> ALL (ARRAY['planning'::public.run_status, 'executing'::public.run_status])) OR (NOT (new.held_for IS DISTINCT FROM 0)))))) EXECUTE FUNCTION private.refuse_run();

CREATE TRIGGER agent_runs_lease_while_running AFTER INSERT OR UPDATE OF status, resumes_as, lease_id, lease_owner ON public.agent_runs FOR EACH ROW WHEN ((NOT ((new.resumes_as = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status])) AND ((new.status = ANY (ARRAY['planning'::public.run_status, 'executing'::public.run_status])) = (new.lease_id IS NOT NULL)) AND ((new.lease_id IS NULL) = (new.lease_owner IS NULL)) AND ((new.lease_id IS NULL) = (new.lease_expires_at IS NULL))))) EXECUTE FUNCTION private.refuse_run();

CREATE TRIGGER frozen BEFORE UPDATE ON public.agent_versions FOR EACH ROW WHEN (((old.published_at IS NOT NULL) OR (old.pinned_at IS NOT NULL))) EXECUTE FUNCTION private.refuse_frozen_version();

CREATE TRIGGER guard AFTER UPDATE OF status ON public.agent_runs FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (NOT (((old.status = 'created'::public.run_status) AND (new.status = ANY ('{queued,cancelled}'::public.run_status[]))) OR ((old.status = 'queued'::public.run_status) AND (new.status = ANY ('{planning,executing,paused,failed,cancelled,timeout}'::public.run_status[]))) OR ((old.status = 'planning'::public.run_status) AND (new.status = ANY ('{queued,executing,awaiting_input,paused,failed,cancelled,timeout}'::public.run_status[]))) OR ((old.status = 'executing'::public.run_status) AND (new.status = ANY ('{queued,planning,awaiting_input,paused,completed,failed,cancelled,timeout}'::public.run_status[]))) OR ((old.status = 'awaiting_input'::public.run_status) AND (new.status = ANY ('{queued,paused,cancelled,timeout}'::public.run_status[]))) OR ((old.status = 'paused'::public.run_status) AND (new.status = ANY ('{queued,cancelled,timeout}'::public.run_status[]))))))) EXECUTE FUNCTION private.refuse_move();

CREATE TRIGGER guard AFTER UPDATE OF status ON public.agent_steps FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (NOT (((old.status = 'pending'::public.step_status) AND (new.status = ANY ('{running,skipped,cancelled}'::public.step_status[]))) OR ((old.status = 'running'::public.step_status) AND (new.status = ANY ('{pending,completed,failed,skipped,cancelled}'::public.step_status[]))))))) EXECUTE FUNCTION private.refuse_move();

CREATE TRIGGER open_credit_account AFTER INSERT ON public.accounts FOR EACH ROW EXECUTE FUNCTION private.on_account_created();

CREATE TRIGGER recheck_slots AFTER UPDATE OF tier ON public.accounts FOR EACH ROW EXECUTE FUNCTION private.recheck_slots();

CREATE TRIGGER recheck_slots AFTER INSERT OR DELETE OR UPDATE OF account_id, max_concurrent_runs ON public.agents FOR EACH ROW EXECUTE FUNCTION private.recheck_slots();

ALTER TABLE ONLY private.api_key_secrets
    ADD CONSTRAINT api_key_secrets_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES public.api_keys(id) ON DELETE CASCADE;

ALTER TABLE ONLY private.test_rates
    ADD CONSTRAINT test_rates_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY private.test_results
    ADD CONSTRAINT test_results_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

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

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.credentials
    ADD CONSTRAINT credentials_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.credentials
    ADD CONSTRAINT credentials_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.credit_accounts
    ADD CONSTRAINT credit_accounts_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);

ALTER TABLE private.api_key_refusals ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.api_key_scopes ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.api_key_secrets ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.housekeeping ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.idempotency_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.rate_limits ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.run_snapshots ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.run_transitions ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.settings ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.slots ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.step_deltas ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.step_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.step_transitions ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.test_rates ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.test_results ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.tiers ENABLE ROW LEVEL SECURITY;

ALTER TABLE private.vault ENABLE ROW LEVEL SECURITY;

CREATE POLICY "API keys do not read API keys" ON public.api_keys AS RESTRICTIVE FOR SELECT TO authenticated USING ((( SELECT private.my_scopes() AS my_scopes) IS NULL));

CREATE POLICY "API keys need account:read" ON public.account_members AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('account:read'::text) AS has_scope));

CREATE POLICY "API keys need account:read" ON public.accounts AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('account:read'::text) AS has_scope));

CREATE POLICY "API keys need account:read" ON public.credit_accounts AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('account:read'::text) AS has_scope));

CREATE POLICY "API keys need account:read" ON public.credit_ledger AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('account:read'::text) AS has_scope));

CREATE POLICY "API keys need agents:read" ON public.agent_access AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('agents:read'::text) AS has_scope));

CREATE POLICY "API keys need agents:read" ON public.agent_versions AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('agents:read'::text) AS has_scope));

CREATE POLICY "API keys need agents:read" ON public.agents AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('agents:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.agent_artifacts AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.agent_messages AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.agent_plans AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.agent_runs AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.agent_steps AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.agent_task_logs AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

CREATE POLICY "API keys need runs:read" ON public.human_requests AS RESTRICTIVE FOR SELECT TO authenticated USING (( SELECT private.has_scope('runs:read'::text) AS has_scope));

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

CREATE POLICY "People read their own API keys" ON public.api_keys FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Signed-in users read what is published, what they may run and w" ON public.agents FOR SELECT TO authenticated USING ((((status = 'published'::text) AND (visibility = 'public'::text)) OR (account_id IN ( SELECT private.my_account_ids() AS my_account_ids)) OR ((status <> 'draft'::text) AND (id IN ( SELECT private.my_agent_ids() AS my_agent_ids)))));

CREATE POLICY "Who reads an agent reads its published versions, and its admins" ON public.agent_versions FOR SELECT TO authenticated USING ((((published_at IS NOT NULL) AND (EXISTS ( SELECT
   FROM public.agents a
  WHERE (a.id = agent_versions.agent_id)))) OR (agent_id IN ( SELECT private.my_administered_agent_ids() AS my_administered_agent_ids))));

CREATE POLICY "Who works in an account sees its credentials" ON public.credentials FOR SELECT TO authenticated USING (((deleted_at IS NULL) AND (account_id IN ( SELECT private.my_working_account_ids() AS my_working_account_ids)) AND ( SELECT private.has_scope('credentials:read'::text) AS has_scope)));

CREATE POLICY "Who works in an account sees when its credentials were opened" ON public.credential_access_log FOR SELECT TO authenticated USING (((account_id IN ( SELECT private.my_working_account_ids() AS my_working_account_ids)) AND ( SELECT private.has_scope('credentials:read'::text) AS has_scope)));

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

ALTER TABLE public.api_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credential_access_log ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credentials ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credit_accounts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credit_ledger ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.human_requests ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA public TO anon;
GRANT USAGE ON SCHEMA public TO authenticated;
GRANT USAGE ON SCHEMA public TO service_role;

REVOKE ALL ON FUNCTION private.clock() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.keys_of(p_value jsonb) FROM PUBLIC;

GRANT SELECT ON TABLE public.agent_runs TO authenticated;
GRANT SELECT ON TABLE public.agent_runs TO service_role;

GRANT SELECT ON TABLE public.agent_versions TO service_role;

GRANT SELECT(id) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(agent_id) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(number) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(engine) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(input_schema) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(credential_types) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(managed_types) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(price) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(created_at) ON TABLE public.agent_versions TO authenticated;

GRANT SELECT(published_at) ON TABLE public.agent_versions TO authenticated;

REVOKE ALL ON FUNCTION private.add_slots(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.add_version(p_version public.agent_versions) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.administers(p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.advance_runs(p_batch jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.advance_runs(p_batch jsonb) TO service_role;

GRANT SELECT ON TABLE public.agents TO service_role;

GRANT SELECT(id) ON TABLE public.agents TO authenticated;

GRANT SELECT(name) ON TABLE public.agents TO authenticated;

GRANT SELECT(description) ON TABLE public.agents TO authenticated;

GRANT SELECT(status) ON TABLE public.agents TO authenticated;

GRANT SELECT(visibility) ON TABLE public.agents TO authenticated;

GRANT SELECT(current_version_id) ON TABLE public.agents TO authenticated;

GRANT SELECT(created_at) ON TABLE public.agents TO authenticated;

GRANT SELECT(updated_at) ON TABLE public.agents TO authenticated;

REVOKE ALL ON FUNCTION private.agent_answer(p_agent public.agents) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.agent_of_run(p_agent_id uuid, p_version_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.agent_of_run(p_agent_id uuid, p_version_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.api_key_digest(p_hash text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.append_line(p_run_ids uuid[], p_log_type public.log_type, p_messages text[], p_metadata jsonb[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.await_events(p_events jsonb, p_run_ids uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.begin_credential_test() FROM PUBLIC;
GRANT ALL ON FUNCTION private.begin_credential_test() TO authenticated;

REVOKE ALL ON FUNCTION private.begin_flowise_call() FROM PUBLIC;
GRANT ALL ON FUNCTION private.begin_flowise_call() TO authenticated;

REVOKE ALL ON FUNCTION private.bring_up_due(p_now timestamp with time zone, p_limit integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.broadcast(p_event text, p_topics text[], p_payloads jsonb[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.check_run(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.check_run(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) TO service_role;

REVOKE ALL ON FUNCTION private.close_runs(p_run_ids uuid[], p_account_ids uuid[], p_rests bigint[], p_spent bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.control_run(p_run_id uuid, p_action text, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION private.control_run(p_run_id uuid, p_action text, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION private.create_agent(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.create_agent(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION private.create_api_key(p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION private.create_api_key(p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer) TO authenticated;

REVOKE ALL ON FUNCTION private.create_credential(p_credential jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.create_credential(p_credential jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION private.create_run(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.create_run(p_request jsonb, p_idempotency_key text) TO authenticated;

GRANT SELECT(id) ON TABLE public.credentials TO authenticated;
GRANT SELECT(id) ON TABLE public.credentials TO service_role;

GRANT SELECT(account_id) ON TABLE public.credentials TO authenticated;
GRANT SELECT(account_id) ON TABLE public.credentials TO service_role;

GRANT SELECT(user_id) ON TABLE public.credentials TO authenticated;
GRANT SELECT(user_id) ON TABLE public.credentials TO service_role;

GRANT SELECT(provider) ON TABLE public.credentials TO authenticated;
GRANT SELECT(provider) ON TABLE public.credentials TO service_role;

GRANT SELECT(name) ON TABLE public.credentials TO authenticated;
GRANT SELECT(name) ON TABLE public.credentials TO service_role;

GRANT SELECT(key_version) ON TABLE public.credentials TO authenticated;
GRANT SELECT(key_version) ON TABLE public.credentials TO service_role;

GRANT SELECT(last_four) ON TABLE public.credentials TO authenticated;
GRANT SELECT(last_four) ON TABLE public.credentials TO service_role;

GRANT SELECT(created_at) ON TABLE public.credentials TO authenticated;
GRANT SELECT(created_at) ON TABLE public.credentials TO service_role;

GRANT SELECT(updated_at) ON TABLE public.credentials TO authenticated;
GRANT SELECT(updated_at) ON TABLE public.credentials TO service_role;

GRANT SELECT(last_used_at) ON TABLE public.credentials TO authenticated;
GRANT SELECT(last_used_at) ON TABLE public.credentials TO service_role;

GRANT SELECT(last_tested_at) ON TABLE public.credentials TO authenticated;
GRANT SELECT(last_tested_at) ON TABLE public.credentials TO service_role;

GRANT SELECT(last_test) ON TABLE public.credentials TO authenticated;
GRANT SELECT(last_test) ON TABLE public.credentials TO service_role;

REVOKE ALL ON FUNCTION private.credential_answer(p_credential public.credentials) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.credential_by_ticket(p_credential_id uuid, p_tickets text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.credential_test(p_test jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.credentials_again(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION private.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION private.delete_credential(p_credential_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.delete_credential(p_credential_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb, p_delivery_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb, p_delivery_id text) TO anon;

REVOKE ALL ON FUNCTION private.draw_tag(p_slot_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.duration_ms(p_started_at timestamp with time zone, p_finished_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.duration_ms(p_started_at timestamp with time zone, p_finished_at timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION private.end_runs(p_run_ids uuid[], p_status public.run_status, p_errors jsonb[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.ensure_personal_account(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.exchange_api_key(p_hash text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.exchange_api_key(p_hash text) TO anon;

REVOKE ALL ON FUNCTION private.find_credits(p_moves private.advance_move[], OUT ids uuid[], OUT got bigint[], OUT short uuid[], OUT capped uuid[], OUT broke uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.find_runs(p_account_id uuid, p_statuses public.run_status[], p_engine text, p_agent_id uuid, p_created_after timestamp with time zone, p_created_before timestamp with time zone, p_text text, p_behind_at timestamp with time zone, p_behind_id uuid, p_limit integer, OUT run_ids uuid[], OUT next_at timestamp with time zone, OUT next_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.find_runs(p_account_id uuid, p_statuses public.run_status[], p_engine text, p_agent_id uuid, p_created_after timestamp with time zone, p_created_before timestamp with time zone, p_text text, p_behind_at timestamp with time zone, p_behind_id uuid, p_limit integer, OUT run_ids uuid[], OUT next_at timestamp with time zone, OUT next_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.flush_logs(p_run_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.flush_logs(p_run_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION private.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) TO authenticated;

REVOKE ALL ON FUNCTION private.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.give_places(p_slot_ids bigint[], p_unused bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION private.grant_credits(p_account_id uuid, p_amount bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION private.grant_credits(p_account_id uuid, p_amount bigint) TO service_role;

REVOKE ALL ON FUNCTION private.hand_on(p_slot_ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.has_room(p_slot private.slots) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.has_scope(p_scope text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.has_scope(p_scope text) TO authenticated;

REVOKE ALL ON FUNCTION private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION private.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) TO service_role;

REVOKE ALL ON FUNCTION private.is_agent_of(p_agent_id uuid, p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.is_taken_over(p_run_id uuid, p_step_no integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.json_problem(p_name text, p_value jsonb, p_max_bytes integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.key_owner() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.known_credential_test(p_fingerprint text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.known_credential_test(p_fingerprint text) TO authenticated;

REVOKE ALL ON FUNCTION private.lease_end(p_seconds double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.limits_of(p_run public.agent_runs) FROM PUBLIC;

GRANT SELECT ON TABLE public.api_keys TO authenticated;
GRANT SELECT ON TABLE public.api_keys TO service_role;

REVOKE ALL ON FUNCTION private.live_api_key(p_secret_id uuid, p_now timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.load_artifacts(p_run_id uuid, p_names text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.load_artifacts(p_run_id uuid, p_names text[]) TO service_role;

REVOKE ALL ON FUNCTION private.load_results(p_run_id uuid, p_step_nos jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.load_results(p_run_id uuid, p_step_nos jsonb) TO service_role;

REVOKE ALL ON FUNCTION private.lock_my_agent(p_agent_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.lock_my_api_key(p_api_key_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.lock_my_credential(p_credential_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.lock_my_run(p_run_id uuid, p_revision bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.log_messages(p_run_ids uuid[], p_from_seqs bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.lost_races(p_runs jsonb, p_won uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.made_slots_of(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.may_hear(p_topic text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.may_hear(p_topic text) TO authenticated;

REVOKE ALL ON FUNCTION private.may_use_agent(p_agent_id uuid, p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.move_runs(p_batch jsonb, p_won uuid[], p_wait boolean, p_now timestamp with time zone, p_expires timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.my_account_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_account_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.my_accounts_for_agent(p_agent_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_accounts_for_agent(p_agent_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.my_administered_agent_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_administered_agent_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.my_agent_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_agent_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.my_role(p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.my_scopes() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_scopes() TO authenticated;

REVOKE ALL ON FUNCTION private.my_working_account_ids() FROM PUBLIC;
GRANT ALL ON FUNCTION private.my_working_account_ids() TO authenticated;

REVOKE ALL ON FUNCTION private.on_account_created() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.on_user_created() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.open_credential(p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.open_credential(p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text) TO service_role;

REVOKE ALL ON FUNCTION private.open_credential_to_test(p_credential_id uuid, p_tickets text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION private.open_credential_to_test(p_credential_id uuid, p_tickets text[]) TO authenticated;

REVOKE ALL ON FUNCTION private.prefer_by_priority(p_run_ids uuid[], p_engines text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.prepare(p_request jsonb, p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.problems_of_agent(p_fields jsonb, p_account_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.problems_of_request(p_run public.agent_runs, p_version public.agent_versions) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.proof_of_event(p_run_id uuid, p_step_no integer, p_token_hash text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.publish_agent(p_agent_id uuid, p_seen timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.publish_agent(p_agent_id uuid, p_seen timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION private.publish_deltas(p_deltas jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.publish_deltas(p_deltas jsonb) TO service_role;

REVOKE ALL ON FUNCTION private.purge_old(p_now timestamp with time zone, p_limit integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.queue_run(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.read_agent(p_agent_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.read_agent(p_agent_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.read_run_request(p_request jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.realtime_takes() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.recall(p_account_id uuid, p_action text, p_key text, p_request jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.recheck_slots() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb) TO authenticated;

REVOKE ALL ON FUNCTION private.recorded_steps(p_run_id uuid, p_after integer, p_listed integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_frozen_version() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_move() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_problems(p_problems jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_retired_key(p_key_version integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_run() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_stale_agent(p_agent public.agents, p_seen timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_unneeded_keys(p_version public.agent_versions) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse_without_agent(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.remember(p_account_id uuid, p_action text, p_key text, p_response jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.remember_credential_test(p_fingerprint text, p_result jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.remember_credential_test(p_fingerprint text, p_result jsonb) TO authenticated;

REVOKE ALL ON FUNCTION private.rename_credential(p_credential_id uuid, p_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.rename_credential(p_credential_id uuid, p_name text) TO authenticated;

REVOKE ALL ON FUNCTION private.replace_credential(p_credential_id uuid, p_secret jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.replace_credential(p_credential_id uuid, p_secret jsonb) TO authenticated;

REVOKE ALL ON FUNCTION private.require_scope(p_scope text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.rerun_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.rerun_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) TO authenticated;

REVOKE ALL ON FUNCTION private.resolve_credentials(p_account_id uuid, p_version public.agent_versions, p_named jsonb, OUT credential_ids jsonb, OUT problems jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION private.retire_agent(p_agent_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.retire_agent(p_agent_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.retire_keys(p_key_version integer) FROM PUBLIC;
GRANT ALL ON FUNCTION private.retire_keys(p_key_version integer) TO service_role;

REVOKE ALL ON FUNCTION private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) TO authenticated;

REVOKE ALL ON FUNCTION private.revoke_agent(p_agent_id uuid, p_account_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.revoke_agent(p_agent_id uuid, p_account_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.revoke_api_key(p_api_key_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION private.revoke_api_key(p_api_key_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION private.rewrap_credentials(p_items jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION private.rewrap_credentials(p_items jsonb) TO service_role;

REVOKE ALL ON FUNCTION private.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer) FROM PUBLIC;
GRANT ALL ON FUNCTION private.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer) TO authenticated;

REVOKE ALL ON FUNCTION private.run_answer(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.run_view(p_run_ids uuid[], p_whole boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION private.run_view(p_run_ids uuid[], p_whole boolean) TO service_role;

REVOKE ALL ON FUNCTION private.sealed_answer(p_credential public.credentials) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.sealed_secret(p_secret jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.set_tier(p_account_id uuid, p_tier text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.set_tier(p_account_id uuid, p_tier text) TO service_role;

REVOKE ALL ON FUNCTION private.slots_of(p_run public.agent_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.start_run(p_run_id uuid, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION private.start_run(p_run_id uuid, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION private.sweep_runs(p_limit integer, p_now timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text) TO service_role;

REVOKE ALL ON FUNCTION private.take_event(p_run_id uuid, p_step_no integer, p_event_id text, p_payload jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_one(p_full_at timestamp with time zone, p_per_minute integer, p_now timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_places(p_run public.agent_runs, OUT slot_ids bigint[], OUT fair_tag bigint, OUT held_for bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_places_of(p_run public.agent_runs, p_slot_ids bigint[], OUT slot_ids bigint[], OUT fair_tag bigint, OUT held_for bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_rate(p_account_id uuid, p_action text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take_test(p_refusal text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.top_up(p_run_ids uuid[], p_account_ids uuid[], p_needs bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION private.vault_status() FROM PUBLIC;
GRANT ALL ON FUNCTION private.vault_status() TO service_role;

REVOKE ALL ON FUNCTION private.version_for_admins(p_version_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.version_to_run(p_run public.agent_runs, p_draft boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.write_records(p_batch jsonb, p_run_ids uuid[], p_account_ids uuid[], p_revisions bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.advance_runs(p_batch jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.advance_runs(p_batch jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.begin_credential_test() FROM PUBLIC;
GRANT ALL ON FUNCTION public.begin_credential_test() TO authenticated;

REVOKE ALL ON FUNCTION public.begin_flowise_call() FROM PUBLIC;
GRANT ALL ON FUNCTION public.begin_flowise_call() TO authenticated;

REVOKE ALL ON FUNCTION public.check_run(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.check_run(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.claim_runs(p_owner text, p_limit integer, p_lease_seconds double precision, p_engines text[]) TO service_role;

REVOKE ALL ON FUNCTION public.control_run(p_run_id uuid, p_action text, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.control_run(p_run_id uuid, p_action text, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION public.create_agent(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.create_agent(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.create_api_key(p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.create_api_key(p_hash text, p_last_four text, p_name text, p_scopes text[], p_days integer) TO authenticated;

REVOKE ALL ON FUNCTION public.create_credential(p_credential jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.create_credential(p_credential jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.create_run(p_request jsonb, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.create_run(p_request jsonb, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.credentials_to_rewrap(p_below integer, p_after uuid, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION public.delete_credential(p_credential_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.delete_credential(p_credential_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION public.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb, p_delivery_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.deliver_event(p_run_id uuid, p_step_no integer, p_token text, p_event_id text, p_payload jsonb, p_delivery_id text) TO anon;

REVOKE ALL ON FUNCTION public.exchange_api_key(p_hash text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.exchange_api_key(p_hash text) TO anon;

REVOKE ALL ON FUNCTION public.flush_logs(p_run_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.flush_logs(p_run_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION public.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.follow_run(p_run_id uuid, p_after bigint, p_limit integer, p_types public.log_type[], p_written jsonb, p_opening boolean) TO authenticated;

REVOKE ALL ON FUNCTION public.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION public.give_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text, p_expires_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION public.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION public.grant_agent(p_agent_id uuid, p_account_id uuid, p_expires_at timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION public.grant_credits(p_account_id uuid, p_amount bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.grant_credits(p_account_id uuid, p_amount bigint) TO service_role;

REVOKE ALL ON FUNCTION public.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION public.heartbeat_runs(p_leases jsonb, p_lease_seconds double precision) TO service_role;

REVOKE ALL ON FUNCTION public.known_credential_test(p_fingerprint text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.known_credential_test(p_fingerprint text) TO authenticated;

REVOKE ALL ON FUNCTION public.show_runs(p_run_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.show_runs(p_run_ids uuid[]) TO authenticated;

REVOKE ALL ON FUNCTION public.list_runs(p_account_id uuid, p_statuses public.run_status[], p_engine text, p_agent_id uuid, p_created_after timestamp with time zone, p_created_before timestamp with time zone, p_text text, p_behind_at timestamp with time zone, p_behind_id uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.list_runs(p_account_id uuid, p_statuses public.run_status[], p_engine text, p_agent_id uuid, p_created_after timestamp with time zone, p_created_before timestamp with time zone, p_text text, p_behind_at timestamp with time zone, p_behind_id uuid, p_limit integer) TO authenticated;

REVOKE ALL ON FUNCTION public.load_artifacts(p_run_id uuid, p_names text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.load_artifacts(p_run_id uuid, p_names text[]) TO service_role;

REVOKE ALL ON FUNCTION public.load_results(p_run_id uuid, p_step_nos jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.load_results(p_run_id uuid, p_step_nos jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.load_run(p_run_id uuid, p_whole boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.load_run(p_run_id uuid, p_whole boolean) TO service_role;

REVOKE ALL ON FUNCTION public.open_credential(p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.open_credential(p_run_id uuid, p_lease_id uuid, p_step_no integer, p_attempt integer, p_provider text) TO service_role;

REVOKE ALL ON FUNCTION public.open_credential_to_test(p_credential_id uuid, p_tickets text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.open_credential_to_test(p_credential_id uuid, p_tickets text[]) TO authenticated;

REVOKE ALL ON FUNCTION public.publish_agent(p_agent_id uuid, p_seen timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION public.publish_agent(p_agent_id uuid, p_seen timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION public.publish_deltas(p_deltas jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.publish_deltas(p_deltas jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.read_agent(p_agent_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.read_agent(p_agent_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION public.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.record_credential_test(p_credential_id uuid, p_tickets text[], p_test jsonb) TO authenticated;

REVOKE ALL ON FUNCTION public.remember_credential_test(p_fingerprint text, p_result jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.remember_credential_test(p_fingerprint text, p_result jsonb) TO authenticated;

REVOKE ALL ON FUNCTION public.rename_credential(p_credential_id uuid, p_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.rename_credential(p_credential_id uuid, p_name text) TO authenticated;

REVOKE ALL ON FUNCTION public.replace_credential(p_credential_id uuid, p_secret jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.replace_credential(p_credential_id uuid, p_secret jsonb) TO authenticated;

REVOKE ALL ON FUNCTION public.rerun_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.rerun_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) TO authenticated;

REVOKE ALL ON FUNCTION public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.respond_run(p_run_id uuid, p_response jsonb, p_request_id uuid, p_idempotency_key text) TO authenticated;

REVOKE ALL ON FUNCTION public.retire_agent(p_agent_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retire_agent(p_agent_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION public.retire_keys(p_key_version integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retire_keys(p_key_version integer) TO service_role;

REVOKE ALL ON FUNCTION public.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retry_run(p_run_id uuid, p_idempotency_key text, p_autostart boolean) TO authenticated;

REVOKE ALL ON FUNCTION public.revoke_agent(p_agent_id uuid, p_account_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.revoke_agent(p_agent_id uuid, p_account_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION public.revoke_api_key(p_api_key_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.revoke_api_key(p_api_key_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION public.rewrap_credentials(p_items jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.rewrap_credentials(p_items jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.rotate_api_key(p_api_key_id uuid, p_hash text, p_last_four text, p_overlap_hours integer) TO authenticated;

REVOKE ALL ON FUNCTION public.set_tier(p_account_id uuid, p_tier text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.set_tier(p_account_id uuid, p_tier text) TO service_role;

REVOKE ALL ON FUNCTION public.start_run(p_run_id uuid, p_revision bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.start_run(p_run_id uuid, p_revision bigint) TO authenticated;

REVOKE ALL ON FUNCTION public.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.take_agent_access(p_agent_id uuid, p_account_id uuid, p_kind text) TO service_role;

REVOKE ALL ON FUNCTION public.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION public.update_agent(p_agent_id uuid, p_changes jsonb, p_seen timestamp with time zone) TO authenticated;

REVOKE ALL ON FUNCTION public.vault_status() FROM PUBLIC;
GRANT ALL ON FUNCTION public.vault_status() TO service_role;

GRANT SELECT ON TABLE public.account_members TO authenticated;
GRANT SELECT ON TABLE public.account_members TO service_role;

GRANT SELECT ON TABLE public.accounts TO authenticated;
GRANT SELECT ON TABLE public.accounts TO service_role;

GRANT SELECT ON TABLE public.agent_access TO authenticated;
GRANT SELECT ON TABLE public.agent_access TO service_role;

GRANT SELECT ON TABLE public.agent_artifacts TO authenticated;
GRANT SELECT ON TABLE public.agent_artifacts TO service_role;

GRANT SELECT ON TABLE public.agent_catalog TO authenticated;

GRANT SELECT ON TABLE public.agent_messages TO authenticated;
GRANT SELECT ON TABLE public.agent_messages TO service_role;

GRANT SELECT ON TABLE public.agent_plans TO authenticated;
GRANT SELECT ON TABLE public.agent_plans TO service_role;

GRANT SELECT ON TABLE public.agent_steps TO authenticated;
GRANT SELECT ON TABLE public.agent_steps TO service_role;

GRANT SELECT ON TABLE public.agent_task_logs TO authenticated;
GRANT SELECT ON TABLE public.agent_task_logs TO service_role;

GRANT SELECT ON TABLE public.credential_access_log TO authenticated;
GRANT SELECT ON TABLE public.credential_access_log TO service_role;

GRANT SELECT ON TABLE public.credit_accounts TO authenticated;
GRANT SELECT ON TABLE public.credit_accounts TO service_role;

GRANT SELECT ON TABLE public.credit_ledger TO authenticated;
GRANT SELECT ON TABLE public.credit_ledger TO service_role;

GRANT SELECT ON TABLE public.execution_logs TO authenticated;

GRANT SELECT ON TABLE public.human_requests TO authenticated;
GRANT SELECT ON TABLE public.human_requests TO service_role;
