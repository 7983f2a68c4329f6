"""What every endpoint of the auth server works with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request

from local.auth import sessions, users
from local.auth.database import Cursor, transaction
from local.auth.errors import AuthError
from local.auth.limits import Limits
from local.auth.one_time_tokens import OneTimeTokens
from local.auth.outbox import Outbox
from local.auth.tokens import session_body
from local.auth.users import User
from local.auth_settings import AuthSettings
from local.services import Services


@dataclass(frozen=True, slots=True)
class AuthContext:
    """One for a stack: mails and limits are kept in it."""

    services: Services
    outbox: Outbox
    limits: Limits
    tokens: OneTimeTokens

    @classmethod
    def of(cls, services: Services, outbox: Outbox) -> AuthContext:
        settings = services.config.auth
        return cls(
            services,
            outbox,
            Limits(settings),
            OneTimeTokens(services.keys.jwt_secret, settings.mailer_otp_length, settings.mailer_otp_exp),
        )

    @property
    def settings(self) -> AuthSettings:
        return self.services.config.auth

    def transaction(self) -> AbstractAsyncContextManager[Cursor]:
        """One connection and one transaction; an exception rolls back."""
        return transaction(self.services.admin_pool)

    async def sign_in(self, cursor: Cursor, request: Request, user_id: UUID, *, method: str) -> dict[str, Any]:
        """Open a session for a user who has just proved who they are by `method`, and say it as clients read it."""
        grant = await sessions.open_session(
            cursor, user_id, method=method, user_agent=request.headers.get("user-agent")
        )
        return session_body(self.services, await reload(cursor, user_id), grant)


async def reload(cursor: Cursor, user_id: UUID) -> User:
    """Read the user again within the transaction that wrote it."""
    found = await users.find(cursor, user_id)
    if found is None:
        raise AuthError(403, "user_not_found", "The user was deleted meanwhile")
    return found


def user_taken() -> AuthError:
    return AuthError(422, "user_already_exists", "User already registered")


def email_exists() -> AuthError:
    return AuthError(422, "email_exists", "A user with this email address has already been registered")
