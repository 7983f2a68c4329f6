"""A key is exchanged once a minute in a process, once at a time, and for nothing but what the one signer signed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from uuid import uuid4

import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from functions.api_key_exchange.signer import KeyHolder, Signer
from local.keys import ES256_JWK, Keys
from local.ports import listening
from local.serving import serving
from shared.api_keys import exchange
from shared.api_keys.exchange import KeyExchange
from shared.api_keys.key import new_key
from shared.auth import Verifier
from shared.errors import AppError, LimitExceeded, Unauthenticated, UpstreamBusy
from shared.settings import Settings, SettingsError
from tests.functions.programs import Owner
from tests.support.stack import Stack

HOLDER = KeyHolder(uuid4(), uuid4(), uuid4(), ("runs:read",), is_anonymous=False)


@dataclass
class Exchange:
    """An exchange that counts, and answers as told. While `gate` is closed it keeps its callers waiting."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    answer: Response | None = None
    seconds: int = 300
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: Request) -> Response:
        self.asked.append(request.headers["authorization"])
        self.came.set()
        await self.gate.wait()
        return self.answer or JSONResponse(
            {
                "access_token": f"token-{len(self.asked)}",
                "token_type": "bearer",
                "expires_in": self.seconds,
                "expires_at": 1,
                "scopes": [],
            }
        )

    def exchange(self) -> KeyExchange:
        return KeyExchange(Settings(self.url, publishable_keys=("sb_publishable_x",)))


@pytest.fixture
async def server() -> AsyncGenerator[Exchange]:
    it = Exchange()
    it.gate.set()
    app = Starlette(routes=[Route("/functions/v1/api-key-exchange", it.serve, methods=["POST"])])
    with listening("127.0.0.1", 0) as listener:
        it.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with serving(app, listener):
            yield it


async def test_a_minutes_calls_cost_one_exchange(server: Exchange):
    exchange, key = server.exchange(), new_key()

    tokens = [await exchange.token_for(key) for _ in range(5)]

    assert tokens == ["token-1"] * 5
    assert server.asked == [f"Bearer {key}"]


async def test_calls_at_once_share_an_exchange_and_one_that_leaves_does_not_end_it(server: Exchange):
    exchange, key = server.exchange(), new_key()
    server.gate.clear()
    calls = [asyncio.create_task(exchange.token_for(key)) for _ in range(20)]
    await server.came.wait()

    calls[0].cancel()
    server.gate.set()
    tokens = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(tokens[0], asyncio.CancelledError)
    assert tokens[1:] == ["token-1"] * 19
    assert len(server.asked) == 1


async def test_keys_do_not_share_tokens(server: Exchange):
    exchange = server.exchange()

    assert await exchange.token_for(new_key()) != await exchange.token_for(new_key())


async def test_a_token_that_ends_now_is_not_remembered(server: Exchange):
    exchange, key = server.exchange(), new_key()
    server.seconds = 0

    assert [await exchange.token_for(key) for _ in range(2)] == ["token-1", "token-2"]


async def test_what_is_remembered_is_bounded_and_the_longest_unused_goes(
    server: Exchange, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exchange, "MOST_REMEMBERED", 2)
    keys = [new_key() for _ in range(3)]
    remembering = server.exchange()

    for key in (keys[0], keys[1], keys[0], keys[2]):
        await remembering.token_for(key)
    asked = len(server.asked)
    again = [await remembering.token_for(key) for key in (keys[0], keys[2])]
    await remembering.token_for(keys[1])

    assert (asked, again, len(server.asked)) == (3, ["token-1", "token-3"], 4)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (JSONResponse({"code": "unauthenticated", "message": "x"}, 401), Unauthenticated),
        (JSONResponse({}, 429), LimitExceeded),
        (JSONResponse({}, 500), UpstreamBusy),
        (Response("<html>", 502), UpstreamBusy),
        (JSONResponse({}, 200), AppError),
        (Response("nonsense", 200), AppError),
        (JSONResponse({}, 307, {"location": "http://127.0.0.1:1/"}), UpstreamBusy),
    ],
)
async def test_a_refusal_is_passed_on_and_not_remembered(server: Exchange, answer: Response, error: type[AppError]):
    exchange, key = server.exchange(), new_key()
    server.answer = answer

    with pytest.raises(error) as caught:
        await exchange.token_for(key)
    server.answer = None

    assert type(caught.value) is error
    assert key not in repr(caught.value.to_body())
    assert await exchange.token_for(key) == "token-2"


async def test_an_exchange_that_cannot_be_reached_is_busy():
    with listening("127.0.0.1", 0) as closed:
        port = closed.getsockname()[1]
    unreachable = KeyExchange(Settings(f"http://127.0.0.1:{port}", publishable_keys=("sb_publishable_x",)))

    with pytest.raises(UpstreamBusy):
        await unreachable.token_for(new_key())


async def test_a_typo_asks_nobody(server: Exchange):
    with pytest.raises(Unauthenticated, match="typo"):
        await server.exchange().token_for(new_key()[:-6] + "000000")

    assert server.asked == []


