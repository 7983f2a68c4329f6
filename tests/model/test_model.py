"""The lease protocol as two small models, searched exhaustively; each guard is taken away to see that it can fail.

`run.pml` has one run and all that may befall it, `batch.pml` two runs in one call that is divided and repeated.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROPERTIES = [
    *(("run", name) for name in ("result_once", "ended_once", "effect_once", "stop_is_kept", "ends_at_last")),
    *(
        ("batch", name)
        for name in (
            "result_once",
            "innocent_is_spared",
            "told_is_written",
            "given_up_is_unwritten",
            "all_are_heard_of",
            "done_at_last",
        )
    ),
]

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None,
    reason="needs SPIN and gcc (Debian: apt-get install spin gcc)",
)

Check = Callable[..., bool]


@pytest.fixture(scope="module")
def holds(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Whether a property holds in every order of events, with these guards switched."""

    @cache
    def searcher(model: str, *defines: str) -> Path:
        directory = tmp_path_factory.mktemp("model")
        _run(directory, "spin", *defines, "-a", str(HERE / f"{model}.pml"))
        _run(directory, "gcc", "-O1", "-w", "-o", "pan", "pan.c")
        return directory

    def check(model: str, property_: str, **guards: int) -> bool:
        directory = searcher(model, *(f"-D{guard}={value}" for guard, value in guards.items()))
        found = _run(directory, "./pan", "-a", "-N", property_, "-m100000")
        assert "max search depth too small" not in found
        errors = re.search(r"errors: (\d+)", found)
        assert errors is not None, found
        return errors[1] == "0"

    return check


@pytest.mark.parametrize(("model", "property_"), PROPERTIES)
def test_the_protocol_holds_in_every_order_of_events(holds: Check, model: str, property_: str) -> None:
    assert holds(model, property_)


@pytest.mark.parametrize(
    ("model", "guard", "property_"),
    [
        ("run", "FENCE", "result_once"),
        ("run", "FENCE", "ended_once"),
        ("run", "KEYED", "effect_once"),
        ("run", "STOP_KEPT", "stop_is_kept"),
        ("batch", "FENCE", "result_once"),
        ("batch", "DIVIDED", "innocent_is_spared"),
        ("batch", "REREAD", "told_is_written"),
    ],
)
def test_without_its_guard_a_property_is_found_broken(holds: Check, model: str, guard: str, property_: str) -> None:
    assert not holds(model, property_, **{guard: 0})


def _run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
