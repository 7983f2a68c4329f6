"""The other measurements: arithmetic, budgets, and that each does its work once. No timing is judged."""

from __future__ import annotations

import argparse
import asyncio
import copy
import io
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from rich.console import Console

from bench import claim, distance, growth, latency, memory, plot, starts, storage, subscribers, vault
from bench.__main__ import main
from bench.far import far
from bench.full_queue import PLACES, assert_places, fill, queue_more
from bench.results import Results, all_measured, read, write
from bench.spread import Limit, sentences, spread
from bench.tables import wal_position, wal_since
from bench.viewers import Lateness
from tests.bench.sample import SAMPLE
from tests.support.database import TestServer

RUN_COLUMNS = (
    "engine, status, resumes_as, revision, credits_held, credits_reserved, credits_spent, log_seq, broadcast_seq,"
    " priority, held_for, fair_tag, cardinality(slot_ids), lease_id, attempt, step_count, available_at < now(),"
    " started_at < now(), deadline_at - started_at"
)


def changed(name: str, **fields: Any) -> dict[str, Any]:
    """A sample's figures with some of them different."""
    return {**copy.deepcopy(SAMPLE["measurements"][name]), **fields}


def test_percentiles_are_of_all_values() -> None:
    found = spread([float(value) for value in range(101)])

    assert found == {"count": 101, "p50": 50, "p95": 95, "max": 100}


def test_one_value_is_a_spread_too() -> None:
    assert spread([7.0]) == {"count": 1, "p50": 7, "p95": 7, "max": 7}


def test_a_limit_that_was_not_measured_is_not_kept() -> None:
    limits = [
        Limit("speed", 12, 10, "km/h"),
        Limit("height", None, 3, "m"),
        Limit("share", 0.9, 0.95, least=True),
        Limit("weight", 10, 10, "kg"),
    ]

    assert sentences(limits) == [
        "speed: at most 10 km/h, found 12",
        "height: at most 3 m, not measured",
        "share: at least 0.95, found 0.9",
    ]


MODULES = {
    one.__name__.removeprefix("bench."): one for one in (latency, claim, storage, distance, memory, growth, vault)
} | {"realtime": subscribers, "start": starts}


@pytest.mark.parametrize("name", MODULES)
def test_budgets_that_are_kept_are_not_mentioned(name: str) -> None:
    assert MODULES[name].missed(SAMPLE["measurements"][name]) == []


@pytest.mark.parametrize("name", MODULES)
def test_figures_that_came_back_from_json_are_shown(name: str) -> None:
    output = io.StringIO()

    MODULES[name].show(json.loads(json.dumps(SAMPLE["measurements"][name])), Console(file=output, width=125))

    assert "PostgreSQL 18" in output.getvalue()


def test_a_slow_start_a_slow_import_and_a_model_sdk_are_missed_budgets() -> None:
    figures = changed("latency", repeated=3)
    figures["ms"][latency.START]["p50"] = 26.0
    del figures["ms"][latency.SSE]
    figures["imports"] = {
        "agent_logs": {"ms": 450.0, "sdks": ["openai"]},
        "queue_drain": {"ms": 100.0, "sdks": ["openai"]},
    }

    assert latency.missed(figures) == [
        "queued -> first step running, p50: at most 25 ms, found 26",
        "log line -> SSE event, p95: at most 300 ms, not measured",
        "log lines that came again: at most 0, found 3",
        "import of agent_logs: at most 400 ms, found 450",
        "model SDKs that agent_logs imports: at most 0, found 1",
    ]


def test_a_line_that_comes_again_is_counted_and_as_late_as_it_first_was() -> None:
    late = Lateness()
    for seq in (1, 2, 2):
        late.heard(late.realtime, {"seq": seq, "log_type": "info", "created_at": "2026-01-01T00:00:00+00:00"})
    late.heard(late.realtime, {"seq": 3, "log_type": "state_transition"})

    assert list(late.realtime) == [1, 2]
    assert late.repeated == 1


def test_a_claim_that_grows_with_the_queue_is_a_missed_budget() -> None:
    figures = changed("claim", place=3)
    figures["rows"][-1]["claim"]["p50"] = 2.5 * figures["rows"][1]["claim"]["p50"]

    assert claim.missed(figures) == [
        "the newcomer's place behind 100,000 runs: at most 2, found 3",
        "claim of 10 at 1,000,000 queued of 1,000 accounts, times that at 1,000: at most 2, found 2.5",
    ]


def test_updates_that_are_not_hot_are_a_missed_budget() -> None:
    figures = changed("storage")
    figures["rows"][0]["hot"]["agent_runs"] = 0.5
    figures["rows"][2]["wal"]["records"] = 3000.0

    assert storage.missed(figures) == [
        "WAL a step each step broadcast: at most 2150 bytes, found 3000",
        "HOT updates of agent_runs without broadcast: at least 0.95, found 0.5",
    ]


def test_a_second_call_a_step_is_a_missed_budget() -> None:
    figures = changed("distance")
    figures["rows"][0]["advances"] = 2.0

    assert distance.missed(figures) == ["calls to advance a step, 0 ms away, 1 at a time: at most 1.02, found 2"]


