"""A whole stack for one test: the gateway on a real socket over the test's own database."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp
from supabase import AsyncClient, AsyncClientOptions, acreate_client
from supabase_auth.types import AuthFlowType, Session

from local.auth_settings import AuthSettings
from local.config import PROJECT_DIR, StackConfig
from local.functions import load_functions
from local.gateway import build_gateway
from local.keys import Keys
from local.ports import listening
from local.serving import serving

PASSWORD = "correct horse battery"

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who signed up through /auth/v1. `client` is signed in as them."""

    client: AsyncClient
    session: Session
    email: str

    @property
    def user_id(self) -> str:
        assert self.session.user is not None
        return self.session.user.id

    @property
    def access_token(self) -> str:
        return self.session.access_token


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that answers at `url`. Its clients are closed with it."""

    config: StackConfig
    database_url: str
    keys: Keys = field(default_factory=Keys)
    _clients: list[AsyncClient] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.config.api_url

    @property
    def anon_key(self) -> str:
        """The publishable key, in the form that projects get today."""
        return self.keys.publishable_key

    @property
    def service_key(self) -> str:
        return self.keys.secret_key

    async def client(self, key: str | None = None, *, flow_type: AuthFlowType = "pkce") -> AsyncClient:
        """An official client with the given key, by default the publishable one."""
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=True, flow_type=flow_type)
        self._clients.append(await acreate_client(self.url, key or self.anon_key, options=options))
        return self._clients[-1]

    async def sign_up(self, email: str | None = None, password: str = PASSWORD) -> Person:
        """Sign somebody new up, and in."""
        email = email or f"person-{next(_numbers)}@example.com"
        client = await self.client()
        answer = await client.auth.sign_up({"email": email, "password": password})
        assert answer.session is not None
        return Person(client, answer.session, email)

    async def close(self) -> None:
        for client in self._clients:
            await client.remove_all_channels()
            await client.auth.close()
            if client._postgrest is not None:  # asked for, it would be made
                await client._postgrest.aclose()
            if client._storage is not None:
                await client._storage.session.aclose()


@asynccontextmanager
async def stack_over(
    database_url: str,
    *,
    functions_apps: Mapping[str, ASGIApp] | None = None,
    auth: AuthSettings | None = None,
    data_dir: Path | None = None,
) -> AsyncGenerator[Stack]:
    """Run a gateway on a free port over a migrated database. Stored files go with it, unless `data_dir` keeps them.

    Without `functions_apps` it has the project's functions, imported once a process.
    """
    async with AsyncExitStack() as cleanup:
        listener = cleanup.enter_context(listening("127.0.0.1", 0))
        port, db_port = listener.getsockname()[1], urlsplit(database_url).port
        assert db_port is not None
        if data_dir is None:
            data_dir = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="runbase-files-")))
        config = StackConfig(port=port, db_port=db_port, data_dir=data_dir, auth=auth or AuthSettings())
        apps = _functions() if functions_apps is None else functions_apps
        gateway = build_gateway(config, database_url, functions_apps=apps)
        await cleanup.enter_async_context(serving(gateway, listener))
        stack = Stack(config, database_url)
        cleanup.push_async_callback(stack.close)
        yield stack


@cache
def _functions() -> Mapping[str, ASGIApp]:
    """A function keeps nothing in its module between requests, so that stacks may share it, as on a warm host."""
    return load_functions(PROJECT_DIR / "functions")
