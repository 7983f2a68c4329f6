"""What a model call costs.

1 credit = 1,000,000 micro-credits = 1 US cent, so one US dollar a million tokens is 100 micro-credits a token.
Prices are integers in micro-credits per 1,000 tokens (the cheapest cached token costs less than one micro-credit)
and every cost is rounded up. They are the providers' list prices of November 2026, without a margin.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.llm.model import Usage

_PER_DOLLAR_A_MILLION = 100_000  # micro-credits per 1,000 tokens
_OVERHEAD_TOKENS = 1_000  # what a provider adds to a request with tools: about 350 tokens, and some for each tool


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-credits per 1,000 tokens; above `long_from` input tokens every token costs `long_factor` times that."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    long_from: int | None = None
    long_factor: int = 1


def _dollars(input_: float, output: float, cache_read: float, cache_write: float | None = None, **long: int) -> Price:
    """US dollars a million tokens, as providers print them; a cache without a write price writes at the input's."""
    amounts = (input_, output, cache_read, input_ if cache_write is None else cache_write)
    return Price(*(round(amount * _PER_DOLLAR_A_MILLION) for amount in amounts), **long)


_FREE = Price(0, 0, 0, 0)
OWN_KEY = "own-key:"
"""Stands before the name of a model that is asked with a person's own key: its provider bills them, and we do not."""

_BY_PREFIX: dict[str, Price] = {
    "anthropic:claude-fable": _dollars(10, 50, 1, 12.5),
    "anthropic:claude-mythos": _dollars(10, 50, 1, 12.5),
    "anthropic:claude-opus": _dollars(5, 25, 0.5, 6.25),
    "anthropic:claude-opus-5-5": _dollars(4, 20, 0.2, 5),
    "anthropic:claude-sonnet": _dollars(3, 15, 0.3, 3.75),
    "anthropic:claude-sonnet-5": _dollars(2, 10, 0.2, 2.5),
    "anthropic:claude-sonnet-5-5": _dollars(2, 10, 0.1, 2.5),
    "anthropic:claude-haiku": _dollars(1, 5, 0.1, 1.25),
    "anthropic:claude-haiku-5-5": _dollars(0.1, 0.5, 0.01, 0.125, long_from=100_000, long_factor=5),
    "openai:gpt-5": _dollars(2.5, 15, 0.25),
    "openai:gpt-5-mini": _dollars(0.25, 2, 0.025),
    "openai:gpt-5-nano": _dollars(0.05, 0.4, 0.005),
    "openai:gpt-5.4-mini": _dollars(0.75, 4.5, 0.075),
    "openai:gpt-4.1": _dollars(2, 8, 0.5),
    "openai:gpt-4.1-mini": _dollars(0.4, 1.6, 0.1),
    "openai:gpt-4o": _dollars(2.5, 10, 1.25),
    "openai:gpt-4o-mini": _dollars(0.15, 0.6, 0.075),
    "deepseek:": _dollars(1.32, 3.96, 0.044),  # peak hours of V4 Pro: the dearest it gets
    "deepseek:deepseek-flash": _dollars(0.3, 1.2, 0.006),
    "deepseek:deepseek-v4-flash": _dollars(0.3, 1.2, 0.006),
    "gemini:gemini-3.8-flash": _dollars(0.75, 3.75, 0.075),
    OWN_KEY: _FREE,
    # Models on one's own machine; who meters them puts a price here.
    "ollama:": _FREE,
    "vllm:": _FREE,
    "llamacpp:": _FREE,
    # A recording costs something, so that a demo shows credits being held, booked and returned.
    "scripted:": _dollars(1, 5, 0.1),
}
_UNKNOWN = _dollars(5, 25, 0.5, 6.25)


def price_of(model: str) -> Price:
    """The price of `provider:model` by its longest known prefix; unknown models cost 5 and 25 dollars a million."""
    known = [prefix for prefix in _BY_PREFIX if model.startswith(prefix)]
    return _BY_PREFIX[max(known, key=len)] if known else _UNKNOWN


def cost(model: str, usage: Usage) -> int:
    """Micro-credits that one call has cost."""
    price = price_of(model)
    prompt_tokens = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    thousandths = (
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_tokens * price.cache_read
        + usage.cache_write_tokens * price.cache_write
    )
    return _rounded_up(thousandths * _factor(price, prompt_tokens))


def upper_bound(model: str, input_characters: int, max_output_tokens: int) -> int:
    """Micro-credits that one call can cost at most; what a run must hold before the call starts.

    Takes one token a character (`ModelRequest.input_characters` counts bytes) and the dearest way to read each.
    """
    price = price_of(model)
    prompt_tokens = input_characters + _OVERHEAD_TOKENS
    thousandths = prompt_tokens * max(price.input, price.cache_write) + max_output_tokens * price.output
    return _rounded_up(thousandths * _factor(price, prompt_tokens))


def _factor(price: Price, prompt_tokens: int) -> int:
    return price.long_factor if price.long_from is not None and prompt_tokens > price.long_from else 1


def _rounded_up(thousandths: int) -> int:
    return -(-thousandths // 1000)
