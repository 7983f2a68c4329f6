"""The lease protocol as a small model, searched exhaustively; each guard is taken away to see that it can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("run.pml")
PROPERTIES = ("result_once", "ended_once", "effect_once", "stop_is_kept", "ends_at_last")

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None,
    reason="needs SPIN and gcc (Debian: apt-get install spin gcc)",
)

Check = Callable[..., bool]


@pytest.fixture(scope="module")
def holds(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Whether a property holds in every order of events, with these guards switched."""

    @cache
    def searcher(*defines: str) -> Path:
        directory = tmp_path_factory.mktemp("model")
        _run(directory, "spin", *defines, "-a", str(MODEL))
        _run(directory, "gcc", "-O1", "-w", "-o", "pan", "pan.c")
        return directory

    def check(property_: str, **guards: int) -> bool:
        directory = searcher(*(f"-D{guard}={value}" for guard, value in guards.items()))
        found = _run(directory, "./pan", "-a", "-N", property_, "-m100000")
        assert "max search depth too small" not in found
        errors = re.search(r"errors: (\d+)", found)
        assert errors is not None, found
        return errors[1] == "0"

    return check


@pytest.mark.parametrize("property_", PROPERTIES)
def test_the_protocol_holds_in_every_order_of_events(holds: Check, property_: str) -> None:
    assert holds(property_)


@pytest.mark.parametrize(
    ("guard", "property_"),
    [
        ("FENCE", "result_once"),
        ("FENCE", "ended_once"),
        ("KEYED", "effect_once"),
        ("STOP_KEPT", "stop_is_kept"),
    ],
)
def test_without_its_guard_a_property_is_found_broken(holds: Check, guard: str, property_: str) -> None:
    assert not holds(property_, **{guard: 0})


def _run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
