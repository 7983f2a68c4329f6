"""Connects to addresses that were checked, and to nothing else.

A name is looked up once. Every address that it has is checked; a name of which one address is refused is refused whole,
because that is what a rebinding name looks like. Then one of the checked addresses is connected to, not the name, so an
answer that changes in between changes nothing. TLS still proves the name: httpcore asks for it over our connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, cast

import httpcore
from ssrfguard import BlockedAddressError, Policy, SSRFGuardError

from shared.egress.errors import Unreachable
from shared.egress.policy import EgressPolicy, Origin, origin_of
from shared.egress.surroundings import IPAddress, IPNetwork, Surroundings
from shared.errors import AddressBlocked, UpstreamTimeout
from shared.logs import Log

Resolver = Callable[[str, int], Iterable[str]]
"""Answers the addresses of a name; raises OSError where it has none."""

MAX_ATTEMPTS: Final = 4  # of one name's addresses: how many it has is for its owner to say

# A lookup cannot be cancelled, so a stalling name server holds its thread until the platform gives up. These threads
# are nobody else's, and the caller does not wait for them.
_lookups = ThreadPoolExecutor(max_workers=64, thread_name_prefix="egress-lookup")

_log = Log(__name__)


def system_resolver(host: str, port: int) -> list[str]:
    """The platform's own: /etc/hosts, search domains and all."""
    return [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides about URLs and addresses, by what the caller may and where we stand."""

    policy: EgressPolicy
    surroundings: Surroundings

    def check_url(self, url: str) -> Origin:
        """Decide what can be decided without the network.

        Raises:
            InvalidInput: it is no http or https URL.
            AddressBlocked: it may not be called.
        """
        origin = origin_of(url)
        if not self.policy.permits(origin):
            raise blocked(origin.host, origin.port, "not in the policy")
        if self.surroundings.owns_host(origin.host):
            raise blocked(origin.host, origin.port, "our own host")
        try:
            _addresses(self.surroundings.allowed_networks, origin.port).check_url(url)
        except SSRFGuardError as exc:
            raise blocked(origin.host, origin.port, str(getattr(exc, "reason", exc))) from exc
        return origin

    def check_address(self, host: str, address: IPAddress, port: int) -> None:
        """Decide whether one address of a host may be connected to.

        Raises:
            AddressBlocked: it may not.
        """
        if self.surroundings.owns_socket(address, port):
            raise blocked(host, port, "our own port")
        try:
            _addresses(self.surroundings.allowed_networks, port).check_address(address)
        except BlockedAddressError as exc:
            raise blocked(host, port, exc.reason) from exc


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """The sockets under a client's HTTP."""

    def __init__(self, gate: Gate, resolver: Resolver = system_resolver) -> None:
        self._gate = gate
        self._resolver = resolver
        # httpcore declares an empty stand-in of that name for programs without anyio, which httpx brings.
        self._dialer = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look the host up, check what comes back, and connect to it; all of it within the time to connect.

        Raises:
            AddressBlocked: the host has an address that may not be called.
            Unreachable: it has none, or none takes a connection.
            UpstreamTimeout: that took too long.
        """
        limit = self._gate.policy.connect_seconds
        seconds = limit if timeout is None else min(timeout, limit)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._checked(host, port)
                return await self._first_that_answers(addresses, port, deadline, local_address, socket_options)
        except TimeoutError as exc:
            raise UpstreamTimeout(f"{host} took no connection within {seconds:g} s") from exc

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Refuse: a file is no address on the network."""
        raise blocked("a local socket", 0, "unix socket")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _checked(self, host: str, port: int) -> list[IPAddress]:
        loop = asyncio.get_running_loop()
        try:
            found = [ip_address(host)]
        except ValueError:
            try:
                answers = await loop.run_in_executor(_lookups, self._resolver, host, port)
            except (OSError, UnicodeError) as exc:
                raise Unreachable(f"The host {host!r} has no address") from exc
            found = [ip_address(answer.partition("%")[0]) for answer in dict.fromkeys(answers)]
        for address in found:
            self._gate.check_address(host, address, port)
        if not found:
            raise Unreachable(f"The host {host!r} has no address")
        return found

    async def _first_that_answers(
        self,
        addresses: list[IPAddress],
        port: int,
        deadline: float,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        """Try the first few addresses in turn; each has its share of the time that is left."""
        tried = addresses[:MAX_ATTEMPTS]
        last: Exception | None = None
        for index, address in enumerate(tried):
            left = deadline - asyncio.get_running_loop().time()
            try:
                stream = await self._dialer.connect_tcp(
                    str(address), port, left / (len(tried) - index), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                last = exc
                continue
            return await _verified(stream, address)
        raise Unreachable("Nothing takes a connection there") from last


def blocked(host: str, port: int, reason: str) -> AddressBlocked:
    """The refusal. The caller is not told why: that would tell what a name means inside. The log is."""
    _log.warning("egress.blocked", host=host, port=port, reason=reason)
    return AddressBlocked("This address may not be called from here")


async def _verified(stream: httpcore.AsyncNetworkStream, address: IPAddress) -> httpcore.AsyncNetworkStream:
    """Hold that the connection leads where it should, whatever stands between us and the network."""
    peer = stream.get_extra_info("server_addr")
    if ip_address(str(peer[0]).partition("%")[0]) != address:
        await stream.aclose()
        raise blocked(str(address), int(peer[1]), "the connection led elsewhere")
    return stream


@lru_cache(maxsize=64)
def _addresses(allowed: tuple[IPNetwork, ...], port: int) -> Policy:
    """IANA's tables of special addresses, and what tunnels into them; the port was judged before."""
    return Policy(allowed_networks=allowed, allowed_ports=frozenset({port}))
