"""The worker: claims runs, drives them side by side, and keeps their leases alive.

One class serves the long-lived worker (no time limit) and the drain (a time budget, then everything is given back). It
holds nothing that a restart would lose: whatever it was doing, its rows say so.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final
from uuid import UUID, uuid4

from shared.crash_points import crash_point
from shared.errors import AppError, DatabaseUnavailable, Forbidden, Unauthenticated
from shared.logs import logger
from shared.runs.advancer import Advancer
from shared.runs.backoff import backoff_seconds
from shared.runs.deltas import Deltas
from shared.runs.engine import CredentialVault, Engine
from shared.runs.execution import Execution
from shared.runs.models import RunId
from shared.runs.snapshots import SNAPSHOT_STEPS
from shared.runs.status import RunStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, Advanced, Delta
from shared.runs.wake import NoWake, Wake

log = logger(__name__)

TICK_SECONDS: Final = 0.2  # deltas at most five a second, tails of log lines soon after their burst
MAX_CLAIM: Final = 100
SUSPECT_ATTEMPTS: Final = 2  # a run that lost its worker so often in a row may be what kills it
SUSPECT_SECONDS: Final = 10.0  # what kills its worker does so soon; a long step must not keep everybody else out
CANCEL_SECONDS: Final = 1.0  # for a task to hear of it, before it is told again
DEADLINE_MARGIN_SECONDS: Final = 1.0  # kept back of a time budget for the last commits


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
        concurrency: Runs held at a time.
        parallel_steps: Steps of one run performed at a time.
        lease_seconds: How long a killed worker's runs stand still.
        poll_seconds: How often an idle worker looks by itself.
        longest_step_seconds: What the longest-lived host of this deployment can perform; a step that may take longer
            fails its run at once instead of wandering for ever.
        snapshot_steps: At most once in so many ended steps an engine's state is stored.
    """

    concurrency: int = 20
    parallel_steps: int = 8
    lease_seconds: float = 15.0
    heartbeat_seconds: float = 2.0
    poll_seconds: float = 5.0
    longest_step_seconds: float = inf
    snapshot_steps: int = SNAPSHOT_STEPS
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}")


