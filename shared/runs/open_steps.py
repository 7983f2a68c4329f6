"""The open steps of one claimed run: which are recorded, which are performed here, and what came of them.

An outcome, as what an interrupted step had cost and a line that a step says, stays in hand until the advance that
carries it has won, so a lost race or a lost reply loses none of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from math import inf
from typing import Any, Final

from shared.logs import logger
from shared.runs.backoff import backoff_seconds
from shared.runs.bounds import Recorded
from shared.runs.engine import Done, Event, Failed, HumanRequest
from shared.runs.models import NewLog, Step, StepError
from shared.runs.news import News
from shared.runs.performer import Meter, late, unknown_outcome
from shared.runs.status import RunStatus, StepStatus
from shared.runs.time_limits import TimeLimits
from shared.runs.transitions import FinishStep

log = logger(__name__)

Performance = Callable[[Step, Meter], Coroutine[Any, Any, Recorded]]
INTERRUPT_SECONDS: Final = 10.0  # what a cancelled step may take to go; after that nobody waits for it
EVENT_TIMEOUT: Final = "event_timeout"
MAX_UNCOMMITTED: Final = 16  # results in memory; a database that takes them slower than they come slows the steps down


class OpenSteps:
    """Performs steps as tasks and keeps their outcomes. `woken` is set whenever one arrives."""

    def __init__(self, perform: Performance, *, woken: News, parallel: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._perform = perform
        self._woken = woken
        self._parallel = parallel
        self._performing = 0
        self._turns: deque[asyncio.Future[None]] = deque()  # of steps beyond `parallel`
        self._room = asyncio.Event()
        self._recorded: dict[int, Step] = {}
        self._due_at: dict[int, float] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._outcomes: dict[int, tuple[Step, Recorded]] = {}
        self._in_hand: dict[int, tuple[Step, Recorded]] = {}  # taken for the advance that is being committed
        self._interrupted: dict[int, FinishStep] = {}  # on purpose: what becomes of them, and what they had cost
        self._interrupted_in_hand: dict[int, FinishStep] = {}
        self._cut: set[tuple[int, int]] = set()  # effectful attempts that were cut off: their outcome is unknown
        self._meters: dict[int, Meter] = {}
        self._limits = TimeLimits()
        self._said: list[NewLog] = []
        self._said_in_hand: list[NewLog] = []

    @property
    def in_flight(self) -> int:
        """How many steps are being performed here."""
        return len(self._tasks)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every step that has not ended."""
        return tuple(self._recorded)

    @property
    def has_said(self) -> bool:
        """Whether a step has said something that no advance carries yet."""
        return bool(self._said)

    def waiting(self) -> list[Step]:
        """The open steps that nobody performs now: backing off, or waiting for a person, a timer, an event."""
        return [step for number, step in self._recorded.items() if number not in self._tasks]

    def due_in(self, step: Step) -> float:
        """Seconds until a waiting step is due; infinity until an event."""
        return self._due_at[step.step_no] - self._loop.time()

    def next_due(self, *, after: float) -> float | None:
        """When, by the loop's clock, the first waiting step is due that was not `after`; None: none ever will be."""
        if len(self._recorded) == len(self._tasks):
            return None
        first = min((due for step in self.waiting() if (due := self._due_at[step.step_no]) > after), default=inf)
        return None if first == inf else first

    def timer_is_due(self) -> bool:
        """Whether by this host's clock a timed wait has ended. Only the database's clock says so for good."""
        for number, step in self._recorded.items():
            if step.waits_for not in ("timer", "event") or number in self._tasks or number in self._outcomes:
                continue
            if self.due_in(step) <= 0:
                return True
        return False

    def due(self) -> list[Step]:
        """Pending steps whose next try is due."""
        if len(self._recorded) == len(self._tasks):
            return []
        return [step for step in self.waiting() if step.status is StepStatus.PENDING and self.due_in(step) <= 0]

    def rest(self) -> tuple[RunStatus, float | None] | None:
        """How a run is left whose steps all wait, and for how many seconds at most; None when no step is open."""
        waiting = self.waiting()
        timed = [self.due_in(step) for step in waiting if step.waits_for in (None, "timer", "event")]
        if timed:
            return RunStatus.QUEUED, max(0.0, min(timed))
        if any(step.waits_for == "human" for step in waiting):
            return RunStatus.AWAITING_INPUT, None
        return (RunStatus.QUEUED, None) if waiting else None

    def adopt(self, recorded: tuple[Step, ...], *, first: bool) -> None:
        """Take what is recorded for the truth. `first`: right after the claim, when nothing is performed here yet."""
        self._recorded.clear()
        self._due_at.clear()
        for step in recorded:
            self._hold(step)
        # A step that ended behind our back (a person answered) needs no task any more.
        for number in [number for number in self._tasks if number not in self._recorded]:
            self._tasks.pop(number).cancel()
            del self._meters[number]
        self._said[:0] = self._said_in_hand
        self._said_in_hand.clear()
        # Outcomes whose advance lost are offered again, unless they are recorded already.
        in_hand, self._in_hand = self._in_hand, {}
        for number, (step, outcome) in in_hand.items():
            now = self._recorded.get(number)
            if now is not None and now.attempt == step.attempt and _is_performed(now):
                self._outcomes[number] = (step, outcome)
        interrupted = self._interrupted | self._interrupted_in_hand
        self._interrupted.clear()
        self._interrupted_in_hand.clear()
        for number, finish in interrupted.items():
            now = self._recorded.get(number)
            if now is not None and now.attempt == finish.attempt and _is_performed(now):
                self._interrupted[number] = finish
        self._make_room()
        for step in recorded:
            self._recover(step, first=first)

    def _recover(self, step: Step, *, first: bool) -> None:
        number = step.step_no
        if step.status is not StepStatus.RUNNING or number in self._tasks:
            return
        if number in self._outcomes or number in self._interrupted:
            return
        if step.waits_for == "timer" and self.due_in(step) <= 0:
            self._outcomes[number] = (step, Recorded(Done()))
            return
        if step.waits_for == "event" and self.due_in(step) <= 0:
            # Not tried again: what was asked for may still be under way, so that is for the engine to decide.
            late = f"{step.name} waited for an event that did not come in time"
            self._outcomes[number] = (step, Recorded(Failed(StepError(EVENT_TIMEOUT, late))))
            return
        if step.waits_for is not None:
            return
        if step.effect == "effectful" and (first or (number, step.attempt) in self._cut):
            self._outcomes[number] = (step, Recorded(Failed(unknown_outcome(step))))
        else:
            # Later under the same lease it never began: only the reply to our own start was lost.
            self.start(step)

    def start(self, step: Step) -> None:
        """Perform a step that is recorded as running."""
        self._hold(step)
        self._meters[step.step_no] = meter = Meter(step.credits_bound)
        self._tasks[step.step_no] = self._loop.create_task(self._perform_one(step, meter))

    def restarted(self, step_no: int) -> Step:
        """The pending step as it stands once its next try is committed."""
        return replace(self._recorded[step_no], status=StepStatus.RUNNING, waits_for=None)

    async def _perform_one(self, step: Step, meter: Meter) -> None:
        task = self._tasks[step.step_no]
        if self._performing < self._parallel:
            self._performing += 1
        else:
            await self._turn()
        try:
            while len(self._outcomes) + len(self._in_hand) >= MAX_UNCOMMITTED:
                self._room.clear()
                await self._room.wait()
            try:
                outcome = await self._limits.within(step.timeout_seconds, self._perform(step, meter), task)
            except TimeoutError:
                outcome = Recorded(late(step, meter.used))
        finally:
            self._hand_on()
        self._tasks.pop(step.step_no, None)
        self._outcomes[step.step_no] = (step, outcome)
        self._woken.set()

    async def _turn(self) -> None:
        """Wait until a step that is performed hands its place on."""
        turn = self._loop.create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had its turn in the same moment
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._performing -= 1

    def _make_room(self) -> None:
        if not self._room.is_set():
            self._room.set()

    async def interrupt(self, *, give_back: bool = False) -> None:
        """Cancel what is performed, and wait until it is gone; what finished all the same keeps its outcome.

        With `give_back` the interrupted steps will be performed again elsewhere, so those with effects go on here.
        Otherwise the run ends. Either way the next `take` books what an interrupted attempt had cost.
        """
        tasks = {
            number: task
            for number, task in self._tasks.items()
            if not (give_back and self._recorded[number].effect == "effectful")
        }
        for task in tasks.values():
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks.values(), timeout=INTERRUPT_SECONDS)
            if stubborn:
                log.error("step.ignores_cancellation steps=%d", len(stubborn))
        self._limits.rest()
        for number in tasks:
            self._tasks.pop(number, None)
            step = self._recorded.get(number)
            if step is None or number in self._outcomes:
                continue
            used = self._meters[number].used
            again = FinishStep(
                number, step.attempt, StepStatus.PENDING, credits=used, bound=step.reserved, available_in=0.0
            )
            if step.effect == "effectful":
                self._cut.add((number, step.attempt))
            if give_back:
                self._interrupted[number] = again
            elif used:
                self._interrupted[number] = replace(again, status=StepStatus.CANCELLED, available_in=None)

    def take(self) -> list[tuple[Step, FinishStep]]:
        """What came since the last call, by step number, as it is to be recorded. It is in hand until `committed`."""
        if not self._outcomes and not self._interrupted:
            return []
        taken: list[tuple[Step, FinishStep]] = []
        for number in sorted(self._outcomes):
            step, outcome = self._in_hand[number] = self._outcomes[number]
            taken.append((step, _finish(step, outcome)))
        self._outcomes.clear()
        if self._interrupted:
            taken.extend((self._recorded[number], finish) for number, finish in sorted(self._interrupted.items()))
            self._interrupted_in_hand |= self._interrupted
            self._interrupted.clear()
        for step, finish in taken:
            self._settle(step, finish)
        return taken

    def say(self, line: NewLog) -> None:
        """Take in a line of a step that is being performed."""
        self._said.append(line)
        self._woken.set()

    def take_said(self) -> tuple[NewLog, ...]:
        """What steps said since the last call. It is in hand until `committed`."""
        if not self._said:
            return ()
        taken = tuple(self._said)
        self._said_in_hand += taken
        self._said.clear()
        return taken

    def in_hand(self) -> list[FinishStep]:
        """What was taken and is not committed yet."""
        outcomes = [_finish(step, outcome) for step, outcome in self._in_hand.values()]
        return outcomes + list(self._interrupted_in_hand.values())

    def committed(self) -> None:
        """The advance that carried what was taken has won, or will never win: forget it."""
        self._in_hand.clear()
        self._interrupted_in_hand.clear()
        self._said_in_hand.clear()
        self._make_room()

    def _settle(self, step: Step, finish: FinishStep) -> None:
        if finish.status.ended:
            number = step.step_no
            self._recorded.pop(number, None)
            self._due_at.pop(number, None)
            self._meters.pop(number, None)
            return
        again = finish.status is StepStatus.PENDING
        self._hold(
            replace(
                step,
                status=finish.status,
                attempt=step.attempt + again,
                failed_attempts=step.failed_attempts + finish.failed,
                waits_for=finish.waits_for,
                due_in_seconds=float("inf") if finish.available_in is None else finish.available_in,
            )
        )

    def _hold(self, step: Step) -> None:
        self._recorded[step.step_no] = step
        self._due_at[step.step_no] = self._loop.time() + step.due_in_seconds


