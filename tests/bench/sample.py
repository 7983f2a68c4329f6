"""Results as `all` keeps them, made up: every budget is kept."""

from __future__ import annotations

from bench import latency, memory, starts, storage, vault
from bench.results import Results
from bench.spread import Spread, spread
from bench.throughput import Row, with_times

MACHINE = {"PostgreSQL": "18.6", "Python": "3.11.7", "CPUs": "2", "CPU": "Some CPU", "load before": "0.0"}


def of(value: float) -> Spread:
    return spread([value, value])


def rates(contender: str, at_a_time: int, rate: float) -> Row:
    return {
        "contender": contender,
        "title": contender,
        "at_a_time": at_a_time,
        "rates": [rate],
        "process_us": [30.0],
        "server_us": [90.0],
        "failed": None,
        "times": {},
    }


SAMPLE: Results = {
    "started": "2026-01-01 00:00",
    "ended": "2026-01-01 00:15",
    "quick": False,
    "missed": {},
    "failed": {},
    "measurements": {
        "throughput": {
            "rounds": 1,
            "runs": 100,
            "steps": 20,
            "on": "everything",
            "machine": MACHINE,
            "packages": {},
            "rows": with_times([rates("runbase", 10, 6000.0), rates("absurd", 10, 1000.0)]),
        },
        "latency": {
            "machine": MACHINE,
            "ms": {name: of(budget["ms"] / 2) for name, budget in latency.BUDGETS.items()},
            "repeated": 0,
            "imports": {"agent_logs": {"ms": 200.0, "sdks": []}},
        },
        "claim": {
            "machine": MACHINE,
            "claims": 50,
            "rows": [
                {
                    "queued": queued,
                    "accounts": accounts,
                    "claim": of(2.0),
                    "commit": of(1.0),
                    "pick": of(0.5),
                    "view": of(0.5),
                    "end": of(3.0),
                }
                for queued, accounts in ((1000, 1), (1000, 1000), (1_000_000, 1), (1_000_000, 1000))
            ],
            "crowd": 100_000,
            "place": 1,
        },
        "storage": {
            "machine": MACHINE,
            "runs": 10,
            "steps": 500,
            "rows": [
                {
                    "title": title,
                    "wal": {"records": 1400.0, "page_images": 0.0},
                    "tables": {"public.agent_steps": (400.0, 60.0)},
                    "hot": {"agent_runs": 0.99, "agent_steps": 1.0},
                }
                for title in storage.PACE_SECONDS
            ],
        },
        "distance": {
            "machine": MACHINE,
            "steps": 50,
            "rows": [
                {
                    "distance_ms": 0.0,
                    "at_a_time": 1,
                    "ping_ms": 0.2,
                    "step_ms": 2.0,
                    "steps_a_second": 500.0,
                    "advances": 1.02,
                    "calls": 1.1,
                    "round_trips": 1.0,
                }
            ],
        },
        "memory": {
            "machine": MACHINE,
            "runs": 1000,
            "worker_mb": 40.0,
            "rows": [
                {"title": title, "worker_kb": 0.1, "database_kb": 3.0, "broadcast_kb": 1.0, "leases": 0.0}
                for title in memory.INPUTS
            ],
        },
        "growth": {
            "machine": MACHINE,
            "rows": [
                {
                    "steps": steps,
                    "runs": 10,
                    "microseconds": 200.0,
                    "wal": 1500.0,
                    "decisions": 1.0,
                    "claim_bytes": 10_000,
                    "whole_bytes": 200 * steps,
                }
                for steps in (10, 100, 10_000)
            ],
        },
        "realtime": {
            "machine": MACHINE,
            "subscribers": 50,
            "ms": of(20.0),
            "sockets": 1000,
            "alone_mb": 90.0,
            "idle_mb": 150.0,
        },
        "vault": {
            "machine": MACHINE,
            "rows": [
                {"title": title, "opened": of(budget / 2), "call": of(budget / 4)}
                for title, budget in vault.OPEN_MS.items()
            ],
            "credentials": 10_000,
            "rewrapped": 5000.0,
        },
        "start": {
            "machine": MACHINE,
            "seconds": {name: of(seconds / 2) for name, seconds in starts.BUDGETS.items()},
        },
    },
}
