"""One claimed run, from its claim until it ends, waits or is given back.

The loop is: take in what finished, ask the engine, commit both in one `advance_runs` call, start what was committed.
One advance a run is in flight; steps that finish meanwhile join the next. Nothing is started that is not recorded
first, and nothing counts that was not committed under the run's lease.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol, assert_never
from uuid import UUID, uuid4

from shared.crash_points import crash_point
from shared.errors import AppError
from shared.runs.backoff import backoff_seconds
from shared.runs.engine import Decision, Done, Engine, Fail, Failed, Finish, HumanRequest, Outcome, StartSteps, Wait
from shared.runs.models import JsonObject, NewLog, NewStep, RunId, RunView, Step, StepError, StepResult
from shared.runs.performer import Context, perform, unknown_outcome
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import Advance, Advanced, Delta, FinishStep, RunStore, StartStep

log = logging.getLogger(__name__)


class Host(Protocol):
    """What an execution needs of the worker that holds it."""

    store: RunStore
    parallel_steps: int
    longest_step_seconds: float

    async def submit(self, item: Advance) -> Advanced: ...

    def emit(self, delta: Delta) -> None: ...

    def unsent(self, run_id: RunId) -> None:
        """Some of this run's log lines were held back; broadcast them soon."""
        ...

    def out_of_time(self) -> None:
        """A run was given back for want of time: claim no more."""
        ...

    def seconds_left(self) -> float:
        """Until the host goes away; infinity for a long-lived worker."""
        ...


@dataclass(slots=True)
class Signals:
    """What others want of the run. Set at any time; read between two advances."""

    stop: bool = False
    pause: bool = False
    give_back: bool = False
    reload: bool = False