class Worker:
    """Claims and drives runs until it is told to stop."""

    def __init__(
        self,
        store: RunStore,
        engines: Mapping[str, Engine[Any]],
        *,
        options: WorkerOptions | None = None,
        wake: Wake | None = None,
        vault: CredentialVault | None = None,
    ) -> None:
        """Without a `vault`, a step that opens a credential fails; all others are performed as ever."""
        self.store = store
        self.vault = vault
        self.options = options or WorkerOptions()
        self.parallel_steps = self.options.parallel_steps
        self.longest_step_seconds = self.options.longest_step_seconds
        self.snapshot_steps = self.options.snapshot_steps
        self.left: Counter[str] = Counter()
        """How many times runs left this worker, by the status they were left in (`lost`: another worker has it)."""
        self.swept = 0
        self.claimed = 0
        self._engines = engines
        self._wake = wake or NoWake()
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._executions: dict[RunId, Execution] = {}
        self._driving: dict[RunId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._advancer = Advancer(store, lease_seconds=self.options.lease_seconds, runs=lambda: len(self._executions))
        self._deltas = Deltas()
        self._unsent: set[RunId] = set()
        self._suspects: set[RunId] = set()
        self._next_due: float | None = None
        self._until = inf
        self._failures = 0
        self._beats_failed = False
        self._broken: BaseException | None = None

    async def run(self, *, seconds: float | None = None, until_idle: bool = False) -> None:
        """Work until `stop`, until `seconds` are nearly up, or (`until_idle`) until nothing is due.

        On the way out every held run is committed as far as it came and given back.

        Raises:
            AppError: the database refuses to let this worker work at all (a wrong key, a missing function).
        """
        loop = asyncio.get_running_loop()
        if seconds is not None:
            self._until = loop.time() + seconds
        # The advancer outlives the executions: their last words go through it.
        helpers = [
            loop.create_task(helping)
            for helping in (self._advancer.serve(), self._beat(), self._tick(), self._wake.serve(self._woken))
        ]
        for helper in helpers:
            helper.add_done_callback(self._helper_ended)
        try:
            await self._claim_while_open(until_idle=until_idle)
            for execution in self._executions.values():
                execution.signal(give_back=True)
            while self._tasks and self._broken is None and self._until > loop.time():
                left = self._until - loop.time()
                await asyncio.wait({*self._tasks, *helpers}, return_when=asyncio.FIRST_COMPLETED, timeout=left)
            if self._tasks and self._broken is None:
                # The database takes nothing, and the host will not wait: the leases run out by themselves.
                log.error("worker.out_of_time runs=%d", len(self._executions))
            else:
                await self._tick_once()
        finally:
            await _cancelled([*self._tasks, *helpers])
        if self._broken is not None:
            raise self._broken

    def _helper_ended(self, helper: asyncio.Task[None]) -> None:
        """A worker whose heartbeat or advancer died holds leases it cannot keep: it ends, loudly."""
        if not helper.cancelled() and helper.exception() is not None:
            self._broken = helper.exception()
            self.stop()

    def stop(self) -> None:
        """Claim no more and give back what is held; `run` returns when that is done."""
        self._stopping.set()
        self._woken.set()

    # -- Host ---------------------------------------------------------------------------------------------------

    async def submit(self, item: Advance) -> Advanced:
        answer = await self._advancer.submit(item)
        if answer.won and item.run_id in self._suspects and any(step.status.ended for step in item.finish):
            self._cleared(item.run_id)
        return answer

    def emit(self, delta: Delta) -> None:
        self._deltas.add(delta)

    def unsent(self, run_id: RunId, *, some: bool) -> None:
        if some:
            self._unsent.add(run_id)
        else:
            self._unsent.discard(run_id)

    def out_of_time(self) -> None:
        self.stop()

    def seconds_left(self) -> float:
        if self._until == inf:
            return inf
        return self._until - asyncio.get_running_loop().time() - DEADLINE_MARGIN_SECONDS

    # -- claiming -----------------------------------------------------------------------------------------------

    async def _claim_while_open(self, *, until_idle: bool) -> None:
        while not self._stopping.is_set() and self.seconds_left() > 0:
            self._woken.clear()
            free = min(MAX_CLAIM, self.options.concurrency - len(self._executions))
            if self._beats_failed:
                free = 0  # who cannot keep what he holds takes no more, least of all his own expired runs
            if self._suspects:
                free = 0  # should it kill us, it takes nobody along who was not here before
            claimed = await self._claim(free) if free > 0 else 0
            if until_idle and claimed == 0 and not self._executions and self._failures == 0:
                return
            if claimed == free > 0:
                continue  # there may be more
            await self._rest(claims=free > 0)

    async def _claim(self, limit: int) -> int:
        crash_point("before_claim")
        try:
            # After a failure one at a time, so that a run that cannot be read keeps nobody else from being claimed.
            claim = await self.store.claim(
                owner=self.options.owner,
                limit=limit if self._failures == 0 else 1,
                lease_seconds=self.options.lease_seconds,
                engines=tuple(self._engines),
            )
        except (Forbidden, Unauthenticated):
            raise  # a wrong key does not become right
        except DatabaseUnavailable as error:
            self._failures += 1
            log.warning("claim.unavailable tries=%d code=%s", self._failures, error.details)
            return 0
        except Exception:
            self._failures += 1
            log.exception("claim.failed tries=%d", self._failures)
            return 0
        crash_point("after_claim")
        self._failures = 0
        self.swept += claim.swept
        self.claimed += len(claim.views)
        loop = asyncio.get_running_loop()
        self._next_due = None if claim.next_in_seconds is None else loop.time() + claim.next_in_seconds
        for view in claim.views:
            await self._abandon(view.run.id)
            if view.run.attempt >= SUSPECT_ATTEMPTS:
                log.warning("run.suspect run_id=%s attempt=%d", view.run.id, view.run.attempt)
                self._suspects.add(view.run.id)
                loop.call_later(SUSPECT_SECONDS, self._cleared, view.run.id)
            execution = Execution(view, self._engines[view.run.engine], self)
            self._executions[view.run.id] = execution
            self._unsent.add(view.run.id)  # the claim's own line
            task = self._driving[view.run.id] = loop.create_task(self._drive(execution))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claim.views)

    async def _abandon(self, run_id: RunId) -> None:
        """A run of ours whose lease ran out has come back under a new one: the old execution is history."""
        old = self._driving.get(run_id)
        if old is not None:
            old.cancel()
            await asyncio.gather(old, return_exceptions=True)

    def _cleared(self, run_id: RunId) -> None:
        """A suspect has come further, is gone, or has killed nobody so far: others may be claimed again."""
        if run_id in self._suspects:
            self._suspects.discard(run_id)
            self._woken.set()

    async def _rest(self, *, claims: bool) -> None:
        """Wait for a wake, a free slot, the poll, and if a claim could take it (`claims`) the next timer."""
        now = asyncio.get_running_loop().time()
        pause = self.options.poll_seconds
        if self._failures > 0:
            pause = min(pause, backoff_seconds(self._failures) / 4)
        elif self._next_due is not None and claims:
            pause = min(pause, max(0.0, self._next_due - now))
        try:
            async with asyncio.timeout(max(0.0, min(pause, self.seconds_left()))):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _drive(self, execution: Execution) -> None:
        status: RunStatus | None = None
        try:
            status = await execution.drive()
        except Exception:  # one run's trouble is not the worker's
            # Nothing more can be said about the run: its lease runs out, and another worker tries.
            log.exception("run.abandoned run_id=%s", execution.run_id)
        finally:
            full = len(self._executions) >= self.options.concurrency
            if self._executions.get(execution.run_id) is execution:
                del self._executions[execution.run_id]
                del self._driving[execution.run_id]
                self._cleared(execution.run_id)
            self.left["lost" if status is None else status.value] += 1
        if execution.resumes_in is not None:
            due = asyncio.get_running_loop().time() + execution.resumes_in
            self._next_due = due if self._next_due is None else min(self._next_due, due)
        if full or execution.resumes_in is not None or not self._executions:
            self._woken.set()  # a slot is free, or a timer is new

    # -- keeping ------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """One call for all held runs: extend the leases, learn who should stop."""
        while True:
            await asyncio.sleep(self.options.heartbeat_seconds)
            leases: dict[RunId, UUID] = {run_id: held.lease_id for run_id, held in self._executions.items()}
            if not leases:
                self._beats_failed = False
                continue
            try:
                beats = await self.store.heartbeat(leases, lease_seconds=self.options.lease_seconds)
            except AppError as error:
                self._beats_failed = True
                log.warning("heartbeat.failed runs=%d code=%s", len(leases), error.code)
                continue
            if self._beats_failed:
                self._beats_failed = False
                self._woken.set()
            for beat in beats:
                execution = self._executions.get(beat.run_id)
                if execution is not None and execution.lease_id == beat.lease_id:
                    execution.signal(stop=beat.stop, pause=beat.pause, revision=beat.revision)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self._tick_once()

    async def _tick_once(self) -> None:
        """Send model output and the tails of log lines. Losing them costs a viewer a moment, never the run."""
        deltas = self._deltas.take()
        unsent, self._unsent = sorted(self._unsent), set()
        try:
            if deltas:
                await self.store.publish(deltas)
            if unsent:
                await self.store.flush_logs(unsent)
        except (AppError, ValueError) as error:
            log.warning("tick.failed deltas=%d runs=%d error=%s", len(deltas), len(unsent), type(error).__name__)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they have ended.

    What is cancelled in a task may end otherwise all the same, and then the task has heard of nothing: so again.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
