"""The migrations on the PostgreSQL that hosted Supabase runs, which is older than the embedded one.

Tests marked `older_postgres` try there what the core promises; here every function is at least read by it.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

# What plpgsql_check cannot know: the columns of a trigger's row, where several tables have it, and of what a statement
# that is put together returns; and what a function refuses before it begins.
_UNKNOWABLE = {"42703", "55000", "RUN06"}
_PROBLEMS = """
select p.oid::regprocedure::text, (f.found).lineno, (f.found).message, (f.found).sqlstate
from pg_proc p
left join lateral (select t.tgrelid from pg_trigger t where t.tgfoid = p.oid limit 1) of_trigger on true
cross join lateral (
  select plpgsql_check_function_tb(p.oid, coalesce(of_trigger.tgrelid, 0), fatal_errors => false,
    other_warnings => false, extra_warnings => false) as found
) f
where p.prolang = (select oid from pg_language where lanname = 'plpgsql')
  and p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
  and (p.prorettype <> 'trigger'::regtype or of_trigger.tgrelid is not null)
"""


@pytest.mark.older_postgres(only=True)
def test_every_function_finds_whatever_it_calls(database_url: Any) -> None:
    """A function's statements are read when it is called: what its PostgreSQL does not know would fail only then."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        known = "select from pg_available_extensions where name = 'plpgsql_check'"
        if not connection.execute(known).fetchall():
            pytest.skip("the extension plpgsql_check is not installed")
        connection.execute("create extension plpgsql_check")
        problems = connection.execute(_PROBLEMS).fetchall()

    assert [problem for problem in problems if problem[3] not in _UNKNOWABLE] == []
