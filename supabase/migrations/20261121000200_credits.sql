-- Credits: bigint micro-credits (1 credit = 1,000,000). A run takes a hold from its account at start, steps settle
-- against the hold in the run row, and the rest goes back at the end, so that steps never touch the account's row.
-- Tables: public.credit_accounts, public.credit_ledger, private.settings. Nothing destructive.

create table private.settings (
  only_row boolean primary key default true check (only_row),
  sign_up_credits bigint not null default 100000000 check (sign_up_credits >= 0),  -- 100 credits
  hold_credits bigint not null default 1000000 check (hold_credits > 0)            -- 1 credit, a run's first hold
);
comment on table private.settings is 'One row of settings that SQL needs; operators change it with update.';
insert into private.settings default values;
alter table private.settings enable row level security;

create table public.credit_accounts (
  account_id uuid primary key references public.accounts (id),
  available bigint not null default 0 check (available >= 0),
  held bigint not null default 0 check (held >= 0),
  spent bigint not null default 0 check (spent >= 0),
  updated_at timestamptz not null default private.clock()
);
comment on table public.credit_accounts is 'An account''s micro-credits. held covers what its unended runs hold or have spent.';

create type public.transfer_kind as enum ('grant', 'hold', 'price', 'settle', 'release');
create type public.credit_place as enum ('issued', 'available', 'held', 'spent');

create table public.credit_ledger (
  id bigint generated always as identity,
  account_id uuid not null,
  run_id uuid,
  step_no integer,
  attempt integer,
  kind public.transfer_kind not null,
  debit public.credit_place not null,
  credit public.credit_place not null,
  amount bigint not null,
  created_at timestamptz not null default private.clock(),
  primary key (account_id, id),
  constraint credit_ledger_transfers check (amount > 0 and debit <> 'spent' and credit <> 'issued')
);
comment on table public.credit_ledger is
  'One transfer a row: amount leaves debit and enters credit. No foreign keys: it is written with every step and outlives all.';
-- A cost is booked once. Rows without a step are not limited by it: nulls are distinct.
create unique index credit_ledger_booked_once on public.credit_ledger (run_id, step_no, attempt, kind);

alter table public.credit_accounts enable row level security;
revoke all on public.credit_accounts from anon, authenticated, service_role;
grant select on public.credit_accounts to authenticated, service_role;
create policy "Members read their credits" on public.credit_accounts
  for select to authenticated using (account_id in (select private.my_account_ids()));

alter table public.credit_ledger enable row level security;
revoke all on public.credit_ledger from anon, authenticated, service_role;
grant select on public.credit_ledger to authenticated, service_role;
create policy "Members read their ledger" on public.credit_ledger
  for select to authenticated using (account_id in (select private.my_account_ids()));

create function private.grant_credits(p_account_id uuid, p_amount bigint)
  returns bigint language plpgsql security definer set search_path = '' as $$
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
grant execute on function private.grant_credits(uuid, bigint) to service_role;

-- Adds micro-credits to an account and returns what is available then. Operators only.
create function public.grant_credits(p_account_id uuid, p_amount bigint)
  returns bigint language sql security invoker set search_path = ''
  begin atomic select private.grant_credits(p_account_id, p_amount); end;
revoke execute on function public.grant_credits(uuid, bigint) from public;
grant execute on function public.grant_credits(uuid, bigint) to service_role;

-- New accounts start with the sign-up credits.
create function private.on_account_created()
  returns trigger language plpgsql security definer set search_path = '' as $$
declare
  v_amount bigint := (select sign_up_credits from private.settings);
begin
  insert into public.credit_accounts (account_id) values (new.id);
  if v_amount > 0 then
    perform private.grant_credits(new.id, v_amount);
  end if;
  return new;
end $$;
create trigger open_credit_account after insert on public.accounts
  for each row execute function private.on_account_created();
