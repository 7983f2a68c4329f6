"""Faults that the database itself raises, at every write of the run core, by a seeded chance."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.runs import connect

# Of two codes the backend does the real thing: it is terminated, or its statement is cancelled.
_FAULTS = """
create table private.faults (codes text[] not null, chance double precision not null, seed bigint not null);
create sequence private.fault_passes;
create function private.fault() returns trigger language plpgsql security definer set search_path = '' as $$
declare
  v_faults private.faults;
  v_drawn bigint;
  v_code text;
begin
  select * into v_faults from private.faults;
  if not found then
    return null;
  end if;
  v_drawn := hashint8extended(nextval('private.fault_passes'), v_faults.seed) & 1048575;
  if v_drawn >= v_faults.chance * 1048576 then
    return null;
  end if;
  v_code := v_faults.codes[1 + v_drawn % cardinality(v_faults.codes)];
  if v_code = '57P01' then
    perform pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
  elsif v_code = '57014' then
    perform pg_cancel_backend(pg_backend_pid()), pg_sleep(10);
  end if;
  raise exception 'a fault' using errcode = v_code;
end $$;
create trigger fault after insert or update on public.agent_runs for each statement execute function private.fault();
create trigger fault after insert or update on public.agent_steps for each statement execute function private.fault();
create trigger fault after insert on public.agent_task_logs for each statement execute function private.fault();
create trigger fault after insert on public.credit_ledger for each statement execute function private.fault();
"""

RETRYABLE = (
    "08006", "25006", "25P04", "40001", "40003", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P03",
    "58030",
)  # fmt: skip


class Faults:
    """The faults of one database. Nothing is raised until `arm`."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def install(self) -> None:
        async with connect(self._url) as connection:
            await connection.execute(_FAULTS)

    async def arm(self, codes: Sequence[str], *, chance: float = 1.0, seed: int = 0) -> None:
        async with connect(self._url) as connection:
            await connection.execute("insert into private.faults values (%s, %s, %s)", [list(codes), chance, seed])

    async def disarm(self) -> None:
        async with connect(self._url) as connection:
            await connection.execute("delete from private.faults")

    async def passes(self) -> int:
        """How many writes came by while armed, whatever became of them."""
        async with connect(self._url) as connection:
            row = await (
                await connection.execute(
                    "select case when is_called then last_value else 0 end from private.fault_passes"
                )
            ).fetchone()
        assert row is not None
        return int(row[0])
