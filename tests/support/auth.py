"""Short words for the tests of /auth/v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import httpx
import psycopg
from httpx import Response
from supabase import AsyncClient
from supabase_auth.types import Session

from tests.support.stack import PASSWORD, Stack


def new_email() -> str:
    return f"{uuid4().hex[:12]}@example.com"


async def signed_up(client: AsyncClient, email: str | None = None, **data: Any) -> Session:
    """Sign somebody up through `client`, which is then signed in as them."""
    answer = await client.auth.sign_up({"email": email or new_email(), "password": PASSWORD, "options": {"data": data}})
    assert answer.session
    return answer.session


async def refresh(client: AsyncClient, token: str) -> str:
    """Exchange a refresh token for the next one."""
    answer = await client.auth.refresh_session(token)
    assert answer.session
    return answer.session.refresh_token


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a browser is after it followed a mail's link."""

    url: str  # without query and fragment
    query: dict[str, str]
    fragment: dict[str, str]


async def mails(stack: Stack, to: str = "") -> list[dict[str, Any]]:
    """The outbox, newest first."""
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{stack.url}/mails", params={"to": to})).json()["mails"]


async def last_mail(stack: Stack, to: str) -> dict[str, Any]:
    """The newest mail to the address."""
    return (await mails(stack, to))[0]


async def follow(link: str) -> Landing:
    """Click a link: the auth server redirects, and nobody need be where it leads."""
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(link)
    assert answer.status_code == 303, answer.text
    parts = urlsplit(answer.headers["location"])
    values = [dict(parse_qsl(text, keep_blank_values=True)) for text in (parts.query, parts.fragment)]
    return Landing(parts._replace(query="", fragment="").geturl(), *values)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refusal(answer: Response) -> tuple[int, str]:
    """Status and code of an error in the older shape, which callers without an API version get."""
    return answer.status_code, answer.json()["error_code"]


def sql(stack: Stack, query: str, *params: object) -> list[tuple[Any, ...]]:
    """Run one statement as superuser."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []
