"""Signs users' tokens, with the key that the project's auth server and PostgREST verify them by.

The only code that holds this key. It signs one kind of token: role `authenticated`, five minutes at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, cast
from uuid import UUID

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from shared.settings import SettingsError

TOKEN_SECONDS: Final = 300
SIGNING_KEY: Final = "RUNBASE_JWT_SIGNING_KEY"
LEGACY_SECRET: Final = "SUPABASE_JWT_SECRET"
_LEAST_SECRET_CHARS: Final = 32  # as long as the digest of HS256; PyJWT only warns of less


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The person an API key stands for, and what the key may do."""

    user_id: UUID
    api_key_id: UUID
    secret_id: UUID
    scopes: tuple[str, ...]
    is_anonymous: bool


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with one key: ES256 with its key id, or HS256 with a project's legacy secret."""

    algorithm: str
    key: Any = field(repr=False)
    kid: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Signer:
        """Read the private JWK, or else the legacy secret.

        Raises:
            SettingsError: there is neither, or it cannot sign. The message holds nothing of it.
        """
        if jwk := environment.get(SIGNING_KEY):
            return cls("ES256", *_private_key(jwk))
        secret = environment.get(LEGACY_SECRET, "")
        if not secret:
            raise SettingsError(f"{SIGNING_KEY} is missing, and has no default.")
        if len(secret) < _LEAST_SECRET_CHARS:
            raise SettingsError(f"{LEGACY_SECRET} is shorter than {_LEAST_SECRET_CHARS} characters.")
        return cls("HS256", secret)

    def sign(self, holder: KeyHolder, *, issuer: str, seconds: int) -> tuple[str, int]:
        """A token for `seconds`, five minutes at most, and when it expires.

        It names no session of the auth server: where one belongs stands the secret, so that the auth server refuses the
        token (session_not_found) and no key can change its owner's password or mail address.
        """
        now = int(time.time())
        expires_at = now + min(seconds, TOKEN_SECONDS)
        claims: dict[str, Any] = {
            "iss": issuer,
            "sub": str(holder.user_id),
            "aud": "authenticated",
            "role": "authenticated",
            "iat": now,
            "exp": expires_at,
            "aal": "aal1",
            "amr": [{"method": "api_key", "timestamp": now}],
            "session_id": str(holder.secret_id),
            "is_anonymous": holder.is_anonymous,
            "api_key_id": str(holder.api_key_id),
            "scopes": list(holder.scopes),
        }
        headers = None if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers=headers), expires_at


def current_signer() -> Signer:
    """The process's signer, made again only if its variables have changed.

    Raises:
        SettingsError: as `Signer.from_environment`.
    """
    return _made(os.environ.get(SIGNING_KEY, ""), os.environ.get(LEGACY_SECRET, ""))


@lru_cache(maxsize=2)
def _made(jwk: str, secret: str) -> Signer:
    return Signer.from_environment({SIGNING_KEY: jwk, LEGACY_SECRET: secret})


def _private_key(text: str) -> tuple[EllipticCurvePrivateKey, str]:
    try:
        jwk = cast("dict[str, Any]", orjson.loads(text))
        key, kid = jwt.PyJWK(jwk, algorithm="ES256").key, jwk.get("kid")
    except (orjson.JSONDecodeError, jwt.PyJWTError, AttributeError, TypeError, ValueError):
        raise SettingsError(f"{SIGNING_KEY} is not an elliptic P-256 key as a JWK.") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise SettingsError(f"{SIGNING_KEY} has no private part, or not on P-256: it cannot sign.")
    if not isinstance(kid, str) or not kid:
        raise SettingsError(f"{SIGNING_KEY} has no kid, by which a token's key is found.")
    return key, kid
