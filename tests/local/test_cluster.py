"""The files of a server: made once, kept in the user's cache, and never taken for somebody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from local.cluster import MARKER
from local.postgres import EPHEMERAL_SETTINGS, PostgresError, PostgresServer


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where an empty cache of this test's own will be."""
    monkeypatch.delenv("RUNBASE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "runbase" / "postgres"


@pytest.fixture
def fresh(data_dir: Path) -> Iterator[FreshServers]:
    servers = FreshServers(data_dir)
    yield servers
    servers.stop()


class FreshServers:
    """Servers over new directories. `start` starts one and asks it something."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._started: list[PostgresServer] = []

    def start(self) -> int:
        server = PostgresServer(self._data_dir / str(len(self._started)), settings=EPHEMERAL_SETTINGS)
        self._started.append(server)
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            rows = connection.execute("select system_identifier from pg_control_system()").fetchall()
        return rows[0][0]

    def stop(self) -> None:
        for server in self._started:
            server.stop(immediate=True)


def archive(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_the_second_cluster_is_unpacked_from_what_the_first_left(cache, fresh):
    first = fresh.start()
    assert archive(cache).stat().st_mode & 0o777 == 0o400
    assert cache.stat().st_mode & 0o777 == 0o700
    assert fresh.start() == first


def test_the_cache_can_be_elsewhere(monkeypatch, tmp_path, fresh):
    monkeypatch.setenv("RUNBASE_CACHE_DIR", str(tmp_path / "kept"))
    assert fresh.start() == fresh.start()
    assert archive(tmp_path / "kept" / "postgres")


@pytest.mark.parametrize("length", [0, 1_000, 20_000_000])
def test_an_archive_that_is_cut_short_is_made_anew(cache, fresh, length):
    first = fresh.start()
    archive(cache).chmod(0o600)
    os.truncate(archive(cache), length)
    second = fresh.start()
    assert second != first
    assert fresh.start() == second


def test_an_archive_of_a_cluster_that_does_not_start_is_made_anew(cache, fresh, data_dir):
    first = fresh.start()
    broken = data_dir / "broken"
    broken.mkdir()
    (broken / "PG_VERSION").write_text("18\n")
    path = archive(cache)
    path.unlink()
    assert os.system(f"tar -c -f {path} -C {broken} .") == 0  # noqa: S605 - made of our own paths
    path.chmod(0o400)
    second = fresh.start()
    assert second != first
    assert fresh.start() == second


def test_what_others_may_write_is_not_used(cache, fresh):
    first = fresh.start()
    archive(cache).chmod(0o620)
    second = fresh.start()
    assert second != first
    cache.chmod(0o770)
    assert fresh.start() not in {first, second}


@pytest.mark.parametrize("place", ["/proc/nowhere", "relative"])
def test_without_a_cache_every_cluster_is_made(monkeypatch, fresh, place):
    monkeypatch.delenv("RUNBASE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert fresh.start() != fresh.start()


def test_first_starts_at_the_same_time_are_not_in_each_others_way(cache, data_dir):
    servers = [PostgresServer(data_dir / str(number), settings=EPHEMERAL_SETTINGS) for number in range(3)]
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(PostgresServer.start, servers))
    finally:
        for server in servers:
            server.stop(immediate=True)
    assert archive(cache).suffix == ".tar"


def test_what_a_killed_start_left_in_the_cache_goes_when_it_is_old(cache, fresh):
    cache.mkdir(parents=True, mode=0o700)
    left, new = cache / "unfinished-old", cache / "unfinished-new"
    for path in (left, new):
        path.touch()
    os.utime(left, (0, 0))
    fresh.start()
    assert not left.exists()
    assert new.exists()


def test_a_cluster_that_no_stack_made_is_refused_untouched(data_dir):
    server = PostgresServer(data_dir, settings=EPHEMERAL_SETTINGS)
    server.start()
    server.stop()
    cluster = data_dir / "postgres"
    (cluster / MARKER).unlink()
    (cluster / "postgresql.conf").write_text("# theirs\n")
    with pytest.raises(PostgresError, match="no Runbase stack made"):
        server.start()
    assert (cluster / "postgresql.conf").read_text() == "# theirs\n"


def test_a_directory_that_cannot_be_written_is_one_sentence(data_dir):
    data_dir.mkdir()
    (data_dir / "postgres.new").touch()  # where a folder has to be
    with pytest.raises(PostgresError, match=r"^The data directory .* cannot be used"):
        PostgresServer(data_dir).start()
