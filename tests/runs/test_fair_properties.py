"""Whatever people, workers, timers and operators do with the queue: places are counted right, nobody waits beside an
empty one, and claims go by the fair order.

`RUNBASE_MACHINE_EXAMPLES=2000 pytest tests/runs/test_fair_properties.py` searches on.
"""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from shared.runs.transitions import Claim
from tests.runs.machine.world import Refused, World
from tests.runs.queueing import BROKEN, OVER_THE_LIMIT, Held
from tests.support.agents import PUBLISHED_AGENT
from tests.support.runs import claim

SEARCH = "RUNBASE_MACHINE_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("RUNBASE_MACHINE_EXAMPLES", "40"))
MAX_RUNS = 14
LEASE_SECONDS = 1e6

PEOPLE = st.sampled_from(["alice", "bob"])
WHICH = st.integers(0, MAX_RUNS - 1)
PLACES = st.integers(1, 4)

_READY = """
select coalesce(jsonb_agg(jsonb_build_object(
  'id', id, 'account', account_id, 'tag', fair_tag, 'priority', priority)), '[]')
from public.agent_runs where status = 'queued' and held_for = 0
"""
_ASLEEP = """
select count(*) from public.agent_runs where status = 'queued' and held_for is null and available_at <= private.clock()
"""
_RUNS = "select coalesce(jsonb_agg(jsonb_build_array(id, account_id) order by id), '[]') from public.agent_runs"


