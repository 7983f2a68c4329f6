"""What a field of a credential may hold. A refusal says what is wrong and never repeats what was entered."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from shared.egress.policy import is_web_port, origin_of
from shared.egress.surroundings import is_loopback
from shared.errors import InvalidInput

MAX_HEADERS: Final = 20
MAX_HEADERS_CHARS: Final = 8192  # of all names and values: servers take no more, and a redactor has to know each
MAX_TEXT_CHARS: Final = 2000

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?")
# What a client sets itself, and what would change where or how the request goes.
_NOT_TO_SET: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
)


def checked_base_url(url: str) -> str:
    """A URL that keys may be sent below, for pydantic's `AfterValidator`."""
    try:
        origin = origin_of(url)
    except InvalidInput as error:
        raise PydanticCustomError("url", "{problem}", {"problem": error.message}) from None
    parts = urlsplit(url)
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise PydanticCustomError("url_parts", "must be a URL without query and fragment")
    if origin.scheme == "http" and not is_loopback(origin.host):
        raise PydanticCustomError("url_scheme", "must be an https URL: over http anybody on the way reads the key")
    if not is_web_port(origin.port):
        raise PydanticCustomError("url_port", "must not name the port of another kind of service")
    return url.rstrip("/")


def _dsn(text: str) -> str:
    try:
        parts = urlsplit(text)
        named = parts.scheme in {"postgres", "postgresql"} and parts.hostname and parts.username and parts.password
        usable = named and parts.port != 0 and len(parts.path) > 1 and "," not in parts.netloc
    except ValueError:  # a port that is no number, half a bracket
        usable = False
    if not usable or any(character <= " " or character == "\x7f" for character in text):
        raise PydanticCustomError("dsn", "must read postgresql://user:password@host:port/database")
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    if not 1 <= len(headers) <= MAX_HEADERS:
        raise PydanticCustomError("headers", "must be 1 to {most} headers", {"most": MAX_HEADERS})
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADERS_CHARS:
        raise PydanticCustomError("headers_long", "must have {most} characters at most", {"most": MAX_HEADERS_CHARS})
    if len({name.lower() for name in headers}) < len(headers):
        raise PydanticCustomError("headers_twice", "must not name a header twice")
    for name, value in headers.items():
        if _HEADER_NAME.fullmatch(name) is None or name.lower() in _NOT_TO_SET:
            raise PydanticCustomError("header_name", "names a header that cannot be set")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise PydanticCustomError("header_value", "has a value that is empty or not printable ASCII")
    return headers


Key = Annotated[str, StringConstraints(strip_whitespace=True, min_length=8, max_length=512, pattern=r"^[\x21-\x7e]+$")]
Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9_-]{1,100}$")]
Url = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=MAX_TEXT_CHARS), AfterValidator(checked_base_url)
]
Dsn = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_TEXT_CHARS), AfterValidator(_dsn)]
Headers = Annotated[dict[str, str], AfterValidator(_headers)]
