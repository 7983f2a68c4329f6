"""Reading a plan: all problems at once, and what was read is sound."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.plan import Plan, PlanInvalid, plan_schema, read_plan
from tests.engines.scripts import phase

TOOLS = ("echo", "send")
LIMITS = AgentLimits(phases=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["goal", "phases", "id", "title", "objective", "tools", "success_criteria", "depends_on"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


def read(*phases: Any, goal: Any = "A goal.") -> Plan:
    return read_plan({"goal": goal, "phases": list(phases)}, tools=TOOLS, limits=LIMITS)


def problems(*phases: Any, goal: Any = "A goal.") -> list[str]:
    with pytest.raises(PlanInvalid) as caught:
        read(*phases, goal=goal)
    return list(caught.value.problems)


def test_phases_without_dependencies_keep_their_order() -> None:
    assert [one.id for one in read(phase("b"), phase("a"), phase("c")).phases] == ["b", "a", "c"]


def test_phases_follow_what_they_depend_on() -> None:
    read_back = read(phase("c", after=["b"]), phase("b", after=["a"]), phase("a"), phase("d"))

    assert [one.id for one in read_back.phases] == ["a", "b", "c", "d"]


def test_a_plan_survives_its_row() -> None:
    written = read(phase("b", after=["a"]), phase("a", tools=TOOLS))

    assert Plan.recorded(written.record("because")) == written


def test_no_object_is_no_plan() -> None:
    with pytest.raises(PlanInvalid, match="not one JSON object"):
        read_plan(None, tools=TOOLS, limits=LIMITS)


def test_all_problems_come_at_once() -> None:
    bad = {"id": "", "title": 3, "objective": "x" * 5_000, "tools": "echo", "success_criteria": [1], "depends_on": []}

    assert problems(bad, 7, goal=" ") == [
        "The plan needs 'goal', a text that is not empty.",
        "Phase 1 needs 'id', a text that is not empty.",
        "Phase 1 needs 'title', a text that is not empty.",
        "Phase 1 has a 'objective' of 5000 characters; at most 4000 are allowed.",
        "Phase 1 needs 'tools', a list of texts.",
        "Phase 1 needs 'success_criteria', a list of texts.",
        "Phase 2 is not an object.",
    ]


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ([], "'phases' must be a list with at least one phase."),
        ([phase("a"), phase("a")], "The phase id 'a' is used more than once."),
        ([phase("a", tools=["fly"])], "Phase 'a' uses the unknown tool 'fly'; there are: echo, send."),
        ([phase("a", after=["a"])], "Phase 'a' depends on itself."),
        ([phase("a", after=["z"])], "Phase 'a' depends on 'z', which is no phase of this plan."),
        (
            [phase("a", after=["b"]), phase("b", after=["a"]), phase("c")],
            "The phases 'a', 'b' can never start: their depends_on form a cycle.",
        ),
        ([phase(str(number)) for number in range(7)], "The plan has 7 phases; at most 6 are allowed."),
        (
            [phase("a", tools=["echo"] * 21)],
            "Phase 1 has too much in 'tools': at most 20 texts of 64 characters are allowed.",
        ),
    ],
)
def test_a_problem_is_named(phases: list[Any], problem: str) -> None:
    assert problems(*phases) == [problem]


@given(JSON)
def test_any_json_is_a_plan_or_a_list_of_problems(value: Any) -> None:
    answer = value if isinstance(value, dict) else None

    with suppress(PlanInvalid):
        assert read_plan(answer, tools=TOOLS, limits=LIMITS).phases


@given(st.permutations("abcdef"), st.data())
def test_a_plan_without_cycles_is_put_in_working_order(names: list[str], data: st.DataObject) -> None:
    built = [
        phase(name, after=data.draw(st.lists(st.sampled_from(names[:place]), unique=True)) if place else [])
        for place, name in enumerate(names)
    ]

    ordered = read(*data.draw(st.permutations(built))).phases

    for place, one in enumerate(ordered):
        assert {earlier.id for earlier in ordered[:place]}.issuperset(one.depends_on)


def test_the_schema_requires_all_it_names_as_strict_modes_want() -> None:
    schema: Any = plan_schema(TOOLS).schema
    inner = schema["properties"]["phases"]["items"]

    assert schema["required"] == ["goal", "phases"]
    assert inner["required"] == list(inner["properties"])
    assert inner["properties"]["tools"]["items"] == {"type": "string", "enum": ["echo", "send"]}
    assert (schema["additionalProperties"], inner["additionalProperties"]) == (False, False)
