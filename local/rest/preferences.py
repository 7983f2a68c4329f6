"""The `Prefer` header: what of it we know, what of it we obey, and how the answer says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
_ORDER = ("resolution", "missing", "return", "count", "tx", "handling", "timezone", "max-affected")

Return = Literal["representation", "minimal", "headers-only"]
Count = Literal["exact", "planned", "estimated"]
Resolution = Literal["merge-duplicates", "ignore-duplicates"]


@dataclass(frozen=True, slots=True)
class Preferences:
    """What was asked for and can be obeyed, by name. Of a preference given twice the first counts."""

    given: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def parse(cls, headers: Iterable[str], *, allows_tx: bool = False) -> Preferences:
        """Read all `Prefer` headers of a request. `tx` is obeyed where the project allows it.

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
        is_strict = given.get("handling") == "strict"
        if is_strict and unknown:
            raise ApiError(
                400,
                "PGRST122",
                "Invalid preferences given with handling=strict",
                details=f"Invalid preferences: {', '.join(unknown)}",
            )
        if not allows_tx:
            given.pop("tx", None)
        if not is_strict:
            given.pop("max-affected", None)  # a limit that PostgREST only keeps when asked to be strict
        return cls(given)

    @property
    def returns(self) -> Return | None:
        return cast("Return | None", self.given.get("return"))

    @property
    def count(self) -> Count | None:
        return cast("Count | None", self.given.get("count"))

    @property
    def resolution(self) -> Resolution | None:
        return cast("Resolution | None", self.given.get("resolution"))

    @property
    def missing_default(self) -> bool:
        return self.given.get("missing") == "default"

    @property
    def timezone(self) -> str | None:
        return self.given.get("timezone")

    @property
    def max_affected(self) -> int | None:
        return int(self.given["max-affected"]) if "max-affected" in self.given else None

    @property
    def rolls_back(self) -> bool | None:
        """Whether the request has nothing last; None where it does not say."""
        return self.given["tx"] == "rollback" if "tx" in self.given else None

    def having(self, name: str, value: str) -> Preferences:
        return Preferences({**self.given, name: value})

    def without(self, name: str) -> Preferences:
        """The same, where `name` cannot be obeyed."""
        return Preferences({own: value for own, value in self.given.items() if own != name})

    def applied(self, names: frozenset[str]) -> str:
        """Those of `names` that were given, as `Preference-Applied` says it."""
        return ", ".join(f"{name}={self.given[name]}" for name in _ORDER if name in names and name in self.given)


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
