"""POST /functions/v1/credentials: people's own keys for providers, sealed on the way in and never shown again.

    providers {}                                                     200: what to ask a person for, by provider
    create    {provider, fields, name?, account_id?, test?}          201, or 200 when the idempotency key is known
    list      {account_id?, provider?}                               200: newest first
    rename    {credential_id, name}                                  200
    replace   {credential_id, fields, test?}                         200: the same credential with another secret
    delete    {credential_id}                                        200: steps that begin from now on do not get it

`fields` are those that `providers` names. With `test` the provider is asked first, and what it does not take is not
stored. Whoever works in an account sees its credentials; who made one, and admins and owners, may change it. A
credential of somebody else does not exist (404). `Idempotency-Key` makes create safe to repeat.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, cast
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter

from shared.errors import InvalidInput, NotFound, UpstreamBusy
from shared.http import Answer, Call, endpoint, serverless
from shared.rest_database import RestDatabase
from shared.runs.models import Json, JsonObject
from shared.vault import providers
from shared.vault.binding import Binding
from shared.vault.probes import ProbeResult, probe
from shared.vault.ring import current_keys
from shared.vault.sealing import sealed_secret

MAX_LISTED = 200  # as many as an account may have
MAX_MESSAGE_CHARS = 1000  # of a test, as the database takes it

_COLUMNS = "id,account_id,user_id,provider,name,last_four,created_at,updated_at,last_used_at,last_tested_at,last_test"

ProviderName = Literal["openai", "deepseek", "anthropic", "gemini", "flowise", "http", "postgres"]
CredentialName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Fields = Annotated[dict[str, JsonValue], Field(repr=False, description="As `providers` names them")]


class Strict(BaseModel):
    """Base of what is accepted: a field that nobody knows is a mistake of the caller's, not to be ignored."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ListProviders(Strict):
    """See what credentials consist of."""

    action: Literal["providers"]


class CreateCredential(Strict):
    """Add a credential."""

    action: Literal["create"]
    provider: ProviderName
    fields: Fields
    name: CredentialName | None = Field(default=None, description="Default: the provider's name")
    account_id: UUID | None = Field(default=None, description="Whose it is; default: the personal account")
    test: bool = Field(default=False, description="Ask the provider first; store it only if the provider takes it")


class ListCredentials(Strict):
    """See an account's credentials."""

    action: Literal["list"]
    account_id: UUID | None = Field(default=None, description="Default: the personal account")
    provider: ProviderName | None = None


class RenameCredential(Strict):
    """Call a credential something else."""

    action: Literal["rename"]
    credential_id: UUID
    name: CredentialName


class ReplaceCredential(Strict):
    """Put another secret in a credential's place."""

    action: Literal["replace"]
    credential_id: UUID
    fields: Fields
    test: bool = False


class DeleteCredential(Strict):
    """Erase a credential."""

    action: Literal["delete"]
    credential_id: UUID


Request = ListProviders | CreateCredential | ListCredentials | RenameCredential | ReplaceCredential | DeleteCredential
Body = Annotated[Request, Field(discriminator="action")]


class Test(BaseModel):
    """What the provider said of it, the last time."""

    valid: bool
    outcome: str
    message: str


class Credential(BaseModel):
    """A credential without its secret."""

    id: UUID
    account_id: UUID
    user_id: UUID | None = Field(description="Who added it")
    provider: str
    name: str
    last_four: str | None = Field(description="The end of its key; null where the key is too short to tell")
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None = Field(description="When a step last opened it, to the minute")
    last_tested_at: datetime | None
    last_test: Test | None


class OneCredential(BaseModel):
    """A credential as it is now."""

    credential: Credential
    created: bool | None = None


class Deleted(BaseModel):
    """What is gone."""

    id: UUID
    deleted: Literal[True] = True


class Credentials(BaseModel):
    """An account's credentials."""

    credentials: list[Credential]


class Forms(BaseModel):
    """What to ask a person for, by provider."""

    providers: list[providers.Form]


