"""What is known of the run at the moment: its plan with the phases that are done, its steps, its credits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from local.demo.follow import ENDS, Line
from local.demo.person import Json

PhaseState = Literal["done", "now", "later"]


@dataclass(slots=True)
class Board:
    """Filled from agent-status, and ticked off by the log."""

    status: str = "created"
    run: Json = field(default_factory=dict[str, Any])
    phases: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    steps: list[Json] = field(default_factory=list[Json])
    messages: list[str] = field(default_factory=list[str])
    artifacts: dict[str, Json] = field(default_factory=dict[str, Json])
    _plan_no: int = 0
    _done: set[str] = field(default_factory=set[str])

    @property
    def ended(self) -> bool:
        return self.status in ENDS

    @property
    def credits(self) -> float:
        return self.run["credits"]["spent"] if self.run else 0.0

    def note(self, line: Line) -> None:
        """Tick off a phase that the line says is finished."""
        if line.log_type == "phase_advance":
            self._done.add(str(line.metadata.get("phase")))

    def fill(self, answer: Json) -> None:
        """Take over an answer of agent-status."""
        self.run = answer["run"]
        self.status = self.run["status"]
        if answer.get("steps"):
            self.steps = answer["steps"]["items"]
        if answer.get("plan") and answer["plan"]["items"]:
            plan = answer["plan"]["items"][0]
            if plan["number"] != self._plan_no:
                self._done = (
                    set() if self._plan_no else self._done
                )  # what a first plan ticked off may be heard before it
                self._plan_no = plan["number"]
            self.phases = [(str(phase["id"]), str(phase["title"])) for phase in plan["phases"]]
        if answer.get("messages"):
            self.messages = [
                str(block["text"])
                for message in answer["messages"]["items"]
                for block in message["content"]
                if message["role"] == "assistant" and block.get("audience") == "user"
            ]
        if answer.get("artifacts"):
            self.artifacts = {artifact["name"]: artifact for artifact in answer["artifacts"]["items"]}

    def plan(self) -> list[tuple[str, PhaseState]]:
        """The phases' titles, each with how far it is."""
        shown: list[tuple[str, PhaseState]] = []
        current = not self.ended
        for phase_id, title in self.phases:
            if phase_id in self._done:
                shown.append((title, "done"))
            else:
                shown.append((title, "now" if current else "later"))
                current = False
        return shown

    def outputs(self) -> list[tuple[int, Json]]:
        """What programs printed, with the numbers of their steps."""
        ran = [step for step in self.steps if step["kind"] == "tool" and step["name"] == "code" and step["output"]]
        return [(step["step_no"], step["output"]["result"]) for step in ran if "stdout" in step["output"]["result"]]
