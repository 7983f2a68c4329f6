"""A virtual worker: it keeps the protocol of `shared.runs.execution`, and chance decides what its steps come to.

It can lose replies, be cut off before a call, or be forgotten; it thaws by being used again after the clock has moved.
Its own clock may be slow, fast or stand still. It stores a snapshot with every other result, and whatever it reads with
one must be what the rows say without.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal
from uuid import UUID, uuid4

import pytest

from shared.errors import AppError
from shared.runs.engine import HumanRequest
from shared.runs.models import JsonObject, NewLog, NewMessage, NewStep, Records, RunId, RunView, Step, StepError
from shared.runs.status import RunStatus, StepStatus
from shared.runs.transitions import Advance, Advanced, Delta, FinishStep, StartStep, TakenSnapshot
from tests.runs.machine.world import World

LEASE_SECONDS = 15.0
SNAPSHOT_STEPS = 2
BOUNDS = (0, 0, 100_000, 400_000, 1_100_000)
PAUSES = (0.0, 30.0)
_FAILED = StepError("broken", "It broke")
_LATE = StepError("deadline", "It is late")
_UNKNOWN = StepError("outcome_unknown", "Nobody saw it")

Fate = Literal["heard", "unheard", "twice", "divided", "refused"]
"""What becomes of a call: answered, committed without the caller's hearing of it, delivered twice, committed unheard
and then divided, or refused as a whole for one item's sake and then divided."""


@dataclass
class Provider:
    """The outside world: how often each try of each step had its effect there."""

    effects: Counter[tuple[UUID, int, int]] = field(default_factory=Counter)

    def perform(self, run_id: RunId, step: Step) -> None:
        self.effects[run_id, step.step_no, step.attempt] += 1
        assert self.effects[run_id, step.step_no, step.attempt] == 1, "one try of a step was performed twice"


@dataclass
class Held:
    """One run in a worker's hands, as the worker believes it to be."""

    view: RunView
    lease_id: UUID
    revision: int
    status: RunStatus
    step_count: int
    stop: bool
    pause: bool
    deadline: float = float("inf")
    """By the worker's own clock."""
    late: bool = False
    """The database said that the deadline is over."""
    open_steps: dict[int, Step] = field(default_factory=dict)
    due_at: dict[int, float] = field(default_factory=dict)
    performing: dict[int, Step] = field(default_factory=dict)
    unknown: dict[int, Step] = field(default_factory=dict)
    """Effectful steps that a lost worker left: they fail, whatever they did."""
    ended: dict[int, JsonObject] = field(default_factory=dict)
    """The engine's state: what each ended step came to."""
    covered: int = 0
    """How many of them the newest snapshot covers."""


