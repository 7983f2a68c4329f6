"""auth.flow_state: the session goes only to whoever began the flow, proved by the verifier behind a challenge (PKCE).

A flow begins when a mail is asked for, gets its code when the mail's link is followed, and ends with the code's
exchange. The code is random, single-use and stored as a hash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4

from local.auth.database import Cursor
from local.auth.errors import AuthError, invalid

Method = Literal["s256", "plain"]

_CHALLENGE = re.compile(r"[A-Za-z0-9._~-]+")

_BEGIN = """
    insert into auth.flow_state (
      id, user_id, auth_code, code_challenge_method, code_challenge, provider_type, authentication_method,
      created_at, updated_at
    ) values (
      %(id)s, %(user_id)s, %(unused)s, %(method)s, %(challenge)s, 'email', %(authentication_method)s, now(), now()
    )
"""
# A user may have begun several; the last one is whose verifier the browser still has.
_ISSUE = """
    update auth.flow_state set auth_code = %(hash)s, auth_code_issued_at = now(), updated_at = now()
    where id = (
      select id from auth.flow_state
      where user_id = %(user_id)s and authentication_method = any(%(methods)s)
        and auth_code_issued_at is null
      order by created_at desc, id limit 1
    )
"""
_LOCK = """
    select id, user_id, code_challenge, code_challenge_method::text as method, authentication_method,
      auth_code_issued_at + make_interval(secs => %(seconds)s) > now() as live
    from auth.flow_state where auth_code = %(hash)s and auth_code_issued_at is not null
    for update
"""
# What nobody came back for. A mail's link is good for a limited time, so an old flow can never get its code.
_FORGET = """
    delete from auth.flow_state where user_id = %s and created_at < now() - interval '1 day'
"""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a client sends when it begins, and keeps the verifier of."""

    method: Method
    value: str


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow whose code and verifier were right. It is over."""

    user_id: UUID
    authentication_method: str


def challenge_of(value: str | None, method: str | None) -> Challenge | None:
    """The challenge in a body, None if it has none.

    Raises:
        AuthError: it has half of one, or what is no challenge.
    """
    if value is None and method is None:
        return None
    if value is None or method is None:
        raise invalid("PKCE flow requires code_challenge_method and code_challenge")
    if not 43 <= len(value) <= 128:  # RFC 7636, 4.2
        raise invalid("code challenge has to be between 43 and 128 characters")
    if not _CHALLENGE.fullmatch(value):
        raise invalid(
            "code challenge can only contain alphanumeric characters, hyphens, periods, underscores and tildes"
        )
    match method.lower():
        case "s256":
            return Challenge("s256", value)
        case "plain":
            return Challenge("plain", value)
        case _:
            raise invalid("Invalid code_challenge_method")


async def begin(cursor: Cursor, user_id: UUID, challenge: Challenge, *, authentication_method: str) -> None:
    """Remember the challenge until the user follows the mail's link."""
    await cursor.execute(_FORGET, (user_id,))
    await cursor.execute(
        _BEGIN,
        {
            "id": uuid4(),
            "user_id": user_id,
            "unused": _hash(secrets.token_urlsafe()),  # the column must have something, and this nobody knows
            "method": challenge.method,
            "challenge": challenge.value,
            "authentication_method": authentication_method,
        },
    )


async def issue_code(cursor: Cursor, user_id: UUID, *, authentication_methods: Collection[str]) -> str:
    """The code that the user's newest flow by one of the methods can be finished with.

    Raises:
        AuthError: flow_state_not_found.
    """
    code = str(uuid4())
    await cursor.execute(_ISSUE, {"hash": _hash(code), "user_id": user_id, "methods": list(authentication_methods)})
    if not cursor.rowcount:
        raise AuthError(400, "flow_state_not_found", "No associated flow state found.")
    return code


async def finish(cursor: Cursor, code: str, verifier: str, *, lifetime_seconds: float) -> Flow:
    """Exchange a code. A wrong verifier leaves it as it is, so that a thief cannot spoil it.

    Raises:
        AuthError: flow_state_not_found (also when somebody else was quicker), flow_state_expired, bad_code_verifier.
    """
    await cursor.execute(_LOCK, {"hash": _hash(code), "seconds": lifetime_seconds})
    row = await cursor.fetchone()
    if row is None:
        raise AuthError(404, "flow_state_not_found", "invalid flow state, no valid flow state found")
    if not row["live"]:
        raise AuthError(422, "flow_state_expired", "invalid flow state, flow state has expired")
    if not hmac.compare_digest(_challenge(verifier, row["method"]), row["code_challenge"].encode()):
        raise AuthError(400, "bad_code_verifier", "code challenge does not match previously saved code verifier")
    await cursor.execute("delete from auth.flow_state where id = %s", (row["id"],))
    return Flow(row["user_id"], row["authentication_method"])


def _challenge(verifier: str, method: Method) -> bytes:
    if method == "plain":
        return verifier.encode()
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
