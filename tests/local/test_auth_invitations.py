"""Invitations and generated links: what the service role hands to people who have no account yet, or lost it."""

from __future__ import annotations

import httpx
import pytest
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from local.auth_settings import AuthSettings
from tests.support.auth import bearer, follow, last_mail, mails, new_email, signed_up, sql
from tests.support.stack import PASSWORD, Stack, stack_over


@pytest.fixture
async def admin(stack: Stack) -> AsyncClient:
    return await stack.client(stack.service_key)


async def refused(attempt) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as error:
        await attempt
    return error.value.status, error.value.code


class TestInvite:
    async def test_the_invited_follow_the_link_and_set_a_password(self, stack, admin):
        email = new_email()
        invited = await admin.auth.admin.invite_user_by_email(
            email, {"data": {"team": "blue"}, "redirect_to": "http://localhost:3000/welcome"}
        )
        assert invited.user.invited_at
        assert invited.user.email_confirmed_at is None
        assert invited.user.user_metadata["team"] == "blue"
        mail = await last_mail(stack, email)
        assert mail["type"] == "invite"
        landing = await follow(mail["link"])
        assert (landing.url, landing.fragment["type"]) == ("http://localhost:3000/welcome", "invite")
        client = await stack.client()
        await client.auth.set_session(landing.fragment["access_token"], landing.fragment["refresh_token"])
        await client.auth.update_user({"password": PASSWORD})
        answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert answer.user
        assert answer.user.id == invited.user.id

    async def test_a_code_does_as_well(self, stack, admin):
        email = new_email()
        await admin.auth.admin.invite_user_by_email(email)
        code = (await last_mail(stack, email))["code"]
        client = await stack.client()
        assert (await client.auth.verify_otp({"type": "invite", "email": email, "token": code})).session

    async def test_who_has_not_come_is_invited_again_and_who_has_is_not(self, stack, admin):
        email = new_email()
        first = await admin.auth.admin.invite_user_by_email(email)
        second = await admin.auth.admin.invite_user_by_email(email.upper())
        assert first.user.id == second.user.id
        newer, older = await mails(stack, email)
        assert (await follow(older["link"])).fragment["error_code"] == "otp_expired"
        assert "access_token" in (await follow(newer["link"])).fragment
        assert await refused(admin.auth.admin.invite_user_by_email(email)) == (422, "email_exists")

    async def test_what_an_invitation_says_is_not_shown_to_who_signs_up_with_the_address(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as stack:
            admin, email = await stack.client(stack.service_key), new_email()
            await admin.auth.admin.invite_user_by_email(email, {"data": {"salary": 1}})
            answer = await (await stack.client()).auth.sign_up({"email": email, "password": PASSWORD})
            assert answer.user
            assert (answer.user.user_metadata, answer.user.identities) == ({}, [])


class TestGenerateLink:
    async def test_it_answers_what_the_mail_would_carry_and_sends_none(self, stack, admin):
        email = new_email()
        answer = await admin.auth.admin.generate_link(
            {
                "type": "signup",
                "email": email,
                "password": PASSWORD,
                "options": {"data": {"name": "Ada"}, "redirect_to": "http://localhost:3000/in"},
            }
        )
        properties = answer.properties
        assert answer.user.user_metadata["name"] == "Ada"
        assert (properties.verification_type, properties.redirect_to) == ("signup", "http://localhost:3000/in")
        assert properties.hashed_token in properties.action_link
        assert await mails(stack) == []
        landing = await follow(properties.action_link)
        assert landing.url == "http://localhost:3000/in"
        client = await stack.client()
        assert (await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})).session

    @pytest.mark.parametrize(
        ("target", "written"),
        [
            ("http://localhost:3000/welcome", "http://localhost:3000/welcome"),
            ("http://localhost:3000/?a=b+c&d=%20#e", "http%3A%2F%2Flocalhost%3A3000%2F%3Fa%3Db%2Bc%26d%3D%2520%23e"),
        ],
        ids=["plain", "with a query"],
    )
    async def test_where_a_link_leads_stands_in_it_as_it_is_if_it_can(self, stack, admin, target, written):
        link = {"type": "magiclink", "email": new_email(), "options": {"redirect_to": target}}
        made = await admin.auth.admin.generate_link(link)
        assert made.properties.action_link.endswith(f"&redirect_to={written}")
        landing = await follow(made.properties.action_link)
        assert landing.url == target.split("?")[0]

    @pytest.mark.parametrize("kind", ["signup", "invite", "magiclink"])
    async def test_who_is_made_by_a_link_has_the_metadata_as_it_was_given(self, admin, kind):
        link = {"type": kind, "email": new_email(), "password": PASSWORD, "options": {"data": {"status": "alpha"}}}
        made = await admin.auth.admin.generate_link(link)
        assert made.user.user_metadata == {"status": "alpha"}

    async def test_each_kind_signs_in_by_link_code_or_hash(self, stack, admin):
        email = new_email()
        await signed_up(await stack.client(), email)
        for kind in ("magiclink", "recovery"):
            for way in ("link", "code", "hash"):
                properties = (await admin.auth.admin.generate_link({"type": kind, "email": email})).properties
                client = await stack.client()
                if way == "link":
                    assert (await follow(properties.action_link)).fragment["type"] == kind
                elif way == "code":
                    code = {"type": kind, "email": email, "token": properties.email_otp}
                    assert (await client.auth.verify_otp(code)).session
                else:
                    by_hash = {"type": kind, "token_hash": properties.hashed_token}
                    assert (await client.auth.verify_otp(by_hash)).session

    async def test_an_invitation_and_a_magic_link_create_who_is_not_there(self, stack, admin):
        invited = await admin.auth.admin.generate_link({"type": "invite", "email": new_email()})
        assert (invited.properties.verification_type, bool(invited.user.invited_at)) == ("invite", True)
        linked = await admin.auth.admin.generate_link({"type": "magiclink", "email": new_email()})
        assert linked.properties.verification_type == "signup"
        for answer in (invited, linked):
            assert "access_token" in (await follow(answer.properties.action_link)).fragment

    async def test_a_new_address_is_taken_over_when_both_links_were_followed(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as stack:
            admin, old, new = await stack.client(stack.service_key), new_email(), new_email()
            created = await admin.auth.admin.create_user({"email": old, "password": PASSWORD, "email_confirm": True})
            links = [
                (await admin.auth.admin.generate_link({"type": kind, "email": old, "new_email": new})).properties
                for kind in ("email_change_current", "email_change_new")
            ]
            assert "message" in (await follow(links[0].action_link)).fragment
            assert (await admin.auth.admin.get_user_by_id(created.user.id)).user.email == old
            assert "access_token" in (await follow(links[1].action_link)).fragment
            assert (await admin.auth.admin.get_user_by_id(created.user.id)).user.email == new

    async def test_consent_to_one_address_is_none_to_another(self, database_url):
        async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as stack:
            admin, old = await stack.client(stack.service_key), new_email()
            await admin.auth.admin.create_user({"email": old, "email_confirm": True})
            ask = {"type": "email_change_current", "email": old}
            first = await admin.auth.admin.generate_link({**ask, "new_email": new_email()})
            await admin.auth.admin.generate_link({**ask, "type": "email_change_new", "new_email": new_email()})
            assert (await follow(first.properties.action_link)).fragment["error_code"] == "otp_expired"

    async def test_what_cannot_be_generated_is_refused(self, stack, admin):
        taken, other = new_email(), new_email()
        for email in (taken, other):
            await signed_up(await stack.client(), email)
        for params, answer in (
            ({"type": "signup", "email": taken, "password": PASSWORD}, (422, "email_exists")),
            ({"type": "invite", "email": taken}, (422, "email_exists")),
            ({"type": "recovery", "email": new_email()}, (404, "user_not_found")),
            ({"type": "email_change_new", "email": new_email(), "new_email": other}, (404, "user_not_found")),
            ({"type": "email_change_new", "email": taken, "new_email": other}, (422, "email_exists")),
            ({"type": "email_change_new", "email": taken}, (400, "validation_failed")),
            ({"type": "signup", "email": new_email()}, (400, "validation_failed")),
            ({"type": "sms", "email": taken}, (400, "validation_failed")),
            ({"type": "magiclink", "email": "nobody"}, (400, "validation_failed")),
            ({"type": "magiclink"}, (400, "validation_failed")),
        ):
            assert await refused(admin.auth.admin.generate_link(params)) == answer, params
        with pytest.raises(AuthWeakPasswordError):
            await admin.auth.admin.generate_link({"type": "signup", "email": new_email(), "password": "123"})
        assert sql(stack, "select count(*) from auth.users") == [(2,)]

    async def test_a_place_that_is_not_allowed_is_replaced_by_the_site(self, admin):
        for redirect_to in ("https://evil.example.com/", "javascript:alert(1)", "//evil.example.com"):
            answer = await admin.auth.admin.generate_link(
                {"type": "magiclink", "email": new_email(), "options": {"redirect_to": redirect_to}}
            )
            assert answer.properties.redirect_to == "http://127.0.0.1:3000"


async def test_only_the_service_role_may_do_either(stack):
    session = await signed_up(await stack.client())
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
        for path in ("/invite", "/admin/generate_link"):
            body = {"email": new_email(), "type": "magiclink"}
            for token in (stack.keys.anon_key, session.access_token):
                answer = await http.post(path, json=body, headers=bearer(token))
                assert (answer.status_code, answer.json()["error_code"]) == (403, "not_admin")
            answer = await http.post(path, json=body)
            assert (answer.status_code, answer.json()["error_code"]) == (401, "no_authorization")
            for key in (stack.service_key, stack.keys.service_role_key):
                body = {"email": new_email(), "type": "magiclink"}
                assert (await http.post(path, json=body, headers={"apikey": key})).status_code == 200
