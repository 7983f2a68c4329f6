"""An agent's settings for Flowise: which are refused, and what they make of a run's input."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.engines.flowise.config import FlowiseConfig, ask_of
from shared.errors import InvalidInput

FLOW = "0a3b2c1d-0000-4000-8000-000000000001"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def config(**settings: Any) -> FlowiseConfig:
    return FlowiseConfig.read({"flow_id": FLOW, **settings})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"flow_id": "my flow"}, "flow_id"),
        ({"flow": FLOW}, "flow"),
        ({"base_url": "ftp://flows.example"}, "base_url"),
        ({"base_url": "https://me:secret@flows.example"}, "base_url"),
        ({"base_url": "flows.example"}, "base_url"),
        ({"base_url": "http://flows.example"}, "base_url"),
        ({"base_url": "http://10.0.0.1:3000"}, "base_url"),
        ({"base_url": "https://flows.example:5432"}, "base_url"),
        ({"base_url": "https://flows.example/?key=1"}, "base_url"),
        ({"session": "for ever"}, "session"),
        ({"timeout_seconds": 301}, "timeout_seconds"),
        ({"credits": -1}, "credits"),
        ({"input": {"prompt": "$.prompt"}}, "input.prompt"),
        ({"input": {"overrideConfig": {"sessionId": "$.session"}}}, "input.overrideConfig"),
        ({"input": {"overrideConfig": {"vars": {}}}}, "input.overrideConfig"),
        ({"injection": {"openAIApiKey": "openai"}}, "injection"),
        ({"injection": {"openAIApiKey": 7}}, "injection"),
        ({"injection": {"openAIApiKey": "flowise.api_key"}}, "injection"),
        ({"injection": {"sessionId": "openai.api_key"}}, "injection"),
        ({"injection": {"a": {"b": {"c": {"d": {"e": "openai.api_key"}}}}}}, "injection"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{named}: "):
        config(**settings)


def test_a_refusal_does_not_show_what_was_wrong() -> None:
    with pytest.raises(InvalidInput) as raised:
        config(base_url="https://me:hunter2@flows.example")

    assert "hunter2" not in raised.value.message


def test_the_injected_credentials_are_known_by_their_providers() -> None:
    injection = {"openAIApiKey": {"chatOpenAI_0": "openai.api_key"}, "llmModelConfig": {"key": "gemini.api_key"}}

    assert config(injection=injection).providers == ("gemini", "openai")


def test_input_is_mapped_by_paths_and_the_rest_is_meant_as_it_is() -> None:
    mapped = config(
        input={
            "question": "$.about.city",
            "form": {"all": "$", "second": "$.list.1", "missing": "$.nothing", "beyond": "$.list.7"},
            "vars": {"tone": "$.tone"},
            "overrideConfig": {"temperature": 0.2, "price": "$$5"},
            "uploads": "$.files",
        }
    )
    given_ = {"about": {"city": "Bern"}, "list": ["a", "b"], "tone": "kind", "files": [{"name": "a.txt"}]}

    asked = ask_of(mapped, given_)  # type: ignore[arg-type]

    assert asked.question == "Bern"
    assert asked.form == {"all": given_, "second": "b"}
    assert asked.overrides == {"temperature": 0.2, "price": "$5", "vars": {"tone": "kind"}}
    assert asked.uploads == ({"name": "a.txt"},)


@pytest.mark.parametrize("input_", [{}, {"question": ""}, {"question": " \n"}, {"question": None}, {"question": {}}])
def test_nothing_is_asked_of_a_flow_without_a_question(input_: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="no question"):
        ask_of(config(), input_)


def test_a_form_needs_no_question() -> None:
    assert ask_of(config(input={"question": None, "form": {"city": "$.city"}}), {"city": "Bern"}).question is None


@given(JSON, JSON, st.dictionaries(st.text(max_size=4), JSON, max_size=3))
def test_whatever_it_says_it_is_read_or_refused(settings: Any, question: Any, given_: dict[str, Any]) -> None:
    with suppress(InvalidInput):
        read = config(input={"question": question, "form": {"x": settings}}, injection={"y": settings})
        assert ask_of(read, given_).question != ""
