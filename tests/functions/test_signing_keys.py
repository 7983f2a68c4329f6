"""The verifier finds keys where a project keeps them, follows a rotation, and lets no forger make it fetch."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from local.ports import listening
from local.serving import serving
from shared.auth import Verifier
from shared.errors import Unauthenticated, UpstreamBusy
from shared.settings import Settings

SECRET = "a-legacy-secret-of-at-least-32-characters"


class SigningKey:
    """A key of an auth server: ES256, or RS256 if asked."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.kid, self.algorithm = str(uuid4()), algorithm
        self._private: Any
        if algorithm == "ES256":
            self._private = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        else:
            self._private = rsa.generate_private_key(65537, 2048)
            public = RSAAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        self.jwk = {**public, "kid": self.kid, "alg": algorithm, "use": "sig"}

    def sign(self, claims: dict[str, Any]) -> dict[str, str]:
        """Headers of a request with the signed token."""
        token = jwt.encode(claims, self._private, algorithm=self.algorithm, headers={"kid": self.kid})
        return {"authorization": f"Bearer {token}"}


@dataclass
class AuthServer:
    """A project's key set, and how often it was asked for."""

    keys: list[SigningKey] = field(default_factory=list)
    asked: int = 0
    url: str = ""

    async def jwks(self, _request: object) -> JSONResponse:
        self.asked += 1
        return JSONResponse({"keys": [key.jwk for key in self.keys]})

    def claims(self) -> dict[str, Any]:
        return {
            "iss": f"{self.url}/auth/v1", "sub": str(uuid4()), "aud": "authenticated", "role": "authenticated",
            "exp": int(time.time()) + 60,
        }  # fmt: skip


@asynccontextmanager
async def auth_server(*keys: SigningKey) -> AsyncGenerator[AuthServer]:
    server = AuthServer(list(keys))
    with listening("127.0.0.1", 0) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = Starlette(routes=[Route("/auth/v1/.well-known/jwks.json", server.jwks)])
        async with serving(app, listener):
            yield server


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_keys_are_fetched_once_from_the_project(algorithm: str):
    key = SigningKey(algorithm)
    async with auth_server(key) as server:
        verifier = Verifier(Settings(server.url))

        callers = [await verifier.user(key.sign(server.claims())) for _ in range(3)]

    assert len({caller.user_id for caller in callers}) == 3
    assert server.asked == 1


async def test_a_rotated_key_is_fetched_where_the_environment_has_the_old_one():
    old, new = SigningKey(), SigningKey()
    async with auth_server(old, new) as server:
        verifier = Verifier(Settings(server.url, jwks=json.loads(json.dumps({"keys": [old.jwk]}))))

        await verifier.user(old.sign(server.claims()))
        asked_before = server.asked
        await verifier.user(new.sign(server.claims()))
        await verifier.user(old.sign(server.claims()))

    assert (asked_before, server.asked) == (0, 1)


async def test_unknown_keys_do_not_make_the_verifier_fetch_again_and_again():
    key = SigningKey()
    async with auth_server(key) as server:
        verifier = Verifier(Settings(server.url))
        await verifier.user(key.sign(server.claims()))

        for _ in range(5):
            with pytest.raises(Unauthenticated):
                await verifier.user(SigningKey().sign(server.claims()))

    assert server.asked == 1


async def test_a_project_that_does_not_answer_is_busy_and_not_the_callers_fault():
    with listening("127.0.0.1", 0) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    server = AuthServer(url=url)

    with pytest.raises(UpstreamBusy) as refusal:
        await Verifier(Settings(url)).user(SigningKey().sign(server.claims()))

    assert refusal.value.retryable


async def test_a_key_signs_only_with_the_algorithm_it_was_made_for():
    key = SigningKey()
    lying = {**key.jwk, "alg": "RS256"}
    server = AuthServer(url="http://127.0.0.1:9")
    verifier = Verifier(Settings(server.url, jwks={"keys": [lying, SigningKey().jwk]}))

    with pytest.raises(Unauthenticated):
        await verifier.user(key.sign(server.claims()))


async def test_a_symmetric_key_in_the_set_is_no_key():
    server = AuthServer(url="http://127.0.0.1:9")
    published = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}
    token = jwt.encode(
        server.claims(), "secret-secret-secret-secret-secret", algorithm="HS256", headers={"kid": "shared"}
    )
    verifier = Verifier(Settings(server.url, jwks={"keys": [published, SigningKey().jwk]}))

    with pytest.raises(Unauthenticated):
        await verifier.user({"authorization": f"Bearer {token}"})


async def test_legacy_tokens_are_taken_only_where_their_secret_is_configured():
    server = AuthServer(url="http://127.0.0.1:9")
    headers = {"authorization": f"Bearer {jwt.encode(server.claims(), SECRET, algorithm='HS256')}"}

    assert (await Verifier(Settings(server.url, jwt_secret=SECRET)).user(headers)).is_anonymous is False
    with pytest.raises(Unauthenticated):
        await Verifier(Settings(server.url, jwks={"keys": [SigningKey().jwk]})).user(headers)
