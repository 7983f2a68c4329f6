"""Who may do what through `/rest/v1`, and how it follows the schema and a lost database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette

from local import rest
from local.config import StackConfig
from local.keys import Keys
from local.services import Services
from tests.support.rest import Shop, open_shop
from tests.support.rest_cases import by_id

DEADLINE_SECONDS = 10


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncGenerator[Shop]:
    async with open_shop(database_url) as opened:
        yield opened


def claims(**changes: object) -> dict[str, object]:
    return {
        "role": "authenticated",
        "sub": "00000000-0000-0000-0000-000000000001",
        "exp": time.time() + 86_400,
    } | changes


async def ask(shop: Shop, token: str, path: str = "rpc/seen") -> httpx.Response:
    return await shop.anon.get(path, headers={"Authorization": f"Bearer {token}"})


async def test_nobody_in_particular_is_anon(shop: Shop) -> None:
    async with httpx.AsyncClient(base_url=f"{shop.stack.url}/rest/v1/") as nobody:
        seen = (await nobody.get("rpc/seen")).json()
        refused = await nobody.get("pets")

    assert (seen["role"], seen["claims"], seen["timeout"]) == ("anon", {"role": "anon"}, "3s")
    assert (refused.status_code, refused.json()["code"]) == (401, "42501")
    assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["secret_key", "service_role_key"])
async def test_a_key_in_the_query_is_a_key_and_no_filter(shop: Shop, key: str) -> None:
    given = getattr(Keys(), key)
    async with httpx.AsyncClient(base_url=f"{shop.stack.url}/rest/v1/") as browser:
        rows = await browser.get(f"owners?select=name&apikey={given}&name=eq.A%64a")
        root = await browser.get(f"?apikey={given}")
        users = await browser.get(f"{shop.stack.url}/auth/v1/admin/users?apikey={given}")

    assert (rows.status_code, rows.json()) == (200, [{"name": "Ada"}])
    assert "/owners" in root.json()["paths"]
    assert users.status_code == 200


async def test_a_key_in_a_header_goes_before_one_in_the_query(shop: Shop) -> None:
    seen = await shop.anon.get("rpc/seen", params={"apikey": Keys().secret_key})

    assert (seen.status_code, seen.json()["role"]) == (200, "anon")


async def test_a_users_claims_reach_the_database(shop: Shop) -> None:
    token = Keys().sign_jwt(claims(app_metadata={"plan": "pro"}))

    seen = (await ask(shop, token)).json()
    again = (await ask(shop, token)).json()

    assert seen == again
    assert (seen["role"], seen["claims"]["app_metadata"]) == ("authenticated", {"plan": "pro"})


async def test_a_number_beyond_64_bits_in_the_claims_reaches_the_database(shop: Shop) -> None:
    seen = await ask(shop, Keys().sign_jwt(claims(user_metadata={"big": 10**22})))

    assert (seen.status_code, seen.json()["claims"]["user_metadata"]) == (200, {"big": 10**22})


async def test_a_token_without_role_is_anon(shop: Shop) -> None:
    token = Keys().sign_jwt({"exp": time.time() + 60})

    assert (await ask(shop, token)).json()["claims"]["role"] == "anon"


OTHERS = Keys(jwt_secret="another-secret-with-at-least-32-characters")
NO_NUMBER = {name: f"The JWT '{name}' claim must be a number" for name in ("exp", "nbf", "iat")}
AUDIENCE = "The JWT 'aud' claim must be a string or an array of strings"
UNSECURED = "JWT is unsecured but expected 'alg' was not 'none'"
# Token -> code, message, details.
TOKENS: dict[str, tuple[str, str, str, str | None]] = {
    "none": ("", "PGRST301", "Empty JWT is sent in Authorization header", None),
    "two parts": ("a.b", "PGRST301", "Expected 3 parts in JWT; got 2", None),
    "no JWT": ("not.a.jwt", "PGRST301", "JWT cryptographic operation failed", None),
    "unsigned": (
        "eyJhbGciOiJub25lIn0.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.",
        "PGRST301",
        "Wrong or unsupported encoding algorithm",
        UNSECURED,
    ),
    "signed by somebody else": (
        OTHERS.sign_legacy_jwt(claims()),
        "PGRST301",
        "No suitable key or wrong key type",
        "None of the keys was able to decode the JWT",
    ),
    "over": (Keys().sign_jwt(claims(exp=1)), "PGRST303", "JWT expired", None),
    "not begun": (Keys().sign_jwt(claims(nbf=time.time() + 999)), "PGRST303", "JWT not yet valid", None),
    "from the future": (Keys().sign_jwt(claims(iat=time.time() + 999)), "PGRST303", "JWT issued at future", None),
    "for nobody": (Keys().sign_legacy_jwt(claims(aud={"a": 1})), "PGRST303", AUDIENCE, None),
    "for numbers": (Keys().sign_legacy_jwt(claims(aud=["a", 1])), "PGRST303", AUDIENCE, None),
    "of no role": (Keys().sign_jwt(claims(role=["x"])), "PGRST303", "JWT role claim is not a string", None),
    **{
        f"with another {name}": (Keys().sign_legacy_jwt(claims(**{name: "x"})), "PGRST303", message, None)
        for name, message in NO_NUMBER.items()
    },
}


@pytest.mark.parametrize("case", by_id(TOKENS))
async def test_a_token_that_proves_nothing_is_refused(shop: Shop, case: tuple[str, str, str, str | None]) -> None:
    token, code, message, details = case

    answer = await shop.anon.get("rpc/seen", headers={"Authorization": f"Bearer {token}".rstrip()})

    assert answer.status_code == 401
    assert answer.json() == {"code": code, "message": message, "details": details, "hint": None}
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("role", "status", "code"), [("postgres", 403, "42501"), ("nobody_known", 401, "22023")])
async def test_a_role_that_is_not_the_apis_is_refused(shop: Shop, role: str, status: int, code: str) -> None:
    answer = await ask(shop, Keys().sign_jwt(claims(role=role)))

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_what_a_function_sets_for_good_changes_nobodys_role_or_claims(shop: Shop) -> None:
    await shop.execute("""
        create function public.seize() returns void language sql as $$
          select set_config('role', 'service_role', false),
            set_config('request.jwt.claims', '{"role":"service_role"}', false), set_config('search_path', 'auth', false)
        $$;
        grant execute on function public.seize to anon
    """)

    seized = [await shop.anon.post("rpc/seize") for _ in range(4)]
    seen = [(await shop.anon.get("rpc/seen")).json() for _ in range(4)]
    await shop.execute("create table public.later (id integer); grant select on public.later to service_role")
    later = await shop.service.get("later")

    assert {answer.status_code for answer in seized} == {204}
    assert {(one["role"], one["claims"]["role"], one["search_path"]) for one in seen} == {
        ("anon", "anon", '"public", "public", "extensions"')
    }
    assert (later.status_code, later.json()) == (200, [])


async def test_rows_belong_to_who_wrote_them(shop: Shop) -> None:
    ada, bob = await shop.stack.sign_up(), await shop.stack.sign_up()

    await ada.client.table("notes").insert({"body": "mine"}).execute()
    forged = await shop.anon.post(
        "notes", json={"body": "x", "author": ada.user_id}, headers={"Authorization": f"Bearer {bob.access_token}"}
    )

    assert [note["body"] for note in (await ada.client.table("notes").select("body").execute()).data] == ["mine"]
    assert (await bob.client.table("notes").select("body").execute()).data == []
    assert (forged.status_code, forged.json()["code"]) == (403, "42501")


async def test_only_public_is_exposed(shop: Shop) -> None:
    read = await shop.service.get("users", headers={"Accept-Profile": "auth"})
    written = await shop.service.post("users", json={}, headers={"Content-Profile": "auth"})
    by_default = await shop.service.get("toys", headers={"Accept-Profile": "public", "Content-Profile": "other"})

    assert (read.status_code, read.json()["code"]) == (406, "PGRST106")
    assert read.json()["hint"] == "Only the following schemas are exposed: public"
    assert written.status_code == 406
    assert by_default.status_code == 200


async def test_formats_that_are_not_ours_are_refused(shop: Shop) -> None:
    answer = await shop.service.get("toys", headers={"Accept": "image/png"})
    among_others = await shop.service.get("toys", headers={"Accept": "text/html, */*;q=0.8"})

    assert (answer.status_code, answer.json()["code"]) == (406, "PGRST107")
    assert among_others.status_code == 200


async def test_a_head_has_the_headers_of_a_get_and_no_body(shop: Shop) -> None:
    found = await shop.service.head("toys", headers={"Prefer": "count=exact"})
    missing = await shop.service.head("nope")

    assert (found.status_code, found.headers["content-range"], found.content) == (200, "0-1/2", b"")
    assert (missing.status_code, missing.headers["proxy-status"]) == (404, "PostgREST; error=PGRST205")


async def test_a_new_table_or_function_works_in_the_next_request(shop: Shop) -> None:
    async with await psycopg.AsyncConnection.connect(shop.stack.database_url, autocommit=True) as connection:
        await connection.execute("create table public.fresh (id int); grant all on public.fresh to service_role")
        table = await shop.service.get("fresh")
        await connection.execute("create function public.fresh_one() returns int language sql as 'select 1'")
        await connection.execute("grant execute on function public.fresh_one() to service_role")
        function = await shop.service.post("rpc/fresh_one")
        await connection.execute("alter table public.fresh add name text")
        column = await shop.service.post("fresh", json={"name": "x"})

    assert [table.status_code, function.status_code, column.status_code] == [200, 200, 201]


async def test_a_change_is_noticed_without_being_asked_for(shop: Shop) -> None:
    async with await psycopg.AsyncConnection.connect(shop.stack.database_url, autocommit=True) as connection:
        await connection.execute(
            "create function public.add(a integer, c text) returns text language sql as 'select c'"
        )
        await connection.execute("alter function public.add(integer, integer) rename to sum_of")

        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await shop.service.post("rpc/add", json={"a": 1, "b": 2})).status_code != 404:
                pass


async def test_it_comes_back_after_the_database_lost_every_connection(shop: Shop) -> None:
    assert (await shop.service.get("toys")).status_code == 200
    async with await psycopg.AsyncConnection.connect(shop.stack.database_url, autocommit=True) as connection:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = 'authenticator' and datname = current_database()"
        )

    statuses: set[int] = set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (status := (await shop.service.get("toys")).status_code) != 200:
            statuses.add(status)

    assert statuses <= {503}
    await test_a_new_table_or_function_works_in_the_next_request(shop)


async def test_who_gets_no_connection_is_told_so_and_the_part_can_still_stop(database_url: str) -> None:
    few = AsyncConnectionPool[AsyncConnection[TupleRow]](
        database_url, min_size=1, max_size=1, timeout=0.3, open=False, kwargs={"autocommit": True}
    )
    services = replace(Services.of(StackConfig(), database_url), pool=few)
    part = rest.build(services)
    transport = httpx.ASGITransport(Starlette(routes=part.routes))
    async with services.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://stack/rest/v1/") as client:
        await part.start()
        async with few.connection():  # the only one; a table that is not known is looked for in the database
            answers = [await client.request(method, "things") for method in ("GET", "OPTIONS")]
        stopped, _ = await asyncio.wait([asyncio.create_task(part.stop())], timeout=DEADLINE_SECONDS)

    assert stopped
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(504, "PGRST003")] * 2
