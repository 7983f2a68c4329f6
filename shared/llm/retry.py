"""When a model call is repeated, and when the whole of it has taken long enough.

The SDKs' own retries are off; this is the only place that repeats. A server that names a wait longer than
`longest_wait_seconds` is not waited for here: the error carries the number, and the run waits without a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from shared.crash_points import crash_point
from shared.errors import UpstreamBusy, UpstreamTimeout
from shared.llm.model import OnText

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Up to `attempts` tries; waits grow from `base_seconds` to `longest_wait_seconds`, chosen at random below that.

    The randomness spreads callers whom one outage stopped at the same moment.
    """

    attempts: int = 4
    base_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    sleep: Sleep = asyncio.sleep


async def repeat(
    attempt: Callable[[OnText | None], Awaitable[T]],
    *,
    provider: str,
    policy: RetryPolicy,
    timeout_seconds: float,
    on_text: OnText | None,
) -> T:
    """Call `attempt` until it answers, repeating on `UpstreamBusy` while nothing has been shown to a reader.

    Raises:
        UpstreamTimeout: `timeout_seconds` passed, attempts and waits together.
    """
    shown = False

    async def show(text: str) -> None:
        nonlocal shown
        shown = True
        if on_text is not None:
            await on_text(text)

    async def once() -> T:
        crash_point("before_model_call")
        answer = await attempt(None if on_text is None else show)
        crash_point("after_model_call")
        return answer

    def may_repeat(error: BaseException) -> bool:
        if not isinstance(error, UpstreamBusy) or shown:
            return False
        return (error.retry_after_seconds or 0) <= policy.longest_wait_seconds

    retrying = AsyncRetrying(
        sleep=policy.sleep,
        stop=stop_after_attempt(policy.attempts),
        wait=_wait(policy),
        retry=retry_if_exception(may_repeat),
        reraise=True,
    )
    limit = asyncio.timeout(timeout_seconds)
    try:
        async with limit:
            return await retrying(once)
    except TimeoutError:
        if not limit.expired():
            raise
        raise UpstreamTimeout(f"{provider} gave no complete answer within {timeout_seconds:g} seconds.") from None


def _wait(policy: RetryPolicy) -> Callable[[RetryCallState], float]:
    backoff = wait_random_exponential(multiplier=policy.base_seconds, max=policy.longest_wait_seconds)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after_seconds if isinstance(error, UpstreamBusy) else None
        # The jitter comes on top: earlier than asked would only be refused again.
        return backoff(state) if asked is None else asked + min(backoff(state), 1.0)

    return wait
