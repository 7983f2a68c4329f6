"""The one way to call a URL that a person, a model or a database row has named.

`egress_client` makes an ordinary `httpx.AsyncClient` that goes nowhere it should not, reads no more than it may, takes
no longer than it may, and ignores proxies and other things that the environment says of HTTP. One for each use, and
closed after it: cookies and connections of one person's calls are never another's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from shared.egress.body import ENCODINGS
from shared.egress.errors import AnswerRefused
from shared.egress.network import Gate, GuardedBackend, Resolver, system_resolver
from shared.egress.policy import EgressPolicy
from shared.egress.surroundings import Surroundings, current_surroundings
from shared.egress.transport import JOURNEY, GuardedTransport, Journey
from shared.errors import InvalidInput

USER_AGENT = "runbase"


def egress_client(
    policy: EgressPolicy | None = None,
    *,
    surroundings: Surroundings | None = None,
    resolver: Resolver = system_resolver,
) -> httpx.AsyncClient:
    """Make a client; use it in `async with`.

    Its calls raise `InvalidInput` and `AddressBlocked` for where they may not go, and `Upstream` of one kind or another
    (`shared.egress.errors`) for all that fails on the way. Redirects are not followed unless the caller asks.
    """
    policy = policy or EgressPolicy()
    gate = Gate(policy, surroundings or current_surroundings())
    return _Client(gate, GuardedTransport(gate, GuardedBackend(gate, resolver)))


def check_url(url: str, policy: EgressPolicy | None = None) -> None:
    """Refuse a URL that could never be called, without the network, as when one is saved.

    Raises:
        InvalidInput, AddressBlocked: it could not.
    """
    Gate(policy or EgressPolicy.for_url(url), current_surroundings()).check_url(url)


class _Client(httpx.AsyncClient):
    def __init__(self, gate: Gate, transport: GuardedTransport) -> None:
        policy = gate.policy
        super().__init__(
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(policy.total_seconds, connect=policy.connect_seconds),
            max_redirects=policy.max_redirects,
            headers={"Accept-Encoding": ENCODINGS, "User-Agent": USER_AGENT},
        )
        self._total_seconds = policy.total_seconds

    def build_request(self, *args: Any, **kwargs: Any) -> httpx.Request:
        try:
            return super().build_request(*args, **kwargs)
        except httpx.InvalidURL:
            raise InvalidInput("The URL cannot be read") from None

    async def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        deadline = asyncio.get_running_loop().time() + self._total_seconds
        request.extensions = {**request.extensions, JOURNEY: Journey(deadline)}
        try:
            return await super().send(request, **kwargs)
        except httpx.TooManyRedirects as exc:
            raise AnswerRefused(f"More than {self.max_redirects} redirects") from exc
        except httpx.HTTPError as exc:
            raise AnswerRefused("The answer cannot be read, or redirects to what is no URL") from exc