def test_a_worker_that_holds_what_waits_is_a_missed_budget() -> None:
    figures = changed("memory")
    figures["rows"][0].update(leases=1.0, worker_kb=8.0)

    assert memory.missed(figures) == [
        "leases of a run waiting for a person: at most 0, found 1",
        "the worker's memory for a run waiting for a person: at most 1 KB, found 8",
    ]


def test_late_rows_and_heavy_sockets_are_missed_budgets() -> None:
    assert subscribers.missed(changed("realtime", ms=spread([150.0]), idle_mb=400.0)) == [
        "row -> subscriber, p95: at most 100 ms, found 150",
        "the gateway with idle sockets: at most 300 MB, found 400",
    ]


def test_steps_that_get_slower_as_a_run_grows_are_a_missed_budget() -> None:
    figures = changed("growth")
    figures["rows"][-1].update(microseconds=1000.0, claim_bytes=1_000_000)

    assert growth.missed(figures) == [
        "time a step at 10,000 steps a run, times that at 100: at most 1.5, found 5",
        "bytes of a claim in the middle at 10,000 steps a run, times that at 100: at most 1.5, found 100",
    ]


def test_a_slow_opening_is_a_missed_budget() -> None:
    figures = changed("vault")
    figures["rows"][0]["opened"]["p50"] = 1.5

    assert vault.missed(figures) == ["opening a credential with keys in memory, p50: at most 1 ms, found 1.5"]


def test_a_slow_start_of_the_stack_is_a_missed_budget() -> None:
    figures = changed("start")
    figures["seconds"][starts.FRESH]["p50"] = 2.5
    del figures["seconds"][starts.AGAIN]

    assert starts.missed(figures) == [
        "start over an empty directory, p50: at most 2 s, found 2.5",
        "start over the same directory again, p50: at most 1 s, not measured",
    ]


async def test_a_queue_that_is_filled_at_once_is_as_if_its_runs_were_started_one_by_one(
    database_url: str, clone_database: Any
) -> None:
    runs = PLACES + 5
    async with await AsyncConnection.connect(database_url, autocommit=True) as at_once:
        await fill(at_once, accounts=2, runs=2 * runs)
        async with await AsyncConnection.connect(clone_database(), autocommit=True) as one_by_one:
            await fill(one_by_one, accounts=2, runs=2)
            ids = await _all(one_by_one, "select account_id::text from private.slots order by id")
            for _ in range(runs - 1):
                await queue_more(one_by_one, [account_id for (account_id,) in ids])
            await assert_places(one_by_one)

            for query in (
                f"select {RUN_COLUMNS} from agent_runs order by slot_ids, fair_tag",
                "select kind, key, places, taken, fair_tag, recheck from private.slots order by id",
                "select seq, log_type, message, metadata from agent_task_logs",
                "select kind, debit, credit, amount from credit_ledger where kind <> 'grant'",
            ):
                assert await _all(at_once, query) == await _all(one_by_one, query)


async def test_the_first_run_of_each_account_in_a_full_queue_is_as_it_is_started_properly(database_url: str) -> None:
    """The other test grows its queue from a filled one; this one has nothing but proper starts."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        await fill(connection, accounts=1, runs=1)
        (filled,) = await _all(connection, f"select {RUN_COLUMNS} from agent_runs")
        (account_id,) = (await _all(connection, "select account_id::text from private.slots"))[0]
        await connection.execute("delete from agent_runs")
        await connection.execute("update private.slots set taken = 0, fair_tag = 0")
        await queue_more(connection, [account_id])

        assert await _all(connection, f"select {RUN_COLUMNS} from agent_runs") == [filled]


async def test_claims_leave_the_queue_as_long_as_it_was(database_url: str) -> None:
    found = await claim._row(database_url, 100, 10, claims=1)

    assert found["claim"]["count"] == 1
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        assert await _all(connection, "select count(*) from agent_runs where status = 'queued'") == [(100,)]


async def test_a_newcomer_is_claimed_before_the_crowd(database_url: str) -> None:
    assert await claim._place_of_newcomer(database_url, 100) == 1


async def test_nothing_but_steps_is_counted_between_the_gates(database_url: str) -> None:
    found = await storage._row(database_url, storage.SILENT, runs=2, steps=30, seconds=0.0)

    assert found["wal"]["records"] > 0
    assert found["hot"]["agent_steps"] > 0.9
    assert "realtime.messages" not in found["tables"]


async def test_a_run_alone_makes_one_call_a_step_and_one_more(database_url: str) -> None:
    found = await distance._row(database_url, 0.0, at_a_time=1, steps=10)

    assert found["advances"] == pytest.approx(1.1)
    assert found["round_trips"] == 1


async def test_who_waits_has_no_lease(database_url: str) -> None:
    _, rows = await memory._rows(database_url, 2)

    assert {row["title"]: row["leases"] for row in rows} == {memory.HUMAN: 0, memory.TIMER: 0, memory.PERFORMING: 1}


async def test_every_subscriber_is_told_of_every_row_and_the_gateway_is_weighed(database_url: str) -> None:
    ms = await subscribers._lateness(database_url, 3, 4)
    alone_mb, idle_mb = await subscribers._idle(database_url, 5)

    assert ms["count"] == 12
    assert alone_mb > 0
    assert idle_mb > 0


async def test_what_was_written_can_be_read_after_checkpoints_too(database_url: str) -> None:
    """Others' as well: PostgreSQL throws away what it needs no more itself."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as admin:
        await admin.execute("create extension pg_walinspect")
        await admin.execute("create table written (text text)")
        for _ in range(2):
            position = await wal_position(admin)
            await admin.execute("insert into written select repeat('x', 1000) from generate_series(1, 1000)")
            for _ in range(3):
                await admin.execute("select pg_switch_wal()")
                await admin.execute("checkpoint")
            assert (await wal_since(admin, position))["records"] > 1_000_000


