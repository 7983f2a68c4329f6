"""Programs that call with an API key, and the key's owner who manages it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from shared.api_keys.scopes import SCOPES
from tests.functions.visitor import Visitor
from tests.support.stack import Person, Stack


@dataclass
class Owner:
    """A person who makes keys. `visitor` is the person's own session."""

    stack: Stack
    person: Person
    visitor: Visitor
    visit: Callable[[str], Visitor]

    async def make(self, scopes: Sequence[str] = SCOPES, **fields: Any) -> Program:
        """Make a key, expecting success."""
        body = {"action": "create", "name": "Nightly", "scopes": list(scopes), **fields}
        made = await self.visitor.post("api-keys", body)
        assert made.status_code == 201, made.text
        return self.program(made.json())

    async def act(self, action: str, program: Program, **fields: Any) -> dict[str, Any]:
        """Rotate or revoke, expecting success."""
        done = await self.visitor.post("api-keys", {"action": action, "api_key_id": program.id, **fields})
        assert done.status_code == 200, done.text
        return done.json()

    async def rotate(self, program: Program, **fields: Any) -> Program:
        return self.program(await self.act("rotate", program, **fields))

    async def listed(self) -> list[dict[str, Any]]:
        answer = await self.visitor.post("api-keys", {"action": "list"})
        assert answer.status_code == 200, answer.text
        return answer.json()["api_keys"]

    def program(self, made: dict[str, Any]) -> Program:
        return Program(self.stack, made["key"], made["api_key"]["id"], self.visit(made["key"]))


@dataclass
class Program:
    """Who has a key, and nothing else."""

    stack: Stack
    key: str
    id: str
    visitor: Visitor

    async def exchange(self) -> httpx.Response:
        return await self.visitor.post("api-key-exchange")

    async def token(self) -> str:
        """A fresh user token, expecting success."""
        answer = await self.exchange()
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]


@dataclass
class Direct:
    """Calls PostgREST with a token, past every function."""

    visitor: Visitor

    async def rows(self, table: str) -> list[dict[str, Any]]:
        answer = await self.visitor.http.get(f"/rest/v1/{table}?select=*", headers=self.visitor.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def call(self, function: str, **arguments: Any) -> httpx.Response:
        path = f"/rest/v1/rpc/{function}"
        return await self.visitor.http.post(path, json=arguments, headers=self.visitor.headers)
