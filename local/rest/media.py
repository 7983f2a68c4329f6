"""Which of our formats an `Accept` header asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from local.rest.errors import JSON_TYPE, ApiError

_SINGLE = "application/vnd.pgrst.object"
_ARRAY = "application/vnd.pgrst.array"
ANY = "*/*"
_WITH_CHARSET = frozenset({"text/plain", "text/xml", "text/csv", "application/json"})


@dataclass(frozen=True, slots=True)
class Media:
    """One format of an answer's body."""

    kind: Literal["array", "single", "csv", "raw"]  # raw: as a function made it
    content_type: str
    strip_nulls: bool = False


JSON = Media("array", JSON_TYPE)
_BY_NAME = {
    ANY: JSON,
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


def negotiate(accept: str | None, *, own: str | None = None) -> Media:
    """Choose the first format in `accept` that we have; `own` is one more, of a function that makes it itself.

    Quality values are not weighed: no client of PostgREST sends any but browsers, which end with `*/*`.

    Raises:
        ApiError: PGRST107 when there is none.
    """
    accept = accept or ANY
    if own == ANY:
        return Media("raw", "application/octet-stream")
    for choice in accept.split(","):
        name, *parameters = (part.strip().lower() for part in choice.split(";"))
        if own is not None and name in {own.lower(), ANY}:
            return Media("raw", f"{own}; charset=utf-8" if own in _WITH_CHARSET else own)
        media = _BY_NAME.get(name)
        if media is not None:
            stripped = name.startswith("application/vnd.pgrst") and "nulls=stripped" in parameters
            return _STRIPPED[media.kind] if stripped else media
    names = ", ".join(choice.strip() for choice in accept.split(","))
    raise ApiError(406, "PGRST107", f"None of these media types are available: {names}")
