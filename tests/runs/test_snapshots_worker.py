"""What a worker makes of snapshots: a run goes on from them wherever it is, and never depends on one."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, HumanRequest, Outcome, Snapshot, StepContext, Waiting
from shared.runs.models import Json, JsonObject, RunView, Step, StepResult
from shared.runs.results import RESULT_BYTES, Results
from shared.runs.store import RunStore
from shared.runs.worker import Worker
from tests.runs.engines import ListEngine, Progress, steps
from tests.runs.working import QUICK
from tests.support.clock import shift_clock
from tests.support.runs import Person, connect, run_row
from tests.support.wires import CountingDatabase


class SnapshotsSeen:
    """Keeps every snapshot that goes over the wire."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.seen: list[JsonObject] = []

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        batch: Any = arguments.get("p_batch", {})
        self.seen += batch.get("snapshots", [])
        return await self._database.call(function, arguments)

    async def close(self) -> None:
        await self._database.close()


async def asks_at_6(step: Step, ctx: StepContext) -> Outcome:
    return Waiting(HumanRequest("Go on?")) if step.key == "s6" else Done({"key": step.key})


def asking(count: int = 12) -> ListEngine:
    """Asks a person in the sixth step."""
    return ListEngine(steps(count), asks_at_6)


async def work(database: Database, engine: ListEngine, *, every: int = 3) -> None:
    """One slice: until nothing is due."""
    await Worker(RunStore(database), {"list": engine}, options=replace(QUICK, snapshot_steps=every)).run(
        until_idle=True
    )


async def work_to_the_end(
    database: Database, person: Person, url: str, first: ListEngine, second: ListEngine, *, losing: bool = False
) -> None:
    """Two slices on two workers, with a person's answer between them."""
    run_id = await person.queue()
    await work(database, first)
    assert (await run_row(url, run_id))["status"] == "awaiting_input"
    if losing:
        async with connect(url) as connection:
            await connection.execute("truncate private.run_snapshots")
    await person.call("respond_run", run_id, '"yes"')
    await work(database, second)
    row = await run_row(url, run_id)
    assert (row["status"], row["output"]) == ("completed", {"keys": sorted(f"s{n}" for n in range(1, 13))})
    performed = [key for key, _, _ in first.performed + second.performed]
    assert performed == [f"s{n}" for n in range(1, 13)]


async def test_a_snapshot_is_stored_at_most_once_in_so_many_steps_and_none_at_the_end(
    either_wire: Database, person: Person
) -> None:
    seeing = SnapshotsSeen(either_wire)
    await person.queue()

    await work(seeing, ListEngine(steps(9)))

    assert [(taken["step_count"], taken["open_steps"]) for taken in seeing.seen] == [(3, []), (6, [])]


async def test_another_worker_goes_on_from_the_snapshot_with_the_answer_that_came_between(
    either_wire: Database, person: Person, database_url: str
) -> None:
    first, second = asking(), asking()

    await work_to_the_end(either_wire, person, database_url, first, second)

    assert (first.opened, second.opened) == ([(False, [])], [(True, [4, 5, 6])])


