"""LangGraph with its Postgres checkpointer, durability "sync": a thread a run, a node a step.

A checkpointer writes one checkpoint at a time, even over a pool, so there are several; more than ten
brought nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from bench.contender import Stopwatch, Taken, check, contend

MAX_CONNECTIONS = 10


class State(TypedDict):
    steps: int


Graph = CompiledStateGraph[State, None, State, State]


async def _noop(state: State) -> State:
    return {"steps": state["steps"] + 1}


def _graph(saver: AsyncPostgresSaver, *, steps: int) -> Graph:
    graph = StateGraph(State)
    before = START
    for number in range(steps):
        graph.add_node(f"s{number}", _noop)
        graph.add_edge(before, f"s{number}")
        before = f"s{number}"
    graph.add_edge(before, END)
    return graph.compile(checkpointer=saver)


async def _drain(graph: Graph, threads: Iterator[str], *, steps: int) -> None:
    for thread in threads:
        await graph.ainvoke(
            {"steps": 0},
            {"configurable": {"thread_id": thread}, "recursion_limit": steps + 1},
            durability="sync",
        )


async def langgraph(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    async with AsyncExitStack() as connected:
        savers = [
            await connected.enter_async_context(AsyncPostgresSaver.from_conn_string(url))
            for _ in range(min(at_a_time, MAX_CONNECTIONS))
        ]
        await savers[0].setup()
        for number in range(at_a_time):
            await _drain(_graph(savers[number % len(savers)], steps=1), iter([f"warm-{number}"]), steps=1)
        graphs = [_graph(savers[number % len(savers)], steps=steps) for number in range(at_a_time)]
        threads = iter([f"run-{number}" for number in range(runs)])

        watch = await Stopwatch.started(url)
        await asyncio.gather(*(_drain(graph, threads, steps=steps) for graph in graphs))
        taken = watch.stop()

    await check(
        url,
        "select count(*), count(distinct thread_id) from checkpoints"
        " where thread_id like 'run-%' and (metadata ->> 'step')::integer > 0",
        runs * steps,
        runs,
    )
    return taken


if __name__ == "__main__":
    contend(langgraph)
