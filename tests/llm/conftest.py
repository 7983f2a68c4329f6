from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from shared.llm.anthropic import AnthropicModel
from shared.llm.model import Message, Model, ModelRequest
from shared.llm.openai import OpenAIModel
from shared.llm.presets import PRESETS
from shared.llm.retry import RetryPolicy
from tests.support.model_server import ModelServer

KEY = "sk-canary-0123456789abcdef"


class Naps:
    """A sleep that takes no time and remembers what it was asked for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture(scope="session")
def one_server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def server(one_server: ModelServer) -> Iterator[ModelServer]:
    yield one_server
    one_server.reset()


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
async def claude(server: ModelServer, naps: Naps) -> AsyncIterator[AnthropicModel]:
    model = AnthropicModel("claude-sonnet-5-5", api_key=KEY, base_url=server.url, policy=RetryPolicy(sleep=naps))
    yield model
    await model.aclose()


@pytest.fixture
async def gpt(server: ModelServer, naps: Naps) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(
        PRESETS["openai"], "gpt-5.4", api_key=KEY, base_url=server.openai_url, policy=RetryPolicy(sleep=naps)
    )
    yield model
    await model.aclose()


@pytest.fixture(params=["claude", "gpt"])
def model(request: pytest.FixtureRequest) -> Model:
    """Each provider in turn: what holds for both is tested once, over both SDKs."""
    return request.getfixturevalue(request.param)


def ask(text: str = "Hello", **changes: object) -> ModelRequest:
    defaults: dict[str, object] = {"system": "Be brief.", "messages": (Message.user(text),), "timeout_seconds": 30.0}
    return ModelRequest(**{**defaults, **changes})  # type: ignore[arg-type]
