"""Which model an agent's run speaks to, and whose key pays for it.

A run of an agent uses the key of whoever started it, or the one that the agent brings: both are credentials of the run,
opened for one step. The platform's own key speaks for runs without an agent, and for an agent whose config says
`"managed": true`; nothing else ever falls back to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from shared.errors import InvalidInput
from shared.llm.model import Model, ModelRequest, ModelResponse, OnText
from shared.llm.prices import OWN_KEY
from shared.llm.registry import OwnAccount, model_named
from shared.runs.engine import StepContext
from shared.runs.models import Run

_OF_ACCOUNT: Final = frozenset({"api_key", "organization", "project"})


class Models(Protocol):
    """Where an agent engine gets the model of a run from."""

    def name_for(self, run: Run) -> str:
        """The name by which the run's model calls are priced. Pure."""
        ...

    def opened(self, ctx: StepContext) -> AbstractAsyncContextManager[Model]:
        """The model of the run, for one step.

        Raises:
            AppError: the run has no key for it, or the key cannot be opened.
        """
        ...


class OneModel:
    """Every run speaks to the same model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def name_for(self, run: Run) -> str:
        del run
        return self._model.name

    @asynccontextmanager
    async def opened(self, ctx: StepContext) -> AsyncGenerator[Model]:
        del ctx
        yield self._model


class ModelsOfRuns:
    """The model that a run's agent names, with the key that the run brings; else the platform's."""

    def __init__(self, platform: Model, env: Mapping[str, str]) -> None:
        """`env` says where providers are, and has the platform's keys."""
        self._platform = platform
        self._env = env

    def name_for(self, run: Run) -> str:
        name = _named_by_agent(run)
        if name is None:
            return self._platform.name
        return f"{OWN_KEY}{name}" if _provider(name) in run.credential_ids else name

    @asynccontextmanager
    async def opened(self, ctx: StepContext) -> AsyncGenerator[Model]:
        run = ctx.run
        name = _named_by_agent(run)
        if name is not None and _provider(name) in run.credential_ids:
            async with ctx.open_credential(_provider(name)) as credential:
                given = {field: value.reveal() for field, value in credential.fields.items() if field in _OF_ACCOUNT}
                model = model_named(name, self._env, own=OwnAccount(**given))
                try:
                    yield OwnKey(model)
                finally:
                    await model.aclose()
            return
        if run.agent is not None and run.agent.config.get("managed") is not True:
            needed = "a model" if name is None else f"the model {name!r}"
            raise InvalidInput(
                f"The agent uses {needed}, and the run has no key for it",
                hint="The agent names its model and requires a credential of that provider, or says that it is managed",
            )
        if name is None:
            yield self._platform
            return
        model = model_named(name, self._env)
        try:
            yield model
        finally:
            await model.aclose()


class OwnKey:
    """A model whose provider bills the owner of the key: its tokens cost no credits here."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return f"{OWN_KEY}{self._model.name}"

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        return await self._model.respond(request, on_text=on_text)

    async def aclose(self) -> None:
        await self._model.aclose()


def _named_by_agent(run: Run) -> str | None:
    name = None if run.agent is None else run.agent.config.get("model")
    return name if isinstance(name, str) and name else None


def _provider(name: str) -> str:
    return name.partition(":")[0]
