"""The row and the file of an object agree, whoever is killed, and however many write it at once."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from local import stack as background
from local.cluster import MARKER
from local.config import StackConfig
from local.keys import Keys
from local.state import StackState
from local.storage.files import Files
from tests.local.storage.conftest import files_below
from tests.support.stack import Stack, stack_over

AUTHORIZATION = {"authorization": f"Bearer {Keys().service_role_key}"}
WAIT_SECONDS = 30
# Holds every commit of an object back until the test lets go.
HELD_COMMITS = """
create function public.hold() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7);
  return null;
end $$;
create constraint trigger hold after insert or update on storage.objects
  deferrable initially deferred for each row execute function public.hold();
"""


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def kill(config: StackConfig) -> None:
    """Kill the gateway of a background stack, and nothing else."""
    state = StackState.read(config.data_dir)
    assert state is not None
    process = state.process()
    assert process is not None
    process.kill()
    psutil.wait_procs([process], timeout=WAIT_SECONDS)


@pytest.fixture
def killable(data_dir: Path):
    config = StackConfig(port=0, db_port=0, data_dir=data_dir)
    running = background.start(config)
    made = httpx.post(
        f"{running.api_url}/storage/v1/bucket", json={"name": "box", "public": True}, headers=AUTHORIZATION
    )
    assert made.is_success
    yield running
    background.stop(config)


def restart(config: StackConfig) -> StackConfig:
    return background.start(StackConfig(port=0, db_port=0, data_dir=config.data_dir))


def versions(database_url: str) -> set[str]:
    with psycopg.connect(database_url) as connection:
        return {version for (version,) in connection.execute("select version from storage.objects").fetchall()}


@pytest.mark.parametrize("is_committed", [True, False], ids=["the row comes after all", "the row never comes"])
def test_a_kill_between_file_and_row_leaves_both_or_none(killable: StackConfig, is_committed: bool) -> None:  # noqa: FBT001
    url = f"{killable.api_url}/storage/v1/object/box/file"
    assert httpx.post(url, content=b"old", headers=AUTHORIZATION).is_success

    def upload() -> None:
        with suppress(httpx.TransportError):
            httpx.put(url, content=b"new", headers=AUTHORIZATION, timeout=WAIT_SECONDS)

    with psycopg.connect(killable.database_url, autocommit=True) as database:
        database.execute(HELD_COMMITS)
        database.execute("select pg_advisory_lock(7)")
        uploading = threading.Thread(target=upload)
        uploading.start()
        waiting = "select pid from pg_stat_activity where wait_event = 'advisory'"
        (backend,) = wait_for(lambda: database.execute(waiting).fetchone())
        assert len([file for file in files_below(killable.storage_dir) if not file.suffix]) == 2
        kill(killable)
        uploading.join()
        if not is_committed:
            database.execute("select pg_terminate_backend(%s, 10000)", [backend])
        database.execute("select pg_advisory_unlock(7)")
        wait_for(lambda: not database.execute(waiting).fetchone())
        wait_for(lambda: not database.execute("select from pg_stat_activity where pid = %s", [backend]).fetchone())

    running = restart(killable)
    assert {file.name for file in files_below(running.storage_dir)} == versions(running.database_url)
    answer = httpx.get(f"{running.api_url}/storage/v1/object/public/box/file")
    assert answer.content == (b"new" if is_committed else b"old")


def test_what_a_kill_leaves_of_an_upload_is_swept_away(killable: StackConfig) -> None:
    kept = httpx.post(f"{killable.api_url}/storage/v1/object/box/kept", content=b"kept", headers=AUTHORIZATION)
    assert kept.is_success
    with socket.create_connection(("127.0.0.1", killable.port)) as client:
        head = f"POST /storage/v1/object/box/half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nAuthorization: {AUTHORIZATION['authorization']}\r\n\r\nhalf"  # noqa: E501
        client.sendall(head.encode())
        wait_for(lambda: list(killable.storage_dir.rglob("*.part")))
        kill(killable)
    running = restart(killable)
    assert {file.name for file in files_below(running.storage_dir)} == versions(running.database_url)
    assert httpx.get(f"{running.api_url}/storage/v1/object/public/box/kept").content == b"kept"
    assert httpx.get(f"{running.api_url}/storage/v1/object/public/box/half").json()["error"] == "not_found"

    assert background.reset(running)
    assert not running.storage_dir.exists()


async def test_an_upload_that_is_cut_off_leaves_nothing(stack: Stack, storage: AsyncStorageClient) -> None:
    await storage.create_bucket("box")
    _, writer = await asyncio.open_connection("127.0.0.1", stack.config.port)
    head = f"POST /storage/v1/object/box/half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nAuthorization: {AUTHORIZATION['authorization']}\r\n\r\nhalf"  # noqa: E501
    writer.write(head.encode())
    await asyncio.to_thread(wait_for, lambda: list(stack.config.storage_dir.rglob("*.part")))
    writer.close()
    await asyncio.to_thread(wait_for, lambda: not files_below(stack.config.storage_dir))
    assert not await storage.from_("box").exists("half")


async def test_of_many_who_write_an_object_at_once_one_stays(
    storage: AsyncStorageClient, http: httpx.AsyncClient, files: Path
) -> None:
    await storage.create_bucket("box")
    contents = [b"%d" % number * 50_000 for number in range(20)]

    async def upsert(content: bytes) -> httpx.Response:
        return await http.post("/object/box/file", content=content, headers={"x-upsert": "true"})

    answers = await asyncio.gather(*map(upsert, contents))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["Id"] for answer in answers}) == 1
    info = await storage.from_("box").info("file")
    content = await storage.from_("box").download("file")
    assert content in contents
    assert info["etag"] == f'"{hashlib.md5(content).hexdigest()}"'  # noqa: S324
    assert [file.name for file in files_below(files)] == [info["version"]]


async def test_of_many_who_make_an_object_at_once_one_does(
    storage: AsyncStorageClient, http: httpx.AsyncClient, files: Path
) -> None:
    await storage.create_bucket("box")
    answers = await asyncio.gather(*(http.post("/object/box/file", content=b"%d" % n) for n in range(10)))
    won = [number for number, answer in enumerate(answers) if answer.is_success]
    assert len(won) == 1
    assert {answer.json()["code"] for answer in answers if not answer.is_success} == {"KeyAlreadyExists"}
    assert await storage.from_("box").download("file") == b"%d" % won[0]
    assert len(files_below(files)) == 1


async def test_moving_onto_and_replacing_an_object_at_once_loses_no_file(
    storage: AsyncStorageClient, http: httpx.AsyncClient, files: Path, database_url: str
) -> None:
    await storage.create_bucket("box")
    for number in range(10):
        await http.post(f"/object/box/{number}", content=b"x")

    async def move(number: int) -> httpx.Response:
        body = {"bucketId": "box", "sourceKey": str(number), "destinationKey": "one"}
        return await http.post("/object/move", json=body)

    async def write() -> httpx.Response:
        return await http.put("/object/box/one", content=b"y")

    async def remove() -> httpx.Response:
        return await http.request("DELETE", "/object/box", json={"prefixes": ["one"]})

    answers = await asyncio.gather(*(do for n in range(10) for do in (move(n), write(), remove())))
    assert {answer.status_code for answer in answers} <= {200, 400}
    assert {file.name for file in files_below(files)} == versions(database_url)


async def test_a_commit_that_fails_takes_its_file_along(
    storage: AsyncStorageClient, sql: psycopg.Connection, files: Path
) -> None:
    await storage.create_bucket("box")
    sql.execute("""
        create function public.fail() returns trigger language plpgsql as $$ begin raise 'too late'; end $$;
        create constraint trigger fail after insert on storage.objects
          deferrable initially deferred for each row execute function public.fail();
    """)
    with pytest.raises(StorageApiError, match="too late"):
        await storage.from_("box").upload("a", b"x")
    assert files_below(files) == []


async def test_a_disk_that_takes_nothing_is_told_in_storages_shape(
    storage: AsyncStorageClient, files: Path, http: httpx.AsyncClient
) -> None:
    await storage.create_bucket("box")
    files.write_text("a file where the folder should be")  # noqa: ASYNC240 - a test may
    answer = await http.post("/object/box/a", content=b"x")
    assert (answer.status_code, answer.json()["statusCode"], answer.json()["code"]) == (500, "500", "InternalError")
    assert not await storage.from_("box").exists("a")


async def test_the_start_of_another_database_leaves_these_files_alone(
    stack: Stack, storage: AsyncStorageClient, clone_database: Callable[[], str]
) -> None:
    await storage.create_bucket("box")
    await storage.from_("box").upload("a", b"x")
    async with stack_over(clone_database(), data_dir=stack.config.data_dir):
        assert await storage.from_("box").download("a") == b"x"


async def test_a_sweep_takes_what_has_no_row(tmp_path: Path) -> None:
    files = Files(tmp_path / "files", is_durable=False)

    async def known(asked: list[str]) -> set[str]:
        return set(asked) & kept

    kept: set[str] = set()
    assert await files.sweep(known) == 0
    for number in range(5):
        async with files.stage() as staged:
            await staged.write(b"x")
            await staged.finish()
            await staged.place()
            staged.keep()
        if number % 2:
            kept.add(staged.version)
    assert await files.sweep(known) == 3
    assert {file.name for file in files_below(tmp_path)} == kept


def test_reset_deletes_the_files_too(data_dir: Path) -> None:
    config = StackConfig(data_dir=data_dir)
    for file in (config.storage_dir / "a" / "file", data_dir / "postgres" / MARKER):
        file.parent.mkdir(parents=True)
        file.write_text("18")
    assert background.reset(config)
    assert files_below(data_dir) == []
    assert not background.reset(config)
