"""Time limits of many tasks by one timer: each has its own, and who was only cancelled is not taken for late."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from shared.runs.time_limits import TimeLimits


async def test_a_task_that_takes_too_long_is_cancelled_and_others_go_on() -> None:
    limits = TimeLimits()
    done = asyncio.Event()
    patient = asyncio.create_task(limits.within(600.0, done.wait()))
    hasty = asyncio.create_task(limits.within(0.01, asyncio.Event().wait()))

    with pytest.raises(TimeoutError):
        await hasty
    done.set()

    assert await patient


async def test_a_shorter_limit_that_is_set_later_ends_first() -> None:
    limits = TimeLimits()
    order: list[str] = []

    async def takes(name: str, seconds: float) -> None:
        try:
            await limits.within(seconds, asyncio.Event().wait())
        except TimeoutError:
            order.append(name)

    await asyncio.gather(takes("second", 0.06), takes("first", 0.01), takes("third", 0.11))

    assert order == ["first", "second", "third"]


async def test_who_cancels_a_task_sees_it_cancelled_also_when_its_time_is_up() -> None:
    limits = TimeLimits()

    async def cleans_up_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(asyncio.sleep(0))

    task = asyncio.create_task(limits.within(0.0, cleans_up_slowly()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_task_comes_to_in_spite_of_its_limit_counts() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        raise AssertionError

    task = asyncio.create_task(TimeLimits().within(0.0, stubborn()))

    assert await task == "done all the same"


async def test_a_task_that_stays_within_its_limit_may_have_another() -> None:
    limits = TimeLimits()

    async def twice() -> None:
        await limits.within(600.0, asyncio.sleep(0))
        with pytest.raises(TimeoutError):
            await limits.within(0.0, asyncio.Event().wait())
        await limits.within(600.0, asyncio.sleep(0))

    await asyncio.create_task(twice())


@pytest.mark.parametrize("ending", ["a result", "an error of its own"])
async def test_a_task_that_outlived_its_limit_is_no_longer_cancelled_and_may_have_another(ending: str) -> None:
    limits = TimeLimits()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ending == "an error of its own":
                raise LookupError from None

    async def twice() -> int:
        with suppress(LookupError):
            await limits.within(0.0, stubborn())
        left = current().cancelling()
        with pytest.raises(TimeoutError):
            await limits.within(0.0, asyncio.Event().wait())
        return left

    assert await asyncio.create_task(twice()) == 0


def current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_nothing_is_kept_in_memory_until_a_limit_that_nobody_has_any_more() -> None:
    limits = TimeLimits()
    await asyncio.create_task(limits.within(86_400.0, asyncio.sleep(0)))
    known = weakref.ref(limits)

    limits.rest()
    del limits
    gc.collect()

    assert known() is None
