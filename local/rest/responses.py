"""Answers to requests that succeeded: status, range and preference headers."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from urllib.parse import parse_qsl, quote

from starlette.responses import Response

from local.rest import errors
from local.rest.asked import Asked
from local.rest.transaction import Outcome

# Which preferences an answer names, by what was done.
_READ = frozenset({"count", "tx", "handling", "timezone"})
_WRITTEN = _READ | {"return"}
_APPLIED = {
    "GET": _READ,
    "HEAD": _READ,
    "POST": _WRITTEN | {"resolution", "missing"},
    "PUT": _WRITTEN,
    "PATCH": _WRITTEN | {"missing", "max-affected"},
    "DELETE": _WRITTEN | {"max-affected"},
}
_CALLED = _READ | {"max-affected"}
_PLAIN = "!$&'()*+,;=:@ "  # what a name in a header's path is left with


def page(asked: Asked, outcome: Outcome, *, counted: int | None = None) -> Response:
    """Rows that were read, with the range that they are of the whole; `counted` is up to where they were counted.

    Raises:
        ApiError: PGRST116 if a single object was asked for and there is not one row, PGRST103 if the page begins
            behind the end.
    """
    offset, count, total = asked.query.root.offset, outcome.row_count, _total(outcome, counted)
    if total is not None and offset > total:
        details = f"An offset of {offset} was requested, but there are only {total} rows."
        raise errors.bad_range(details, content_range=content_range(0, 0, total))
    require_single(asked, outcome)
    is_partial = total is not None and count < total
    headers = {"Content-Range": content_range(offset, count, total)}
    if not asked.is_call:
        headers["Content-Location"] = _canonical(asked)
    return respond(asked, 206 if is_partial else 200, outcome.body, headers)


def _total(outcome: Outcome, counted: int | None) -> int | None:
    """The planner's estimate counts where it was asked for, or where there is more than was counted."""
    is_whole = counted is not None and outcome.total is not None and outcome.total <= counted
    if outcome.planned is None or is_whole:
        return outcome.total
    return outcome.planned if outcome.total is None else max(outcome.planned, outcome.total)


def respond(asked: Asked, status: int, body: bytes | None, headers: dict[str, str] | None = None) -> Response:
    """Answer with `body` in the format asked for; None is an answer that has no body at all."""
    headers = dict(headers or {})
    applied = asked.preferences.applied(_CALLED if asked.is_call else _APPLIED[asked.method])
    if applied:
        headers["Preference-Applied"] = applied
    if body is None:
        return Response(None, status, headers)
    headers["Content-Type"] = asked.media.content_type
    if asked.profile is not None:
        headers["Content-Profile"] = asked.profile.encode().decode("latin-1")
    return Response(b"" if asked.is_head else body, status, headers)


def require_single(asked: Asked, outcome: Outcome) -> None:
    if asked.media.kind == "single" and outcome.row_count != 1:
        raise errors.not_one_row(outcome.row_count)


def require_max_affected(asked: Asked, outcome: Outcome) -> None:
    limit = asked.preferences.max_affected
    if limit is not None and outcome.row_count > limit:
        raise errors.ApiError(
            400,
            "PGRST124",
            "Query result exceeds max-affected preference constraint",
            details=f"The query affects {outcome.row_count} rows",
        )


def content_range(offset: int, count: int, total: int | None) -> str:
    """`first-last/total`, with `*` for what is empty or not known."""
    rows = f"{offset}-{offset + count - 1}" if count and total != 0 else "*"
    return f"{rows}/{'*' if total is None else total}"


def located(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """The path of a relation with the parameters `pairs`; the values of one stand together where its first does."""
    values: dict[str, str] = {}
    for key, value in pairs:
        values[key] = f"{values[key]},{_encoded(value)}" if key in values else _encoded(value)
    query = "&".join(f"{_encoded(key)}={value}" for key, value in values.items())
    return f"/{quote(name, safe=_PLAIN)}" + (f"?{query}" if query else "")


def _canonical(asked: Asked) -> str:
    """Where else the answer stands: the path with its parameters in the order of their names."""
    pairs = parse_qsl(asked.query_string, keep_blank_values=True)
    return located(asked.name, sorted(pairs, key=itemgetter(0)))


def _encoded(text: str) -> str:
    return quote(text, safe="")
