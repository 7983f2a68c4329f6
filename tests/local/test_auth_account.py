"""People and their accounts, through the official Python client: sign up, sign in, change, sign out."""

from __future__ import annotations

import asyncio
import time

import httpx
import jwt
import pytest
from supabase import AsyncClient, ClientOptions, create_client
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from local.auth_settings import AuthSettings
from tests.support.auth import bearer, new_email, refresh, signed_up, sql
from tests.support.stack import PASSWORD, Stack, stack_over


@pytest.fixture
async def supabase(stack: Stack) -> AsyncClient:
    """A client of its own, as one browser has."""
    return await stack.client()


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

    async def test_the_identity_knows_what_was_said_at_the_sign_up(self, supabase):
        session = await signed_up(supabase, nickname="ada", sub="not mine to say")
        (identity,) = session.user.identities or []
        assert (identity.identity_data["nickname"], identity.identity_data["sub"]) == ("ada", session.user.id)

    async def test_only_an_address_or_a_phone_signs_up(self, supabase):
        both = {"email": new_email(), "phone": "4915112345678", "password": PASSWORD}
        with pytest.raises(AuthApiError, match="Only an email address or phone number") as error:
            await supabase.auth._request("POST", "signup", body=both)
        assert (error.value.status, error.value.code) == (400, "validation_failed")

    async def test_the_stored_password_is_a_bcrypt_hash(self, stack, supabase):
        session = await signed_up(supabase)
        ((stored,),) = sql(stack, "select encrypted_password from auth.users where id = %s", session.user.id)
        assert stored.startswith("$2b$")

    async def test_an_address_signs_up_once(self, stack, supabase):
        await signed_up(supabase, "ada@example.com")
        with pytest.raises(AuthApiError) as refused:
            await signed_up(await stack.client(), "ADA@example.com")
        assert (refused.value.status, refused.value.code) == (422, "user_already_exists")

    async def test_of_many_signing_up_at_once_with_one_address_one_wins(self, stack):
        clients = [await stack.client() for _ in range(5)]
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
        answer = await (await stack.client()).auth.sign_in_with_password({"email": email, "password": PASSWORD})
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
        with pytest.raises(AuthApiError, match="Database error saving user") as refused:
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

    async def test_how_long_it_is_good_for_can_be_set(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(jwt_exp=60)) as stack:
            session = await signed_up(await stack.client())
        assert session.expires_in == 60
        claims = stack.keys.verify_jwt(session.access_token)
        assert claims["exp"] - claims["iat"] == 60


class TestSignIn:
    async def test_a_password_opens_another_session(self, stack, supabase):
        email = new_email()
        first = await signed_up(supabase, email)
        answer = await (await stack.client()).auth.sign_in_with_password({"email": email, "password": PASSWORD})
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

    async def test_no_password_matches_a_hash_that_is_none(self, stack, supabase):
        await signed_up(supabase, "ada@example.com")
        sql(stack, "update auth.users set encrypted_password = 'written by a seed'")
        with pytest.raises(AuthApiError) as refused:
            await supabase.auth.sign_in_with_password({"email": "ada@example.com", "password": PASSWORD})
        assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")
        await supabase.auth.update_user({"password": "another one"})

    async def test_the_synchronous_client_works_too(self, stack):
        def round_trip() -> tuple[str, str]:
            options = ClientOptions(auto_refresh_token=False)
            client = create_client(stack.url, stack.anon_key, options)
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
        other = await stack.client()
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

    async def test_the_address_of_somebody_else_is_refused(self, stack, supabase):
        taken = new_email()
        await signed_up(await stack.client(), taken)
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
    @pytest.mark.parametrize(("scope", "left"), [("global", []), ("local", ["second", "third"]), ("others", ["first"])])
    async def test_a_scope_says_which_sessions_end(self, stack, scope, left):
        email, leaving = new_email(), await stack.client()
        tokens = {"first": (await signed_up(leaving, email)).access_token}
        for name in ("second", "third"):
            client = await stack.client()
            answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
            assert answer.session
            tokens[name] = answer.session.access_token
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers={"apikey": stack.anon_key}) as http:
            await leaving.auth.sign_out({"scope": scope})
            statuses = {name: (await http.get("/user", headers=bearer(token))) for name, token in tokens.items()}
        assert [name for name, answer in statuses.items() if answer.status_code == 200] == left
        ended = [answer.json()["error_code"] for answer in statuses.values() if answer.status_code != 200]
        assert set(ended) <= {"session_not_found"}

    async def test_the_answer_to_it_is_empty(self, stack, supabase):
        session = await signed_up(supabase)
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
            answer = await http.post("/logout", headers=bearer(session.access_token))
        assert (answer.status_code, answer.content) == (204, b"")

    async def test_a_signed_out_session_cannot_be_refreshed(self, supabase):
        session = await signed_up(supabase)
        await supabase.auth.sign_out()
        with pytest.raises(AuthApiError) as refused:
            await refresh(supabase, session.refresh_token)
        assert refused.value.code == "refresh_token_not_found"
