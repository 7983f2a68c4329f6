"""Access tokens, and the session object that carries them.

An access token is an ES256 JWT with a key id, as a project with asymmetric signing keys issues them; whoever has
`/auth/v1/.well-known/jwks.json` can check one without asking us. It stays valid until `exp`: what ends at sign-out
is the session, which only this server asks for.
"""

from __future__ import annotations

import time
from typing import Any

from local.auth.sessions import Grant
from local.auth.users import AUDIENCE, User
from local.services import Services


def session_body(services: Services, user: User, grant: Grant) -> dict[str, Any]:
    """The reply to every sign-in and refresh. The official clients need each of these keys."""
    issued_at = int(time.time())
    lifetime = services.config.auth.jwt_exp
    claims = {
        "iss": services.config.auth_url,
        "sub": str(user.id),
        "aud": AUDIENCE,
        "exp": issued_at + lifetime,
        "iat": issued_at,
        "email": user.body["email"],
        "phone": user.body["phone"],
        "app_metadata": user.app_metadata,
        "user_metadata": user.user_metadata,
        "role": user.role,
        "aal": grant.session.aal,
        "amr": grant.session.amr,
        "session_id": str(grant.session.id),
        "is_anonymous": user.is_anonymous,
    }
    return {
        "access_token": services.keys.sign_jwt(claims),
        "token_type": "bearer",
        "expires_in": lifetime,
        "expires_at": issued_at + lifetime,
        "refresh_token": grant.refresh_token,
        "user": user.body,
    }
