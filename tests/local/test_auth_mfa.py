"""Second factors: an authenticator is enrolled, its codes raise a session, and what they guard stays shut without."""

from __future__ import annotations

import httpx
import pytest
from pyotp.totp import TOTP
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError
from supabase_auth.types import AuthMFAEnrollResponse

from local.auth_settings import AuthSettings
from tests.support.auth import bearer, new_email, refusal, signed_up, sql
from tests.support.node import run_script
from tests.support.stack import PASSWORD, Stack, stack_over


@pytest.fixture
async def supabase(stack: Stack) -> AsyncClient:
    return await stack.client()


async def refused(attempt) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as error:
        await attempt
    return error.value.status, error.value.code


async def enrolled(client: AsyncClient, name: str = "phone") -> tuple[AuthMFAEnrollResponse, TOTP]:
    """A factor that is not verified yet, and the authenticator that has its secret."""
    factor = await client.auth.mfa.enroll({"factor_type": "totp", "friendly_name": name, "issuer": "Runbase"})
    assert factor.totp
    return factor, TOTP(factor.totp.secret)


async def verified(client: AsyncClient, name: str = "phone") -> tuple[str, TOTP]:
    """Enroll a factor and show its first code."""
    factor, authenticator = await enrolled(client, name)
    await client.auth.mfa.challenge_and_verify({"factor_id": factor.id, "code": authenticator.now()})
    return factor.id, authenticator


async def signed_in(stack: Stack, email: str) -> AsyncClient:
    client = await stack.client()
    await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
    return client


async def levels(client: AsyncClient) -> tuple[str | None, str | None]:
    level = await client.auth.mfa.get_authenticator_assurance_level()
    return level.current_level, level.next_level


class TestEnrolling:
    async def test_an_anonymous_user_has_nothing_to_add_a_second_factor_to(self, supabase):
        await supabase.auth.sign_in_anonymously()
        attempt = supabase.auth.mfa.enroll({"factor_type": "totp"})
        assert await refused(attempt) == (403, "no_authorization")

    async def test_an_authenticator_gets_its_secret_as_text_and_picture(self, supabase):
        email = new_email()
        await signed_up(supabase, email)
        factor, authenticator = await enrolled(supabase)
        assert (factor.type, factor.friendly_name) == ("totp", "phone")
        assert factor.totp
        assert factor.totp.qr_code.startswith("data:image/svg+xml;utf-8,<svg ")
        assert factor.totp.uri.startswith("otpauth://totp/Runbase:")
        assert f"secret={authenticator.secret}" in factor.totp.uri
        assert email.replace("@", "%40") in factor.totp.uri

    async def test_it_counts_once_its_first_code_was_right(self, supabase):
        await signed_up(supabase)
        factor, authenticator = await enrolled(supabase)
        assert await levels(supabase) == ("aal1", "aal1")
        listed = await supabase.auth.mfa.list_factors()
        assert (len(listed.all), listed.totp) == (1, [])
        await supabase.auth.mfa.challenge_and_verify({"factor_id": factor.id, "code": authenticator.now()})
        listed = await supabase.auth.mfa.list_factors()
        assert [(one.id, one.status) for one in listed.totp] == [(factor.id, "verified")]
        assert await levels(supabase) == ("aal2", "aal2")

    async def test_two_of_one_name_are_refused(self, supabase):
        await signed_up(supabase)
        await enrolled(supabase)
        assert await refused(supabase.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "phone"})) == (
            422,
            "mfa_factor_name_conflict",
        )

    async def test_there_is_room_for_so_many(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(mfa_max_enrolled_factors=2)) as stack:
            client = await stack.client()
            await signed_up(client)
            for name in ("first", "second"):
                await enrolled(client, name)
            assert await refused(client.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "third"})) == (
                422,
                "too_many_enrolled_mfa_factors",
            )

    async def test_only_authenticators_are_served(self, stack, database_url):
        async def enroll_each(stack: Stack, *kinds: str) -> list[tuple[int, str]]:
            session = await signed_up(await stack.client())
            async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
                headers = bearer(session.access_token)
                return [
                    refusal(await http.post("/factors", json={"factor_type": kind}, headers=headers)) for kind in kinds
                ]

        assert await enroll_each(stack, "phone", "webauthn", "other") == [
            (422, "mfa_phone_enroll_not_enabled"),
            (422, "mfa_webauthn_enroll_not_enabled"),
            (400, "validation_failed"),
        ]
        async with stack_over(database_url, auth=AuthSettings(mfa_totp_enroll_enabled=False)) as without:
            assert await enroll_each(without, "totp") == [(422, "mfa_totp_enroll_not_enabled")]

    async def test_what_was_begun_and_left_goes_with_the_first_that_is_verified(self, supabase):
        await signed_up(supabase)
        await enrolled(supabase, "left")
        factor_id, _ = await verified(supabase, "kept")
        assert [factor.id for factor in (await supabase.auth.mfa.list_factors()).all] == [factor_id]