class VirtualWorker:
    """Holds runs and moves them on by chance."""

    def __init__(self, name: str, world: World, provider: Provider, *, pace: float = 1.0) -> None:
        """`pace`: seconds by the worker's clock for each that passes."""
        self.name = name
        self.held: dict[RunId, Held] = {}
        self.sent: list[Advance] = []
        """The last batch that was delivered; it may come again at any time."""
        self._pace = pace
        self._world = world
        self._provider = provider

    @property
    def _now(self) -> float:
        return self._world.passed * self._pace

    async def claim(self, limit: int, *, heard: bool = True) -> list[str]:
        """Claim and hold what came; the ids, also of what the worker never heard of."""
        answer = await self._world.store.claim(
            owner=self.name, limit=limit, lease_seconds=LEASE_SECONDS, engines=["list"]
        )
        claimed = [str(view.run.id) for view in answer.views]
        if not heard:
            return claimed
        for view in answer.views:
            assert view.run.lease_id is not None
            run = view.run
            held = Held(
                view,
                view.run.lease_id,
                run.revision,
                run.status,
                run.step_count,
                run.stop_requested,
                run.pause_requested,
            )
            self.held[run.id] = held
            await self._open(held, view)
            self._adopt(held, view, first=True)
        return claimed

    async def beat(self) -> None:
        leases = {run_id: held.lease_id for run_id, held in self.held.items()}
        if not leases:
            return
        for beat in await self._world.store.heartbeat(leases, lease_seconds=LEASE_SECONDS):
            held = self.held[beat.run_id]
            assert held.lease_id == beat.lease_id
            held.stop |= beat.stop
            held.pause |= beat.pause
            if beat.revision > held.revision:
                await self._reload(held)

    async def stream(self) -> None:
        """Publish a piece of the output of everything that is performed here."""
        pieces = [
            Delta(run_id, held.lease_id, number, step.attempt, 0, "text")
            for run_id, held in self.held.items()
            for number, step in held.performing.items()
        ]
        if pieces:
            await self._world.store.publish(pieces)
        await self._world.store.flush_logs(sorted(self.held))

    def die(self) -> None:
        self.held.clear()

    async def advance(self, rng: Random, *, fate: Fate = "heard", finishing: bool = False) -> None:
        """Move every held run on in one batch. `finishing`: by the shortest way to the end.

        Holds the fence: who wins is known from the rows of before, and nobody wins twice.
        """
        for held in self.held.values():
            if held.deadline <= self._now:
                await self._reload(held)  # its own clock only says when to ask
        items = [
            _with_snapshot(held, item)
            for held in self.held.values()
            if (item := _plan(held, rng, self._now, finishing=finishing))
        ]
        if not items:
            return
        rightful = await self._rightful(items)
        if fate == "refused" and rightful:
            await self._refused(items, guilty=rightful)
        calls = [items[: len(items) // 2], items[len(items) // 2 :]] if fate == "refused" else [items]
        answers = await self._deliver(*calls)
        self.sent = items
        assert {run_id for run_id, answer in answers.items() if answer.won} == rightful
        if fate == "unheard":
            return
        if fate == "twice":
            await self.deliver_again()
        if fate == "divided":  # the whole call was committed and nobody heard; its parts are what is answered
            answers = await self._deliver(items[: len(items) // 2], items[len(items) // 2 :])
            assert not any(answer.won for answer in answers.values()), "a part was committed after the whole"
        for item in items:
            await self._take(item, answers[item.run_id])

    async def deliver_again(self) -> None:
        """The last batch comes once more, from wherever it was delayed."""
        again = await self._deliver(self.sent)
        assert not any(answer.won for answer in again.values()), "one transition was committed twice"

    async def _deliver(self, *calls: list[Advance]) -> dict[RunId, Advanced]:
        answers: dict[RunId, Advanced] = {}
        for items in calls:
            answers |= await self._world.store.advance(items, lease_seconds=LEASE_SECONDS)
        return answers

    async def _rightful(self, items: list[Advance]) -> set[RunId]:
        """Whose lease and revision are those of the rows."""
        rows = await self._world.see(
            "select coalesce(jsonb_object_agg(id, array[lease_id::text, revision::text]), '{}') from public.agent_runs"
        )
        return {item.run_id for item in items if rows[str(item.run_id)] == [str(item.lease_id), str(item.revision)]}

    async def _refused(self, items: list[Advance], *, guilty: set[RunId]) -> None:
        """Send the batch with an item that the database cannot take: the call fails, and nothing of it is committed."""
        one = max(guilty)
        unheard_of = FinishStep(9999, 1, StepStatus.COMPLETED, output={})
        spoilt = [replace(item, finish=(unheard_of,)) if item.run_id == one else item for item in items]
        with pytest.raises(AppError):
            await self._deliver(spoilt)

    async def _take(self, item: Advance, answer: Advanced) -> None:
        held = self.held[item.run_id]
        if not answer.won and answer.lease_id == held.lease_id:
            await self._reload(held)
        elif not answer.won or answer.lease_id is None:
            del self.held[item.run_id]
        else:
            self._committed(held, item, answer)

    def _committed(self, held: Held, item: Advance, answer: Advanced) -> None:
        held.revision = answer.revision
        held.status = answer.status or held.status
        held.stop |= answer.stop
        held.pause |= answer.pause
        held.ended |= _outputs(item)
        if item.snapshot is not None:
            held.covered = len(held.ended)
        for finish in item.finish:
            step = held.open_steps.pop(finish.step_no)
            held.performing.pop(finish.step_no, None)
            held.unknown.pop(finish.step_no, None)
            if finish.status is StepStatus.PENDING:
                self._hold(held, replace(step, status=finish.status, attempt=step.attempt + 1), finish.available_in)
            elif finish.status is StepStatus.RUNNING:
                waiting = replace(step, waits_for=finish.waits_for)
                self._hold(held, waiting, finish.available_in)
        if answer.short:
            return
        for start in item.start:
            if start.again:
                step = replace(held.open_steps[start.step_no], status=StepStatus.RUNNING, waits_for=None)
            else:
                step = start.recorded()
                held.step_count += 1
            self._hold(held, step, None)
            self._perform(held, step)

    async def _reload(self, held: Held) -> None:
        view = await self._world.store.load(held.view.run.id)
        if view is not None and view.run.lease_id == held.lease_id:
            await self._open(held, view)
            self._adopt(held, view, first=False)

    async def _open(self, held: Held, view: RunView) -> None:
        """Build the state as an engine does, and compare with what all rows say."""
        covered = {int(number): output for number, output in (view.snapshot or {}).items()}
        covered |= {number: result.output for number, result in view.kept.items()}
        held.ended = covered | {result.step.step_no: result.output for result in view.results}
        held.covered = len(covered)
        whole = await self._world.store.load(view.run.id, whole=True)
        assert whole is not None
        assert held.ended == {result.step.step_no: result.output for result in whole.results}
        assert [result for result in whole.results if result.step.step_no not in covered] == list(view.results)
        assert [result for result in whole.results if result.step.step_no in view.kept] == list(view.kept.values())
        assert whole.open_steps == view.open_steps

    def _adopt(self, held: Held, view: RunView, *, first: bool) -> None:
        run = view.run
        held.revision, held.status, held.step_count = run.revision, run.status, run.step_count
        held.deadline, held.late = self._now + run.remaining_seconds, run.remaining_seconds <= 0
        held.open_steps.clear()
        for step in view.open_steps:
            self._hold(held, step, step.due_in_seconds)
        for known in (held.performing, held.unknown):
            for number, step in list(known.items()):
                now = held.open_steps.get(number)
                if now is None or now.attempt != step.attempt or not _is_performed(now):
                    del known[number]
        for number, step in held.open_steps.items():
            if not _is_performed(step) or number in held.performing or number in held.unknown:
                continue
            if first and step.effect == "effectful":
                held.unknown[number] = step
            else:
                self._perform(held, step)

    def _hold(self, held: Held, step: Step, due_in: float | None) -> None:
        held.open_steps[step.step_no] = step
        held.due_at[step.step_no] = float("inf") if due_in is None else self._now + due_in

    def _perform(self, held: Held, step: Step) -> None:
        self._provider.perform(held.view.run.id, step)
        held.performing[step.step_no] = step


def _is_performed(step: Step) -> bool:
    return step.status is StepStatus.RUNNING and step.waits_for is None


def _outputs(item: Advance) -> dict[int, JsonObject]:
    return {finish.step_no: finish.output or {} for finish in item.finish if finish.status.ended}


def _with_snapshot(held: Held, item: Advance) -> Advance:
    """The item with a snapshot if one is due; every third result is kept by reference."""
    ended = held.ended | _outputs(item)
    if len(ended) < held.covered + SNAPSHOT_STEPS or (item.status is not None and item.status.ended):
        return item
    state: JsonObject = {str(number): dict(output) for number, output in ended.items() if number % 3}
    kept = tuple(number for number in ended if number % 3 == 0)
    still_open = tuple(held.open_steps.keys() - ended.keys())
    return replace(item, snapshot=TakenSnapshot(1, held.step_count, still_open, kept, state))


def _plan(held: Held, rng: Random, now: float, *, finishing: bool) -> Advance | None:  # noqa: PLR0911 - one a case
    """The next transition of one run; None when it has nothing to say."""
    item = Advance(held.view.run.id, held.lease_id, held.revision)
    lost = [_finish(step, StepStatus.FAILED, error=_UNKNOWN, failed=True) for step in held.unknown.values()]
    if held.stop:
        done = [_outcome(step, rng) for step in held.performing.values() if rng.random() < 0.5]
        return replace(item, finish=(*lost, *done), status=RunStatus.CANCELLED)
    if held.late:
        return replace(item, finish=tuple(lost), status=RunStatus.TIMEOUT, error=_LATE)
    if held.pause:
        return _let_go(held, item, lost, RunStatus.PAUSED)
    if not finishing and rng.random() < 0.1:
        return _let_go(held, item, lost, RunStatus.QUEUED)
    if not finishing and rng.random() < 0.05:
        return replace(item, finish=tuple(lost), status=RunStatus.FAILED, error=_FAILED)
    finish = lost + [
        _done(step) if finishing else _outcome(step, rng)
        for step in held.performing.values()
        if finishing or rng.random() < 0.7
    ]
    due = [step for number, step in held.open_steps.items() if held.due_at[number] <= now]
    finish += [_done(step) for step in due if step.waits_for == "timer"]
    again = [step for step in due if step.status is StepStatus.PENDING]
    ended = sum(one.status.ended for one in finish)
    nothing_open = ended == len(held.open_steps)
    if nothing_open and (finishing or rng.random() < 0.25):
        if held.status is RunStatus.PLANNING:
            return replace(item, finish=tuple(finish), status=RunStatus.EXECUTING)
        return replace(item, finish=tuple(finish), status=RunStatus.COMPLETED, output={"done": True})
    fresh = 0 if finishing else rng.randint(1 if nothing_open else 0, 2)
    start = tuple(StartStep(step.step_no, step.effect_key, step.to_new(), again=True) for step in again)
    start += tuple(StartStep(held.step_count + n, uuid4(), _new_step(held, n, rng)) for n in range(1, fresh + 1))
    in_flight = len(held.performing.keys() - {one.step_no for one in finish})
    item = replace(item, finish=tuple(finish), start=start, in_flight=in_flight)
    if start:
        planned = held.status is RunStatus.PLANNING and rng.random() < 0.7
        return replace(item, status=RunStatus.EXECUTING if planned else None, logs=(NewLog("info", "Goes on"),))
    if in_flight:
        return item if finish else None
    return _resting(held, item, now)


def _resting(held: Held, item: Advance, now: float) -> Advance | None:
    """Nothing runs and nothing starts: the run waits without a lease."""
    after = {number: (step.waits_for, held.due_at[number] - now) for number, step in held.open_steps.items()}
    for one in item.finish:
        del after[one.step_no]
        if not one.status.ended:
            after[one.step_no] = (one.waits_for, float("inf") if one.available_in is None else one.available_in)
    timed = [due_in for waits_for, due_in in after.values() if waits_for in {None, "timer"}]
    if timed:
        return replace(item, status=RunStatus.QUEUED, available_in=max(0.0, min(timed)))
    if after:
        return replace(item, status=RunStatus.AWAITING_INPUT)
    return item if item.finish else None


def _let_go(held: Held, item: Advance, lost: list[FinishStep], status: RunStatus) -> Advance | None:
    """Give everything back that may be repeated; what has effects is awaited first."""
    effectful = {number: step for number, step in held.performing.items() if step.effect == "effectful"}
    if effectful:
        return replace(item, finish=(*lost, *map(_done, effectful.values())), in_flight=1)
    returned = [_finish(step, StepStatus.PENDING, available_in=0.0) for step in held.performing.values()]
    available_in = 0.0 if status is RunStatus.QUEUED else None
    return replace(item, finish=(*lost, *returned), status=status, available_in=available_in)


def _outcome(step: Step, rng: Random) -> FinishStep:
    cost = rng.choice((0, step.reserved // 2, step.reserved))
    match rng.choice(("done", "done", "failed", "again", "timer", "human")):
        case "failed":
            return _finish(step, StepStatus.FAILED, error=_FAILED, failed=True, credits=cost)
        case "again":
            return _finish(
                step, StepStatus.PENDING, error=_FAILED, failed=True, credits=cost, available_in=rng.choice(PAUSES)
            )
        case "timer":
            return _finish(step, StepStatus.RUNNING, credits=cost, waits_for="timer", available_in=rng.choice(PAUSES))
        case "human":
            question = HumanRequest("Which?")
            return _finish(step, StepStatus.RUNNING, credits=cost, waits_for="human", request=question)
        case _:
            return replace(_done(step), credits=cost)


def _done(step: Step) -> FinishStep:
    records = Records(
        logs=(NewLog("tool_success", f"did {step.key}"),),
        messages=(NewMessage("assistant", [{"type": "text", "text": step.key}]),),
    )
    return _finish(step, StepStatus.COMPLETED, output={"token": str(uuid4())}, records=records)


def _finish(step: Step, status: StepStatus, **what: object) -> FinishStep:
    return FinishStep(step.step_no, step.attempt, status, **{"bound": step.reserved, **what})  # type: ignore[arg-type]


def _new_step(held: Held, n: int, rng: Random) -> NewStep:
    return NewStep(
        key=f"s{held.step_count + n}",
        kind="test",
        name="A step",
        effect=rng.choice(("pure", "idempotent", "effectful")),
        credits_bound=rng.choice(BOUNDS),
    )
