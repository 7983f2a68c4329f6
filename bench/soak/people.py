"""The people: they start runs at a steady rate, answer, stop, pause, resume and add credits, and believe every reply.

They speak to Postgres as PostgREST would for them. While the database is away they ask again, with the same idempotency
key, so a lost reply must never make a second run; what was acknowledged once they expect to find at the end.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool

from bench.soak.crowd import LITTLE, Person
from bench.soak.plan import NOBODY_ANSWERS, RunPlan, draw

ASK_AGAIN_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 0.25
PAUSE_SECONDS: Final = 1.0  # how long a paused run stays so at least
TWICE: Final = 0.03  # share of calls that are delivered twice
BACKLOG: Final = 1_500  # open runs above which no new ones are started: the load is to be steady, not a flood
_DEADLOCK: Final = "40P01"
# Answers to a move that came too late or is not possible now: run ended, other move, no open question.
_TOO_LATE: Final = frozenset({"RUN02", "RUN04", "RUN08"})
PATIENCE: Final = 4  # times that a person waits for as long as told, before he gives a run up

T = TypeVar("T")


@dataclass(slots=True)
class Told:
    """What people had acknowledged: runs, answers by question, and replies that cannot be right."""

    created: dict[UUID, RunPlan] = field(default_factory=dict)
    answered: dict[UUID, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class People:
    """The load, and what everybody was told."""

    def __init__(self, pool: AsyncConnectionPool, crowd: list[Person], *, seed: int) -> None:
        self.told = Told()
        self.tally: Counter[str] = Counter()
        self.open_runs = 0
        self.longest_overdue = 0.0
        """Seconds that a dead worker's run stood still at most, beyond its lease."""
        self._pool = pool
        self._crowd = crowd
        # Chances of their own: the order of replies must not change which runs come next.
        self._plans = random.Random(f"{seed} plans")
        self._habits = random.Random(f"{seed} habits")
        self._playing: set[asyncio.Task[None]] = set()

    async def start_runs(self, *, rate: float) -> None:
        """Start `rate` runs a second until cancelled, however long the database takes."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self.open_runs + len(self._playing) >= BACKLOG:
                self.tally["starts held back"] += 1
                continue
            task = asyncio.create_task(self._play(draw(self._plans), self._plans.choice(self._crowd)))
            self._playing.add(task)
            task.add_done_callback(self._played)

    async def settled(self) -> None:
        """Wait until every start, stop and pause that began has had its reply."""
        while self._playing:
            await asyncio.wait(self._playing)

    async def attend(self) -> None:
        """Answer questions, resume what is paused and add credits, until cancelled."""
        while True:
            for statement, care in ((_QUESTIONS, self._answer), (_PAUSED, self._resume)):
                rows = await self._insist(lambda statement=statement: self._look(statement))
                for result in await asyncio.gather(*(care(*row) for row in rows), return_exceptions=True):
                    self._note(result)
            await asyncio.sleep(LOOK_SECONDS)

    async def observe(self) -> None:
        """Keep `open_runs` and `longest_overdue` fresh, until cancelled."""
        while True:
            ((self.open_runs, overdue),) = await self._insist(lambda: self._look(_STATE))
            self.longest_overdue = max(self.longest_overdue, overdue)
            await asyncio.sleep(LOOK_SECONDS)

    async def count_open(self) -> int:
        rows = await self._insist(lambda: self._look(_STATE))
        return rows[0][0]

    # -- one run ------------------------------------------------------------------------------------------------

    def _played(self, task: asyncio.Task[None]) -> None:
        self._playing.discard(task)
        if not task.cancelled():
            self._note(task.exception())

    def _note(self, error: BaseException | None) -> None:
        """A refusal that nobody expected is a finding, and the others go on."""
        if isinstance(error, psycopg.Error):
            self.told.wrong.append(f"a call was answered by {type(error).__name__}: {error}")
        elif error is not None:
            raise error

    async def _play(self, plan: RunPlan, person: Person) -> None:
        account_id = self._habits.choice(person.accounts)
        request = json.dumps({
            "engine": "soak", "input": plan.to_json(), "account_id": str(account_id), "autostart": True,
            "timeout_seconds": plan.timeout_seconds, "priority": plan.priority,
            "concurrency_key": plan.concurrency_key,
        })  # fmt: skip
        key = str(uuid4())
        run_id = await self._create(person.id, account_id, request, key)
        if run_id is None:
            return
        self.told.created[run_id] = plan
        if self._habits.random() < TWICE:
            self.tally["creates delivered twice"] += 1
            again = await self._create(person.id, account_id, request, key)
            if again != run_id:
                self.told.wrong.append(f"the key of run {run_id} answered another run {again}")
        if plan.kind in ("stopped", "paused"):
            await asyncio.sleep(self._habits.uniform(0.0, 2.0))
            action = "stop" if plan.kind == "stopped" else "pause"
            if await self._may("control_run", person.id, run_id, action) is not None:
                self.tally[f"{action}s"] += 1

    async def _create(self, user_id: UUID, account_id: UUID, request: str, key: str) -> UUID | None:
        """Ask until the run is there; None when it was refused as too often for too long."""
        refusals = 0
        while refusals < PATIENCE:
            try:
                answer = await self._insist(lambda: self._call("create_run", user_id, request, key))
            except psycopg.Error as error:
                match error.sqlstate:
                    case "RUN10":
                        self.tally["creates without credits"] += 1
                        await self._grant(account_id)
                    case "RUN09":
                        self.tally["creates refused as too often"] += 1
                        refusals += 1
                        detail = json.loads(error.diag.message_detail or "{}")
                        await asyncio.sleep(float(detail["retry_after_seconds"]))
                    case _:
                        raise
            else:
                return UUID(answer["run_id"])
        self.tally["creates given up"] += 1
        return None

    async def _answer(self, request_id: UUID, run_id: UUID, user_id: UUID) -> None:
        response = f"yes to {request_id}"
        for _ in range(1 + (self._habits.random() < TWICE)):
            if await self._may("respond_run", user_id, run_id, json.dumps(response), request_id, str(request_id)):
                self.told.answered[request_id] = response

    async def _resume(self, run_id: UUID, user_id: UUID, account_id: UUID, available: int) -> None:
        if available < LITTLE:
            await self._grant(account_id)
        if await self._may("control_run", user_id, run_id, "resume") is not None:
            self.tally["resumes"] += 1

    async def _grant(self, account_id: UUID) -> None:
        self.tally["credits added"] += 1
        await self._insist(lambda: self._look("select public.grant_credits(%s, %s)", account_id, LITTLE * 2))

    # -- the wire -----------------------------------------------------------------------------------------------

    async def _may(self, function: str, user_id: UUID, *values: object) -> dict[str, Any] | None:
        """A move that may come too late, which is no error: None then."""
        try:
            return await self._insist(lambda: self._call(function, user_id, *values))
        except psycopg.Error as error:
            if error.sqlstate not in _TOO_LATE:
                raise
            self.tally["moves too late"] += 1
            return None

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask until the database answers. Only an error that says so means that it is away."""
        while True:
            try:
                return await call()
            except psycopg.OperationalError as error:
                self.tally["deadlocks" if error.sqlstate == _DEADLOCK else "calls repeated"] += 1
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _call(self, function: str, user_id: UUID, *values: object) -> dict[str, Any]:
        marks = ", ".join("%s" for _ in values)
        claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
        async with self._pool.connection() as connection:  # one transaction, committed at the end
            await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            await connection.execute("set local role authenticated")
            row = await (await connection.execute(f"select public.{function}({marks})", values)).fetchone()
        assert row is not None
        return row[0]

    async def _look(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement, values)).fetchall()


_QUESTIONS: Final = f"""
  select q.id, q.run_id, r.user_id from public.human_requests q join public.agent_runs r on r.id = q.run_id
  where q.status = 'open' and q.prompt <> '{NOBODY_ANSWERS}' limit 100
"""
_PAUSED: Final = f"""
  select r.id, r.user_id, r.account_id, c.available
  from public.agent_runs r join public.credit_accounts c on c.account_id = r.account_id
  where r.finished_at is null and coalesce(r.paused_at, r.pause_requested_at) < now() - interval '{PAUSE_SECONDS} s'
  limit 100
"""
_STATE: Final = """
  select count(*)::int,
    coalesce(extract(epoch from max(now() - lease_expires_at) filter (where lease_expires_at < now())), 0)::float8
  from public.agent_runs where finished_at is null
"""
