"""What `/auth/v1` answers to wrong input: the two error shapes, and a 4xx for everything a client can get wrong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.auth.bodies import LARGEST_BODY
from local.auth_settings import AuthSettings
from tests.support.auth import bearer, new_email, refusal, sql
from tests.support.stack import PASSWORD, Stack, stack_over

VERSION = "X-Supabase-Api-Version"
GRANT = "/token?grant_type"


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A caller with the publishable key and no session."""
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers={"apikey": stack.anon_key}) as client:
        yield client


@pytest.fixture
async def admin(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1", headers={"apikey": stack.service_key}) as client:
        yield client


async def sign_up(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/signup", json={"email": new_email(), "password": PASSWORD, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestErrorShapes:
    async def test_a_caller_that_names_a_version_gets_a_named_code_and_the_version_back(self, http):
        body = {"email": "ada@example.com", "password": "wrong one"}
        for version in ("2024-01-01", "2031-12-31"):
            answer = await http.post(f"{GRANT}=password", json=body, headers={VERSION: version})
            assert answer.status_code == 400
            assert answer.json() == {"code": "invalid_credentials", "message": "Invalid login credentials"}
            assert answer.headers[VERSION] == "2024-01-01"
            assert answer.headers["x-sb-error-code"] == "invalid_credentials"

    async def test_anybody_else_gets_the_older_shape(self, http):
        body = {"email": "ada@example.com", "password": "wrong one"}
        for version in ("", "2023-12-31", "tomorrow", "2024-13-01"):
            answer = await http.post(f"{GRANT}=password", json=body, headers={VERSION: version})
            older = {"code": 400, "error_code": "invalid_credentials", "msg": "Invalid login credentials"}
            assert answer.json() == older, version
            assert VERSION not in answer.headers

    async def test_a_weak_password_says_why_in_both_shapes(self, http):
        weak = {"email": new_email(), "password": "short"}
        older = await http.post("/signup", json=weak)
        newer = await http.post("/signup", json=weak, headers={VERSION: "2024-01-01"})
        assert older.status_code == newer.status_code == 422
        assert older.json()["error_code"] == newer.json()["code"] == "weak_password"
        assert older.json()["weak_password"] == newer.json()["weak_password"] == {"reasons": ["length"]}

    async def test_a_browser_may_read_the_version(self, http):
        answer = await http.get("/settings", headers={"Origin": "http://localhost:3000"})
        assert VERSION.lower() in answer.headers["access-control-expose-headers"].lower()


class TestBodies:
    async def test_what_is_no_json_object_is_bad_json(self, http):
        surrogate = b'{"email": "\\ud800@b.c"}'
        for path in ("/signup", f"{GRANT}=password", f"{GRANT}=refresh_token"):
            for raw in (b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", surrogate, b"[" * 100_000):
                assert refusal(await http.post(path, content=raw)) == (400, "bad_json"), (path, raw[:30])

    async def test_a_body_is_kept_up_to_a_limit(self, http):
        assert refusal(await http.post("/signup", content=b" " * LARGEST_BODY)) == (400, "bad_json")
        assert refusal(await http.post("/signup", content=b" " * (LARGEST_BODY + 1))) == (
            413,
            "request_entity_too_large",
        )

    async def test_a_wrong_type_is_named_and_never_repeated(self, http):
        valid = {"email": new_email(), "password": PASSWORD}
        for field, wrong in (
            ("email", 7),
            ("email", ["a@b.c"]),
            ("password", {"$ne": ""}),
            ("data", "text"),
            ("data", [1]),
        ):
            answer = await http.post("/signup", json={**valid, field: wrong})
            assert refusal(answer) == (400, "bad_json")
            assert repr(field) in answer.json()["msg"]
            assert PASSWORD not in answer.text

    async def test_a_wrong_type_in_any_body_is_named(self, http, admin):
        email = new_email()
        for client, path, field, wrong in (
            (http, "/otp", "email", 7),
            (http, "/otp", "create_user", "yes"),
            (http, "/otp", "data", []),
            (http, "/recover", "email", {}),
            (http, "/resend", "type", 1),
            (http, "/verify", "token", 123456),
            (http, "/verify", "token_hash", ["x"]),
            (http, f"{GRANT}=pkce", "auth_code", 1),
            (http, f"{GRANT}=pkce", "code_verifier", {}),
            (http, f"{GRANT}=id_token", "provider", 1),
            (admin, "/invite", "email", ["a@b.c"]),
            (admin, "/invite", "data", "text"),
            (admin, "/admin/generate_link", "type", 1),
            (admin, "/admin/generate_link", "new_email", 1),
            (admin, "/admin/generate_link", "redirect_to", 1),
        ):
            answer = await client.post(path, json={"email": email, field: wrong})
            assert refusal(answer) == (400, "bad_json"), (path, field)
            assert repr(field) in answer.json()["msg"]

    async def test_what_a_mail_needs_is_asked_for(self, http, admin):
        email = new_email()
        for client, path, body in (
            (http, "/otp", {}),
            (http, "/otp", {"email": "nobody"}),
            (http, "/otp", {"email": email, "phone": "49"}),
            (http, "/otp", {"email": email, "channel": "sms"}),
            (http, "/recover", {}),
            (http, "/recover", {"email": "nobody"}),
            (http, "/resend", {"email": email}),
            (http, "/resend", {"type": "recovery", "email": email}),
            (http, "/resend", {"type": "signup"}),
            (http, "/resend", {"type": "sms", "email": email}),
            (http, "/resend", {"type": "signup", "email": email, "phone": "49"}),
            (http, "/verify", {"token": "1", "email": email}),
            (http, "/verify", {"type": "email", "email": email}),
            (http, "/verify", {"type": "email", "token": "1", "token_hash": "2"}),
            (http, "/verify", {"type": "email", "token": "1"}),
            (http, "/verify", {"type": "email", "token": "1", "email": email, "phone": "49"}),
            (http, "/verify", {"type": "email", "token_hash": "2", "email": email}),
            (http, "/verify", {"type": "reauthentication_token", "token_hash": "2"}),
            (admin, "/invite", {}),
            (admin, "/invite", {"email": "nobody"}),
        ):
            assert refusal(await client.post(path, json=body)) == (400, "validation_failed"), (path, body)
        answer = await http.post("/verify", json={"type": "email", "token": "1", "email": "nobody"})
        assert (*refusal(answer), answer.json()["msg"]) == (422, "validation_failed", "Invalid email format")

    async def test_what_cannot_be_stored_is_refused(self, http):
        valid = {"email": new_email(), "password": PASSWORD}
        for wrong in (
            {"email": "no address"},
            {"email": "ada@example.com\n"},
            {"email": f"{'a' * 250}@example.com"},
            {"email": "ada\x00@example.com"},
            {"password": None},
            {"password": "ä" * 37},  # 74 bytes
            {"data": {"name": "a\x00b"}},
        ):
            assert refusal(await http.post("/signup", json=valid | wrong)) == (400, "validation_failed"), wrong

    async def test_metadata_that_no_json_column_can_hold_is_refused(self, http):
        for value in ("NaN", "Infinity", "-Infinity", "1e999999"):
            raw = f'{{"email": "{new_email()}", "password": "{PASSWORD}", "data": {{"n": {value}}}}}'
            assert (await http.post("/signup", content=raw)).status_code == 400, value

    async def test_null_and_empty_mean_absent_as_the_clients_send_them(self, http):
        answer = await http.post("/signup", json={"email": "", "phone": None, "data": None, "code_challenge": None})
        assert answer.json()["user"]["is_anonymous"] is True

    async def test_unknown_keys_are_ignored(self, http):
        session = await sign_up(http, gotrue_meta_security={"captcha_token": None}, role="service_role", id="x")
        assert session["user"]["role"] == "authenticated"

    async def test_metadata_cannot_forge_what_the_server_says_of_a_user(self, http):
        user = (await sign_up(http, data={"sub": "somebody else", "email": "root@example.com"}))["user"]
        assert (user["user_metadata"]["sub"], user["user_metadata"]["email"]) == (user["id"], user["email"])

    async def test_a_grant_nobody_serves_is_refused(self, http):
        for path in ("/token", f"{GRANT}=magic", f"{GRANT}="):
            answer = await http.post(path, json={})
            assert (answer.status_code, answer.json()["msg"]) == (400, "unsupported_grant_type")

    async def test_a_grant_without_what_it_needs_is_refused(self, http):
        await sign_up(http, email="ada@example.com")
        for path, body, code in (
            ("/signup", {"phone": "4915112345678", "password": PASSWORD}, "phone_provider_disabled"),
            (f"{GRANT}=password", {"phone": "49", "password": PASSWORD}, "phone_provider_disabled"),
            (f"{GRANT}=password", {"password": PASSWORD}, "validation_failed"),
            (f"{GRANT}=password", {"email": "ada@example.com"}, "invalid_credentials"),
            (f"{GRANT}=password", {"email": "ada@example.com", "password": "x" * 100}, "invalid_credentials"),
            (f"{GRANT}=password", {"email": "a\x00@b.c", "password": PASSWORD}, "validation_failed"),
            (f"{GRANT}=refresh_token", {}, "validation_failed"),
            (f"{GRANT}=refresh_token", {"refresh_token": "a\x00b"}, "validation_failed"),
        ):
            assert refusal(await http.post(path, json=body)) == (400, code), (path, body)

    async def test_what_is_not_served_says_so_by_name(self, http):
        for method, path in (
            ("GET", "/callback"),
            ("DELETE", "/signup"),
            ("PATCH", "/admin/users"),
        ):
            answer = await http.request(method, path, json={})
            assert refusal(answer) == (404, "not_found")
            assert f"{method} /auth/v1{path}" in answer.json()["msg"]


class TestTokens:
    async def test_no_token_is_401(self, stack):
        async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as nobody:
            assert refusal(await nobody.get("/user")) == (401, "no_authorization")
            for header in ("", "Bearer", "Basic YTpi"):
                answer = await nobody.get("/user", headers={"Authorization": header})
                assert refusal(answer) == (401, "no_authorization"), header

    async def test_what_is_no_token_of_ours_is_bad(self, http):
        unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJ4Iiwicm9sZSI6InNlcnZpY2Vfcm9sZSJ9."
        for token in ("x", "a.b.c", "....", unsigned):
            for path in ("/user", "/admin/users"):
                assert refusal(await http.get(path, headers=bearer(token))) == (403, "bad_jwt"), (path, token)

    async def test_an_api_key_is_no_user(self, stack, http):
        for key in (stack.anon_key, stack.service_key, stack.keys.anon_key, stack.keys.service_role_key):
            assert refusal(await http.get("/user", headers={"apikey": key, **bearer(key)})) == (403, "bad_jwt")

    async def test_an_expired_token_is_refused(self, stack, http):
        user_id = (await sign_up(http))["user"]["id"]
        token = stack.keys.sign_jwt({"sub": user_id, "role": "authenticated", "exp": int(time.time()) - 60})
        answer = await http.get("/user", headers=bearer(token))
        assert refusal(answer) == (403, "bad_jwt")
        assert "expired" in answer.json()["msg"]

    async def test_a_subject_that_is_no_uuid_is_refused(self, stack, http):
        for claims in ({}, {"sub": ""}, {"sub": "ada"}, {"sub": "{0}"}, {"sub": uuid4().hex}):
            token = stack.keys.sign_jwt({**claims, "exp": int(time.time()) + 60})
            status = 400 if claims.get("sub") else 403  # GoTrue's own difference
            assert refusal(await http.get("/user", headers=bearer(token))) == (status, "bad_jwt"), claims

    async def test_a_session_that_is_not_the_users_is_refused(self, stack, http):
        ada, bob = await sign_up(http), await sign_up(http)
        bobs = stack.keys.verify_jwt(bob["access_token"])["session_id"]
        for session_id, code in ((bobs, "session_not_found"), (str(uuid4()), "session_not_found"), ("x", "bad_jwt")):
            claims = {"sub": ada["user"]["id"], "session_id": session_id, "exp": int(time.time()) + 60}
            answer = await http.get("/user", headers=bearer(stack.keys.sign_jwt(claims)))
            assert refusal(answer) == (403, code), session_id

    async def test_a_token_without_a_session_signs_out_every_session(self, stack, http):
        session = await sign_up(http)
        token = stack.keys.sign_jwt({"sub": session["user"]["id"], "exp": int(time.time()) + 60})
        assert (await http.get("/user", headers=bearer(token))).json()["id"] == session["user"]["id"]
        assert (await http.post("/logout?scope=local", headers=bearer(token))).status_code == 204
        assert refusal(await http.get("/user", headers=bearer(session["access_token"]))) == (403, "session_not_found")

    async def test_an_unknown_scope_signs_nobody_out(self, http):
        session = await sign_up(http)
        answer = await http.post("/logout?scope=everything", headers=bearer(session["access_token"]))
        assert refusal(answer) == (400, "validation_failed")
        assert (await http.get("/user", headers=bearer(session["access_token"]))).status_code == 200


class TestAdminInput:
    async def test_a_wrong_new_user_is_refused_and_not_stored(self, admin):
        argon2 = "$argon2id$v=19$m=16,t=2,p=1$c2FsdA$aGFzaA"
        for wrong, code in (
            ({"email": None}, "validation_failed"),
            ({"email": "nobody"}, "validation_failed"),
            ({"id": "7"}, "validation_failed"),
            ({"id": "00000000-0000-0000-0000-000000000000"}, "validation_failed"),
            ({"password": PASSWORD, "password_hash": argon2}, "validation_failed"),
            ({"password_hash": argon2}, "validation_failed"),
            ({"password": "x" * 73}, "validation_failed"),
            ({"ban_duration": "forever"}, "validation_failed"),
            ({"ban_duration": "99999999h"}, "validation_failed"),
            ({"email_confirm": "yes"}, "bad_json"),
            ({"app_metadata": []}, "bad_json"),
            ({"phone": "4915112345678"}, "phone_provider_disabled"),
        ):
            answer = await admin.post("/admin/users", json={"email": new_email()} | wrong)
            assert refusal(answer) == (400, code), wrong
        assert (await admin.get("/admin/users")).json()["users"] == []

    async def test_an_id_belongs_to_one_user(self, admin):
        user_id = str(uuid4())
        assert (await admin.post("/admin/users", json={"email": new_email(), "id": user_id})).status_code == 200
        answer = await admin.post("/admin/users", json={"email": new_email(), "id": user_id})
        assert refusal(answer) == (422, "user_already_exists")

    async def test_a_user_who_is_not_there_is_404(self, admin):
        for method in ("GET", "PUT", "DELETE"):
            for user_id, code in (("7", "validation_failed"), (str(uuid4()), "user_not_found")):
                answer = await admin.request(method, f"/admin/users/{user_id}", json={})
                assert refusal(answer) == (404, code), (method, user_id)

    async def test_a_page_that_is_no_number_is_refused(self, admin):
        for query in ("page=0", "page=-1", "page=x", "per_page=0", "per_page=1e9", f"page={'9' * 30}"):
            assert refusal(await admin.get(f"/admin/users?{query}")) == (400, "validation_failed"), query

    async def test_a_page_past_the_end_is_empty(self, admin):
        answer = await admin.get("/admin/users?page=999999999&per_page=999999999")
        assert (answer.status_code, answer.json()["users"]) == (200, [])

    async def test_a_delete_needs_no_body_but_a_wrong_one_is_refused(self, http, admin):
        user_id = (await sign_up(http))["user"]["id"]
        answer = await admin.request("DELETE", f"/admin/users/{user_id}", json={"should_soft_delete": "yes"})
        assert refusal(answer) == (400, "bad_json")
        assert (await admin.delete(f"/admin/users/{user_id}")).json() == {}


class TestTrouble:
    async def test_a_lost_database_is_503_and_then_forgotten(self, stack, http):
        session = await sign_up(http)
        others = "datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
        sql(stack, f"select pg_terminate_backend(pid) from pg_stat_activity where {others}")
        statuses = []
        while 200 not in statuses:  # each connection of the pool may be found dead once
            answer = await http.get("/user", headers=bearer(session["access_token"]))
            statuses.append(answer.status_code)
        assert set(statuses) <= {200, 503}

    async def test_a_projects_own_trigger_that_refuses_is_not_taken_for_a_rival(self, stack, http):
        sql(stack, "create table public.seats (email text unique)")
        sql(
            stack,
            "create function public.take_seat() returns trigger language plpgsql security definer as"
            " $$ begin insert into public.seats values ('the only one'); return new; end $$",
        )
        sql(stack, "create trigger take_seat after insert on auth.users for each row execute function take_seat()")
        await sign_up(http)
        answer = await http.post("/signup", json={"email": new_email(), "password": PASSWORD})
        assert refusal(answer) == (500, "unexpected_failure")


class TestAbout:
    async def test_settings_say_what_a_form_may_offer(self, http):
        settings = (await http.get("/settings")).json()
        assert {name for name, enabled in settings["external"].items() if enabled} == {"anonymous_users", "email"}
        assert settings["external"]["google"] is settings["external"]["phone"] is False
        assert settings["mailer_autoconfirm"] is True

    async def test_health_answers_without_credentials(self, stack):
        async with httpx.AsyncClient() as nobody:
            answer = await nobody.get(f"{stack.url}/auth/v1/health")
        assert (answer.status_code, answer.json()["name"]) == (200, "GoTrue")


FIELDS = (
    "id", "email", "phone", "password", "password_hash", "refresh_token", "data", "user_metadata", "app_metadata",
    "email_confirm", "role", "ban_duration", "should_soft_delete", "type", "token", "token_hash", "redirect_to",
    "new_email", "nonce", "create_user", "channel", "code_challenge", "code_challenge_method", "auth_code",
    "code_verifier", "provider", "factor_type", "friendly_name", "issuer",
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
plausible = {
    "email": st.just("ada@example.com") | st.emails(),
    "password": st.just(PASSWORD) | st.text(min_size=6, max_size=80),
    "ban_duration": st.from_regex(r"\A\d{1,30}(\.\d+)?(h|m|s|ms)\Z"),
    "data": st.dictionaries(st.text(max_size=10), json_values, max_size=3),
    "role": st.text(max_size=300),
    "type": st.sampled_from(
        [
            "signup",
            "invite",
            "magiclink",
            "recovery",
            "email",
            "email_change",
            "email_change_new",
            "email_change_current",
            "sms",
        ]
    ),
    "factor_type": st.just("totp"),
    "friendly_name": st.text(max_size=80),
    "issuer": st.text(max_size=3000),
    "token": st.text(max_size=80),
    "token_hash": st.text(max_size=80),
    "new_email": st.just("bob@example.com") | st.emails(),
    "redirect_to": st.text(max_size=80) | st.from_regex(r"\Ahttps?://[^/]{0,20}/.{0,20}\Z"),
    "code_challenge": st.from_regex(r"\A[A-Za-z0-9._~-]{43,60}\Z"),
    "code_challenge_method": st.sampled_from(["s256", "S256", "plain"]),
    "auth_code": st.text(min_size=1, max_size=80),
    "code_verifier": st.text(min_size=1, max_size=80),
}
bodies = st.fixed_dictionaries({}, optional={name: plausible.get(name, st.nothing()) | json_values for name in FIELDS})


@pytest.mark.parametrize("autoconfirm", [True, False], ids=["autoconfirm", "confirm"])
async def test_no_body_whatsoever_is_the_servers_fault(database_url, autoconfirm):
    async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=autoconfirm)) as stack:
        await try_bodies(stack)


async def try_bodies(stack: Stack) -> None:
    person = await stack.client()
    await person.auth.sign_in_anonymously()
    session = await person.auth.get_session()
    assert session
    created = await (await stack.client(stack.service_key)).auth.admin.create_user({"email": new_email()})
    token, user = session.access_token, created.user.id
    calls = st.sampled_from(
        [
            ("POST", "/signup", stack.keys.anon_key),
            ("POST", f"{GRANT}=password", stack.keys.anon_key),
            ("POST", f"{GRANT}=refresh_token", stack.keys.anon_key),
            ("POST", f"{GRANT}=pkce", stack.keys.anon_key),
            ("POST", f"{GRANT}=id_token", stack.keys.anon_key),
            ("POST", "/otp", stack.keys.anon_key),
            ("POST", "/magiclink", stack.keys.anon_key),
            ("POST", "/recover", stack.keys.anon_key),
            ("POST", "/resend", stack.keys.anon_key),
            ("POST", "/verify", stack.keys.anon_key),
            ("POST", "/factors", token),
            ("POST", "/invite", stack.keys.service_role_key),
            ("POST", "/admin/generate_link", stack.keys.service_role_key),
            ("PUT", "/user", token),
            ("POST", "/admin/users", stack.keys.service_role_key),
            ("PUT", f"/admin/users/{user}", stack.keys.service_role_key),
            ("DELETE", f"/admin/users/{uuid4()}", stack.keys.service_role_key),
        ]
    )

    def try_them_all() -> None:
        with httpx.Client(base_url=f"{stack.url}/auth/v1") as client:

            @settings(max_examples=400, deadline=None)
            @given(call=calls, body=bodies)
            def is_answered(call: tuple[str, str, str], body: dict[str, Any]) -> None:
                method, path, bearer_token = call
                content = json.dumps(body).encode()  # NaN and lone surrogates included
                answer = client.request(method, path, content=content, headers=bearer(bearer_token))
                assert answer.status_code < 500, answer.text

            is_answered()

    await asyncio.to_thread(try_them_all)


@settings(max_examples=100, deadline=None)
@given(
    query=st.fixed_dictionaries(
        {},
        optional={
            "type": plausible["type"] | st.text(max_size=20),
            "token": st.text(max_size=80) | st.text(max_size=20).map("pkce_{}".format),
            "redirect_to": plausible["redirect_to"],
        },
    ),
    referer=st.text(
        alphabet=st.characters(min_codepoint=33, max_codepoint=255, exclude_categories=["Cc"]), max_size=40
    ),
)
def link_is_answered(client: httpx.Client, query: dict[str, str], referer: str) -> None:
    answer = client.get("/verify", params=query, headers={b"referer": referer.encode("latin-1")})
    assert answer.status_code in {303, 400}
    assert "error_code" in (answer.headers["location"] if answer.status_code == 303 else answer.text)


async def test_no_link_whatsoever_is_the_servers_fault(stack):
    def try_them_all() -> None:
        with httpx.Client(base_url=f"{stack.url}/auth/v1") as client:
            link_is_answered(client)

    await asyncio.to_thread(try_them_all)