def _finish(step: Step, recorded: Recorded) -> FinishStep:
    """How an outcome is recorded: an end, another try by the step's policy, or a wait."""
    outcome = recorded.outcome
    base = FinishStep(
        step.step_no,
        step.attempt,
        StepStatus.COMPLETED,
        output=outcome.output if isinstance(outcome, Done) else None,
        credits=outcome.credits,
        bound=step.reserved,
        records=outcome.records,
        size=recorded.size,
    )
    if isinstance(outcome, Done):
        return base
    if isinstance(outcome, Failed):
        if not outcome.error.retryable or step.failed_attempts + 1 >= step.max_attempts:
            return replace(base, status=StepStatus.FAILED, error=outcome.error, failed=True)
        pause = outcome.retry_after_seconds
        return replace(
            base,
            status=StepStatus.PENDING,
            error=outcome.error,
            failed=True,
            available_in=backoff_seconds(step.failed_attempts + 1) if pause is None else pause,
        )
    if isinstance(outcome.on, HumanRequest):
        return replace(base, status=StepStatus.RUNNING, waits_for="human", request=outcome.on)
    if isinstance(outcome.on, Event):
        limit = step.timeout_seconds if outcome.on.timeout_seconds is None else outcome.on.timeout_seconds
        return replace(base, status=StepStatus.RUNNING, waits_for="event", available_in=limit, event=outcome.on)
    return replace(base, status=StepStatus.RUNNING, waits_for="timer", available_in=outcome.on)


def _is_performed(step: Step) -> bool:
    return step.status is StepStatus.RUNNING and step.waits_for is None
