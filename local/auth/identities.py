"""By what a user signs in: one identity a provider. The last one stays, or nobody could sign in as the user again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth import addresses, users
from local.auth.bodies import uuid_of
from local.auth.caller import caller_of
from local.auth.context import AuthContext
from local.auth.errors import AuthError, Endpoint, answering_errors, invalid

# The address stays if an identity is left that has it, and is else that of the oldest one.
_UNLINK = """
    with unlinked as (
      delete from auth.identities where id = %(identity_id)s and user_id = %(user_id)s returning id
    )
    update auth.users u set updated_at = now(), email = (
      select i.email from auth.identities i
      where i.user_id = u.id and i.id <> %(identity_id)s
      order by i.email is not distinct from u.email desc, i.created_at, i.id limit 1
    )
    from unlinked where u.id = %(user_id)s
"""


class Identities:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        all_identities = f"{prefix}/user/identities"
        return [
            Route(f"{all_identities}/authorize", self._if_enabled(self.link), methods=["GET"]),
            Route(f"{all_identities}/{{identity_id}}", self._if_enabled(self.unlink), methods=["DELETE"]),
        ]

    async def link(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            await caller_of(request, self._context.services.keys, cursor)
        raise provider_not_enabled()

    async def unlink(self, request: Request) -> Response:
        not_a_uuid = AuthError(404, "validation_failed", "identity_id must be an UUID")
        identity_id = uuid_of(request.path_params["identity_id"], otherwise=not_a_uuid)
        try:
            async with self._context.transaction() as cursor:
                caller = await caller_of(request, self._context.services.keys, cursor)
                # Two unlinked at once must not both find the other still there.
                await cursor.execute("select from auth.users where id = %s for update", (caller.user.id,))
                await cursor.execute("select id from auth.identities where user_id = %s", (caller.user.id,))
                present = [row["id"] for row in await cursor.fetchall()]
                if len(present) <= 1:
                    raise AuthError(
                        422, "single_identity_not_deletable", "User must have at least 1 identity after unlinking"
                    )
                if identity_id not in present:
                    raise AuthError(422, "identity_not_found", "Identity doesn't exist")
                with users.naming_what_is_taken():
                    await cursor.execute(_UNLINK, {"identity_id": identity_id, "user_id": caller.user.id})
                await addresses.list_providers(cursor, caller.user.id)
        except users.EmailTaken as exc:
            raise AuthError(
                422, "email_conflict_identity_not_deletable", "Unable to unlink identity due to email conflict"
            ) from exc
        return JSONResponse({})

    def _if_enabled(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            if not self._context.settings.security_manual_linking_enabled:
                raise AuthError(404, "manual_linking_disabled", "Manual linking is disabled")
            return await endpoint(request)

        return answering_errors(guarded)


def provider_not_enabled() -> AuthError:
    return invalid("Unsupported provider: provider is not enabled")
