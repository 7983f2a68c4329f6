"""Create an account: by address and password, or without either.

With confirmation switched on nobody learns here whether an address has an account: who signs up again gets the same
answer and, unless the address is confirmed already, another mail.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import mailer, passwords, redirects, users
from local.auth.bodies import Metadata, SignUp, email_address, read
from local.auth.context import AuthContext, reload, user_taken
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.flows import Challenge, challenge_of
from local.auth.users import AUDIENCE, NewUser, User

EMAIL_PROVIDER: dict[str, Any] = {"provider": "email", "providers": ["email"]}


class SignUps:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        return [Route(f"{prefix}/signup", answering_errors(self.sign_up), methods=["POST"])]

    async def sign_up(self, request: Request) -> Response:
        """Create a user and sign them in, or send them a mail first; without an address, an anonymous one."""
        body = await read(request, SignUp)
        settings, limits = self._context.settings, self._context.limits
        if settings.disable_signup:
            raise signup_disabled()
        metadata = body.data or {}
        if body.email is None and body.phone is None:
            if not settings.external_anonymous_users_enabled:
                raise AuthError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
            limits.check(limits.anonymous, request)
            return await self._store_and_sign_in(request, NewUser(user_metadata=metadata), method="anonymous")
        limits.check(limits.otp, request)
        if body.password is None:
            raise invalid("Signup requires a valid password")
        passwords.check_strength(body.password)
        if body.email and body.phone:
            raise invalid("Only an email address or phone number should be provided on signup.")
        challenge = challenge_of(body.code_challenge, body.code_challenge_method)
        if body.email is None:
            raise AuthError(400, "phone_provider_disabled", "Phone signups are disabled")
        if not settings.external_email_enabled:
            raise AuthError(400, "email_provider_disabled", "Email signups are disabled")
        new = new_email_user(
            email_address(body.email),
            metadata,
            password_hash=await passwords.hash_password(body.password),
            confirmed=settings.mailer_autoconfirm,
        )
        if new.confirmed:
            return await self._store_and_sign_in(request, new, method="password")
        redirect_to = redirects.target(request, settings)
        user = await store_and_mail(self._context, new, redirect_to=redirect_to, challenge=challenge)
        if user is None:
            return JSONResponse(_as_if_new(new, metadata))
        # Whoever invited them wrote the metadata, for their eyes only.
        invited: dict[str, Any] = {"user_metadata": {}, "identities": []} if user.is_invited else {}
        return JSONResponse(user.body | invited)

    async def _store_and_sign_in(self, request: Request, new: NewUser, *, method: str) -> Response:
        try:
            async with self._context.transaction() as cursor:
                await users.insert(cursor, new)
                return JSONResponse(await self._context.sign_in(cursor, request, new.id, method=method))
        except users.EmailTaken as exc:
            raise user_taken() from exc


def signup_disabled() -> AuthError:
    return AuthError(422, "signup_disabled", "Signups not allowed for this instance")


def new_email_user(email: str, metadata: Metadata, *, password_hash: str | None, confirmed: bool) -> NewUser:
    """A user who signs up, with what GoTrue adds to the metadata that a client sends."""
    user_id = uuid4()
    about = {"sub": str(user_id), "email": email, "email_verified": confirmed, "phone_verified": False}
    return NewUser(
        id=user_id,
        email=email,
        password_hash=password_hash,
        confirmed=confirmed,
        app_metadata=EMAIL_PROVIDER,
        user_metadata={**metadata, **about},
        identity_data=metadata,
    )


async def store_and_mail(
    context: AuthContext, new: NewUser, *, redirect_to: str, challenge: Challenge | None
) -> User | None:
    """Store an unconfirmed user and ask them to confirm; None if the address is a confirmed user's.

    An unconfirmed one that has the address already stays as it is: it may be somebody else who signs up now.
    """
    try:
        async with context.transaction() as cursor:
            await users.insert(cursor, new)
            user = await reload(cursor, new.id)
            mails = await mailer.compose(context, cursor, user, "signup", redirect_to=redirect_to, challenge=challenge)
            user = await reload(cursor, new.id)
    except users.EmailTaken:
        async with context.transaction() as cursor:
            user = await users.find_by_email(cursor, new.email or "")
            if user is None or user.is_confirmed:
                return None
            mails = await mailer.compose(context, cursor, user, "signup", redirect_to=redirect_to, challenge=challenge)
            user = await reload(cursor, user.id)
    context.outbox.post(mails)
    return user


def _as_if_new(new: NewUser, metadata: Metadata) -> dict[str, Any]:
    """What stands for somebody who is there already, as GoTrue writes it: applications know it by no `identities`."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {
        "id": str(new.id),
        "aud": AUDIENCE,
        "role": "",
        "email": new.email,
        "phone": "",
        "app_metadata": new.app_metadata,
        "user_metadata": metadata,
        "identities": [],
        "is_anonymous": False,
        "confirmation_sent_at": now,
        "created_at": now,
        "updated_at": now,
    }
