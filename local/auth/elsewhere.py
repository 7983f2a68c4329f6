"""What needs somebody else: outside providers, SSO, the OAuth server that others would sign in by.

None is there, and GoTrue's own codes say so, as in a project that has them switched off.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth.about import METHODS
from local.auth.bodies import IdTokenGrant
from local.auth.caller import admin_only
from local.auth.context import AuthContext
from local.auth.errors import AuthError, answering_errors, invalid
from local.auth.identities import provider_not_enabled

_ISSUERS = {
    "apple": "https://appleid.apple.com",
    "facebook": "https://www.facebook.com",
    "google": "https://accounts.google.com",
    "kakao": "https://kauth.kakao.com",
}


class Elsewhere:
    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        keys, admin = self._context.services.keys, f"{prefix}/admin"
        return [
            Route(f"{prefix}/authorize", answering_errors(self.authorize), methods=["GET"]),
            Route(f"{prefix}/sso", answering_errors(self.sso), methods=["POST"]),
            Route(f"{admin}/sso/providers", admin_only(keys, self.no_sso_providers), methods=["GET"]),
            Route(f"{admin}/oauth/clients{{rest:path}}", admin_only(keys, self.oauth_server), methods=METHODS),
            Route(f"{admin}/custom-providers{{rest:path}}", admin_only(keys, self.custom_providers), methods=METHODS),
            Route(f"{prefix}/oauth/{{rest:path}}", answering_errors(self.oauth_server), methods=METHODS),
        ]

    async def authorize(self, request: Request) -> Response:
        del request
        raise provider_not_enabled()

    async def sso(self, request: Request) -> Response:
        del request
        raise AuthError(404, "saml_provider_disabled", "SAML 2.0 is disabled")

    async def no_sso_providers(self, request: Request) -> Response:
        del request
        return JSONResponse({"items": []})

    async def oauth_server(self, request: Request) -> Response:
        del request
        raise AuthError(404, "feature_disabled", "OAuth server is disabled")

    async def custom_providers(self, request: Request) -> Response:
        del request
        raise AuthError(404, "feature_disabled", "Custom OAuth providers are disabled")


def id_token_refusal(body: IdTokenGrant) -> AuthError:
    """Why nobody signs in by the ID token of another provider."""
    if body.id_token is None:
        return invalid("id_token required")
    if body.provider is None and (body.client_id is None or body.issuer is None):
        return invalid("provider or client_id and issuer required")
    issuer = body.issuer if body.issuer in _ISSUERS.values() else _ISSUERS.get(body.provider or "")
    if issuer is None:
        return invalid(f'Custom OIDC provider "{body.provider or ""}" not allowed')
    return AuthError(400, "provider_disabled", f'Provider (issuer "{issuer}") is not enabled')


def web3_refusal() -> AuthError:
    return AuthError(422, "web3_provider_disabled", "Web3 provider is disabled")
