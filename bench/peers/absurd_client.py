"""Absurd as its documentation starts a worker: one client, which speaks over one connection."""

from __future__ import annotations

from bench.contender import Taken, contend
from bench.peers.absurd import absurd


async def one_client(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    return await absurd(url, runs=runs, steps=steps, at_a_time=at_a_time, connections=1)


if __name__ == "__main__":
    contend(one_client)
