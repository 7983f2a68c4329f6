"""Where this process stands: the networks that it may be let into, and the hosts that are its own.

Nobody's URL reaches this deployment's own services, whatever their addresses: they trust calls from inside. Private
networks open for local use alone; a deployment whose Supabase is not on this machine refuses to start with them open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from shared.settings import SettingsError

VARIABLES: Final = (
    "SUPABASE_URL",
    "SUPABASE_DB_URL",
    "RUNBASE_FUNCTIONS_URL",
    "AWS_LAMBDA_RUNTIME_API",
    "EGRESS_ALLOWED_NETWORKS",
    "EGRESS_DENIED_HOSTS",
)
_PORTS: Final = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432}

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the environment says of this process's place.

    Attributes:
        allowed_networks: Networks that may be called although they are not public.
        own_hosts: Names of ours, which nobody's URL may lead to, nor to a name below them.
        own_ports: Ports of ours on this machine.
    """

    allowed_networks: tuple[IPNetwork, ...] = ()
    own_hosts: frozenset[str] = frozenset()
    own_ports: frozenset[int] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Surroundings:
        """Read `VARIABLES`; an empty value counts as absent.

        Raises:
            SettingsError: a value is malformed, or opens networks where that is refused.
        """
        hosts = {host for host in _words(environment.get("EGRESS_DENIED_HOSTS")) if host}
        ports: set[int] = set()
        for name in ("SUPABASE_URL", "SUPABASE_DB_URL", "RUNBASE_FUNCTIONS_URL"):
            _add(environment.get(name, ""), hosts, ports)
        if runtime := environment.get("AWS_LAMBDA_RUNTIME_API"):
            _add(f"http://{runtime}", hosts, ports)
        return cls(_allowed_networks(environment), frozenset(hosts), frozenset(ports))

    def owns_host(self, host: str) -> bool:
        """Whether a name is one of ours, or below one."""
        return any(host == own or host.endswith(f".{own}") for own in self.own_hosts)

    def owns_socket(self, address: IPAddress, port: int) -> bool:
        """Whether a service of ours listens there, on this machine."""
        return port in self.own_ports and (address.is_loopback or address.is_unspecified)


def current_surroundings() -> Surroundings:
    """The process's own. Parsed once; again only if a variable has changed, as between two local stacks.

    Raises:
        SettingsError: a value is malformed, or opens networks where that is refused.
    """
    return _parsed(tuple(os.environ.get(name, "") for name in VARIABLES))


@lru_cache(maxsize=4)
def _parsed(values: tuple[str, ...]) -> Surroundings:
    return Surroundings.from_environment(dict(zip(VARIABLES, values, strict=True)))


def _allowed_networks(environment: Mapping[str, str]) -> tuple[IPNetwork, ...]:
    words = _words(environment.get("EGRESS_ALLOWED_NETWORKS"))
    if not words:
        return ()
    if not is_loopback(urlsplit(environment.get("SUPABASE_URL", "")).hostname or ""):
        raise SettingsError("EGRESS_ALLOWED_NETWORKS is for local use only, and SUPABASE_URL is not on this machine.")
    try:
        return tuple(ip_network(word) for word in words)
    except ValueError:
        raise SettingsError("EGRESS_ALLOWED_NETWORKS is not a list of networks such as 127.0.0.0/8,::1/128.") from None


def is_loopback(host: str) -> bool:
    """Whether a host, as it is written, is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _add(url: str, hosts: set[str], ports: set[int]) -> None:
    """Note a service of ours: on this machine by its port, elsewhere by its host."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return  # whoever uses the variable says what is wrong with it
    if is_loopback(host):
        ports.update([port] if port else [])
    elif host:
        hosts.add(host)


def _words(value: str | None) -> list[str]:
    return [word.strip().lower().rstrip(".") for word in (value or "").split(",") if word.strip()]
