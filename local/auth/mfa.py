"""`/factors`: a second factor (TOTP) is enrolled, asked for and shown, which raises the session to `aal2`.

Who has a verified factor changes factors, password and address only in a session that has shown one.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

import segno
from pyotp import random_base32
from pyotp.totp import TOTP
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import factors, sessions, users
from local.auth.bodies import Enrollment, FactorAnswer, FactorChange, read, uuid_of
from local.auth.caller import admin_only, caller_of
from local.auth.context import AuthContext, reload
from local.auth.database import Cursor
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.factors import Challenge, Factor
from local.auth.sessions import Session
from local.auth.tokens import session_body
from local.auth.users import User

METHOD = "totp"  # in a session's `amr`
_QR_SCALE = 3
_CODE_WINDOW = 1  # thirty-second steps that a clock may be off
_NAMES = {"totp": "TOTP", "phone": "Phone", "webauthn": "WebAuthn"}


class SecondFactors:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        keys = self._context.services.keys
        one, of_user = f"{prefix}/factors/{{factor_id}}", f"{prefix}/admin/users/{{user_id}}/factors"
        one_of_user = f"{of_user}/{{factor_id}}"
        return [
            Route(f"{prefix}/factors", answering_errors(self.enroll), methods=["POST"]),
            Route(f"{one}/challenge", answering_errors(self.challenge), methods=["POST"]),
            Route(f"{one}/verify", answering_errors(self.verify), methods=["POST"]),
            Route(one, answering_errors(self.unenroll), methods=["DELETE"]),
            Route(of_user, admin_only(keys, self.list_factors), methods=["GET"]),
            Route(one_of_user, admin_only(keys, self.change_factor), methods=["PUT"]),
            Route(one_of_user, admin_only(keys, self.delete_factor), methods=["DELETE"]),
        ]

    async def enroll(self, request: Request) -> Response:
        """Make a secret for an authenticator. It counts once a first code has been right."""
        async with self._context.transaction() as cursor:
            user, session = await self._signed_in(cursor, request)
            body = await read(request, Enrollment)
            if body.factor_type not in _NAMES:
                raise invalid("factor_type needs to be totp, phone, or webauthn")
            if body.factor_type != "totp" or not self._context.settings.mfa_totp_enroll_enabled:
                message = f"MFA enroll is disabled for {_NAMES[body.factor_type]}"
                raise AuthError(422, f"mfa_{body.factor_type}_enroll_not_enabled", message)
            name = body.friendly_name or ""
            await self._check_room(cursor, user, session, name)
            secret = random_base32()
            factor_id = await factors.add_totp(cursor, user.id, name=name, secret=secret)
            issuer = body.issuer or urlsplit(self._context.settings.site_url).netloc
            uri = TOTP(secret, name=user.email or str(user.id), issuer=issuer).provisioning_uri()
            totp = {"qr_code": _picture(uri), "secret": secret, "uri": uri}
        return JSONResponse({"id": str(factor_id), "type": "totp", "friendly_name": name, "totp": totp})

    async def challenge(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            user, _ = await self._signed_in(cursor, request)
            factor = await _own(cursor, user.id, request)
            self._context.limits.check(self._context.limits.factor_challenge, request)
            self._require_verification(factor)
            asked = await factors.ask(cursor, factor.id, address=_address(request))
        expires_at = int(asked.at + self._context.settings.mfa_challenge_expiry_duration)
        return JSONResponse({"id": str(asked.id), "type": factor.type, "expires_at": expires_at})

    async def verify(self, request: Request) -> Response:
        """Answer a challenge, and go on in a session that has shown two factors."""
        async with self._context.transaction() as cursor:
            user, session = await self._signed_in(cursor, request)
            factor = await _own(cursor, user.id, request)
            self._context.limits.check(self._context.limits.factor_verify, request)
            body = await read(request, FactorAnswer)
            if body.code is None:
                raise invalid("Code needs to be non-empty")
            self._require_verification(factor)
            challenge = await self._open_challenge(cursor, factor, body.challenge_id, request)
            if not TOTP(factor.secret).verify(body.code, valid_window=_CODE_WINDOW):
                raise AuthError(422, "mfa_verification_failed", "Invalid TOTP code entered")
            await factors.verify(cursor, factor, challenge.id)
            grant = await sessions.raise_level(cursor, session, factor_id=factor.id, method=METHOD)
            return JSONResponse(session_body(self._context.services, await reload(cursor, user.id), grant))

    async def unenroll(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            user, session = await self._signed_in(cursor, request)
            factor = await _own(cursor, user.id, request)
            if factor.is_verified and not session.has_second_factor:
                raise AuthError(422, "insufficient_aal", "AAL2 required to unenroll verified factor")
            await _remove(cursor, factor)
        return JSONResponse({"id": str(factor.id)})

    async def list_factors(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            user_id = await _named_user(cursor, request)
            return JSONResponse([factor.body for factor in await factors.list_of(cursor, user_id)])

    async def change_factor(self, request: Request) -> Response:
        body = await read(request, FactorChange)
        async with self._context.transaction() as cursor:
            user_id = await _named_user(cursor, request)
            factor = await _own(cursor, user_id, request)
            if body.friendly_name is not None:
                await factors.rename(cursor, factor.id, body.friendly_name)
            return JSONResponse((await _own(cursor, user_id, request)).body)

    async def delete_factor(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            factor = await _own(cursor, await _named_user(cursor, request), request)
            await _remove(cursor, factor)
        return JSONResponse(factor.body)

    async def _signed_in(self, cursor: Cursor, request: Request) -> tuple[User, Session]:
        """The caller, with the session whose level is at stake. Who has no first factor gets no second."""
        caller = await caller_of(request, self._context.services.keys, cursor)
        if caller.user.is_anonymous:
            raise AuthError(403, "no_authorization", "Anonymous user not allowed to perform these actions")
        if caller.session is None:
            raise AuthError(500, "unexpected_failure", "A valid session and a registered user are required")
        return caller.user, caller.session

    async def _check_room(self, cursor: Cursor, user: User, session: Session, name: str) -> None:
        """Refuse a factor too many, one of a name that is taken, and one that who knows only the password adds."""
        # Two enrolled at once must not both find the name free.
        await cursor.execute("select from auth.users where id = %s for update", (user.id,))
        present = await factors.list_of(cursor, user.id)
        if any(factor.name == name for factor in present):
            message = f'A factor with the friendly name "{name}" for this user already exists'
            raise AuthError(422, "mfa_factor_name_conflict", message)
        if len(present) >= self._context.settings.mfa_max_enrolled_factors:
            raise AuthError(
                422,
                "too_many_enrolled_mfa_factors",
                "Maximum number of verified factors reached, unenroll to continue",
            )
        if user.has_mfa and not session.has_second_factor:
            raise AuthError(403, "insufficient_aal", "AAL2 required to enroll a new factor")

    async def _open_challenge(
        self, cursor: Cursor, factor: Factor, challenge_id: str | None, request: Request
    ) -> Challenge:
        """The factor's challenge that may still be answered from where the caller is."""
        not_a_uuid = AuthError(400, "bad_json", "Could not parse request body as JSON: challenge_id is not a UUID")
        wanted = uuid_of(challenge_id or str(UUID(int=0)), otherwise=not_a_uuid)
        lifetime = self._context.settings.mfa_challenge_expiry_duration
        challenge = await factors.find_challenge(cursor, factor.id, wanted, lifetime_seconds=lifetime)
        if challenge is None:
            raise AuthError(422, "mfa_factor_not_found", "MFA factor with the provided challenge ID not found")
        if challenge.is_answered or challenge.address != _address(request):
            raise AuthError(422, "mfa_ip_address_mismatch", "Challenge and verify IP addresses mismatch.")
        if challenge.is_expired:
            message = (
                f"MFA challenge {challenge.id} has expired, verify against another challenge or create a new challenge."
            )
            raise AuthError(422, "mfa_challenge_expired", message)
        return challenge

    def _require_verification(self, factor: Factor) -> None:
        if factor.type != "totp" or not self._context.settings.mfa_totp_verify_enabled:
            message = f"MFA verification is disabled for {_NAMES[factor.type]}"
            raise AuthError(422, f"mfa_{factor.type}_verify_not_enabled", message)


