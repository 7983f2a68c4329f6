"""POST /functions/v1/api-keys: make, list, rotate and revoke the caller's API keys.

    create   {name, scopes, expires_in_days?}          201: the key itself, shown this once
    list     {}                                        200: newest first, also those that have ended
    rotate   {api_key_id, overlap_hours?}              200: a new key for the same; the old one works on for a while
    revoke   {api_key_id}                              200: ended at once and for good

Only a person's own session manages keys: a key that calls is refused (403). Nothing shows a key again after the answer
that made it; `last_four` tells which it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.api_keys.key import hash_of, new_key
from shared.api_keys.scopes import Scope
from shared.errors import NotFound
from shared.http import Answer, Call, endpoint, serverless
from shared.rest_database import RestDatabase
from shared.runs.models import Json

_COLUMNS = "id,name,scopes,last_four,created_at,rotated_at,previous_expires_at,expires_at,revoked_at,last_used_at"
_MOST_LISTED = 200  # 50 that work and 100 that have ended are the most there are, but for what ends between two creates


class Strict(BaseModel):
    """Base of what is accepted: a field that nobody knows is a mistake of the caller's, not to be ignored."""

    model_config = ConfigDict(extra="forbid")


class CreateKey(Strict):
    """Make a key."""

    action: Literal["create"]
    name: str = Field(min_length=1, max_length=100, description="For you to know it by")
    scopes: list[Scope] = Field(min_length=1, max_length=20)
    expires_in_days: int | None = Field(default=90, ge=1, le=3650, description="null: until it is revoked")


class ListKeys(Strict):
    """See the keys."""

    action: Literal["list"]


class RotateKey(Strict):
    """Replace a key by another of the same name and scopes."""

    action: Literal["rotate"]
    api_key_id: UUID
    overlap_hours: int = Field(default=24, ge=0, le=168, description="How long the old one works too; 0: it ends now")


class RevokeKey(Strict):
    """End a key."""

    action: Literal["revoke"]
    api_key_id: UUID


Body = Annotated[CreateKey | ListKeys | RotateKey | RevokeKey, Field(discriminator="action")]


class ApiKey(BaseModel):
    """A key without the key."""

    id: UUID
    name: str
    scopes: list[str]
    last_four: str
    created_at: datetime
    rotated_at: datetime | None
    previous_expires_at: datetime | None = Field(description="Until when the key before the last rotation works too")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Exact to a minute or so")


class NewKey(BaseModel):
    """A key that was made just now."""

    key: str = Field(repr=False, description="Keep it: it is never shown again")
    api_key: ApiKey


class OneKey(BaseModel):
    """A key as it is now."""

    api_key: ApiKey


class ApiKeys(BaseModel):
    """The caller's keys."""

    api_keys: list[ApiKey]


async def api_keys(call: Call[CreateKey | ListKeys | RotateKey | RevokeKey]) -> Answer:
    """Do what the action says; the database holds the rules."""
    call.user.require_session()
    match call.body:
        case CreateKey():
            return await _create(call.database, call.body)
        case RotateKey():
            return await _rotate(call.database, call.body)
        case RevokeKey(api_key_id=api_key_id):
            await call.database.call("revoke_api_key", {"p_api_key_id": str(api_key_id)})
            return 200, OneKey(api_key=await _read(call.database, str(api_key_id)))
        case ListKeys():
            query = call.database.table("api_keys").select(_COLUMNS)
            rows = await call.database.rows(query.order("created_at", desc=True).limit(_MOST_LISTED))
            return 200, ApiKeys(api_keys=[ApiKey.model_validate(row) for row in rows])


async def _create(database: RestDatabase, body: CreateKey) -> Answer:
    key = new_key()
    arguments: dict[str, Json] = {
        **_shown(key),
        "p_name": body.name,
        "p_scopes": list[Json](body.scopes),
        "p_days": body.expires_in_days,
    }
    api_key_id = cast("str", await database.call("create_api_key", arguments))
    return 201, NewKey(key=key, api_key=await _read(database, api_key_id))


async def _rotate(database: RestDatabase, body: RotateKey) -> Answer:
    key = new_key()
    arguments: dict[str, Json] = {"p_api_key_id": str(body.api_key_id), "p_overlap_hours": body.overlap_hours}
    await database.call("rotate_api_key", {**_shown(key), **arguments})
    return 200, NewKey(key=key, api_key=await _read(database, str(body.api_key_id)))


def _shown(key: str) -> dict[str, Json]:
    """What the database is told of a key."""
    return {"p_hash": hash_of(key), "p_last_four": key[-4:]}


async def _read(database: RestDatabase, api_key_id: str) -> ApiKey:
    rows = await database.rows(database.table("api_keys").select(_COLUMNS).eq("id", api_key_id))
    if not rows:
        raise NotFound(f"There is no API key {api_key_id}")  # its person was deleted meanwhile
    return ApiKey.model_validate(rows[0])


app = endpoint(
    api_keys,
    slug="api-keys",
    accepts=TypeAdapter(Body),
    replies={200: OneKey | NewKey | ApiKeys, 201: NewKey},
)
handler = serverless(app)