class TestAnswering:
    async def test_a_code_raises_the_session_and_ends_those_without_one(self, stack):
        email = new_email()
        here, there = await stack.client(), await stack.client()
        await signed_up(here, email)
        await there.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        before = await here.auth.get_session()
        await verified(here)
        after = await here.auth.get_session()
        assert before
        assert after
        assert after.refresh_token != before.refresh_token
        claims = stack.keys.verify_jwt(after.access_token)
        assert claims["session_id"] == stack.keys.verify_jwt(before.access_token)["session_id"]
        assert (claims["aal"], [entry["method"] for entry in claims["amr"]]) == ("aal2", ["totp", "password"])
        assert await refused(there.auth.get_user()) == (403, "session_not_found")
        assert (await here.auth.refresh_session()).session
        assert await levels(here) == ("aal2", "aal2")

    async def test_a_new_sign_in_has_the_first_level_until_a_code_is_shown(self, stack):
        email = new_email()
        client = await stack.client()
        await signed_up(client, email)
        factor_id, authenticator = await verified(client)
        again = await signed_in(stack, email)
        assert await levels(again) == ("aal1", "aal2")
        await again.auth.mfa.challenge_and_verify({"factor_id": factor_id, "code": authenticator.now()})
        assert await levels(again) == ("aal2", "aal2")

    async def test_a_wrong_code_is_refused_and_the_challenge_stays(self, supabase):
        await signed_up(supabase)
        factor, authenticator = await enrolled(supabase)
        challenge = await supabase.auth.mfa.challenge({"factor_id": factor.id})
        wrong = str((int(authenticator.now()) + 1) % 10**6).zfill(6)
        answer = {"factor_id": factor.id, "challenge_id": challenge.id}
        with pytest.raises(AuthApiError, match="Invalid TOTP code entered") as error:
            await supabase.auth.mfa.verify({**answer, "code": wrong})
        assert (error.value.status, error.value.code) == (422, "mfa_verification_failed")
        assert (await supabase.auth.mfa.verify({**answer, "code": authenticator.now()})).access_token

    async def test_a_challenge_is_answered_once_and_soon(self, stack, supabase):
        await signed_up(supabase)
        factor, authenticator = await enrolled(supabase)
        challenge = await supabase.auth.mfa.challenge({"factor_id": factor.id})
        answer = {"factor_id": factor.id, "challenge_id": challenge.id, "code": authenticator.now()}
        await supabase.auth.mfa.verify(answer)
        assert await refused(supabase.auth.mfa.verify(answer)) == (422, "mfa_ip_address_mismatch")
        later = await supabase.auth.mfa.challenge({"factor_id": factor.id})
        sql(stack, "update auth.mfa_challenges set created_at = created_at - interval '301 seconds'")
        assert await refused(supabase.auth.mfa.verify({**answer, "challenge_id": later.id})) == (
            422,
            "mfa_challenge_expired",
        )
        unknown = {**answer, "challenge_id": factor.id}
        assert await refused(supabase.auth.mfa.verify(unknown)) == (422, "mfa_factor_not_found")

    async def test_somebody_elses_factor_is_not_there(self, stack, supabase):
        await signed_up(supabase)
        factor, authenticator = await enrolled(supabase)
        stranger = await stack.client()
        await signed_up(stranger)
        for attempt in (
            stranger.auth.mfa.challenge({"factor_id": factor.id}),
            stranger.auth.mfa.verify({"factor_id": factor.id, "challenge_id": factor.id, "code": authenticator.now()}),
            stranger.auth.mfa.unenroll({"factor_id": factor.id}),
        ):
            assert await refused(attempt) == (404, "mfa_factor_not_found")

    async def test_what_is_no_id_is_said_so(self, stack):
        session = await signed_up(await stack.client())
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers=bearer(session.access_token)) as http:
            assert refusal(await http.post("/factors/x/challenge")) == (404, "validation_failed")
            assert refusal(await http.delete("/factors/x")) == (404, "validation_failed")


