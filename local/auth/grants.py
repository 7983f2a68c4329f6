"""`/token`: what a session is given for. A password, a refresh token, or the code at the end of a PKCE flow."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import flows, passwords, sessions, users
from local.auth.bodies import CodeGrant, IdTokenGrant, PasswordGrant, RefreshGrant, read
from local.auth.context import AuthContext, reload
from local.auth.elsewhere import id_token_refusal, web3_refusal
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.tokens import session_body


class Grants:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        return [Route(f"{prefix}/token", answering_errors(self.token), methods=["POST"])]

    async def token(self, request: Request) -> Response:
        """Open a session, or continue one."""
        self._context.limits.check(self._context.limits.token_refresh, request)
        match request.query_params.get("grant_type"):
            case "password":
                return await self._password(request)
            case "refresh_token":
                return await self._refresh_token(request)
            case "pkce":
                return await self._pkce(request)
            case "id_token":
                raise id_token_refusal(await read(request, IdTokenGrant))
            case "web3":
                raise web3_refusal()
            case _:
                raise AuthError(400, "invalid_credentials", "unsupported_grant_type")

    async def _password(self, request: Request) -> Response:
        body = await read(request, PasswordGrant)
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Phone logins are disabled")
        if body.email is None:
            raise invalid("missing email or phone")
        if not self._context.settings.external_email_enabled:
            raise AuthError(422, "email_provider_disabled", "Email logins are disabled")
        async with self._context.transaction() as cursor:
            user = await users.find_by_email(cursor, body.email.lower())
        # What else is wrong is told only to who knows the password.
        if user is None or not await passwords.matches(body.password or "", user.password_hash):
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        if user.is_banned:
            raise AuthError(400, "user_banned", "User is banned")
        if not user.is_confirmed:
            raise AuthError(400, "email_not_confirmed", "Email not confirmed")
        async with self._context.transaction() as cursor:
            return JSONResponse(await self._context.sign_in(cursor, request, user.id, method="password"))

    async def _refresh_token(self, request: Request) -> Response:
        body = await read(request, RefreshGrant)
        if body.refresh_token is None:
            raise invalid("refresh_token required")
        async with self._context.transaction() as cursor:
            grant = await sessions.rotate(cursor, body.refresh_token)
            user = await users.find(cursor, grant.session.user_id) if grant else None
            if user and user.is_banned:
                raise AuthError(400, "user_banned", "Invalid Refresh Token: User Banned")
        # Only now, so that the revocation of the family is committed and not rolled back with the refusal.
        if grant is None or user is None:
            raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
        return JSONResponse(session_body(self._context.services, user, grant))

    async def _pkce(self, request: Request) -> Response:
        body = await read(request, CodeGrant)
        if body.auth_code is None or body.code_verifier is None:
            raise invalid("invalid request: both auth code and code verifier should be non-empty")
        lifetime = self._context.settings.external_flow_state_expiry_duration
        async with self._context.transaction() as cursor:
            flow = await flows.finish(cursor, body.auth_code, body.code_verifier, lifetime_seconds=lifetime)
            if (await reload(cursor, flow.user_id)).is_banned:
                raise AuthError(403, "user_banned", "User is banned")
            return JSONResponse(
                await self._context.sign_in(cursor, request, flow.user_id, method=flow.authentication_method)
            )
