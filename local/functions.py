"""Serve the project's functions at /functions/v1/<slug>, as Supabase's gateway does.

Each `functions/<name>/app.py` exports `app`, an ASGI application, which is handed every method and sub-path. The slug
is the folder's name with dashes. A function that cannot be imported answers 503 and leaves the others alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import cast

from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its optional trio types

from local.config import StackConfig
from local.development import function_variables
from local.services import Part, Services

PREFIX = "/functions/v1"

_log = logging.getLogger("local.functions")


def build(services: Services, apps: Mapping[str, ASGIApp] | None = None) -> Part:
    """Mount `apps`, or what the project's functions folder holds when the stack starts.

    Functions read their settings from the environment, as they do when deployed, so while the stack runs its
    environment is the process's. They are imported while the stack already answers; who asks for one waits for that.
    """
    config = services.config
    router = FunctionRouter()
    cleanup = AsyncExitStack()

    async def start() -> None:
        cleanup.enter_context(_environment(environment(services)))
        if apps is not None:
            router.apps = dict(apps)
            return
        loading = asyncio.create_task(_load_aside(router, config.functions_dir))
        router.loading = loading
        cleanup.push_async_callback(asyncio.wait, [loading])
        if config.reload:
            watch = asyncio.create_task(_reload_on_change(router, config))
            cleanup.push_async_callback(_cancel, watch)

    return Part(
        [Mount(PREFIX, router)],
        start,
        cleanup.aclose,
        needs_database=False,
        trouble=router.trouble,
        members=router.members,
        settled=router.loaded,
    )


def environment(services: Services) -> dict[str, str]:
    """The variables that Supabase gives every function, and Runbase's own."""
    config, keys = services.config, services.keys
    return {
        "SUPABASE_URL": config.api_url,
        "SUPABASE_PUBLISHABLE_KEYS": json.dumps({"default": keys.publishable_key}),
        "SUPABASE_SECRET_KEYS": json.dumps({"default": keys.secret_key}),
        "SUPABASE_ANON_KEY": keys.anon_key,
        "SUPABASE_SERVICE_ROLE_KEY": keys.service_role_key,
        "SUPABASE_JWKS": json.dumps(keys.jwks()),
        "SUPABASE_DB_URL": services.database_url,
        **function_variables(),
    }


def load_functions(folder: Path) -> dict[str, ASGIApp]:
    """Import every function of the folder anew, also one that was imported before."""
    return {path.parent.name.replace("_", "-"): _load(path) for path in sorted(folder.glob("*/app.py"))}


class FunctionRouter:
    """Hands a request to the function that its path names."""

    def __init__(self) -> None:
        self.apps: dict[str, ASGIApp] = {}
        self.loading: asyncio.Task[None] | None = None

    async def loaded(self) -> None:
        """Wait until the functions are imported for the first time."""
        if self.loading is not None:
            await asyncio.shield(self.loading)

    def trouble(self) -> str | None:
        return None if self.loading is None or self.loading.done() else "The functions are still being imported."

    def members(self) -> dict[str, str | None]:
        """The functions by name, with why one could not start."""
        return {name: app.reason if isinstance(app, _NotStarted) else None for name, app in self.apps.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.loaded()
        root: str = scope["root_path"]
        name = scope["path"].removeprefix(root).strip("/").split("/", 1)[0]
        app = self.apps.get(name)
        if app is None:
            app = JSONResponse({"code": "NOT_FOUND", "message": "Requested function was not found"}, 404)
            await app(scope, receive, send)
            return
        await app({**scope, "root_path": f"{root}/{name}"}, receive, send)


class _NotStarted(JSONResponse):
    """Stands for a function that could not be imported."""

    def __init__(self, error: Exception) -> None:
        self.reason = f"It could not be imported: {type(error).__name__}: {error}"
        super().__init__({"code": "BOOT_ERROR", "message": "Function failed to start (please check logs)"}, 503)


@contextmanager
def _environment(values: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


async def _load_aside(router: FunctionRouter, folder: Path) -> None:
    router.apps = await asyncio.to_thread(load_functions, folder)


async def _reload_on_change(router: FunctionRouter, config: StackConfig) -> None:
    await router.loaded()
    async for _ in awatch(config.functions_dir, config.project_dir / "shared", watch_filter=PythonFilter()):
        _forget_modules(config.functions_dir, config.project_dir / "shared")
        router.apps = load_functions(config.functions_dir)
        _log.info("function.reloaded names=%s", ",".join(router.apps))


def _forget_modules(*folders: Path) -> None:
    """Let what was imported from these folders be imported anew. A request under way keeps the modules it has."""
    roots = [folder.resolve() for folder in folders]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and any(Path(file).resolve().is_relative_to(root) for root in roots):
            del sys.modules[name]


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _load(path: Path) -> ASGIApp:
    name = f"functions.{path.parent.name}.app"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return _app_of(module)
    except Exception as exc:  # noqa: BLE001 - whatever a function does at import is its own failure
        _log.exception("function.failed_to_start name=%s", path.parent.name)
        return _NotStarted(exc)


def _app_of(module: ModuleType) -> ASGIApp:
    app = getattr(module, "app", None)
    if not callable(app):
        raise TypeError(f"{module.__file__} exports no ASGI application named app")
    return cast("ASGIApp", app)
