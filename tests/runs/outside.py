"""The world outside an agent: a model server that knows idempotency keys, and tools whose effects are counted.

Both count what reaches them, from whatever process it comes: the server by the key that each call carries, the tools
by a line in a file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.models import OneModel
from shared.llm.registry import model_named
from shared.runs.models import Effect
from shared.tools.router import ToolRouter
from shared.tools.tool import ToolContext, ToolInput, ToolResult
from tests.support.model_server import Received, Reply


class NoInput(ToolInput):
    pass


@dataclass(frozen=True)
class CountedTool:
    """Writes its name and the call's effect key into the file, as a service would book it, then answers."""

    name: str
    effect: Effect
    calls: Path
    description: str = "Has an effect."
    input_model: type[NoInput] = NoInput
    timeout_seconds: float = 5.0
    credits_bound: int = 0

    async def call(self, arguments: NoInput, ctx: ToolContext) -> ToolResult:
        del arguments
        with self.calls.open("a") as file:
            file.write(f"{self.name} {ctx.effect_key}\n")
        return ToolResult(f"{self.name} is done")


def agent_engine(model_url: str, calls: Path) -> AgentEngine:
    """An agent with a real SDK on the model server, an idempotent tool `note` and an effectful tool `send`."""
    env = {"ANTHROPIC_API_KEY": "sk-ant-test", "ANTHROPIC_BASE_URL": model_url}
    tools = ToolRouter([CountedTool("note", "idempotent", calls), CountedTool("send", "effectful", calls)])
    return AgentEngine(OneModel(model_named("anthropic:test", env)), tools)


class KeyedProvider:
    """Says `replies` in order, one for each new idempotency key: a repeat gets its first answer again."""

    def __init__(self, *replies: Reply) -> None:
        self.asked: Counter[str] = Counter()
        """How often each key came, in the order of first coming."""
        self._replies = replies
        self._said: dict[str, Reply] = {}

    def __call__(self, received: Received) -> Reply:
        key = received.headers["idempotency-key"]
        self.asked[key] += 1
        return self._said.setdefault(key, self._replies[min(len(self._said), len(self._replies) - 1)])
