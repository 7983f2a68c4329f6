"""Requests on `/rest/v1/<relation>`: from what was asked to the statement and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import orjson
from psycopg.sql import SQL, Composable, Identifier
from starlette.responses import Response

from local.rest import answers, errors, responses
from local.rest.asked import Asked
from local.rest.body import Payload, csv_rows, parse_rows
from local.rest.catalog import Catalog, Table
from local.rest.conditions import Row
from local.rest.embedding import Reading
from local.rest.media import Media
from local.rest.query import Column, Comparison, Field
from local.rest.reading import Reader
from local.rest.sql import Parameters, Statement, qualified
from local.rest.transaction import Outcome, Plan
from local.rest.writing import Conflict, Writer

_KEYS = Media("array", "application/json")


def plan_relation(catalog: Catalog, asked: Asked) -> Plan:
    """Plan one request.

    Raises:
        ApiError: it names what does not exist, or cannot be served as asked.
    """
    table = catalog.table(asked.schema, asked.name)
    asked = asked.negotiated()
    if asked.is_read:
        return _plan_read(catalog, asked, table)
    return _PLANS[asked.method](catalog, asked, table)


def relation_methods(catalog: Catalog, schema: str, name: str) -> tuple[str, ...]:
    """What can be done with a relation, whoever asks.

    Raises:
        ApiError: PGRST205 if there is none.
    """
    table = catalog.table(schema, name)
    can_put = table.is_insertable and table.is_updatable and bool(table.primary_key)
    methods = {
        "GET": True,
        "HEAD": True,
        "POST": table.is_insertable,
        "PUT": can_put,
        "PATCH": table.is_updatable,
        "DELETE": table.is_deletable,
    }
    return tuple(method for method, is_possible in methods.items() if is_possible)


def _plan_read(catalog: Catalog, asked: Asked, table: Table) -> Plan:
    parameters = Parameters()
    max_rows = catalog.config.max_rows
    reading = Reader(catalog, asked.query, parameters, max_rows=max_rows).read(
        qualified(table.qualified), Row.of(catalog, table, table.name), table=table, is_filtered=True
    )
    statement = answers.answer(
        [],
        reading.rows,
        body=answers.NO_BODY if asked.is_head else answers.rows_as(asked.media),
        total=_total(asked, reading, max_rows),
    )
    explained = None
    if asked.preferences.count in {"planned", "estimated"}:
        values = parameters.values[: reading.matching_values]
        explained = Statement(answers.explained([], reading.matching).as_bytes(None), values)
    return Plan(
        Statement.of(statement, parameters),
        lambda outcome: responses.page(asked, outcome, counted=max_rows),
        explained=explained,
        is_read_only=True,
    )


def _total(asked: Asked, reading: Reading, max_rows: int | None) -> Composable:
    """An estimate is exact as far as a page can reach, and the planner's beyond."""
    if asked.preferences.count == "exact":
        return answers.matching_total(reading.matching)
    if asked.preferences.count == "estimated" and max_rows is not None:
        return answers.matching_total(reading.matching, at_most=max_rows + 1)
    return answers.NO_TOTAL


def _plan_insert(catalog: Catalog, asked: Asked, table: Table) -> Plan:
    payload = _rows(asked)
    conflict = None
    if asked.preferences.resolution is not None:
        conflict = Conflict(asked.preferences.resolution, asked.query.on_conflict or table.primary_key)
    if conflict is not None and not conflict.columns:
        asked, conflict = replace(asked, preferences=asked.preferences.without("resolution")), None
    return _plan_creation(catalog, asked, table, payload, conflict)


def _plan_put(catalog: Catalog, asked: Asked, table: Table) -> Plan:
    """Upsert exactly the row that the filters name, and no other."""
    root = asked.query.root
    if root.limit is not None or root.offset:
        raise errors.ApiError(400, "PGRST114", "limit/offset querystring parameters are not allowed for PUT")
    keys = [one for one in root.conditions if isinstance(one, Comparison) and _is_equality(one)]
    named = sorted(one.field.name for one in keys)
    if not table.primary_key or len(keys) != len(root.conditions) or named != sorted(table.primary_key):
        raise errors.ApiError(
            405, "PGRST105", "Filters must include all and only primary key columns with 'eq' operators"
        )
    payload = _rows(asked)
    if not payload.keys:
        raise _other_key()
    conflict = Conflict("merge-duplicates", table.primary_key)
    return _plan_creation(catalog, asked, table, payload, conflict, put_keys=keys)


def _plan_creation(
    catalog: Catalog,
    asked: Asked,
    table: Table,
    payload: Payload,
    conflict: Conflict | None,
    *,
    put_keys: list[Comparison] | None = None,
) -> Plan:
    parameters = Parameters()
    asked = replace(asked, preferences=asked.preferences.without("max-affected"))
    located = _located(asked, table)
    writer = Writer(catalog, table, located.query, parameters, is_returned=_is_returned(located))
    only = [
        SQL("{} = {}").format(Identifier("pgrst_body", key.field.name), parameters.bind(key.operation.value))
        for key in put_keys or ()
    ]
    written = writer.insert(payload, missing_default=asked.preferences.missing_default, conflict=conflict, only=only)

    def answer(outcome: Outcome) -> Response:
        if put_keys is not None and outcome.row_count != 1:
            raise _other_key()
        headers: dict[str, str] = {}
        if put_keys is None:
            headers["Content-Range"] = responses.content_range(0, 0, _counted(asked, outcome))
        is_merge = conflict is not None and conflict.resolution == "merge-duplicates"
        status = 200 if is_merge and not outcome.inserted else 201
        if asked.preferences.returns == "headers-only":
            headers |= _location(asked, outcome)
        if not _is_returned(asked):
            return responses.respond(asked, 204 if put_keys is not None else status, None, headers)
        return responses.respond(asked, status, outcome.body, headers)

    return _plan_written(catalog, located, table, writer, written, answer, parameters, must_check=put_keys is not None)


