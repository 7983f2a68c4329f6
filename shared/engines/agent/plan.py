"""What a planner writes: phases with an objective, tools, success criteria and dependencies.

A plan that was read here is sound: known tools, unique ids, no cycle, within the limits, phases in the order in which
they are worked on. All problems are found at once, in words that the planner can act on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from shared.engines.agent.limits import AgentLimits
from shared.llm.model import JsonObject as Schema
from shared.llm.model import JsonSchema
from shared.runs.models import Json, JsonObject, NewPlan
from shared.runs.text import storable

_ID_CHARACTERS = 64
_TITLE_CHARACTERS = 200
_TEXT_CHARACTERS = 4_000  # an objective or the goal; a criterion is one sentence and has the title's bound
_LIST_ITEMS = 20


class PlanInvalid(ValueError):  # noqa: N818 says what the answer is
    """The answer is no plan. `problems` are sentences, all of them at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of work with an end that can be judged."""

    id: str
    title: str
    objective: str
    tools: tuple[str, ...] = ()
    success_criteria: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        return {
            "id": self.id,
            "title": self.title,
            "objective": self.objective,
            "tools": list(self.tools),
            "success_criteria": list(self.success_criteria),
            "depends_on": list(self.depends_on),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A goal and the phases that lead to it, in working order."""

    goal: str
    phases: tuple[Phase, ...]

    def record(self, reason: str | None) -> NewPlan:
        """The plan as a row; `reason` says why an earlier one was dropped."""
        return NewPlan(self.goal, [phase.to_json() for phase in self.phases], reason)

    @classmethod
    def recorded(cls, plan: NewPlan) -> Plan:
        """Read a plan back from its row, where it has been sound since it was written."""
        return cls(plan.goal, tuple(_recorded_phase(cast("JsonObject", phase)) for phase in plan.phases))


def plan_schema(tools: Sequence[str]) -> JsonSchema:
    """The shape a planner must answer in, using only keywords that every provider's strict mode knows."""

    def strings(description: str, *, among: Sequence[str] = ()) -> Schema:
        items: Schema = {"type": "string", "enum": list(among)} if among else {"type": "string"}
        return {"type": "array", "description": description, "items": items}

    phase: Schema = {
        "id": {"type": "string", "description": "Short and unique, such as 'write'."},
        "title": {"type": "string", "description": "A few words for a person."},
        "objective": {"type": "string", "description": "What is true when the phase is done."},
        "tools": strings("Tools the phase may use.", among=tools),
        "success_criteria": strings("How to see that the objective is reached."),
        "depends_on": strings("Ids of phases that must be done first."),
    }
    goal: Schema = {"type": "string", "description": "The user's goal in one sentence."}
    return JsonSchema("plan", _object({"goal": goal, "phases": {"type": "array", "items": _object(phase)}}))


