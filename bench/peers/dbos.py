"""DBOS: a workflow a run, called directly by as many threads as runs go at a time.

Its queue takes as long within the noise, counted from the first enqueue; its coroutines, which hand every statement to
a thread, took longer. So creating a workflow is in its time, one row in twenty-odd, as with LangGraph, where others
find their runs queued. Connections are not asked whether they still live before each use.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, DBOSConfig

from bench.contender import Stopwatch, Taken, check, contend

MAX_CONNECTIONS = 20


@DBOS.step()
def noop() -> dict[str, bool]:
    return {"ok": True}


@DBOS.workflow()
def run(steps: int) -> dict[str, int]:
    for _ in range(steps):
        noop()
    return {"steps": steps}


async def dbos(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "sys_db_pool_size": min(at_a_time, MAX_CONNECTIONS),
        "db_engine_kwargs": {"pool_pre_ping": False},
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    with ThreadPoolExecutor(at_a_time) as threads:
        list(threads.map(run, [1] * at_a_time))

        watch = await Stopwatch.started(url)
        list(threads.map(run, [steps] * runs))
        taken = watch.stop()

    DBOS.destroy()
    await check(
        url,
        "select (select count(*) from dbos.operation_outputs),"
        " (select count(*) from dbos.workflow_status where status = 'SUCCESS')",
        runs * steps + at_a_time,
        runs + at_a_time,
    )
    return taken


if __name__ == "__main__":
    contend(dbos)
