"""Realtime when its database restarts, cuts the stream or is slow to show what it has committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from realtime import RealtimeSubscribeStates

from local.config import StackConfig
from local.server import running_stack
from tests.local.realtime import NOTES, administrator, listen, stack_with_notes, until, watch, write_notes
from tests.support.stack import Stack, stack_over


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


async def write_until(stack: Stack, owner: str, enough: asyncio.Event) -> list[str]:
    """Write notes whose commits wait for a standby as soon as the server has heard that there is one."""
    written: list[str] = []
    async with administrator(stack) as connection:
        await connection.execute("set synchronous_commit = on")
        while not enough.is_set():
            written.append(f"note {len(written)}")
            await connection.execute("insert into notes (owner, body) values (%s, %s)", [owner, written[-1]])
    return written


async def seen_in_activity(connection: psycopg.AsyncConnection[Any], condition: str) -> None:
    """Return when a session does what the condition says."""
    async with asyncio.timeout(15):
        query = f"select from pg_stat_activity where pid <> pg_backend_pid() and {condition}"
        while not (await connection.execute(query.encode())).rowcount:
            continue


def slots(database_url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        return connection.execute("select slot_name, temporary from pg_replication_slots").fetchall()


@pytest.mark.parametrize("immediate", [False, True])
async def test_channels_are_told_of_a_restart_of_the_database_and_go_on_after_it(
    tmp_path: Path, *, immediate: bool
) -> None:
    config = StackConfig(port=0, db_port=0, data_dir=tmp_path, ephemeral=True)
    async with running_stack(config) as running:
        stack = Stack(running.config, running.database_url)
        async with administrator(stack) as connection:
            await connection.execute(NOTES)
        owner = await stack.sign_up()
        channel, heard = await watch(owner.client)
        _, topic = await listen(owner.client, f"user:{owner.user_id}")
        await write_notes(stack, owner.user_id, "before")
        await until(lambda: heard.bodies == ["before"])
        heard.systems.clear()
        topic.systems.clear()

        await asyncio.to_thread(running.postgres.restart, immediate=immediate)
        await until(lambda: heard.subscribed and channel.is_joined)
        await until(lambda: ("ok", "Replication connection established") in topic.systems)
        await write_notes(stack, owner.user_id, "after")
        async with administrator(stack) as connection:
            await connection.execute("select realtime.send('{}', 'after', %s, true)", [f"user:{owner.user_id}"])
        await until(lambda: len(heard.bodies) == 2 and topic.broadcasts)

        assert heard.bodies == ["before", "after"]
        assert RealtimeSubscribeStates.CHANNEL_ERROR in [state for state, _ in heard.states]
        assert [message["event"] for message in topic.broadcasts] == ["after"]
        assert len(slots(running.database_url)) == 1
        await stack.close()


async def test_a_row_that_reaches_the_log_before_it_is_visible_is_waited_for(tmp_path: Path) -> None:
    """A commit that waits for a standby is in the log already, and hidden from everybody until the wait ends."""
    config = StackConfig(port=0, db_port=0, data_dir=tmp_path, ephemeral=True)
    async with running_stack(config) as running:
        stack = Stack(running.config, running.database_url)
        async with administrator(stack) as connection:
            await connection.execute(NOTES)
            owner = await stack.sign_up()
            _, heard = await watch(owner.client)
            await connection.execute("alter system set synchronous_standby_names = 'nobody'")
            await connection.execute("select pg_reload_conf()")
            enough = asyncio.Event()
            commits = asyncio.create_task(write_until(stack, owner.user_id, enough))
            waits = "wait_event = 'SyncRep' and state_change < clock_timestamp() - interval '100 ms'"
            await seen_in_activity(connection, waits)
            enough.set()
            # Realtime has the row now, and asks again and again whether its transaction is over.
            looks = "query ~ 'pg_current_snapshot' and query_start > clock_timestamp() - interval '10 ms'"
            await seen_in_activity(connection, f"{looks} and exists (select from pg_stat_activity where {waits})")
            await connection.execute("set synchronous_commit = local")
            await connection.execute("insert into notes (owner, body) values (%s, 'last')", [owner.user_id])
            await connection.execute("alter system reset synchronous_standby_names")
            await connection.execute("select pg_reload_conf()")
            written = await commits
        await until(lambda: "last" in heard.bodies)
        await stack.close()

    assert heard.bodies == [*written, "last"]


async def test_a_cut_replication_connection_is_made_anew_with_a_new_slot(stack: Stack) -> None:
    owner = await stack.sign_up()
    channel, heard = await watch(owner.client)
    before = slots(stack.database_url)
    heard.systems.clear()

    async with administrator(stack) as connection:
        await connection.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()"
        )
    await until(lambda: heard.subscribed and channel.is_joined)
    await write_notes(stack, owner.user_id, "after")
    await until(lambda: heard.changes)

    assert heard.bodies == ["after"]
    assert len(before) == len(slots(stack.database_url)) == 1
    assert before != slots(stack.database_url)


async def test_no_slot_is_left_when_the_stack_has_stopped(database_url: str) -> None:
    async with stack_over(database_url) as running:
        await listen(await running.client(), "room", private=False)
        during = slots(database_url)

    assert [temporary for _, temporary in during] == [True]
    assert slots(database_url) == []
