"""The pages that promise completeness are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import shared.engines.flowise.failures
import shared.http  # noqa: F401 - defines the errors of HTTP itself
from shared import errors
from shared.errors import AppError
from shared.runs.status import RunStatus, StepStatus

ROOT = Path(__file__).parent.parent
ERRORS = (ROOT / "docs" / "errors.md").read_text()
LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text()


def _kinds(kind: type[AppError] = AppError) -> Iterator[type[AppError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)


def test_every_http_error_stands_in_the_page_with_its_status_and_whether_to_retry() -> None:
    rows = {(kind.code, kind.status, kind.retryable) for kind in _kinds() if kind is not errors.RetryLater}
    found = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \|", ERRORS, re.MULTILINE)

    assert {(code, int(status), retry == "yes") for code, status, retry in found} == rows


def test_every_sqlstate_that_the_migrations_raise_is_mapped_and_in_the_page() -> None:
    sql = "".join(file.read_text() for file in (ROOT / "supabase" / "migrations").glob("*.sql"))
    raised = set(re.findall(r"errcode = '(RUN\d\d)'", sql))

    assert raised
    assert raised <= set(re.findall(r"^\| `(RUN\d\d)`", ERRORS, re.MULTILINE))
    assert all(type(errors.error_for(state, "x")) is not AppError for state in raised - {"RUN11", "RUN12"})


def test_every_code_of_a_runs_error_stands_in_the_page() -> None:
    code = "".join(file.read_text() for file in (ROOT / "shared").rglob("*.py"))
    named = set(re.findall(r"StepError\(\s*\"(\w+)\"", code)) | set(re.findall(r"code=\"(\w+)\"", code))

    assert len(named) > 8
    assert {code for code in named if f"| `{code}` |" not in ERRORS} == set()


def test_every_status_stands_in_the_lifecycle_and_its_pictures_are_drawn_from_the_tables() -> None:
    assert [status for status in (*RunStatus, *StepStatus) if f"| `{status}` |" not in LIFECYCLE] == []
    check = subprocess.run([sys.executable, ROOT / "scripts" / "lifecycle.py", "--check"], check=False)
    assert check.returncode == 0
