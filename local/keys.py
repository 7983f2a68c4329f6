"""The keys of a local stack: the Supabase CLI's published defaults, and the tokens made with them.

They are the same on every developer's machine and protect nothing; the gateway therefore only ever
listens on loopback. A token is checked with the key that its algorithm names, never the other way
round: ES256 by key id, HS256 by the legacy secret, and nothing else (`none` above all).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from jwt.algorithms import ECAlgorithm

Claims = dict[str, Any]
Refusal = Literal["malformed", "signature", "expired", "claims"]

CLOCK_SKEW_SECONDS = 30  # PostgREST's allowance on exp, nbf and iat
LEGACY_KEY_EXPIRES = 1983812996  # 2032-11-11, fixed so that the legacy keys are the same strings everywhere
ES256_JWK: Mapping[str, Any] = {
    "kty": "EC",
    "kid": "b81269f1-21d8-4f2e-b719-c2240a840d90",
    "use": "sig",
    "key_ops": ["sign", "verify"],
    "alg": "ES256",
    "ext": True,
    "crv": "P-256",
    "x": "M5Sjqn5zwC9Kl1zVfUUGvv9boQjCGd45G8sdopBExB4",
    "y": "P6IXMvA2WYXSHSOMTBH2jsw_9rrzGy89FjPf6oOsIxQ",
    "d": "dIhR8wywJlqlua4y_yMq2SLhlFXDZJBCvFrY1DCHyVU",
}


class InvalidToken(Exception):  # noqa: N818 - reads as what it says
    """The token proves nothing. `reason` says why; the message never repeats the token."""

    def __init__(self, reason: Refusal, message: str, *, expired_at: int = 0) -> None:
        super().__init__(message)
        self.reason: Refusal = reason
        self.expired_at = expired_at  # Unix time, of one that ended


@dataclass(frozen=True)
class Keys:
    """Sign, verify and swap the keys of one stack. The defaults are the CLI's."""

    publishable_key: str = "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"
    secret_key: str = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"
    jwt_secret: str = "super-secret-jwt-token-with-at-least-32-characters-long"

    @cached_property
    def anon_key(self) -> str:
        return self._legacy_key("anon")

    @cached_property
    def service_role_key(self) -> str:
        return self._legacy_key("service_role")

    def sign_jwt(self, claims: Mapping[str, Any]) -> str:
        """Sign with the ES256 key, as a project with asymmetric signing keys does."""
        return jwt.encode(dict(claims), self._private_key, algorithm="ES256", headers={"kid": ES256_JWK["kid"]})

    def sign_legacy_jwt(self, claims: Mapping[str, Any]) -> str:
        """Sign with the HS256 secret. Byte for byte what the CLI makes of the same claims."""
        body = ".".join(_segment(part) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        signature = hmac.new(self.jwt_secret.encode(), body.encode(), hashlib.sha256).digest()
        return f"{body}.{_base64url(signature)}"

    def verify_jwt(self, token: str, *, leeway_seconds: float = CLOCK_SKEW_SECONDS) -> Claims:
        """Return the claims of a token that one of our keys signed and that is valid now.

        The audience is not checked, and a clock may be off by `leeway_seconds`: each server has its own view of both.

        Raises:
            InvalidToken: anything else, with the reason.
        """
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = self._key_for(header)
            return jwt.decode(token, key, algorithms=[algorithm], leeway=leeway_seconds, options={"verify_aud": False})
        except jwt.ExpiredSignatureError as exc:
            ended: Claims = jwt.decode(token, options={"verify_signature": False})  # it was, just before
            raise InvalidToken("expired", "JWT expired", expired_at=int(ended["exp"])) from exc
        except jwt.InvalidSignatureError as exc:
            raise InvalidToken("signature", "JWT signature does not match") from exc
        except jwt.DecodeError as exc:
            raise InvalidToken("malformed", "JWT is malformed") from exc
        except jwt.InvalidTokenError as exc:
            raise InvalidToken("claims", "JWT claims are not valid now") from exc

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The public key set. The HS256 secret is never in it."""
        public = {name: value for name, value in ES256_JWK.items() if name != "d"}
        return {"keys": [{**public, "key_ops": ["verify"]}]}

    def token_of(self, apikey: str) -> str:
        """The JWT an API key stands for; a key that is none of ours is taken for a JWT itself."""
        if hmac.compare_digest(apikey.encode(), self.publishable_key.encode()):
            return self.anon_key
        if hmac.compare_digest(apikey.encode(), self.secret_key.encode()):
            return self.service_role_key
        return apikey

    def authorization_for(self, apikey: str | None, authorization: str | None) -> str | None:
        """The Authorization header that the servers behind the gateway see.

        A user's token always wins. The official clients repeat their `sb_` key as bearer, which no
        server behind the gateway understands, so that one is replaced by the key's JWT.
        """
        if authorization and not authorization.startswith("Bearer sb_"):
            return authorization
        if apikey:
            return f"Bearer {self.token_of(apikey)}"
        return authorization

    def _legacy_key(self, role: str) -> str:
        return self.sign_legacy_jwt({"iss": "supabase-demo", "role": role, "exp": LEGACY_KEY_EXPIRES})

    def _key_for(self, header: Mapping[str, Any]) -> tuple[EllipticCurvePublicKey | str, str]:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == "ES256" and kid in {None, ES256_JWK["kid"]}:
            return self._private_key.public_key(), "ES256"
        if algorithm == "HS256" and kid is None:
            return self.jwt_secret, "HS256"
        raise InvalidToken("signature", "No suitable key was found to verify the JWT")

    @cached_property
    def _private_key(self) -> EllipticCurvePrivateKey:
        key = ECAlgorithm(ECAlgorithm.SHA256).from_jwk(dict(ES256_JWK))
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError("the signing JWK has no private part")
        return key


def claims_text(claims: Mapping[str, Any]) -> str:
    """The claims as JSON, for `request.jwt.claims`, the same for equal claims. Numbers may be beyond 64 bits, as
    those in a user's metadata are.
    """
    return json.dumps(claims, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _segment(part: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(part, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
