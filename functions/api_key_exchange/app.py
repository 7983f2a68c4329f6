"""POST /functions/v1/api-key-exchange: a user's token of five minutes for an API key.

Send the key as `Authorization: Bearer rb_live_...`, and an empty body. PostgREST and Realtime take the answered token
as they take a session's: it acts under the row-level security of the person who made the key, within the key's scopes.
The functions take the key itself and need no exchange. The auth server refuses such a token.

A key that does not exist, has expired, was rotated out or revoked, or whose person is banned or gone, is refused alike:
401. Each key may be exchanged 600 times a minute (429).
"""

from __future__ import annotations

from typing import cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter

from functions.api_key_exchange.signer import TOKEN_SECONDS, KeyHolder, current_signer
from shared.api_keys.exchange import NOT_GOOD, SLUG, Exchanged
from shared.api_keys.key import hash_of
from shared.auth import api_key_of
from shared.errors import AppError, Unauthenticated
from shared.http import Answer, Call, endpoint, serverless
from shared.logs import Log
from shared.runs.models import JsonObject
from shared.settings import SettingsError

_log = Log(__name__)


class Nothing(BaseModel):
    """The key is in the header; a body has nothing to add."""

    model_config = ConfigDict(extra="forbid")


class Found(BaseModel):
    """What the database knows of a good key."""

    user_id: UUID
    api_key_id: UUID
    secret_id: UUID
    scopes: tuple[str, ...]
    is_anonymous: bool
    seconds_left: int | None


async def api_key_exchange(call: Call[Nothing]) -> Answer:
    """Ask the database whose key it is, and sign."""
    key = api_key_of(call.headers)
    if key is None:
        raise Unauthenticated(
            "No API key was sent: the Authorization header carries none", hint="Send Authorization: Bearer rb_live_..."
        )
    digest = hash_of(key)
    try:
        signer = current_signer()
    except SettingsError as exc:
        _log.error("api_key.no_signing_key", reason=str(exc))
        raise AppError("API keys are not set up on this deployment") from exc
    answer = await call.database.call("exchange_api_key", {"p_hash": digest})
    if answer is None:
        raise Unauthenticated(NOT_GOOD)
    found = Found.model_validate(cast("JsonObject", answer))
    holder = KeyHolder(found.user_id, found.api_key_id, found.secret_id, found.scopes, found.is_anonymous)
    seconds = TOKEN_SECONDS if found.seconds_left is None else found.seconds_left
    token, expires_at = signer.sign(holder, issuer=call.settings.issuer, seconds=seconds)
    exchanged: dict[str, object] = {
        "access_token": token,
        "token_type": "bearer",
        "expires_in": min(seconds, TOKEN_SECONDS),
        "expires_at": expires_at,
        "scopes": list(found.scopes),
    }
    return 200, Exchanged.model_validate(exchanged)


app = endpoint(
    api_key_exchange,
    slug=SLUG,
    accepts=TypeAdapter(Nothing),
    replies={200: Exchanged},
    callers="anyone",
    headers={"Authorization": "Bearer rb_live_..."},
)
handler = serverless(app)
