"""The one place that repeats, without a provider."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UpstreamBusy, UpstreamRefused, UpstreamTimeout
from shared.llm.failures import retry_after, without_keys
from shared.llm.model import OnText
from shared.llm.retry import RetryPolicy, repeat
from tests.llm.conftest import Naps


async def test_waits_count_towards_the_timeout() -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    async def busy(_: OnText | None) -> None:
        raise UpstreamBusy("busy")

    with pytest.raises(UpstreamTimeout):
        await repeat(busy, provider="P", policy=RetryPolicy(sleep=never), timeout_seconds=0.05, on_text=None)


async def test_backoff_stays_within_its_bounds() -> None:
    naps = Naps()

    async def busy(_: OnText | None) -> None:
        raise UpstreamBusy("busy")

    policy = RetryPolicy(attempts=12, base_seconds=1, longest_wait_seconds=5, sleep=naps)
    with pytest.raises(UpstreamBusy):
        await repeat(busy, provider="P", policy=policy, timeout_seconds=60, on_text=None)

    assert len(naps.seconds) == 11
    assert all(0 <= seconds <= 5 for seconds in naps.seconds)
    assert len(set(naps.seconds)) > 1


async def test_a_refusal_is_not_repeated() -> None:
    naps = Naps()

    async def refused(_: OnText | None) -> None:
        raise UpstreamRefused("no")

    with pytest.raises(UpstreamRefused):
        await repeat(refused, provider="P", policy=RetryPolicy(sleep=naps), timeout_seconds=60, on_text=None)

    assert naps.seconds == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@given(st.text())
def test_retry_after_never_fails(value: str) -> None:
    assert (retry_after({"retry-after": value}) or 0) >= 0


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-api03-abcdefgh-ijkl_mnop",
        "sk-proj-****wxyz",
        "AIzaSyA1234567890abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "ghp_abcdefghij123",
        "sb_secret_abc123def",
        "Bearer abcdef123456",
    ],
)
def test_whatever_looks_like_a_key_is_cut_out(secret: str) -> None:
    assert without_keys(f"wrong key: {secret}, sorry") == "wrong key: [key], sorry"


def test_a_known_key_is_cut_out_whatever_it_looks_like() -> None:
    assert without_keys("no: hunter2!", known="hunter2") == "no: [key]!"


def test_words_with_a_key_in_them_are_left_alone() -> None:
    assert without_keys("the task-runner at risk-level 3") == "the task-runner at risk-level 3"
