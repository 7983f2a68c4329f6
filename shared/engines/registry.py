"""The engines that a worker can run, by the name that a run's row gives.

Nothing heavy is imported or connected before a run needs it: a function that only lists names stays quick to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.models import ModelsOfRuns
from shared.engines.flowise.engine import FlowiseEngine
from shared.errors import InvalidInput
from shared.llm.model import Model, ModelRequest, ModelResponse, OnText
from shared.llm.registry import model_from_env, model_named
from shared.runs.engine import Engine
from shared.tools.builtin import builtin_router

FALLBACK_MODEL = "scripted:demo"

AnyEngine = Engine[Any]  # engines of unlike states in one table; the runner hands each its own state back


def engines_from_env(env: Mapping[str, str]) -> dict[str, AnyEngine]:
    """Build the engines; the agent with the model that `env` names, or the recorded demo when it names none."""
    agent = AgentEngine(ModelsOfRuns(LazyModel(env), env), builtin_router())
    engines: tuple[AnyEngine, ...] = (agent, FlowiseEngine())
    return {engine.name: engine for engine in engines}


class LazyModel:
    """The model that `env` names, made at its first use.

    A wrong setting therefore fails the runs that need a model, with a message that says so, and not the worker.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    @property
    def name(self) -> str:
        try:
            return self._model.name
        except InvalidInput:
            # Deciding asks for the name alone and must not fail; the step that asks the model says what is wrong.
            return self._env.get("RUNBASE_LLM", "")

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        return await self._model.respond(request, on_text=on_text)

    async def aclose(self) -> None:
        if "_model" in self.__dict__:
            await self._model.aclose()

    @cached_property
    def _model(self) -> Model:
        return model_from_env(self._env) or model_named(FALLBACK_MODEL, self._env)
