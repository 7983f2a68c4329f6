"""Runbase over PostgREST: the same worker with the service key, through the embedded gateway in its own process."""

from __future__ import annotations

from bench.contender import Taken, contend
from bench.rest_gateway import gateway
from bench.worker import drained
from local.keys import Keys
from shared.rest_database import RestDatabase


async def rest_worker(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    async with gateway(url) as api_url:
        database = RestDatabase(f"{api_url}/rest/v1", apikey=Keys().secret_key)
        return await drained(database, url, runs=runs, steps=steps, at_a_time=at_a_time)


if __name__ == "__main__":
    contend(rest_worker)
