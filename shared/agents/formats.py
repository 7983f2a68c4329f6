"""The formats that an input schema may ask for: those that are checked, and those that only tell a form what to draw.

Written out, because JSON Schema leaves them to who validates; each takes what the web platform's own inputs send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

DRAWN_ONLY: Final = frozenset({"textarea", "markdown", "code", "color"})
"""Known to forms; any text fits them. There is no `password`: an input is stored, a credential is sealed."""

_EMAIL: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63}")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME: Final = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|z|[+-]\d{2}:\d{2})?")
_MAX_CHARACTERS: Final = 8192


def _email(text: str) -> bool:
    return len(text) <= 254 and _EMAIL.fullmatch(text) is not None


def _hostname(text: str) -> bool:
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))


def _uri(text: str) -> bool:
    if len(text) > _MAX_CHARACTERS or any(character <= " " or character == "\x7f" for character in text):
        return False
    with suppress(ValueError):
        parts = urlsplit(text)
        return bool(parts.scheme) and bool(parts.netloc or parts.path)
    return False


def _url(text: str) -> bool:
    return _uri(text) and urlsplit(text).scheme in {"http", "https"} and bool(urlsplit(text).hostname)


def _date(text: str) -> bool:
    with suppress(ValueError):
        return _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))
    return False


def _time(text: str) -> bool:
    return _TIME.fullmatch(text) is not None and _parses(time.fromisoformat)(text.replace("z", "Z"))


def _date_time(text: str) -> bool:
    day, mark, clock = text[:10], text[10:11], text[11:]
    if mark not in {"T", "t", " "} or not _date(day) or _TIME.fullmatch(clock) is None:
        return False
    with suppress(ValueError):
        return datetime.fromisoformat(text).tzinfo is not None
    return False


def _parses(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        with suppress(ValueError):
            kind(text)
            return True
        return False

    return check


def _uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None and bool(UUID(text))


CHECKS: Final[Mapping[str, Callable[[str], bool]]] = {
    "email": _email,
    "hostname": _hostname,
    "ipv4": _parses(IPv4Address),
    "ipv6": _parses(IPv6Address),
    "uri": _uri,
    "url": _url,
    "uuid": _uuid,
    "date": _date,
    "time": _time,
    "date-time": _date_time,
}
