"""Follow a mail's link, or type its code: what proves that an address is one's own, and signs in.

A link is followed by a browser, so it always ends in a redirect, to where the mail said and with what went wrong if
something did. A code is typed into an application, which gets the session itself. Either works once.
"""

from __future__ import annotations

from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from local.auth import addresses, flows, mailer, redirects, users
from local.auth.bodies import Verify, email_address, phone_number, read
from local.auth.context import AuthContext, email_exists, reload
from local.auth.database import Cursor
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.one_time_tokens import EMAIL_CHANGE_TOKENS, PKCE_PREFIX, Taken, TokenType
from local.auth.outbox import Kind
from local.auth.users import User

# Which tokens each type takes. Only a typed code may leave open which mail it came from (`email`).
_TOKENS: dict[str, tuple[TokenType, ...]] = {
    "signup": ("confirmation_token",),
    "invite": ("confirmation_token",),
    "magiclink": ("recovery_token",),
    "recovery": ("recovery_token",),
    "email": ("confirmation_token", "recovery_token"),
    "email_change": EMAIL_CHANGE_TOKENS,
}
# What a link of the type `email` is, by the token that it carried: its kinds, the one that GoTrue calls it by first.
_KINDS: dict[TokenType, tuple[Kind, ...]] = {
    "confirmation_token": ("signup", "invite"),
    "recovery_token": ("magiclink", "recovery"),
}
_OTHER_ADDRESS_TOO = "Confirmation link accepted. Please proceed to confirm link sent to the other email"


class Verification:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/verify", answering_errors(self.follow), methods=["GET"]),
            Route(f"{prefix}/verify", answering_errors(self.enter), methods=["POST"]),
        ]

    async def follow(self, request: Request) -> Response:
        """Use a link up and lead the browser on: with a session, or with a code to exchange for one (PKCE)."""
        if request.method == "HEAD":  # a mail scanner looks at links, and must not use them up
            return Response(status_code=405, headers={"Allow": "GET, POST"})
        self._context.limits.check(self._context.limits.verify, request)
        link_type, token = request.query_params.get("type"), request.query_params.get("token")
        if not link_type:
            raise invalid("Verify requires a verification type")
        if not token:
            raise invalid("Verify requires a token or a token hash")
        redirect_to = redirects.target(request, self._context.settings)
        try:
            url = await self._followed(request, link_type, token, redirect_to)
        except AuthError as error:
            url = redirects.with_error(redirect_to, error, in_query=token.startswith(PKCE_PREFIX))
        return RedirectResponse(url, 303)

    async def enter(self, request: Request) -> Response:
        """Exchange a code, or a link's token, for a session."""
        body = await read(request, Verify)
        self._context.limits.check(self._context.limits.verify, request)
        if body.type is None:
            raise invalid("Verify requires a verification type")
        if (body.token is None) == (body.token_hash is None):
            raise invalid("Verify requires either a token or a token hash")
        async with self._context.transaction() as cursor:
            taken = await self._take(cursor, body.type, body)
            user = await self._prove(cursor, taken)
            if user is None:
                return JSONResponse({"msg": _OTHER_ADDRESS_TOO, "code": "200"})
            return JSONResponse(await self._context.sign_in(cursor, request, user.id, method="otp"))

    async def _followed(self, request: Request, link_type: str, token: str, redirect_to: str) -> str:
        pkce = token.startswith(PKCE_PREFIX)
        async with self._context.transaction() as cursor:
            types = _types(link_type)
            taken = await self._context.tokens.take_link(cursor, token, types)
            if taken is None:
                raise _expired_link()
            user = await self._prove(cursor, taken)
            if user is None:
                message = {"message": _OTHER_ADDRESS_TOO}
                return redirects.with_fragment(redirects.with_query(redirect_to, message if pkce else {}), message)
            kinds = _KINDS[taken.type] if link_type == "email" else (cast("Kind", link_type),)
            if pkce:
                code = await flows.issue_code(
                    cursor, user.id, authentication_methods=[mailer.flow_method(kind) for kind in kinds]
                )
                return redirects.with_query(redirect_to, {"code": code})
            session = await self._context.sign_in(cursor, request, user.id, method="otp")
        names = ("access_token", "expires_at", "expires_in", "refresh_token", "token_type")
        return redirects.with_fragment(redirect_to, {**{name: str(session[name]) for name in names}, "type": kinds[0]})

    async def _take(self, cursor: Cursor, code_type: str, body: Verify) -> Taken:
        """The token that the body has the code or the hash of."""
        if body.token_hash is not None:
            if body.email or body.phone or body.redirect_to:
                raise invalid("Only the token_hash and type should be provided")
            taken = await self._context.tokens.take_link(cursor, body.token_hash, _types(code_type))
            if taken is None:
                raise _expired_link()
            return taken
        if body.phone and not body.email:
            phone_number(body.phone)
            raise _expired_code()  # nobody was sent one
        if body.email is None or body.phone:
            raise invalid("Only an email address or phone number should be provided on verify")
        types, address = _types(code_type), _address(body.email)
        taken = await self._context.tokens.take_code(cursor, address, body.token or "", types)
        if taken is None:
            raise _expired_code()
        return taken

    async def _prove(self, cursor: Cursor, taken: Taken) -> User | None:
        """Write down what the token proves; None if the other address has yet to agree to a change.

        Raises:
            AuthError: user_banned; email_exists; otp_expired, the mail went to an address that is not theirs any more.
        """
        user = await reload(cursor, taken.user_id)
        if user.is_banned:
            raise AuthError(403, "user_banned", "User is banned")
        if taken.address != (user.new_email if taken.type == "email_change_token_new" else user.email):
            raise _expired_link()
        if taken.type not in EMAIL_CHANGE_TOKENS:
            await addresses.confirm(cursor, user.id)
            return user
        settings = self._context.settings
        both = settings.mailer_secure_email_change_enabled and not settings.mailer_autoconfirm and user.email
        if both and await addresses.confirm_one_side(cursor, user.id):
            return None
        try:
            await addresses.change(cursor, user.id)
        except users.EmailTaken as exc:
            raise email_exists() from exc
        await self._context.tokens.drop(cursor, user.id, EMAIL_CHANGE_TOKENS)
        return user


def _types(name: str) -> tuple[TokenType, ...]:
    if name not in _TOKENS:
        raise invalid("Invalid email verification type")
    return _TOKENS[name]


def _address(email: str) -> str:
    try:
        return email_address(email)
    except AuthError as exc:
        raise AuthError(422, "validation_failed", "Invalid email format") from exc


def _expired_code() -> AuthError:
    return AuthError(403, "otp_expired", "Token has expired or is invalid")


def _expired_link() -> AuthError:
    return AuthError(403, "otp_expired", "Email link is invalid or has expired")
