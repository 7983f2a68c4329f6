"""Where one client may go, and how much it may cost: said by the caller, checked at every hop.

A policy only narrows. What no policy can open (private networks, this deployment's own hosts) stands in
`shared.egress.surroundings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from shared.errors import InvalidInput

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_URL_CHARS: Final = 8192

# Services that take an HTTP request for commands of their own protocol, or that nobody should be made to talk to:
# everything below 1024 but the web's two, and these.
_NOT_WEB: Final = frozenset(
    {1433, 1521, 1719, 1720, 1723, 2049, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566}
    | {6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, 11211, 27017}
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what a credential is bound to."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What a client may do.

    Attributes:
        allowed_hosts: The only places to go, for a client that carries a credential: `host` (https, port 443),
            `host:port`, or a whole origin. None lets it go to any public address.
        ports: The ports of a client without `allowed_hosts`.
        total_seconds: From the request to the last byte of the answer, redirects and all.
        max_bytes: Of an answer's body, decompressed.
        max_redirects: How many a caller's `follow_redirects=True` follows; each is checked like a first request.
    """

    allowed_hosts: frozenset[str] | None = None
    ports: frozenset[int] = frozenset(DEFAULT_PORTS.values())
    connect_seconds: float = 10.0
    total_seconds: float = 60.0
    max_bytes: int = 10 * 1024 * 1024
    max_redirects: int = 5

    @classmethod
    def bound_to(cls, hosts: Iterable[str], *, total_seconds: float = 60.0) -> Self:
        """A policy for a credential, which goes nowhere but to its own hosts."""
        return cls(allowed_hosts=frozenset(hosts), total_seconds=total_seconds)

    @classmethod
    def for_url(cls, url: str, *, total_seconds: float = 60.0) -> Self:
        """A policy for the origin of one URL, at whatever port it names.

        Raises:
            InvalidInput: it is no http or https URL.
        """
        found = origin_of(url)
        return cls.bound_to([f"{found.scheme}://{bracketed(found.host)}:{found.port}"], total_seconds=total_seconds)

    def permits(self, origin: Origin) -> bool:
        """Whether the policy lets a request go to this origin. Where its name leads is another question."""
        if self.allowed_hosts is None:
            return origin.port in self.ports and is_web_port(origin.port)
        return is_web_port(origin.port) and any(_matches(entry, origin) for entry in self.allowed_hosts)


def origin_of(url: str) -> Origin:
    """The origin that a URL names.

    Raises:
        InvalidInput: it is no absolute http or https URL, or says something else than it seems to: it has spaces or
            control characters in it, which parsers drop, or a user before the host.
    """
    if len(url) > MAX_URL_CHARS:
        raise InvalidInput(f"The URL is longer than {MAX_URL_CHARS} characters")
    if any(character <= " " or character == "\x7f" for character in url):
        raise InvalidInput("The URL contains spaces or control characters")
    parts, port = _split(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise InvalidInput("The URL must begin with https:// or http://")
    if not parts.hostname:
        raise InvalidInput("The URL names no host")
    if "@" in parts.netloc:
        raise InvalidInput("The URL must not hold a user name or password")
    return Origin(parts.scheme, parts.hostname.rstrip("."), DEFAULT_PORTS[parts.scheme] if port is None else port)


def is_web_port(port: int) -> bool:
    """Whether a web server may be expected there."""
    return port in DEFAULT_PORTS.values() or (1024 <= port <= 65535 and port not in _NOT_WEB)


def bracketed(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address has brackets there."""
    return f"[{host}]" if ":" in host else host


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput("The URL cannot be read") from None
    return parts, port


def _matches(entry: str, origin: Origin) -> bool:
    if "://" in entry:
        return origin_of(entry) == origin
    parts, port = _split(f"https://{entry}")
    host = (parts.hostname or "").rstrip(".")
    if port is None:
        return origin == Origin("https", host, 443)
    return (host, port) == (origin.host, origin.port)