class Queue(RuleBasedStateMachine):
    """Two accounts, an agent that both may start, two keys, and a worker that does anything with what it claims."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.held: dict[str, Held] = {}
        self.agent_id = ""
        self.was_lowered = False

    @initialize(alice=PLACES, bob=PLACES, of_agent=PLACES, share=st.sampled_from([1, 4]))
    def begin(self, alice: int, bob: int, of_agent: int, share: int) -> None:
        world = self.world
        world.run(world.reset())
        world.run(self.do("truncate private.slots, public.agents cascade"))
        world.run(self.do("update private.tiers set share = %s where name = 'pro'", share))
        one, other = world.people["alice"], world.people["bob"]
        for name, tier, places in (("alice", "free", alice), ("bob", "pro", bob)):
            world.run(self.do("update private.tiers set concurrent_runs = %s where name = %s", places, tier))
            world.run(self.do("select public.set_tier(%s, %s)", world.people[name].id, tier))
            world.run(world.grant(name, 100_000_000))
        world.run(self.do("insert into public.account_members values (%s, %s, 'member')", one.id, other.id))
        self.agent_id = world.run(
            world.see(
                PUBLISHED_AGENT,
                one.id,
                of_agent,
            )
        )

    @invariant()
    def places_are_right(self) -> None:
        assert (
            self.world.run(self.world.see(f"select coalesce(jsonb_agg(b.what), '[]') from ({BROKEN}) b (what)")) == []
        )
        if not self.was_lowered:
            assert self.world.run(self.world.see(f"select count(*) from ({OVER_THE_LIMIT}) o")) == 0

    @precondition(lambda self: len(self.runs()) < MAX_RUNS)
    @rule(
        who=PEOPLE,
        key=st.sampled_from([None, None, "crm", "mail"]),
        limit=PLACES,
        of_agent=st.booleans(),
        priority=st.sampled_from([0, 0, 0, -1, 5]),
        times=st.integers(1, 4),
    )
    def queue(self, who: str, key: str | None, limit: int, of_agent: bool, priority: int, times: int) -> None:  # noqa: FBT001
        request: dict[str, Any] = {"engine": "list", "input": {}, "autostart": True, "priority": priority}
        if key is not None:
            request |= {"concurrency_key": key, "concurrency_limit": limit}
            self.was_lowered = True  # the newest says the limit: it may be less than what goes on
        if of_agent:
            request["agent_id"] = self.agent_id
        for _ in range(min(times, MAX_RUNS - len(self.runs()))):
            self.world.run(self.world.people[who].call("create_run", json.dumps(request)))

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        before = self.ready()
        claimed = {str(view.run.id): view for view in self.claim_up_to(limit).views}
        left = [run for run in self.ready() if run["id"] in {one["id"] for one in before}]
        tags = [
            self.world.run(self.world.see("select fair_tag from public.agent_runs where id = %s", i)) for i in claimed
        ]
        assert len(claimed) == limit or not left, "there was more to claim"
        assert not left or not tags or max(tags) <= min(run["tag"] for run in left)
        for run in before:
            if run["id"] in claimed:
                rivals = [one["priority"] for one in left if one["account"] == run["account"]]
                assert max(rivals, default=run["priority"]) <= run["priority"]
        self.held |= {run_id: Held.of(self.world.store, view) for run_id, view in claimed.items()}

    @precondition(lambda self: self.held)
    @rule(which=WHICH, what=st.sampled_from(["end", "end", "give_back", "sleep", "ask"]))
    def advance(self, which: int, what: str) -> None:
        run_id = sorted(self.held)[which % len(self.held)]
        worker = self.held.pop(run_id)
        status = self.world.run(self.world.see("select status from public.agent_runs where id = %s", run_id))
        if what == "ask" and status == "planning":
            self.world.run(worker.ask())
        elif what == "sleep":
            self.world.run(worker.sleep(60))
        elif what == "give_back":
            self.world.run(worker.give_back())
        else:
            self.world.run(worker.end())

    @precondition(lambda self: self.runs())
    @rule(which=WHICH, action=st.sampled_from(["stop", "pause", "pause", "resume", "resume"]))
    def control(self, which: int, action: str) -> None:
        run_id, account_id = self.pick(which)
        self.world.run(self.try_to("control_run", account_id, run_id, action))

    @precondition(lambda self: self.runs())
    @rule(which=WHICH)
    def respond(self, which: int) -> None:
        run_id, account_id = self.pick(which)
        self.world.run(self.try_to("respond_run", account_id, run_id, '"Green"'))

    @rule(seconds=st.sampled_from([30, 61, 61, 3700]))
    def wait(self, seconds: int) -> None:
        self.world.run(self.world.jump(seconds))

    @rule(places=PLACES, what=st.sampled_from(["free", "pro", "agent"]))
    def change_a_limit(self, places: int, what: str) -> None:
        self.was_lowered = True
        if what == "agent":
            self.world.run(self.do("update public.agents set max_concurrent_runs = %s", places))
        else:
            self.world.run(self.do("update private.tiers set concurrent_runs = %s where name = %s", places, what))

    @rule()
    def look_idly(self) -> None:
        """After a claim that met nobody, nothing is left to recheck, and every timer that is due has come up."""
        self.claim_up_to(0)
        assert self.world.run(self.world.see("select count(*) from private.slots where recheck")) == 0
        assert self.world.run(self.world.see(_ASLEEP)) == 0

    def teardown(self) -> None:
        """Whatever is left can be worked off, and then every place is free."""
        if not self.agent_id:
            return
        for run_id, account_id in self.runs():
            self.world.run(self.try_to("control_run", account_id, run_id, "resume"))
        self.world.run(self.world.jump(61))
        for _ in range(4 * MAX_RUNS):
            for worker in self.held.values():
                self.world.run(worker.end())
            self.held.clear()
            self.claim(4)
            if not self.held:
                break
        assert self.ready() == []
        assert self.world.run(self.world.see("select coalesce(sum(taken), 0) from private.slots")) == 0
        assert self.world.run(self.world.see("select count(*) from public.agent_runs where held_for is not null")) == 0

    def claim_up_to(self, limit: int) -> Claim:
        return self.world.run(claim(self.world.store, limit=limit, lease_seconds=LEASE_SECONDS))

    async def try_to(self, function: str, account_id: str, *values: object) -> None:
        person = next(one for one in self.world.people.values() if str(one.id) == account_id)
        try:
            await person.call(function, *values)
        except Refused:
            return

    async def do(self, statement: str, *values: object) -> None:
        """A statement of an operator's."""
        await self.world._eyes.execute(statement, values)

    def ready(self) -> list[dict[str, Any]]:
        return self.world.run(self.world.see(_READY))

    def runs(self) -> list[tuple[str, str]]:
        return self.world.run(self.world.see(_RUNS))

    def pick(self, which: int) -> tuple[str, str]:
        runs = self.runs()
        return runs[which % len(runs)]


def test_places_and_turns_are_right_whatever_happens(database_url: str) -> None:
    with World(database_url) as world:
        run_machine(
            lambda: Queue(world),
            settings=settings(
                report_multiple_bugs=False,
                derandomize=not SEARCH,  # the suite does the same every time
                max_examples=EXAMPLES,
                stateful_step_count=25,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            ),
        )