async def credentials(call: Call[Request]) -> Answer:
    """Do what the action says; the database holds the rules."""
    match call.body:
        case ListProviders():
            return 200, Forms(providers=[providers.to_form(name) for name in providers.PROVIDERS])
        case CreateCredential():
            return await _create(call, call.body)
        case ListCredentials():
            call.user.require_scope("credentials:read")
            return 200, await _list(call, call.body)
        case RenameCredential(credential_id=credential_id, name=name):
            arguments: dict[str, Json] = {"p_credential_id": str(credential_id), "p_name": name}
            return 200, _shown(await call.database.call("rename_credential", arguments))
        case ReplaceCredential():
            return 200, await _replace(call, call.body)
        case DeleteCredential(credential_id=credential_id):
            await call.database.call("delete_credential", {"p_credential_id": str(credential_id)})
            return 200, Deleted(id=credential_id, deleted=True)


async def _create(call: Call[Request], body: CreateCredential) -> Answer:
    entered = providers.parse(body.provider, body.fields)
    test = await _tested(call.database, body.provider, entered) if body.test else None
    binding = Binding(body.account_id or call.user.user_id, uuid4(), body.provider)
    credential: JsonObject = {
        **await sealed_secret(current_keys(), entered, binding),
        "id": str(binding.credential_id),
        "account_id": str(binding.account_id),
        "provider": binding.provider,
        "name": body.name or entered.LABEL,
        "test": test,
    }
    arguments: dict[str, Json] = {"p_credential": credential, "p_idempotency_key": call.idempotency_key}
    answer = _shown(await call.database.call("create_credential", arguments))
    return (201 if answer.created else 200), answer


async def _replace(call: Call[Request], body: ReplaceCredential) -> OneCredential:
    call.user.require_scope("credentials:read")  # what is sealed is bound to what stands in the row
    database = call.database
    query = database.table("credentials").select("account_id,provider").eq("id", str(body.credential_id))
    rows = await database.rows(query)
    if not rows:
        raise NotFound(f"There is no credential {body.credential_id}")
    provider = cast("str", rows[0]["provider"])
    entered = providers.parse(provider, body.fields)
    test = await _tested(database, provider, entered) if body.test else None
    binding = Binding(UUID(cast("str", rows[0]["account_id"])), body.credential_id, provider)
    secret: JsonObject = {**await sealed_secret(current_keys(), entered, binding), "test": test}
    arguments: dict[str, Json] = {"p_credential_id": str(body.credential_id), "p_secret": secret}
    return _shown(await database.call("replace_credential", arguments))


async def _list(call: Call[Request], body: ListCredentials) -> Credentials:
    account_id = body.account_id or call.user.user_id  # the personal account has its user's id
    query = call.database.table("credentials").select(_COLUMNS).eq("account_id", str(account_id))
    if body.provider is not None:
        query = query.eq("provider", body.provider)
    rows = await call.database.rows(query.order("created_at", desc=True).order("id").limit(MAX_LISTED))
    return Credentials(credentials=[Credential.model_validate(row) for row in rows])


async def _tested(database: RestDatabase, provider: str, entered: providers.Credential) -> JsonObject:
    """The result of a test that the credential passed; it counts as one of credential-test."""
    await database.call("begin_credential_test", {})
    result = await probe(provider, entered.to_fields())
    if not result.valid:
        raise _refusal(result)
    return {"valid": True, "outcome": result.outcome, "message": result.message[:MAX_MESSAGE_CHARS]}


def _refusal(result: ProbeResult) -> InvalidInput | UpstreamBusy:
    if result.success or result.outcome in {"untestable", "address_blocked"}:
        return InvalidInput(f"fields: {result.message}", details=result.outcome, hint="Nothing was stored.")
    return UpstreamBusy(result.message, details=result.outcome, hint="Nothing was stored: store it untested, or wait.")


def _shown(answer: Json) -> OneCredential:
    row = dict(cast("JsonObject", answer))
    created = {"created": row.pop("created")} if "created" in row else {}
    return OneCredential.model_validate({"credential": row, **created})


app = endpoint(
    credentials,
    slug="credentials",
    accepts=TypeAdapter(Body),
    replies={200: OneCredential | Credentials | Forms | Deleted, 201: OneCredential},
    headers={"Idempotency-Key": "1 to 200 printable ASCII characters; repeats of create are safe"},
)
handler = serverless(app)
