"""What calls cost, in micro-credits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.llm.model import Message, ModelRequest, Usage
from shared.llm.prices import cost, upper_bound

MODELS = ["anthropic:claude-sonnet-5-5", "anthropic:claude-haiku-5-5", "openai:gpt-5.4", "new:thing", "scripted:demo"]


def test_a_million_tokens_of_two_dollars_cost_two_hundred_credits() -> None:
    assert cost("anthropic:claude-sonnet-5-5", Usage(input_tokens=1_000_000)) == 200_000_000


def test_every_kind_of_token_has_its_price() -> None:
    usage = Usage(input_tokens=10, output_tokens=10, cache_read_tokens=10, cache_write_tokens=10)

    assert cost("anthropic:claude-sonnet-5-5", usage) == 2_000 + 10_000 + 100 + 2_500


def test_a_fraction_is_rounded_up() -> None:
    assert cost("anthropic:claude-haiku-5-5", Usage(cache_write_tokens=1)) == 13


def test_a_long_prompt_costs_more_where_the_provider_says_so() -> None:
    assert cost("anthropic:claude-haiku-5-5", Usage(input_tokens=100_000)) == 1_000_000
    assert cost("anthropic:claude-haiku-5-5", Usage(input_tokens=100_001)) == 5_000_050


def test_the_longest_prefix_decides() -> None:
    assert cost("openai:gpt-5-mini-2025-08-07", Usage(input_tokens=1000)) == 25_000
    assert cost("openai:gpt-5.5", Usage(input_tokens=1000)) == 250_000


def test_models_on_ones_own_machine_are_free_and_recordings_are_not() -> None:
    assert cost("ollama:qwen3", Usage(1000, 1000)) == 0
    assert cost("scripted:demo", Usage(1000, 1000)) == 600_000


def test_unknown_models_have_a_price() -> None:
    assert cost("new:thing", Usage(1000, 1000)) == 3_000_000


@given(st.sampled_from(MODELS), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.data())
def test_no_call_costs_more_than_its_upper_bound(
    model: str, fresh: int, cached: int, written: int, data: st.DataObject
) -> None:
    limit = data.draw(st.integers(1, 10**5))
    usage = Usage(fresh, data.draw(st.integers(0, limit)), cached, written)

    assert cost(model, usage) <= upper_bound(model, fresh + cached + written, limit)


@pytest.mark.parametrize(("text", "size"), [("abcd", 4), ("äöü", 6), ("日本", 6)])
def test_the_size_of_a_request_counts_bytes(text: str, size: int) -> None:
    plain = ModelRequest("", (Message.user(""),)).input_characters

    assert ModelRequest("", (Message.user(text),)).input_characters == plain + size
