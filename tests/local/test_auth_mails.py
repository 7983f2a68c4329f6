"""Mails: what is sent, what its link and its code are good for, and what nobody learns from asking for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError

from local.auth_settings import AuthSettings
from tests.support.auth import bearer, follow, last_mail, mails, new_email, signed_up, sql
from tests.support.stack import PASSWORD, Stack, stack_over

SITE = "http://127.0.0.1:3000"
EXPIRED = (403, "otp_expired")


@pytest.fixture
async def confirming(database_url: str) -> AsyncIterator[Stack]:
    """A stack that waits for an address to be confirmed."""
    async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as running:
        yield running


@pytest.fixture
async def supabase(confirming: Stack) -> AsyncClient:
    """A client whose mails lead straight to a session."""
    return await confirming.client(flow_type="implicit")


async def ask_to_sign_up(supabase: AsyncClient, email: str, password: str = PASSWORD) -> None:
    answer = await supabase.auth.sign_up({"email": email, "password": password, "options": {"data": {"name": "Ada"}}})
    assert answer.session is None


async def refused(attempt) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as error:
        await attempt
    return error.value.status, error.value.code


class TestSignUp:
    async def test_who_has_not_confirmed_has_no_session_and_cannot_sign_in(self, confirming, supabase):
        email = new_email()
        answer = await supabase.auth.sign_up({"email": email, "password": PASSWORD})
        assert answer.session is None
        assert answer.user
        assert answer.user.email_confirmed_at is None
        assert answer.user.confirmation_sent_at
        assert answer.user.user_metadata["email_verified"] is False
        assert len(answer.user.identities or []) == 1
        attempt = supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert await refused(attempt) == (400, "email_not_confirmed")
        wrong = supabase.auth.sign_in_with_password({"email": email, "password": "a wrong one"})
        assert await refused(wrong) == (400, "invalid_credentials")

    async def test_the_code_of_the_mail_confirms_and_signs_in(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        mail = await last_mail(confirming, email)
        assert (mail["type"], mail["subject"]) == ("signup", "Confirm your signup")
        answer = await supabase.auth.verify_otp({"type": "signup", "email": email.upper(), "token": mail["code"]})
        assert answer.user
        assert answer.user.email_confirmed_at
        assert answer.user.user_metadata["email_verified"] is True
        assert (answer.user.identities or [])[0].identity_data["email_verified"] is True
        claims = await supabase.auth.get_claims()
        assert claims
        assert [entry["method"] for entry in claims["claims"]["amr"]] == ["otp"]
        assert (await supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})).session

    async def test_the_link_of_the_mail_leads_to_the_site_with_a_session(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        landing = await follow((await last_mail(confirming, email))["link"])
        assert (landing.url, landing.query) == (SITE, {})
        assert landing.fragment["type"] == "signup"
        assert (landing.fragment["token_type"], landing.fragment["expires_in"]) == ("bearer", "3600")
        answer = await supabase.auth.set_session(landing.fragment["access_token"], landing.fragment["refresh_token"])
        assert answer.user
        assert answer.user.email == email
        assert (await supabase.auth.refresh_session()).session

    async def test_the_hash_in_the_link_can_be_sent_by_the_application_itself(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        mail = await last_mail(confirming, email)
        answer = await supabase.auth.verify_otp({"type": "email", "token_hash": mail["token_hash"]})
        assert answer.session
        assert answer.session.user.email == email

    async def test_a_link_and_its_code_are_one_and_work_once(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        mail = await last_mail(confirming, email)
        assert "access_token" in (await follow(mail["link"])).fragment
        again = await follow(mail["link"])
        assert again.fragment == {
            "error": "access_denied",
            "error_code": "otp_expired",
            "error_description": "Email link is invalid or has expired",
            "sb": "",
        }
        by_code = supabase.auth.verify_otp({"type": "signup", "email": email, "token": mail["code"]})
        by_hash = supabase.auth.verify_otp({"type": "signup", "token_hash": mail["token_hash"]})
        assert [await refused(by_code), await refused(by_hash)] == [EXPIRED, EXPIRED]

    async def test_of_many_who_use_a_code_at_once_one_signs_in(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        code = (await last_mail(confirming, email))["code"]
        clients = [await confirming.client() for _ in range(5)]
        outcomes = await asyncio.gather(
            *(client.auth.verify_otp({"type": "signup", "email": email, "token": code}) for client in clients),
            return_exceptions=True,
        )
        assert [error.code for error in outcomes if isinstance(error, AuthApiError)] == ["otp_expired"] * 4

    async def test_a_newer_mail_ends_the_older_one(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await supabase.auth.resend({"type": "signup", "email": email})
        newer, older = await mails(confirming, email)
        assert (await follow(older["link"])).fragment["error_code"] == "otp_expired"
        assert "access_token" in (await follow(newer["link"])).fragment

    async def test_a_mail_is_good_for_a_limited_time(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        sql(confirming, "update auth.one_time_tokens set created_at = created_at - interval '3601 seconds'")
        mail = await last_mail(confirming, email)
        by_code = supabase.auth.verify_otp({"type": "signup", "email": email, "token": mail["code"]})
        assert await refused(by_code) == EXPIRED
        assert (await follow(mail["link"])).fragment["error_code"] == "otp_expired"

    async def test_signing_up_again_sends_another_mail_and_changes_nothing_else(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        answer = await supabase.auth.sign_up({"email": email, "password": "another password"})
        assert answer.user
        assert sql(confirming, "select id::text from auth.users") == [(answer.user.id,)]
        await follow((await last_mail(confirming, email))["link"])
        attempt = supabase.auth.sign_in_with_password({"email": email, "password": "another password"})
        assert await refused(attempt) == (400, "invalid_credentials")
        assert (await supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})).session

    async def test_signing_up_with_a_confirmed_address_looks_like_success_and_tells_nothing(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await follow((await last_mail(confirming, email))["link"])
        ((real_id,),) = sql(confirming, "select id::text from auth.users")
        for _ in range(2):
            answer = await supabase.auth.sign_up({"email": email, "password": PASSWORD})
            assert answer.session is None
            assert answer.user
            assert answer.user.id != real_id
            assert answer.user.identities == []
            assert answer.user.email_confirmed_at is None
        assert len(await mails(confirming, email)) == 1

    async def test_sign_up_can_be_closed(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(disable_signup=True)) as stack:
            client = await stack.client()
            assert await refused(client.auth.sign_up({"email": new_email(), "password": PASSWORD})) == (
                422,
                "signup_disabled",
            )
            assert await refused(client.auth.sign_in_anonymously()) == (422, "signup_disabled")
            assert await refused(client.auth.sign_in_with_otp({"email": new_email()})) == (422, "signup_disabled")
            admin = await stack.client(stack.service_key)
            assert (await admin.auth.admin.create_user({"email": new_email()})).user

    async def test_anonymous_users_and_addresses_can_be_switched_off(self, database_url):
        auth = AuthSettings(external_anonymous_users_enabled=False, external_email_enabled=False)
        async with stack_over(database_url, auth=auth) as stack:
            client, email = await stack.client(), new_email()
            assert await refused(client.auth.sign_in_anonymously()) == (422, "anonymous_provider_disabled")
            sign_up = client.auth.sign_up({"email": email, "password": PASSWORD})
            assert await refused(sign_up) == (400, "email_provider_disabled")
            for attempt in (
                client.auth.sign_in_with_password({"email": email, "password": PASSWORD}),
                client.auth.sign_in_with_otp({"email": email}),
                client.auth.reset_password_for_email(email),
                client.auth.resend({"type": "signup", "email": email}),
            ):
                assert await refused(attempt) == (422, "email_provider_disabled")


class TestMagicLink:
    async def test_somebody_new_is_signed_up_by_it(self, confirming, supabase):
        email = new_email()
        await supabase.auth.sign_in_with_otp({"email": email, "options": {"data": {"name": "Ada"}}})
        mail = await last_mail(confirming, email)
        assert mail["type"] == "signup"
        answer = await supabase.auth.verify_otp({"type": "email", "email": email, "token": mail["code"]})
        assert answer.user
        assert answer.user.user_metadata["name"] == "Ada"

    async def test_who_is_known_signs_in_by_code_or_link(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await follow((await last_mail(confirming, email))["link"])
        for code_type in ("email", "magiclink"):
            await supabase.auth.sign_in_with_otp({"email": email})
            mail = await last_mail(confirming, email)
            assert mail["type"] == "magiclink"
            answer = await supabase.auth.verify_otp({"type": code_type, "email": email, "token": mail["code"]})
            assert answer.session
        await supabase.auth.sign_in_with_otp({"email": email})
        assert (await follow((await last_mail(confirming, email))["link"])).fragment["type"] == "magiclink"

    async def test_without_confirmations_somebody_new_gets_a_magic_link_too(self, stack):
        client, email = await stack.client(flow_type="implicit"), new_email()
        await client.auth.sign_in_with_otp({"email": email})
        mail = await last_mail(stack, email)
        assert mail["type"] == "magiclink"
        assert (await client.auth.verify_otp({"type": "email", "email": email, "token": mail["code"]})).session

    async def test_a_stranger_is_refused_if_nobody_shall_be_created(self, confirming, supabase):
        stranger = {"email": new_email(), "options": {"should_create_user": False}}
        assert await refused(supabase.auth.sign_in_with_otp(stranger)) == (422, "otp_disabled")
        assert await mails(confirming) == []
        await ask_to_sign_up(supabase, stranger["email"])
        assert await supabase.auth.sign_in_with_otp(stranger)

    async def test_a_code_is_good_for_its_own_address_and_type_only(self, confirming, supabase):
        ada, bob = new_email(), new_email()
        await ask_to_sign_up(supabase, ada)
        await ask_to_sign_up(supabase, bob)
        code = (await last_mail(confirming, ada))["code"]
        for params in (
            {"type": "signup", "email": bob, "token": code},
            {"type": "magiclink", "email": ada, "token": code},
            {"type": "email_change", "email": ada, "token": code},
            {"type": "signup", "email": new_email(), "token": code},
            {"type": "signup", "email": ada, "token": "no code"},
        ):
            assert await refused(supabase.auth.verify_otp(params)) == EXPIRED, params
        assert (await supabase.auth.verify_otp({"type": "signup", "email": ada, "token": code})).session

    async def test_a_banned_user_cannot_use_it(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        mail = await last_mail(confirming, email)
        sql(confirming, "update auth.users set banned_until = now() + interval '1 hour'")
        attempt = supabase.auth.verify_otp({"type": "signup", "email": email, "token": mail["code"]})
        assert await refused(attempt) == (403, "user_banned")
        assert (await follow(mail["link"])).fragment["error_code"] == "user_banned"
        sql(confirming, "update auth.users set banned_until = null")
        assert "access_token" in (await follow(mail["link"])).fragment

    async def test_an_address_that_changed_meanwhile_is_not_confirmed_by_it(self, confirming, supabase):
        """Else whoever has the old address could set the password of the account."""
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await supabase.auth.reset_password_for_email(email)
        admin = await confirming.client(confirming.service_key)
        ((user_id,),) = sql(confirming, "select id::text from auth.users")
        await admin.auth.admin.update_user_by_id(user_id, {"email": new_email(), "email_confirm": True})
        for mail in await mails(confirming, email):
            assert (await follow(mail["link"])).fragment["error_code"] == "otp_expired"

    async def test_looking_at_a_link_does_not_use_it_up(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        link = (await last_mail(confirming, email))["link"]
        async with httpx.AsyncClient() as scanner:
            assert (await scanner.head(link)).status_code == 405
        assert "access_token" in (await follow(link)).fragment


class TestRecovery:
    async def test_who_forgot_their_password_sets_a_new_one(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await supabase.auth.reset_password_for_email(email, {"redirect_to": "http://localhost:5173/reset?step=2"})
        mail = await last_mail(confirming, email)
        assert mail["type"] == "recovery"
        landing = await follow(mail["link"])
        assert (landing.url, landing.query) == ("http://localhost:5173/reset", {"step": "2"})
        assert landing.fragment["type"] == "recovery"
        await supabase.auth.set_session(landing.fragment["access_token"], landing.fragment["refresh_token"])
        await supabase.auth.update_user({"password": "a new password"})
        assert (await supabase.auth.sign_in_with_password({"email": email, "password": "a new password"})).session

    async def test_a_new_password_ends_every_mail_that_is_on_its_way(self, stack):
        client, email = await stack.client(flow_type="implicit"), new_email()
        await signed_up(client, email)
        await client.auth.reset_password_for_email(email)
        await client.auth.update_user({"password": "a new password"})
        assert (await follow((await last_mail(stack, email))["link"])).fragment["error_code"] == "otp_expired"

    async def test_whether_an_address_is_known_is_not_told(self, confirming, supabase):
        known = new_email()
        await ask_to_sign_up(supabase, known)
        async with httpx.AsyncClient(base_url=f"{confirming.url}/auth/v1") as http:
            for path, extra in (
                ("/recover", {}),
                ("/resend", {"type": "signup"}),
                ("/resend", {"type": "email_change"}),
            ):
                answers = [await http.post(path, json={"email": email, **extra}) for email in (known, new_email())]
                assert [(answer.status_code, answer.text) for answer in answers] == [(200, "{}")] * 2, path


class TestResend:
    async def test_what_is_confirmed_is_not_asked_for_again(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await follow((await last_mail(confirming, email))["link"])
        await supabase.auth.resend({"type": "signup", "email": email})
        await supabase.auth.resend({"type": "email_change", "email": email})
        assert len(await mails(confirming, email)) == 1

    async def test_it_leads_where_it_is_asked_to(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        await supabase.auth.resend(
            {"type": "signup", "email": email, "options": {"email_redirect_to": "http://127.0.0.1:4000/in"}}
        )
        assert (await follow((await last_mail(confirming, email))["link"])).url == "http://127.0.0.1:4000/in"


class TestOutbox:
    async def test_it_is_a_page_for_people_with_everything_escaped(self, confirming, supabase):
        email = "o'hara&sons@example.com"
        await ask_to_sign_up(supabase, email)
        async with httpx.AsyncClient(base_url=confirming.url) as browser:
            page = await browser.get("/mails", headers={"Accept": "text/html,*/*"})
            assert f'href="{confirming.url}/mails"' in (await browser.get("/")).text
        mail = await last_mail(confirming, email)
        assert page.headers["content-type"].startswith("text/html")
        assert "o&#x27;hara&amp;sons@example.com" in page.text
        assert mail["code"] in page.text
        assert mail["link"].replace("&", "&amp;") in page.text

    async def test_it_can_be_emptied(self, confirming, supabase):
        await ask_to_sign_up(supabase, new_email())
        async with httpx.AsyncClient(base_url=confirming.url) as http:
            assert len((await http.get("/mails")).json()["mails"]) == 1
            assert (await http.delete("/mails")).status_code == 204
            assert (await http.get("/mails")).json()["mails"] == []
            assert "None yet." in (await http.get("/mails", headers={"Accept": "text/html"})).text

    async def test_the_database_holds_nothing_that_a_link_could_be_made_of(self, confirming, supabase):
        email = new_email()
        await ask_to_sign_up(supabase, email)
        mail = await last_mail(confirming, email)
        for table in ("auth.users", "auth.one_time_tokens", "auth.flow_state"):
            assert mail["token_hash"] not in str(sql(confirming, f"select to_jsonb(t) from {table} t")), table

    async def test_a_sign_up_that_fails_sends_nothing(self, confirming, supabase):
        sql(
            confirming,
            "create function public.refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$",
        )
        sql(
            confirming,
            "create constraint trigger refuse after insert on auth.users deferrable initially deferred"
            " for each row execute function public.refuse()",
        )
        email = new_email()
        assert await refused(supabase.auth.sign_up({"email": email, "password": PASSWORD})) == (
            500,
            "unexpected_failure",
        )
        assert await mails(confirming, email) == []


class TestReauthentication:
    @pytest.fixture
    async def strict(self, database_url: str) -> AsyncIterator[Stack]:
        auth = AuthSettings(security_update_password_require_reauthentication=True)
        async with stack_over(database_url, auth=auth) as running:
            yield running

    async def test_who_signed_in_long_ago_proves_once_more_who_they_are(self, strict):
        client, email = await strict.client(), new_email()
        await signed_up(client, email)
        sql(strict, "update auth.sessions set created_at = now() - interval '25 hours'")
        new = "a new password"
        assert await refused(client.auth.update_user({"password": new})) == (400, "reauthentication_needed")
        await client.auth.reauthenticate()
        mail = await last_mail(strict, email)
        assert (mail["type"], mail["link"]) == ("reauthentication", None)
        wrong = client.auth.update_user({"password": new, "nonce": "wrong one"})
        assert await refused(wrong) == (422, "reauthentication_not_valid")
        assert await client.auth.update_user({"password": new, "nonce": mail["code"]})
        again = client.auth.update_user({"password": "yet another", "nonce": mail["code"]})
        assert await refused(again) == (422, "reauthentication_not_valid")

    async def test_the_code_of_somebody_else_is_no_proof(self, strict):
        ada, bob, email = await strict.client(), await strict.client(), new_email()
        await signed_up(ada, email)
        await signed_up(bob)
        sql(strict, "update auth.sessions set created_at = now() - interval '25 hours'")
        await ada.auth.reauthenticate()
        code = (await last_mail(strict, email))["code"]
        attempt = bob.auth.update_user({"password": "a new password", "nonce": code})
        assert await refused(attempt) == (422, "reauthentication_not_valid")

    async def test_who_signed_in_lately_needs_none(self, strict):
        client = await strict.client()
        await signed_up(client)
        assert await client.auth.update_user({"password": "a new password"})

    async def test_who_has_no_address_cannot_be_asked(self, strict):
        client = await strict.client()
        session = (await client.auth.sign_in_anonymously()).session
        assert session
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{strict.url}/auth/v1/reauthenticate", headers=bearer(session.access_token))
        assert (answer.status_code, answer.json()["error_code"]) == (422, "validation_failed")
