"""Refresh tokens: one live one a session, and what happens to those that come back."""

from __future__ import annotations

import asyncio

import pytest
from supabase import AsyncClient
from supabase_auth.errors import AuthApiError

from tests.support.auth import new_email, refresh, signed_up, sql
from tests.support.stack import PASSWORD, Stack


@pytest.fixture
async def supabase(stack: Stack) -> AsyncClient:
    """A client of its own, as one browser has."""
    return await stack.client()


def age_tokens(stack: Stack) -> None:
    """Let every token have been used longer ago than the reuse window."""
    sql(stack, "update auth.refresh_tokens set updated_at = updated_at - interval '11 seconds'")


async def test_each_refresh_gives_a_new_token_of_the_same_session(supabase):
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


async def test_a_client_that_lost_the_reply_gets_the_same_token_again(stack, supabase):
    first = await signed_up(supabase)
    answers = [await refresh(supabase, first.refresh_token) for _ in range(2)]
    age_tokens(stack)
    answers.append(await refresh(supabase, first.refresh_token))
    assert len(set(answers)) == 1


async def test_refreshes_at_the_same_time_agree_on_one_token(stack, supabase):
    first = await signed_up(supabase)
    clients = [await stack.client() for _ in range(8)]
    answers = await asyncio.gather(*(refresh(client, first.refresh_token) for client in clients))
    assert len(set(answers)) == 1
    assert sql(stack, "select count(*) from auth.refresh_tokens where not revoked") == [(1,)]


async def test_an_older_token_is_good_for_a_moment(supabase):
    first = await signed_up(supabase)
    second = await refresh(supabase, first.refresh_token)
    third = await refresh(supabase, second)
    assert await refresh(supabase, first.refresh_token) == third


async def test_an_older_token_that_comes_back_late_ends_the_whole_family(stack, supabase):
    first = await signed_up(supabase)
    second = await refresh(supabase, first.refresh_token)
    third = await refresh(supabase, second)
    age_tokens(stack)
    for token in (first.refresh_token, third):
        with pytest.raises(AuthApiError) as refused:
            await refresh(supabase, token)
        assert (refused.value.status, refused.value.code) == (400, "refresh_token_already_used")


async def test_another_session_of_the_user_survives_that(stack, supabase):
    email = new_email()
    first = await signed_up(supabase, email)
    other = await stack.client()
    await other.auth.sign_in_with_password({"email": email, "password": PASSWORD})
    await refresh(supabase, await refresh(supabase, first.refresh_token))
    age_tokens(stack)
    with pytest.raises(AuthApiError):
        await refresh(supabase, first.refresh_token)
    assert (await other.auth.refresh_session()).session


async def test_an_unknown_token_is_not_found(supabase):
    with pytest.raises(AuthApiError) as refused:
        await refresh(supabase, "never-given-out")
    assert (refused.value.status, refused.value.code) == (400, "refresh_token_not_found")


async def test_a_session_past_its_end_is_not_continued(stack, supabase):
    session = await signed_up(supabase)
    sql(stack, "update auth.sessions set not_after = now() - interval '1 minute'")
    with pytest.raises(AuthApiError) as refused:
        await refresh(supabase, session.refresh_token)
    assert refused.value.code == "session_expired"


async def test_a_sign_out_amid_refreshes_ends_the_session_cleanly(stack, supabase):
    """Both lock the session before its tokens, so neither waits for the other in a circle."""
    for _ in range(5):
        session = await signed_up(supabase)
        clients = [await stack.client() for _ in range(4)]
        outcomes = await asyncio.gather(
            *(refresh(client, session.refresh_token) for client in clients),
            supabase.auth.admin.sign_out(session.access_token),
            return_exceptions=True,
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert {getattr(error, "code", error) for error in errors} <= {"refresh_token_not_found"}
        assert sql(stack, "select count(*) from auth.sessions") == [(0,)]
