"""Where a mailed link may lead. A session hangs on the URL, so a stranger's page must never be the target."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request

from local.auth.errors import AuthError
from local.auth_settings import AuthSettings

_MAX_LENGTH = 2048
# Browsers read a backslash as a slash and skip control characters, so the host they go to is not the one we see.
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_NEVER = frozenset({"javascript", "data", "vbscript", "file", "blob", "about"})
_OAUTH_ERRORS = {400: "invalid_request", 401: "unauthorized_client", 403: "access_denied", 500: "server_error"}
_WILDCARD = re.compile(r"\*\*|\*|\?")
_WILDCARDS = {"**": ".*", "*": "[^./]*", "?": "[^./]"}


def target(request: Request, settings: AuthSettings, asked: str | None = None) -> str:
    """The URL to come back to: what the request asks for, else the page it came from, else the site.

    Whatever is not allowed counts as not asked for.
    """
    candidates = (
        asked,
        request.query_params.get("redirect_to"),
        request.headers.get("redirect_to"),
        request.headers.get("referer"),
    )
    return next((url for url in candidates if url and is_allowed(url, settings)), settings.site_url)


def is_allowed(url: str, settings: AuthSettings) -> bool:
    """Whether the URL is on the site, on the list, or (unless switched off) on this machine."""
    if len(url) > _MAX_LENGTH or _UNSAFE.search(url):
        return False
    try:
        parts, site = urlsplit(url), urlsplit(settings.site_url)
        _ = parts.port  # raises for what is no port
    except ValueError:
        return False
    scheme = parts.scheme.lower()
    if not scheme or scheme in _NEVER or "@" in parts.netloc:
        return False
    if parts.hostname and (scheme, parts.netloc.lower()) == (site.scheme.lower(), site.netloc.lower()):
        return True
    if settings.allow_loopback_redirects and scheme in {"http", "https"} and _is_loopback(parts.hostname):
        return True
    plain = url.split("#", 1)[0].split("?", 1)[0]
    return any(_pattern(allowed).fullmatch(plain) for allowed in settings.uri_allow_list)


def with_query(url: str, values: dict[str, str]) -> str:
    """The URL with these in its query, whatever else is there."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in values]
    return parts._replace(query=urlencode([*kept, *values.items()])).geturl()


def with_fragment(url: str, values: dict[str, str]) -> str:
    """The URL with these as its fragment. `sb` tells clients that it is Supabase's."""
    return f"{url.split('#', 1)[0]}#{urlencode({**values, 'sb': ''})}"


def with_error(url: str, error: AuthError, *, in_query: bool) -> str:
    """The URL with what went wrong as its fragment, and in its query for who looks for a code there."""
    named = {"error": _OAUTH_ERRORS[error.status]} if error.status in _OAUTH_ERRORS else {}
    values = {**named, "error_code": error.code, "error_description": error.message}
    return with_fragment(with_query(url, values) if in_query else url, values)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _pattern(text: str) -> re.Pattern[str]:
    """A glob whose `*` stops at dots and slashes and whose `**` does not, as GoTrue's."""
    pieces: list[str] = []
    end = 0
    for wildcard in _WILDCARD.finditer(text):
        pieces += [re.escape(text[end : wildcard.start()]), _WILDCARDS[wildcard.group()]]
        end = wildcard.end()
    return re.compile("".join([*pieces, re.escape(text[end:])]))
