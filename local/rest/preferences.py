"""The `Prefer` header: what of it we know, what of it we obey, and how the answer says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast
from zoneinfo import available_timezones

from local.rest.errors import ApiError

_CHOICES: dict[str, frozenset[str]] = {
    "resolution": frozenset({"merge-duplicates", "ignore-duplicates"}),
    "missing": frozenset({"default", "null"}),
    "return": frozenset({"representation", "minimal", "headers-only"}),
    "count": frozenset({"exact", "planned", "estimated"}),
    "tx": frozenset({"commit", "rollback"}),
    "handling": frozenset({"strict", "lenient"}),
}
# `tx` is understood but never applied: hosted Supabase always commits.
_APPLIED = ("resolution", "missing", "return", "count", "handling", "timezone", "max-affected")

Return = Literal["representation", "minimal", "headers-only"]
Count = Literal["exact", "planned", "estimated"]


@dataclass(frozen=True, slots=True)
class Preferences:
    """Of a preference given twice the first counts."""

    returns: Return | None = None
    count: Count | None = None
    resolution: Literal["merge-duplicates", "ignore-duplicates"] | None = None
    missing_default: bool = False
    strict: bool = False
    timezone: str | None = None
    max_affected: int | None = None
    applied: str = ""

    @classmethod
    def parse(cls, headers: Iterable[str]) -> Preferences:
        """Read all `Prefer` headers of a request.

        Raises:
            ApiError: PGRST122, for a preference we do not know under `handling=strict`.
        """
        given: dict[str, str] = {}
        unknown: list[str] = []
        for item in (item.strip() for header in headers for item in header.split(",")):
            name, _, value = item.partition("=")
            if _is_known(name, value):
                given.setdefault(name, value)
            elif item:
                unknown.append(item)
        strict = given.get("handling") == "strict"
        if strict and unknown:
            raise ApiError(
                400,
                "PGRST122",
                "Invalid preferences given with handling=strict",
                details=f"Invalid preferences: {', '.join(unknown)}",
            )
        if not strict:
            given.pop("max-affected", None)  # a limit that PostgREST only keeps when asked to be strict
        return cls(
            returns=cast("Return | None", given.get("return")),
            count=cast("Count | None", given.get("count")),
            resolution=cast("Literal['merge-duplicates', 'ignore-duplicates'] | None", given.get("resolution")),
            missing_default=given.get("missing") == "default",
            strict=strict,
            timezone=given.get("timezone"),
            max_affected=int(given["max-affected"]) if "max-affected" in given else None,
            applied=", ".join(f"{name}={given[name]}" for name in _APPLIED if name in given),
        )


def _is_known(name: str, value: str) -> bool:
    if name == "timezone":
        return value in _timezones()
    if name == "max-affected":
        return value.isascii() and value.isdigit() and len(value) < 10
    return value in _CHOICES.get(name, ())


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


NO_PREFERENCES = Preferences()