async def _own(cursor: Cursor, user_id: UUID, request: Request) -> Factor:
    """The factor in the path. Somebody else's is not told from one that is not there."""
    not_a_uuid = AuthError(404, "validation_failed", "factor_id must be an UUID")
    factor = await factors.find(cursor, user_id, uuid_of(request.path_params["factor_id"], otherwise=not_a_uuid))
    if factor is None:
        raise AuthError(404, "mfa_factor_not_found", "Factor not found")
    return factor


async def _remove(cursor: Cursor, factor: Factor) -> None:
    await factors.delete(cursor, factor.id)
    await sessions.lower_level(cursor, factor_id=factor.id, method=METHOD)


async def _named_user(cursor: Cursor, request: Request) -> UUID:
    """Who the path names, if there is somebody of that id."""
    not_a_uuid = AuthError(404, "validation_failed", "user_id must be an UUID")
    user = await users.find(cursor, uuid_of(request.path_params["user_id"], otherwise=not_a_uuid))
    if user is None:
        raise AuthError(404, "user_not_found", "User not found")
    return user.id


def _picture(uri: str) -> str:
    """What an authenticator scans, as SVG. Clients put it into a data URL as it is."""
    try:
        return segno.make_qr(uri, error="h").svg_inline(scale=_QR_SCALE)
    except segno.DataOverflowError as exc:
        raise invalid("The issuer is too long for a QR code") from exc


def _address(request: Request) -> str:
    return request.client.host if request.client else "127.0.0.1"
