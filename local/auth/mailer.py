"""Write the mails: a new token in the database, its code and link in the mail.

A mail is returned and not posted, since its token counts only once the caller's transaction has committed.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

from local.auth import addresses, flows
from local.auth.context import AuthContext, reload
from local.auth.database import Cursor
from local.auth.errors import AuthError
from local.auth.flows import Challenge
from local.auth.one_time_tokens import EMAIL_CHANGE_TOKENS, Issued, TokenType
from local.auth.outbox import Kind, Mail
from local.auth.users import User

_NOT_PLAIN = re.compile(r"[^!-~]|[&=#+%]")  # what would end the parameter, or be read as something else
TOKEN_OF: dict[Kind, TokenType] = {
    "signup": "confirmation_token",
    "invite": "confirmation_token",
    "magiclink": "recovery_token",
    "recovery": "recovery_token",
    "reauthentication": "reauthentication_token",
}


async def compose(
    context: AuthContext,
    cursor: Cursor,
    user: User,
    kind: Kind,
    *,
    redirect_to: str,
    challenge: Challenge | None = None,
) -> list[Mail]:
    """The mails that this user gets now: one, or two for a change that both addresses have to confirm.

    Raises:
        AuthError: 429 over_email_send_rate_limit.
    """
    await addresses.mark_sent(cursor, user.id, kind, pause_seconds=context.settings.smtp_max_frequency)
    user = await reload(cursor, user.id)  # locked by now, so its addresses are the ones that the tokens are for
    if challenge is not None:
        await flows.begin(cursor, user.id, challenge, authentication_method=flow_method(kind))
    mails: list[Mail] = []
    for token_type, address in await _recipients(context, cursor, user, kind):
        context.limits.check_mail()
        issued = await context.tokens.issue(cursor, user.id, token_type, address, pkce=challenge is not None)
        if kind == "reauthentication":
            mails.append(Mail(kind, address, issued.code))
        else:
            link = action_link(context, issued, kind, redirect_to)
            mails.append(Mail(kind, address, issued.code, link, issued.link_token))
    return mails


def flow_method(kind: Kind) -> str:
    """How a flow that ends with such a mail's link is called, in auth.flow_state and in the session's `amr`."""
    return "email/signup" if kind == "signup" else kind


def action_link(context: AuthContext, issued: Issued, kind: Kind, redirect_to: str) -> str:
    """The link that a mail asks to follow."""
    # GoTrue leaves a plain URL as it is, and applications look for it in the link.
    query = urlencode({"token": issued.link_token, "type": kind})
    target = quote(redirect_to, safe="") if _NOT_PLAIN.search(redirect_to) else redirect_to
    return f"{context.services.config.auth_url}/verify?{query}&redirect_to={target}"


async def _recipients(context: AuthContext, cursor: Cursor, user: User, kind: Kind) -> list[tuple[TokenType, str]]:
    if kind != "email_change":
        if user.email is None:
            raise AuthError(422, "validation_failed", "The user has no email address")
        return [(TOKEN_OF[kind], user.email)]
    if user.new_email is None:
        return []
    # Both start again: one address that agrees twice is not two that agree.
    await context.tokens.drop(cursor, user.id, EMAIL_CHANGE_TOKENS)
    await addresses.ask_for_change(cursor, user.id, user.new_email)
    recipients: list[tuple[TokenType, str]] = []
    if user.email and context.settings.mailer_secure_email_change_enabled:
        recipients.append(("email_change_token_current", user.email))
    return [*recipients, ("email_change_token_new", user.new_email)]
