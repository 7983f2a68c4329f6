"""Plays runs of the flowise engine in memory, with an agent and opened credentials, as `tests.engines.drive` does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

from local.stand_ins.flowise import Flow, FlowiseServer
from shared.engines.flowise.conversation import Patience
from shared.engines.flowise.engine import FlowiseEngine, FlowiseState
from shared.engines.flowise.performing import Servers
from shared.errors import NotFound
from shared.runs.engine import Decision, Outcome, StepContext
from shared.runs.models import JsonObject, NewLog, Run, RunView, Step, StepResult
from shared.vault.opening import OpenCredential
from shared.vault.secret import Secret
from tests.engines.drive import Drive
from tests.engines.flowise.conftest import QUICK, SERVER_KEY, no_wait

AGENT_ID = UUID("00000000-0000-4000-8000-00000000000a")
PERSONS_KEY = "sk-person-0123456789abcdef"
SERVERS = Servers(limits=QUICK, patience=Patience(0.0, 5.0))
IMPATIENT = Servers(limits=QUICK, patience=Patience(0.0, 0.0, no_wait))

Fields = Mapping[str, str]
Performance = Callable[[FlowiseState, Step, StepContext], Awaitable[Outcome]]


@dataclass
class Opening:
    """A step context whose credentials are given by the test."""

    inner: StepContext
    credentials: Mapping[str, Fields]
    opened: list[str]

    @property
    def run(self) -> Run:
        return self.inner.run

    async def delta(self, text: str) -> None:
        await self.inner.delta(text)

    def log(self, line: NewLog) -> None:
        self.inner.log(line)

    def spent(self, micro_credits: int) -> None:
        self.inner.spent(micro_credits)

    async def artifacts(self, names: tuple[str, ...]) -> Any:
        return await self.inner.artifacts(names)

    async def results(self, step_nos: tuple[int, ...]) -> Any:
        return await self.inner.results(step_nos)

    @asynccontextmanager
    async def open_credential(self, provider: str) -> AsyncGenerator[OpenCredential]:
        if provider not in self.credentials:
            raise NotFound(f"The run has no {provider} credential")
        self.opened.append(provider)
        fields = self.credentials[provider]
        hosts = frozenset([fields["base_url"]] if "base_url" in fields else ["api.openai.com"])
        yield OpenCredential(provider, uuid4(), {name: Secret(value) for name, value in fields.items()}, hosts)


class WithCredentials:
    """The engine, whose steps may open these credentials; `attempt` makes every step one that was tried before."""

    name = "flowise"

    def __init__(self, engine: FlowiseEngine, credentials: Mapping[str, Fields]) -> None:
        self._engine = engine
        self.credentials = credentials
        self.opened: list[str] = []
        self.attempt = 1

    def open(self, view: RunView) -> FlowiseState:
        return self._engine.open(view)

    def apply(self, state: FlowiseState, result: StepResult) -> FlowiseState:
        return self._engine.apply(state, result)

    def started(self, state: FlowiseState, step: Step) -> FlowiseState:
        return self._engine.started(state, step)

    def decide(self, state: FlowiseState) -> Decision:
        return self._engine.decide(state)

    async def perform(self, state: FlowiseState, step: Step, ctx: StepContext) -> Outcome:
        opening = Opening(ctx, self.credentials, self.opened)
        return await self._engine.perform(state, replace(step, attempt=self.attempt), opening)  # type: ignore[arg-type]


@dataclass
class FlowDrive(Drive):
    """A run of an agent with this config."""

    config: JsonObject | None = field(default_factory=dict)
    provided: tuple[str, ...] = ()

    def _run_row(self) -> JsonObject:
        agent: JsonObject = {
            "agent_id": str(AGENT_ID),
            "version_id": str(AGENT_ID),
            "number": 1,
            "engine": "flowise",
            "config": self.config,
            "input_schema": {"type": "object"},
            "credential_types": [*self.provided],
            "managed": True,
            "price": 0,
        }
        ids: JsonObject = {provider: str(AGENT_ID) for provider in self.provided}
        return {**super()._run_row(), "agent": None if self.config is None else agent, "credential_ids": ids}


def drive(
    flowise: FlowiseServer,
    flow: Flow,
    *,
    given: JsonObject | None = None,
    servers: Servers = SERVERS,
    key: str = SERVER_KEY,
    **config: Any,
) -> FlowDrive:
    """A run that asks `flow`, with the server's credential and the person's OpenAI key."""
    credentials = {
        "flowise": {"base_url": flowise.url, "api_key": key},
        "openai": {"api_key": PERSONS_KEY},
    }
    return FlowDrive(
        WithCredentials(FlowiseEngine(servers), credentials),
        given or {"question": "Hi"},
        config={"flow_id": flow.id, **config},
        provided=("flowise", "openai"),
    )


def engine_of(drive: FlowDrive) -> WithCredentials:
    assert isinstance(drive.engine, WithCredentials)
    return drive.engine
