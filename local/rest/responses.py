"""Answers to requests that succeeded: status, range and preference headers."""

from __future__ import annotations

from starlette.responses import Response

from local.rest import errors
from local.rest.asked import Asked
from local.rest.transaction import Outcome


def page(asked: Asked, outcome: Outcome) -> Response:
    """Rows that were read, with the range that they are of the whole.

    Raises:
        ApiError: PGRST116 if a single object was asked for and there is not one row, PGRST103 if the page begins
            behind the end.
    """
    offset, count, total = asked.query.root.offset, outcome.row_count, _total(outcome)
    if total is not None and offset > total:
        raise errors.bad_range(f"An offset of {offset} was requested, but there are only {total} rows.")
    require_single(asked, outcome)
    is_partial = total is not None and count < total
    headers = {"Content-Range": content_range(offset, count, total)}
    return respond(asked, 206 if is_partial else 200, outcome.body, headers)


def _total(outcome: Outcome) -> int | None:
    """The planner's estimate counts where it was asked for, or where there is more than was counted."""
    if outcome.planned is None:
        return outcome.total
    return outcome.planned if outcome.total is None else max(outcome.planned, outcome.total)


def respond(asked: Asked, status: int, body: bytes | None, headers: dict[str, str] | None = None) -> Response:
    """Answer with `body` in the format asked for; None is an answer that has no body at all."""
    headers = dict(headers or {})
    if asked.preferences.applied:
        headers["Preference-Applied"] = asked.preferences.applied
    if body is None:
        return Response(None, status, headers)
    headers["Content-Type"] = asked.media.content_type
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
