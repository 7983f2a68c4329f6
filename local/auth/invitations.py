"""What the service role hands to others: an invitation by mail, or a link to send oneself (`generate_link`).

A generated link is good for the same as the mail's, and ends the one that a mail of its kind carries.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import addresses, mailer, passwords, redirects, users
from local.auth.bodies import GenerateLink, Invite, email_address, read
from local.auth.caller import admin_only
from local.auth.context import AuthContext, email_exists, reload
from local.auth.database import Cursor
from local.auth.errors import AuthError, invalid
from local.auth.one_time_tokens import EMAIL_CHANGE_TOKENS, Issued, TokenType
from local.auth.outbox import Kind
from local.auth.signup import EMAIL_PROVIDER
from local.auth.users import Metadata, NewUser, User, UserChange

_LINKS: dict[str, tuple[Kind, TokenType]] = {
    "signup": ("signup", "confirmation_token"),
    "invite": ("invite", "confirmation_token"),
    "magiclink": ("magiclink", "recovery_token"),
    "recovery": ("recovery", "recovery_token"),
    "email_change_current": ("email_change", "email_change_token_current"),
    "email_change_new": ("email_change", "email_change_token_new"),
}


class Invitations:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        keys = self._context.services.keys
        return [
            Route(f"{prefix}/invite", admin_only(keys, self.invite), methods=["POST"]),
            Route(f"{prefix}/admin/generate_link", admin_only(keys, self.generate_link), methods=["POST"]),
        ]

    async def invite(self, request: Request) -> Response:
        """Mail somebody who has no account, or has not confirmed it, a link that makes it theirs."""
        body = await read(request, Invite)
        email = _required(body.email)
        redirect_to = redirects.target(request, self._context.settings)
        try:
            async with self._context.transaction() as cursor:
                user = await self._unconfirmed(cursor, email)
                if user is None:
                    user = await _created(cursor, email, body.data)
                mails = await mailer.compose(self._context, cursor, user, "invite", redirect_to=redirect_to)
                user = await reload(cursor, user.id)
        except users.EmailTaken as exc:
            raise email_exists() from exc
        self._context.outbox.post(mails)
        return JSONResponse(user.body)

    async def generate_link(self, request: Request) -> Response:
        """Answer what a mail would have carried, and send none."""
        body = await read(request, GenerateLink)
        email = _required(body.email)
        if body.type not in _LINKS:
            raise invalid(f"Invalid email action link type requested: {body.type or ''}")
        redirect_to = redirects.target(request, self._context.settings, body.redirect_to)
        try:
            async with self._context.transaction() as cursor:
                link_type, user, address = await self._recipient(cursor, body.type, email, body)
                kind, token_type = _LINKS[link_type]
                await addresses.mark_sent(cursor, user.id, kind, pause_seconds=0)
                issued = await self._context.tokens.issue(cursor, user.id, token_type, address, pkce=False)
                user = await reload(cursor, user.id)
        except users.EmailTaken as exc:
            raise email_exists() from exc
        return JSONResponse(user.body | self._link(issued, link_type, redirect_to))

    def _link(self, issued: Issued, link_type: str, redirect_to: str) -> dict[str, str]:
        return {
            "action_link": mailer.action_link(self._context, issued, _LINKS[link_type][0], redirect_to),
            "email_otp": issued.code,
            "hashed_token": issued.link_token,
            "verification_type": link_type,
            "redirect_to": redirect_to,
        }

    async def _recipient(self, cursor: Cursor, link_type: str, email: str, body: GenerateLink) -> tuple[str, User, str]:
        """The type of the link, whose it is, and the address that it speaks for."""
        user = await users.find_by_email(cursor, email)
        match link_type:
            case "signup" | "invite":
                return link_type, await self._signed_up(cursor, link_type, email, body), email
            case "magiclink" if user is None:  # somebody new: the link signs up
                return "signup", await _created(cursor, email, body.data), email
            case _ if user is None:
                raise AuthError(404, "user_not_found", "User with this email not found")
            case "email_change_current" | "email_change_new":
                new_email = _required(body.new_email)
                await self._ask_for_change(cursor, link_type, user, new_email)
                return link_type, user, new_email if link_type == "email_change_new" else email
            case _:
                return link_type, user, email

    async def _signed_up(self, cursor: Cursor, link_type: str, email: str, body: GenerateLink) -> User:
        """The user who has yet to confirm the address, made if there is none."""
        user = await self._unconfirmed(cursor, email)
        if user is not None:
            if link_type == "signup" and body.data:
                await users.update(cursor, user.id, UserChange(user_metadata=body.data))
            return user
        password_hash = None
        if link_type == "signup":
            if body.password is None:
                raise invalid("Signup requires a valid password")
            passwords.check_strength(body.password)
            password_hash = await passwords.hash_password(body.password)
        return await _created(cursor, email, body.data, password_hash=password_hash)

    async def _ask_for_change(self, cursor: Cursor, link_type: str, user: User, new_email: str) -> None:
        if link_type == "email_change_current" and not self._context.settings.mailer_secure_email_change_enabled:
            raise invalid("Enable secure email change to generate link for current email")
        owner = await users.find_by_email(cursor, new_email)
        if owner is not None and owner.id != user.id:
            raise users.EmailTaken
        if user.new_email != new_email:  # what agreed to another address agrees to nothing now
            await self._context.tokens.drop(cursor, user.id, EMAIL_CHANGE_TOKENS)
        await addresses.ask_for_change(cursor, user.id, new_email)

    async def _unconfirmed(self, cursor: Cursor, email: str) -> User | None:
        """Who has the address and has not confirmed it. Raises users.EmailTaken: somebody has."""
        user = await users.find_by_email(cursor, email)
        if user is not None and user.is_confirmed:
            raise users.EmailTaken
        return user


async def _created(cursor: Cursor, email: str, metadata: Metadata | None, *, password_hash: str | None = None) -> User:
    """A new user with the metadata as it was given, and nothing beside it as after a sign-up."""
    new = NewUser(email=email, password_hash=password_hash, app_metadata=EMAIL_PROVIDER, user_metadata=metadata or {})
    await users.insert(cursor, new)
    return await reload(cursor, new.id)


def _required(email: str | None) -> str:
    if email is None:
        raise invalid("An email address is required")
    return email_address(email)
