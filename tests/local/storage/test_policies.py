"""Row-level security on `storage.objects` and `storage.buckets` decides, whoever asks."""

from __future__ import annotations

import asyncio
import time

import httpx
import psycopg
import pytest
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from local.keys import Keys
from tests.support.stack import Stack

VIOLATION = "new row violates row-level security policy"


def refusal(exc: pytest.ExceptionInfo[StorageApiError]) -> tuple[str, str, str]:
    return str(exc.value.status), exc.value.code, exc.value.message


async def test_everybody_has_their_own_folder_only(stack: Stack, docs: str) -> None:
    ada, bob = await stack.sign_up(), await stack.sign_up()
    adas, bobs = ada.client.storage.from_(docs), bob.client.storage.from_(docs)
    mine = f"{ada.user_id}/diary.txt"

    await adas.upload(mine, b"dear diary")
    assert await adas.download(mine) == b"dear diary"
    assert [entry["name"] for entry in await adas.list()] == [ada.user_id]

    assert await bobs.list() == await bobs.list(ada.user_id) == []
    assert (await bobs.list_v2({})).objects == []
    assert not await bobs.exists(mine)
    assert (await bobs.create_signed_urls([mine], 60))[0]["signedURL"] is None
    assert await bobs.remove([mine]) == []
    for attempt in (
        bobs.download(mine),
        bobs.info(mine),
        bobs.create_signed_url(mine, 60),
        bobs.copy(mine, f"{bob.user_id}/stolen"),
        bobs.move(mine, f"{bob.user_id}/stolen"),
    ):
        with pytest.raises(StorageApiError) as refused:
            await attempt
        assert refusal(refused) == ("404", "not_found", "Object not found")
    for attempt in (
        bobs.upload(f"{ada.user_id}/letter", b"x"),
        bobs.update(mine, b"x"),
        bobs.upload(mine, b"x", {"upsert": "true"}),
        bobs.create_signed_upload_url(f"{ada.user_id}/letter"),
        adas.copy(mine, f"{bob.user_id}/gift"),
        adas.move(mine, f"{bob.user_id}/gift"),
    ):
        with pytest.raises(StorageApiError) as refused:
            await attempt
        assert refusal(refused) == ("403", "Unauthorized", VIOLATION)
    assert await adas.download(mine) == b"dear diary"

    await adas.update(mine, b"changed")
    await adas.move(mine, f"{ada.user_id}/moved")
    await adas.copy(f"{ada.user_id}/moved", f"{ada.user_id}/copy")
    assert len(await adas.remove([f"{ada.user_id}/moved", f"{ada.user_id}/copy"])) == 2


async def test_an_object_belongs_to_whoever_uploaded_it(stack: Stack, docs: str, sql: psycopg.Connection) -> None:
    ada = await stack.sign_up()
    path = f"{ada.user_id}/a"
    await ada.client.storage.from_(docs).upload(path, b"x")
    permit = await ada.client.storage.from_(docs).create_signed_upload_url(f"{ada.user_id}/b")
    await (await stack.client()).storage.from_(docs).upload_to_signed_url(f"{ada.user_id}/b", permit["token"], b"y")
    owners = sql.execute("select owner::text, owner_id from storage.objects order by name").fetchall()
    assert owners == [(ada.user_id, ada.user_id)] * 2


async def test_nobody_sees_a_private_bucket(stack: Stack, docs: str, visitor: httpx.AsyncClient) -> None:
    ada = await stack.sign_up()
    path = f"{ada.user_id}/a"
    await ada.client.storage.from_(docs).upload(path, b"x")
    anonymous = await stack.client()
    assert await anonymous.storage.list_buckets() == []
    with pytest.raises(StorageApiError):
        await anonymous.storage.from_(docs).download(path)
    for url in (f"/object/public/{docs}/{path}", f"/object/{docs}/{path}", f"/object/info/{docs}/{path}"):
        answer = await visitor.get(url)
        assert (answer.status_code, answer.json()["statusCode"], answer.json()["message"]) == (
            400,
            "404",
            "Bucket not found",
        )


async def test_a_public_bucket_is_read_by_url_but_listed_by_policy(stack: Stack, storage: AsyncStorageClient) -> None:
    await storage.create_bucket("open", options={"public": True})
    await storage.from_("open").upload("a", b"x")
    anonymous = (await stack.client()).storage.from_("open")
    assert await anonymous.download("a") == b"x"
    assert await anonymous.list() == []
    with pytest.raises(StorageApiError) as refused:
        await anonymous.upload("b", b"x")
    assert refusal(refused) == ("403", "Unauthorized", VIOLATION)


async def test_buckets_are_made_and_seen_by_policy(
    stack: Stack, storage: AsyncStorageClient, sql: psycopg.Connection
) -> None:
    ada = await stack.sign_up()
    with pytest.raises(StorageApiError) as refused:
        await ada.client.storage.create_bucket("mine")
    assert refusal(refused) == ("403", "Unauthorized", VIOLATION)

    sql.execute("""
        create policy "People make buckets" on storage.buckets for insert to authenticated with check (true);
        create policy "Owners see theirs" on storage.buckets for select to authenticated
          using (owner = (select auth.uid()));
    """)
    await ada.client.storage.create_bucket("mine")
    await storage.create_bucket("other")
    assert [(bucket.id, bucket.owner) for bucket in await ada.client.storage.list_buckets()] == [("mine", ada.user_id)]
    for attempt in (
        ada.client.storage.get_bucket("other"),
        ada.client.storage.update_bucket("other", {"public": True}),
        ada.client.storage.update_bucket("mine", {"public": True}),
        ada.client.storage.empty_bucket("other"),
        ada.client.storage.delete_bucket("mine"),
    ):
        with pytest.raises(StorageApiError) as refused:
            await attempt
        assert refusal(refused) == ("404", "Bucket not found", "Bucket not found")


