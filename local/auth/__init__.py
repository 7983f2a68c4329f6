"""`/auth/v1` of the embedded Supabase: what supabase-py and supabase-js expect of GoTrue.

Users, sessions and refresh tokens live in the `auth` schema as on hosted Supabase, so triggers, foreign keys and
policies written against it hold. Mail, one-time passwords, phones and outside providers are refused by name.
"""

from __future__ import annotations

from local.auth.about import About
from local.auth.account import Account
from local.auth.admin import Admin
from local.services import Part, Services

__all__ = ["PREFIX", "build"]

PREFIX = "/auth/v1"


def build(services: Services) -> Part:
    """The auth server's routes. `About` comes last: it answers what nobody else does."""
    groups = (Account(services), Admin(services), About(services))
    return Part(routes=[route for group in groups for route in group.routes(PREFIX)])
