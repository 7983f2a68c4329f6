"""The direct wire by itself: what a call gives back, whatever happens to the call, its connection or its server."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from psycopg import AsyncConnection, sql

from shared import direct_database
from shared.direct_connection import DirectConnection
from shared.direct_database import DirectDatabase
from shared.errors import AppError, DatabaseUnavailable
from shared.runs.models import Json
from tests.support.runs import until

RUNBASE = "application_name = 'runbase'"
BUSY = f"{RUNBASE} and state = 'active'"

pytestmark = pytest.mark.asyncio

FUNCTIONS = """
    create function public.echo(p_value jsonb) returns jsonb language sql as 'select p_value';
    create function public.kinds(p_text text, p_number integer, p_ratio double precision, p_flag boolean, p_ids uuid[],
        p_list jsonb, p_none text)
      returns jsonb language sql as
      'select jsonb_build_array(p_text, p_number, p_ratio, p_flag, p_ids, p_list, p_none is null)';
    create function public.count_to(p_last integer) returns integer language sql as 'select p_last';
    create function public.nothing() returns void language sql as '';
    create function public.who() returns jsonb language sql as 'select to_jsonb(pg_backend_pid())';
    create function public.sleep(p_seconds double precision) returns jsonb language plpgsql as
      'begin perform pg_sleep(p_seconds); return to_jsonb(p_seconds); end';
    create function public.chatter(p_lines integer) returns jsonb language plpgsql as
      'begin for i in 1 .. p_lines loop raise notice ''%'', repeat(''x'', 1000); end loop; return p_lines; end';
    create function public.refuse(p_code text) returns jsonb language plpgsql as
      'begin raise exception ''no'' using errcode = p_code, detail = ''why'', hint = ''how''; end';
    create function public.end_me() returns jsonb language sql security definer
      as 'select to_jsonb(pg_terminate_backend(pg_backend_pid()))';
    grant execute on all functions in schema public to service_role;
"""


@pytest.fixture
async def functions_url(database_url: str) -> str:
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(sql.SQL(FUNCTIONS))  # pyright: ignore[reportArgumentType]
    return database_url


@asynccontextmanager
async def opened(url: str, *, connections: int = 6) -> AsyncGenerator[DirectDatabase]:
    async with DirectDatabase(url, connections=connections) as database:
        yield database


async def pids(url: str, where: str = RUNBASE) -> list[int]:
    """The server's processes for this database."""
    statement = f"select pid from pg_stat_activity where datname = current_database() and {where}"
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        rows = await (await connection.execute(sql.SQL(statement))).fetchall()  # pyright: ignore[reportArgumentType]
    return [pid for (pid,) in rows]


async def end(url: str, *ended: int) -> None:
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        for pid in ended:
            await connection.execute("select pg_terminate_backend(%s, 5000)", [pid])


async def test_values_of_every_kind_go_there_and_come_back(functions_url: str) -> None:
    ids: list[Json] = ["5c1ba6a2-6a3c-4a2e-9f4e-0a2d8d3f8d11"]
    async with opened(functions_url) as database:
        assert await database.call("echo", {"p_value": {"a": [1, None, "é"]}}) == {"a": [1, None, "é"]}
        assert await database.call(
            "kinds",
            {
                "p_text": "it's",
                "p_number": 2**31 - 1,
                "p_ratio": 0.5,
                "p_flag": True,
                "p_ids": ids,
                "p_list": [{"n": 1}],
                "p_none": None,
            },
        ) == ["it's", 2**31 - 1, 0.5, True, ids, [{"n": 1}], True]
        assert await database.call("count_to", {"p_last": 3}) == 3
        assert await database.call("nothing", {}) in (None, "")


async def test_calls_one_after_the_other_use_the_same_connection(functions_url: str) -> None:
    """Its plans are made: on another one the first call of each function takes several times as long."""
    async with opened(functions_url) as database:
        await asyncio.gather(*(database.call("sleep", {"p_seconds": 0.05}) for _ in range(3)))
        used = {str(await database.call("who", {})) for _ in range(10)}
    assert len(used) == 1


async def test_more_calls_than_connections_wait_for_their_turn(functions_url: str) -> None:
    async with opened(functions_url, connections=2) as database:
        for _ in range(2):  # the second time the connections are there already
            answers = await asyncio.gather(*(database.call("sleep", {"p_seconds": n / 1000}) for n in range(20)))
            assert answers == [n / 1000 for n in range(20)]


async def test_a_call_larger_than_the_sockets_buffers_arrives_whole(functions_url: str) -> None:
    large: Json = {"text": "x" * 20_000_000}
    async with opened(functions_url) as database:
        assert await database.call("echo", {"p_value": large}) == large
        assert await database.call("echo", {"p_value": {"small": True}}) == {"small": True}


async def test_a_server_that_says_much_meanwhile_is_heard_out(functions_url: str) -> None:
    async with opened(functions_url) as database:
        assert await database.call("chatter", {"p_lines": 5_000}) == 5_000
        assert await database.call("count_to", {"p_last": 1}) == 1


async def test_a_refusal_leaves_the_connection_to_the_next_call(functions_url: str) -> None:
    async with opened(functions_url) as database:
        before = await database.call("who", {})
        with pytest.raises(AppError, match="no") as refused:
            await database.call("refuse", {"p_code": "RUN07"})
        assert (refused.value.code, refused.value.details, refused.value.hint) == ("invalid_input", "why", "how")
        assert await database.call("who", {}) == before