async def test_a_lost_table_of_snapshots_costs_reading_and_nothing_else(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    second = asking()

    await work_to_the_end(database, person, database_url, asking(), second, losing=True)

    assert second.opened == [(False, [1, 2, 3, 4, 5, 6])]


async def test_a_snapshot_of_another_version_is_not_read_and_gives_way_to_one_of_this(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    second = asking()
    second.snapshot_version = 2
    seeing = SnapshotsSeen(database)

    await work_to_the_end(seeing, person, database_url, asking(), second)

    assert second.opened == [(False, [1, 2, 3, 4, 5, 6])]
    assert [(taken["version"], taken["step_count"]) for taken in seeing.seen] == [(1, 3), (2, 6), (2, 9)]


class Plain(ListEngine):
    """An engine that takes no snapshots."""

    snapshot: Any = property()  # there is no such attribute
    snapshot_version: Any = property()


async def test_an_engine_without_snapshots_is_opened_from_all_results(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    second = Plain(steps(12), asks_at_6)

    await work_to_the_end(database, person, database_url, asking(), second)

    assert second.opened == [(False, [1, 2, 3, 4, 5, 6])]


async def test_a_snapshot_that_its_engine_cannot_read_is_done_without(
    database: DirectDatabase, person: Person, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(ListEngine):
        def open(self, view: RunView) -> Progress:
            if view.snapshot is not None:
                raise KeyError("what was that again")
            return super().open(view)

    second = Forgetful(steps(12), asks_at_6)

    await work_to_the_end(database, person, database_url, asking(), second)

    assert second.opened == [(False, [1, 2, 3, 4, 5, 6])]
    assert "snapshot.unreadable" in caplog.text


def _deep() -> JsonObject:
    state: JsonObject = {}
    for _ in range(100):
        state = {"deeper": state}
    return state


UNFIT: dict[str, JsonObject] = {
    "too large": {"text": "x" * 33_000},
    "wider in PostgreSQL's JSON than its table takes": {"numbers": [1e308] * 300},
    "nested too deep": _deep(),
    "no JSON": {"set": {1, 2}},  # type: ignore[dict-item]
}


@pytest.mark.parametrize("state", UNFIT.values(), ids=UNFIT.keys())
async def test_a_snapshot_that_cannot_be_stored_costs_its_run_nothing(
    database: DirectDatabase,
    person: Person,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    state: JsonObject,
) -> None:
    class Unfit(ListEngine):
        def snapshot(self, _: Progress) -> Snapshot:
            return Snapshot(state)

    second = Unfit(steps(12), asks_at_6)

    await work_to_the_end(database, person, database_url, Unfit(steps(12), asks_at_6), second)

    assert second.opened == [(False, [1, 2, 3, 4, 5, 6])]
    about = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(about) == 2, "once a slice"


async def test_what_postgres_cannot_store_of_a_snapshot_is_replaced(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    class Odd(ListEngine):
        def snapshot(self, state: Progress) -> Snapshot:
            snapshot = super().snapshot(state)
            assert snapshot is not None
            return Snapshot({**snapshot.state, "odd": "\x00\ud800", "number": float("nan")})

    second = Odd(steps(12), asks_at_6)

    await work_to_the_end(database, person, database_url, Odd(steps(12), asks_at_6), second)

    assert second.opened == [(True, [4, 5, 6])]


async def test_an_engines_bug_in_a_snapshot_costs_its_run_nothing(
    database: DirectDatabase, person: Person, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(ListEngine):
        def snapshot(self, state: Progress) -> Snapshot:
            raise RuntimeError("a bug")

    await work_to_the_end(database, person, database_url, Buggy(steps(12), asks_at_6), Buggy(steps(12), asks_at_6))

    assert caplog.text.count("snapshot.failed") == 2, "once a slice"


async def test_a_retried_run_goes_on_from_the_copied_steps(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    failing = True

    async def fails_at_8(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s8" and failing:
            raise RuntimeError("a bug")
        return Done({"key": step.key})

    run_id = await person.queue()
    await work(database, ListEngine(steps(9), fails_at_8))
    assert (await run_row(database_url, run_id))["status"] == "failed"

    failing = False
    engine = ListEngine(steps(9), fails_at_8)
    retried = await person.call("retry_run", run_id)
    await work(database, engine)

    assert (await run_row(database_url, retried["run_id"]))["status"] == "completed"
    assert engine.opened == [(False, [1, 2, 3, 4, 5, 6, 7])]
    assert [key for key, _, _ in engine.performed] == ["s8", "s9"]


async def test_a_step_reads_results_by_number_from_memory_or_by_one_call(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    counting = CountingDatabase(database)
    read: dict[str, tuple[dict[int, str], int]] = {}

    async def reads(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s4":
            return Waiting(HumanRequest("Go on?"))
        results = await ctx.results(tuple(range(1, 10)))
        found = {number: str(result.output.get("key")) for number, result in results.items()}
        read[step.key] = (found, counting.calls["load_results"])
        return Done({"key": step.key})

    run_id = await person.queue()
    await work(counting, ListEngine(steps(6), reads), every=2)
    await person.call("respond_run", run_id, '"yes"')
    await work(counting, ListEngine(steps(6), reads), every=2)

    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert {key: [*found] for key, (found, _) in read.items()} == {
        "s1": [],
        "s2": [1],
        "s3": [1, 2],
        "s5": [3, 4, 1, 2],
        "s6": [1, 2, 3, 4, 5],
    }
    assert read["s6"][0] == {1: "s1", 2: "s2", 3: "s3", 4: "None", 5: "s5"}
    # Numbers that have no result yet are asked for each time.
    assert [calls for _, calls in read.values()] == [1, 2, 3, 4, 5]


async def test_results_that_passed_through_are_remembered_up_to_a_bound(
    database: DirectDatabase, person: Person
) -> None:
    counting = CountingDatabase(database)
    size = RESULT_BYTES // 30
    calls: list[int] = []

    async def reads(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s61":
            await ctx.results((60, 59, 58))
            calls.append(counting.calls["load_results"])
            results = await ctx.results((1, 60))
            calls.append(counting.calls["load_results"])
            assert {number: len(str(result.output["text"])) for number, result in results.items()} == {
                1: size,
                60: size,
            }
            await ctx.results((1, 58))
            calls.append(counting.calls["load_results"])
        return Done({"text": "x" * size})

    await person.queue()
    await work(counting, ListEngine(steps(61), reads))

    assert calls == [0, 1, 1]


async def test_a_result_larger_than_the_bound_is_read_each_time(
    database: DirectDatabase, store: RunStore, person: Person
) -> None:
    run_id = await person.queue()
    await work(database, ListEngine(steps(3)))
    counting = CountingDatabase(database)
    results = Results(run_id, RunStore(counting), limit=10)

    for _ in range(2):
        assert [*await results.load((2, 2, 1))] == [1, 2]

    assert counting.calls["load_results"] == 2


@pytest.mark.parametrize("kind", [ListEngine, Plain])
async def test_what_an_execution_holds_does_not_grow_with_its_steps(
    database: DirectDatabase, person: Person, database_url: str, kind: type[ListEngine]
) -> None:
    """Neither with those it performed nor with those it was opened from."""
    text = "x" * (RESULT_BYTES // 20)
    held: list[tuple[int, int]] = []

    async def bulky(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s60":
            return Waiting(HumanRequest("Go on?"))
        if step.key in {"s59", "s61", "s119"}:
            gc.collect()
            results = sum(
                isinstance(thing, StepResult) and thing.output.get("text") == text for thing in gc.get_objects()
            )
            (execution,) = worker._executions.values()
            known = vars(execution._steps).values()
            held.append((results, max(len(thing) for thing in known if isinstance(thing, dict))))
        return Done({"text": text})

    run_id = await person.queue(max_steps=200)
    for _ in range(2):
        worker = Worker(RunStore(database), {"list": kind(steps(120), bulky)}, options=QUICK)
        await worker.run(until_idle=True)
        if (await run_row(database_url, run_id))["status"] == "awaiting_input":
            await person.call("respond_run", run_id, '"yes"')

    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert len(held) == 3
    assert all(results <= 20 and open_steps <= 1 for results, open_steps in held), held


async def test_a_lease_that_is_lost_before_a_run_can_be_read_whole_is_given_up(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """Else two workers would perform the same steps: this one has no state to lose a race with."""

    class Rivalled(CountingDatabase):
        async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
            if function == "load_run":
                async with connect(database_url) as connection:
                    await shift_clock(connection, seconds=16)
                await RunStore(database).claim(owner="rival", limit=1, lease_seconds=15, engines=["list"])
            return await super().call(function, arguments)

    run_id = await person.queue()
    await work(database, asking())
    await person.call("respond_run", run_id, '"yes"')
    late = asking()
    late.snapshot_version = 2

    worker = Worker(RunStore(Rivalled(database)), {"list": late}, options=QUICK)
    await worker.run(until_idle=True)

    assert (worker.left, late.performed) == ({"lost": 1}, [])
    assert (await run_row(database_url, run_id))["lease_owner"] == "rival"
