"""POST /functions/v1/flowise-webhook: tell a run that what one of its steps waits for has happened.

The body is a JSON object of at most 1 MB; it becomes the step's output. It is signed with the agent's secret, in one of
two ways, and nothing of it is read before the signature is proven:

    X-Runbase-Signature: t=<unix seconds>,v1=<hex>   HMAC-SHA256 over `<t>.<body>`, at most 5 minutes old; used once.
        Posted to the callback URL as it was given away: agent_id, run_id, step_no, seal.
    X-Flowise-Signature: sha256=<hex>   HMAC-SHA256 over the body, as Flowise signs its callbacks.
        The URL has agent_id alone, and the body's chatId is the one that the flow was called with.

A step takes one event. `event_id` in the body names it, else the body does: the same event again (signed anew) is
answered as the first time, another one is 409. 401: not signed, wrongly, or too long ago. 404: no such step waits.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from typing import Annotated, Final, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, WithJsonSchema
from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from shared.errors import InvalidInput, Unauthenticated
from shared.http import Answer, Call, endpoint, serverless
from shared.http.body import parse_body, parse_query
from shared.redaction.redactor import redact_json
from shared.runs.models import Json
from shared.runs.status import RunStatus
from shared.webhooks.keys import Address, WebhookKeys
from shared.webhooks.signature import verify, verify_as_flowise

SIGNATURE: Final = "X-Runbase-Signature"
FLOWISE_SIGNATURE: Final = "X-Flowise-Signature"
MAX_EVENT_ID_CHARS: Final = 200
StepNo = Annotated[int, Field(ge=1, le=2**31 - 1)]


class CallbackUrl(BaseModel):
    """The query of a callback URL as a step gave it away."""

    model_config = ConfigDict(extra="forbid")

    agent_id: UUID
    run_id: UUID
    step_no: StepNo
    seal: str = Field(min_length=1, max_length=64)


class FlowiseUrl(BaseModel):
    """The query of the callback URL that stands in a flow of Flowise's: the same for all of its runs."""

    model_config = ConfigDict(extra="forbid")

    agent_id: UUID


class ChatId(BaseModel):
    """The parts of a chatId that `WebhookKeys.chat_id` made."""

    run_id: UUID
    step_no: StepNo
    seal: str


class Delivered(BaseModel):
    """What became of the run."""

    run_id: UUID
    status: RunStatus
    revision: int
    step_no: int
    kept: bool | None = Field(default=None, description="It came before its step waited, and is kept for it")


_PAYLOAD: Final = TypeAdapter(dict[str, JsonValue])
_CALLBACK_URL: Final = TypeAdapter(CallbackUrl)
_FLOWISE_URL: Final = TypeAdapter(FlowiseUrl)
RawBody = Annotated[bytes, WithJsonSchema({"title": "Payload", "type": "object", "description": "The step's output"})]


async def flowise_webhook(call: Call[bytes]) -> Answer:
    """Prove the delivery, then hand it to the step by one call of the database."""
    keys = WebhookKeys.from_env(os.environ)
    query = QueryParams(cast("bytes", call.scope["query_string"]))
    ours, flowises = _header(call.scope, SIGNATURE), _header(call.scope, FLOWISE_SIGNATURE)
    if (ours is None) == (flowises is None):
        raise Unauthenticated(f"One signature is needed, {SIGNATURE} or {FLOWISE_SIGNATURE}")
    delivery_id: str | None = None
    if ours is not None:
        url = parse_query(query, _CALLBACK_URL)
        address, seal = Address(url.agent_id, url.run_id, url.step_no), url.seal
        delivery_id = verify(ours, call.body, keys.secret(url.agent_id), now=time.time())
        payload = parse_body(call.body, _PAYLOAD)
    else:
        agent_id = parse_query(query, _FLOWISE_URL).agent_id
        verify_as_flowise(cast("str", flowises), call.body, keys.secret(agent_id))
        payload = parse_body(call.body, _PAYLOAD)
        address, seal = _address(agent_id, payload.get("chatId"))
    keys.check_seal(address, seal)
    answer = await call.database.call(
        "deliver_event",
        {
            "p_run_id": str(address.run_id),
            "p_step_no": address.step_no,
            "p_token": keys.token(address),
            "p_event_id": _event_id(payload, call.body),
            "p_payload": redact_json(cast("Json", payload)),  # senders echo keys that they were called with
            "p_delivery_id": delivery_id,
        },
    )
    return 200, Delivered.model_validate(answer)


def _header(scope: Scope, name: str) -> str | None:
    """The header; several of a name stand as one, as some hosts pass them on, and are no signature then."""
    found = Headers(scope=scope).getlist(name)
    return ",".join(found) if found else None


def _address(agent_id: UUID, chat_id: JsonValue) -> tuple[Address, str]:
    names = ("run_id", "step_no", "seal")
    parts = chat_id.split(".") if isinstance(chat_id, str) else []
    try:
        chat = ChatId.model_validate_strings(dict(zip(names, parts, strict=True)))
    except (ValidationError, ValueError):
        raise InvalidInput("chatId: is not one that a run called the flow with") from None
    return Address(agent_id, chat.run_id, chat.step_no), chat.seal


def _event_id(payload: Mapping[str, JsonValue], body: bytes) -> str:
    given = payload.get("event_id")
    if given is None:
        return f"sha256:{hashlib.sha256(body).hexdigest()}"
    if not isinstance(given, str) or not 0 < len(given) <= MAX_EVENT_ID_CHARS:
        raise InvalidInput(f"event_id: must be text of 1 to {MAX_EVENT_ID_CHARS} characters")
    return given


app = endpoint(
    flowise_webhook,
    slug="flowise-webhook",
    accepts=TypeAdapter(RawBody),
    replies={200: Delivered},
    callers="anyone",
    headers={
        SIGNATURE: "t=<unix seconds>,v1=<hex of HMAC-SHA256>; or the next",
        FLOWISE_SIGNATURE: "sha256=<hex of HMAC-SHA256>, as Flowise signs",
    },
)
handler = serverless(app)