class TestWhatItGuards:
    async def test_who_knows_only_the_password_changes_nothing_of_weight(self, stack):
        email = new_email()
        client = await stack.client()
        await signed_up(client, email)
        factor_id, authenticator = await verified(client)
        thief = await signed_in(stack, email)
        for attempt, expected in (
            (thief.auth.update_user({"password": "another password"}), (401, "insufficient_aal")),
            (thief.auth.update_user({"email": new_email()}), (401, "insufficient_aal")),
            (thief.auth.mfa.unenroll({"factor_id": factor_id}), (422, "insufficient_aal")),
            (
                thief.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "another"}),
                (403, "insufficient_aal"),
            ),
        ):
            assert await refused(attempt) == expected
        assert (await thief.auth.update_user({"data": {"theme": "dark"}})).user
        await thief.auth.mfa.challenge_and_verify({"factor_id": factor_id, "code": authenticator.now()})
        assert (await thief.auth.update_user({"password": "another password"})).user

    async def test_without_its_factor_a_session_is_of_the_first_level_again(self, supabase):
        await signed_up(supabase)
        factor_id, _ = await verified(supabase)
        assert (await supabase.auth.mfa.unenroll({"factor_id": factor_id})).id == factor_id
        await supabase.auth.refresh_session()
        assert await levels(supabase) == ("aal1", "aal1")
        assert (await supabase.auth.mfa.list_factors()).all == []

    async def test_the_service_role_sees_factors_and_takes_them_away(self, stack, supabase):
        session = await signed_up(supabase)
        factor_id, authenticator = await verified(supabase)
        admin = (await stack.client(stack.service_key)).auth.admin
        (factor,) = await admin.mfa.list_factors({"user_id": session.user.id})
        assert (factor.id, factor.friendly_name, factor.status) == (factor_id, "phone", "verified")
        seen = (await admin.get_user_by_id(session.user.id)).user
        assert authenticator.secret not in seen.model_dump_json()
        async with httpx.AsyncClient(
            base_url=f"{stack.url}/auth/v1/admin/users/{session.user.id}", headers=bearer(stack.keys.service_role_key)
        ) as http:
            renamed = await http.put(f"/factors/{factor_id}", json={"friendly_name": "old phone"})
            assert renamed.json()["friendly_name"] == "old phone"
        await admin.mfa.delete_factor({"user_id": session.user.id, "id": factor_id})
        assert await admin.mfa.list_factors({"user_id": session.user.id}) == []
        await supabase.auth.refresh_session()
        assert await levels(supabase) == ("aal1", "aal1")

    async def test_a_hidden_user_has_no_factors(self, stack, supabase):
        session = await signed_up(supabase)
        await verified(supabase)
        admin = (await stack.client(stack.service_key)).auth.admin
        await admin.delete_user(session.user.id, should_soft_delete=True)
        assert sql(stack, "select count(*) from auth.mfa_factors") == [(0,)]


async def test_supabase_js_enrolls_answers_and_unenrolls(stack):
    seen = await run_script("auth_mfa.mjs", stack)
    assert seen == {
        "type": "totp",
        "picture": "data:image/svg+xml;utf-8,<svg",
        "before": ["aal1", "aal1"],
        "wrong": {"status": 422, "code": "mfa_verification_failed"},
        "after": ["aal2", "aal2"],
        "listed": [1, 1],
        "left": 0,
        "withoutSession": "AuthApiError",
    }