async def test_functions_that_run_elsewhere_are_asked_there(server: Exchange):
    settings = Settings(
        "https://abc.supabase.co",
        publishable_keys=("sb_publishable_x",),
        own_functions_url=f"{server.url}/functions/v1",
    )

    assert await KeyExchange(settings).token_for(new_key()) == "token-1"


async def test_what_the_exchange_answers_is_verified_like_any_token(server: Exchange):
    verifier = Verifier(Settings(server.url, publishable_keys=("sb_publishable_x",), jwks=Keys().jwks()))

    with pytest.raises(Unauthenticated):
        await verifier.user({"authorization": f"Bearer {new_key()}"})


async def test_the_token_has_supabases_claims_and_five_minutes(key_owner: Owner, stack: Stack):
    program = await key_owner.make(["runs:write", "runs:read"])

    answer = (await program.exchange()).json()

    claims = stack.keys.verify_jwt(answer["access_token"])
    assert answer["expires_in"] == claims["exp"] - claims["iat"] == 300
    assert answer["expires_at"] == claims["exp"]
    assert (claims["iss"], claims["aud"], claims["role"]) == (stack.config.auth_url, "authenticated", "authenticated")
    assert (claims["sub"], claims["api_key_id"]) == (key_owner.person.user_id, program.id)
    assert claims["scopes"] == answer["scopes"] == ["runs:read", "runs:write"]


async def test_a_persons_token_and_no_key_are_not_exchanged(key_owner: Owner, http, stack: Stack):
    for headers in ({}, {"apikey": stack.anon_key}, key_owner.visitor.headers):
        answer = await http.post("/functions/v1/api-key-exchange", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_a_token_is_good_for_functions_too(key_owner: Owner):
    token = await (await key_owner.make(["runs:read"])).token()

    assert (await key_owner.visit(token).post("agent-status")).status_code == 200


@pytest.mark.parametrize("claim", ["api_key_id", "session_id", "sub"])
async def test_claims_that_do_not_fit_each_other_do_nothing(key_owner: Owner, stack: Stack, claim: str):
    """Non-vacuous: the same claims unchanged read the account."""
    claims = stack.keys.verify_jwt(await (await key_owner.make()).token())
    stranger = await stack.sign_up()
    other = stranger.user_id if claim == "sub" else str(uuid4())

    async def accounts(claims: dict[str, object]) -> int:
        client = await stack.client()
        client.postgrest.auth(stack.keys.sign_jwt(claims))
        return len((await client.postgrest.from_("accounts").select("id").execute()).data)

    assert (await accounts(claims), await accounts({**claims, claim: other})) == (1, 0)


def test_a_legacy_project_signs_with_its_secret():
    secret = "a-legacy-secret-of-at-least-32-characters"
    token, _ = Signer.from_environment({"SUPABASE_JWT_SECRET": secret}).sign(HOLDER, issuer="me", seconds=60)

    claims = jwt.decode(token, secret, algorithms=["HS256"], audience="authenticated")
    assert claims["exp"] - claims["iat"] == 60
    assert "kid" not in jwt.get_unverified_header(token)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "RUNBASE_JWT_SIGNING_KEY is missing, and has no default."),
        ({"SUPABASE_JWT_SECRET": "short"}, "SUPABASE_JWT_SECRET is shorter than 32 characters."),
        ({"RUNBASE_JWT_SIGNING_KEY": "nonsense"}, "not an elliptic P-256 key as a JWK"),
        ({"RUNBASE_JWT_SIGNING_KEY": "[]"}, "not an elliptic P-256 key as a JWK"),
        ({"RUNBASE_JWT_SIGNING_KEY": json.dumps({"kty": "oct", "k": "AAAA"})}, "not an elliptic P-256 key as a JWK"),
        ({"RUNBASE_JWT_SIGNING_KEY": json.dumps(Keys().jwks()["keys"][0])}, "cannot sign"),
        (
            {"RUNBASE_JWT_SIGNING_KEY": json.dumps({k: v for k, v in ES256_JWK.items() if k != "kid"})},
            "RUNBASE_JWT_SIGNING_KEY has no kid",
        ),
    ],
)
def test_a_key_that_cannot_sign_is_told_by_name(environment: dict[str, str], message: str):
    with pytest.raises(SettingsError) as caught:
        Signer.from_environment(environment)

    assert message in str(caught.value)
    assert caught.value.__cause__ is None


async def test_without_a_signing_key_the_exchange_says_so_and_nothing_more(
    key_owner: Owner, monkeypatch: pytest.MonkeyPatch
):
    program = await key_owner.make()
    monkeypatch.delenv("RUNBASE_JWT_SIGNING_KEY")
    monkeypatch.delenv("SUPABASE_JWT_SECRET", raising=False)

    answer = await program.exchange()

    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert (await program.visitor.post("agent-status")).status_code == 502


def test_a_signer_does_not_show_its_key():
    signer = Signer.from_environment({"SUPABASE_JWT_SECRET": "x" * 40})

    assert "xxxx" not in repr(signer)
