"""Ask for a mail: to sign in, to recover, to get one again, to prove once more who one is.

Whether an address has an account is not told: the answer is `{}` either way.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import mailer, redirects, users
from local.auth.bodies import Otp, Recover, Resend, email_address, read
from local.auth.caller import caller_of
from local.auth.context import AuthContext
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.flows import Challenge, challenge_of
from local.auth.outbox import Kind
from local.auth.signup import new_email_user, signup_disabled, store_and_mail
from local.auth.users import User


class ByMail:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/otp", answering_errors(self.otp), methods=["POST"]),
            Route(f"{prefix}/magiclink", answering_errors(self.otp), methods=["POST"]),
            Route(f"{prefix}/recover", answering_errors(self.recover), methods=["POST"]),
            Route(f"{prefix}/resend", answering_errors(self.resend), methods=["POST"]),
            Route(f"{prefix}/reauthenticate", answering_errors(self.reauthenticate), methods=["GET"]),
        ]

    async def otp(self, request: Request) -> Response:
        """Mail a link and a code to sign in with; somebody new is signed up by it unless `create_user` is false."""
        body = await read(request, Otp)
        self._context.limits.check(self._context.limits.otp, request)
        if body.email and body.phone:
            raise invalid("Only an email address or phone number should be provided")
        if body.email and body.channel:
            raise invalid("Channel should only be specified with Phone OTP")
        challenge = challenge_of(body.code_challenge, body.code_challenge_method)
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Unsupported phone provider")
        if body.email is None:
            raise invalid("One of email or phone must be set")
        self._require_email_provider()
        email = email_address(body.email)
        settings = self._context.settings
        redirect_to = redirects.target(request, settings)
        user = await self._find(email)
        if user is None:
            if body.create_user is False:
                raise AuthError(422, "otp_disabled", "Signups not allowed for otp")
            if settings.disable_signup:
                raise signup_disabled()
            new = new_email_user(email, body.data or {}, password_hash=None, confirmed=settings.mailer_autoconfirm)
            if not new.confirmed:
                await store_and_mail(self._context, new, redirect_to=redirect_to, challenge=challenge)
                return JSONResponse({})
            user = await self._store(new)
        if user is not None:
            kind: Kind = "magiclink" if user.is_confirmed or settings.mailer_autoconfirm else "signup"
            await self._send(user, kind, redirect_to, challenge)
        return JSONResponse({})

    async def recover(self, request: Request) -> Response:
        """Mail a link and a code to whoever has forgotten their password."""
        body = await read(request, Recover)
        self._context.limits.check(self._context.limits.otp, request)
        if body.email is None:
            raise invalid("Password recovery requires an email")
        self._require_email_provider()
        challenge = challenge_of(body.code_challenge, body.code_challenge_method)
        user = await self._find(email_address(body.email))
        if user is not None:
            await self._send(user, "recovery", redirects.target(request, self._context.settings), challenge)
        return JSONResponse({})

    async def resend(self, request: Request) -> Response:
        """Mail again what asked to confirm an address, if it is still to be confirmed."""
        body = await read(request, Resend)
        self._context.limits.check(self._context.limits.otp, request)
        if body.type not in {"signup", "email_change", "sms", "phone_change"}:
            raise invalid("Missing one of these types: signup, email_change, sms, phone_change")
        if body.email and body.phone:
            raise invalid("Only an email address or phone number should be provided.")
        if body.type == "sms" and body.phone is None:
            raise invalid("Type provided requires a phone number")
        if body.phone:
            raise AuthError(400, "phone_provider_disabled", "Phone logins are disabled")
        if body.email is None:
            raise invalid("Type provided requires an email address")
        self._require_email_provider()
        challenge = challenge_of(body.code_challenge, body.code_challenge_method)
        user = await self._find(email_address(body.email))
        redirect_to = redirects.target(request, self._context.settings)
        if user is not None and body.type == "signup" and not user.is_confirmed:
            await self._send(user, "signup", redirect_to, challenge)
        if user is not None and body.type == "email_change" and user.new_email:
            await self._send(user, "email_change", redirect_to, challenge)
        return JSONResponse({})

    async def reauthenticate(self, request: Request) -> Response:
        """Mail the caller a code that a new password can ask for (`nonce`)."""
        async with self._context.transaction() as cursor:
            user = (await caller_of(request, self._context.services.keys, cursor)).user
        if not user.email:
            raise AuthError(
                422,
                "validation_failed",
                "Reauthentication requires the user to have an email or a phone number",
            )
        if not user.is_confirmed:
            raise AuthError(422, "email_not_confirmed", "Please verify your email first.")
        await self._send(user, "reauthentication", "", None)
        return JSONResponse({})

    async def _find(self, email: str) -> User | None:
        async with self._context.transaction() as cursor:
            return await users.find_by_email(cursor, email)

    async def _store(self, new: users.NewUser) -> User | None:
        """Store a confirmed user, or find the one who was quicker."""
        try:
            async with self._context.transaction() as cursor:
                await users.insert(cursor, new)
        except users.EmailTaken:
            pass  # two asked at once, and both shall get their mail
        return await self._find(new.email or "")

    async def _send(self, user: User, kind: Kind, redirect_to: str, challenge: Challenge | None) -> None:
        async with self._context.transaction() as cursor:
            mails = await mailer.compose(
                self._context, cursor, user, kind, redirect_to=redirect_to, challenge=challenge
            )
        self._context.outbox.post(mails)

    def _require_email_provider(self) -> None:
        if not self._context.settings.external_email_enabled:
            raise AuthError(422, "email_provider_disabled", "Email logins are disabled")
