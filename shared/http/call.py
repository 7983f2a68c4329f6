"""One request as a function sees it: checked, and with the caller's own view of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Scope

from shared.auth import Caller
from shared.errors import Forbidden, InvalidInput
from shared.rest_database import RestDatabase
from shared.settings import Settings

Body = TypeVar("Body")

Answer: TypeAlias = tuple[int, BaseModel] | Response
"""A status and a body, or a whole response where a body is not enough (a stream)."""

MAX_KEY_CHARS = 200  # private.idempotency_keys holds no longer one


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    """A request whose caller is known and whose body is valid.

    Attributes:
        body: The JSON body, or the query of a GET.
        database: Acts as the caller: a user under row-level security, or the service.
        headers: Lower-case names.
        request_id: Also in the answer and in every log line about this request.
    """

    body: Body
    database: RestDatabase
    headers: Mapping[str, str]
    request_id: str
    settings: Settings
    scope: Scope
    caller: Caller | None = None

    @property
    def user(self) -> Caller:
        """Who is signed in; an endpoint for services has nobody.

        Raises:
            Forbidden: nobody is.
        """
        if self.caller is None:
            raise Forbidden("This endpoint acts for a signed-in user")
        return self.caller

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header.

        Raises:
            InvalidInput: it is empty, too long or not printable.
        """
        key = self.headers.get("idempotency-key")
        if key is not None and not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
            raise InvalidInput(f"Idempotency-Key: must be 1 to {MAX_KEY_CHARS} printable ASCII characters")
        return key

    @property
    def is_buffered(self) -> bool:
        """Whether the host hands out the answer only when it is whole, so that a stream must be short."""
        return "aws.event" in self.scope

    def seconds_left(self) -> float | None:
        """How long the host lets this request run on, if it says so (Lambda does)."""
        context: Any = self.scope.get("aws.context")
        left = getattr(context, "get_remaining_time_in_millis", None)
        return float(left()) / 1000 if left is not None else None
