"""Who calls: a signed-in user by a JWT of the project's auth server, a program by a user's API key, or a service by a
secret key.

A token is checked against the key its `kid` names, with the algorithm that key was made for; the token's own `alg`
never picks the key. `anon` and `service_role` tokens are validly signed too, so the role is checked as well. What a
local check cannot see is a sign-out: a token stays good until it expires. An API key is exchanged for a token first,
and then nothing here differs but the scopes that the token names; the database has the last word on those.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from uuid import UUID

import httpx
import jwt

from shared.api_keys.exchange import KeyExchange
from shared.api_keys.key import PREFIX, is_api_key
from shared.api_keys.scopes import Scope
from shared.connections import http_client
from shared.errors import Forbidden, Unauthenticated, UpstreamBusy
from shared.logs import Log
from shared.settings import Settings

CLOCK_SKEW_SECONDS = 30  # PostgREST's allowance on exp, nbf and iat
JWKS_SECONDS = 600  # Supabase's edge caches the key set as long
JWKS_RETRY_SECONDS = 30  # an unknown kid may cause one fetch in this time: anybody can invent kids
MAX_TOKEN_CHARS = 16_384

_ALGORITHM_OF = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
_REQUIRED = ("exp", "sub", "iss", "aud", "role")

_log = Log(__name__)

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in user. `token` is passed on to Postgres, which decides what the user may do.

    Attributes:
        scopes: What the user's API key may do, if it is one that calls; None for the user's own session, which may all.
    """

    user_id: UUID
    token: str = field(repr=False)
    is_anonymous: bool = False
    scopes: frozenset[str] | None = None

    def require_scope(self, scope: Scope) -> None:
        """Say plainly what the database would hide: without the scope it shows an empty list.

        Raises:
            Forbidden: an API key calls that lacks the scope.
        """
        if self.scopes is not None and scope not in self.scopes:
            raise Forbidden(
                f"The API key lacks the scope {scope}",
                hint="A key keeps the scopes it was made with: create one that has it.",
            )

    def require_session(self) -> None:
        """Keep API keys from what only people do.

        Raises:
            Forbidden: an API key calls.
        """
        if self.scopes is not None:
            raise Forbidden("An API key cannot do this", hint="Sign in, and do it yourself.")


@lru_cache(maxsize=4)
def verifier_for(settings: Settings) -> Verifier:
    """The verifier of these settings; one a process, because it caches the key set."""
    return Verifier(settings)


