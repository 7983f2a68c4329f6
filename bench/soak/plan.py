"""What the soak's runs are to do, drawn from a seed: so everybody knows beforehand how each of them has to end."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from shared.runs.models import Effect, Json, JsonObject, NewStep

Kind = Literal["plain", "flaky", "asking", "paused", "stopped", "refused", "abandoned"]
Work = Literal["compute", "think", "look_up", "send", "nap", "ask", "refuse"]

EFFECTS: Final[Mapping[Work, Effect]] = {
    "compute": "pure",
    "think": "pure",  # slow, and writes model output and an artifact
    "look_up": "idempotent",  # asks the outside counter; may be asked again
    "send": "effectful",  # asks the outside counter; at most once
    "nap": "pure",  # a timer
    "ask": "pure",  # a person
    "refuse": "pure",  # fails for good
}
GIVES_A_VALUE: Final = frozenset[Work]({"compute", "think", "look_up", "send"})

ENDS: Final[Mapping[Kind, frozenset[str]]] = {
    "plain": frozenset({"completed"}),
    "flaky": frozenset({"completed"}),
    "asking": frozenset({"completed"}),
    "paused": frozenset({"completed"}),
    "stopped": frozenset({"cancelled", "completed"}),  # it may be over before the stop comes
    "refused": frozenset({"failed"}),
    "abandoned": frozenset({"timeout"}),
}
SHARES: Final[Mapping[Kind, int]] = {
    "plain": 50, "flaky": 16, "asking": 12, "paused": 9, "stopped": 8, "refused": 3, "abandoned": 2
}  # fmt: skip

STEP_BOUND: Final = 1_000  # micro-credits reserved
STEP_COST: Final = 400  # micro-credits of a result
TRY_COST: Final = 50  # micro-credits of a try that failed
REFUSED: Final = "refused"
NOBODY_ANSWERS: Final = "Nobody will answer this"
ABANDONED_SECONDS: Final = 6
RUN_SECONDS: Final = 3600
KEYED: Final = 0.15  # share of runs with a concurrency key, one run of a key at a time
KEYS: Final = 4  # of each account


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step: how long it takes, and how many times the outside refuses it first."""

    key: str
    work: Work
    seconds: float = 0.0
    refusals: int = 0

    def new(self) -> NewStep:
        """As an engine starts it."""
        return NewStep(
            self.key,
            self.work,
            f"{self.work} {self.key}",
            {"seconds": self.seconds, "refusals": self.refusals},
            EFFECTS[self.work],
            timeout_seconds=30.0,
            credits_bound=STEP_BOUND,
            max_attempts=self.refusals + 5,
        )


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run: its steps, `width` of them at a time, and its place among its account's others."""

    kind: Kind
    seed: int
    width: int
    steps: tuple[PlannedStep, ...]
    priority: int = 0
    concurrency_key: str | None = None

    def to_json(self) -> JsonObject:
        """As a run's input."""
        steps: list[Json] = [
            {"key": step.key, "work": step.work, "seconds": step.seconds, "refusals": step.refusals}
            for step in self.steps
        ]
        return {
            "kind": self.kind,
            "seed": self.seed,
            "width": self.width,
            "steps": steps,
            "priority": self.priority,
            "concurrency_key": self.concurrency_key,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> RunPlan:
        steps = cast("list[dict[str, Any]]", value["steps"])
        return cls(
            cast("Kind", value["kind"]),
            cast("int", value["seed"]),
            cast("int", value["width"]),
            tuple(PlannedStep(**step) for step in steps),
            cast("int", value["priority"]),
            cast("str | None", value["concurrency_key"]),
        )

    @property
    def timeout_seconds(self) -> int:
        return ABANDONED_SECONDS if self.kind == "abandoned" else RUN_SECONDS

    def total(self, *, without: frozenset[str]) -> int:
        """What a completed run's output must add up to, `without` the steps that have no result."""
        return sum(
            value_of(self.seed, step.key)
            for step in self.steps
            if step.work in GIVES_A_VALUE and step.key not in without
        )


def value_of(seed: int, key: str) -> int:
    """The one right result of a step."""
    return zlib.crc32(f"{seed}:{key}".encode())


def draw(chance: random.Random) -> RunPlan:
    """A run as people start them: a handful of steps of all sorts, and what its kind adds."""
    kind = chance.choices([*SHARES], [*SHARES.values()])[0]
    works = chance.choices(["compute", "look_up", "send", "think", "nap"], [40, 20, 22, 12, 6], k=chance.randint(3, 9))
    if kind == "stopped":
        works += ["think", "think"]
    last: dict[Kind, Work] = {"refused": "refuse", "abandoned": "ask", "asking": "ask"}
    if kind in last:
        works.insert(len(works) if kind != "asking" else chance.randrange(len(works)), last[kind])
    steps = tuple(_step(f"s{number}", work, kind, chance) for number, work in enumerate(works, start=1))
    key = f"key-{chance.randrange(KEYS)}" if chance.random() < KEYED else None
    priority = chance.choice([-10, 0, 0, 0, 10])
    return RunPlan(kind, chance.randrange(2**31), chance.choice([1, 1, 2, 3]), steps, priority, key)


def _step(key: str, work: Work, kind: Kind, chance: random.Random) -> PlannedStep:
    seconds = {
        "think": chance.uniform(0.3, 2.0),
        "nap": chance.uniform(0.2, 2.0),
        "send": chance.uniform(0.0, 0.4),
    }.get(work, chance.uniform(0.0, 0.06))
    refused = kind == "flaky" and work in ("look_up", "send") and chance.random() < 0.5
    return PlannedStep(key, work, round(seconds, 3), chance.randint(1, 2) if refused else 0)
