"""`/auth/v1` as the official Python client sees it: sign up, sign in, refresh, change, sign out, administer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
import uvicorn
from starlette.applications import Starlette
from supabase import AsyncClient, AsyncClientOptions, ClientOptions, acreate_client, create_client
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError
from supabase_auth.types import Session

from local import auth
from local.config import StackConfig
from local.keys import Keys
from local.services import Services

PASSWORD = "correct horse"


@dataclass
class Running:
    url: str
    keys: Keys
    database_url: str


@pytest.fixture
def stack(database_url: str) -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = StackConfig(port=port)
    services = Services.of(config, database_url)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with services.lifespan():
            yield

    app = Starlette(routes=auth.build(services).routes, lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Running(config.api_url, services.keys, database_url)
    server.should_exit = True
    thread.join()


@pytest.fixture
async def supabase(stack) -> AsyncClient:
    """A client of its own, as one browser has."""
    return await new_client(stack)


@pytest.fixture
async def admin(stack) -> AsyncClient:
    return await new_client(stack, stack.keys.service_role_key)


async def new_client(stack, key: str | None = None) -> AsyncClient:
    # The refresh timer would outlive the test.
    options = AsyncClientOptions(auto_refresh_token=False)
    return await acreate_client(stack.url, key or stack.keys.anon_key, options)


def new_email() -> str:
    return f"{uuid4().hex[:12]}@example.com"


async def signed_up(client: AsyncClient, email: str | None = None, **data: Any) -> Session:
    answer = await client.auth.sign_up({"email": email or new_email(), "password": PASSWORD, "options": {"data": data}})
    assert answer.session
    return answer.session


def sql(stack, query: str, *params: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []


class TestSignUp:
    async def test_sign_up_answers_a_confirmed_user_with_a_session(self, supabase):
        session = await signed_up(supabase, "Ada@Example.com", nickname="ada")
        assert session.token_type == "bearer"
        assert session.expires_in == 3600
        assert session.expires_at == pytest.approx(time.time() + 3600, abs=60)
        user = session.user
        assert (user.email, user.role, user.aud) == ("ada@example.com", "authenticated", "authenticated")
        assert user.email_confirmed_at
        assert user.last_sign_in_at
        assert user.app_metadata == {"provider": "email", "providers": ["email"]}
        assert user.user_metadata["nickname"] == "ada"
        assert [identity.provider for identity in user.identities or []] == ["email"]
        assert not user.is_anonymous

    async def test_the_stored_password_is_a_bcrypt_hash(self, stack, supabase):
        session = await signed_up(supabase)
        ((stored,),) = sql(stack, "select encrypted_password from auth.users where id = %s", session.user.id)
        assert stored.startswith("$2b$")

    async def test_an_address_signs_up_once(self, stack, supabase):
        await signed_up(supabase, "ada@example.com")
        with pytest.raises(AuthApiError) as refused:
            await signed_up(await new_client(stack), "ADA@example.com")
        assert (refused.value.status, refused.value.code) == (422, "user_already_exists")

    async def test_of_many_signing_up_at_once_with_one_address_one_wins(self, stack):
        clients = [await new_client(stack) for _ in range(5)]
        email = new_email()
        outcomes = await asyncio.gather(*(signed_up(client, email) for client in clients), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, AuthApiError)]
        assert [error.code for error in refused] == ["user_already_exists"] * 4
        assert sql(stack, "select count(*) from auth.sessions") == [(1,)]

    async def test_a_short_password_is_weak(self, supabase):
        with pytest.raises(AuthWeakPasswordError) as refused:
            await supabase.auth.sign_up({"email": new_email(), "password": "12345"})
        assert refused.value.reasons == ["length"]

    async def test_an_anonymous_user_has_no_address_and_no_identity(self, supabase):
        answer = await supabase.auth.sign_in_anonymously({"options": {"data": {"theme": "dark"}}})
        assert answer.session
        user = answer.session.user
        assert user.is_anonymous
        assert (user.email, user.identities) == ("", [])
        assert user.user_metadata == {"theme": "dark"}
        claims = await supabase.auth.get_claims()
        assert claims
        assert claims["claims"]["is_anonymous"] is True

    async def test_an_anonymous_user_becomes_permanent_by_adding_an_address(self, stack, supabase):
        anonymous = await supabase.auth.sign_in_anonymously()
        email = new_email()
        await supabase.auth.update_user({"email": email, "password": PASSWORD})
        answer = await (await new_client(stack)).auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert answer.user
        assert anonymous.user
        assert answer.user.id == anonymous.user.id
        assert not answer.user.is_anonymous
        assert answer.user.app_metadata["provider"] == "email"

    async def test_a_trigger_that_needs_more_than_the_auth_role_has_fails_the_sign_up_as_hosted_does(
        self, stack, supabase
    ):
        sql(stack, "create table public.profiles (id uuid primary key)")
        sql(
            stack,
            "create function public.add_profile() returns trigger language plpgsql as"
            " $$ begin insert into public.profiles values (new.id); return new; end $$",
        )
        sql(
            stack,
            "create trigger add_profile after insert on auth.users for each row execute function public.add_profile()",
        )
        with pytest.raises(AuthApiError) as refused:
            await signed_up(supabase)
        assert (refused.value.status, refused.value.code) == (500, "unexpected_failure")
        assert sql(stack, "select count(*) from auth.users") == [(0,)]


class TestAccessToken:
    async def test_the_token_says_who_signed_in_and_how(self, stack, supabase):
        session = await signed_up(supabase)
        answer = await supabase.auth.get_claims()
        assert answer
        assert answer["headers"]["alg"] == "ES256"
        claims = answer["claims"]
        assert claims["iss"] == f"{stack.url}/auth/v1"
        assert claims["sub"] == session.user.id
        assert claims["aud"] == claims["role"] == "authenticated"
        assert claims["exp"] - claims["iat"] == 3600
        assert claims["aal"] == "aal1"
        assert [entry["method"] for entry in claims["amr"]] == ["password"]
        assert sql(stack, "select user_id::text from auth.sessions where id = %s", claims["session_id"]) == [
            (session.user.id,)
        ]

    async def test_anybody_can_verify_it_by_the_published_key(self, stack, supabase):
        session = await signed_up(supabase)
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{stack.url}/auth/v1/.well-known/jwks.json")
        assert answer.headers["cache-control"] == "public, max-age=600"
        key = jwt.PyJWK(answer.json()["keys"][0])
        assert "d" not in answer.json()["keys"][0]
        claims = jwt.decode(session.access_token, key, audience="authenticated")
        assert claims["sub"] == session.user.id


class TestSignIn:
    async def test_a_password_opens_another_session(self, stack, supabase):
        email = new_email()
        first = await signed_up(supabase, email)
        answer = await (await new_client(stack)).auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert answer.session
        assert answer.session.user.id == first.user.id
        assert answer.session.refresh_token != first.refresh_token
        assert sql(stack, "select count(*) from auth.sessions") == [(2,)]

    @pytest.mark.parametrize(("email", "password"), [("ada@example.com", "wrong one"), ("bob@example.com", PASSWORD)])
    async def test_a_wrong_password_and_an_unknown_address_look_alike(self, supabase, email, password):
        await signed_up(supabase, "ada@example.com")
        with pytest.raises(AuthApiError, match="Invalid login credentials") as refused:
            await supabase.auth.sign_in_with_password({"email": email, "password": password})
        assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")

    async def test_the_synchronous_client_works_too(self, stack):
        def round_trip() -> tuple[str, str]:
            options = ClientOptions(auto_refresh_token=False)
            client = create_client(stack.url, stack.keys.anon_key, options)
            email = new_email()
            created = client.auth.sign_up({"email": email, "password": PASSWORD}).user
            client.auth.sign_out()
            signed_in = client.auth.sign_in_with_password({"email": email, "password": PASSWORD}).user
            assert created
            assert signed_in
            client.auth.refresh_session()
            return created.id, signed_in.id

        created, signed_in = await asyncio.to_thread(round_trip)
        assert created == signed_in


class TestRefresh:
    async def test_each_refresh_gives_a_new_token_of_the_same_session(self, supabase):
        first = await signed_up(supabase)
        before = await supabase.auth.get_claims()
        answer = await supabase.auth.refresh_session()
        after = await supabase.auth.get_claims()
        assert answer.session
        assert before
        assert after
        assert answer.session.refresh_token != first.refresh_token
        assert after["claims"]["session_id"] == before["claims"]["session_id"]
        assert after["claims"]["amr"] == before["claims"]["amr"]

    async def test_a_client_that_lost_the_reply_gets_the_same_token_again(self, stack, supabase):
        first = await signed_up(supabase)
        answers = [await refresh(supabase, first.refresh_token) for _ in range(2)]
        age_tokens(stack)
        answers.append(await refresh(supabase, first.refresh_token))
        assert len(set(answers)) == 1

    async def test_refreshes_at_the_same_time_agree_on_one_token(self, stack, supabase):
        first = await signed_up(supabase)
        clients = [await new_client(stack) for _ in range(8)]
        answers = await asyncio.gather(*(refresh(client, first.refresh_token) for client in clients))
        assert len(set(answers)) == 1
        assert sql(stack, "select count(*) from auth.refresh_tokens where not revoked") == [(1,)]

    async def test_an_older_token_is_good_for_a_moment(self, supabase):
        first = await signed_up(supabase)
        second = await refresh(supabase, first.refresh_token)
        third = await refresh(supabase, second)
        assert await refresh(supabase, first.refresh_token) == third

    async def test_an_older_token_that_comes_back_late_ends_the_whole_family(self, stack, supabase):
        first = await signed_up(supabase)
        second = await refresh(supabase, first.refresh_token)
        third = await refresh(supabase, second)
        age_tokens(stack)
        for token in (first.refresh_token, third):
            with pytest.raises(AuthApiError) as refused:
                await refresh(supabase, token)
            assert (refused.value.status, refused.value.code) == (400, "refresh_token_already_used")

    async def test_another_session_of_the_user_survives_that(self, stack, supabase):
        email = new_email()
        first = await signed_up(supabase, email)
        other = await new_client(stack)
        await other.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        await refresh(supabase, await refresh(supabase, first.refresh_token))
        age_tokens(stack)
        with pytest.raises(AuthApiError):
            await refresh(supabase, first.refresh_token)
        assert (await other.auth.refresh_session()).session

    async def test_an_unknown_token_is_not_found(self, supabase):
        with pytest.raises(AuthApiError) as refused:
            await refresh(supabase, "never-given-out")
        assert (refused.value.status, refused.value.code) == (400, "refresh_token_not_found")

    async def test_a_session_past_its_end_is_not_continued(self, stack, supabase):
        session = await signed_up(supabase)
        sql(stack, "update auth.sessions set not_after = now() - interval '1 minute'")
        with pytest.raises(AuthApiError) as refused:
            await refresh(supabase, session.refresh_token)
        assert refused.value.code == "session_expired"


async def refresh(client: AsyncClient, token: str) -> str:
    answer = await client.auth.refresh_session(token)
    assert answer.session
    return answer.session.refresh_token


def age_tokens(stack) -> None:
    """Let every token have been used longer ago than the reuse window."""
    sql(stack, "update auth.refresh_tokens set updated_at = updated_at - interval '11 seconds'")


class TestUser:
    async def test_metadata_is_merged_and_null_drops_a_key(self, supabase):
        await signed_up(supabase, nickname="ada", theme="dark")
        answer = await supabase.auth.update_user({"data": {"theme": None, "size": {"w": 1, "h": None}}})
        metadata = answer.user.user_metadata
        assert metadata["nickname"] == "ada"
        assert "theme" not in metadata
        assert metadata["size"] == {"w": 1, "h": None}

    async def test_a_new_password_ends_the_other_sessions_only(self, stack, supabase):
        email = new_email()
        await signed_up(supabase, email)
        other = await new_client(stack)
        await other.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        await supabase.auth.update_user({"password": "another one"})
        assert await supabase.auth.get_user()
        with pytest.raises(AuthApiError) as refused:
            await other.auth.get_user()
        assert (refused.value.status, refused.value.code) == (403, "session_not_found")
        assert (await other.auth.sign_in_with_password({"email": email, "password": "another one"})).session

    async def test_the_same_password_is_no_change(self, supabase):
        await signed_up(supabase)
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.update_user({"password": PASSWORD})
        assert (refused.value.status, refused.value.code) == (422, "same_password")

    async def test_a_new_address_signs_in_and_the_old_one_does_not(self, stack, supabase):
        old, new = new_email(), new_email()
        await signed_up(supabase, old)
        answer = await supabase.auth.update_user({"email": new.upper()})
        assert answer.user.email == new
        assert [identity.identity_data["email"] for identity in answer.user.identities or []] == [new]
        other = await new_client(stack)
        assert (await other.auth.sign_in_with_password({"email": new, "password": PASSWORD})).session
        with pytest.raises(AuthApiError):
            await other.auth.sign_in_with_password({"email": old, "password": PASSWORD})

    async def test_the_address_of_somebody_else_is_refused(self, stack, supabase):
        taken = new_email()
        await signed_up(await new_client(stack), taken)
        await signed_up(supabase)
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.update_user({"email": taken})
        assert (refused.value.status, refused.value.code) == (422, "email_exists")

    async def test_a_user_cannot_write_what_authorization_rests_on(self, supabase):
        await signed_up(supabase)
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.update_user({"app_metadata": {"admin": True}})  # type: ignore[typeddict-unknown-key]
        assert (refused.value.status, refused.value.code) == (403, "not_admin")


class TestSignOut:
    @pytest.mark.parametrize(
        ("scope", "left"), [("global", []), ("local", ["second", "third"]), ("others", ["first"])]
    )
    async def test_a_scope_says_which_sessions_end(self, stack, scope, left):
        email = new_email()
        tokens = {"first": (await signed_up(await new_client(stack), email)).access_token}
        for name in ("second", "third"):
            client = await new_client(stack)
            answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
            assert answer.session
            tokens[name] = answer.session.access_token
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers={"apikey": stack.keys.anon_key}) as http:
            answer = await http.post("/logout", params={"scope": scope}, headers=bearer(tokens["first"]))
            assert answer.status_code == 204
            statuses = {name: (await http.get("/user", headers=bearer(token))) for name, token in tokens.items()}
        assert [name for name, answer in statuses.items() if answer.status_code == 200] == left
        ended = [answer.json()["error_code"] for answer in statuses.values() if answer.status_code != 200]
        assert set(ended) <= {"session_not_found"}

    async def test_a_signed_out_session_cannot_be_refreshed(self, supabase):
        session = await signed_up(supabase)
        await supabase.auth.sign_out()
        with pytest.raises(AuthApiError) as refused:
            await refresh(supabase, session.refresh_token)
        assert refused.value.code == "refresh_token_not_found"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestAdmin:
    async def test_a_created_user_is_confirmed_only_if_asked(self, supabase, admin):
        email = new_email()
        created = await admin.auth.admin.create_user({"email": email, "password": PASSWORD})
        assert created.user.email_confirmed_at is None
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert (refused.value.status, refused.value.code) == (400, "email_not_confirmed")
        await admin.auth.admin.update_user_by_id(created.user.id, {"email_confirm": True})
        assert (await supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})).session

    async def test_everything_about_a_user_can_be_given(self, supabase, admin):
        user_id, email = str(uuid4()), new_email()
        hashed = "$2b$04$Whl3cJ4LGBpuQgeSGSqO6.9y/ZpPDYTQ0i2xnjp7oVkdX7mBJSTpu"
        created = await admin.auth.admin.create_user(
            {
                "id": user_id,
                "email": email,
                "password_hash": hashed,
                "email_confirm": True,
                "role": "authenticated",
                "app_metadata": {"plan": "pro"},
                "user_metadata": {"nickname": "ada"},
            }
        )
        assert created.user.id == user_id
        assert created.user.app_metadata == {"provider": "email", "providers": ["email"], "plan": "pro"}
        assert created.user.user_metadata["nickname"] == "ada"
        assert (await admin.auth.admin.get_user_by_id(user_id)).user.email == email

    async def test_users_are_listed_a_page_at_a_time_newest_first(self, stack, admin):
        created = [
            (await admin.auth.admin.create_user({"email": f"user{number}@example.com"})).user.id for number in range(5)
        ]
        assert [user.id for user in await admin.auth.admin.list_users()] == created[::-1]
        assert [user.id for user in await admin.auth.admin.list_users(page=2, per_page=2)] == [created[2], created[1]]
        async with httpx.AsyncClient(headers=bearer(stack.keys.service_role_key)) as http:
            answer = await http.get(f"{stack.url}/auth/v1/admin/users", params={"page": 1, "per_page": 2})
        assert answer.headers["x-total-count"] == "5"
        assert answer.headers["link"] == (
            '</admin/users?page=2&per_page=2>; rel="next", </admin/users?page=3&per_page=2>; rel="last"'
        )

    async def test_an_address_belongs_to_one_user(self, admin):
        email = new_email()
        await admin.auth.admin.create_user({"email": email})
        other = (await admin.auth.admin.create_user({"email": new_email()})).user
        for attempt in (
            admin.auth.admin.create_user({"email": email}),
            admin.auth.admin.update_user_by_id(other.id, {"email": email}),
        ):
            with pytest.raises(AuthApiError) as refused:
                await attempt
            assert (refused.value.status, refused.value.code) == (422, "email_exists")

    async def test_a_banned_user_neither_signs_in_nor_refreshes_until_the_ban_is_lifted(self, stack, supabase, admin):
        email = new_email()
        session = await signed_up(supabase, email)
        banned = await admin.auth.admin.update_user_by_id(session.user.id, {"ban_duration": "24h"})
        assert banned.user.banned_until
        for attempt in (
            supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD}),
            supabase.auth.refresh_session(session.refresh_token),
        ):
            with pytest.raises(AuthApiError) as refused:
                await attempt
            assert (refused.value.status, refused.value.code) == (400, "user_banned")
        await admin.auth.admin.update_user_by_id(session.user.id, {"ban_duration": "none"})
        assert await refresh(supabase, session.refresh_token)

    async def test_a_new_password_by_the_admin_signs_the_user_out(self, supabase, admin):
        session = await signed_up(supabase)
        await admin.auth.admin.update_user_by_id(session.user.id, {"password": "another one"})
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.get_user()
        assert refused.value.code == "session_not_found"

    async def test_a_deleted_user_is_gone_with_their_sessions(self, stack, supabase, admin):
        session = await signed_up(supabase)
        await admin.auth.admin.delete_user(session.user.id)
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.get_user()
        assert (refused.value.status, refused.value.code) == (403, "user_not_found")
        with pytest.raises(AuthApiError) as missing:
            await admin.auth.admin.get_user_by_id(session.user.id)
        assert (missing.value.status, missing.value.code) == (404, "user_not_found")
        assert sql(stack, "select count(*) from auth.refresh_tokens") == [(0,)]

    async def test_a_softly_deleted_user_leaves_a_nameless_row_and_frees_the_address(self, supabase, admin):
        email = new_email()
        session = await signed_up(supabase, email, nickname="ada")
        await admin.auth.admin.delete_user(session.user.id, should_soft_delete=True)
        left = (await admin.auth.admin.get_user_by_id(session.user.id)).user
        assert left.deleted_at
        assert left.email != email
        assert left.user_metadata == {}
        assert left.identities == []
        assert (await signed_up(supabase, email)).user.id != session.user.id

    async def test_only_the_service_role_is_an_admin(self, stack, supabase):
        session = await signed_up(supabase)
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
            for token in (stack.keys.anon_key, session.access_token):
                answer = await http.get("/admin/users", headers=bearer(token))
                assert (answer.status_code, answer.json()["error_code"]) == (403, "not_admin")
            answer = await http.get("/admin/users")
            assert (answer.status_code, answer.json()["error_code"]) == (401, "no_authorization")
