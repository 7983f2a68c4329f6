"""From a name to a model."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.errors import InvalidInput
from shared.llm.anthropic import AnthropicModel
from shared.llm.openai import OpenAIModel
from shared.llm.registry import OwnAccount, model_from_env, model_named
from tests.llm.conftest import ask
from tests.support.model_server import ModelServer, Reply


def test_without_a_key_there_is_no_model() -> None:
    assert model_from_env({}) is None


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic:claude-sonnet-5-5"),
        ({"ANTHROPIC_API_KEY": "k", "RUNBASE_LLM": "scripted:demo"}, "scripted:demo"),
        ({"ANTHROPIC_API_KEY": "k", "RUNBASE_LLM": "anthropic:claude-haiku-4-5"}, "anthropic:claude-haiku-4-5"),
        ({"RUNBASE_LLM": "openai:gpt-5.4", "OPENAI_API_KEY": "k"}, "openai:gpt-5.4"),
        ({"RUNBASE_LLM": "ollama:qwen3:8b"}, "ollama:qwen3:8b"),
    ],
)
def test_the_environment_names_the_model(env: dict[str, str], name: str) -> None:
    model = model_from_env(env)

    assert model is not None
    assert model.name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openai:gpt-5.4", "OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("ollama", "provider only"),
        ("nobody:x", "no known provider"),
        ("scripted:other", "no recording"),
        ("scripted:../demo", "no recording"),
        ("", "no known provider"),
    ],
)
def test_a_name_that_means_nothing_is_explained(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        model_named(name, {})

    assert caught.value.hint


async def test_the_base_url_comes_from_the_environment(server: ModelServer) -> None:
    server.script(Reply.text("local"))
    model = model_named("ollama:qwen3", {"OLLAMA_BASE_URL": server.openai_url})

    response = await model.respond(ask())
    await model.aclose()

    assert response.text == "local"


@pytest.mark.parametrize(
    ("name", "variable", "home"),
    [
        ("anthropic:claude-haiku-4-5", "ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        ("openai:gpt-5.4", "OPENAI_BASE_URL", "https://api.openai.com/v1"),
        ("deepseek:deepseek-chat", "DEEPSEEK_BASE_URL", "https://api.deepseek.com"),
    ],
)
def test_a_persons_key_goes_to_its_provider_and_not_to_the_platforms_server(
    name: str, variable: str, home: str
) -> None:
    env = {variable: "https://gateway.example/v1", "SUPABASE_URL": "https://project.supabase.co"}

    model = model_named(name, env, own=OwnAccount("a-persons-key"))

    assert isinstance(model, AnthropicModel | OpenAIModel)
    assert model.base_url == home


async def test_a_persons_key_goes_without_the_platforms_organisation(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "the-platforms")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "the-platforms-too")
    env = {"OPENAI_BASE_URL": server.openai_url, "SUPABASE_URL": "http://127.0.0.1:54321"}
    server.script(Reply.text("one"), Reply.text("two"))

    for own in (OwnAccount("a-persons-key"), OwnAccount("a-persons-key", organization="org-1", project="proj_1")):
        model = model_named("openai:gpt-5.4", env, own=own)
        await model.respond(ask())
        await model.aclose()

    bare, named = (request.headers for request in server.requests)
    assert bare["authorization"] == "Bearer a-persons-key"
    assert "openai-organization" not in bare
    assert "openai-project" not in bare
    assert (named["openai-organization"], named["openai-project"]) == ("org-1", "proj_1")


def test_no_sdk_is_imported_before_a_model_needs_it() -> None:
    code = (
        "import sys, shared.llm.registry as r; r.model_from_env({}); r.model_named('scripted:demo', {});"
        "print([m for m in ('anthropic', 'openai', 'httpx2', 'tenacity') if m in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert printed.strip() == "[]"
