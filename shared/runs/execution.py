"""One claimed run, from its claim until it ends, waits or is given back.

The loop is: take in what finished, ask the engine, commit both in one `advance_runs` call, start what was committed.
One advance a run is in flight; steps that finish meanwhile join the next. Nothing is started that is not recorded
first, and nothing counts that was not committed under the run's lease.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, assert_never
from uuid import UUID, uuid4

from shared.crash_points import crash_point
from shared.errors import AppError
from shared.logs import logger
from shared.redaction import Redactor
from shared.runs.backoff import patiently
from shared.runs.bounds import Recorded, refusal_of_output, refusal_of_start
from shared.runs.decider import Decider
from shared.runs.engine import Decision, Engine, Fail, Finish, StartSteps, Wait
from shared.runs.host import Host, Signals
from shared.runs.models import JsonObject, NewLog, NewStep, RunView, Step, StepError
from shared.runs.news import News
from shared.runs.open_steps import OpenSteps
from shared.runs.performer import Context, Meter, perform
from shared.runs.results import Results
from shared.runs.snapshots import Snapshots
from shared.runs.status import RunStatus
from shared.runs.transitions import Advance, Advanced, FinishStep, StartStep

log = logger(__name__)


class Execution:
    """Drives one run under one lease."""

    def __init__(self, view: RunView, engine: Engine[Any], host: Host) -> None:
        if view.run.lease_id is None:
            raise ValueError("an execution needs a leased run")
        self.run_id = view.run.id
        self.lease_id: UUID = view.run.lease_id
        self.revision = view.run.revision
        self.signals = Signals(stop=view.run.stop_requested, pause=view.run.pause_requested)
        self.resumes_in: float | None = None
        """Seconds until the run is due again, when it was left queued."""
        self._view: RunView | None = view  # until it is adopted; all of its results would be much to hold
        self._run = view.run
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + view.run.remaining_seconds
        self._woken = News(self._loop)
        self._steps = OpenSteps(self._perform, woken=self._woken, parallel=host.parallel_steps)
        self._redactor = Redactor()  # knows what the run's steps have opened here, as long as the run is here
        self._results = Results(view.run.id, host.store)
        snapshots = Snapshots(view.run.id, engine, every=host.snapshot_steps)
        self._decider = Decider(engine, self._results, snapshots, self._redactor)
        self._committing = False
        self._occupied = False
        self._looked_at = self._loop.time()
        self._short = False
        self._unsent = True  # the claim's own line
        self._lost = False

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
        alarm = self._loop.call_at(self._deadline, self._woken.set)
        try:
            while True:
                self._woken.clear()
                item = await self._next()
                if self._lost:
                    return None
                if item is None:
                    await self._wait()
                    continue
                left = await self._commit(self._decider.with_snapshot(item, self._step_count, self._steps.numbers))
                if left is not None:
                    return left.status if left.won else None
                if self._occupied:
                    await self._wait()  # all that could start has started: only a result, a request or a time is news
        finally:
            alarm.cancel()
            await self._steps.interrupt()

    async def _wait(self) -> None:
        """Until a step has ended, somebody asks for something, or a waiting step is due."""
        # What was due at the last look and was not started (for want of credits, say) waits for other news.
        due = self._steps.next_due(after=self._looked_at)
        alarm = None if due is None else self._loop.call_at(due, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            if alarm is not None:
                alarm.cancel()

    # -- what comes next ------------------------------------------------------------------------------------------

    async def _next(self) -> Advance | None:
        """Build the next advance; None when there is nothing to commit yet, or the lease is lost."""
        try:
            view, self._view = self._view, None
            if view is not None and not await self._adopt(view, first=True):
                self._lost = True
                return None
            return await self._choose()
        except AppError:
            raise
        except Exception:  # an engine's bug ends its run readably and leaves the others alone
            log.exception("engine.crashed run_id=%s engine=%s", self.run_id, self._decider.engine.name)
            return await self._end(RunStatus.FAILED, StepError("internal", "The engine failed by an unexpected error"))

    async def _choose(self) -> Advance | None:
        self._looked_at = self._loop.time()
        if self._steps.timer_is_due():
            self.signals.reload = True  # the database says how long it really is
        if self.signals.reload:
            await self._reload()
        if self.signals.stop:
            return await self._end(RunStatus.CANCELLED)
        if self._loop.time() >= self._deadline:
            await self._reload()  # our clock only says when to ask: the database's decides
        if self._run.remaining_seconds <= 0:
            return await self._end(RunStatus.TIMEOUT, StepError("deadline", "The run reached its deadline"))
        if self.signals.pause or self.signals.give_back:
            return await self._let_go()
        finished = self._take_finished()
        return await self._decided(self._decider.decide(), finished)

    async def _decided(self, decision: Decision, finished: tuple[FinishStep, ...]) -> Advance | None:
        match decision:
            case Finish() if self._status is RunStatus.PLANNING:
                # Only an executing run completes; the decision is the same once that is committed.
                return self._advance(finished, status=RunStatus.EXECUTING)
            case Finish(output, logs):
                refused = refusal_of_output(output)
                if refused is not None:
                    return await self._fail(finished, refused, logs)
                finished += await self._rest_of_results()
                return self._advance(finished, logs=logs, status=RunStatus.COMPLETED, output=output)
            case Fail(error, logs):
                return await self._fail(finished, error, logs)
            case StartSteps(steps, status, logs):
                return await self._start(finished, steps, status, logs)
            case Wait():
                return await self._start(finished, (), None, ())
            case _:
                assert_never(decision)

    async def _start(
        self,
        finished: tuple[FinishStep, ...],
        steps: tuple[NewStep, ...],
        status: RunStatus | None,
        logs: tuple[NewLog, ...],
    ) -> Advance | None:
        again = self._steps.due()
        if self._short and self._steps.in_flight:
            steps, again, logs = (), [], ()  # no credits for more; what is performed may still give some back
        wanted = (*steps, *(step.to_new() for step in again)) if again else steps
        if wanted:
            refusal = refusal_of_start(
                wanted,
                new=len(steps),
                step_count=self._step_count,
                max_steps=self._run.max_steps,
                longest_seconds=self._host.longest_step_seconds,
            )
            if refusal is not None:
                return await self._fail(finished, refusal)
            if self._host.seconds_left() < max([step.timeout_seconds for step in wanted]):
                # Not enough time here for the next step: the run goes on elsewhere, from its rows alone.
                if self._steps.in_flight:
                    return self._advance_if_news(finished)
                self._host.out_of_time()
                return self._released(finished)
        starts = tuple([StartStep(number, uuid4(), step) for number, step in enumerate(steps, self._step_count + 1)])
        if again:
            starts += tuple(StartStep(step.step_no, step.effect_key, step.to_new(), again=True) for step in again)
        if starts:
            new_status = None if status in (None, self._status) else status
            return self._advance(finished, start=starts, logs=logs, status=new_status)
        if self._steps.in_flight:
            return self._advance_if_news(finished, logs)
        return self._resting(finished, logs)

    def _resting(self, finished: tuple[FinishStep, ...], logs: tuple[NewLog, ...]) -> Advance:
        """Nothing runs and nothing starts: a wait costs no lease and no process."""
        rest = self._steps.rest()
        if rest is not None:
            status, available_in = rest
            return self._advance(finished, logs=logs, status=status, available_in=available_in)
        stuck = f"The engine {self._decider.engine.name!r} neither started a step nor ended the run"
        return self._advance(finished, logs=logs, status=RunStatus.FAILED, error=StepError("engine_stuck", stuck))

    async def _fail(self, finished: tuple[FinishStep, ...], error: StepError, logs: tuple[NewLog, ...] = ()) -> Advance:
        finished += await self._rest_of_results()
        return self._advance(finished, logs=logs, status=RunStatus.FAILED, error=error)

    async def _end(self, status: RunStatus, error: StepError | None = None) -> Advance:
        """End the run now, with the results and costs that are there."""
        in_hand = self._steps.in_hand()
        return self._advance((*in_hand, *await self._rest_of_results()), status=status, error=error)

    async def _rest_of_results(self) -> tuple[FinishStep, ...]:
        """Interrupt what runs; results that came all the same are recorded and booked, though no engine sees them."""
        await self._steps.interrupt()
        return tuple(finish for _, finish in self._steps.take())

    async def _let_go(self) -> Advance | None:
        """Pause, or give the run back: what can be repeated is interrupted, what has effects is awaited."""
        await self._steps.interrupt(give_back=True)
        finished = self._take_finished()
        if self._steps.in_flight:
            return self._advance_if_news(finished)
        return self._released(finished)

    def _released(self, finished: tuple[FinishStep, ...]) -> Advance:
        if self.signals.pause:
            return self._advance(finished, status=RunStatus.PAUSED)
        return self._advance(finished, status=RunStatus.QUEUED, available_in=0.0)

    def _take_finished(self) -> tuple[FinishStep, ...]:
        """Take what finished, and tell the engine of the steps that ended."""
        taken = self._steps.take()
        for step, finish in taken:
            if finish.status.ended:
                self._decider.ended(step.ended(finish.status, finish.output, finish.error), finish.records, finish.size)
        return tuple([finish for _, finish in taken])

    # -- committing ---------------------------------------------------------------------------------------------

    def _advance_if_news(self, finished: tuple[FinishStep, ...], logs: tuple[NewLog, ...] = ()) -> Advance | None:
        return self._advance(finished, logs=logs) if finished or logs or self._steps.has_said else None

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
            said=self._steps.take_said(),
            logs=logs,
            status=status,
            available_in=available_in,
            output=output,
            error=error,
            in_flight=self._steps.in_flight,
        )

    async def _commit(self, item: Advance) -> Advanced | None:
        """Commit; None when the run goes on here, else the answer that took it out of our hands."""
        ending = item.status is not None and item.status.ended
        if ending:
            crash_point("before_finish")
        self._committing = True
        self._occupied = False
        try:
            answer = await self._host.submit(item)
        except Exception:  # whatever makes it uncommittable, only this run pays for it
            log.exception("advance.refused run_id=%s", self.run_id)
            return await self._commit_without(item)
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
        self._steps.committed()
        self._decider.committed()
        self.revision = answer.revision
        self._status = answer.status or self._status
        if answer.unsent or self._unsent:
            self._unsent = answer.unsent
            self._host.unsent(self.run_id, some=answer.unsent)
        if answer.lease_id is None:
            self.resumes_in = item.available_in if answer.status is RunStatus.QUEUED else None
            return answer
        self.signals.stop |= answer.stop
        self.signals.pause |= answer.pause
        self._short = answer.short
        if not answer.short:
            self._started(item.start)
            self._occupied = bool(item.start) and not (answer.stop or answer.pause)
        return None

    async def _commit_without(self, item: Advance) -> Advanced | None:
        """The database will never take this item: leave out its snapshot, else fail its steps, else the run."""
        if item.snapshot is not None:
            self._decider.refuse_snapshots()
            return await self._commit(replace(item, snapshot=None))
        self._steps.committed()
        reason = StepError("unstorable", "The step's result cannot be stored")
        if not item.finish:
            return await self._host.submit(self._advance((), status=RunStatus.FAILED, error=reason))
        for finish in item.finish:
            answer = await self._record(finish, reason, guilty=len(item.finish) == 1 and not item.start)
            if not answer.won:
                if answer.lease_id != self.lease_id:
                    return answer
                break
            self.revision = answer.revision
        await self._reload()  # the engine sees what was kept and what failed, and decides
        return None

    async def _record(self, finish: FinishStep, reason: StepError, *, guilty: bool) -> Advanced:
        """Commit one result by itself, and if it is refused even so, its step's failure."""
        if not guilty:
            try:
                return await self._host.submit(self._advance((finish,)))
            except Exception:  # then this is the one
                log.exception("result.refused run_id=%s step_no=%d", self.run_id, finish.step_no)
        return await self._host.submit(self._advance((finish.failed_for(reason),)))

    def _started(self, starts: tuple[StartStep, ...]) -> None:
        for start in starts:
            if start.again:
                step = self._steps.restarted(start.step_no)
            else:
                step = start.recorded()
                self._step_count += 1
                self._decider.started(step)
            self._steps.start(step)

    # -- reading ------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        """Read the run again and go on from there."""
        self.signals.reload = False
        view = await self._load()
        if view is not None:
            await self._adopt(view, first=False)
        # Otherwise the next advance loses, and says so.

    async def _load(self, *, whole: bool = False) -> RunView | None:
        """Read the run, waiting for a database that is away; None when it is no longer ours."""
        view = await patiently(lambda: self._host.store.load(self.run_id, whole=whole))
        return None if view is None or view.run.lease_id != self.lease_id else view

    async def _adopt(self, view: RunView, *, first: bool) -> bool:
        """Go on from what is recorded; False when the run had to be read again and was no longer ours."""
        if not self._open(view):
            whole = await self._load(whole=True)
            if whole is None:
                return False
            view = whole
            self._open(view)
        self._steps.adopt(view.open_steps, first=first)
        return True

    def _open(self, view: RunView) -> bool:
        """Take the view for the truth; False when the engine cannot read its snapshot."""
        self._run = view.run
        self._deadline = self._loop.time() + view.run.remaining_seconds
        self.revision = view.run.revision
        self._status = view.run.status
        self._step_count = view.run.step_count
        return self._decider.open(view)

    # -- performing ---------------------------------------------------------------------------------------------

    async def _perform(self, step: Step, meter: Meter) -> Recorded:
        context = Context(
            self._run,
            self.lease_id,
            step,
            meter,
            host=self._host,
            results=self._results,
            redactor=self._redactor,
            say=self._steps.say,
        )
        return await perform(self._decider.engine, self._decider.state, step, context)
