"""What people do with their own account: read it, change it, sign out.

A changed address is taken over when a mail to it has been answered, never by the request for it; only who had none
gets one at once, where mails are not waited for.
"""

from __future__ import annotations

from typing import cast, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import addresses, mailer, passwords, redirects, sessions, users
from local.auth.bodies import UserUpdate, email_address, read
from local.auth.caller import ADMIN_ROLES, Caller, caller_of
from local.auth.context import AuthContext, email_exists, reload
from local.auth.database import Cursor
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.flows import Challenge, challenge_of
from local.auth.one_time_tokens import EVERY_TOKEN
from local.auth.outbox import Mail
from local.auth.sessions import Scope
from local.auth.users import User, UserChange


class Account:
    """The endpoints that need a user's own token."""

    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/user", answering_errors(self.get_user), methods=["GET"]),
            Route(f"{prefix}/user", answering_errors(self.update_user), methods=["PUT"]),
            Route(f"{prefix}/logout", answering_errors(self.log_out), methods=["POST"]),
        ]

    async def get_user(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            caller = await caller_of(request, self._context.services.keys, cursor)
        return JSONResponse(caller.user.body)

    async def update_user(self, request: Request) -> Response:
        """Change the caller's password or metadata, or ask for a new address. A new password ends other sessions."""
        body = await read(request, UserUpdate)
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Phone changes are disabled")
        if body.password:
            passwords.check_strength(body.password)
        challenge = challenge_of(body.code_challenge, body.code_challenge_method)
        redirect_to = redirects.target(request, self._context.settings)
        async with self._context.transaction() as cursor:
            caller = await caller_of(request, self._context.services.keys, cursor)
        email = email_address(body.email) if body.email else None
        _check_level(caller, changes=bool(body.password) or (email is not None and email != caller.user.email))
        change = await _change_of(body, caller.user)
        mails: list[Mail] = []
        try:
            async with self._context.transaction() as cursor:
                if change.password_hash:
                    await self._check_nonce(cursor, caller, body.nonce)
                await users.update(cursor, caller.user.id, change)
                if change.password_hash:
                    await self._context.tokens.drop(cursor, caller.user.id, EVERY_TOKEN)
                    session_id = caller.session.id if caller.session else None
                    await sessions.sign_out(cursor, caller.user.id, session_id=session_id, scope="others")
                if email is not None and email != caller.user.email:
                    mails = await self._ask_for_address(cursor, caller.user, email, redirect_to, challenge)
                user = await reload(cursor, caller.user.id)
        except users.EmailTaken as exc:
            raise email_exists() from exc
        self._context.outbox.post(mails)
        return JSONResponse(user.body)

    async def log_out(self, request: Request) -> Response:
        scope = request.query_params.get("scope") or "global"
        if scope not in get_args(Scope):
            raise invalid(f"Unsupported logout scope {scope!r}")
        async with self._context.transaction() as cursor:
            caller = await caller_of(request, self._context.services.keys, cursor)
            session_id = caller.session.id if caller.session else None
            await sessions.sign_out(cursor, caller.user.id, session_id=session_id, scope=cast("Scope", scope))
        return Response(status_code=204)

    async def _check_nonce(self, cursor: Cursor, caller: Caller, nonce: str | None) -> None:
        """Whether who signed in long ago has proved once more who they are, if the settings want that."""
        recently = caller.session is not None and not caller.session.is_old
        if recently or not self._context.settings.security_update_password_require_reauthentication:
            return
        if nonce is None:
            raise AuthError(400, "reauthentication_needed", "Password update requires reauthentication")
        taken = await self._context.tokens.take_code(
            cursor, caller.user.email or "", nonce, ("reauthentication_token",)
        )
        if taken is None or taken.user_id != caller.user.id:
            raise AuthError(422, "reauthentication_not_valid", "Nonce has expired or is invalid")

    async def _ask_for_address(
        self, cursor: Cursor, user: User, email: str, redirect_to: str, challenge: Challenge | None
    ) -> list[Mail]:
        """Take the address over, or ask by mail. Raises users.EmailTaken."""
        if await users.find_by_email(cursor, email):
            raise users.EmailTaken
        await addresses.ask_for_change(cursor, user.id, email)
        if user.is_anonymous and self._context.settings.mailer_autoconfirm:
            await addresses.change(cursor, user.id)
            return []
        return await mailer.compose(
            self._context, cursor, user, "email_change", redirect_to=redirect_to, challenge=challenge
        )


def _check_level(caller: Caller, *, changes: bool) -> None:
    """Who has a second factor has to have shown it to change what they sign in with."""
    if changes and caller.user.has_mfa and not (caller.session and caller.session.has_second_factor):
        message = "AAL2 session is required to update email or password when MFA is enabled."
        raise AuthError(401, "insufficient_aal", message)


async def _change_of(body: UserUpdate, user: User) -> UserChange:
    """What `body` asks to change of `user` besides the address, if the user may."""
    if body.app_metadata is not None and user.role not in ADMIN_ROLES:
        raise AuthError(403, "not_admin", "Updating app_metadata requires admin privileges")
    if body.password and user.is_anonymous and not body.email:
        raise AuthError(
            422,
            "validation_failed",
            "Updating password of an anonymous user without an email or phone is not allowed",
        )
    if body.password and await passwords.matches(body.password, user.password_hash):
        raise AuthError(422, "same_password", "New password should be different from the old password.")
    return UserChange(
        password_hash=await passwords.hash_password(body.password) if body.password else None,
        app_metadata=body.app_metadata or {},
        user_metadata=body.data or {},
    )
