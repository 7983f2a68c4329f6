"""A stack's Storage, as its owner and over plain HTTP, and the policies most projects begin with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from storage3 import AsyncStorageClient

from tests.support.stack import Stack

OWN_FOLDER = "bucket_id = 'docs' and (storage.foldername(name))[1] = (select auth.uid())::text"


@pytest.fixture
async def storage(stack: Stack) -> AsyncStorageClient:
    """The official client with the secret key."""
    return (await stack.client(stack.service_key)).storage


@pytest.fixture
async def http(stack: Stack) -> AsyncGenerator[httpx.AsyncClient]:
    """Plain HTTP with the secret key."""
    headers = {"apikey": stack.service_key}
    async with httpx.AsyncClient(base_url=f"{stack.url}/storage/v1", headers=headers) as client:
        yield client


@pytest.fixture
async def visitor(stack: Stack) -> AsyncGenerator[httpx.AsyncClient]:
    """Plain HTTP without any key, as from an `<img>`."""
    async with httpx.AsyncClient(base_url=f"{stack.url}/storage/v1") as client:
        yield client


@pytest.fixture
def sql(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def docs(storage: AsyncStorageClient, sql: psycopg.Connection) -> str:
    """A private bucket in which everybody has a folder of their own."""
    await storage.create_bucket("docs")
    sql.execute(f"""
        create policy "People read their own folder" on storage.objects
          for select to authenticated using ({OWN_FOLDER});
        create policy "People write their own folder" on storage.objects
          for insert to authenticated with check ({OWN_FOLDER});
        create policy "People change their own folder" on storage.objects
          for update to authenticated using ({OWN_FOLDER}) with check ({OWN_FOLDER});
        create policy "People clear their own folder" on storage.objects
          for delete to authenticated using ({OWN_FOLDER});
    """)
    return "docs"


@pytest.fixture
def files(stack: Stack) -> Path:
    """Where the stack keeps the files."""
    return stack.config.storage_dir


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