class Verifier:
    """Checks tokens and keys of one project."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = _public_keys(settings.jwks) if settings.jwks else {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._exchange = KeyExchange(settings)

    async def user(self, headers: Mapping[str, str]) -> Caller:
        """The user whose access token or API key `Authorization: Bearer` carries; an API key may also be the `apikey`.

        Raises:
            Unauthenticated: no token, or one that proves no signed-in user; an API key that is not valid.
            Forbidden: a service's key or token, which no user endpoint takes.
            LimitExceeded: an API key is exchanged too often.
            UpstreamBusy: the project's key set cannot be fetched, or API keys cannot be exchanged.
        """
        key = api_key_of(headers)
        token = _bearer(headers) if key is None else await self._exchange.token_for(key)
        if token is None:
            raise Unauthenticated(
                "No user is signed in: the Authorization header carries no bearer token",
                hint="Send Authorization: Bearer <access token of the session>",
            )
        self._refuse_keys(token)
        claims = await self._claims(token)
        role = claims["role"]
        if role == "service_role":
            raise Forbidden("This endpoint acts for a signed-in user; a service token is none")
        if role != "authenticated":
            raise Unauthenticated(f"The token's role is {role!r}; only a signed-in user may call this endpoint")
        return Caller(_user_id(claims), token, claims.get("is_anonymous") is True, _scopes(claims))

    def service(self, headers: Mapping[str, str]) -> None:
        """Check that a secret key is presented, as `apikey` or bearer.

        Raises:
            Unauthenticated: no key or token at all.
            Forbidden: anything but one of the project's secret keys.
        """
        presented = [value for value in (headers.get("apikey"), _bearer(headers)) if value]
        if not presented:
            raise Unauthenticated("This endpoint takes the project's secret key as apikey; none was sent")
        if not any(_same(value, key) for value in presented for key in self._settings.secret_keys):
            raise Forbidden("This endpoint takes the project's secret key only")

    def _refuse_keys(self, token: str) -> None:
        """Say what is wrong when an API key stands where a user's token belongs."""
        if any(_same(token, key) for key in self._settings.secret_keys) or token.startswith("sb_secret_"):
            raise Forbidden("This endpoint acts for a signed-in user; a secret key is none")
        if any(_same(token, key) for key in self._settings.publishable_keys) or token.startswith("sb_"):
            raise Unauthenticated(
                "No user is signed in: the bearer token is the project's public API key",
                hint="Sign in; the client then sends the session's access token",
            )

    async def _claims(self, token: str) -> Claims:
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("The bearer token is too long to be an access token")
        try:
            key, algorithm = await self._key_for(jwt.get_unverified_header(token))
            return cast(
                "Claims",
                jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience="authenticated",
                    issuer=self._settings.issuer,
                    leeway=CLOCK_SKEW_SECONDS,
                    options={"require": list(_REQUIRED)},
                ),
            )
        except jwt.ExpiredSignatureError as exc:
            raise Unauthenticated("The access token has expired", hint="Refresh the session") from exc
        except jwt.InvalidSignatureError as exc:
            raise Unauthenticated("The access token's signature is wrong") from exc
        except jwt.InvalidIssuerError as exc:
            raise Unauthenticated("The access token was issued by another project") from exc
        except jwt.MissingRequiredClaimError as exc:
            raise Unauthenticated(f"The access token has no {exc.claim!r} claim") from exc
        except jwt.InvalidAudienceError as exc:
            raise Unauthenticated("The access token is not meant for signed-in users") from exc
        except jwt.DecodeError as exc:
            raise Unauthenticated("The bearer token is not a JWT") from exc
        except jwt.InvalidTokenError as exc:
            raise Unauthenticated("The access token is not valid now") from exc

    async def _key_for(self, header: Mapping[str, object]) -> tuple[jwt.PyJWK | str, str]:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == "HS256" and kid is None and self._settings.jwt_secret:
            return self._settings.jwt_secret, "HS256"
        if algorithm not in _ALGORITHM_OF.values() or not isinstance(kid, str):
            raise Unauthenticated("The access token is signed in a way that this project does not use")
        if kid not in self._keys or self._is_stale():
            await self._refresh()
        key = self._keys.get(kid)
        if key is None or key.algorithm_name != algorithm:
            raise Unauthenticated("The access token is signed with a key that is not this project's")
        return key, key.algorithm_name

    def _is_stale(self) -> bool:
        """Whether fetched keys are due again. Keys from the environment are a deployment's own and stay."""
        return self._settings.jwks is None and time.monotonic() - self._fetched_at > JWKS_SECONDS

    async def _refresh(self) -> None:
        now = time.monotonic()
        if self._keys and now - self._tried_at < JWKS_RETRY_SECONDS:
            return
        self._tried_at = now
        try:
            response = await http_client().get(self._settings.jwks_url)
            response.raise_for_status()
            fetched = _public_keys(response.json())
        except (httpx.HTTPError, ValueError) as exc:
            _log.warning("auth.keys_not_fetched", error=type(exc).__name__)
            if not self._keys:
                raise UpstreamBusy("The auth server's signing keys cannot be fetched now") from exc
            return  # the keys we have still verify what they signed
        given = _public_keys(self._settings.jwks) if self._settings.jwks else {}
        self._keys = {**given, **fetched}
        self._fetched_at = now


def _public_keys(jwks: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """The usable keys by id: elliptic P-256 and RSA, never a symmetric one."""
    keys: dict[str, jwt.PyJWK] = {}
    for jwk in jwks.get("keys") or ():
        algorithm = _ALGORITHM_OF.get((jwk.get("kty"), jwk.get("crv")))
        if algorithm and jwk.get("alg", algorithm) == algorithm and isinstance(jwk.get("kid"), str):
            try:
                keys[jwk["kid"]] = jwt.PyJWK(jwk, algorithm=algorithm)
            except jwt.PyJWKError:
                _log.warning("auth.key_not_usable", kid=jwk["kid"])
    return keys


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


def api_key_of(headers: Mapping[str, str]) -> str | None:
    """The API key that a request presents, if it does. A user's own token goes before an `apikey`."""
    bearer, apikey = _bearer(headers), headers.get("apikey", "").strip()
    if bearer is not None and is_api_key(bearer):
        return bearer
    # The official clients repeat their public key as bearer.
    if is_api_key(apikey) and (bearer is None or bearer.startswith("sb_publishable_")):
        return apikey
    return None


def refuse_keys_in_url(query: bytes) -> None:
    """Refuse a request whose query string holds an API key: proxies and servers write URLs to their logs.

    Raises:
        Unauthenticated: it does.
    """
    if PREFIX.encode() in unquote_to_bytes(query):
        raise Unauthenticated(
            "An API key must not stand in a URL, which logs keep",
            hint="Send it as Authorization: Bearer, and rotate this one",
        )


def _scopes(claims: Claims) -> frozenset[str] | None:
    if "api_key_id" not in claims:
        return None
    scopes: object = claims.get("scopes")
    return frozenset(map(str, cast("list[object]", scopes))) if isinstance(scopes, list) else frozenset()


def _user_id(claims: Claims) -> UUID:
    try:
        return UUID(claims["sub"])
    except ValueError as exc:
        raise Unauthenticated("The access token's subject is not a user id") from exc


def _same(presented: str, key: str) -> bool:
    return hmac.compare_digest(presented.encode(), key.encode())
