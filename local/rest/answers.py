"""The outermost select of every statement: one row that holds the answer, its JSON made by the database.

Its columns are those of `local.rest.transaction.Outcome`, in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import SQL, Composable

from local.rest.media import Media
from local.rest.sql import NOTHING, deparsed, joined

NO_BODY = SQL("''")
NO_TOTAL = SQL("null::bigint")
_CSV = SQL(
    "(select coalesce(string_agg(key, ','), '') from json_object_keys("
    "(select row_to_json(pgrst_first.*) from pgrst_source as pgrst_first limit 1)) as key)"
    " || coalesce(string_agg(E'\\n' || substring(pgrst_row::text, 2, length(pgrst_row::text) - 2), ''), '')"
)


def answer(
    ctes: Sequence[Composable], rows: Composable, *, body: Composable, total: Composable = NO_TOTAL
) -> Composable:
    """Wrap `rows`, known to `body` as `pgrst_row`. `ctes` come first and may be read by `rows` and `total`."""
    return SQL(
        "with {} select {} as body, count(*) as row_count, {} as total,"
        " nullif(current_setting('pgrst.inserted', true), '') as inserted,"
        " nullif(current_setting('response.headers', true), '') as response_headers,"
        " nullif(current_setting('response.status', true), '') as response_status"
        " from pgrst_source as pgrst_row"
    ).format(joined([*ctes, SQL("pgrst_source as ({})").format(rows)]), body, total)


def rows_as(media: Media) -> Composable:
    """The body of rows in the format asked for. That a single object is of one row is checked by its count."""
    if media.kind == "csv":
        return _CSV
    if media.kind == "single":
        return row_alone(media)
    return SQL("{}::text").format(_stripped(SQL("coalesce(json_agg(pgrst_row.*), '[]')"), media))


def row_alone(media: Media) -> Composable:
    """The body of exactly one row."""
    row = _stripped(SQL("row_to_json(pgrst_row.*)"), media)
    return SQL("coalesce(string_agg({}::text, ','), 'null')").format(row)


def values_as_array() -> Composable:
    """The bodies of a function that returns a set of plain values."""
    return SQL("coalesce(json_agg(pgrst_row.pgrst_scalar), '[]')::text")


def value_alone(*, is_json: bool) -> Composable:
    """The body of a function that returns one plain value; JSON goes out as the database writes it."""
    text = SQL("pgrst_row.pgrst_scalar::text") if is_json else SQL("to_json(pgrst_row.pgrst_scalar)::text")
    return SQL("string_agg(coalesce({}, 'null'), ',')").format(text)


def matching_total(matching: Composable, *, at_most: int | None = None) -> Composable:
    if at_most is None:
        return SQL("(select count(*){})").format(matching)
    return SQL("(select count(*) from (select{} limit {}) as pgrst_counted)").format(matching, deparsed(str(at_most)))


def explained(ctes: Sequence[Composable], matching: Composable) -> Composable:
    """Ask the planner how many rows match."""
    query = SQL("with {} ").format(joined(ctes)) if ctes else NOTHING
    return SQL("explain (format json) {}select{}").format(query, matching)


def value_raw(*, is_bytes: bool) -> Composable:
    """The body as the function made it; bytes as hexadecimal digits."""
    value = SQL("encode(pgrst_row.pgrst_scalar, 'hex')") if is_bytes else SQL("pgrst_row.pgrst_scalar::text")
    return SQL("coalesce(string_agg({}, ''), '')").format(value)


def _stripped(value: Composable, media: Media) -> Composable:
    return SQL("json_strip_nulls({})").format(value) if media.strip_nulls else value
