"""Who may call: only a signed-in user of this project, and the service where services belong."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from local.keys import ES256_JWK, Keys
from tests.functions.visitor import Visitor
from tests.support.stack import Stack

USER = UUID("6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01")
FUNCTIONS = [
    ("POST", "agent-execute"), ("POST", "agent-status"), ("GET", "agent-status"), ("GET", "agent-logs"),
    ("POST", "queue-drain"),
]  # fmt: skip
USER_FUNCTIONS = FUNCTIONS[:-1]


def claims(stack: Stack, **changes: object) -> dict[str, object]:
    now = int(time.time())
    good = {
        "iss": stack.config.auth_url, "sub": str(USER), "aud": "authenticated", "role": "authenticated",
        "iat": now, "exp": now + 600,
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


@pytest.mark.parametrize(("method", "slug"), FUNCTIONS)
async def test_without_a_token_nobody_is_served(http, method: str, slug: str):
    response = await http.request(method, f"/functions/v1/{slug}")

    assert response.status_code == 401
    assert response.json()["code"] == "unauthenticated"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "slug"), USER_FUNCTIONS)
async def test_the_public_key_signs_nobody_in(http, stack: Stack, method: str, slug: str):
    response = await http.request(method, f"/functions/v1/{slug}", headers={"apikey": stack.anon_key})

    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(("method", "slug"), USER_FUNCTIONS)
@pytest.mark.parametrize("form", ["apikey", "bearer", "legacy"])
async def test_a_service_key_is_refused_where_users_belong(http, stack: Stack, method: str, slug: str, form: str):
    headers = {
        "apikey": {"apikey": stack.service_key},
        "bearer": {"Authorization": f"Bearer {stack.service_key}", "apikey": stack.service_key},
        "legacy": {"Authorization": f"Bearer {stack.keys.service_role_key}"},
    }[form]

    response = await http.request(method, f"/functions/v1/{slug}", headers=headers)

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_a_service_token_signed_as_users_tokens_are_is_refused(stack: Stack, visitor: Callable[[str], Visitor]):
    token = stack.keys.sign_jwt(claims(stack, role="service_role"))

    assert (await visitor(token).post("agent-status")).status_code == 403


async def test_a_good_token_is_served(stack: Stack, visitor: Callable[[str], Visitor]):
    response = await visitor(stack.keys.sign_jwt(claims(stack))).post("agent-status")

    assert (response.status_code, response.json()) == (200, {"runs": [], "next_cursor": None})


async def test_a_token_that_outlived_its_user_creates_nothing(stack: Stack, visitor: Callable[[str], Visitor]):
    person = await stack.sign_up()
    await (await stack.client(stack.service_key)).auth.admin.delete_user(person.user_id)

    assert await refusal(visitor, person.access_token) == "The user of this token no longer exists"


async def refusal(visitor: Callable[[str], Visitor], token: str) -> str:
    response = await visitor(token).post("agent-execute", {"action": "create", "prompt": "hello"})
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    return response.json()["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": 1_600_000_000}, "The access token has expired"),
        ({"iss": "https://other.supabase.co/auth/v1"}, "The access token was issued by another project"),
        ({"aud": "anon"}, "The access token is not meant for signed-in users"),
        ({"role": "anon"}, "The token's role is 'anon'; only a signed-in user may call this endpoint"),
        ({"sub": "root"}, "The access token's subject is not a user id"),
        ({"sub": None}, "The access token has no 'sub' claim"),
        ({"exp": None}, "The access token has no 'exp' claim"),
        ({"role": None}, "The access token has no 'role' claim"),
        ({"nbf": 4_000_000_000}, "The access token is not valid now"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(
    stack: Stack, visitor: Callable[[str], Visitor], changes: dict[str, object], message: str
):
    assert await refusal(visitor, stack.keys.sign_jwt(claims(stack, **changes))) == message


async def test_a_token_without_signature_is_refused(stack: Stack, visitor: Callable[[str], Visitor]):
    token = jwt.encode(claims(stack), None, algorithm="none", headers={"kid": ES256_JWK["kid"]})

    assert await refusal(visitor, token) == "The access token is signed in a way that this project does not use"


async def test_a_token_of_a_foreign_key_is_refused(stack: Stack, visitor: Callable[[str], Visitor]):
    token = jwt.encode(
        claims(stack), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": ES256_JWK["kid"]}
    )

    assert await refusal(visitor, token) == "The access token's signature is wrong"


async def test_a_token_of_an_unknown_key_is_refused(stack: Stack, visitor: Callable[[str], Visitor]):
    token = jwt.encode(
        claims(stack), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": str(uuid4())}
    )

    assert await refusal(visitor, token) == "The access token is signed with a key that is not this project's"


async def test_the_algorithm_does_not_pick_the_key(stack: Stack, visitor: Callable[[str], Visitor]):
    """The classic forgery: HS256 with the published key as secret."""
    token = Keys(jwt_secret=ES256_JWK["x"]).sign_legacy_jwt(claims(stack))

    assert await refusal(visitor, token) == "The access token is signed in a way that this project does not use"


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "x" * 20_000])
async def test_what_is_no_token_is_refused(visitor: Callable[[str], Visitor], token: str):
    assert "bearer token is" in await refusal(visitor, token)


async def test_a_user_may_not_drain_the_queue(owner: Visitor):
    response = await owner.post("queue-drain")

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("key", ["sb_secret_wrong", "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"])
async def test_another_key_may_not_drain_the_queue(http, key: str):
    assert (await http.post("/functions/v1/queue-drain", headers={"apikey": key})).status_code == 403


async def test_another_users_run_is_empty_by_plain_rest(stack: Stack, owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]
    other = await stack.sign_up()

    for table in ("agent_runs", "agent_steps", "agent_messages", "agent_artifacts", "agent_task_logs", "agent_plans"):
        column = "id" if table == "agent_runs" else "run_id"
        assert (await other.client.table(table).select("*").eq(column, run_id).execute()).data == []
