"""`/admin/users`: what the service role may do to any user."""

from __future__ import annotations

import secrets
from urllib.parse import urlencode
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import passwords, sessions, users
from local.auth.bodies import AdminUser, DeleteUser, ban_seconds, email_address, read, uuid_of
from local.auth.caller import admin_only
from local.auth.context import AuthContext, email_exists
from local.auth.database import Cursor
from local.auth.errors import AuthError, invalid
from local.auth.one_time_tokens import EVERY_TOKEN
from local.auth.signup import EMAIL_PROVIDER
from local.auth.users import AUDIENCE, NewUser, User, UserChange

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000  # one reply stays a few megabytes


class Admin:
    """The endpoints that need the service role."""

    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        keys = self._context.services.keys
        all_users, one_user = f"{prefix}/admin/users", f"{prefix}/admin/users/{{user_id}}"
        return [
            Route(all_users, admin_only(keys, self.create_user), methods=["POST"]),
            Route(all_users, admin_only(keys, self.list_users), methods=["GET"]),
            Route(one_user, admin_only(keys, self.get_user), methods=["GET"]),
            Route(one_user, admin_only(keys, self.update_user), methods=["PUT"]),
            Route(one_user, admin_only(keys, self.delete_user), methods=["DELETE"]),
            Route(f"{prefix}/admin/audit", admin_only(keys, self.audit), methods=["GET"]),
        ]

    async def create_user(self, request: Request) -> Response:
        """Create a user, who is confirmed only if `email_confirm` says so. No session is opened."""
        body = await read(request, AdminUser)
        _refuse_phone(body)
        if body.email is None:
            raise invalid("Cannot create a user without either an email or phone")
        if body.password and body.password_hash:
            raise invalid("Only a password or a password hash should be provided")
        confirmed = bool(body.email_confirm)
        new = NewUser(
            id=_new_id(body.id),
            email=email_address(body.email),
            # Without a password there is still one, which nobody knows.
            password_hash=await _password_hash(body) or await passwords.hash_password(secrets.token_urlsafe()),
            confirmed=confirmed,
            role=body.role or AUDIENCE,
            ban_seconds=ban_seconds(body.ban_duration) if body.ban_duration else 0,
            app_metadata=EMAIL_PROVIDER | (body.app_metadata or {}),
            user_metadata=(body.user_metadata or {}) | ({"email_verified": True} if confirmed else {}),
        )
        try:
            async with self._context.transaction() as cursor:
                await users.insert(cursor, new)
                return JSONResponse((await _existing(cursor, new.id)).body)
        except users.EmailTaken as exc:
            raise email_exists() from exc
        except users.IdTaken as exc:
            raise AuthError(422, "user_already_exists", "A user with this id already exists") from exc

    async def list_users(self, request: Request) -> Response:
        """One page of users, with the next and last page as `Link`; `sort` and `filter` as GoTrue has them."""
        page = _count(request, "page", default=1)
        per_page = min(_count(request, "per_page", default=DEFAULT_PAGE_SIZE), MAX_PAGE_SIZE)
        oldest_first, part = _oldest_first(request), request.query_params.get("filter") or ""
        async with self._context.transaction() as cursor:
            found, total = await users.find_page(
                cursor, limit=per_page, offset=(page - 1) * per_page, oldest_first=oldest_first, filtered_by=part
            )
        headers = {"X-Total-Count": str(total), "Link": _links(page, per_page, total)}
        return JSONResponse({"users": [user.body for user in found], "aud": AUDIENCE}, headers=headers)

    async def get_user(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            return JSONResponse((await _existing(cursor, _user_id(request))).body)

    async def update_user(self, request: Request) -> Response:
        """Change a user. A new password signs them out everywhere."""
        user_id, body = _user_id(request), await read(request, AdminUser)
        _refuse_phone(body)
        if body.password:
            passwords.check_strength(body.password)
        change = UserChange(
            email=email_address(body.email) if body.email else None,
            password_hash=await _password_hash(body),
            confirm=bool(body.email_confirm),
            role=body.role,
            ban_seconds=ban_seconds(body.ban_duration) if body.ban_duration else None,
            app_metadata=body.app_metadata or {},
            user_metadata=(body.user_metadata or {}) | ({"email_verified": True} if body.email_confirm else {}),
        )
        try:
            async with self._context.transaction() as cursor:
                await _existing(cursor, user_id)
                await users.update(cursor, user_id, change)
                if change.password_hash:
                    await self._context.tokens.drop(cursor, user_id, EVERY_TOKEN)
                    await sessions.sign_out(cursor, user_id, session_id=None, scope="global")
                return JSONResponse((await _existing(cursor, user_id)).body)
        except users.EmailTaken as exc:
            raise email_exists() from exc

    async def delete_user(self, request: Request) -> Response:
        user_id, body = _user_id(request), await read(request, DeleteUser, optional=True)
        async with self._context.transaction() as cursor:
            await _existing(cursor, user_id)
            await users.delete(cursor, user_id, soft=bool(body.should_soft_delete))
        return JSONResponse({})

    async def audit(self, request: Request) -> Response:
        """The audit log, in which nothing is written here."""
        del request
        return JSONResponse([], headers={"X-Total-Count": "0", "Link": '</admin/audit?page=0>; rel="last"'})


async def _existing(cursor: Cursor, user_id: UUID) -> User:
    user = await users.find(cursor, user_id)
    if user is None:
        raise AuthError(404, "user_not_found", "User not found")
    return user


async def _password_hash(body: AdminUser) -> str | None:
    if body.password_hash:
        passwords.check_hash(body.password_hash)
        return body.password_hash
    if body.password:
        passwords.check_length(body.password)
        return await passwords.hash_password(body.password)
    return None


def _refuse_phone(body: AdminUser) -> None:
    if body.phone:
        raise AuthError(400, "phone_provider_disabled", "Users with phone numbers are not served here")


def _new_id(text: str | None) -> UUID:
    if text is None:
        return uuid4()
    wrong = invalid("ID must conform to the uuid v4 format")
    user_id = uuid_of(text, otherwise=wrong)
    if user_id.int == 0:
        raise wrong
    return user_id


def _user_id(request: Request) -> UUID:
    wrong = AuthError(404, "validation_failed", "user_id must be an UUID")
    return uuid_of(request.path_params["user_id"], otherwise=wrong)


def _count(request: Request, name: str, *, default: int) -> int:
    """A positive number from the query; the clients send `page=` for what they leave out."""
    text = request.query_params.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise invalid(f"Bad Pagination Parameters: {name} must be a positive number")
    return int(text)


def _oldest_first(request: Request) -> bool:
    """Whether `sort` asks for the order that is not the default."""
    words = (request.query_params.get("sort") or "created_at desc").split()
    if words[:1] != ["created_at"]:
        raise invalid(f"Bad Sort Parameters: bad field for sort '{words[0] if words else ''}'")
    direction = words[1].lower() if len(words) > 1 else "desc"
    if direction not in {"asc", "desc"}:
        raise invalid(f"Bad Sort Parameters: bad direction for sort '{words[1]}', only 'asc' and 'desc' allowed")
    return direction == "asc"


def _links(page: int, per_page: int, total: int) -> str:
    """supabase-js reads the number after the first `=`, so `page` has to stand first."""

    def link(number: int, relation: str) -> str:
        return f'</admin/users?{urlencode({"page": number, "per_page": per_page})}>; rel="{relation}"'

    last = -(-total // per_page)
    return ", ".join([*([link(page + 1, "next")] if last > page else []), link(last, "last")])
