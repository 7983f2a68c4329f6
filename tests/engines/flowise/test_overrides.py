"""Keys come to their places in the overrides, and an override without effect is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from shared.engines.flowise.overrides import denied, inject
from shared.engines.flowise.shapes import Flow, Overridable
from shared.errors import InvalidInput
from shared.vault.secret import Secret

KEYS = {"openai": {"api_key": Secret("sk-person")}, "gemini": {"api_key": Secret("AIza-person")}}
NODES = [
    Overridable("chatOpenAI_0", "OpenAI", "openAIApiKey", "string"),
    Overridable("chatOpenAI_1", "Second OpenAI", "openAIApiKey", "string"),
    Overridable("chatOpenAI_0", "OpenAI", "temperature", "number"),
]


def flow(*, status: bool = True, variables: tuple[str, ...] = (), **enabled: tuple[str, ...]) -> Flow:
    nodes = {
        label.replace("_", " "): [{"name": name, "enabled": True} for name in names] for label, names in enabled.items()
    }
    listed = [{"name": name, "enabled": True} for name in variables]
    return Flow("f", "Flow", "CHATFLOW", enabled={"status": status, "nodes": nodes, "variables": listed})  # type: ignore[dict-item]


def test_keys_are_put_flat_by_node_and_into_settings() -> None:
    tree = {
        "openAIApiKey": {"chatOpenAI_0": "openai.api_key"},
        "googleApiKey": "gemini.api_key",
        "llmModelConfig": {"openAIApiKey": "openai.api_key"},
    }

    merged = inject({"llmModelConfig": {"modelName": "m", "openAIApiKey": "from the input"}, "top": 1}, tree, KEYS)

    assert merged == {
        "top": 1,
        "openAIApiKey": {"chatOpenAI_0": "sk-person"},
        "googleApiKey": "AIza-person",
        "llmModelConfig": {"modelName": "m", "openAIApiKey": "sk-person"},
    }


def test_what_was_given_stays_as_it_was() -> None:
    overrides: dict[str, Any] = {"llmModelConfig": {"modelName": "m"}}

    inject(overrides, {"llmModelConfig": {"openAIApiKey": "openai.api_key"}}, KEYS)

    assert overrides == {"llmModelConfig": {"modelName": "m"}}


@pytest.mark.parametrize("leaf", ["openai.organisation", "anthropic.api_key"])
def test_a_field_that_no_credential_has_is_told(leaf: str) -> None:
    with pytest.raises(InvalidInput, match="has no field"):
        inject({}, {"openAIApiKey": leaf}, KEYS)


@pytest.mark.parametrize(
    ("wanted", "enabled", "refused"),
    [
        ({"openAIApiKey": "k"}, flow(), ["openAIApiKey"]),
        ({"openAIApiKey": "k"}, flow(OpenAI=("openAIApiKey",)), ["openAIApiKey"]),  # the second node keeps its own
        ({"openAIApiKey": "k"}, flow(OpenAI=("openAIApiKey",), Second_OpenAI=("openAIApiKey",)), []),
        ({"openAIApiKey": {"chatOpenAI_0": "k"}}, flow(OpenAI=("openAIApiKey",)), []),
        ({"openAIApiKey": {"chatOpenAI_1": "k"}}, flow(OpenAI=("openAIApiKey",)), ["openAIApiKey"]),
        ({"temperature": 0.1}, flow(OpenAI=("temperature",)), []),
        ({"temperature": 0.1}, flow(status=False, OpenAI=("temperature",)), ["temperature"]),
        ({"unknown": 1}, flow(OpenAI=("temperature",)), ["unknown"]),
        ({"llmModelConfig": {"openAIApiKey": "k"}}, flow(LLM=("llmModelConfig",)), []),
        ({"vars": {"tone": "kind", "size": 1}}, flow(variables=("tone",)), ["vars.size"]),
        ({}, flow(), []),
    ],
)
def test_overrides_without_effect_are_known(wanted: dict[str, Any], enabled: Flow, refused: list[str]) -> None:
    assert denied(wanted, enabled, NODES) == refused


@pytest.mark.parametrize(
    "stored", [None, "", "{", "[]", '{"overrideConfig": 7}', '{"overrideConfig": {"status": true}}']
)
def test_whatever_a_server_stores_as_settings_nothing_is_taken_for_enabled(stored: str | None) -> None:
    row = Flow.from_row({"id": "f", "name": "Flow", "apiConfig": stored})

    assert denied({"temperature": 1, "vars": {"tone": 1}}, row, NODES)
