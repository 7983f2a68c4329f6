"""What the contract tests of Flowise need of a server, whether it is the stand-in or the real one.

A bench makes flows of the kinds that the tests speak of and tells which keys reached the models behind them.
"""

from __future__ import annotations

from typing import Protocol

from local.stand_ins.flowise import Flow, FlowiseServer, Turn

ANSWER = "Hello from the flow"
REFUSED_KEY = "sk-refused-by-the-model-0123456789"


class Bench(Protocol):
    """A Flowise server with an API key that may look at flows and executions."""

    url: str
    server_key: str

    async def chatflow(self, *, protected: bool = False, enabled: tuple[str, ...] = ()) -> str:
        """A flow of a model and a memory, that answers `ANSWER`; `enabled` of its model's parameters as overrides."""
        ...

    async def agentflow(self, *, enabled: tuple[str, ...] = ()) -> str:
        """Start, then a model that answers `ANSWER`."""
        ...

    async def asking(self) -> str:
        """An agentflow that asks a person, and then answers."""
        ...

    async def hanging(self) -> str:
        """An agentflow whose model never ends its answer."""
        ...

    def keys(self) -> list[str]:
        """The keys that reached models so far, one for each call."""
        ...


class StandIn:
    """The bench that is the server of recorded shapes."""

    def __init__(self, server: FlowiseServer) -> None:
        self.url = server.url
        self.server_key = server.key
        self._server = server

    async def chatflow(self, *, protected: bool = False, enabled: tuple[str, ...] = ()) -> str:
        return self._added(
            self._server.chatflow(api_key=self.server_key if protected else None, enabled=_enabled("OpenAI", enabled))
        )

    async def agentflow(self, *, enabled: tuple[str, ...] = ()) -> str:
        return self._added(self._server.agentflow(enabled=_enabled("LLM", enabled)))

    async def asking(self) -> str:
        return self._added(self._server.agentflow(Turn("Go on?", asks=True)))

    async def hanging(self) -> str:
        return self._added(self._server.agentflow(Turn(ANSWER, hangs=True, after=1)))

    def keys(self) -> list[str]:
        return [call.key for call in self._server.calls]

    def _added(self, flow: Flow) -> str:
        flow.refused_keys = frozenset({REFUSED_KEY})
        return flow.id


def _enabled(label: str, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {label: names} if names else {}