def read_plan(answer: Mapping[str, object] | None, *, tools: Sequence[str], limits: AgentLimits) -> Plan:
    """Read a planner's answer, the JSON object it wrote or None if it wrote none.

    Raises:
        PlanInvalid: with every problem found.
    """
    if answer is None:
        raise PlanInvalid(["The answer is not one JSON object."])
    reader = _Reader(limits.phases)
    goal = reader.text(answer, "goal", "The plan", _TEXT_CHARACTERS)
    phases = [reader.phase(number, value) for number, value in reader.phases(answer)]
    problems = [*reader.problems, *_misfits(phases, tools)]
    if not problems:
        ordered, caught = _in_working_order(phases)
        if not caught:
            return Plan(goal, ordered)
        names = ", ".join(repr(phase.id) for phase in caught)
        problems.append(f"The phases {names} can never start: their depends_on form a cycle.")
    raise PlanInvalid(problems)


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, max_phases: int) -> None:
        self.problems: list[str] = []
        self._max_phases = max_phases

    def phases(self, answer: Mapping[str, object]) -> Iterator[tuple[int, Mapping[str, object]]]:
        value = answer.get("phases")
        if not isinstance(value, list) or not value:
            self.problems.append("'phases' must be a list with at least one phase.")
            return
        entries = cast("list[object]", value)
        if len(entries) > self._max_phases:
            self.problems.append(f"The plan has {len(entries)} phases; at most {self._max_phases} are allowed.")
        for number, entry in enumerate(entries[: self._max_phases], start=1):
            if isinstance(entry, dict):
                yield number, cast("Mapping[str, object]", entry)
            else:
                self.problems.append(f"Phase {number} is not an object.")

    def phase(self, number: int, value: Mapping[str, object]) -> Phase:
        where = f"Phase {number}"
        return Phase(
            id=self.text(value, "id", where, _ID_CHARACTERS),
            title=self.text(value, "title", where, _TITLE_CHARACTERS),
            objective=self.text(value, "objective", where, _TEXT_CHARACTERS),
            tools=self.texts(value, "tools", where, _ID_CHARACTERS),
            success_criteria=self.texts(value, "success_criteria", where, _TITLE_CHARACTERS * 2),
            depends_on=self.texts(value, "depends_on", where, _ID_CHARACTERS),
        )

    def text(self, value: Mapping[str, object], key: str, where: str, longest: int) -> str:
        text = value.get(key)
        if not isinstance(text, str) or not text.strip():
            self.problems.append(f"{where} needs '{key}', a text that is not empty.")
            return ""
        if len(text) > longest:
            self.problems.append(f"{where} has a '{key}' of {len(text)} characters; at most {longest} are allowed.")
        return storable(text.strip())

    def texts(self, value: Mapping[str, object], key: str, where: str, longest: int) -> tuple[str, ...]:
        entries = value.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in cast("list[object]", entries)):
            self.problems.append(f"{where} needs '{key}', a list of texts.")
            return ()
        texts = cast("list[str]", entries)
        if len(texts) > _LIST_ITEMS or any(len(text) > longest for text in texts):
            self.problems.append(
                f"{where} has too much in '{key}': at most {_LIST_ITEMS} texts of {longest} characters are allowed."
            )
        return tuple(dict.fromkeys(storable(text.strip()) for text in texts))


def _misfits(phases: Sequence[Phase], tools: Sequence[str]) -> Iterator[str]:
    ids = [phase.id for phase in phases if phase.id]
    for repeated in sorted({id_ for id_ in ids if ids.count(id_) > 1}):
        yield f"The phase id {repeated!r} is used more than once."
    for phase in phases:
        for tool in phase.tools:
            if tool not in tools:
                yield f"Phase {phase.id!r} uses the unknown tool {tool!r}; there are: {', '.join(tools)}."
        for needed in phase.depends_on:
            if needed == phase.id:
                yield f"Phase {phase.id!r} depends on itself."
            elif needed not in ids:
                yield f"Phase {phase.id!r} depends on {needed!r}, which is no phase of this plan."


def _in_working_order(phases: Sequence[Phase]) -> tuple[tuple[Phase, ...], list[Phase]]:
    """Order by dependency, else as listed; the second list holds what a cycle keeps from starting."""
    ordered: list[Phase] = []
    left = list(phases)
    while left:
        done = {phase.id for phase in ordered}
        ready = next((phase for phase in left if done.issuperset(phase.depends_on)), None)
        if ready is None:
            break
        ordered.append(ready)
        left.remove(ready)
    return tuple(ordered), left


def _object(properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _recorded_phase(phase: JsonObject) -> Phase:
    def texts(key: str) -> tuple[str, ...]:
        return tuple(str(item) for item in cast("list[Json]", phase[key]))

    return Phase(
        id=str(phase["id"]),
        title=str(phase["title"]),
        objective=str(phase["objective"]),
        tools=texts("tools"),
        success_criteria=texts("success_criteria"),
        depends_on=texts("depends_on"),
    )
