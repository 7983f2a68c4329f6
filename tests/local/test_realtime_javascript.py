"""`/realtime/v1` through supabase-js, in both versions of the protocol."""

from __future__ import annotations

import pytest

from tests.local.realtime import NOTES, administrator
from tests.support.node import run_script
from tests.support.stack import Stack


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_a_runs_owner_gets_every_line_once_and_in_order_and_a_stranger_none(stack: Stack, version: str) -> None:
    seen = await run_script("realtime.mjs", stack, REALTIME_VSN=version)

    assert len(seen["stored"]) >= 4
    assert seen["rows"] == seen["stored"]
    assert seen["lines"] == seen["stored"]
    assert seen["ownersJoin"]["status"] == "SUBSCRIBED"
    assert seen["strangersJoin"]["status"] == "CHANNEL_ERROR"
    assert "Unauthorized" in seen["strangersJoin"]["error"]
    assert seen["strangersRows"] == []
    assert seen["acknowledged"] == "ok"
    words = [["words", "h\u00e9"], ["post", "over HTTP"]]
    assert seen["heard"] == words + ([["bytes", [0, 1, 255]]] if version == "2.0.0" else [])


async def test_filters_waits_replays_refusals_and_presence_are_what_the_client_makes_of_them(stack: Stack) -> None:
    async with administrator(stack) as connection:
        await connection.execute(NOTES)
        await connection.execute("grant insert, delete on public.notes to authenticated")
        await connection.execute('create policy "Owners write" on notes for insert to authenticated with check (true)')
        await connection.execute('create policy "Owners delete" on notes for delete to authenticated using (true)')
        await connection.execute("""
            create function public.store() returns trigger language plpgsql security definer as $$
            begin
              perform realtime.send(jsonb_build_object('n', old.id), 'stored', 'user:' || old.owner, true);
              perform realtime.send(jsonb_build_object('n', old.id + 1), 'stored', 'user:' || old.owner, true);
              return null;
            end $$;
            create trigger store after delete on public.notes for each row execute function public.store();
            revoke execute on function public.store() from public;
            alter publication supabase_realtime set table public.notes;
        """)
    seen = await run_script("realtime_channels.mjs", stack)

    assert seen["waited"] == {"status": "SUBSCRIBED"}
    assert seen["refused"]["status"] == "CHANNEL_ERROR"
    assert "RealtimeDisabledForConfiguration" in seen["refused"]["error"]
    assert seen["rows"]["exact"] == ['a, "b"']
    assert seen["rows"]["pattern"] == [["INSERT", 'a, "b"'], ["INSERT", "Bee"]]
    assert seen["rows"]["everything"] == [
        ["INSERT", "notes", 'a, "b"'], ["INSERT", "notes", "Bee"], ["INSERT", "notes", "zebra"], ["DELETE", "notes", 3],
    ]  # fmt: skip
    assert seen["acknowledged"] == "ok"
    assert "Unauthorized: You do not have permissions to read" in seen["stranger"]["error"]
    assert seen["replayed"] == [[3, True], [4, True]]
    assert (seen["tracked"], seen["state"]) == ("ok", ["other"])
    assert seen["seen"] == [["join", "other", "Ada"], ["leave", "other", "Ada"]]
