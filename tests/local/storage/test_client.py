"""Every method of supabase-py's Storage client, with the secret key."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError
from supabase import create_client

from tests.local.storage.conftest import files_below
from tests.support.stack import Stack

CONTENT = b"\x00\xff any bytes"


@pytest.fixture
async def box(storage: AsyncStorageClient) -> Any:
    await storage.create_bucket("box")
    return storage.from_("box")


async def test_a_bucket_is_made_shown_changed_and_deleted(storage: AsyncStorageClient) -> None:
    options = {"public": True, "file_size_limit": 1000, "allowed_mime_types": ["image/*", "text/plain"]}
    assert await storage.create_bucket("pictures", options=options) == {"name": "pictures"}
    await storage.create_bucket("other")

    bucket = await storage.get_bucket("pictures")
    assert (bucket.id, bucket.name, bucket.public, bucket.type) == ("pictures", "pictures", True, "STANDARD")
    assert (bucket.file_size_limit, bucket.allowed_mime_types) == (1000, ["image/*", "text/plain"])
    assert [bucket.id for bucket in await storage.list_buckets()] == ["other", "pictures"]

    changed = await storage.update_bucket("pictures", {"public": False})
    assert changed == {"message": "Successfully updated"}
    bucket = await storage.get_bucket("pictures")
    assert (bucket.public, bucket.file_size_limit) == (False, 1000)

    assert await storage.delete_bucket("pictures") == {"message": "Successfully deleted"}
    assert [bucket.id for bucket in await storage.list_buckets()] == ["other"]


async def test_buckets_are_listed_in_pages_by_name_and_search(http: httpx.AsyncClient) -> None:
    for name in ("Alpha", "beta", "alphabet", "1_0"):
        assert (await http.post("/bucket", json={"name": name})).status_code == 200
    wanted = {"search": "alpha", "sortColumn": "name", "sortOrder": "desc"}
    found = await http.get("/bucket", params=wanted)
    assert [bucket["name"] for bucket in found.json()] == ["alphabet", "Alpha"]
    page = await http.get("/bucket", params={"limit": "1", "offset": "1", "sortColumn": "id"})
    assert [bucket["name"] for bucket in page.json()] == ["Alpha"]
    assert [bucket["name"] for bucket in (await http.get("/bucket", params={"search": "_"})).json()] == ["1_0"]


async def test_a_bucket_is_emptied_before_it_is_deleted(storage: AsyncStorageClient, box: Any, files: Path) -> None:
    for name in ("a", "b/c"):
        await box.upload(name, CONTENT)
    with pytest.raises(StorageApiError) as refused:
        await storage.delete_bucket("box")
    assert str(refused.value.status) == "409"
    assert refused.value.message == "The bucket you tried to delete is not empty"

    assert await storage.empty_bucket("box") == {"message": "Successfully emptied"}
    assert await box.list() == []
    assert files_below(files) == []
    await storage.delete_bucket("box")


async def test_what_was_uploaded_is_downloaded(box: Any, tmp_path: Path) -> None:
    uploaded = await box.upload("folder/my file (1).bin", CONTENT, {"content-type": "application/x-thing"})
    assert (uploaded.path, uploaded.full_path) == ("folder/my file (1).bin", "box/folder/my file (1).bin")
    assert await box.download("folder/my file (1).bin") == CONTENT

    file = tmp_path / "file"
    file.write_bytes(CONTENT * 2)
    await box.upload("from a path", file)
    with file.open("rb") as opened:
        await box.upload("from a file", opened)
    assert await box.download("from a path") == await box.download("from a file") == CONTENT * 2


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000], ids=str)
async def test_every_size_comes_back_whole(box: Any, files: Path, size: int) -> None:
    content = b"x\r\n--y" * (size // 6 + 1)
    await box.upload("file", content[:size])
    assert await box.download("file") == content[:size]
    info = await box.info("file")
    assert (info["size"], info["etag"]) == (size, f'"{hashlib.md5(content[:size]).hexdigest()}"')  # noqa: S324
    assert [path.name for path in files_below(files)] == [info["version"]]


async def test_info_tells_what_the_uploader_said(box: Any) -> None:
    options = {"content-type": "image/png", "cache-control": "60", "metadata": {"by": "Ada", "deep": [1, {"é": None}]}}
    await box.upload("a.png", CONTENT, options)
    info = await box.info("a.png")
    assert (info["name"], info["bucket_id"], info["size"]) == ("a.png", "box", len(CONTENT))
    assert (info["content_type"], info["cache_control"]) == ("image/png", "max-age=60")
    assert info["metadata"] == {"by": "Ada", "deep": [1, {"é": None}]}
    assert await box.exists("a.png")
    assert not await box.exists("b.png")


async def test_update_and_upsert_replace_and_leave_one_file(box: Any, files: Path) -> None:
    await box.upload("file", b"one")
    first = await box.info("file")
    with pytest.raises(StorageApiError) as refused:
        await box.upload("file", b"two")
    assert (str(refused.value.status), refused.value.code) == ("409", "Duplicate")
    assert await box.download("file") == b"one"

    await box.update("file", b"two")
    assert await box.download("file") == b"two"
    await box.upload("file", b"three", {"upsert": "true"})
    assert await box.download("file") == b"three"
    last = await box.info("file")
    assert last["id"] == first["id"]
    assert [path.name for path in files_below(files)] == [last["version"]]


async def test_move_and_copy_also_to_another_bucket(
    storage: AsyncStorageClient, box: Any, http: httpx.AsyncClient
) -> None:
    await storage.create_bucket("attic")
    await box.upload("a", CONTENT, {"content-type": "image/png", "metadata": {"k": "v"}})

    assert (await box.copy("a", "b"))["Key"] == "box/b"
    assert (await box.move("a", "deep/c"))["message"] == "Successfully moved"
    assert sorted(entry["name"] for entry in await box.list()) == ["b", "deep"]
    assert await box.download("b") == await box.download("deep/c") == CONTENT
    assert (await box.info("b"))["metadata"] == {"k": "v"}

    away = {"bucketId": "box", "sourceKey": "b", "destinationBucket": "attic", "destinationKey": "b"}
    assert (await http.post("/object/copy", json=away)).json()["Key"] == "attic/b"
    taken = await http.post("/object/move", json=away)
    assert taken.json()["error"] == "Duplicate"
    other = {**away, "copyMetadata": False, "metadata": {"mimetype": "image/gif", "cacheControl": "max-age=1"}}
    replaced = await http.post("/object/copy", json=other, headers={"x-upsert": "true"})
    assert replaced.status_code == 200
    info = await storage.from_("attic").info("b")
    assert (info["content_type"], info["cache_control"], info["metadata"]) == ("image/gif", "max-age=1", None)
    await box.remove(["b"])
    assert await storage.from_("attic").download("b") == CONTENT


async def test_remove_tells_what_is_gone(box: Any, files: Path, http: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await box.upload(name, CONTENT)
    assert sorted(gone["name"] for gone in await box.remove(["a", "b", "nobody"])) == ["a", "b"]
    assert (await http.delete("/object/box/c")).json() == {"message": "Successfully deleted"}
    assert (await http.delete("/object/box/c")).json()["error"] == "not_found"
    assert files_below(files) == []


async def test_what_is_told_of_an_object_is_what_storage_tells(box: Any) -> None:
    await box.upload("a", CONTENT)
    assert set(await box.info("a")) == {
        "id", "name", "version", "bucket_id", "size", "content_type", "cache_control", "etag", "metadata",
        "last_modified", "created_at",
    }  # fmt: skip


async def test_a_token_is_taken_without_its_scheme_too(visitor: httpx.AsyncClient, stack: Stack, box: Any) -> None:
    answer = await visitor.get("/bucket/box", headers={"authorization": stack.keys.service_role_key})
    assert answer.json()["id"] == "box"


async def test_a_folder_is_listed_in_order_and_in_pages(box: Any) -> None:
    for name in ("top", "docs/b.txt", "docs/a.txt", "docs/deep/x", "docs/deep/y", "docs/Alpha", "documents"):
        await box.upload(name, CONTENT)

    assert [entry["name"] for entry in await box.list()] == ["docs", "documents", "top"]
    listed = await box.list("docs")
    assert [entry["name"] for entry in listed] == ["deep", "Alpha", "a.txt", "b.txt"]
    assert listed[0]["id"] is None
    assert listed[1]["metadata"]["size"] == len(CONTENT)
    assert await box.list("docs/") == listed
    backwards = await box.list("docs", {"sortBy": {"column": "name", "order": "desc"}, "limit": 2, "offset": 1})
    assert [entry["name"] for entry in backwards] == ["b.txt", "a.txt"]
    newest = await box.list("docs", {"sortBy": {"column": "created_at", "order": "desc"}})
    assert [entry["name"] for entry in newest] == ["deep", "Alpha", "a.txt", "b.txt"]
    assert [entry["name"] for entry in await box.list("docs", {"search": "al"})] == ["Alpha"]
    assert await box.list("docs", {"search": "%"}) == await box.list("doc") == await box.list("nowhere") == []


async def test_an_empty_folder_is_what_the_dashboard_makes_it(box: Any) -> None:
    await box.upload("empty/.emptyFolderPlaceholder", b"")
    assert [entry["name"] for entry in await box.list()] == ["empty"]
    with pytest.raises(StorageApiError, match="maximum allowed size"):
        await box.upload("full/.emptyFolderPlaceholder", b"x")


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("column", ["name", "created_at", "updated_at"])
async def test_pages_of_list_v2_show_everything_once(box: Any, column: str, order: str) -> None:
    names = ["a", "b/1", "b/2", "b1", "c/d/e", "z"]
    for name in names:
        await box.upload(name, CONTENT)
    for name in ("b/1", "a"):
        await box.update(name, CONTENT)
    expected = sorted(names) if column != "updated_at" else ["b/2", "b1", "c/d/e", "z", "b/1", "a"]

    seen: list[str] = []
    options: dict[str, Any] = {"limit": 2, "sortBy": {"column": column, "order": order}}
    while True:
        page = await box.list_v2(options)
        assert page.folders == []
        seen += [entry.name for entry in page.objects]
        if not page.hasNext:
            break
        options = {"limit": 2, "cursor": page.nextCursor}
    assert seen == (expected if order == "asc" else expected[::-1])


async def test_list_v2_folds_folders_and_goes_on_behind_them(box: Any) -> None:
    for name in ("a", "b/1", "b/2", "b/3/x", "c"):
        await box.upload(name, CONTENT)
    first = await box.list_v2({"with_delimiter": True, "limit": 2})
    assert ([entry.name for entry in first.objects], [entry.name for entry in first.folders]) == (["a"], ["b/"])
    assert [entry.key for entry in (*first.objects, *first.folders)] == ["a", "b"]
    second = await box.list_v2({"with_delimiter": True, "limit": 2, "cursor": first.nextCursor})
    assert ([entry.name for entry in second.objects], second.folders, second.hasNext) == (["c"], [], False)
    inside = await box.list_v2({"with_delimiter": True, "prefix": "b/"})
    assert [entry.name for entry in inside.objects] == ["b/1", "b/2"]
    assert [entry.name for entry in inside.folders] == ["b/3/"]
    assert [entry.key for entry in (*inside.objects, *inside.folders)] == ["1", "2", "3"]


async def test_a_signed_url_opens_one_object_to_anybody(box: Any, visitor: httpx.AsyncClient) -> None:
    await box.upload("folder/a file.txt", CONTENT)
    signed = await box.create_signed_url("folder/a file.txt", 60)
    answer = await visitor.get(signed["signedURL"])
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "expires" in answer.headers

    named = await box.create_signed_url("folder/a file.txt", 60, {"download": "ein Blümchen.txt"})
    answer = await visitor.get(named["signedURL"])
    assert "filename*=UTF-8''ein%20Bl%C3%BCmchen.txt" in answer.headers["content-disposition"]


async def test_many_urls_are_signed_at_once_in_the_order_asked(box: Any, visitor: httpx.AsyncClient) -> None:
    await box.upload("a", b"A")
    await box.upload("b", b"B")
    signed = await box.create_signed_urls(["b", "nobody", "a"], 60)
    assert [item["path"] for item in signed] == ["b", "nobody", "a"]
    assert signed[1]["signedURL"] is None
    assert signed[1]["error"] == "Either the object does not exist or you do not have access to it"
    assert [(await visitor.get(item["signedURL"])).content for item in (signed[0], signed[2])] == [b"B", b"A"]


async def test_a_signed_upload_url_lets_anybody_upload_there(stack: Stack, box: Any) -> None:
    somebody = (await stack.client()).storage.from_("box")
    permit = await box.create_signed_upload_url("letters/1")
    options = {"content-type": "text/x-letter", "metadata": {"from": "me"}}
    uploaded = await somebody.upload_to_signed_url("letters/1", permit["token"], CONTENT, options)
    assert uploaded.full_path == "box/letters/1"
    info = await box.info("letters/1")
    assert (info["content_type"], info["metadata"]) == ("text/x-letter", {"from": "me"})
    with pytest.raises(StorageApiError) as refused:
        await somebody.upload_to_signed_url("letters/1", permit["token"], b"again")
    assert refused.value.code == "Duplicate"


async def test_a_public_url_needs_no_key(storage: AsyncStorageClient, visitor: httpx.AsyncClient) -> None:
    await storage.create_bucket("open", options={"public": True})
    bucket = storage.from_("open")
    await bucket.upload("a b.txt", CONTENT)
    answer = await visitor.get(await bucket.get_public_url("a b.txt", {"download": True}))
    assert (answer.content, answer.headers["content-disposition"]) == (CONTENT, "attachment;")
    assert (await visitor.get("/object/open/a b.txt")).content == CONTENT
    assert (await visitor.get("/object/info/public/open/a b.txt")).json()["size"] == len(CONTENT)
    assert (await visitor.head("/object/public/open/a b.txt")).headers["content-length"] == str(len(CONTENT))


async def test_the_synchronous_client_does_the_same(stack: Stack) -> None:
    def journey() -> tuple[bytes, list[dict[str, Any]]]:
        storage = create_client(stack.url, stack.service_key).storage
        storage.create_bucket("box")
        bucket = storage.from_("box")
        bucket.upload("a", CONTENT)
        content = bucket.download("a")
        bucket.remove(["a"])
        return content, bucket.list()

    assert await asyncio.to_thread(journey) == (CONTENT, [])


async def test_rows_cannot_be_deleted_by_sql_alone(box: Any, sql: psycopg.Connection) -> None:
    await box.upload("a", CONTENT)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Use the Storage API instead"):
        sql.execute("delete from storage.objects")
    assert await box.download("a") == CONTENT
