"""`/auth/v1` of the embedded Supabase: what supabase-py and supabase-js expect of GoTrue.

Users, sessions and tokens live in the `auth` schema as on hosted Supabase, so triggers, foreign keys and policies
written against it hold. Mails are kept in an outbox (`/mails`) and not sent. Phones and outside providers are refused
by name.
"""

from __future__ import annotations

from local.auth.about import About
from local.auth.account import Account
from local.auth.admin import Admin
from local.auth.by_mail import ByMail
from local.auth.context import AuthContext
from local.auth.elsewhere import Elsewhere
from local.auth.grants import Grants
from local.auth.identities import Identities
from local.auth.invitations import Invitations
from local.auth.mails import PATH as MAILS_PATH
from local.auth.mails import MailPages
from local.auth.mfa import SecondFactors
from local.auth.outbox import Mail, Outbox
from local.auth.signup import SignUps
from local.auth.verify import Verification
from local.services import Part, Services

__all__ = ["MAILS_PATH", "PREFIX", "Mail", "Outbox", "build"]

PREFIX = "/auth/v1"


def build(services: Services, outbox: Outbox) -> Part:
    """The auth server's routes, and the page of the mails that it puts into `outbox`.

    `About` comes last: it answers what nobody else does.
    """
    context = AuthContext.of(services, outbox)
    kinds = (
        SignUps, Grants, ByMail, Verification, Account, Identities, SecondFactors, Elsewhere, Admin, Invitations,
        About,
    )  # fmt: skip
    routes = [route for kind in kinds for route in kind(context).routes(PREFIX)]
    return Part(routes=[*routes, *MailPages(outbox).routes()])
