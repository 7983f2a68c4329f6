"""Only named modules open connections: everything else must go through the guarded client."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Where URLs come from the operator, or from the platform; with the reason for each.
ALLOWED = {
    "shared/egress/client.py": "is the guarded client",
    "shared/egress/network.py": "connects for it",
    "shared/egress/transport.py": "speaks HTTP for it",
    "shared/connections.py": "calls the project's own Supabase",
    "shared/llm/openai.py": "calls the model server that the operator set",
    "shared/llm/anthropic.py": "calls the model server that the operator set",
    "shared/direct_database.py": "connects to the project's own Postgres",
    "shared/runs/wake.py": "listens to the project's own Postgres",
}

# What opens a connection: constructors and functions by their full name, and modules that do nothing else.
_CALLS = {
    *(
        f"httpx.{name}"
        for name in ("AsyncClient", "Client", "AsyncHTTPTransport", "HTTPTransport", "request", "stream")
    ),
    *(f"httpx.{name}" for name in ("get", "post", "put", "patch", "delete", "head", "options")),
    *(f"httpcore.{name}" for name in ("AsyncConnectionPool", "ConnectionPool", "AnyIOBackend", "request", "stream")),
    "asyncio.open_connection",
    "asyncio.open_unix_connection",
    "socket.create_connection",
    "socket.socket",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "openai.AsyncOpenAI",
    "openai.OpenAI",
    "anthropic.AsyncAnthropic",
    "anthropic.Anthropic",
    "psycopg.connect",
    "psycopg.AsyncConnection.connect",
    "psycopg_pool.AsyncConnectionPool",
}
_CALLS |= {name.replace("httpx.", "httpx2.") for name in _CALLS if name.startswith("httpx.")}
_MODULES = {
    *(
        "requests",
        "urllib.request",
        "urllib3",
        "aiohttp",
        "http.client",
        "ftplib",
        "smtplib",
        "telnetlib",
        "xmlrpc.client",
    ),
    *("websockets", "websocket", "paramiko", "pycurl", "anyio.connect_tcp", "niquests", "curl_cffi"),
}


def files() -> list[str]:
    found = [path for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


# Here and not in a test, beside which a thread of a server may import a module: of two parsers at work CPython 3.11
# was seen to refuse one ("recursion depth mismatch").
TREES = {file: ast.parse((ROOT / file).read_text()) for file in files()}


def connections_of(tree: ast.Module) -> Iterator[str]:
    """What in a module opens connections by itself, whatever it is called there."""
    named: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                named[one.asname or one.name.partition(".")[0]] = one.name if one.asname else one.name.partition(".")[0]
                if one.name in _MODULES:
                    yield one.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                full = f"{node.module}.{one.name}"
                named[one.asname or one.name] = full
                if node.module in _MODULES or full in _MODULES:
                    yield full
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            full = _full_name(node, named)
            # The name of a type in an annotation opens nothing.
            if full in _CALLS | _MODULES and _is_called(tree, node):
                yield full


def _full_name(node: ast.expr, named: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return named.get(node.id, node.id)
    return f"{_full_name(node.value, named)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _is_called(tree: ast.Module, node: ast.expr) -> bool:
    return any(
        (isinstance(parent, ast.Call) and (parent.func is node or node in parent.args))
        or (isinstance(parent, ast.keyword) and parent.value is node)
        or (isinstance(parent, ast.ClassDef) and node in parent.bases)
        for parent in ast.walk(tree)
    )


@pytest.mark.parametrize("file", TREES)
def test_a_module_opens_no_connection_of_its_own(file: str) -> None:
    found = sorted(set(connections_of(TREES[file])))
    if file not in ALLOWED:
        assert found == [], f"{file}: use shared.egress.egress_client"


def test_no_module_is_allowed_what_it_does_not_do() -> None:
    assert [file for file in ALLOWED if not list(connections_of(TREES[file]))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import httpx\nclient = httpx.AsyncClient()",
        "import httpx as h\nh.get('http://x')",
        "from httpx import AsyncClient as C\nC()",
        "import httpx\nclass Mine(httpx.AsyncClient): ...",
        "import httpx\nmake(factory=httpx.AsyncClient)",
        "import requests",
        "from urllib import request",
        "import urllib.request",
        "from urllib.request import urlopen",
        "import asyncio\nasyncio.open_connection('x', 1)",
        "import socket\nsocket.create_connection(('x', 1))",
    ],
)
def test_each_way_to_connect_is_found(source: str) -> None:
    assert list(connections_of(ast.parse(source))) != []


@pytest.mark.parametrize(
    "source",
    ["import httpx\ndef f(client: httpx.AsyncClient) -> None: ...", "from urllib.parse import urlsplit\nurlsplit('x')"],
)
def test_a_type_or_a_parser_is_no_connection(source: str) -> None:
    assert list(connections_of(ast.parse(source))) == []
