"""PKCE: a mail's link gives a code, and only who began the flow can exchange it for a session."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError

from local.auth_settings import AuthSettings
from tests.support.auth import follow, last_mail, new_email, refusal, signed_up, sql
from tests.support.stack import PASSWORD, Stack, stack_over


@pytest.fixture
async def confirming(database_url: str) -> AsyncIterator[Stack]:
    async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as running:
        yield running


async def code_of(stack: Stack, email: str) -> str:
    """Follow the newest mail's link."""
    landing = await follow((await last_mail(stack, email))["link"])
    assert landing.fragment == {}
    return landing.query["code"]


async def exchange(client: AsyncClient, code: str, verifier: str = ""):
    return await client.auth.exchange_code_for_session(
        {"auth_code": code, "code_verifier": verifier, "redirect_to": ""}
    )


async def refused(attempt) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as error:
        await attempt
    return error.value.status, error.value.code


async def methods_of(client: AsyncClient) -> list[str]:
    claims = await client.auth.get_claims()
    assert claims
    return [entry["method"] for entry in claims["claims"]["amr"]]


async def test_each_flow_ends_with_a_session_of_its_own_method(confirming):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    answer = await exchange(client, await code_of(confirming, email))
    assert answer.session
    assert answer.session.user.email_confirmed_at
    assert await methods_of(client) == ["email/signup"]

    await client.auth.sign_in_with_otp({"email": email})
    await exchange(client, await code_of(confirming, email))
    assert await methods_of(client) == ["magiclink"]

    events: list[str] = []
    client.auth.on_auth_state_change(lambda event, _: events.append(event))
    await client.auth.reset_password_for_email(email)
    await exchange(client, await code_of(confirming, email))
    assert await methods_of(client) == ["recovery"]
    assert events[-1] == "PASSWORD_RECOVERY"


@pytest.mark.parametrize(
    ("mail", "method"), [("signup", "email/signup"), ("magiclink", "magiclink"), ("recovery", "recovery")]
)
async def test_a_link_that_an_application_gave_the_type_email_ends_the_same_flow(confirming, mail, method):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    if mail != "signup":
        await exchange(client, await code_of(confirming, email))
    if mail == "magiclink":
        await client.auth.sign_in_with_otp({"email": email})
    if mail == "recovery":
        await client.auth.reset_password_for_email(email)
    link = (await last_mail(confirming, email))["link"]
    landing = await follow(link.replace(f"type={mail}", "type=email"))
    await exchange(client, landing.query["code"])
    assert await methods_of(client) == [method]


async def test_an_implicit_link_of_the_type_email_says_what_it_was(confirming):
    client, email = await confirming.client(flow_type="implicit"), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    for kind in ("signup", "magiclink"):
        link = (await last_mail(confirming, email))["link"]
        landing = await follow(link.replace(f"type={kind}", "type=email"))
        assert landing.fragment["type"] == kind
        await client.auth.sign_in_with_otp({"email": email})


async def test_an_address_changes_by_a_flow_that_both_links_belong_to(confirming):
    client, old, new = await confirming.client(), new_email(), new_email()
    await client.auth.sign_up({"email": old, "password": PASSWORD})
    await exchange(client, await code_of(confirming, old))
    await client.auth.update_user({"email": new})
    first = await follow((await last_mail(confirming, new))["link"])
    assert first.query["message"] == first.fragment["message"]
    answer = await exchange(client, await code_of(confirming, old))
    assert answer.session
    assert answer.session.user.email == new
    assert await methods_of(client) == ["email_change"]


async def test_the_code_of_the_mail_needs_no_exchange(confirming):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    code = (await last_mail(confirming, email))["code"]
    assert (await client.auth.verify_otp({"type": "signup", "email": email, "token": code})).session


async def test_a_query_that_is_there_already_is_kept(confirming):
    client, email = await confirming.client(), new_email()
    redirect = {"email_redirect_to": "http://localhost:3000/in?next=%2Fhome"}
    await client.auth.sign_up({"email": email, "password": PASSWORD, "options": redirect})
    landing = await follow((await last_mail(confirming, email))["link"])
    assert landing.url == "http://localhost:3000/in"
    assert landing.query.keys() == {"next", "code"}
    assert landing.query["next"] == "/home"


async def test_only_who_has_the_verifier_gets_the_session_and_only_once(confirming):
    client, thief, email = await confirming.client(), await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    code = await code_of(confirming, email)
    assert await refused(exchange(thief, code, "x" * 64)) == (400, "bad_code_verifier")
    assert (await exchange(client, code)).session
    assert await refused(exchange(thief, code, "x" * 64)) == (404, "flow_state_not_found")


async def test_a_code_is_good_for_a_limited_time(confirming):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    code = await code_of(confirming, email)
    sql(confirming, "update auth.flow_state set auth_code_issued_at = now() - interval '301 seconds'")
    assert await refused(exchange(client, code)) == (422, "flow_state_expired")


async def test_a_banned_user_gets_no_session(confirming):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    code = await code_of(confirming, email)
    sql(confirming, "update auth.users set banned_until = now() + interval '1 hour'")
    assert await refused(exchange(client, code)) == (403, "user_banned")


async def test_the_database_does_not_hold_the_code(confirming):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    code = await code_of(confirming, email)
    assert code not in str(sql(confirming, "select to_jsonb(f) from auth.flow_state f"))


async def test_what_went_wrong_is_told_where_the_client_looks_for_the_code(confirming):
    client, email = await confirming.client(), new_email()
    await client.auth.sign_up({"email": email, "password": PASSWORD})
    link = (await last_mail(confirming, email))["link"]
    await follow(link)
    again = await follow(link)
    assert again.query["error_code"] == again.fragment["error_code"] == "otp_expired"


async def test_a_plain_challenge_is_its_own_verifier(stack):
    email, verifier = new_email(), "v" * 43
    await signed_up(await stack.client(), email)
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
        body = {"email": email, "code_challenge": verifier, "code_challenge_method": "plain"}
        assert (await http.post("/otp", json=body)).status_code == 200
        grant = {"auth_code": await code_of(stack, email), "code_verifier": verifier}
        answer = await http.post("/token?grant_type=pkce", json=grant)
    assert answer.json()["user"]["email"] == email


async def test_a_challenge_that_is_none_is_refused(stack):
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
        for challenge in (
            {"code_challenge": "c" * 43},
            {"code_challenge_method": "s256"},
            {"code_challenge": "c" * 42, "code_challenge_method": "s256"},
            {"code_challenge": "c" * 129, "code_challenge_method": "s256"},
            {"code_challenge": "!" * 43, "code_challenge_method": "s256"},
            {"code_challenge": "c" * 43, "code_challenge_method": "md5"},
        ):
            for path in ("/otp", "/recover", "/signup"):
                body = {"email": new_email(), "password": PASSWORD, **challenge}
                assert refusal(await http.post(path, json=body)) == (400, "validation_failed"), (path, challenge)
        for grant in ({}, {"auth_code": "x"}, {"code_verifier": "x"}):
            answer = await http.post("/token?grant_type=pkce", json=grant)
            assert refusal(answer) == (400, "validation_failed")
