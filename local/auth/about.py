"""What the auth server says of itself: health, settings, keys, and that it does not serve the rest."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.auth.errors import AuthError, answering_errors
from local.services import Services

JWKS_SECONDS = 600  # how long a verifier may keep the keys, as hosted Supabase says
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class About:
    """The endpoints that need no credentials at all."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/health", self.health, methods=["GET"]),
            Route(f"{prefix}/settings", self.settings, methods=["GET"]),
            Route(f"{prefix}/.well-known/jwks.json", self.jwks, methods=["GET"]),
            Route(f"{prefix}/{{path:path}}", answering_errors(self.not_served), methods=METHODS),
        ]

    async def health(self, _: Request) -> Response:
        return JSONResponse({"name": "GoTrue", "version": "local", "description": "The embedded Supabase's /auth/v1"})

    async def settings(self, _: Request) -> Response:
        """What a sign-in form asks before it draws itself."""
        return JSONResponse(
            {
                "external": {"anonymous_users": True, "email": True, "phone": False},
                "disable_signup": False,
                "mailer_autoconfirm": True,
                "phone_autoconfirm": False,
                "sms_provider": "",
                "saml_enabled": False,
            }
        )

    async def jwks(self, _: Request) -> Response:
        return JSONResponse(self._services.keys.jwks(), headers={"Cache-Control": f"public, max-age={JWKS_SECONDS}"})

    async def not_served(self, request: Request) -> Response:
        raise AuthError(404, "not_found", f"The embedded Supabase does not serve {request.method} {request.url.path}")
