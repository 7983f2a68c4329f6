"""What clients send, checked as strictly as GoTrue decodes it: a wrong type is refused, an unknown key is not.

The official clients send null or "" for what they leave out, so both mean absent.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from local.auth.errors import AuthError, invalid

# The HTML standard's definition of a valid e-mail address, which GoTrue also checks with.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*")
_E164 = re.compile(r"[1-9][0-9]{1,14}")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_DURATION_TERM = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
LARGEST_BODY = 1 << 20  # bytes; nothing that clients send comes near it
_MAX_EMAIL_LENGTH = 255  # of the column


def _blank_to_none(value: object) -> object:
    return None if value == "" else value


Text = Annotated[str | None, BeforeValidator(_blank_to_none)]
Metadata = dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Beginning(_Body):
    """May begin a flow that ends with the exchange of a code (PKCE)."""

    code_challenge: Text = None
    code_challenge_method: Text = None


class SignUp(_Beginning):
    email: Text = None
    phone: Text = None
    password: Text = None
    data: Metadata | None = None


class Otp(_Beginning):
    email: Text = None
    phone: Text = None
    channel: Text = None
    create_user: bool | None = None
    data: Metadata | None = None


class Recover(_Beginning):
    email: Text = None


class Resend(_Beginning):
    type: Text = None
    email: Text = None
    phone: Text = None


class Verify(_Body):
    type: Text = None
    token: Text = None
    token_hash: Text = None
    email: Text = None
    phone: Text = None
    redirect_to: Text = None


class Invite(_Body):
    email: Text = None
    data: Metadata | None = None


class GenerateLink(_Body):
    type: Text = None
    email: Text = None
    new_email: Text = None
    password: Text = None
    data: Metadata | None = None
    redirect_to: Text = None


class Enrollment(_Body):
    factor_type: Text = None
    friendly_name: Text = None
    issuer: Text = None


class FactorAnswer(_Body):
    challenge_id: Text = None
    code: Text = None


class FactorChange(_Body):
    friendly_name: Text = None


class PasswordGrant(_Body):
    email: Text = None
    phone: Text = None
    password: str | None = None


class RefreshGrant(_Body):
    refresh_token: Text = None


class CodeGrant(_Body):
    auth_code: Text = None
    code_verifier: Text = None


class IdTokenGrant(_Body):
    id_token: Text = None
    provider: Text = None
    client_id: Text = None
    issuer: Text = None


class UserUpdate(_Beginning):
    email: Text = None
    phone: Text = None
    password: Text = None
    nonce: Text = None
    data: Metadata | None = None
    app_metadata: Metadata | None = None


class AdminUser(_Body):
    """One body for create and update; `id` counts at create only."""

    id: Text = None
    email: Text = None
    phone: Text = None
    password: Text = None
    password_hash: Text = None
    email_confirm: bool | None = None
    role: Text = None
    user_metadata: Metadata | None = None
    app_metadata: Metadata | None = None
    ban_duration: Text = None


class DeleteUser(_Body):
    should_soft_delete: bool | None = Field(default=None)


BodyT = TypeVar("BodyT", bound=_Body)


async def read(request: Request, body: type[BodyT], *, optional: bool = False) -> BodyT:
    """Decode the request's body. `optional`: no body at all is an empty object.

    Raises:
        AuthError: bad_json, naming the first field that is wrong, never its value; request_entity_too_large at once.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST_BODY:
            message = f"Request body too large (max {LARGEST_BODY} bytes)"
            raise AuthError(413, "request_entity_too_large", message)
    try:
        return body.model_validate_json(bytes(raw) or b"{}" if optional else bytes(raw))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part != "function-before[_blank_to_none()]")
        where = f" at {field!r}" if field else ""
        raise AuthError(400, "bad_json", f"Could not parse request body as JSON{where}: {first['msg']}") from exc


def email_address(text: str) -> str:
    """The address as it is stored and looked up: lower case."""
    if len(text) > _MAX_EMAIL_LENGTH or not _EMAIL.fullmatch(text):
        raise invalid("Unable to validate email address: invalid format")
    return text.lower()


def phone_number(text: str) -> str:
    """The number as GoTrue stores and looks it up: digits only."""
    digits = text.removeprefix("+").replace(" ", "")
    if not _E164.fullmatch(digits):
        raise invalid("Invalid phone number format (E.164 required)")
    return digits


def ban_seconds(duration: str) -> float:
    """Seconds of a Go duration (`1h30m`); 0 for `none`, which lifts a ban."""
    if duration == "none":
        return 0
    if not _DURATION.fullmatch(duration):
        raise invalid("invalid format for ban duration: expected none or a duration such as 24h or 1h30m")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_TERM.findall(duration))


def uuid_of(text: str, *, otherwise: AuthError) -> UUID:
    """Read a UUID as Postgres writes it; the other spellings Python knows are refused."""
    try:
        parsed = UUID(text)
    except ValueError:
        raise otherwise from None
    if str(parsed) != text.lower():
        raise otherwise
    return parsed
