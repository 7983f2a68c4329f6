"""Which engines there are, and what a wrong setting of the model does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.engines.registry import LazyModel, engines_from_env
from tests.engines.drive import Drive


def test_the_agent_is_the_recorded_demo_when_no_model_is_configured() -> None:
    assert LazyModel({}).name == "scripted:demo"


def test_the_agent_uses_the_model_that_the_environment_names() -> None:
    assert LazyModel({"RUNBASE_LLM": "ollama:qwen3"}).name == "ollama:qwen3"
    assert LazyModel({"ANTHROPIC_API_KEY": "sk-ant-test"}).name.startswith("anthropic:claude")


@pytest.mark.parametrize("name", ["nonsense", "scripted:missing", "openai:gpt-5"])
async def test_a_wrong_setting_fails_the_run_and_says_why(name: str) -> None:
    drive = Drive(engines_from_env({"RUNBASE_LLM": name})["agent"], {"prompt": "Hello"})

    error = await drive.fail()

    assert error.code == "invalid_input"
    assert drive.keys == ["plan.1"]


def test_listing_the_engines_imports_no_sdk() -> None:
    program = (
        "import sys; from shared.engines.registry import engines_from_env; "
        "engines_from_env({'ANTHROPIC_API_KEY': 'x'}); "
        "print([name for name in ('anthropic', 'openai', 'wasmtime') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
