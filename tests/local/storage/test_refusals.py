"""Bad input, in the shape that Storage's clients read: `{statusCode, code, error, message}`."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import psycopg
import pytest
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from local.storage.signing import UrlSigner
from local.storage.uploads import LARGEST_FILE
from tests.local.storage.conftest import files_below
from tests.support.stack import Stack

SHAPE = {"statusCode", "code", "error", "message"}


def seen(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert set(body) == SHAPE
    return answer.status_code, body["statusCode"], body["code"]


@pytest.fixture
async def box(storage: AsyncStorageClient) -> Any:
    await storage.create_bucket("box", options={"file_size_limit": 1000, "allowed_mime_types": ["text/*", "image/png"]})
    return storage.from_("box")


NAMES = {
    "dots above": b"a/../../b",
    "encoded dots above": b"%2e%2e/b",
    "twice encoded dots": b"%252e%252e/b",
    "one dot": b"./a",
    "nul": b"a%00b",
    "newline": b"a%0Ab",
    "ends with newline": b"a%0A",
    "backslash": b"..%5Cb",
    "no utf-8": b"%FF%FE",
    "umlaut": b"%C3%BC",
    "emoji": b"%F0%9F%98%80",
    "right-to-left override": b"%E2%80%AEtxt",
    "percent": b"100%25",
    "hash": b"a%23b",
    "brackets": b"a%5Bb%5D",
    "angle": b"%3Cscript%3E",
    "tilde": b"~root",
    "too long": b"x" * 1025,
    "nothing": b"",
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_names_that_no_object_can_have(http: httpx.AsyncClient, box: Any, stack: Stack, method: str) -> None:
    async def ask(name: bytes) -> tuple[int, str, str]:
        request = http.build_request(method, "/object/box/x", content=b"x" if method in {"POST", "PUT"} else None)
        request.headers["content-type"] = "text/plain"
        request.extensions["target"] = b"/storage/v1/object/box/" + name  # httpx would tidy it
        return seen(await http.send(request))

    assert {what: await ask(name) for what, name in NAMES.items()} == dict.fromkeys(NAMES, (400, "400", "InvalidKey"))
    assert files_below(stack.config.storage_dir) == []


async def test_names_that_an_object_can_have(http: httpx.AsyncClient, box: Any) -> None:
    for name in ("a" * 1024, "a b", "!-.*'()&$@=;:+,?_", "a//b", "/a", "a/", "..a/b..", "sign/x/y", "a?download=1"):
        url = f"/object/box/{quote(name)}"
        uploaded = await http.post(url, content=b"x", headers={"content-type": "text/plain"})
        assert uploaded.json()["Key"] == f"box/{name}"
        assert (await http.get(url)).content == b"x"
        moved = {"bucketId": "box", "sourceKey": name, "destinationKey": "plain"}
        assert (await http.post("/object/move", json=moved)).is_success
        back = {"bucketId": "box", "sourceKey": "plain", "destinationKey": name}
        assert (await http.post("/object/move", json=back)).is_success
        assert [gone["name"] for gone in await box.remove([name])] == [name]


@pytest.mark.parametrize("action", ["move", "copy"])
async def test_an_object_is_not_moved_to_a_bad_name(http: httpx.AsyncClient, box: Any, action: str) -> None:
    await box.upload("a", b"x")
    for key in ("../x", "a/../b", "a\x00b", "", "ü", "x" * 1025, "a\nb"):
        body = {"bucketId": "box", "sourceKey": "a", "destinationKey": key}
        assert seen(await http.post(f"/object/{action}", json=body)) == (400, "400", "InvalidKey")
    assert [entry["name"] for entry in await box.list()] == ["a"]


async def test_names_that_no_bucket_can_have(http: httpx.AsyncClient) -> None:
    for name in ("", "..", ".", "a/b", "ü", "a\x00", " a", "x" * 101, "100%"):
        for body in ({"name": name}, {"name": "good", "id": name or "/"}):
            assert seen(await http.post("/bucket", json=body)) == (400, "400", "InvalidBucketName")


async def test_what_is_there_already_is_a_duplicate(storage: AsyncStorageClient, box: Any) -> None:
    with pytest.raises(StorageApiError) as refused:
        await storage.create_bucket("box")
    assert (refused.value.status, refused.value.code) == ("409", "Duplicate")
    assert refused.value.message == "The resource already exists"


async def test_a_missing_bucket_is_named_as_such(storage: AsyncStorageClient) -> None:
    nowhere = storage.from_("nowhere")
    for attempt in (
        storage.get_bucket("nowhere"),
        storage.update_bucket("nowhere", {"public": True}),
        storage.empty_bucket("nowhere"),
        storage.delete_bucket("nowhere"),
        nowhere.upload("a", b"x"),
        nowhere.download("a"),
        nowhere.info("a"),
        nowhere.exists("a"),
        nowhere.remove(["a"]),
        nowhere.move("a", "b"),
        nowhere.copy("a", "b"),
        nowhere.create_signed_upload_url("a"),
    ):
        with pytest.raises(StorageApiError) as refused:
            await attempt
        assert (refused.value.status, refused.value.message) == ("404", "Bucket not found")


@pytest.mark.parametrize("form", [True, False], ids=["form", "raw"])
async def test_a_file_over_the_buckets_limit_is_refused(
    http: httpx.AsyncClient, box: Any, stack: Stack, *, form: bool
) -> None:
    def upload(size: int) -> dict[str, Any]:
        content = b"x" * size
        raw = {"content": content, "headers": {"content-type": "text/plain"}}
        return {"files": {"file": ("f", content, "text/plain")}} if form else raw

    assert (await http.post("/object/box/fits", **upload(1000))).is_success
    answer = await http.post("/object/box/large", **upload(1001))
    assert seen(answer) == (400, "413", "EntityTooLarge")
    assert answer.json()["error"] == "Payload too large"
    assert not await box.exists("large")
    assert len(files_below(stack.config.storage_dir)) == 1


async def test_a_body_without_an_end_is_cut_off_at_the_limit(
    http: httpx.AsyncClient, storage: AsyncStorageClient, stack: Stack
) -> None:
    await storage.create_bucket("any")
    chunk = b"x" * (1 << 20)
    sent = 0

    async def content():
        nonlocal sent
        while sent < LARGEST_FILE + 2 * len(chunk):
            sent += len(chunk)
            yield chunk

    assert seen(await http.post("/object/any/large", content=content())) == (400, "413", "EntityTooLarge")
    assert files_below(stack.config.storage_dir) == []


async def test_a_length_over_the_limit_is_refused_before_the_body(stack: Stack, storage: AsyncStorageClient) -> None:
    await storage.create_bucket("any")
    head = (
        f"POST /storage/v1/object/any/large HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST_FILE + 1}\r\n"
        f"Authorization: Bearer {stack.keys.service_role_key}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.config.port)
    writer.write(head.encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("form", [True, False], ids=["form", "raw"])
async def test_a_bucket_takes_its_types_only(http: httpx.AsyncClient, box: Any, *, form: bool) -> None:
    async def upload(mime_type: str) -> httpx.Response:
        raw = {"content": b"x", "headers": {"content-type": mime_type}}
        return await http.put("/object/box/file", **({"files": {"file": ("f", b"x", mime_type)}} if form else raw))

    for mime_type in ("text/plain", "TEXT/HTML; charset=utf-8", "image/png"):
        assert (await upload(mime_type)).is_success
    for mime_type in ("image/gif", "textual/plain", "image/png+xml", "text"):
        assert seen(await upload(mime_type)) == (400, "415", "InvalidMimeType")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"file_size_limit": "2 parsecs"}, "InvalidRequest"),
        ({"file_size_limit": "9" * 500 + "gb"}, "InvalidRequest"),
        ({"file_size_limit": -1}, "InvalidRequest"),
        ({"file_size_limit": "51mb"}, None),
        ({"file_size_limit": "1gb"}, "EntityTooLarge"),
        ({"file_size_limit": 10**30}, "EntityTooLarge"),
        ({"allowed_mime_types": ["nonsense"]}, "InvalidMimeType"),
        ({"allowed_mime_types": "text/plain"}, "InvalidRequest"),
        ({"public": "perhaps"}, "InvalidRequest"),
        ({"type": "ANALYTICS"}, "NotSupported"),
        ({"versioning_status": "ENABLED"}, "NotSupported"),
    ],
    ids=["words", "digits", "negative", "fits", "huge", "astronomic", "type", "no list", "public", "kind", "versions"],
)
async def test_limits_that_make_no_sense(http: httpx.AsyncClient, limits: dict[str, Any], code: str | None) -> None:
    for answer in (
        await http.post("/bucket", json={"name": "new", **limits}),
        await http.put("/bucket/new", json=limits),
    ):
        if code is None:
            assert answer.is_success
        elif not (answer.request.method == "PUT" and "type" in limits):
            assert seen(answer)[2] == code


BODIES = {
    "no json": b"{",
    "not an object": b"[]",
    "nothing": b"",
    "no seconds": b'{"paths": ["a"]}',
    "never": b'{"expiresIn": 0, "paths": ["a"]}',
    "forever": b'{"expiresIn": 1e30, "paths": ["a"]}',
    "no paths": b'{"expiresIn": 60, "paths": []}',
    "a number for a path": b'{"expiresIn": 60, "paths": [1]}',
    "a surrogate": b'{"expiresIn": 60, "paths": ["\\ud800"]}',
}


async def test_a_body_that_cannot_be_read_is_refused(http: httpx.AsyncClient, box: Any) -> None:
    answers = {what: seen(await http.post("/object/sign/box", content=body)) for what, body in BODIES.items()}
    assert answers == dict.fromkeys(BODIES, (400, "400", "InvalidRequest"))
    large = b'{"paths": ["' + b"a" * (1 << 20) + b'"]}'
    assert seen(await http.post("/object/sign/box", content=large)) == (400, "413", "EntityTooLarge")


async def test_nul_in_a_value_is_no_fault_of_the_servers(http: httpx.AsyncClient, box: Any) -> None:
    listed = await http.post("/object/list/box", json={"prefix": "a\x00", "search": "\x00"})
    assert seen(listed) == (400, "400", "InvalidParameter")
    assert seen(await http.request("DELETE", "/object/box", json={"prefixes": ["\x00"]}))[2] == "InvalidParameter"
    metadata = base64.b64encode(b'{"a": "\\u0000"}').decode()
    headers = {"x-metadata": metadata, "content-type": "text/plain"}
    assert seen(await http.post("/object/box/a", content=b"x", headers=headers))[2] == "InvalidParameter"
    assert seen(await http.post("/object/list-v2/box", json={"cursor": "bm9uc2Vuc2U="}))[2] == "InvalidParameter"


FORM = "multipart/form-data; boundary=x"
FILE_PART = b'--x\r\nContent-Disposition: form-data; name=""; filename="f"\r\n\r\n'
FIELD_PART = b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n'
FORMS = {
    "no boundary": (b"", "multipart/form-data"),
    "no end": (FILE_PART + b"half", FORM),
    "no file": (FIELD_PART % 1 + b"--x--\r\n", FORM),
    "garbage": (b"garbage", FORM),
    "nothing": (b"", FORM),
    "a long boundary": (b"", f"multipart/form-data; boundary={'x' * 300}"),
    "many fields": (b"".join(FIELD_PART % number for number in range(30)), FORM),
}


async def test_a_form_that_cannot_be_read_is_refused(
    http: httpx.AsyncClient, storage: AsyncStorageClient, stack: Stack
) -> None:
    await storage.create_bucket("any")

    async def upload(body: bytes, content_type: str) -> tuple[int, str, str]:
        return seen(await http.post("/object/any/a", content=body, headers={"content-type": content_type}))

    answers = {what: await upload(*form) for what, form in FORMS.items()}
    assert answers == dict.fromkeys(FORMS, (400, "400", "InvalidRequest"))
    assert files_below(stack.config.storage_dir) == []


async def test_a_header_cannot_be_smuggled_into_downloads(http: httpx.AsyncClient, storage: AsyncStorageClient) -> None:
    await storage.create_bucket("any")
    answer = await http.post(
        "/object/any/a", data={"cacheControl": "1\r\nSet-Cookie: a=b"}, files={"file": ("f", b"x", "text/plain")}
    )
    assert seen(answer) == (400, "400", "InvalidRequest")
    assert answer.json()["error"] == "invalid_header_char"


async def test_metadata_that_is_no_object_is_left_out(http: httpx.AsyncClient, box: Any) -> None:
    for number, metadata in enumerate([b"[1]", b"nonsense", b'{"a":' * 600 + b"1" + b"}" * 600]):
        headers = {"x-metadata": base64.b64encode(metadata).decode(), "content-type": "text/plain"}
        assert (await http.post(f"/object/box/{number}", content=b"x", headers=headers)).is_success
        assert (await box.info(str(number)))["metadata"] == {}


async def test_a_signed_url_ends_and_is_good_for_nothing_else(
    http: httpx.AsyncClient, visitor: httpx.AsyncClient, box: Any, stack: Stack
) -> None:
    await box.upload("a", b"x")
    await box.upload("b", b"y")
    signed = (await http.post("/object/sign/box/a", json={"expiresIn": 60})).json()["signedURL"]
    token = signed.partition("token=")[2]
    permit = (await http.post("/object/upload/sign/box/c")).json()["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    forged = jwt.encode(claims, stack.keys.jwt_secret, algorithm="HS256")

    async def get(path: str, token: str) -> httpx.Response:
        return await visitor.get(f"/object/sign/{path}", params={"token": token})

    assert (await get("box/a", token)).content == b"x"
    assert seen(await get("box/b", token)) == (400, "400", "InvalidSignature")
    assert seen(await get("box/c", permit)) == (400, "400", "InvalidSignature")
    assert seen(await visitor.put("/object/upload/sign/box/a", params={"token": token}, content=b"z"))[2] == (
        "InvalidSignature"
    )
    for bad in (forged, stack.keys.service_role_key, jwt.encode(claims, None, algorithm="none"), token[:-2], "", "a.b"):
        assert seen(await get("box/a", bad)) == (400, "400", "InvalidJWT")
    assert seen(await visitor.get("/object/sign/box/a")) == (400, "400", "InvalidRequest")
    assert (
        seen(await visitor.get("/object/authenticated/box/a", headers={"authorization": f"Bearer {token}"}))[1] == "403"
    )
    assert await box.download("a") == b"x"


async def test_an_expired_url_says_so(visitor: httpx.AsyncClient, box: Any, stack: Stack) -> None:
    await box.upload("a", b"x")
    token = UrlSigner(stack.keys).sign("download", "box/a", seconds=-1)
    answer = await visitor.get("/object/sign/box/a", params={"token": token})
    assert seen(answer) == (400, "400", "InvalidJWT")
    assert answer.json()["message"] == '"exp" claim timestamp check failed'


async def test_who_does_not_say_who_they_are_is_refused(visitor: httpx.AsyncClient, stack: Stack, box: Any) -> None:
    # As behind the gateway of a local stack of the CLI, which sends an empty token where there is none.
    nobody = await visitor.get("/bucket")
    assert (*seen(nobody), nobody.json()["message"]) == (400, "403", "AccessDenied", "Invalid Compact JWS")
    now = int(time.time())
    for token, message in (
        ("nonsense", "Invalid Compact JWS"),
        (stack.keys.sign_jwt({"role": "service_role", "exp": now - 100}), '"exp" claim timestamp check failed'),
        (jwt.encode({"role": "service_role"}, "x" * 40, algorithm="HS256"), "signature verification failed"),
        (stack.keys.sign_jwt({"role": "postgres", "exp": now + 100}), 'permission denied to set role "postgres"'),
        (stack.keys.sign_jwt({"role": "nobody", "exp": now + 100}), 'role "nobody" does not exist'),
        (stack.keys.sign_jwt({"role": 1, "exp": now + 100}), "JWT role claim is not a string"),
    ):
        answer = await visitor.get("/bucket", headers={"authorization": f"Bearer {token}"})
        assert seen(answer) == (400, "403", "AccessDenied")
        assert (answer.json()["error"], answer.json()["message"]) == ("Unauthorized", message)


async def test_what_is_not_supported_is_named(http: httpx.AsyncClient) -> None:
    for method, path in (
        ("POST", "/upload/resumable/"),
        ("PATCH", "/upload/resumable/abc"),
        ("DELETE", "/cdn/box/a"),
        ("GET", "/bucket/box/lifecycle"),
    ):
        answer = await http.request(method, path)
        assert seen(answer) == (400, "409", "NotSupported")
        assert answer.json()["message"].startswith("The embedded Storage does not support ")


async def test_what_a_project_may_have_switched_off_is_off(http: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/render/image/authenticated/box/a"),
        ("GET", "/render/image/public/box/a"),
        ("GET", "/s3/box"),
        ("POST", "/iceberg/bucket"),
        ("POST", "/vector/CreateVectorBucket"),
    ):
        assert seen(await http.request(method, path)) == (403, "403", "FeatureNotEnabled")


async def test_the_clients_read_what_is_not_supported(storage: AsyncStorageClient, box: Any) -> None:
    await box.upload("a", b"x")
    for attempt in (
        box.download("a", {"transform": {"width": 10}}),
        storage.vectors().list_buckets(),
        storage.analytics().list(),
    ):
        with pytest.raises(StorageApiError) as refused:
            await attempt
        assert (refused.value.code, refused.value.message) == (
            "FeatureNotEnabled",
            "feature not enabled for this tenant",
        )


async def test_without_image_transformation_a_url_is_signed_for_the_image_as_it_is(
    box: Any, visitor: httpx.AsyncClient
) -> None:
    await box.upload("a", b"x")
    one = await box.create_signed_url("a", 60, {"transform": {"width": 10}})
    assert "/object/sign/box/a?" in one["signedURL"]
    assert (await visitor.get(one["signedURL"])).content == b"x"


async def test_an_unknown_route_is_not_found(http: httpx.AsyncClient) -> None:
    assert seen(await http.get("/nowhere")) == (404, "404", "NotFound")


async def test_health_needs_no_key(visitor: httpx.AsyncClient) -> None:
    assert (await visitor.get("/health")).json() == {"healthy": True}
    assert (await visitor.get("/status")).status_code == 200


async def test_a_row_without_a_file_is_not_found(box: Any, sql: psycopg.Connection) -> None:
    versions = {"a": "../../postgres/PG_VERSION", "b": None, "c": "00000000-0000-4000-8000-000000000000"}
    for name, version in versions.items():
        values = [name, version]
        sql.execute("insert into storage.objects (bucket_id, name, version) values ('box', %s, %s)", values)
        with pytest.raises(StorageApiError, match="Object not found"):
            await box.download(name)
    assert len(await box.remove(["a", "b", "c"])) == 3