async def test_what_no_json_can_hold_is_an_error_of_ours_and_costs_no_connection(functions_url: str) -> None:
    async with opened(functions_url) as database:
        before = await database.call("who", {})
        for value in ({"half": "\ud800"}, {"long": 2**70}, {"at": object()}):
            with pytest.raises(AppError, match="no JSON"):
                await database.call("echo", {"p_value": value})  # pyright: ignore[reportArgumentType]
        with pytest.raises(AppError, match="cannot be sent"):
            await database.call("kinds", {"p_text": "nul \0"})
        assert await database.call("who", {}) == before


async def test_an_answer_that_comes_while_the_call_is_still_being_written_is_taken(functions_url: str) -> None:
    """Then it is read by what writes, and the socket has nothing more to tell."""
    async with await AsyncConnection.connect(functions_url, autocommit=True) as given:
        connection = DirectConnection(given, call_seconds=20)
        calling = asyncio.create_task(connection.call(b"select public.count_to($1::integer)", [7]))
        await asyncio.sleep(0)
        asyncio.get_running_loop().remove_reader(given.fileno())
        await asyncio.to_thread(select.select, [given.fileno()], [], [])
        connection._writable()

        assert await asyncio.wait_for(calling, 5) == 7
        connection.release()


async def test_the_answer_to_a_call_that_was_given_up_is_not_taken_for_the_next_ones(functions_url: str) -> None:
    async with opened(functions_url, connections=1) as database:
        given_up = asyncio.create_task(database.call("sleep", {"p_seconds": 0.5}))
        await until(lambda: pids(functions_url, BUSY))
        given_up.cancel()
        assert await database.call("count_to", {"p_last": 7}) == 7
        with pytest.raises(asyncio.CancelledError):
            await given_up


async def test_a_call_that_was_given_up_ends_in_the_server_too(functions_url: str) -> None:
    """It would go on holding its locks, and a process beside those that the worker may have."""
    async with opened(functions_url) as database:
        calls = [asyncio.create_task(database.call("sleep", {"p_seconds": 600})) for _ in range(3)]
        await until(lambda: are(3, functions_url, BUSY))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

        await until(lambda: are(0, functions_url, BUSY))
        assert await asyncio.gather(*(database.call("count_to", {"p_last": n}) for n in range(6))) == list(range(6))


async def test_a_call_that_takes_too_long_is_given_up_and_the_next_is_answered(
    functions_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_database, "CALL_SECONDS", 1.5)
    async with opened(functions_url, connections=1) as database:
        for _ in range(3):  # each sets back the time of the one timer
            assert await database.call("sleep", {"p_seconds": 0.6}) == 0.6
        with pytest.raises(DatabaseUnavailable, match="took longer") as late:
            await database.call("sleep", {"p_seconds": 600})
        assert late.value.details == "timeout"
        assert await database.call("count_to", {"p_last": 7}) == 7


async def test_a_connection_that_ends_in_the_middle_of_a_call_is_said_and_replaced(functions_url: str) -> None:
    async with opened(functions_url) as database:
        sleeping = asyncio.create_task(database.call("sleep", {"p_seconds": 30}))
        await until(lambda: pids(functions_url, BUSY))
        await end(functions_url, *await pids(functions_url, BUSY))
        with pytest.raises(DatabaseUnavailable) as lost:
            await sleeping
        assert lost.value.details == "57P01"
        with pytest.raises(DatabaseUnavailable):
            await database.call("end_me", {})
        assert await database.call("count_to", {"p_last": 7}) == 7


async def test_connections_that_ended_while_nobody_called_are_never_used(functions_url: str) -> None:
    """As after a restart of the server: nobody's call is lost to find it out, wherever the connection lay."""
    async with opened(functions_url) as database:
        for _ in range(2):  # the second time some of them are new ones, which nobody has used
            await asyncio.gather(*(database.call("sleep", {"p_seconds": 0.05}) for _ in range(3)))
            await end(functions_url, *await pids(functions_url))
            assert await asyncio.gather(*(database.call("count_to", {"p_last": n}) for n in range(5))) == list(range(5))


async def test_connections_that_nobody_needs_any_more_go_back(
    functions_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(functions_url) as database:
        await asyncio.gather(*(database.call("sleep", {"p_seconds": 0.05}) for _ in range(4)))
        before = len(database._free)
        monkeypatch.setattr(direct_database, "IDLE_SECONDS", 0.0)
        for _ in range(before):
            await database.call("count_to", {"p_last": 1})

        assert len(database._free) == 1


async def test_after_its_time_a_connection_makes_room_for_a_new_one(
    functions_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(functions_url) as database:
        old = await database.call("who", {})
        assert await database.call("who", {}) == old
        monkeypatch.setattr(direct_database, "KEPT_SECONDS", 0.0)
        assert await database.call("who", {}) == old  # its last call
        assert await database.call("who", {}) != old


async def test_closing_ends_every_connection(functions_url: str) -> None:
    async with opened(functions_url) as database:
        await asyncio.gather(*(database.call("sleep", {"p_seconds": 0.05}) for _ in range(3)))
    await until(lambda: are(0, functions_url))
    with pytest.raises(DatabaseUnavailable):
        await database.call("count_to", {"p_last": 1})


async def are(count: int, url: str, where: str = RUNBASE) -> bool:
    return len(await pids(url, where)) == count
