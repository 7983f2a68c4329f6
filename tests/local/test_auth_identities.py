"""Identities, and what needs an outside provider or a phone: refused under the codes that applications know."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError

from local.auth_settings import AuthSettings
from tests.support.auth import bearer, new_email, refusal, signed_up, sql
from tests.support.stack import PASSWORD, Stack, stack_over


@pytest.fixture
async def supabase(stack: Stack) -> AsyncClient:
    return await stack.client()


async def refused(attempt) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as error:
        await attempt
    return error.value.status, error.value.code


def link_outside_identity(stack: Stack, user_id: str, email: str) -> None:
    """As if the user had signed in by an outside provider too."""
    sql(
        stack,
        "insert into auth.identities (provider_id, user_id, identity_data, provider, created_at, updated_at)"
        " values ('outside-1', %s, jsonb_build_object('sub', 'outside-1', 'email', %s::text), 'github', now(), now())",
        user_id,
        email,
    )


async def identity_of(supabase: AsyncClient, provider: str):
    answer = await supabase.auth.get_user_identities()
    return next(identity for identity in answer.identities if identity.provider == provider)


class TestUnlink:
    async def test_the_last_identity_stays(self, supabase):
        await signed_up(supabase)
        identity = await identity_of(supabase, "email")
        assert await refused(supabase.auth.unlink_identity(identity)) == (422, "single_identity_not_deletable")

    async def test_what_is_left_names_the_providers_and_the_address(self, stack, supabase):
        session = await signed_up(supabase)
        outside = new_email()
        link_outside_identity(stack, session.user.id, outside)
        await supabase.auth.unlink_identity(await identity_of(supabase, "email"))
        answer = await supabase.auth.get_user()
        assert answer
        assert answer.user.email == outside
        assert answer.user.app_metadata == {"provider": "github", "providers": ["github"]}

    async def test_the_address_stays_with_the_identity_that_has_it(self, stack, supabase):
        email = new_email()
        session = await signed_up(supabase, email)
        link_outside_identity(stack, session.user.id, new_email())
        await supabase.auth.unlink_identity(await identity_of(supabase, "github"))
        answer = await supabase.auth.get_user()
        assert answer
        assert (answer.user.email, answer.user.app_metadata["providers"]) == (email, ["email"])

    async def test_an_address_that_somebody_else_has_keeps_the_identity(self, stack, supabase):
        taken = new_email()
        await signed_up(await stack.client(), taken)
        session = await signed_up(supabase)
        link_outside_identity(stack, session.user.id, taken)
        attempt = supabase.auth.unlink_identity(await identity_of(supabase, "email"))
        assert await refused(attempt) == (422, "email_conflict_identity_not_deletable")
        assert await identity_of(supabase, "email")

    async def test_nobody_unlinks_what_is_not_theirs(self, stack, supabase):
        session = await signed_up(supabase)
        link_outside_identity(stack, session.user.id, new_email())
        other = await stack.client()
        await signed_up(other)
        theirs = await identity_of(other, "email")
        assert await refused(supabase.auth.unlink_identity(theirs)) == (422, "identity_not_found")
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers=bearer(session.access_token)) as http:
            assert refusal(await http.delete("/user/identities/x")) == (404, "validation_failed")
            assert refusal(await http.delete(f"/user/identities/{uuid4()}")) == (422, "identity_not_found")

    async def test_linking_can_be_switched_off(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(security_manual_linking_enabled=False)) as stack:
            client = await stack.client()
            await signed_up(client)
            attempt = client.auth.unlink_identity(await identity_of(client, "email"))
            assert await refused(attempt) == (404, "manual_linking_disabled")


class TestElsewhere:
    async def test_outside_providers_are_not_enabled(self, stack, supabase):
        answer = await supabase.auth.sign_in_with_oauth({"provider": "github"})
        async with httpx.AsyncClient() as browser:
            assert refusal(await browser.get(answer.url)) == (400, "validation_failed")
        by_token = supabase.auth.sign_in_with_id_token({"provider": "google", "token": "x"})
        assert await refused(by_token) == (400, "provider_disabled")
        assert await refused(supabase.auth.sign_in_with_sso({"domain": "example.com"})) == (
            404,
            "saml_provider_disabled",
        )
        await signed_up(supabase)
        assert await refused(supabase.auth.link_identity({"provider": "github"})) == (400, "validation_failed")

    async def test_phones_are_not_served(self, supabase):
        phone = "4915112345678"
        assert await refused(supabase.auth.sign_up({"phone": phone, "password": PASSWORD})) == (
            400,
            "phone_provider_disabled",
        )
        for attempt in (
            supabase.auth.sign_in_with_password({"phone": phone, "password": PASSWORD}),
            supabase.auth.sign_in_with_otp({"phone": phone}),
            supabase.auth.resend({"type": "sms", "phone": phone}),
        ):
            assert await refused(attempt) == (400, "phone_provider_disabled")

    async def test_the_code_of_a_message_that_nobody_got_is_wrong(self, supabase):
        for phone, message in (
            ("+49 151 12345678", "Token has expired or is invalid"),
            ("49-151", "Invalid phone number format (E.164 required)"),
        ):
            with pytest.raises(AuthApiError) as error:
                await supabase.auth.verify_otp({"type": "sms", "phone": phone, "token": "123456"})
            assert error.value.message == message

    async def test_who_an_id_token_would_be_of_is_named(self, stack):
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
            for body, code, message in (
                ({"provider": "google"}, "validation_failed", "id_token required"),
                ({"id_token": "x"}, "validation_failed", "provider or client_id and issuer required"),
                (
                    {"id_token": "x", "provider": "google"},
                    "provider_disabled",
                    'Provider (issuer "https://accounts.google.com") is not enabled',
                ),
                (
                    {"id_token": "x", "provider": "mine"},
                    "validation_failed",
                    'Custom OIDC provider "mine" not allowed',
                ),
            ):
                answer = await http.post("/token?grant_type=id_token", json=body)
                assert (*refusal(answer), answer.json()["msg"]) == (400, code, message)
            answer = await http.post("/token?grant_type=web3", json={"chain": "solana"})
            assert (*refusal(answer), answer.json()["msg"]) == (
                422,
                "web3_provider_disabled",
                "Web3 provider is disabled",
            )

    async def test_what_the_service_role_would_set_up_is_switched_off(self, stack):
        headers = bearer(stack.keys.service_role_key)
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1/admin", headers=headers) as http:
            for method, path, message in (
                ("GET", "/oauth/clients", "OAuth server is disabled"),
                ("POST", "/oauth/clients", "OAuth server is disabled"),
                ("DELETE", "/oauth/clients/1", "OAuth server is disabled"),
                ("GET", "/custom-providers", "Custom OAuth providers are disabled"),
            ):
                answer = await http.request(method, path, json={})
                assert (*refusal(answer), answer.json()["msg"]) == (404, "feature_disabled", message)
            assert (await http.get("/sso/providers")).json() == {"items": []}
            log = await http.get("/audit")
            assert (log.json(), log.headers["x-total-count"]) == ([], "0")
            nobody = await http.get("/oauth/clients", headers=bearer(stack.keys.anon_key))
            assert refusal(nobody) == (403, "not_admin")

    async def test_the_keys_are_found_by_the_issuer_alone(self, stack):
        issuer = f"{stack.url}/auth/v1"
        async with httpx.AsyncClient() as verifier:
            found = (await verifier.get(f"{issuer}/.well-known/openid-configuration")).json()
            keys = (await verifier.get(found["jwks_uri"])).json()["keys"]
        assert (found["issuer"], keys[0]["alg"]) == (issuer, "ES256")
