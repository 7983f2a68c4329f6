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

from tests.runs.machine.invariants import ENDS, History, Snapshot, check_claimed, check_nothing_is_due, look
from tests.runs.machine.worker import Fate, Provider, VirtualWorker
from tests.runs.machine.world import A_MINUTE, Refused, World

SEARCH = "RUNBASE_MACHINE_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("RUNBASE_MACHINE_EXAMPLES", "24"))
STEPS = int(os.environ.get("RUNBASE_MACHINE_STEPS", "15"))
MAX_RUNS = 10

NAMES = ("alice", "bob", "carol")
PACES = {"w1": 1.0, "w2": 0.0, "w3": 3.0}  # of the workers' own clocks: right, standing still, fast
TROUBLES: tuple[Fate, ...] = ("heard", "heard", "heard", "unheard", "twice", "divided", "refused")
FIRST_DAY = 25  # moves that every example begins with
TIERS = ("one", "two", "three")
PEOPLE = st.sampled_from(NAMES)
WORKERS = st.sampled_from([*PACES])
FATES = st.sampled_from(TROUBLES)
SEEDS = st.integers(0, 2**16)
RARELY = st.sampled_from([False, False, False, True])
WHICH = st.integers(0, MAX_RUNS - 1)


class Runs(RuleBasedStateMachine):
    """Three people, four accounts, three workers, and the one clock that counts."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.provider = Provider()
        self.workers = {name: VirtualWorker(name, world, self.provider, pace=pace) for name, pace in PACES.items()}
        self.history = History()
        self.now: Snapshot
        self.keys = 0

    @initialize(
        whose=st.lists(st.tuples(PEOPLE, SEEDS), min_size=3, max_size=6),
        shifts=st.lists(st.tuples(WORKERS, SEEDS, st.integers(1, 6)), max_size=2),
        first_day=SEEDS,
    )
    def begin(self, whose: list[tuple[str, int]], shifts: list[tuple[str, int, int]], first_day: int) -> None:
        self.world.run(self.world.reset())
        for who, seed in whose:
            self.deliver(who, 1, "create_run", json.dumps(self.request(who, Random(seed), autostart=True)))
        for name, seed, rounds in shifts:
            self.work_for(name, seed, rounds)
        self._holds()
        self.day(first_day, FIRST_DAY)

    @invariant()
    def _holds(self) -> None:
        self.now = self.world.run(look(self.world))
        self.history.check(self.now)

    # -- people ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.now.runs) < MAX_RUNS)
    @rule(
        who=PEOPLE,
        seed=SEEDS,
        autostart=st.booleans(),
        repeats=st.integers(1, 2),
        keyed=st.booleans(),
    )
    def create(self, who: str, seed: int, autostart: bool, repeats: int, keyed: bool) -> None:
        before = len(self.now.runs)
        request = self.request(who, Random(seed), autostart=autostart)
        answers = self.deliver(who, repeats, "create_run", json.dumps(request), self.key() if keyed else None)
        created = {answer["run_id"] for answer in answers}
        assert len(created) <= (1 if keyed else repeats)
        assert self.count_runs() == before + len(created)
        if who == "carol":
            assert self.created_now(who) <= A_MINUTE, "an account created more than its minute lets in"

    def request(self, who: str, rng: Random, *, autostart: bool) -> dict[str, Any]:
        """A run as one might want it: in whose account, of which agent, under which key, how urgent."""
        in_team = who != "carol" and rng.random() < 0.5
        request: dict[str, Any] = {
            "engine": "list",
            "input": {},
            "autostart": autostart,
            "timeout_seconds": rng.choice([100, 3600]),
            "priority": rng.choice([-1, 0, 0, 1]),
        }
        if in_team:
            request["account_id"] = str(self.world.team)
            if rng.random() < 0.4:
                request["agent_id"] = str(self.world.agent)
        if rng.random() < 0.3:
            request |= {"concurrency_key": "k", "concurrency_limit": rng.choice([1, 1, 2])}
        if rng.random() < 0.3:
            request["max_credits"] = 700_000
        return request

    @precondition(lambda self: self.runs("created"))
    @rule(which=WHICH, who=PEOPLE, repeats=st.integers(1, 2))
    def start(self, which: int, who: str, repeats: int) -> None:
        for run in self.pick(which, "created"):
            answers = self.deliver(who, repeats, "start_run", run["id"])
            assert len(answers) <= (run["status"] == "created" and self.right(who, run) is None)

    @precondition(lambda self: self.now.runs)
    @rule(
        which=WHICH,
        stranger=RARELY,
        action=st.sampled_from(["stop", "pause", "pause", "resume"]),
        stale=RARELY,
    )
    def control(self, which: int, stranger: bool, action: str, stale: bool) -> None:
        [run] = self.pick(which)
        who = next(name for name in self.world.people if (self.right(name, run) is not None) == stranger)
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
    @rule(which=WHICH, repeats=st.integers(1, 2), named=st.booleans(), keyed=st.booleans())
    def respond(self, which: int, repeats: int, named: bool, keyed: bool) -> None:
        asking = [run for run in self.now.runs.values() if self.now.open_requests(run["id"])]
        run = asking[which % len(asking)]
        questions = self.now.open_requests(run["id"])
        request_id = questions[0]["id"] if questions and named else None
        key = self.key() if keyed else None
        answers = self.deliver(self.owner(run), repeats, "respond_run", '"blue"', request_id, key, run=run["id"])
        assert bool(answers) == (len(questions) == 1 or named)
        if named or keyed:
            assert all(answer == answers[0] for answer in answers), "one question was answered twice"

    @precondition(lambda self: len(self.now.runs) < MAX_RUNS and self.runs(*ENDS))
    @rule(which=WHICH, repeats=st.integers(1, 2), autostart=st.booleans(), keyed=st.booleans())
    def retry(self, which: int, repeats: int, autostart: bool, keyed: bool) -> None:
        [run] = self.pick(which, *ENDS)
        before = len(self.now.runs)
        key = self.key() if keyed else None
        answers = self.deliver(self.owner(run), repeats, "retry_run", key, autostart, run=run["id"])
        made = {answer["run_id"] for answer in answers}
        assert len(made) <= (1 if keyed else repeats)
        assert self.count_runs() == before + len(made)
        if answers:
            assert run["status"] in {"failed", "cancelled", "timeout"}

    # -- operators ------------------------------------------------------------------------------------------------

    @rule(account=st.sampled_from([*NAMES, "team"]), amount=st.sampled_from([300_000, 2_000_000]))
    def grant(self, account: str, amount: int) -> None:
        self.world.run(self.world.grant(account, amount))

    @rule(account=st.sampled_from(["alice", "bob", "team"]), tier=st.sampled_from(TIERS))
    def move_to_tier(self, account: str, tier: str) -> None:
        self.world.run(self.world.set_tier(account, tier))

    @rule(places=st.sampled_from([None, 1, 2]))
    def limit_agent(self, places: int | None) -> None:
        self.world.run(self.world.limit_agent(places))

    # -- workers --------------------------------------------------------------------------------------------------

    @rule(name=WORKERS, limit=st.integers(1, 4), heard=st.sampled_from([True, True, True, False]))
    def claim(self, name: str, limit: int, heard: bool) -> None:
        self.claim_by(self.workers[name], limit, heard=heard)

    def claim_by(self, worker: VirtualWorker, limit: int, *, heard: bool = True) -> None:
        """Claim, and hold what a claim promises."""
        before = self.now
        claimed = self.world.run(worker.claim(limit, heard=heard))
        self._holds()
        check_claimed(claimed, before, self.now)
        if not claimed:
            check_nothing_is_due(self.now)

    @precondition(lambda self: self.busy())
    @rule(which=WHICH, seed=SEEDS, fate=FATES)
    def advance(self, which: int, seed: int, fate: Fate) -> None:
        self.world.run(self.pick_worker(which).advance(Random(seed), fate=fate))

    @precondition(lambda self: any(worker.sent for worker in self.workers.values()))
    @rule(which=WHICH)
    def deliver_again(self, which: int) -> None:
        """A call that was delayed on its way comes a second time, long after the first."""
        senders = [worker for worker in self.workers.values() if worker.sent]
        self.world.run(senders[which % len(senders)].deliver_again())

    @rule(name=WORKERS, seed=SEEDS, rounds=st.integers(1, 4))
    def work(self, name: str, seed: int, rounds: int) -> None:
        self.work_for(name, seed, rounds)

    def work_for(self, name: str, seed: int, rounds: int) -> None:
        """A while without trouble, so that examples come far."""
        self._holds()
        self.claim_by(self.workers[name], 4)
        for number in range(rounds):
            self._holds()
            self.world.run(self.workers[name].advance(Random(seed + number)))

    @precondition(lambda self: self.busy())
    @rule(which=WHICH, streams=st.booleans())
    def beat(self, which: int, streams: bool) -> None:
        worker = self.pick_worker(which)
        self.world.run(worker.stream() if streams else worker.beat())

    @rule(seed=SEEDS, moves=st.integers(1, 40))
    def day(self, seed: int, moves: int) -> None:
        """Many moves, all equally likely: Hypothesis by itself likes to repeat itself and comes less far."""
        rng = Random(seed)
        for _ in range(moves):
            self._by_chance(rng)
            self._holds()

    def _by_chance(self, rng: Random) -> None:  # noqa: PLR0912 - one a move
        which, who, seed = rng.randrange(MAX_RUNS), rng.choice(NAMES), rng.randrange(2**16)
        name, repeats, keyed = rng.choice([*PACES]), rng.randint(1, 2), rng.random() < 0.5
        match rng.randrange(20):
            case 0 | 1 if len(self.now.runs) < MAX_RUNS:
                self.create(who, seed, rng.random() < 0.8, repeats, keyed)
            case 2 if self.runs("created"):
                self.start(which, who, repeats)
            case 3 | 4 | 5 if self.now.runs:
                self.control(which, rng.random() < 0.1, rng.choice(["stop", "pause", "resume"]), rng.random() < 0.1)
            case 6 if any(request["status"] == "open" for request in self.now.requests):
                self.respond(which, repeats, rng.random() < 0.7, keyed)
            case 7 if len(self.now.runs) < MAX_RUNS and self.runs(*ENDS):
                self.retry(which, repeats, rng.random() < 0.8, keyed)
            case 8:
                self.claim(name, rng.randint(1, 4), rng.random() < 0.9)
            case 9 if self.busy():
                self.beat(which, rng.random() < 0.5)
            case 10 if self.busy() and rng.random() < 0.3:
                self.kill(which)
            case 11:
                self.jump(rng.choice([1.0, 16.0, 31.0, -5.0]))
            case 12:
                self.grant(rng.choice([*NAMES, "team"]), 300_000)
            case 13 if rng.random() < 0.5:
                self.move_to_tier(rng.choice(["alice", "bob", "team"]), rng.choice(TIERS))
            case 13:
                self.limit_agent(rng.choice([None, 1, 2]))
            case 14 if any(worker.sent for worker in self.workers.values()):
                self.deliver_again(which)
            case _ if self.busy():
                self.advance(which, seed, rng.choice(TROUBLES))
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

    @rule(seconds=st.sampled_from([1.0, 16.0, 31.0, 31.0, 120.0, 4000.0, -5.0]))
    def jump(self, seconds: float) -> None:
        self.world.run(self.world.jump(seconds))

    def teardown(self) -> None:
        """No run waits without something that wakes it: people and one worker bring all of them to their end."""
        if not hasattr(self, "now"):
            return
        for worker in self.workers.values():
            worker.die()
        last = VirtualWorker("last", self.world, self.provider)
        for account in self.world.accounts:
            self.world.run(self.world.grant(account, 50_000_000))
        for _ in range(40):
            self._holds()
            still = [run for run in self.now.runs.values() if run["status"] not in {"created", *ENDS}]
            if not still:
                return
            self._help(still)
            self._holds()
            self.claim_by(last, 10)
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
        refused = self.right(who, run)
        if refused is not None:
            return refused
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
        return next(name for name, person in self.world.people.items() if str(person.id) == run["user_id"])

    def right(self, who: str, run: dict[str, Any]) -> str | None:
        """The code by which this person is refused to control the run; None when he may."""
        if self.owner(run) == who:
            return None
        if run["account_id"] != str(self.world.team) or who == "carol":
            return "RUN01"
        return None if who == "alice" else "RUN06"

    def created_now(self, who: str) -> int:
        account_id = self.world.accounts[who]
        return self.world.run(self.world.see(
            "select count(*) from public.agent_runs where account_id = %s and created_at = private.clock()", account_id
        ))  # fmt: skip

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
                phases=(Phase.generate,)
                if "RUNBASE_MACHINE_NO_SHRINK" in os.environ
                else (Phase.generate, Phase.shrink),
            ),
        )
