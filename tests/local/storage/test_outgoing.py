"""Downloads as browsers and players ask for them: parts, conditions, and the headers that go with a file."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import psycopg
import pytest
from storage3 import AsyncStorageClient

CONTENT = bytes(range(256)) * 4
URL = "/object/public/open/file"


@pytest.fixture
async def bucket(storage: AsyncStorageClient) -> Any:
    await storage.create_bucket("open", options={"public": True})
    bucket = storage.from_("open")
    await bucket.upload("file", CONTENT, {"content-type": "video/mp4", "cache-control": "60"})
    return bucket


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-99999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-99999", 0, 1024),
    ],
)
async def test_a_part_is_sent_alone(visitor: httpx.AsyncClient, bucket: Any, asked: str, start: int, end: int) -> None:
    for method in ("GET", "HEAD"):
        answer = await visitor.request(method, URL, headers={"range": asked})
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
        assert answer.headers["content-length"] == str(end - start)
        assert answer.content == (CONTENT[start:end] if method == "GET" else b"")


async def test_what_is_no_single_part_is_sent_whole(visitor: httpx.AsyncClient, bucket: Any) -> None:
    for asked in ("bytes=5-1", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=" + "9" * 400 + "-"):
        answer = await visitor.get(URL, headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
async def test_a_part_beyond_the_end_cannot_be_sent(visitor: httpx.AsyncClient, bucket: Any, asked: str) -> None:
    answer = await visitor.get(URL, headers={"range": asked})
    assert (answer.status_code, answer.json()["statusCode"], answer.json()["code"]) == (416, "416", "InvalidRange")
    assert answer.headers["content-range"] == "bytes */1024"


async def test_a_part_of_an_empty_file_cannot_be_sent(visitor: httpx.AsyncClient, bucket: Any) -> None:
    await bucket.upload("empty", b"")
    assert (await visitor.get("/object/public/open/empty")).content == b""
    assert (await visitor.get("/object/public/open/empty", headers={"range": "bytes=0-"})).status_code == 416


async def test_a_copy_that_the_client_has_is_not_sent_again(visitor: httpx.AsyncClient, bucket: Any) -> None:
    first = await visitor.get(URL)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for condition in (
        {"if-none-match": etag},
        {"if-none-match": f'"other", W/{etag}'},
        {"if-none-match": "*"},
        {"if-modified-since": modified},
    ):
        answer = await visitor.get(URL, headers=condition)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    for condition in (
        {"if-none-match": '"other"'},
        {"if-none-match": '"other"', "if-modified-since": modified},
        {"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if-modified-since": "yesterday"},
    ):
        assert (await visitor.get(URL, headers=condition)).content == CONTENT

    part = {"range": "bytes=0-9", "if-range": etag}
    assert (await visitor.get(URL, headers=part)).status_code == 206
    await bucket.update("file", CONTENT[::-1])
    assert (await visitor.get(URL, headers=part)).content == CONTENT[::-1]
    assert (await visitor.get(URL, headers={"if-none-match": etag})).status_code == 200


async def test_another_version_than_the_one_that_is_wanted_is_not_sent(visitor: httpx.AsyncClient, bucket: Any) -> None:
    etag = (await visitor.get(URL)).headers["etag"]
    old = "Thu, 01 Jan 1970 00:00:00 GMT"
    for condition in ({"if-match": '"other"', "range": "bytes=0-9"}, {"if-unmodified-since": old}):
        answer = await visitor.get(URL, headers={**condition, "if-none-match": etag})
        assert (answer.status_code, answer.json()["code"]) == (412, "PreconditionFailed")
    for condition in ({"if-match": f'"other", {etag}', "if-unmodified-since": old}, {"if-match": "*"}):
        assert (await visitor.get(URL, headers={**condition, "range": "bytes=0-9"})).content == CONTENT[:10]


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("report.pdf", "attachment; filename=report.pdf; filename*=UTF-8''report.pdf"),
        ("a*b (1).txt", "attachment; filename=\"a*b (1).txt\"; filename*=UTF-8''a%2Ab%20%281%29.txt"),
        (
            'naïve "x"\r\n.txt',
            "attachment; filename=\"na_ve _x___.txt\"; filename*=UTF-8''na%C3%AFve%20%22x%22%0D%0A.txt",
        ),
        ("", "attachment;"),
    ],
    ids=["token", "quoted", "not ascii", "none"],
)
async def test_a_download_is_saved_by_the_name_that_was_asked(
    visitor: httpx.AsyncClient, bucket: Any, name: str, disposition: str
) -> None:
    answer = await visitor.get(URL, params={"download": name})
    assert answer.headers["content-disposition"] == disposition


async def test_a_signed_url_keeps_no_transform_of_what_was_said_of_caches(
    visitor: httpx.AsyncClient, http: httpx.AsyncClient, bucket: Any
) -> None:
    for name, said in (("plain", "max-age=60"), ("kept", "max-age=60, no-transform")):
        await http.post(f"/object/open/{name}", content=b"x", headers={"cache-control": said})
    caches = [
        (await visitor.get((await bucket.create_signed_url(name, 60))["signedURL"])).headers.get("cache-control")
        for name in ("plain", "kept")
    ]
    assert caches == [None, "no-transform"]


async def test_a_file_is_served_as_it_was_uploaded(
    visitor: httpx.AsyncClient, http: httpx.AsyncClient, bucket: Any
) -> None:
    headers = (await visitor.get(URL)).headers
    assert (headers["content-type"], headers["cache-control"]) == ("video/mp4", "max-age=60")
    assert headers["accept-ranges"] == "bytes"
    assert headers["access-control-allow-origin"] == "*"
    assert "content-disposition" not in headers

    packed = {"content-type": "text/css", "content-encoding": "br", "cache-control": "no-store"}
    assert (await http.post("/object/open/packed", content=b"\x0b\x02\x80x\x03", headers=packed)).is_success
    async with visitor.stream("GET", "/object/public/open/packed") as answer:
        assert {name: answer.headers[name] for name in packed} == packed


async def test_a_page_does_not_run(visitor: httpx.AsyncClient, bucket: Any) -> None:
    await bucket.upload("page", b"<script>", {"content-type": "text/html"})
    assert (await visitor.get("/object/public/open/page")).headers["content-type"].startswith("text/plain")


async def test_a_row_changed_by_hand_breaks_no_header(
    visitor: httpx.AsyncClient, bucket: Any, sql: psycopg.Connection
) -> None:
    for metadata in ('{"mimetype": "a\\nb", "eTag": 1, "cacheControl": "é", "lastModified": "now"}', '"text"', None):
        sql.execute("update storage.objects set metadata = %s", [metadata])
        answer = await visitor.get(URL)
        assert (answer.content, answer.headers["content-type"]) == (CONTENT, "application/octet-stream")
        assert (await bucket.info("file"))["name"] == "file"
        assert len(await bucket.list()) == 1


async def test_a_download_that_has_begun_ends_with_the_content_it_began_with(
    visitor: httpx.AsyncClient, bucket: Any
) -> None:
    old = b"o" * 20_000_000
    await bucket.upload("large", old)
    async with visitor.stream("GET", "/object/public/open/large") as answer:
        pieces = answer.aiter_bytes()
        received = await anext(pieces)
        await bucket.update("large", b"new")
        await bucket.remove(["large"])
        async for piece in pieces:
            received += piece
    assert received == old


async def test_readers_never_miss_an_object_that_is_being_replaced(visitor: httpx.AsyncClient, bucket: Any) -> None:
    async def replace() -> None:
        for number in range(30):
            await bucket.update("file", b"%d" % number)

    writing = asyncio.create_task(replace())
    while not writing.done():
        assert (await visitor.get(URL)).status_code == 200
    await writing
