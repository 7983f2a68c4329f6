"""Resources every test may ask for. A server is started only when a test wants one."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from tests.support.canaries import leaks_below, leaks_in
from tests.support.certificates import trust_again, trust_nobody
from tests.support.database import TestServer, new_directory
from tests.support.older_postgres import NEWEST, OLDEST, installed
from tests.support.stack import Stack, stack_over

hypothesis.settings.register_profile("runbase", deadline=None)  # a machine that is busy fails no test
hypothesis.settings.load_profile("runbase")

_LEAKS = pytest.StashKey[list[str]]()
_SAID: list[str] = []  # leaks in what tests have logged and printed
_DIRECTORY = "RUNBASE_TEST_SERVER"  # tells xdist's workers where the session's server lives


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        directory = TestServer.reserve()
        os.environ[_DIRECTORY] = str(directory)
        trust_nobody(directory)


def pytest_collectstart() -> None:
    """What is collected stays, and to look for garbage in it took 4 of its 10 seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    _leave_nothing_to_import()
    gc.freeze()
    gc.enable()


def _leave_nothing_to_import() -> None:
    """Leave nothing of Hypothesis to be imported later: pytest rewrites it where it is first imported.

    In the middle of a test that may break CPython 3.11, with "AST constructor recursion depth mismatch"
    (github.com/python/cpython/issues/106905).
    """
    for name in (
        "internal.conjecture.optimiser",
        "provisional",
        "strategies._internal.random",
        "strategies._internal.regex",
    ):
        with suppress(ModuleNotFoundError):  # another version has it elsewhere
            import_module(f"hypothesis.{name}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _SAID.extend(f"{report.nodeid}, {name}: {leak}" for name, text in report.sections for leak in leaks_in(text)[:1])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """No key that any test gave to Runbase may stand in a database, its log of changes, the server's or our own log."""
    if hasattr(session.config, "workerinput"):
        return
    leaks = [*_SAID, *leaks_below(Path(os.environ[_DIRECTORY]))]
    session.config.stash[_LEAKS] = leaks
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if leaks := config.stash.get(_LEAKS, []):
        terminalreporter.section("keys that leaked", red=True, bold=True)
        for leak in leaks:
            terminalreporter.write_line(leak)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        trust_again()
        TestServer(Path(os.environ.pop(_DIRECTORY))).stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `older_postgres` is also tried on each older PostgreSQL, as hosted Supabase runs it.

    With `only=True` it is tried nowhere else.
    """
    mark = metafunc.definition.get_closest_marker("older_postgres")
    if mark is None or "database_server" not in metafunc.fixturenames:
        return
    embedded = [] if mark.kwargs.get("only") else [pytest.param(None, id="embedded")]
    older = [pytest.param(version, id=f"PostgreSQL {version}") for version in installed()]
    none = pytest.param(None, id="older", marks=pytest.mark.skip(f"no PostgreSQL {OLDEST} to {NEWEST} is installed"))
    metafunc.parametrize("database_server", [*embedded, *(older or [none])], indirect=True)


@pytest.fixture(scope="session")
def database_server(request: pytest.FixtureRequest) -> TestServer:
    """The embedded PostgreSQL, or of a test marked `older_postgres` the one of its parameter."""
    return TestServer(Path(os.environ[_DIRECTORY]), version=getattr(request, "param", None))


@pytest.fixture(scope="session")
def template_database(database_server: TestServer) -> str:
    """The database that clones are made of: platform, all migrations, settable clock."""
    return database_server.template()


@pytest.fixture
def clone_database(database_server: TestServer, template_database: str) -> Iterator[Callable[[], str]]:
    """Make fresh migrated databases, left after the test whoever is connected."""
    urls: list[str] = []

    def clone() -> str:
        urls.append(database_server.clone(template_database))
        return urls[-1]

    yield clone
    for url in urls:
        database_server.leave(url)


@pytest.fixture
def database_url(clone_database: Callable[[], str]) -> str:
    """Superuser's URL of a fresh migrated database."""
    return clone_database()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where a test may keep a server or stack of its own; whatever still runs there is stopped after it."""
    directory = new_directory()
    yield directory / "data"
    TestServer(directory).stop()


@pytest_asyncio.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    """The gateway on a free port over a fresh migrated database, with the project's functions."""
    async with stack_over(database_url) as running:
        yield running
