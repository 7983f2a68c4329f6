"""What the people of a run see of a flow at work: its words as they come, and lines on its nodes, both live.

Of what went into nodes and tools nothing is said: it may be large, and it may hold keys.
"""

from __future__ import annotations

from typing import Final, cast

from shared.engines.flowise.wire import Event
from shared.runs.engine import StepContext
from shared.runs.models import Json, JsonObject, LogType, NewLog

_NAME_CHARACTERS: Final = 200
_ENDS: Final[dict[str, LogType]] = {"FINISHED": "info", "ERROR": "error", "TERMINATED": "warning", "STOPPED": "info"}


class Viewing:
    """Shows events to the viewers of one step. `shown`: they have seen something that another try would contradict."""

    def __init__(self, ctx: StepContext) -> None:
        self.shown = False
        self._ctx = ctx

    def line(self, kind: LogType, message: str, metadata: JsonObject | None = None) -> None:
        self._ctx.log(NewLog(kind, message, metadata or {}))

    async def text(self, text: str) -> None:
        if text:
            self.shown = True
            await self._ctx.delta(text)

    async def event(self, event: Event) -> None:
        data = event.data
        match event.name:
            case "token" if isinstance(data, str):
                await self.text(data)
            case "nextAgentFlow" if isinstance(data, dict):
                self.shown = True
                self._node(data)
            case "usedTools" if isinstance(data, list):
                self.shown = True
                self._tools(data)
            case "nextAgent" if isinstance(data, str):
                self.line("info", f"Agent {data[:_NAME_CHARACTERS]}")
            case _:
                pass

    def _node(self, data: JsonObject) -> None:
        status = str(data.get("status", ""))
        kind = _ENDS.get(status)
        if kind is not None:
            label = str(data.get("nodeLabel") or data.get("nodeId") or "A node")[:_NAME_CHARACTERS]
            self.line(kind, f"{label}: {status.lower()}", {"node": label, "status": status})

    def _tools(self, tools: list[Json]) -> None:
        for tool in tools:
            name = cast("JsonObject", tool).get("tool") if isinstance(tool, dict) else None
            if isinstance(name, str) and name:
                self.line("tool_success", f"{name[:_NAME_CHARACTERS]} answered", {"tool": name[:_NAME_CHARACTERS]})
