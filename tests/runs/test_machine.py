"""People, workers and trouble in any order, against the real database: whatever comes, the invariants hold.

The quick profile is part of the suite. `RUNBASE_MACHINE_EXAMPLES=2000 pytest tests/runs/test_machine.py` searches on.
"""
# ruff: noqa: FBT001, S311 - switches and chance are what the moves are made of

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.runs.machine.invariants import ENDS, History, Snapshot, look
from tests.runs.machine.worker import Fate, Provider, VirtualWorker
from tests.runs.machine.world import Refused, World

SEARCH = "RUNBASE_MACHINE_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("RUNBASE_MACHINE_EXAMPLES", "30"))
STEPS = int(os.environ.get("RUNBASE_MACHINE_STEPS", "15"))
MAX_RUNS = 8

PEOPLE = st.sampled_from(["alice", "bob"])
WORKERS = st.sampled_from(["w1", "w2", "w3"])
FATES = st.sampled_from(["heard", "heard", "heard", "unheard", "twice"])
SEEDS = st.integers(0, 2**16)
RARELY = st.sampled_from([False, False, False, True])
WHICH = st.integers(0, MAX_RUNS - 1)


class Runs(RuleBasedStateMachine):
    """Two people, three workers, one clock."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.provider = Provider()
        self.workers = {name: VirtualWorker(name, world, self.provider) for name in ("w1", "w2", "w3")}
        self.history = History()
        self.now: Snapshot
        self.keys = 0

    @initialize(
        whose=st.lists(PEOPLE, min_size=2, max_size=4),
        shifts=st.lists(st.tuples(WORKERS, SEEDS, st.integers(1, 6)), max_size=2),
    )
    def begin(self, whose: list[str], shifts: list[tuple[str, int, int]]) -> None:
        self.world.run(self.world.reset())
        for who in whose:
            self.deliver(who, 1, "create_run", json.dumps({"engine": "list", "input": {}, "autostart": True}))
        for name, seed, rounds in shifts:
            self.work_for(name, seed, rounds)

    @invariant()
    def _holds(self) -> None:
        self.now = self.world.run(look(self.world))
        self.history.check(self.now)

    # -- people ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.now.runs) < MAX_RUNS)
    @rule(
        who=PEOPLE,
        autostart=st.booleans(),
        cap=st.sampled_from([None, None, 700_000]),
        timeout=st.sampled_from([100, 3600]),
        repeats=st.integers(1, 2),
    )
    def create(self, who: str, autostart: bool, cap: int | None, timeout: int, repeats: int) -> None:
        request: dict[str, Any] = {"engine": "list", "input": {}, "autostart": autostart, "timeout_seconds": timeout}
        if cap is not None:
            request["max_credits"] = cap
        before = len(self.now.runs)
        answers = self.deliver(who, repeats, "create_run", json.dumps(request), self.key())
        assert len({answer["run_id"] for answer in answers}) <= 1
        assert self.count_runs() == before + bool(answers)

    @precondition(lambda self: self.runs("created"))
    @rule(which=WHICH, who=PEOPLE, repeats=st.integers(1, 2))
    def start(self, which: int, who: str, repeats: int) -> None:
        for run in self.pick(which, "created"):
            answers = self.deliver(who, repeats, "start_run", run["id"])
            assert len(answers) <= (run["status"] == "created" and self.owns(who, run))

    @precondition(lambda self: self.now.runs)
    @rule(
        which=WHICH,
        stranger=RARELY,
        action=st.sampled_from(["stop", "pause", "pause", "resume"]),
        stale=RARELY,
    )
    def control(self, which: int, stranger: bool, action: str, stale: bool) -> None:
        [run] = self.pick(which)
        who = next(name for name in self.world.people if self.owns(name, run) != stranger)
        revision = run["revision"] - stale
        expected = self.refusal(run, who, action, stale)
        call = self.world.people[who].call("control_run", run["id"], action, revision)
        if expected is not None:
            with pytest.raises(Refused, match=expected):
                self.world.run(call)
            return
        answer = self.world.run(call)
        if action == "stop" and answer.get("stopping"):
            self.history.stopping.add(run["id"])
        if action == "pause" and answer.get("pausing"):
            self.history.pausing.add(run["id"])
        if action == "resume":
            self.history.pausing.discard(run["id"])

    @precondition(lambda self: any(request["status"] == "open" for request in self.now.requests))
    @rule(which=WHICH, repeats=st.integers(1, 2), named=st.booleans())
    def respond(self, which: int, repeats: int, named: bool) -> None:
        asking = [run for run in self.now.runs.values() if self.now.open_requests(run["id"])]
        run = asking[which % len(asking)]
        questions = self.now.open_requests(run["id"])
        request_id = questions[0]["id"] if questions and named else None
        answers = self.deliver(self.owner(run), repeats, "respond_run", '"blue"', request_id, self.key(), run=run["id"])
        assert bool(answers) == (len(questions) == 1 or (named and bool(questions)))
        assert all(answer == answers[0] for answer in answers)

    @precondition(lambda self: len(self.now.runs) < MAX_RUNS and self.runs(*ENDS))
    @rule(which=WHICH, repeats=st.integers(1, 2), autostart=st.booleans())
    def retry(self, which: int, repeats: int, autostart: bool) -> None:
        [run] = self.pick(which, *ENDS)
        before = len(self.now.runs)
        answers = self.deliver(self.owner(run), repeats, "retry_run", self.key(), autostart, run=run["id"])
        assert len({answer["run_id"] for answer in answers}) <= 1
        assert self.count_runs() == before + bool(answers)
        if answers:
            assert run["status"] in {"failed", "cancelled", "timeout"}

    @rule(who=PEOPLE, amount=st.sampled_from([300_000, 2_000_000]))
    def grant(self, who: str, amount: int) -> None:
        self.world.run(self.world.grant(self.world.people[who], amount))

    # -- workers --------------------------------------------------------------------------------------------------

    @rule(name=WORKERS, limit=st.integers(1, 4), heard=st.sampled_from([True, True, True, False]))
    def claim(self, name: str, limit: int, heard: bool) -> None:
        self.world.run(self.workers[name].claim(limit, heard=heard))

    @precondition(lambda self: self.busy())
    @rule(which=WHICH, seed=SEEDS, fate=FATES)
    def advance(self, which: int, seed: int, fate: Fate) -> None:
        self.advance_one(self.pick_worker(which), seed, fate)

    @rule(name=WORKERS, seed=SEEDS, rounds=st.integers(1, 4))
    def work(self, name: str, seed: int, rounds: int) -> None:
        self.work_for(name, seed, rounds)

    def work_for(self, name: str, seed: int, rounds: int) -> None:
        """A while without trouble, so that examples come far."""
        self.world.run(self.workers[name].claim(4))
        for number in range(rounds):
            self._holds()
            self.advance_one(self.workers[name], seed + number, "heard")

    @precondition(lambda self: self.busy())
    @rule(which=WHICH, streams=st.booleans())
    def beat(self, which: int, streams: bool) -> None:
        worker = self.pick_worker(which)
        self.world.run(worker.stream() if streams else worker.beat())

    @rule(seed=SEEDS, moves=st.integers(1, 25))
    def day(self, seed: int, moves: int) -> None:
        """Many moves, all equally likely: Hypothesis by itself likes to repeat itself and comes less far."""
        rng = Random(seed)
        for _ in range(moves):
            self._by_chance(rng)
            self._holds()

    def _by_chance(self, rng: Random) -> None:
        which, who, seed = rng.randrange(MAX_RUNS), rng.choice(["alice", "bob"]), rng.randrange(2**16)
        name, repeats = rng.choice(list(self.workers)), rng.randint(1, 2)
        match rng.randrange(16):
            case 0 if len(self.now.runs) < MAX_RUNS:
                self.create(who, rng.random() < 0.8, rng.choice([None, 700_000]), rng.choice([100, 3600]), repeats)
            case 1 if self.runs("created"):
                self.start(which, who, repeats)
            case 2 | 3 | 4 if self.now.runs:
                self.control(which, rng.random() < 0.1, rng.choice(["stop", "pause", "resume"]), rng.random() < 0.1)
            case 5 if any(request["status"] == "open" for request in self.now.requests):
                self.respond(which, repeats, rng.random() < 0.7)
            case 6 if len(self.now.runs) < MAX_RUNS and self.runs(*ENDS):
                self.retry(which, repeats, rng.random() < 0.8)
            case 7:
                self.claim(name, rng.randint(1, 4), rng.random() < 0.9)
            case 8 if self.busy():
                self.beat(which, rng.random() < 0.5)
            case 9 if self.busy() and rng.random() < 0.3:
                self.kill(which)
            case 10:
                self.jump(rng.choice([1.0, 16.0, 31.0]))
            case 11:
                self.grant(who, 300_000)
            case _ if self.busy():
                self.advance(which, seed, rng.choice(["heard", "heard", "heard", "unheard", "twice"]))
            case _:
                self.claim(name, 4, True)

    # -- trouble --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.busy())
    @rule(which=WHICH)
    def kill(self, which: int) -> None:
        self.pick_worker(which).die()

    @rule()
    def lose_snapshots(self) -> None:
        self.world.run(self.world.lose_snapshots())

    @rule(seconds=st.sampled_from([1.0, 16.0, 31.0, 31.0, 120.0, 4000.0]))
    def jump(self, seconds: float) -> None:
        self.world.run(self.world.jump(seconds))

    def teardown(self) -> None:
        """No run waits without something that wakes it: people and one worker bring all of them to their end."""
        if not hasattr(self, "now"):
            return
        for worker in self.workers.values():
            worker.die()
        last = VirtualWorker("last", self.world, self.provider)
        for who in self.world.people.values():
            self.world.run(self.world.grant(who, 50_000_000))
        for _ in range(40):
            self._holds()
            still = [run for run in self.now.runs.values() if run["status"] not in {"created", *ENDS}]
            if not still:
                return
            self._help(still)
            self.world.run(last.claim(10))
            for _ in range(3):
                self.world.run(last.advance(Random(0), finishing=True))
            self.world.run(self.world.jump(31))
        raise AssertionError(f"runs never end: {[(run['id'], run['status']) for run in still]}")

    def _help(self, runs: list[dict[str, Any]]) -> None:
        for run in runs:
            who = self.world.people[self.owner(run)]
            for question in self.now.open_requests(run["id"]):
                self.world.run(who.call("respond_run", run["id"], '"blue"', question["id"]))
            if run["status"] == "paused":
                self.history.pausing.discard(run["id"])
                # One that ran out of its own cap cannot go on.
                self.world.run(who.call("control_run", run["id"], "stop" if run["max_credits"] else "resume"))

    # -- helpers --------------------------------------------------------------------------------------------------

    def advance_one(self, worker: VirtualWorker, seed: int, fate: Fate) -> None:
        """Advance, and hold the fence: who wins is known from the rows of before."""
        rightful = {
            run_id
            for run_id, held in worker.held.items()
            if (row := self.now.runs[str(run_id)])["lease_id"] == str(held.lease_id)
            and row["revision"] == held.revision
        }
        for answer in self.world.run(worker.advance(Random(seed), fate=fate)):
            assert answer.won == (answer.run_id in rightful)

    def busy(self) -> list[VirtualWorker]:
        return [worker for worker in self.workers.values() if worker.held]

    def pick_worker(self, which: int) -> VirtualWorker:
        busy = self.busy()
        return busy[which % len(busy)]

    def deliver(self, who: str, times: int, function: str, *values: object, run: str | None = None) -> list[Any]:
        """Deliver a request once or more; the answers that were not refusals."""
        arguments = values if run is None else (run, *values)
        answers: list[Any] = []
        for _ in range(times):
            try:
                answer = self.world.run(self.world.people[who].call(function, *arguments))
            except Refused:
                continue
            answers.append(answer)
        return answers

    def refusal(self, run: dict[str, Any], who: str, action: str, stale: bool) -> str | None:
        """The code by which `control_run` must refuse, by the rows of before."""
        status, leased = run["status"], run["lease_id"] is not None
        if not self.owns(who, run):
            return "RUN01"
        if stale:
            return "RUN03"
        if status in ENDS:
            return "RUN04"
        allowed = {
            "stop": True,
            "pause": leased or status in {"queued", "awaiting_input"},
            "resume": status == "paused" or (leased and run["pause_requested_at"] is not None),
        }
        return None if allowed[action] else "RUN02"

    def runs(self, *statuses: str) -> list[dict[str, Any]]:
        return [run for run in self.now.runs.values() if run["status"] in statuses or not statuses]

    def pick(self, which: int, *statuses: str) -> list[dict[str, Any]]:
        """One run in one of these statuses, or none."""
        runs = self.runs(*statuses)
        return [runs[which % len(runs)]] if runs else []

    def owner(self, run: dict[str, Any]) -> str:
        return next(name for name, person in self.world.people.items() if str(person.id) == run["account_id"])

    def owns(self, who: str, run: dict[str, Any]) -> bool:
        return self.owner(run) == who

    def count_runs(self) -> int:
        return self.world.run(self.world.see("select count(*) from public.agent_runs"))

    def key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"


def test_whatever_people_workers_and_trouble_do_the_invariants_hold(database_url: str) -> None:
    with World(database_url) as world:
        run_state_machine_as_test(
            lambda: Runs(world),
            settings=settings(
                report_multiple_bugs=False,
                derandomize=not SEARCH,  # the suite does the same every time
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            ),
        )
