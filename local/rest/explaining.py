"""Execution plans in place of answers, where a project allows them (`pgrst.db_plan_enabled`).

The statement is explained as it would have run for the format that the plan is asked `for`; with `analyze` it runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from starlette.responses import Response

from local.rest.sql import Statement
from local.rest.transaction import Outcome, Plan

_FORMAT = re.compile(r"application/vnd\.pgrst\.plan(?:\+(json|text))?")
_OPTIONS = ("analyze", "verbose", "settings", "buffers", "wal")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is asked about the plan: its format, and the answer that it is the plan of."""

    format: str
    answer: str
    options: tuple[str, ...]

    @classmethod
    def asked_for(cls, accept: str | None) -> Self | None:
        """Read an Accept header whose first choice is a plan; any other is None."""
        name, *parameters = (part.strip() for part in (accept or "").partition(",")[0].split(";"))
        found = _FORMAT.fullmatch(name.lower())
        if found is None:
            return None
        given = dict(part.split("=", 1) for part in parameters if "=" in part)
        options = given.get("options", "").split("|")
        return cls(
            format=found[1] or "text",
            answer=given.get("for", "").strip('"') or "application/json",
            options=tuple(option for option in _OPTIONS if option in options),
        )

    @property
    def content_type(self) -> str:
        options = f"; options={'|'.join(self.options)}" if self.options else ""
        return f'application/vnd.pgrst.plan+{self.format}; for="{self.answer}"{options}; charset=utf-8'

    def of(self, plan: Plan) -> Plan:
        """The same transaction, in which the statement is explained."""
        words = ", ".join((f"format {self.format}", *self.options))
        statement = Statement(f"explain ({words}) ".encode() + plan.statement.text, plan.statement.values)
        return replace(plan, statement=statement, respond=self._respond, explained=None, is_explained=True)

    def _respond(self, outcome: Outcome) -> Response:
        return Response(outcome.body, 200, {"Content-Type": self.content_type})