async def test_a_claim_in_the_middle_reads_what_the_snapshot_does_not_have(database_url: str) -> None:
    found = await growth._row(database_url, 200, runs=10)

    assert found["claim_bytes"] < found["whole_bytes"] / 2
    assert found["decisions"] == pytest.approx(1, abs=0.1)


async def test_every_opening_is_timed_and_every_credential_rewrapped(database_url: str, clone_database: Any) -> None:
    rows = await vault._rows(database_url, openings=2)

    assert [(row["title"], row["opened"]["count"], row["call"]["count"]) for row in rows] == [
        (vault.LOCAL, 2, 2),
        (vault.SERVICE, 2, 2),
        (vault.REMEMBERED, 2, 2),
    ]
    assert await vault._rewrapped(clone_database(), 3) > 0


async def test_every_start_line_and_request_is_timed(database_url: str, clone_database: Any) -> None:
    starts = await latency._starts(clone_database(), 1)
    alone, busy, requests, selects = await latency._at_gateway(database_url, lines=2, requests=1)

    lines = (alone.realtime, alone.sse, busy.realtime, busy.sse)
    assert [len(found) for found in (starts, *lines, requests, selects)] == [1, 2, 2, 6, 6, 1, 1]


def test_a_stack_is_started_in_three_ways(tmp_path: Path) -> None:
    found = starts._starts(tmp_path, 1)

    assert {name: len(seconds) for name, seconds in found.items()} == {
        starts.FIRST: 1,
        starts.FRESH: 1,
        starts.AGAIN: 1,
    }
    assert (tmp_path / "first 0" / "postgres").is_dir()
    assert not list(tmp_path.rglob("postmaster.pid"))


def test_a_proxy_counts_round_trips(database_url: str) -> None:
    with far(database_url, milliseconds=0) as (far_url, trips), psycopg.connect(far_url, autocommit=True) as connection:
        before = trips()
        for _ in range(3):
            connection.execute("select repeat('x', 1000000)")

        assert trips() - before == 3


async def test_all_wait_at_a_gate_until_it_is_opened() -> None:
    gate = storage.Gate(2)
    waiting = [asyncio.create_task(gate()) for _ in range(2)]
    await gate.full.wait()

    assert not any(task.done() for task in waiting)
    gate.open.set()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("name", MODULES)
def test_a_server_that_is_not_durable_is_measured_by_nobody(name: str, database_server: TestServer) -> None:
    parser = argparse.ArgumentParser()
    MODULES[name].add_options(parser)

    with pytest.raises(RuntimeError, match="not durable: fsync off"):
        MODULES[name].measure(database_server.url(), parser.parse_args([]))


def test_a_measurement_that_fails_leaves_the_others_alone() -> None:
    def figures_of(name: str, options: argparse.Namespace) -> Any:
        del options
        if name == "claim":
            raise RuntimeError("out of order")
        return SAMPLE["measurements"][name]

    (*_, results) = all_measured(lambda _name: argparse.Namespace(quick=True), figures_of)

    assert results["failed"] == {"claim": "RuntimeError: out of order"}
    assert set(results["measurements"]) == {"throughput", *MODULES} - {"claim"}


def test_a_picture_is_drawn_from_kept_results_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    write(SAMPLE, tmp_path / "results.json")

    assert main(["plot", str(tmp_path / "results.json")]) == 0

    assert (tmp_path / plot.NAME).read_bytes().startswith(b"\x89PNG\r\n")
    assert "drew" in capsys.readouterr().err


def test_a_picture_of_half_the_results_is_drawn_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    half: Results = {**SAMPLE, "measurements": {"claim": SAMPLE["measurements"]["claim"]}}

    assert plot.draw(half, tmp_path / "half.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_kept_results_are_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({**SAMPLE, "missed": {"claim": ["too slow"]}}, tmp_path / "results.json")

    assert main(["show", str(tmp_path / "results.json")]) == 0

    shown = capsys.readouterr().out
    assert "Durable steps a second" in shown
    assert "Missed: too slow" in shown
    assert read(tmp_path / "results.json")["started"] == SAMPLE["started"]


async def _all(connection: AsyncConnection, query: Any) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()
