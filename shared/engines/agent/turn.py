"""One answer of the supervisor's model while its calls are being performed.

Everything is keyed by the place of a call in the answer, never by the time of its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from shared.engines.agent import prompts
from shared.engines.agent.conversation import Origin
from shared.engines.agent.verdict import Judged
from shared.llm.model import ToolResult
from shared.runs.models import Json, JsonObject, StepError


@dataclass(slots=True)
class Turn:
    """The calls of turn `number` and what is known of them so far.

    Attributes:
        answers: what the model will be told of a call that was performed.
        broken: calls whose step failed; they have an answer too.
        unknown: effectful calls that a crash interrupted, for which a person is asked.
        artifacts: names of the files that a call wrote.
        steps: the step of each tool call that was performed to its end.
    """

    number: int
    calls: tuple[Judged, ...]
    answers: dict[int, ToolResult] = field(default_factory=dict[int, ToolResult])
    broken: dict[int, StepError] = field(default_factory=dict[int, StepError])
    unknown: set[int] = field(default_factory=set[int])
    artifacts: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    steps: dict[int, int] = field(default_factory=dict[int, int])

    def end(self, place: int, step_no: int, answer: ToolResult, artifacts: list[str]) -> None:
        """Note how the tool call at `place` ended."""
        self.answers[place] = answer
        self.artifacts[place] = artifacts
        self.steps[place] = step_no

    def missing(self) -> list[int]:
        """The places of calls whose step has not ended, in order."""
        return [
            place
            for place, judged in enumerate(self.calls)
            if judged.use in {"tool", "ask"} and place not in self.answers
        ]

    def honoured(self, use: Literal["finish", "replan"]) -> Judged | None:
        """The call that ends the phase, if the rest of the turn allows it.

        The model wrote it before it saw the other results: an answer of the user always comes first, and a phase is
        not finished while a call of the same turn has failed.
        """
        wanted = next((judged for judged in self.calls if judged.use == use), None)
        if wanted is None or any(judged.use == "ask" for judged in self.calls):
            return None
        spoiled = any(judged.use == "refused" for judged in self.calls) or any(
            answer.is_error for answer in self.answers.values()
        )
        return None if use == "finish" and spoiled else wanted

    def results(self, *, ended: str | None) -> Iterator[ToolResult]:
        """One result for each call; `ended` is what an honoured control call is told."""
        for place, judged in enumerate(self.calls):
            call_id = judged.call.id
            if place in self.answers:
                yield self.answers[place]
            elif judged.use == "refused":
                yield ToolResult(call_id, judged.problem or prompts.NOT_DONE, is_error=True)
            else:
                yield ToolResult(call_id, ended or prompts.NOT_DONE, is_error=ended is None)

    def origins(self) -> tuple[Origin | None, ...]:
        """Where each of `results` comes from, and what is needed of it when its text is left out."""
        return tuple(self._origin(place) for place in range(len(self.calls)))

    def _origin(self, place: int) -> Origin | None:
        if place not in self.steps:
            return None
        artifacts = list[Json](self.artifacts[place])
        remnant: JsonObject = {"call": place, "is_error": self.answers[place].is_error, "artifacts": artifacts}
        return Origin(self.steps[place], remnant)

    def written(self) -> Iterator[str]:
        """Names of the files that the turn wrote, in the order of its calls."""
        for place in sorted(self.artifacts):
            yield from self.artifacts[place]
