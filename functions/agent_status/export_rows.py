"""Runs as the lines of a file. What a person or a model wrote is neither a formula nor a second cell in it.

JSON lines hold a run as agent-status shows it, without its open questions. CSV is that of RFC 4180 in UTF-8, with input
and output as JSON. A text cell that a spreadsheet would take for a formula gets an apostrophe before it, which
spreadsheets show as text; whoever needs the exact bytes takes JSON lines. Files leave our hands, so what looks like a
secret is taken out once more, also where a person wrote it into an input.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final, Literal, cast

import orjson

from shared import run_views as views
from shared.redaction import redact_json
from shared.runs.models import JsonObject

Format = Literal["csv", "jsonl"]
Cell = str | int | float | None

MEDIA_TYPES: Final[dict[Format, str]] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}

_COLUMNS: Final = (
    "id", "created_at", "started_at", "finished_at", "duration_ms", "status", "engine", "agent_id", "agent_name",
    "agent_version", "account_id", "user_id", "credits_spent", "step_count", "input", "output", "error_code",
    "error_message", "forked_from",
)  # fmt: skip
# What begins a formula, in its full-width form too, and what spreadsheets skip before one.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def head(form: Format) -> bytes:
    """What a file begins with."""
    return _csv([_COLUMNS]) if form == "csv" else b""


def written(rows: Iterable[JsonObject], form: Format) -> bytes:
    """Rows of `list_runs` as lines."""
    runs = [_shown(row) for row in rows]
    if form == "csv":
        return _csv([_cells(run) for run in runs])
    return b"".join(orjson.dumps(run, option=orjson.OPT_APPEND_NEWLINE) for run in runs)


def _shown(row: JsonObject) -> views.Object:
    return redact_json(views.Run.from_row(row).model_dump(mode="json", exclude={"human_requests"}))


def _cells(run: views.Object) -> list[Cell]:
    agent = cast("views.Object", run["agent"] or {})
    error = cast("views.Object", run["error"] or {})
    spent = cast("views.Object", run["credits"])["spent"]
    apart = {
        "agent_id": agent.get("id"),
        "agent_name": agent.get("name"),
        "agent_version": agent.get("version"),
        "credits_spent": spent,
        "input": _json(run["input"]),
        "output": _json(run["output"]),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
    }
    return [_cell(apart[name] if name in apart else run[name]) for name in _COLUMNS]


def _cell(value: object) -> Cell:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value if isinstance(value, int | float | None) else _cell(_json(value))


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _csv(lines: Iterable[Sequence[Cell]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    return text.getvalue().encode()
