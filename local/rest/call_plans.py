"""Requests on `/rest/v1/rpc/<function>`: from what was asked to the statement and its answer."""

from __future__ import annotations

from dataclasses import replace

from psycopg.sql import SQL, Composable, Identifier
from starlette.responses import Response

from local.rest import answers, calls, responses
from local.rest.asked import Asked
from local.rest.body import csv_rows, parse_arguments
from local.rest.calls import find_function, no_function
from local.rest.catalog import Catalog, Function
from local.rest.conditions import Row
from local.rest.errors import ApiError, bad_body, bad_content_type
from local.rest.query import Scope
from local.rest.reading import Reader
from local.rest.sql import NOTHING, Parameters, Statement
from local.rest.transaction import Outcome, Plan

_FORM = "application/x-www-form-urlencoded"
_JSON = frozenset({"json", "jsonb"})
# Settings of a function that must stand before its statement begins to count.
_HOISTED = frozenset({"statement_timeout", "lock_timeout", "default_transaction_isolation"})
_CALL = Identifier("pgrst_call")


def plan_call(catalog: Catalog, asked: Asked) -> Plan:
    """Plan one call.

    Raises:
        ApiError: no function, or more than one, takes these arguments; or its result cannot be served as asked.
    """
    parameters = Parameters()
    function, call = _call(catalog, asked, parameters)
    asked = asked.negotiated(own=function.media)
    if asked.preferences.max_affected is not None and not function.returns_set:
        raise ApiError(
            400,
            "PGRST128",
            "Function must return SETOF or TABLE when max-affected preference is used with handling=strict",
        )
    rows, total = _rows(catalog, asked, function, parameters)
    is_silent = function.returns == "void"
    has_body = not (asked.is_head or is_silent)
    statement = answers.answer(
        [SQL("{} as ({})").format(_CALL, call)],
        rows,
        body=_body(asked, function) if has_body else answers.NO_BODY,
        total=total,
    )

    def answer(outcome: Outcome) -> Response:
        responses.require_max_affected(asked, outcome)
        if is_silent:
            return responses.respond(asked, 204, None)
        if asked.media.kind == "raw":
            body = bytes.fromhex(outcome.body.decode()) if function.media_is_bytes else outcome.body
            outcome = replace(outcome, body=body)
        return responses.page(asked, outcome)

    return Plan(
        Statement.of(statement, parameters),
        answer,
        is_read_only=asked.is_read or not function.is_volatile,
        commits_last=asked.preferences.max_affected is not None or asked.media.kind == "single",
        settings=[(name, value) for name, value in function.settings.items() if name in _HOISTED],
    )


def call_methods(catalog: Catalog, schema: str, name: str) -> tuple[str, ...]:
    """How a function can be called, whoever asks.

    Raises:
        ApiError: PGRST202 if there is none.
    """
    overloads = catalog.routines.get((schema, name))
    if overloads is None:
        raise no_function(catalog, schema, name, (), None)
    return ("POST",) if all(function.is_volatile for function in overloads) else ("GET", "HEAD", "POST")


def _call(catalog: Catalog, asked: Asked, parameters: Parameters) -> tuple[Function, Composable]:
    if asked.is_read or asked.content_type == _FORM:
        pairs = asked.query.arguments if asked.is_read else asked.form()
        names = {name for name, _ in pairs}
        found = find_function(catalog, asked.schema, asked.name, given=names, content_type=None)
        return found.function, calls.with_texts(found.function, pairs, parameters)
    if asked.content_type in calls.WHOLE_BODY_WORDS:
        found = find_function(catalog, asked.schema, asked.name, given=(), content_type=asked.content_type)
        return found.function, calls.with_whole_body(found.function, asked.body, parameters)
    is_csv = asked.content_type == "text/csv"
    if not is_csv and asked.content_type != "application/json":
        raise bad_content_type(asked.content_type)
    body = csv_rows(asked.body) if is_csv else asked.body
    payload = parse_arguments(body, columns=None if is_csv else asked.query.columns)
    given = () if payload is None else payload.keys
    content_type = None if is_csv else asked.content_type
    found = find_function(catalog, asked.schema, asked.name, given=given, content_type=content_type)
    if found.takes_whole_body:
        return found.function, calls.with_whole_body(found.function, asked.body or b"{}", parameters)
    if payload is None:
        raise bad_body("All object keys must match")
    return found.function, calls.with_object(found.function, payload, parameters)


def _rows(catalog: Catalog, asked: Asked, function: Function, parameters: Parameters) -> tuple[Composable, Composable]:
    """What to select from the call, and how to count all of it."""
    max_rows = catalog.config.max_rows
    limit = max_rows if function.returns_set else None
    is_counted = asked.preferences.count in {"exact", "estimated"}  # the planner knows nothing of a function's rows
    if not function.returns_rows:
        total = answers.matching_total(SQL(" from {}").format(_CALL)) if is_counted else answers.NO_TOTAL
        scope = asked.query.root if function.returns_set else Scope()
        return SQL("select pgrst_scalar from {}{}").format(_CALL, _page(scope, limit, parameters)), total
    table = catalog.tables.get(function.relation) if function.relation else None
    row = Row.of(catalog, table, function.name, is_record=True) if table else Row(function.name)
    reader = Reader(catalog, asked.query, parameters, max_rows=max_rows)
    reading = reader.read(_CALL, row, table=table, is_filtered=True)
    return reading.rows, answers.matching_total(reading.matching) if is_counted else answers.NO_TOTAL


def _page(scope: Scope, limit: int | None, parameters: Parameters) -> Composable:
    limits = [bound for bound in (scope.limit, limit) if bound is not None]
    if not limits:
        return NOTHING
    return SQL(" limit {} offset {}").format(parameters.bind(min(limits)), parameters.bind(scope.offset))


def _body(asked: Asked, function: Function) -> Composable:
    if asked.media.kind == "raw":
        return answers.value_raw(is_bytes=function.media_is_bytes)
    if asked.media.kind == "csv":
        return answers.rows_as(asked.media)
    if function.returns_rows:
        is_one = not function.returns_set and asked.media.kind == "array"
        return answers.row_alone(asked.media) if is_one else answers.rows_as(asked.media)
    if function.returns_set and asked.media.kind == "array":
        return answers.values_as_array()
    return answers.value_alone(is_json=function.returns in _JSON)
