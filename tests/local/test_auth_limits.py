"""Rate limits: none unless a setting says so, and then GoTrue's own refusals."""

from __future__ import annotations

import httpx
import pytest
from supabase_auth.errors import AuthApiError

from local.auth.limits import Limit
from local.auth_settings import AuthSettings
from tests.support.auth import follow, last_mail, mails, new_email, refresh, signed_up, sql
from tests.support.stack import PASSWORD, stack_over

LIMITED = (429, "over_request_rate_limit")
TOO_MANY_MAILS = (429, "over_email_send_rate_limit")


async def refused(attempt) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as error:
        await attempt
    return error.value.status, error.value.code


async def test_nothing_is_limited_by_default(stack):
    client, email = await stack.client(), new_email()
    await signed_up(client, email)
    for _ in range(40):
        await client.auth.sign_in_with_otp({"email": email})
    assert len(await mails(stack, email)) == 40


async def test_a_second_mail_of_a_kind_has_to_wait(database_url):
    async with stack_over(database_url, auth=AuthSettings(smtp_max_frequency=60)) as stack:
        client, email = await stack.client(), new_email()
        await signed_up(client, email)
        await client.auth.reset_password_for_email(email)
        attempt = client.auth.reset_password_for_email(email)
        with pytest.raises(AuthApiError, match=r"you can only request this after \d+ seconds") as error:
            await attempt
        assert (error.value.status, error.value.code) == TOO_MANY_MAILS
        # A magic link is a mail of the same kind, a change of address is not; and other people have their own clock.
        assert await refused(client.auth.sign_in_with_otp({"email": email})) == TOO_MANY_MAILS
        assert await client.auth.update_user({"email": new_email()})
        assert await refused(client.auth.update_user({"email": new_email()})) == TOO_MANY_MAILS
        await client.auth.sign_in_with_otp({"email": new_email()})
        sql(stack, "update auth.users set recovery_sent_at = recovery_sent_at - interval '60 seconds'")
        await client.auth.reset_password_for_email(email)
        kinds = [mail["type"] for mail in await mails(stack, email)]
        assert kinds == ["recovery", "email_change", "recovery"]


async def test_a_refused_change_of_address_changes_nothing(database_url):
    async with stack_over(database_url, auth=AuthSettings(rate_limit_email_sent=1)) as stack:
        client, email = await stack.client(), new_email()
        await signed_up(client, email)
        await client.auth.reset_password_for_email(email)
        attempt = client.auth.update_user({"email": new_email(), "password": "a new password", "data": {"name": "Ada"}})
        assert await refused(attempt) == TOO_MANY_MAILS
        answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert answer.user
        assert answer.user.new_email is None
        assert "name" not in answer.user.user_metadata


async def test_mails_are_counted_in_all(database_url):
    async with stack_over(database_url, auth=AuthSettings(rate_limit_email_sent=2)) as stack:
        client = await stack.client()
        for _ in range(2):
            await client.auth.sign_in_with_otp({"email": new_email()})
        email = new_email()
        assert await refused(client.auth.sign_in_with_otp({"email": email})) == TOO_MANY_MAILS
        assert len(await mails(stack)) == 2


async def test_a_sign_up_whose_mail_is_refused_leaves_nobody_behind(database_url):
    async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False, rate_limit_email_sent=1)) as stack:
        client = await stack.client()
        await client.auth.sign_up({"email": new_email(), "password": PASSWORD})
        assert await refused(client.auth.sign_up({"email": new_email(), "password": PASSWORD})) == TOO_MANY_MAILS
        assert sql(stack, "select count(*) from auth.users") == [(1,)]


async def test_each_kind_of_request_has_its_own_limit(database_url):
    async with stack_over(
        database_url,
        auth=AuthSettings(
            rate_limit_anonymous_users=1, rate_limit_otp=2, rate_limit_verify=1, rate_limit_token_refresh=2
        ),
    ) as stack:
        client, email = await stack.client(flow_type="implicit"), new_email()
        session = await signed_up(client, email)
        await client.auth.sign_in_with_otp({"email": email})
        for attempt in (
            client.auth.sign_in_with_otp({"email": email}),
            client.auth.sign_up({"email": new_email(), "password": PASSWORD}),
            client.auth.reset_password_for_email(email),
            client.auth.resend({"type": "signup", "email": email}),
        ):
            assert await refused(attempt) == LIMITED

        await follow((await last_mail(stack, email))["link"])
        assert await refused(client.auth.verify_otp({"type": "email", "email": email, "token": "1"})) == LIMITED
        async with httpx.AsyncClient() as browser:
            answer = await browser.get((await last_mail(stack, email))["link"])
            assert (answer.status_code, answer.json()["error_code"]) == LIMITED

        token = await refresh(client, session.refresh_token)
        await refresh(client, token)
        assert await refused(client.auth.refresh_session(token)) == LIMITED

        guest = await stack.client()
        await guest.auth.sign_in_anonymously()
        assert await refused(guest.auth.sign_in_anonymously()) == LIMITED


def test_a_limit_forgets_what_is_older_than_its_window():
    now = 0.0
    limit = Limit(2, 10, clock=lambda: now)
    assert [limit.take(), limit.take(), limit.take()] == [True, True, False]
    assert limit.take("somebody else")
    now = 10.0
    assert [limit.take(), limit.take(), limit.take()] == [True, True, False]


async def test_a_caller_does_not_choose_the_address_it_is_counted_by(database_url):
    async with stack_over(database_url, auth=AuthSettings(rate_limit_anonymous_users=1)) as stack:
        statuses = []
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers={"apikey": stack.anon_key}) as client:
            for address in ("192.0.2.1", "192.0.2.2"):
                answer = await client.post("/signup", headers={"X-Forwarded-For": address}, json={})
                statuses.append(answer.status_code)
        assert statuses == [200, 429]


async def test_codes_of_an_authenticator_are_not_guessed_on_and_on(database_url):
    async with stack_over(database_url, auth=AuthSettings(mfa_rate_limit_challenge_and_verify=2)) as stack:
        client = await stack.client()
        await signed_up(client)
        factor = (await client.auth.mfa.enroll({"factor_type": "totp"})).id
        challenge = (await client.auth.mfa.challenge({"factor_id": factor})).id
        guess = {"factor_id": factor, "challenge_id": challenge, "code": "none"}
        for _ in range(2):
            assert await refused(client.auth.mfa.verify(guess)) == (422, "mfa_verification_failed")
        assert await refused(client.auth.mfa.verify(guess)) == LIMITED
        await client.auth.mfa.challenge({"factor_id": factor})
        assert await refused(client.auth.mfa.challenge({"factor_id": factor})) == LIMITED