@pytest.mark.parametrize(
    ("name", "folders", "file", "extension"),
    [
        ("a/b/c.tar.gz", ["a", "b"], "c.tar.gz", "gz"),
        ("c.txt", [], "c.txt", "txt"),
        ("a/", ["a"], "", ""),
        ("", [], "", ""),
    ],
)
def test_policies_can_take_a_name_apart(
    sql: psycopg.Connection, name: str, folders: list[str], file: str, extension: str
) -> None:
    parts = "select storage.foldername(%(name)s), storage.filename(%(name)s), storage.extension(%(name)s)"
    assert sql.execute(parts, {"name": name}).fetchone() == (folders, file, extension)


async def test_a_letter_box_takes_what_nobody_may_read(
    stack: Stack, storage: AsyncStorageClient, sql: psycopg.Connection
) -> None:
    await storage.create_bucket("letters")
    sql.execute("create policy post on storage.objects for insert to anon with check (bucket_id = 'letters')")
    anonymous = (await stack.client()).storage.from_("letters")
    await anonymous.upload("one", b"dear")
    with pytest.raises(StorageApiError) as refused:
        await anonymous.upload("one", b"changed", {"upsert": "true"})
    assert refusal(refused) == ("403", "Unauthorized", VIOLATION)
    assert not await anonymous.exists("one")
    assert await storage.from_("letters").download("one") == b"dear"


async def test_a_bucket_is_emptied_wholly_or_not_at_all(
    stack: Stack, storage: AsyncStorageClient, sql: psycopg.Connection
) -> None:
    await storage.create_bucket("box")
    for name in ("a", "b"):
        await storage.from_("box").upload(name, b"x")
    sql.execute("""
        create policy buckets on storage.buckets for select to authenticated using (true);
        create policy seen on storage.objects for select to authenticated using (true);
        create policy removed on storage.objects for delete to authenticated using (name = 'a');
    """)
    ada = await stack.sign_up()
    with pytest.raises(StorageApiError) as refused:
        await ada.client.storage.empty_bucket("box")
    assert refusal(refused)[2] == "Cannot delete: b, you may have SELECT but not DELETE permissions"
    assert await storage.from_("box").download("a") == b"x"


async def test_policies_know_the_file_and_what_is_done(
    stack: Stack, storage: AsyncStorageClient, sql: psycopg.Connection
) -> None:
    await storage.create_bucket("box")
    sql.execute("""
        create policy pictures on storage.objects for insert to authenticated
          with check (metadata ->> 'mimetype' = 'image/png' and user_metadata ->> 'album' = 'mine');
        create policy lists on storage.objects for select to authenticated
          using (storage.operation() = 'storage.object.list');
    """)
    ada = (await stack.sign_up()).client.storage.from_("box")
    for options in ({"content-type": "image/png"}, {"content-type": "text/plain", "metadata": {"album": "mine"}}):
        with pytest.raises(StorageApiError, match=VIOLATION):
            await ada.upload("a", b"x", options)
    await ada.upload("a", b"x", {"content-type": "image/png", "metadata": {"album": "mine"}})
    assert [entry["name"] for entry in await ada.list()] == ["a"]
    assert not await ada.exists("a")


async def test_a_right_that_ends_during_an_upload_ends_the_upload(
    stack: Stack, docs: str, sql: psycopg.Connection, storage: AsyncStorageClient
) -> None:
    ada = await stack.sign_up()
    path = f"{ada.user_id}/slow"
    revoked = asyncio.Event()

    async def content():
        yield b"first"
        # The body is asked for only when the policies have allowed the upload.
        deadline = time.monotonic() + 30
        while not list(stack.config.storage_dir.rglob("*.part")):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        sql.execute('drop policy "People write their own folder" on storage.objects')
        revoked.set()
        yield b"second"

    headers = {"authorization": f"Bearer {ada.access_token}"}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{stack.url}/storage/v1/object/{docs}/{path}", content=content(), headers=headers)
    assert revoked.is_set()
    assert (answer.status_code, answer.json()["message"]) == (400, VIOLATION)
    assert [file for file in stack.config.storage_dir.rglob("*") if file.is_file()] == []
    assert not await storage.from_(docs).exists(path)


async def test_a_projects_trigger_finds_storage_and_can_refuse(
    storage: AsyncStorageClient, sql: psycopg.Connection, stack: Stack
) -> None:
    await storage.create_bucket("box")
    sql.execute("""
        create table public.seen (name text, role text);
        grant insert on public.seen to service_role, authenticated;
        create function public.see() returns trigger language plpgsql as $$
        begin
          if new.name = 'refused' then raise exception 'not this one'; end if;
          insert into public.seen values (new.name, current_user);
          return null;
        end $$;
        create trigger see after insert on storage.objects for each row execute function public.see();
        create policy anything on storage.objects for insert to authenticated with check (true);
    """)
    ada = (await stack.sign_up()).client.storage.from_("box")
    await ada.upload("a", b"x")
    assert sql.execute("select * from public.seen").fetchall() == [("a", "service_role")]
    with pytest.raises(StorageApiError) as refused:
        await ada.upload("refused", b"x")
    assert refusal(refused) == ("400", "DatabaseError", "not this one")


async def test_a_number_beyond_64_bits_in_the_claims_keeps_nobody_out(http: httpx.AsyncClient) -> None:
    token = Keys().sign_jwt({"role": "authenticated", "exp": time.time() + 60, "user_metadata": {"big": 10**22}})

    answer = await http.get("/bucket", headers={"Authorization": f"Bearer {token}"})

    assert (answer.status_code, answer.json()) == (200, [])
