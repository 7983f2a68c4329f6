"""What needs somebody else, or another device: outside providers, SSO, second factors.

None is there, and GoTrue's own codes say so, as in a project that has them switched off.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth.bodies import Enrollment, read, uuid_of
from local.auth.caller import admin_only, caller_of
from local.auth.context import AuthContext
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.identities import provider_not_enabled

_FACTORS = {"totp": "TOTP", "phone": "Phone", "webauthn": "WebAuthn"}


class Elsewhere:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        keys = self._context.services.keys
        return [
            Route(f"{prefix}/authorize", answering_errors(self.authorize), methods=["GET"]),
            Route(f"{prefix}/sso", answering_errors(self.sso), methods=["POST"]),
            Route(f"{prefix}/factors", answering_errors(self.enroll), methods=["POST"]),
            Route(
                f"{prefix}/factors/{{factor_id}}{{rest:path}}",
                answering_errors(self.factor),
                methods=["POST", "DELETE"],
            ),
            Route(f"{prefix}/admin/users/{{user_id}}/factors", admin_only(keys, self.list_factors), methods=["GET"]),
        ]

    async def authorize(self, request: Request) -> Response:
        del request
        raise provider_not_enabled()

    async def sso(self, request: Request) -> Response:
        del request
        raise AuthError(404, "saml_provider_disabled", "SAML 2.0 is disabled")

    async def enroll(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            await caller_of(request, self._context.services.keys, cursor)
        factor = (await read(request, Enrollment)).factor_type
        if factor not in _FACTORS:
            raise invalid("factor_type needs to be totp, phone, or webauthn")
        raise AuthError(422, f"mfa_{factor}_enroll_not_enabled", f"MFA enroll is disabled for {_FACTORS[factor]}")

    async def factor(self, request: Request) -> Response:
        async with self._context.transaction() as cursor:
            await caller_of(request, self._context.services.keys, cursor)
        raise AuthError(404, "mfa_factor_not_found", "MFA factor with that ID not found")

    async def list_factors(self, request: Request) -> Response:
        uuid_of(
            request.path_params["user_id"], otherwise=AuthError(404, "validation_failed", "user_id must be an UUID")
        )
        return JSONResponse([])
