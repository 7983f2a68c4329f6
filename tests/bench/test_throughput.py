"""The bench's arithmetic and verdicts, and that a contender does its work or says why it could not."""

from __future__ import annotations

import argparse
import io

import pytest
from rich.console import Console

from bench import throughput
from bench.contenders import ContenderError, taken_alone
from bench.throughput import Figures, Row, missed, ratio, show, with_times
from tests.support.database import TestServer

WORK = {"runs": 2, "steps": 3, "at_a_time": 2}


def row(contender: str, at_a_time: int, *rates: float, failed: str | None = None) -> Row:
    return {
        "contender": contender,
        "title": throughput.TITLES[contender],
        "at_a_time": at_a_time,
        "rates": list(rates),
        "process_us": [30.0 for _ in rates],
        "server_us": [90.0 for _ in rates],
        "failed": failed,
        "times": {},
    }


def figures(*rows: Row) -> Figures:
    return {
        "rounds": 3,
        "runs": 100,
        "steps": 20,
        "on": "everything",
        "machine": {"CPUs": "2"},
        "packages": {"dbos": None},
        "rows": with_times(rows),
    }


KEPT = (
    row("runbase", 10, 8_000),
    row("rest", 10, 2_000),
    row("absurd", 10, 2_000),
    row("dbos", 10, 500),
    row("runbase", 100, 12_000),
    row("rest", 100, 3_000),
    row("absurd", 100, 2_000),
)


def test_a_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians() -> None:
    # A machine half as fast in the second round, and a contender that hiccuped in the third.
    assert ratio([4_000, 2_000, 500], [1_000, 500, 1_000]) == 4


def test_rounds_that_only_one_contender_has_do_not_count() -> None:
    assert ratio([4_000, 9_000], [1_000]) == 4
    assert ratio([4_000], []) is None


def test_contenders_are_compared_at_the_same_number_of_runs_at_a_time() -> None:
    found = with_times([row("runbase", 10, 6_000), row("absurd", 10, 2_000), row("absurd", 100, 1_000)])

    assert [one["times"] for one in found] == [{"absurd": 3}, {"absurd": 1}, {"absurd": 1}]


def test_budgets_that_are_kept_are_not_mentioned() -> None:
    assert missed(figures(*KEPT)) == []


def test_a_budget_that_is_missed_is_named_with_what_was_found() -> None:
    slower = [row("runbase", 10, 5_000) if one is KEPT[0] else one for one in KEPT]

    assert missed(figures(*slower)) == [
        "Runbase, direct wire at 10: at least 4 times Absurd, found 2.50",
        "Runbase, direct wire at 10: at least 11 times DBOS, found 10.00",
    ]


def test_a_budget_beside_a_peer_that_failed_or_was_left_out_is_not_kept() -> None:
    without = [row("dbos", 10, failed="no such module") if one["contender"] == "dbos" else one for one in KEPT[:4]]

    assert missed(figures(*without)) == [
        "Runbase, direct wire at 10: at least 11 times DBOS, not measured",
        "Runbase, direct wire at 100: at least 6 times Absurd, not measured",
        "Runbase, PostgREST at 100: at least 1 times Absurd, not measured",
    ]


def test_a_contender_that_failed_stands_in_the_table_with_its_reason() -> None:
    output = io.StringIO()

    show(figures(row("runbase", 10, 6_000, 7_000, 8_000), row("dbos", 10, failed="[no] module")), Console(file=output))

    assert "7,000" in output.getvalue()
    assert "DBOS at 10 failed: [no] module" in output.getvalue()
    assert "dbos not installed" in output.getvalue()


@pytest.mark.parametrize("module", ["bench.floor", "bench.transactions", "bench.worker", "bench.rest_worker"])
def test_each_of_our_own_contenders_does_the_work(module: str, database_url: str) -> None:
    taken = taken_alone(module, database_url, **WORK)

    assert taken.seconds > 0
    assert taken.process_seconds > 0


def test_a_contender_that_cannot_run_says_why(database_url: str) -> None:
    with pytest.raises(ContenderError, match=r"No module named bench\.nobody"):
        taken_alone("bench.nobody", database_url, **WORK)


def test_a_server_that_is_not_durable_is_not_measured(database_server: TestServer) -> None:
    options = argparse.Namespace(runs=1, steps=1, rounds=1, at_a_time=[1], only=())

    with pytest.raises(RuntimeError, match="not durable: fsync off"):
        throughput.measure(database_server.url(), options)


def test_contenders_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    throughput.add_options(parser)

    assert [one.key for one in parser.parse_args(["--only", "dbos,runbase"]).only] == ["runbase", "dbos"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--only", "nobody"])
    assert "no contender is called 'nobody'" in capsys.readouterr().err
