"""What the auth server says of itself: health, settings, keys, and that it does not serve the rest."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth.context import AuthContext
from local.auth.errors import AuthError, answering_errors

JWKS_SECONDS = 600  # how long a verifier may keep the keys, as hosted Supabase says
DESCRIPTION = "GoTrue is a user registration and authentication API"
OUTSIDE_PROVIDERS = (
    "apple", "azure", "bitbucket", "discord", "facebook", "figma", "fly", "github", "gitlab", "google", "kakao",
    "keycloak", "linkedin", "linkedin_oidc", "notion", "slack", "slack_oidc", "snapchat", "spotify", "twitch",
    "twitter", "workos", "x", "zoom",
)  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class About:
    """The endpoints that need no credentials at all."""

    def __init__(self, context: AuthContext) -> None:
        self._context = context

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/health", self.health, methods=["GET"]),
            Route(f"{prefix}/settings", self.settings, methods=["GET"]),
            Route(f"{prefix}/.well-known/jwks.json", self.jwks, methods=["GET"]),
            Route(f"{prefix}/.well-known/openid-configuration", self.discovery, methods=["GET"]),
            Route(f"{prefix}/{{path:path}}", answering_errors(self.not_served), methods=METHODS),
        ]

    async def health(self, _: Request) -> Response:
        return JSONResponse({"name": "GoTrue", "version": "local", "description": DESCRIPTION})

    async def settings(self, _: Request) -> Response:
        """What a sign-in form asks before it draws itself."""
        settings = self._context.settings
        return JSONResponse(
            {
                "external": {
                    **dict.fromkeys(OUTSIDE_PROVIDERS, False),
                    "anonymous_users": settings.external_anonymous_users_enabled,
                    "email": settings.external_email_enabled,
                    "phone": False,
                },
                "disable_signup": settings.disable_signup,
                "mailer_autoconfirm": settings.mailer_autoconfirm,
                "phone_autoconfirm": False,
                "sms_provider": "",
                "saml_enabled": False,
                "saml_private_key_next_configured": False,
                "passkeys_enabled": False,
            }
        )

    async def jwks(self, _: Request) -> Response:
        return _cached(self._context.services.keys.jwks())

    async def discovery(self, _: Request) -> Response:
        """Where a verifier that knows only the issuer finds the keys."""
        issuer = self._context.services.config.auth_url
        return _cached(
            {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/.well-known/jwks.json",
                "userinfo_endpoint": f"{issuer}/user",
                "token_endpoint": f"{issuer}/token",
                "authorization_endpoint": f"{issuer}/authorize",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def not_served(self, request: Request) -> Response:
        raise AuthError(404, "not_found", f"The embedded Supabase does not serve {request.method} {request.url.path}")


def _cached(body: object) -> Response:
    return JSONResponse(body, headers={"Cache-Control": f"public, max-age={JWKS_SECONDS}"})
