"""What an agent's snapshot holds and spares. That it leads to the same state, `Drive` proves after every step."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.direct_database import DirectDatabase
from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import OneModel
from shared.llm import prices
from shared.llm.model import ModelRequest, ModelResponse
from shared.runs.models import StepError
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from tests.engines.drive import Drive, newest
from tests.engines.scripts import PROMPT, Script, calls, driven, finish, phase, plan, router, words
from tests.engines.test_agent_replay import PLAN, answers, play
from tests.support.runs import Person, connect, run_row

TIGHT = AgentLimits(turns_per_phase=1_000, conversation_characters=4_000)
UNKNOWN = StepError("outcome_unknown", "Nobody saw the end.")

SIZES = st.sampled_from([1, 400, 501, 700, 2_000])
BULKY = st.builds(
    lambda name, size, more: (name, {"text": f"{more}{'x' * size}"} | ({"why": "y" * more} if more else {})),
    st.sampled_from(["echo", "echo", "send", "broken", "teleport"]),
    SIZES,
    st.sampled_from([0, 0, 0, 10, 600]),
)
ASKS = st.just(("ask_user", {"question": "Which? " + "q" * 600}))
ENDS = st.builds(
    lambda success, size: ("finish_phase", {"summary": "s" * size, "success": success}), st.booleans(), SIZES
)
TURNS = st.builds(
    lambda wanted, text: calls(*wanted, text=text),
    st.lists(st.one_of(BULKY, BULKY, BULKY, ASKS, ENDS), min_size=1, max_size=4),
    st.sampled_from(["", "I say.", "z" * 700]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(TURNS, TURNS, answers()), min_size=3, max_size=14),
    st.lists(st.integers(0, 7), min_size=1, max_size=5),
    st.sets(st.sampled_from(["call.1.0", "call.2.1", "call.3.0", "call.4.2"])),
    st.integers(1, 9),
)
def test_a_state_opened_from_any_snapshot_equals_the_one_folded_from_all_results(
    script: list[ModelResponse], order: list[int], broken: set[str], every: int
) -> None:
    model = Script([PLAN, *script], for_ever=True)
    turns = iter(range(10**9))
    drive = Drive(
        AgentEngine(OneModel(model), router(), TIGHT),
        {"prompt": PROMPT},
        pick=lambda steps: steps[order[next(turns) % len(order)] % len(steps)],
        answer=lambda _: "yes",
        broken=dict.fromkeys(sorted(broken), UNKNOWN),
        snapshot_every=every,
    )

    asyncio.run(drive.steps(60))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(TURNS, answers()), min_size=1, max_size=10), st.lists(st.integers(0, 7), min_size=1))
def test_the_bound_of_a_model_call_is_that_of_the_request_it_sends(
    script: list[ModelResponse], order: list[int]
) -> None:
    drive, model = play([PLAN, *script], order)

    bounds = [row["credits_bound"] for row in drive.rows["steps"] if row["kind"] == "model"]
    sent = [prices.upper_bound(model.name, one.input_characters, one.max_output_tokens) for one in model.requests]
    assert bounds[: len(sent)] == sent


async def test_what_was_left_out_of_the_conversation_is_not_read_again() -> None:
    bulk = [calls(("echo", {"text": f"{number}{'x' * 3_000}"})) for number in range(30)]
    drive, _ = driven(plan(), *bulk, finish(), limits=TIGHT, check_every=5)
    await drive.steps(100)

    taken = drive.take_snapshot()
    read = drive.view(taken)

    assert len(read.kept) < 12 < len(drive.rows["steps"])
    assert len(orjson.dumps(taken.of(drive.rows))) < len(orjson.dumps(drive.rows)) / 4
    assert len(taken.row["state"]["remnants"]) == len(drive.rows["steps"]) - len(read.kept)


async def test_a_snapshot_fits_however_much_was_left_out() -> None:
    """What does not fit is read again; `Drive` holds the bound."""
    wanted = [("echo", {"text": f"{number}{'x' * 600}"}) for number in range(2)]
    turns = [calls(*wanted) for _ in range(60)]
    drive, _ = driven(plan(), *turns, finish(), limits=TIGHT, pick=newest, check_every=100)
    await drive.steps(1_000)

    state: Any = drive.take_snapshot().row["state"]

    assert len(drive.state.conversation.remnants) > len(state["remnants"]) > 50


MARK = re.compile("data-[0-9a-f]{12}")
ANSWERS = (
    plan(phase("first"), phase("second", tools=["echo", "send"], after=["first"])),
    *(calls(("echo", {"text": f"{number}{'x' * 900}"}), ("echo", {"text": str(number)})) for number in range(6)),
    words("I am done, I think."),
    calls(("ask_user", {"question": "Which?"}), ("echo", {"text": "b" * 900})),
    finish("The first is done."),
    calls(("send", {"text": "c" * 900})),
    calls(("ask_user", {"question": "Shall I go on?"})),
    finish("All is done."),
)


async def slices(
    database: DirectDatabase, person: Person, url: str, *, every: int, losing: bool = False
) -> tuple[Sequence[ModelRequest], dict[str, Any]]:
    """What the model is sent when each slice of the run is another worker's, and the run's end."""
    model = Script(ANSWERS)
    run_id = await person.queue(engine="agent", input={"prompt": PROMPT})
    for _ in range(3):
        if losing:
            async with connect(url) as connection:
                await connection.execute("truncate private.run_snapshots")
        engine = AgentEngine(OneModel(model), router(), TIGHT)
        options = WorkerOptions(heartbeat_seconds=0.5, poll_seconds=0.1, snapshot_steps=every)
        await Worker(RunStore(database), {"agent": engine}, options=options).run(until_idle=True)
        row = await run_row(url, run_id)
        if row["status"] == "awaiting_input":
            await person.call("respond_run", run_id, '"yes"')
    return model.requests, row


async def test_a_run_says_the_same_to_its_model_with_snapshots_without_and_when_they_are_lost(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """Byte by byte, but for the random marks around results: providers cache what they have seen before."""
    sent: list[bytes] = []
    for every, losing in ((1_000, False), (1, False), (3, False), (1, True)):
        requests, row = await slices(database, person, database_url, every=every, losing=losing)
        assert (row["status"], row["output"]["summary"]) == ("completed", "All is done.")
        bodies = [[message.to_json() for message in request.messages] for request in requests]
        sent.append(MARK.sub("data-mark", orjson.dumps(bodies).decode()).encode())

    assert sent[1:] == sent[:1] * 3
