"""What a person does with their own account: sign up, sign in, refresh, read, change, sign out.

E-mail addresses count as confirmed at once (the CLI's default for a local stack), so no mail is ever sent: a
changed address is taken over without the round by mail that hosted Supabase makes.
"""

from __future__ import annotations

from typing import Any, cast, get_args
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import passwords, sessions, users
from local.auth.bodies import PasswordGrant, RefreshGrant, SignUp, UserUpdate, email_address, read
from local.auth.caller import ADMIN_ROLES, caller_of
from local.auth.database import Cursor, transaction
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.sessions import Scope
from local.auth.tokens import session_body
from local.auth.users import NewUser, User, UserChange
from local.services import Services

EMAIL_PROVIDER: dict[str, Any] = {"provider": "email", "providers": ["email"]}


class Account:
    """The endpoints that need no more than a user's own credentials."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/signup", answering_errors(self.sign_up), methods=["POST"]),
            Route(f"{prefix}/token", answering_errors(self.token), methods=["POST"]),
            Route(f"{prefix}/user", answering_errors(self.get_user), methods=["GET"]),
            Route(f"{prefix}/user", answering_errors(self.update_user), methods=["PUT"]),
            Route(f"{prefix}/logout", answering_errors(self.log_out), methods=["POST"]),
        ]

    async def sign_up(self, request: Request) -> Response:
        """Create a user and sign them in; without an address, an anonymous one."""
        body = await read(request, SignUp)
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Phone signups are disabled")
        metadata = body.data or {}
        if body.email is None:
            return await self._store_and_sign_in(request, NewUser(user_metadata=metadata), method="anonymous")
        if body.password is None:
            raise invalid("Signup requires a valid password")
        passwords.check_strength(body.password)
        user_id, email = uuid4(), email_address(body.email)
        new = NewUser(
            id=user_id,
            email=email,
            password_hash=await passwords.hash_password(body.password),
            confirmed=True,
            app_metadata=EMAIL_PROVIDER,
            user_metadata={
                **metadata,
                "sub": str(user_id),
                "email": email,
                "email_verified": True,
                "phone_verified": False,
            },
        )
        return await self._store_and_sign_in(request, new, method="password")

    async def token(self, request: Request) -> Response:
        """Exchange a password or a refresh token for a session."""
        match request.query_params.get("grant_type"):
            case "password":
                return await self._password_grant(request)
            case "refresh_token":
                return await self._refresh_grant(request)
            case _:
                raise AuthError(400, "invalid_credentials", "unsupported_grant_type")

    async def get_user(self, request: Request) -> Response:
        async with transaction(self._services.admin_pool) as cursor:
            caller = await caller_of(request, self._services.keys, cursor)
        return JSONResponse(caller.user.body)

    async def update_user(self, request: Request) -> Response:
        """Change the caller's address, password or metadata. A new password ends their other sessions."""
        body = await read(request, UserUpdate)
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Phone changes are disabled")
        if body.password:
            passwords.check_strength(body.password)
        async with transaction(self._services.admin_pool) as cursor:
            caller = await caller_of(request, self._services.keys, cursor)
        change = await _change_of(body, caller.user)
        try:
            async with transaction(self._services.admin_pool) as cursor:
                await users.update(cursor, caller.user.id, change)
                if change.password_hash:
                    session_id = caller.session.id if caller.session else None
                    await sessions.sign_out(cursor, caller.user.id, session_id=session_id, scope="others")
                user = await _reload(cursor, caller.user)
        except users.EmailTaken as exc:
            raise email_exists() from exc
        return JSONResponse(user.body)

    async def log_out(self, request: Request) -> Response:
        scope = request.query_params.get("scope") or "global"
        if scope not in get_args(Scope):
            raise invalid(f"Unsupported logout scope {scope!r}")
        async with transaction(self._services.admin_pool) as cursor:
            caller = await caller_of(request, self._services.keys, cursor)
            session_id = caller.session.id if caller.session else None
            await sessions.sign_out(cursor, caller.user.id, session_id=session_id, scope=cast("Scope", scope))
        return Response(status_code=204)

    async def _store_and_sign_in(self, request: Request, new: NewUser, *, method: str) -> Response:
        try:
            async with transaction(self._services.admin_pool) as cursor:
                await users.insert(cursor, new)
                body = await self._sign_in(cursor, request, new, method=method)
        except users.EmailTaken as exc:
            raise AuthError(422, "user_already_exists", "User already registered") from exc
        return JSONResponse(body)

    async def _password_grant(self, request: Request) -> Response:
        body = await read(request, PasswordGrant)
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Phone logins are disabled")
        if body.email is None:
            raise invalid("missing email or phone")
        async with transaction(self._services.admin_pool) as cursor:
            user = await users.find_by_email(cursor, body.email.lower())
        if user is None or not await passwords.matches(body.password or "", user.password_hash):
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        if user.is_banned:
            raise AuthError(400, "user_banned", "User is banned")
        if not user.is_confirmed:
            raise AuthError(400, "email_not_confirmed", "Email not confirmed")
        async with transaction(self._services.admin_pool) as cursor:
            return JSONResponse(await self._sign_in(cursor, request, user, method="password"))

    async def _refresh_grant(self, request: Request) -> Response:
        body = await read(request, RefreshGrant)
        if body.refresh_token is None:
            raise invalid("refresh_token required")
        async with transaction(self._services.admin_pool) as cursor:
            grant = await sessions.rotate(cursor, body.refresh_token)
            user = await users.find(cursor, grant.session.user_id) if grant else None
            if user and user.is_banned:
                raise AuthError(400, "user_banned", "Invalid Refresh Token: User Banned")
        # Only now, so that the revocation of the family is committed and not rolled back with the refusal.
        if grant is None or user is None:
            raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
        return JSONResponse(session_body(self._services, user, grant))

    async def _sign_in(self, cursor: Cursor, request: Request, user: User | NewUser, *, method: str) -> dict[str, Any]:
        grant = await sessions.open_session(
            cursor, user.id, method=method, user_agent=request.headers.get("user-agent")
        )
        return session_body(self._services, await _reload(cursor, user), grant)


def email_exists() -> AuthError:
    return AuthError(422, "email_exists", "A user with this email address has already been registered")


async def _change_of(body: UserUpdate, user: User) -> UserChange:
    """What `body` asks to change of `user`, if the user may."""
    if body.app_metadata is not None and user.role not in ADMIN_ROLES:
        raise AuthError(403, "not_admin", "Updating app_metadata requires admin privileges")
    if body.password and user.is_anonymous and not body.email:
        raise invalid("Updating password of an anonymous user without an email or phone is not allowed")
    if body.password and await passwords.matches(body.password, user.password_hash):
        raise AuthError(422, "same_password", "New password should be different from the old password.")
    email = email_address(body.email) if body.email else None
    new_address = email is not None and email != user.email
    provider = EMAIL_PROVIDER if new_address and user.is_anonymous else {}
    return UserChange(
        email=email if new_address else None,
        password_hash=await passwords.hash_password(body.password) if body.password else None,
        confirm=new_address,
        app_metadata={**(body.app_metadata or {}), **provider},
        user_metadata=(body.data or {}) | ({"email": email, "email_verified": True} if new_address else {}),
    )


async def _reload(cursor: Cursor, user: User | NewUser) -> User:
    """Read the user again within the transaction that wrote it."""
    found = await users.find(cursor, user.id)
    if found is None:
        raise AuthError(403, "user_not_found", "The user was deleted meanwhile")
    return found
