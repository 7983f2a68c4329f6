"""Writes through `/rest/v1`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from postgrest.exceptions import APIError
from postgrest.types import ReturnMethod
from starlette.requests import Request
from supabase import AsyncClient

from local.rest.body import MAX_BYTES, read_body
from local.rest.errors import ApiError
from tests.support.rest import Shop, open_shop

REPRESENTATION = {"Prefer": "return=representation"}


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncGenerator[Shop]:
    async with open_shop(database_url) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(shop: Shop) -> AsyncClient:
    return await shop.stack.client(shop.stack.service_key)


async def test_insert_returns_the_row_with_its_defaults(client: AsyncClient) -> None:
    answer = await client.table("owners").insert({"name": "Eve", "profile": {"n": 1.10}}).execute()

    assert answer.data == [{"id": 4, "name": "Eve", "profile": {"n": 1.1}}]


async def test_a_bulk_insert_fills_missing_keys_with_null_or_the_default(client: AsyncClient) -> None:
    rows = [{"id": 10, "name": "A", "kind": "fish"}, {"id": 11, "name": "B"}]

    with pytest.raises(APIError) as refusal:
        await client.table("pets").insert(rows).execute()
    answer = (
        await client.table("pets").insert(rows, default_to_null=False).select("id", "kind", "owners(name)").execute()
    )

    assert refusal.value.code == "23502"
    assert sorted(answer.data, key=lambda row: row["id"]) == [
        {"id": 10, "kind": "fish", "owners": None},
        {"id": 11, "kind": "cat", "owners": None},
    ]


async def test_a_minimal_insert_has_no_body(shop: Shop, client: AsyncClient) -> None:
    minimal = await client.table("toys").insert({"id": 7, "title": "x"}, returning=ReturnMethod.minimal).execute()
    raw = await shop.service.post("toys", json={"id": 8, "title": "y"})
    counted = await shop.service.post("toys", json=[{"id": 9, "title": "z"}], headers={"Prefer": "count=exact"})
    located = await shop.service.post("toys", json={"id": 12, "title": "y"}, headers={"Prefer": "return=headers-only"})

    assert minimal.data == []
    assert (raw.status_code, raw.content, raw.headers["content-range"]) == (201, b"", "*/*")
    assert counted.headers["content-range"] == "*/1"
    assert located.headers["location"] == "/toys?id=eq.12"


async def test_an_empty_list_inserts_nothing_and_an_empty_object_the_defaults(shop: Shop) -> None:
    await shop.execute(
        "create table public.marks (id bigint generated always as identity); grant all on public.marks to service_role"
    )

    nothing = await shop.service.post("marks", json=[], headers=REPRESENTATION)
    defaults = await shop.service.post("marks", json={}, headers=REPRESENTATION)

    assert (nothing.status_code, nothing.json()) == (201, [])
    assert (defaults.status_code, defaults.json()) == (201, [{"id": 1}])


async def test_upsert_merges_or_ignores(shop: Shop, client: AsyncClient) -> None:
    merged = await client.table("toys").upsert({"id": 1, "title": "BALL"}).execute()
    ignored = (
        await client.table("toys")
        .upsert([{"id": 1, "title": "no"}, {"id": 3, "title": "new"}], ignore_duplicates=True)
        .execute()
    )
    by_name = await client.table("owners").upsert({"name": "Ada", "profile": {}}, on_conflict="name").execute()
    prefer = {"Prefer": "resolution=merge-duplicates"}

    assert merged.data == [{"id": 1, "title": "BALL"}]
    assert ignored.data == [{"id": 3, "title": "new"}]
    assert by_name.data == [{"id": 1, "name": "Ada", "profile": {}}]
    assert (await shop.service.post("toys", json={"id": 1, "title": "x"}, headers=prefer)).status_code == 200
    assert (await shop.service.post("toys", json={"id": 4, "title": "x"}, headers=prefer)).status_code == 201


async def test_update_and_delete_touch_what_the_filter_names(client: AsyncClient) -> None:
    updated = await client.table("pets").update({"kind": "wolf", "tags": ["a", "b c"]}).eq("id", 1).execute()
    nothing = await client.table("pets").update({"kind": "wolf"}).eq("id", 99).execute()
    await client.table("pet_toys").delete().eq("pet_id", 1).execute()
    left = await client.table("pet_toys").select("pet_id").execute()

    assert updated.data[0]["tags"] == ["a", "b c"]
    assert nothing.data == []
    assert left.data == [{"pet_id": 2}]


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_write_without_a_filter_is_refused(shop: Shop, method: str) -> None:
    answer = await shop.service.request(method, "toys", json={"title": "all"})

    assert (answer.status_code, answer.json()["code"]) == (400, "21000")


async def test_a_refused_result_is_rolled_back(shop: Shop, client: AsyncClient) -> None:
    single = await shop.service.patch(
        "toys?id=gt.0",
        json={"title": "same"},
        headers={"Accept": "application/vnd.pgrst.object+json", **REPRESENTATION},
    )
    with pytest.raises(APIError) as too_many:
        await client.table("pet_toys").delete().gt("pet_id", 0).max_affected(2).execute()
    titles = await client.table("toys").select("title").order("id").execute()
    links = await client.table("pet_toys").select("*", count="exact").execute()

    assert (single.status_code, single.json()["details"]) == (406, "The result contains 2 rows")
    assert too_many.value.code == "PGRST124"
    assert titles.data == [{"title": "ball"}, {"title": "rope"}]
    assert links.count == 3


async def test_put_writes_the_one_row_it_names(shop: Shop) -> None:
    created = await shop.service.put("toys?id=eq.5", json={"id": 5, "title": "new"}, headers=REPRESENTATION)
    replaced = await shop.service.put("toys?id=eq.5", json={"id": 5, "title": "newer"})
    other = await shop.service.put("toys?id=eq.6", json={"id": 5, "title": "wrong"})
    unnamed = await shop.service.put("toys?title=eq.new", json={"id": 5, "title": "new"})

    assert (created.status_code, created.json()) == (201, [{"id": 5, "title": "new"}])
    assert replaced.status_code == 204
    assert (other.status_code, other.json()["code"]) == (400, "PGRST115")
    assert (unnamed.status_code, unnamed.json()["code"]) == (405, "PGRST105")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "PGRST102"),
        (b"", 400, "PGRST102"),
        (b"[3]", 400, "PGRST102"),
        (b'[{"id":5,"title":"a"},3]', 400, "PGRST102"),
        (b'[{"id":5,"title":"a"},{"id":6}]', 400, "PGRST102"),
        (b'{"nope":1}', 400, "PGRST204"),
        (b'{"id":1,"title":"taken"}', 409, "23505"),
        (b'{"id":"x","title":"a"}', 400, "22P02"),
        (b'{"id":5}', 400, "23502"),
        (b'{"id":5,"title":"\\u0000"}', 400, "22P05"),
        (b'{"id":5,"title":"\xff"}', 400, "PGRST102"),
    ],
)
async def test_a_body_that_cannot_be_written_says_why(shop: Shop, body: bytes, status: int, code: str) -> None:
    answer = await shop.service.post("toys", content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_foreign_key_that_points_nowhere_is_a_conflict(client: AsyncClient) -> None:
    with pytest.raises(APIError) as refusal:
        await client.table("pets").insert({"id": 5, "name": "x", "owner_id": 99}).execute()

    assert refusal.value.code == "23503"


async def test_an_unknown_preference_is_refused_only_when_strict(shop: Shop) -> None:
    lenient = await shop.service.get("toys", headers={"Prefer": "shape=round"})
    strict = await shop.service.get("toys", headers={"Prefer": "handling=strict, shape=round"})

    assert lenient.status_code == 200
    assert (strict.status_code, strict.json()["details"]) == (400, "Invalid preferences: shape=round")


async def test_a_constraint_checked_at_commit_refuses_the_whole_write(shop: Shop) -> None:
    await shop.execute(
        "create table public.links (id int primary key, "
        "next int references public.links deferrable initially deferred);"
        " grant all on public.links to service_role"
    )

    refused = await shop.service.post("links", json={"id": 1, "next": 2}, headers=REPRESENTATION)
    left = await shop.service.get("links")

    assert (refused.status_code, refused.json()["code"]) == (409, "23503")
    assert left.json() == []


async def test_a_body_over_the_limit_is_refused_before_it_is_read_whole() -> None:
    chunk = b"x" * (MAX_BYTES // 4)
    sent = 0

    async def receive() -> dict[str, object]:
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    with pytest.raises(ApiError) as refusal:
        await read_body(Request({"type": "http", "method": "POST", "headers": []}, receive))

    assert (refusal.value.status, sent) == (413, 5)
