"""Which of our formats an `Accept` header asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from local.rest.errors import JSON_TYPE, ApiError

_SINGLE = "application/vnd.pgrst.object"
_ARRAY = "application/vnd.pgrst.array"


@dataclass(frozen=True, slots=True)
class Media:
    """One format of an answer's body."""

    kind: Literal["array", "single", "csv"]
    content_type: str
    strip_nulls: bool = False


JSON = Media("array", JSON_TYPE)
_BY_NAME = {
    "*/*": JSON,
    "application/*": JSON,
    "application/json": JSON,
    "application/vnd.pgrst.array": JSON,
    f"{_ARRAY}+json": JSON,
    f"{_SINGLE}+json": Media("single", f"{_SINGLE}+json; charset=utf-8"),
    _SINGLE: Media("single", f"{_SINGLE}+json; charset=utf-8"),
    "text/csv": Media("csv", "text/csv; charset=utf-8"),
}
_STRIPPED = {
    "array": Media("array", f"{_ARRAY}+json; nulls=stripped; charset=utf-8", strip_nulls=True),
    "single": Media("single", f"{_SINGLE}+json; nulls=stripped; charset=utf-8", strip_nulls=True),
}


def negotiate(accept: str | None) -> Media:
    """Choose the first format of ours in `accept`.

    Quality values are not weighed: no client of PostgREST sends any but browsers, which end with `*/*`.

    Raises:
        ApiError: PGRST107 when there is none.
    """
    if not accept:
        return JSON
    for choice in accept.split(","):
        name, *parameters = (part.strip().lower() for part in choice.split(";"))
        media = _BY_NAME.get(name)
        if media is not None:
            stripped = name.startswith("application/vnd.pgrst") and "nulls=stripped" in parameters
            return _STRIPPED[media.kind] if stripped else media
    raise ApiError(406, "PGRST107", f"None of these media types are available: {accept}")
