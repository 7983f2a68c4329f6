"""A new address: asked for by the user, taken over only when those who have the addresses agree."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from supabase_auth.errors import AuthApiError

from local.auth_settings import AuthSettings
from tests.support.auth import Landing, follow, last_mail, mails, new_email, signed_up, sql
from tests.support.stack import PASSWORD, Stack, stack_over


@pytest.fixture
async def confirming(database_url: str) -> AsyncIterator[Stack]:
    async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as running:
        yield running


async def confirmed_person(stack: Stack, email: str):
    """A client of somebody with a confirmed address, whose mails lead straight to a session."""
    client = await stack.client(flow_type="implicit")
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    code = (await last_mail(stack, email))["code"]
    await client.auth.verify_otp({"type": "signup", "email": email, "token": code})
    return client


async def follow_newest(stack: Stack, email: str) -> Landing:
    return await follow((await last_mail(stack, email))["link"])


def address_of_the_only_user(stack: Stack) -> str:
    ((email,),) = sql(stack, "select email from auth.users")
    return email


class TestWithoutConfirmations:
    """As a local stack of Supabase's own: a permanent user's new address is confirmed all the same."""

    @pytest.mark.parametrize("agrees", ["old", "new"])
    async def test_both_addresses_are_asked_and_one_is_enough(self, stack, agrees):
        old, new = new_email(), new_email()
        client = await stack.client(flow_type="implicit")
        await signed_up(client, old)
        await client.auth.update_user({"email": new})
        assert {mail["to"] for mail in await mails(stack)} == {old, new}
        other = {"old": new, "new": old}[agrees]
        left_over = (await last_mail(stack, other))["link"]
        landing = await follow_newest(stack, {"old": old, "new": new}[agrees])
        assert landing.fragment["type"] == "email_change"
        assert address_of_the_only_user(stack) == new
        assert (await follow(left_over)).fragment["error_code"] == "otp_expired"

    async def test_the_new_address_signs_in_when_its_link_was_followed_and_the_old_one_no_more(self, stack):
        old, new = new_email(), new_email()
        client = await stack.client(flow_type="implicit")
        await signed_up(client, old)
        answer = await client.auth.update_user({"email": new.upper()})
        assert (answer.user.email, answer.user.new_email) == (old, new)
        landing = await follow_newest(stack, new)
        assert landing.fragment["type"] == "email_change"
        answer = await client.auth.get_user()
        assert answer
        assert (answer.user.email, answer.user.new_email) == (new, None)
        assert [identity.identity_data["email"] for identity in answer.user.identities or []] == [new]
        assert answer.user.user_metadata["email"] == new
        other = await stack.client()
        assert (await other.auth.sign_in_with_password({"email": new, "password": PASSWORD})).session
        with pytest.raises(AuthApiError, match="Invalid login credentials"):
            await other.auth.sign_in_with_password({"email": old, "password": PASSWORD})

    async def test_a_code_does_as_well(self, stack):
        client, new = await stack.client(), new_email()
        await signed_up(client)
        await client.auth.update_user({"email": new})
        code = (await last_mail(stack, new))["code"]
        answer = await client.auth.verify_otp({"type": "email_change", "email": new, "token": code})
        assert answer.session
        assert answer.session.user.email == new

    async def test_an_address_that_somebody_took_meanwhile_is_refused_at_the_link(self, stack):
        client, wanted = await stack.client(flow_type="implicit"), new_email()
        await signed_up(client)
        await client.auth.update_user({"email": wanted})
        await signed_up(await stack.client(), wanted)
        assert (await follow_newest(stack, wanted)).fragment["error_code"] == "email_exists"

    async def test_the_same_address_is_no_change(self, stack):
        client, email = await stack.client(), new_email()
        await signed_up(client, email)
        assert (await client.auth.update_user({"email": email.upper()})).user.new_email is None
        assert await mails(stack) == []


class TestBothAddressesAgree:
    async def test_both_links_have_to_be_followed_in_any_order(self, confirming):
        for first_is_new in (True, False):
            old, new = new_email(), new_email()
            client = await confirmed_person(confirming, old)
            await client.auth.update_user({"email": new})
            first, second = (new, old) if first_is_new else (old, new)
            landing = await follow_newest(confirming, first)
            assert landing.fragment["message"].startswith("Confirmation link accepted.")
            answer = await client.auth.get_user()
            assert answer
            assert answer.user.email == old
            assert "access_token" in (await follow_newest(confirming, second)).fragment
            answer = await client.auth.get_user()
            assert answer
            assert answer.user.email == new

    async def test_both_codes_do_as_well(self, confirming):
        old, new = new_email(), new_email()
        client = await confirmed_person(confirming, old)
        await client.auth.update_user({"email": new})
        codes = {email: (await last_mail(confirming, email))["code"] for email in (old, new)}
        first = await client.auth.verify_otp({"type": "email_change", "email": old, "token": codes[old]})
        assert (first.session, first.user) == (None, None)
        second = await client.auth.verify_otp({"type": "email_change", "email": new, "token": codes[new]})
        assert second.session
        assert second.session.user.email == new

    async def test_one_address_that_agrees_twice_is_not_two_that_agree(self, confirming):
        old, new = new_email(), new_email()
        client = await confirmed_person(confirming, old)
        await client.auth.update_user({"email": new})
        await follow_newest(confirming, new)
        await client.auth.resend({"type": "email_change", "email": old})
        assert "message" in (await follow_newest(confirming, new)).fragment
        assert address_of_the_only_user(confirming) == old

    async def test_who_agreed_to_one_address_has_not_agreed_to_another(self, confirming):
        old, first, second = new_email(), new_email(), new_email()
        client = await confirmed_person(confirming, old)
        await client.auth.update_user({"email": first})
        agreed = (await last_mail(confirming, old))["link"]
        offered = (await last_mail(confirming, first))["link"]
        await client.auth.update_user({"email": second})
        for link in (agreed, offered):
            assert (await follow(link)).fragment["error_code"] == "otp_expired"
        assert address_of_the_only_user(confirming) == old

    async def test_the_setting_leaves_it_to_the_new_address(self, database_url):
        auth = AuthSettings(mailer_autoconfirm=False, mailer_secure_email_change_enabled=False)
        async with stack_over(database_url, auth=auth) as stack:
            old, new = new_email(), new_email()
            client = await confirmed_person(stack, old)
            await client.auth.update_user({"email": new})
            assert [mail["type"] for mail in await mails(stack, old)] == ["signup"]
            assert "access_token" in (await follow_newest(stack, new)).fragment
            assert address_of_the_only_user(stack) == new


class TestAnonymous:
    async def test_they_stay_so_until_the_address_is_confirmed(self, confirming):
        client, email = await confirming.client(flow_type="implicit"), new_email()
        await client.auth.sign_in_anonymously()
        answer = await client.auth.update_user({"email": email, "password": PASSWORD})
        assert answer.user.is_anonymous
        assert "access_token" in (await follow_newest(confirming, email)).fragment
        answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert answer.user
        assert not answer.user.is_anonymous
        assert answer.user.app_metadata == {"provider": "email", "providers": ["email"]}
        assert [identity.provider for identity in answer.user.identities or []] == ["email"]

    async def test_a_password_without_an_address_is_refused(self, stack):
        client = await stack.client()
        await client.auth.sign_in_anonymously()
        with pytest.raises(AuthApiError) as refused:
            await client.auth.update_user({"password": PASSWORD})
        assert (refused.value.status, refused.value.code) == (422, "validation_failed")
