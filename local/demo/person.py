"""Somebody with an account, who does what any frontend does: official client, own token, public endpoints."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlencode

from httpx import HTTPError
from supabase import AsyncClient, AsyncClientOptions, acreate_client
from supabase_functions.errors import FunctionsError

from local.demo.errors import DemoError

Json = dict[str, Any]  # what the endpoints answer; docs/openapi.json has the shapes
Invoke = Callable[[str, Json], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in user. `client` is supabase-py's own."""

    client: AsyncClient
    email: str
    user_id: str

    @classmethod
    async def sign_up(cls, url: str, publishable_key: str) -> Self:
        """Make an account through /auth/v1."""
        client = await acreate_client(url, publishable_key, options=AsyncClientOptions(auto_refresh_token=False))
        email = f"demo-{secrets.token_hex(4)}@example.com"
        answer = await client.auth.sign_up({"email": email, "password": secrets.token_urlsafe(24)})
        if answer.session is None or answer.user is None:
            raise DemoError("The sign-up brought no session.")
        await client.realtime.set_auth(answer.session.access_token)
        return cls(client, email, answer.user.id)

    async def execute(self, action: str, **fields: object) -> Json:
        """Call agent-execute."""
        return await self._invoke("agent-execute", {"body": {"action": action, **fields}})

    async def call(self, function: str, **body: object) -> Json:
        """Call any function with a JSON body."""
        return await self._invoke(function, {"body": body})

    async def status(self, run_id: str, *include: str) -> Json:
        """Call agent-status: the run, and the first page of each list."""
        return await self._invoke("agent-status", {"body": {"run_id": run_id, "include": [*include], "limit": 200}})

    async def logs_after(self, run_id: str, seq: int) -> list[Json]:
        """Call agent-logs for what came after `seq`."""
        query = urlencode({"run_id": run_id, "mode": "poll", "after": seq, "limit": 500})
        answer = await self._invoke(f"agent-logs?{query}", {"method": "GET"})
        return cast("list[Json]", answer["logs"])

    async def leave(self) -> None:
        """Close the connections."""
        await self.client.remove_all_channels()
        await self.client.realtime.close()
        await self.client.auth.close()

    async def _invoke(self, function: str, options: Json) -> Json:
        name = function.split("?", 1)[0]
        try:
            # Its annotations leave open what the dicts hold.
            invoke = cast("Invoke", self.client.functions.invoke)  # pyright: ignore[reportUnknownMemberType]
            return await invoke(function, {**options, "responseType": "json"})
        except FunctionsError as error:
            raise DemoError(f"{name} answered {error.status}: {error.message}") from error
        except HTTPError as error:
            raise DemoError(f"{name} did not answer ({type(error).__name__}).") from error
