"""procrastinate: a job a step, each putting the next one of its run into the queue.

A worker fetches one job at a time, so there are several, with a connection each. One or twenty of them, LISTEN in
place of polls, and all jobs queued beforehand were slower.
"""

from __future__ import annotations

import asyncio

from procrastinate import App, PsycopgConnector

from bench.contender import Stopwatch, Taken, check, contend

MAX_WORKERS = 10
POLL_SECONDS = 0.05


async def procrastinate(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    workers = min(at_a_time, MAX_WORKERS)

    app = App(connector=PsycopgConnector(conninfo=url, min_size=workers, max_size=workers))
    left = 0
    ended = asyncio.Event()

    @app.task(name="step")
    async def step(number: int, steps: int) -> dict[str, bool]:
        nonlocal left
        if number < steps:
            await step.defer_async(number=number + 1, steps=steps)
        else:
            left -= 1
            if left == 0:
                ended.set()
        return {"ok": True}

    async def queue(runs: int, *, steps: int) -> None:
        nonlocal left
        await step.batch_defer_async(*({"number": 1, "steps": steps} for _ in range(runs)))
        left = runs
        ended.clear()

    async def work() -> None:
        """Until all that was queued has ended; a cancelled worker records its last jobs first."""
        tasks = [
            asyncio.create_task(
                app.run_worker_async(
                    concurrency=-(-at_a_time // workers),
                    fetch_job_polling_interval=POLL_SECONDS,
                    listen_notify=False,
                    install_signal_handlers=False,
                )
            )
            for _ in range(workers)
        ]
        await ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await queue(at_a_time, steps=1)
        await work()
        await queue(runs, steps=steps)

        watch = await Stopwatch.started(url)
        await work()
        taken = watch.stop()

    await check(
        url,
        "select count(*) from procrastinate_jobs where status = 'succeeded'",
        runs * steps + at_a_time,
    )
    return taken


if __name__ == "__main__":
    contend(procrastinate)
