"""POST /functions/v1/credential-test: does a key work at its provider?

    {provider, api_key}        a key that is not kept; for openai, deepseek, anthropic, gemini
    {provider, fields}         the same with all that the provider's form asks for, such as a base URL
    {credential_id}            a stored credential, which the caller may change; the result is kept with it

Answers 200 {success, valid, outcome, message, details}. `success` says that the test could be made, `valid` that the
key works, `outcome` which of a closed list of findings it was, `details` what the provider told beside: organisation,
credit, rate limits, models. A test costs the key's account nothing, and takes ten seconds at most. A user may make 20 a
minute; the same key is asked for once a minute, after that the answer is the last one (`cached`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from shared.errors import InvalidInput
from shared.http import Answer, Call, endpoint, serverless
from shared.rest_database import RestDatabase
from shared.runs.models import Json, JsonObject
from shared.vault.opening import open_to_test, record_test
from shared.vault.probes import Outcome, ProbeResult, probe
from shared.vault.providers import parse
from shared.vault.ring import KeyRing, current_keys
from shared.vault.secret import Secret


class KeyToTest(BaseModel):
    """What to test: a key as it was entered, or a stored credential."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    provider: str | None = Field(default=None, min_length=1, max_length=32, description="Not needed with credential_id")
    api_key: str | None = Field(default=None, min_length=1, max_length=2000, description="Short for fields.api_key")
    fields: dict[str, JsonValue] | None = Field(default=None, description="By the names of the provider's form")
    credential_id: UUID | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if sum(given is not None for given in (self.api_key, self.fields, self.credential_id)) != 1:
            raise PydanticCustomError("one_key", "Give one of api_key, fields and credential_id")
        if self.provider is None and self.credential_id is None:
            raise PydanticCustomError("provider_missing", "provider: Field required")
        return self


class Tested(BaseModel):
    """What the test found out."""

    success: bool = Field(description="The test could be made; false says nothing of the key")
    valid: bool = Field(description="The key works")
    outcome: Outcome
    message: str
    details: dict[str, JsonValue]
    cached: bool = Field(description="Found out within the last minute, not now")


async def credential_test(call: Call[KeyToTest]) -> Answer:
    """Count the test, find the key, and ask its provider."""
    keys = current_keys()
    await call.database.call("begin_credential_test", {})
    body = call.body
    if body.credential_id is None:
        entered = parse(cast("str", body.provider), {"api_key": body.api_key} if body.fields is None else body.fields)
        return 200, await _tested(call.database, keys, cast("str", body.provider), entered.to_fields())
    async with open_to_test(call.database, keys, body.credential_id) as credential:
        if body.provider not in {None, credential.provider}:
            raise InvalidInput(f"provider: the credential is one of {credential.provider}")
        tested = await _tested(call.database, keys, credential.provider, credential.fields)
    await record_test(
        call.database,
        keys,
        body.credential_id,
        valid=tested.valid,
        outcome=tested.outcome,
        message=tested.message,
    )
    return 200, tested


async def _tested(database: RestDatabase, keys: KeyRing, provider: str, fields: Mapping[str, Secret]) -> Tested:
    """What the last minute knows of these fields, or what their provider says now."""
    fingerprint = keys.marks.fingerprint(provider, {name: value.reveal() for name, value in fields.items()})
    known = await database.call("known_credential_test", {"p_fingerprint": fingerprint})
    if known is not None:
        return Tested.model_validate({**cast("JsonObject", known), "cached": True})
    found = await probe(provider, fields)
    if found.success:  # what failed on the way may go well the next time
        await database.call(
            "remember_credential_test", {"p_fingerprint": fingerprint, "p_result": cast("Json", _told(found))}
        )
    return Tested.model_validate({**_told(found), "cached": False})


def _told(found: ProbeResult) -> JsonObject:
    return {
        "success": found.success,
        "valid": found.valid,
        "outcome": found.outcome,
        "message": found.message,
        "details": found.details,
    }


app = endpoint(
    credential_test,
    slug="credential-test",
    accepts=TypeAdapter(KeyToTest),
    replies={200: Tested},
)
handler = serverless(app)
