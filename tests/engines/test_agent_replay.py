"""What holds for every run of an agent: it ends, and nobody can tell from its state where and when it was worked on.

`Drive` itself proves after each step that a state built from the rows equals the live one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import OneModel
from shared.llm.model import ModelResponse, Text, ToolCall
from shared.runs.engine import Fail, Finish
from shared.runs.models import Step, StepError
from tests.engines.drive import Drive
from tests.engines.scripts import PROMPT, Script, phase, plan, router, says

WORDS = st.text(max_size=20)
UNKNOWN = StepError("outcome_unknown", "Nobody saw the end.")
ARGUMENTS = st.one_of(
    st.builds('{{"text": "{}"}}'.format, st.sampled_from("abc")),
    st.sampled_from(
        [
            '{"summary": "s", "success": true}',
            '{"summary": "s", "success": false}',
            '{"question": "q"}',
            '{"reason": "r"}',
            "{}",
            "",
            "{",
            '{"files": ["a.txt"]}',
        ]
    ),
    WORDS,
)
NAMES = st.sampled_from(
    ["echo", "send", "broken", "files", "message", "finish_phase", "ask_user", "replan", "teleport", ""]
)
CALLS = st.builds(ToolCall.parse, st.sampled_from(["", "1", "2"]), NAMES, ARGUMENTS)
STOPS = st.sampled_from(["end", "tool_calls", "tool_calls", "tool_calls", "max_tokens", "other"])
PLAN = plan(phase("a", tools=["echo", "send", "broken"]), phase("b", tools=["echo", "files", "message"], after=["a"]))


@st.composite
def answers(draw: st.DrawFn) -> ModelResponse:
    """Anything a model may say; one in four is a plan, so that plans come when they are wanted."""
    if draw(st.integers(0, 3)) == 0:
        return PLAN
    blocks: list[Any] = [*map(Text, draw(st.lists(WORDS, max_size=1))), *draw(st.lists(CALLS, max_size=4))]
    return says(*blocks, stop=draw(STOPS))


def play(script: Sequence[ModelResponse], order: Sequence[int], *, broken: Sequence[str] = ()) -> tuple[Drive, Script]:
    """Run to the end; `order` says which open step ends first, again and again from its start."""
    model = Script(script, for_ever=True)
    turns = iter(range(10**9))

    def pick(steps: Sequence[Step]) -> Step:
        return steps[order[next(turns) % len(order)] % len(steps)]

    engine = AgentEngine(OneModel(model), router(), AgentLimits(turns_per_phase=5, conversation_characters=4_000))
    drive = Drive(engine, {"prompt": PROMPT}, pick=pick, answer=lambda _: "yes", broken=dict.fromkeys(broken, UNKNOWN))
    asyncio.run(drive.steps(500))
    return drive, model


@settings(max_examples=60, deadline=None)
@given(st.lists(answers(), min_size=1, max_size=12), st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_a_run_ends_whatever_the_model_says(script: list[ModelResponse], order: list[int]) -> None:
    drive, _ = play([PLAN, *script], order)

    assert isinstance(drive.engine.decide(drive.state), Finish | Fail)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(answers(), min_size=1, max_size=8),
    st.permutations(range(5)),
    st.permutations(range(5)),
    st.sets(st.sampled_from(["call.1.0", "call.1.1", "call.2.0", "call.2.2"])),
)
def test_the_order_in_which_parallel_calls_end_changes_nothing_that_the_model_sees(
    script: list[ModelResponse], one: list[int], other: list[int], broken: set[str]
) -> None:
    first, seen_first = play([PLAN, *script], one, broken=sorted(broken))
    second, seen_second = play([PLAN, *script], other, broken=sorted(broken))

    # A step's effect key stands in the marks around results; the drive derives it from the step's key.
    assert [request.messages for request in seen_first.requests] == [r.messages for r in seen_second.requests]
    assert first.engine.decide(first.state) == second.engine.decide(second.state)
    assert first.state.artifacts == second.state.artifacts
