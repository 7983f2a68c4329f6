"""The world outside: a service on loopback that has effects and counts them by the key that each call carries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@dataclass(slots=True)
class Calls:
    """What happened under one effect key."""

    refused: int = 0
    taken: int = 0


class Outside:
    """`POST /effects/{effect_key}?value=&seconds=&refusals=`: takes effect and answers the value.

    The first `refusals` calls of a key are refused (503) without an effect. The effect happens in the middle of
    `seconds`, so that a caller may die before it as well as between it and the answer.
    """

    def __init__(self) -> None:
        self.calls: dict[UUID, Calls] = {}
        self.app = Starlette(routes=[Route("/effects/{effect_key:uuid}", self._effect, methods=["POST"])])

    async def _effect(self, request: Request) -> JSONResponse:
        query = request.query_params
        half = float(query["seconds"]) / 2
        await asyncio.sleep(half)
        calls = self.calls.setdefault(request.path_params["effect_key"], Calls())
        if calls.refused < int(query["refusals"]):
            calls.refused += 1
            return JSONResponse({"error": "busy"}, status_code=503)
        calls.taken += 1
        await asyncio.sleep(half)
        return JSONResponse({"value": int(query["value"])})