def _plan_update(catalog: Catalog, asked: Asked, table: Table) -> Plan:
    parameters = Parameters()
    writer = Writer(catalog, table, asked.query, parameters, is_returned=_is_returned(asked))
    written = writer.update(_rows(asked), missing_default=asked.preferences.missing_default)
    return _plan_written(catalog, asked, table, writer, written, _changed(asked, names_rows=True), parameters)


def _plan_delete(catalog: Catalog, asked: Asked, table: Table) -> Plan:
    parameters = Parameters()
    writer = Writer(catalog, table, asked.query, parameters, is_returned=_is_returned(asked))
    return _plan_written(catalog, asked, table, writer, writer.delete(), _changed(asked, names_rows=False), parameters)


_PLANS: dict[str, Callable[[Catalog, Asked, Table], Plan]] = {
    "POST": _plan_insert,
    "PUT": _plan_put,
    "PATCH": _plan_update,
    "DELETE": _plan_delete,
}


def _plan_written(
    catalog: Catalog,
    asked: Asked,
    table: Table,
    writer: Writer,
    written: Composable,
    answer: Callable[[Outcome], Response],
    parameters: Parameters,
    *,
    must_check: bool = False,
) -> Plan:
    """Select what the answer needs from the rows written; the transaction waits for every check on them."""
    is_returned = _is_returned(asked)
    source = Identifier("pgrst_written")
    if is_returned:
        rows = Reader(catalog, asked.query, parameters).read(source, writer.row, table=table, is_filtered=False).rows
    else:
        rows = SQL("select from {}").format(source)
    statement = answers.answer(
        [SQL("{} as ({})").format(source, written)],
        rows,
        body=answers.rows_as(asked.media) if is_returned else answers.NO_BODY,
    )

    def checked(outcome: Outcome) -> Response:
        responses.require_max_affected(asked, outcome)
        responses.require_single(asked, outcome)
        return answer(outcome)

    may_refuse = must_check or asked.preferences.max_affected is not None or asked.media.kind == "single"
    return Plan(Statement.of(statement, parameters), checked, commits_last=may_refuse)


def _changed(asked: Asked, *, names_rows: bool) -> Callable[[Outcome], Response]:
    def answer(outcome: Outcome) -> Response:
        count = outcome.row_count if names_rows else 0
        headers = {"Content-Range": responses.content_range(0, count, _counted(asked, outcome))}
        if _is_returned(asked):
            return responses.respond(asked, 200, outcome.body, headers)
        return responses.respond(asked, 204, None, headers)

    return answer


def _other_key() -> errors.ApiError:
    return errors.ApiError(400, "PGRST115", "Payload values do not match URL in primary key column(s)")


def _rows(asked: Asked) -> Payload:
    if asked.content_type == "application/json":
        # Who puts a row names it whole.
        return parse_rows(asked.body, columns=None if asked.method == "PUT" else asked.query.columns)
    if asked.content_type == "text/csv":
        return parse_rows(csv_rows(asked.body), columns=None)
    if asked.content_type == "application/x-www-form-urlencoded":
        return parse_rows(orjson.dumps(dict(asked.form())), columns=None)
    raise errors.bad_content_type(asked.content_type)


def _is_returned(asked: Asked) -> bool:
    return asked.preferences.returns == "representation"


def _is_equality(asked: Comparison) -> bool:
    operation = asked.operation
    return operation.operator == "eq" and not (operation.negated or operation.modifier or asked.field.path)


def _counted(asked: Asked, outcome: Outcome) -> int | None:
    return outcome.row_count if asked.preferences.count else None


def _located(asked: Asked, table: Table) -> Asked:
    """For `return=headers-only`, the same request asking for the new row's key."""
    if asked.preferences.returns != "headers-only" or not table.primary_key:
        return asked
    keys = tuple(Column(Field(name), cast="text") for name in table.primary_key)
    return replace(
        asked,
        query=replace(asked.query, select=keys),
        preferences=asked.preferences.having("return", "representation"),
        media=replace(_KEYS, kind="single" if asked.media.kind == "single" else "array"),
    )


def _location(asked: Asked, outcome: Outcome) -> dict[str, str]:
    if outcome.row_count != 1 or not outcome.body:
        return {}
    rows = orjson.loads(outcome.body)
    key = cast("dict[str, str | None]", rows[0] if isinstance(rows, list) else rows)
    pairs = ((name, "is.null" if value is None else f"eq.{value}") for name, value in key.items())
    return {"Location": responses.located(asked.name, pairs)}
