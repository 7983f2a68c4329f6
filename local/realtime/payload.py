"""The `data` of a `postgres_changes` message, with every key that the official clients insist on."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import orjson

from local.realtime.catalog import Table
from local.realtime.pgoutput import UNCHANGED, Change, Row
from local.realtime.values import Json

LARGEST_PAYLOAD = 1024 * 1024
LARGEST_KEPT_VALUE = 64  # bytes; what is left of a row that is too large


def change_payload(change: Change, table: Table, columns: AbstractSet[str]) -> orjson.Fragment:
    """Describe a change to somebody who may read `columns`."""
    shown = [column for column in change.relation.columns if column.name in columns and column.name in table.columns]
    payload = _frame(change)
    payload["columns"] = [{"name": column.name, "type": table.columns[column.name].type_name} for column in shown]
    names = {column.name for column in shown}
    if change.new is not None:
        payload["record"] = _record(_restored(change.new, change.old), table, names)
    if change.kind != "INSERT":
        keys = {column.name for column in table.primary_key}
        # Nobody can be asked whether they could see a row that is gone, so under RLS only its key is told.
        kept = names & keys if change.kind == "DELETE" and table.has_rls else names
        payload["old_record"] = _record(_identity(change, keys), table, kept)
    text = orjson.dumps(payload)
    if len(text) > LARGEST_PAYLOAD:
        payload["errors"] = ["Error 413: Payload Too Large"]
        for name in ("record", "old_record"):
            if name in payload:
                payload[name] = {
                    column: value
                    for column, value in payload[name].items()
                    if value is not None and len(orjson.dumps(value)) <= LARGEST_KEPT_VALUE
                }
        text = orjson.dumps(payload)
    return orjson.Fragment(text)


def error_payload(change: Change, error: str) -> orjson.Fragment:
    """Say that something happened to a row that may not be shown."""
    payload = _frame(change)
    payload["errors"] = [error]
    if change.kind != "DELETE":
        payload["record"] = {}
    if change.kind != "INSERT":
        payload["old_record"] = {}
    return orjson.Fragment(orjson.dumps(payload))


def _frame(change: Change) -> dict[str, Any]:
    relation = change.relation
    committed = change.committed_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "schema": relation.schema,
        "table": relation.name,
        "commit_timestamp": committed,
        "type": change.kind,
        "columns": [],
        "errors": None,
    }


def _restored(new: Row, old: Row | None) -> Row:
    """The new row with what it does not repeat: a large value that did not change stands in the old row, if at all."""
    return {name: (old or {}).get(name, value) if value is UNCHANGED else value for name, value in new.items()}


def _identity(change: Change, keys: AbstractSet[str]) -> Row:
    if change.old is not None:
        return change.old
    # An update that leaves the key alone is logged without the old row: the key is in the new one.
    return {name: value for name, value in (change.new or {}).items() if name in keys}


def _record(row: Row, table: Table, names: AbstractSet[str]) -> dict[str, Json]:
    return {
        name: None if value is None else table.columns[name].value_type.to_json(value)
        for name, value in row.items()
        if name in names and value is not UNCHANGED
    }
