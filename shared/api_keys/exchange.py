"""The token that an API key stands for, from the one function that can sign it.

A token is remembered for a minute under the hash of its key, so a program's calls cost one exchange a minute in each
process. Meanwhile a revoked key still gets a token here, and the database refuses whatever is done with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Literal
from weakref import WeakKeyDictionary

import httpx
from pydantic import BaseModel, Field, ValidationError

from shared.api_keys.key import hash_of
from shared.connections import http_client
from shared.errors import AppError, LimitExceeded, Unauthenticated, UpstreamBusy
from shared.logs import Log
from shared.settings import Settings

SLUG: Final = "api-key-exchange"
NOT_GOOD: Final = "The API key is not valid: there is none like it, or it has expired, been rotated or been revoked"
REMEMBERED_SECONDS: Final = 60.0
MOST_REMEMBERED: Final = 1024

_log = Log(__name__)


class Exchanged(BaseModel):
    """What the exchange answers."""

    access_token: str = Field(repr=False)
    token_type: Literal["bearer"]
    expires_in: int
    expires_at: int
    scopes: list[str]


@dataclass(frozen=True, slots=True)
class _Remembered:
    token: str = field(repr=False)
    until: float


class KeyExchange:
    """Exchanges keys over HTTP, for one project. Each key has at most one exchange under way."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        # A task belongs to its loop: Lambda has one for its life, tests have many.
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[str]]] = WeakKeyDictionary()

    async def token_for(self, key: str) -> str:
        """The user token that the key stands for, good for minutes.

        Raises:
            Unauthenticated: the key is malformed or not valid.
            LimitExceeded: too many exchanges.
            UpstreamBusy: the exchange does not answer.
        """
        digest = hash_of(key)
        known = self._remembered.get(digest)
        if known is not None and time.monotonic() < known.until:
            self._remembered.move_to_end(digest)
            return known.token
        flights = self._flights.setdefault(asyncio.get_running_loop(), {})
        flight = flights.get(digest)
        if flight is None:
            flight = flights[digest] = asyncio.create_task(self._exchange(key, digest))
            flight.add_done_callback(lambda _: flights.pop(digest, None))
        # Who waits may be cancelled; the others still want the answer.
        return await asyncio.shield(flight)

    async def _exchange(self, key: str, digest: str) -> str:
        self._remembered.pop(digest, None)
        asked_at = time.monotonic()
        exchanged = _answer(await self._ask(key))
        seconds = min(REMEMBERED_SECONDS, float(exchanged.expires_in))
        self._remembered[digest] = _Remembered(exchanged.access_token, asked_at + seconds)
        while len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return exchanged.access_token

    async def _ask(self, key: str) -> httpx.Response:
        try:
            return await http_client().post(
                f"{self._settings.functions_url}/{SLUG}",
                headers={"Authorization": f"Bearer {key}", "apikey": self._settings.publishable_key},
            )
        except httpx.HTTPError as exc:
            _log.warning("api_key.exchange_unreachable", error=type(exc).__name__)
            raise UpstreamBusy("API keys cannot be checked now: their exchange does not answer") from exc


def _answer(response: httpx.Response) -> Exchanged:
    if response.status_code == 401:
        raise Unauthenticated(NOT_GOOD)
    if response.status_code == 429:
        raise LimitExceeded("API keys are exchanged too often", retry_after_seconds=1.0)
    if response.status_code != 200:
        _log.warning("api_key.exchange_failed", status=response.status_code)
        raise UpstreamBusy("API keys cannot be checked now: their exchange fails")
    try:
        return Exchanged.model_validate_json(response.content)
    except ValidationError as exc:
        raise AppError("The exchange of API keys answered something else") from exc