class Execution:
    """Drives one run under one lease."""

    def __init__(self, view: RunView, engine: Engine[Any], host: Host) -> None:
        if view.run.lease_id is None:
            raise ValueError("an execution needs a leased run")
        self.run_id = view.run.id
        self.lease_id: UUID = view.run.lease_id
        self.revision = view.run.revision
        self.signals = Signals(stop=view.run.stop_requested, pause=view.run.pause_requested)
        self._engine = engine
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + view.run.remaining_seconds
        self._woken = asyncio.Event()
        self._slots = asyncio.Semaphore(host.parallel_steps)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._outcomes: dict[int, tuple[Step, Outcome]] = {}
        self._returned: dict[int, Step] = {}  # interrupted on purpose: back to pending, no failure
        self._in_hand: dict[int, tuple[Step, Outcome]] = {}  # taken for the advance that is being committed
        self._committing = False
        self._short = False
        self._view = view
        self.resumes_in: float | None = None
        """Seconds until the run is due again, when it was left queued."""

    def signal(self, *, stop: bool = False, pause: bool = False, give_back: bool = False, revision: int = 0) -> None:
        """Pass on a request. `revision` ahead of ours means that somebody else wrote to the run."""
        signals = self.signals
        signals.stop |= stop
        signals.pause |= pause
        signals.give_back |= give_back
        signals.reload |= revision > self.revision and not self._committing
        self._woken.set()

    async def drive(self) -> RunStatus | None:
        """Run until the run is out of our hands; the status it was left in, or None when the lease was lost."""
        try:
            self._adopt(self._view, first=True)
        except Exception:  # noqa: BLE001 - the same stage as in `_next`
            item = await self._engine_crashed()
            return (await self._host.submit(item)).status
        try:
            while True:
                self._woken.clear()
                item = await self._next()
                if item is not None:
                    left = await self._commit(item)
                    if left is not None:
                        return left.status if left.won else None
                    continue
                await self._wait()
        finally:
            await self._interrupt(tuple(self._tasks))

    # -- what comes next ------------------------------------------------------------------------------------------

    async def _next(self) -> Advance | None:
        """Build the next advance; None when there is nothing to commit yet."""
        try:
            return await self._choose()
        except AppError:
            raise
        except Exception:  # noqa: BLE001 - an engine's bug ends its run readably and leaves the others alone
            return await self._engine_crashed()

    async def _choose(self) -> Advance | None:
        if self.signals.reload:
            await self._reload()
        if self.signals.stop:
            return await self._end(RunStatus.CANCELLED)
        if self._loop.time() >= self._deadline:
            return await self._end(RunStatus.TIMEOUT, StepError("deadline", "The run reached its deadline"))
        if self.signals.pause or self.signals.give_back:
            return await self._let_go()
        finished = self._take_finished()
        return await self._decided(self._engine.decide(self._state), finished)

    async def _engine_crashed(self) -> Advance:
        log.error("engine.crashed run_id=%s engine=%s", self.run_id, self._engine.name, exc_info=True)  # noqa: LOG014 - called while handling it
        return await self._end(RunStatus.FAILED, StepError("internal", "The engine failed by an unexpected error"))

    async def _decided(self, decision: Decision, finished: tuple[FinishStep, ...]) -> Advance | None:
        match decision:
            case Finish(output, logs):
                finished += await self._rest_of_results()
                return self._advance(finished, logs=logs, status=RunStatus.COMPLETED, output=output)
            case Fail(error, logs):
                finished += await self._rest_of_results()
                return self._advance(finished, logs=logs, status=RunStatus.FAILED, error=error)
            case StartSteps(steps, status, logs):
                return self._start(finished, steps, status, logs)
            case Wait():
                return self._start(finished, (), None, ())
            case _:
                assert_never(decision)

    def _start(  # noqa: PLR0911 - one return a reason not to start
        self,
        finished: tuple[FinishStep, ...],
        steps: tuple[NewStep, ...],
        status: RunStatus | None,
        logs: tuple[NewLog, ...],
    ) -> Advance | None:
        again = [step for step in self._open.values() if step.status is StepStatus.PENDING and self._due(step) <= 0]
        wanted = [*steps, *(step.to_new() for step in again)]
        if self._short and self._tasks:
            wanted, steps, again, logs = [], (), [], ()  # no credits for more; what runs may still give some back
        too_long = next((step for step in wanted if step.timeout_seconds > self._host.longest_step_seconds), None)
        if too_long is not None:
            return self._advance(
                finished,
                status=RunStatus.FAILED,
                error=StepError(
                    "step_too_long",
                    f"{too_long.name} may take {too_long.timeout_seconds:g} seconds and no host here runs longer than "
                    f"{self._host.longest_step_seconds:g}",
                ),
            )
        if self._step_count + len(steps) > self._max_steps:
            return self._advance(
                finished,
                status=RunStatus.FAILED,
                error=StepError("max_steps", f"The run reached its limit of {self._max_steps} steps"),
            )
        left = self._host.seconds_left()
        if any(step.timeout_seconds > left for step in wanted):
            # Not enough time here for the next step: the run goes on elsewhere, from its rows alone.
            if self._tasks:
                return self._advance(finished) if finished else None
            self._host.out_of_time()
            return self._released(finished)
        starts = tuple(
            StartStep(self._step_count + position, uuid4(), step) for position, step in enumerate(steps, start=1)
        ) + tuple(StartStep(step.step_no, step.effect_key, step.to_new(), again=True) for step in again)
        if starts:
            new_status = None if status in (None, self._status) else status
            return self._advance(finished, start=starts, logs=logs, status=new_status)
        if self._tasks:
            return self._advance(finished, logs=logs) if finished or logs else None
        return self._resting(finished, logs)

    def _resting(self, finished: tuple[FinishStep, ...], logs: tuple[NewLog, ...]) -> Advance:
        """Nothing runs and nothing starts: a wait costs no lease and no process."""
        waiting = [step for step in self._open.values() if not step.status.ended]
        timed = [self._due(step) for step in waiting if step.waits_for in (None, "timer")]
        if timed:
            return self._advance(finished, logs=logs, status=RunStatus.QUEUED, available_in=max(0.0, min(timed)))
        if any(step.waits_for == "human" for step in waiting):
            return self._advance(finished, logs=logs, status=RunStatus.AWAITING_INPUT)
        if waiting:
            return self._advance(finished, logs=logs, status=RunStatus.QUEUED)
        error = StepError("engine_stuck", f"The engine {self._engine.name!r} neither started a step nor ended the run")
        return self._advance(finished, logs=logs, status=RunStatus.FAILED, error=error)

    async def _end(self, status: RunStatus, error: StepError | None = None) -> Advance:
        """End the run now, with the results and costs that are there."""
        in_hand = [self._finish(step, outcome) for step, outcome in self._in_hand.values()]
        return self._advance((*in_hand, *await self._rest_of_results()), status=status, error=error)

    async def _rest_of_results(self) -> tuple[FinishStep, ...]:
        """Interrupt what runs; results that came all the same are recorded and booked, though no engine sees them."""
        await self._interrupt(tuple(self._tasks))
        return tuple(self._finish(step, outcome) for step, outcome in self._taken())

    async def _let_go(self) -> Advance | None:
        """Pause, or give the run back: what can be repeated is interrupted, what has effects is awaited."""
        await self._interrupt(
            tuple(number for number in self._tasks if self._open[number].effect != "effectful"), give_back=True
        )
        finished = self._take_finished()
        if self._tasks:
            return self._advance(finished) if finished else None
        return self._released(finished)

    def _released(self, finished: tuple[FinishStep, ...]) -> Advance:
        if self.signals.pause:
            return self._advance(finished, status=RunStatus.PAUSED)
        return self._advance(finished, status=RunStatus.QUEUED, available_in=0.0)

    # -- results ------------------------------------------------------------------------------------------------

    def _taken(self) -> list[tuple[Step, Outcome]]:
        taken = {number: self._outcomes[number] for number in sorted(self._outcomes)}
        self._outcomes.clear()
        self._in_hand |= taken
        return list(taken.values())

    def _take_finished(self) -> tuple[FinishStep, ...]:
        """Turn outcomes into what is recorded, and tell the engine of the steps that ended."""
        finished: list[FinishStep] = []
        for step, outcome in self._taken():
            finish = self._finish(step, outcome)
            finished.append(finish)
            if finish.status.ended:
                self._open.pop(step.step_no, None)
                ended = replace(step, status=finish.status, output=finish.output, error=finish.error)
                self._state = self._engine.apply(
                    self._state, StepResult(ended, finish.records.messages, finish.records.plans)
                )
            else:
                due = float("inf") if finish.available_in is None else finish.available_in
                self._hold_open(
                    replace(
                        step,
                        status=finish.status,
                        attempt=step.attempt + (finish.status is StepStatus.PENDING),
                        failed_attempts=step.failed_attempts + finish.failed,
                        waits_for=finish.waits_for,
                        due_in_seconds=due,
                        credits_bound=0 if finish.status is StepStatus.RUNNING else step.credits_bound,
                    )
                )
        for number, step in sorted(self._returned.items()):
            finished.append(
                FinishStep(number, step.attempt, StepStatus.PENDING, bound=step.credits_bound, available_in=0.0)
            )
            self._hold_open(replace(step, status=StepStatus.PENDING, attempt=step.attempt + 1, due_in_seconds=0.0))
        self._returned.clear()
        return tuple(finished)

    def _finish(self, step: Step, outcome: Outcome) -> FinishStep:
        base = FinishStep(
            step.step_no,
            step.attempt,
            StepStatus.COMPLETED,
            credits=outcome.credits,
            bound=step.credits_bound,
            records=outcome.records,
        )
        if isinstance(outcome, Done):
            return replace(base, output=outcome.output)
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
        return replace(base, status=StepStatus.RUNNING, waits_for="timer", available_in=outcome.on)

    # -- committing ---------------------------------------------------------------------------------------------

    def _advance(
        self,
        finished: tuple[FinishStep, ...],
        *,
        start: tuple[StartStep, ...] = (),
        logs: tuple[NewLog, ...] = (),
        status: RunStatus | None = None,
        available_in: float | None = None,
        output: JsonObject | None = None,
        error: StepError | None = None,
    ) -> Advance:
        return Advance(
            self.run_id,
            self.lease_id,
            self.revision,
            finish=finished,
            start=start,
            logs=logs,
            status=status,
            available_in=available_in,
            output=output,
            error=error,
            in_flight=len(self._tasks),
        )

    async def _commit(self, item: Advance) -> Advanced | None:
        """Commit; None when the run goes on here, else the answer that took it out of our hands."""
        ending = item.status is not None and item.status.ended
        if ending:
            crash_point("before_finish")
        self._committing = True
        try:
            answer = await self._host.submit(item)
        except (AppError, ValueError) as error:
            return await self._commit_refused(item, error)
        finally:
            self._committing = False
        if ending:
            crash_point("after_finish")
        if not answer.won:
            if answer.lease_id != self.lease_id:
                log.warning("run.lease_lost run_id=%s", self.run_id)
                return answer
            # Somebody else wrote (an answer, say), or our own earlier call had won and its reply was lost.
            await self._reload()
            return None
        self._in_hand.clear()
        self.revision = answer.revision
        self._status = answer.status or self._status
        if answer.unsent:
            self._host.unsent(self.run_id)
        if answer.lease_id is None:
            self.resumes_in = item.available_in if answer.status is RunStatus.QUEUED else None
            return answer
        self.signals.stop |= answer.stop
        self.signals.pause |= answer.pause
        self._short = answer.short
        if not answer.short:
            self._started(item.start)
        return None

    async def _commit_refused(self, item: Advance, error: Exception) -> Advanced | None:
        """The database will never take this item: fail its steps, and if that is no way either, the run."""
        log.error("advance.refused run_id=%s error=%s", self.run_id, error)
        self._in_hand.clear()
        reason = StepError("unstorable", "The step's result cannot be stored")
        bare = tuple(
            replace(
                finish,
                status=StepStatus.FAILED,
                output=None,
                error=reason,
                records=replace(finish.records, logs=(), messages=(), artifacts=(), plans=()),
                request=None,
                waits_for=None,
                available_in=None,
            )
            for finish in item.finish
        )
        last = Advance(self.run_id, self.lease_id, self.revision, finish=bare, status=RunStatus.FAILED, error=reason)
        if bare:
            # Only the guilty step fails: the engine sees the failure and decides.
            only_steps = Advance(self.run_id, self.lease_id, self.revision, finish=bare, in_flight=len(self._tasks))
            try:
                answer = await self._host.submit(only_steps)
            except (AppError, ValueError):
                log.exception("advance.refused_again run_id=%s", self.run_id)
            else:
                if answer.won or answer.lease_id == self.lease_id:
                    await self._reload()
                    return None
                return answer
            last = replace(last, finish=())
        return await self._host.submit(last)

    def _started(self, starts: tuple[StartStep, ...]) -> None:
        for start in starts:
            if start.again:
                step = replace(self._open[start.step_no], status=StepStatus.RUNNING, waits_for=None)
            else:
                step = start.recorded()
                self._step_count += 1
                self._state = self._engine.started(self._state, step)
            self._hold_open(step)
            self._perform(step)

    # -- state --------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        self.signals.reload = False
        view = await self._host.store.load(self.run_id)
        if view is None or view.run.lease_id != self.lease_id:
            return  # the next advance will lose and say so
        self._adopt(view)

    def _adopt(self, view: RunView, *, first: bool = False) -> None:
        """Take the recorded run for the truth. `first`: right after the claim, when nothing is performed here yet."""
        self.revision = view.run.revision
        self._run = view.run
        self._status = view.run.status
        self._step_count = view.run.step_count
        self._max_steps = view.run.max_steps
        self._open = {step.step_no: step for step in view.open_steps}
        self._due_at = {step.step_no: self._loop.time() + step.due_in_seconds for step in view.open_steps}
        self._state = self._engine.open(view)
        for step in view.open_steps:
            self._state = self._engine.started(self._state, step)
        # A step that ended behind our back (a person answered) needs no task any more.
        for number in [number for number in self._tasks if number not in self._open]:
            self._tasks.pop(number).cancel()
        # Outcomes whose advance lost are offered again, unless they are recorded already.
        in_hand, self._in_hand = self._in_hand, {}
        for number, (step, outcome) in in_hand.items():
            recorded = self._open.get(number)
            if recorded is not None and recorded.attempt == step.attempt and _is_performed(recorded):
                self._outcomes[number] = (step, outcome)
        self._recover(first=first)

    def _recover(self, *, first: bool) -> None:
        """Take up the steps that are recorded as running and that nobody performs here."""
        for step in self._open.values():
            number = step.step_no
            if step.status is not StepStatus.RUNNING or number in self._tasks or number in self._outcomes:
                continue
            if step.waits_for == "timer" and self._due(step) <= 0:
                self._outcomes[number] = (step, Done())
            elif step.waits_for is not None:
                continue
            elif first and step.effect == "effectful":
                self._outcomes[number] = (step, Failed(unknown_outcome(step)))
            else:
                # Later under the same lease it never began: only the reply to our own start was lost.
                self._perform(step)

    def _hold_open(self, step: Step) -> None:
        self._open[step.step_no] = step
        self._due_at[step.step_no] = self._loop.time() + step.due_in_seconds

    def _due(self, step: Step) -> float:
        return self._due_at[step.step_no] - self._loop.time()

    # -- performing ---------------------------------------------------------------------------------------------

    def _perform(self, step: Step) -> None:
        self._tasks[step.step_no] = self._loop.create_task(self._perform_one(step, self._state))

    async def _perform_one(self, step: Step, state: object) -> None:
        context = Context(self._run, step, store=self._host.store, emit=self._emit)
        async with self._slots:
            outcome = await perform(self._engine, state, step, context)
        self._tasks.pop(step.step_no, None)
        self._outcomes[step.step_no] = (step, outcome)
        self._woken.set()

    def _emit(self, step: Step, offset: int, text: str) -> None:
        self._host.emit(Delta(self.run_id, self.lease_id, step.step_no, step.attempt, offset, text))

    async def _interrupt(self, numbers: tuple[int, ...], *, give_back: bool = False) -> None:
        """Cancel these steps and wait until they are gone; one that finished all the same keeps its outcome."""
        tasks = {number: self._tasks[number] for number in numbers if number in self._tasks}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for number in tasks:
            self._tasks.pop(number, None)
            if give_back and number not in self._outcomes:
                self._returned[number] = self._open[number]

    async def _wait(self) -> None:
        left = self._deadline - self._loop.time()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await self._woken.wait()
        except TimeoutError:
            return  # the deadline: `_next` ends the run


def _is_performed(step: Step) -> bool:
    return step.status is StepStatus.RUNNING and step.waits_for is None
