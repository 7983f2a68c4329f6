"""What the service role may do to users, through the official Python client."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError

from tests.support.auth import bearer, new_email, refresh, signed_up, sql
from tests.support.stack import PASSWORD, Stack


@pytest.fixture
async def supabase(stack: Stack) -> AsyncClient:
    """A client of its own, as one browser has."""
    return await stack.client()


@pytest.fixture
async def admin(stack: Stack) -> AsyncClient:
    return await stack.client(stack.service_key)


async def test_a_created_user_is_confirmed_only_if_asked(supabase, admin):
    email = new_email()
    created = await admin.auth.admin.create_user({"email": email, "password": PASSWORD})
    assert created.user.email_confirmed_at is None
    with pytest.raises(AuthApiError) as refused:
        await supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})
    assert (refused.value.status, refused.value.code) == (400, "email_not_confirmed")
    await admin.auth.admin.update_user_by_id(created.user.id, {"email_confirm": True})
    assert (await supabase.auth.sign_in_with_password({"email": email, "password": PASSWORD})).session


async def test_everything_about_a_user_can_be_given(supabase, admin):
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


async def test_users_are_listed_a_page_at_a_time_newest_first(stack, admin):
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


async def test_users_are_found_by_a_part_of_address_or_name_and_in_either_order(stack, admin):
    for email, name in (("ada@example.com", "Ada"), ("bob@example.org", "Bob Lovelace"), ("eve@example.com", "Eve")):
        attributes = {"email": email, "user_metadata": {"full_name": name}}
        await admin.auth.admin.create_user(attributes)
    async with httpx.AsyncClient(
        base_url=f"{stack.url}/auth/v1/admin", headers=bearer(stack.keys.service_role_key)
    ) as http:

        async def names(**query: str) -> tuple[list[str], str]:
            answer = await http.get("/users", params=query)
            return [user["email"][:3] for user in answer.json()["users"]], answer.headers["x-total-count"]

        assert await names(filter="example.com") == (["eve", "ada"], "2")
        assert await names(filter="example.com", sort="created_at asc", per_page="1") == (["ada"], "2")
        assert await names(filter="LOVE") == (["bob"], "1")
        assert await names(filter="%") == ([], "0")
        for sort, said in (("email", "bad field for sort 'email'"), ("created_at up", "bad direction for sort 'up'")):
            answer = await http.get("/users", params={"sort": sort})
            assert (answer.status_code, said in answer.json()["msg"]) == (400, True)


async def test_an_address_belongs_to_one_user(admin):
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


async def test_a_banned_user_neither_signs_in_nor_refreshes_until_the_ban_is_lifted(stack, supabase, admin):
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


async def test_a_banned_user_is_refused_with_the_token_of_before(supabase, admin):
    session = await signed_up(supabase)
    await admin.auth.admin.update_user_by_id(session.user.id, {"ban_duration": "1h"})
    with pytest.raises(AuthApiError) as refused:
        await supabase.auth.get_user()
    assert (refused.value.status, refused.value.code) == (403, "user_banned")


async def test_a_new_password_by_the_admin_signs_the_user_out(supabase, admin):
    session = await signed_up(supabase)
    await admin.auth.admin.update_user_by_id(session.user.id, {"password": "another one"})
    with pytest.raises(AuthApiError) as refused:
        await supabase.auth.get_user()
    assert refused.value.code == "session_not_found"


async def test_a_deleted_user_is_gone_with_their_sessions(stack, supabase, admin):
    session = await signed_up(supabase)
    await admin.auth.admin.delete_user(session.user.id)
    with pytest.raises(AuthApiError) as refused:
        await supabase.auth.get_user()
    assert (refused.value.status, refused.value.code) == (403, "user_not_found")
    with pytest.raises(AuthApiError) as missing:
        await admin.auth.admin.get_user_by_id(session.user.id)
    assert (missing.value.status, missing.value.code) == (404, "user_not_found")
    assert sql(stack, "select count(*) from auth.refresh_tokens") == [(0,)]


async def test_a_softly_deleted_user_leaves_a_nameless_row_and_frees_the_address(supabase, admin):
    email = new_email()
    session = await signed_up(supabase, email, nickname="ada")
    await admin.auth.admin.delete_user(session.user.id, should_soft_delete=True)
    left = (await admin.auth.admin.get_user_by_id(session.user.id)).user
    assert left.deleted_at
    assert left.email != email
    assert left.user_metadata == {}
    assert left.identities == []
    assert (await signed_up(supabase, email)).user.id != session.user.id


async def test_only_the_service_role_is_an_admin(stack, supabase):
    session = await signed_up(supabase)
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as http:
        for token in (stack.keys.anon_key, session.access_token):
            answer = await http.get("/admin/users", headers=bearer(token))
            assert (answer.status_code, answer.json()["error_code"]) == (403, "not_admin")
        answer = await http.get("/admin/users")
        assert (answer.status_code, answer.json()["error_code"]) == (401, "no_authorization")
        for key in (stack.service_key, stack.keys.service_role_key):
            assert (await http.get("/admin/users", headers={"apikey": key})).status_code == 200
