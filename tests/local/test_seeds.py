"""Seeds: which files, once, in order, and what a broken one says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from local import stack as background
from local.cli.migrate import _on_this_machine as on_this_machine
from local.config import StackConfig
from local.keys import Keys
from local.migrate import MigrationError, migrate
from local.seeds import find_seeds
from local.server import running_stack
from tests.cli.runbase import runbase

NOTES = "create table public.notes (id int, body text); grant all on notes to service_role;"


@pytest.fixture
def supabase(tmp_path: Path) -> Path:
    """A project's folder `supabase` with one migration."""
    (tmp_path / "supabase" / "migrations").mkdir(parents=True)
    (tmp_path / "supabase" / "migrations" / "1_notes.sql").write_text(NOTES)
    return tmp_path / "supabase"


@pytest.fixture
def empty_url(database_server, tmp_path) -> Iterator[str]:
    """A database with the platform and no migration."""
    (tmp_path / "none").mkdir()
    url = database_server.clone(database_server.template(migrations=tmp_path / "none"))
    yield url
    database_server.drop(url)


def note(folder: Path, path: str, body: str) -> Path:
    """Write a seed that adds one note."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"insert into public.notes (body) values ('{body}');")
    return file


def notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [body for (body,) in connection.execute("select body from public.notes order by ctid").fetchall()]


async def test_a_fresh_database_gets_the_seed_and_its_record(empty_url, supabase):
    seed = note(supabase, "seed.sql", "a")
    done = await migrate(empty_url, supabase / "migrations")
    assert done.seeded == ["supabase/seed.sql"]
    assert notes(empty_url) == ["a"]
    with psycopg.connect(empty_url) as connection:
        recorded = connection.execute("select path, hash from supabase_migrations.seed_files").fetchall()
    assert recorded == [("supabase/seed.sql", hashlib.sha256(seed.read_bytes()).hexdigest())]


async def test_a_seed_that_came_later_is_loaded_only_when_asked_for_and_once(empty_url, supabase):
    await migrate(empty_url, supabase / "migrations")
    note(supabase, "seed.sql", "a")
    assert (await migrate(empty_url, supabase / "migrations")).seeded == []
    assert (await migrate(empty_url, supabase / "migrations", seeding="missing")).seeded == ["supabase/seed.sql"]
    assert (await migrate(empty_url, supabase / "migrations", seeding="missing")).seeded == []
    assert notes(empty_url) == ["a"]


async def test_the_configured_files_are_loaded_in_order_each_once(empty_url, supabase):
    (supabase / "config.toml").write_text(
        "[db.seed]\nsql_paths = ['./base.sql', 'seeds/*.sql', 'seeds/20_b.sql', '../shared/*.sql', 'more']"
    )
    for path, body in {
        "seeds/20_b.sql": "b", "seeds/10_a.sql": "a", "base.sql": "base", "../shared/c.sql": "c", "more/d/e.sql": "e",
        "seed.sql": "not named",
    }.items():  # fmt: skip
        note(supabase, path, body)
    (supabase / "more" / "read.me").write_text("no seed")
    done = await migrate(empty_url, supabase / "migrations")
    assert notes(empty_url) == ["base", "a", "b", "c", "e"]
    assert done.seeded == [
        "supabase/base.sql", "supabase/seeds/10_a.sql", "supabase/seeds/20_b.sql", "shared/c.sql",
        "supabase/more/d/e.sql",
    ]  # fmt: skip


async def test_seeding_that_is_switched_off_loads_nothing(empty_url, supabase):
    (supabase / "config.toml").write_text("[db.seed]\nenabled = false")
    note(supabase, "seed.sql", "a")
    assert (await migrate(empty_url, supabase / "migrations", seeding="missing")).seeded == []


@pytest.mark.parametrize(
    ("paths", "files", "found"),
    [
        ("['env(SEED)', 'b.sql']", {}, ["a", "b"]),
        ("'env(SEEDS)'", {}, ["a", "b"]),
        ("'a.sql,b.sql'", {}, ["a", "b"]),
        ("['env(UNSET)', 'b.sql']", {}, ["b"]),
        ("['env(EMPTY)', 'b.sql']", {".env": "EMPTY=a.sql"}, ["b"]),
        ("['env(SEED)']", {".env.local": "SEED=b.sql"}, ["a"]),
        ("['env(IN_FILE)']", {".env": "export IN_FILE='a.sql' # first\n"}, ["a"]),
        ("['env(IN_FILE)']", {"supabase/.env": "IN_FILE=a.sql"}, ["a"]),
        ("['env(IN_FILE)']", {"supabase/.env": "IN_FILE=a.sql", ".env": "IN_FILE=b.sql"}, ["b"]),
        ("['env(IN_FILE)']", {".env": "IN_FILE=a.sql", ".env.local": "IN_FILE=b.sql"}, ["b"]),
        ("['env(IN_FILE)']", {".env": "IN_FILE=a.sql", ".env.development": "IN_FILE=b.sql"}, ["b"]),
        ("['env(IN_FILE)']", {".env.development": "IN_FILE=a.sql", ".env.local": "IN_FILE=b.sql"}, ["b"]),
        ("['env(IN_FILE)']", {".env.local": "IN_FILE=a.sql", ".env.development.local": "IN_FILE=b.sql"}, ["b"]),
    ],
)
def test_a_value_from_the_environment_is_what_the_supabase_cli_finds(supabase, monkeypatch, paths, files, found):
    for name, value in {"SEED": "a.sql", "SEEDS": "a.sql,b.sql", "EMPTY": ""}.items():
        monkeypatch.setenv(name, value)
    (supabase / "config.toml").write_text(f"[db.seed]\nsql_paths = {paths}")
    for path, text in {**files, "supabase/a.sql": "", "supabase/b.sql": ""}.items():
        (supabase.parent / path).write_text(text)
    assert [seed.path.stem for seed in find_seeds(supabase)] == found


def test_seeding_can_be_switched_off_by_the_environment(supabase, monkeypatch):
    monkeypatch.setenv("SEEDING", "false")
    (supabase / "config.toml").write_text("[db.seed]\nenabled = 'env(SEEDING)'")
    (supabase / "seed.sql").touch()
    assert find_seeds(supabase) == []


def test_a_configured_path_that_matches_nothing_is_a_warning(supabase, caplog):
    assert find_seeds(supabase) == []
    assert not caplog.records
    (supabase / "config.toml").write_text("[db.seed]\nsql_paths = ['./sed.sql']")
    assert find_seeds(supabase) == []
    assert "No seed matches './sed.sql'" in caplog.text


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("[db.seed]\nsql_paths = 1", "supabase/config.toml: db.seed.sql_paths: Input should be a valid list"),
        ("[db.seed]\nenabled = 'perhaps'", "supabase/config.toml: db.seed.enabled: "),
        ("[db", "supabase/config.toml cannot be understood: "),
        ("db = 1", "supabase/config.toml: db: should be a table"),
    ],
    ids=["paths", "enabled", "syntax", "shape"],
)
def test_a_config_that_cannot_be_understood_is_named(supabase, config, complaint):
    (supabase / "config.toml").write_text(config)
    with pytest.raises(MigrationError) as refused:
        find_seeds(supabase)
    assert str(refused.value).startswith(complaint)


async def test_a_broken_seed_names_file_line_and_statement_and_leaves_nothing(empty_url, supabase):
    (supabase / "config.toml").write_text("[db.seed]\nsql_paths = ['a.sql', 'b.sql']")
    note(supabase, "a.sql", "a")
    (supabase / "b.sql").write_text(
        "insert into public.notes (body) values ('b');\n\ninsert into public.nots\nvalues (1);"
    )
    with pytest.raises(MigrationError) as refused:
        await migrate(empty_url, supabase / "migrations")
    place, statement, _, advice = str(refused.value).split("\n")
    assert place == 'supabase/b.sql:3: relation "public.nots" does not exist (42P01)'
    assert statement == "insert into public.nots"
    assert "do the same again" in advice
    assert notes(empty_url) == ["a"]
    note(supabase, "b.sql", "b")
    for seeded in (["supabase/b.sql"], []):
        assert (await migrate(empty_url, supabase / "migrations")).seeded == seeded
    assert notes(empty_url) == ["a", "b"]


async def test_a_new_database_whose_migration_failed_is_seeded_when_that_is_mended(empty_url, supabase):
    note(supabase, "seed.sql", "a")
    second = supabase / "migrations" / "2_more.sql"
    second.write_text("alter table public.nots add more int;")
    with pytest.raises(MigrationError):
        await migrate(empty_url, supabase / "migrations")
    second.write_text("alter table public.notes add more int;")
    done = await migrate(empty_url, supabase / "migrations")
    assert (done.applied, done.seeded, notes(empty_url)) == (["2_more.sql"], ["supabase/seed.sql"], ["a"])
    note(supabase, "seed.sql", "b")
    assert (await migrate(empty_url, supabase / "migrations")).seeded == []


async def test_a_database_that_is_not_to_be_seeded_never_is(empty_url, supabase):
    note(supabase, "seed.sql", "a")
    await migrate(empty_url, supabase / "migrations", seeding="never")
    assert (await migrate(empty_url, supabase / "migrations")).seeded == []


@pytest.mark.parametrize("name", ["seed.sql", "migrations/2_more.sql"])
async def test_a_file_that_is_no_text_is_named(empty_url, supabase, name):
    (supabase / name).write_bytes(b"select '\xff';")
    with pytest.raises(MigrationError, match=r"\.sql: not a text file in UTF-8"):
        await migrate(empty_url, supabase / "migrations")


async def test_a_dump_among_the_files_does_not_change_what_the_next_one_means(empty_url, supabase):
    empty_path = "select pg_catalog.set_config('search_path', '', false);"
    (supabase / "migrations" / "2_dump.sql").write_text(empty_path)
    (supabase / "migrations" / "3_after.sql").write_text("alter table notes add column more int;")
    (supabase / "config.toml").write_text("[db.seed]\nsql_paths = ['a.sql', 'b.sql']")
    (supabase / "a.sql").write_text(empty_path)
    (supabase / "b.sql").write_text("insert into notes (body) values ('b');")
    await migrate(empty_url, supabase / "migrations")
    assert notes(empty_url) == ["b"]


async def test_rivals_load_a_seed_once(empty_url, supabase):
    note(supabase, "seed.sql", "a")
    await asyncio.gather(*(migrate(empty_url, supabase / "migrations") for _ in range(4)))
    assert notes(empty_url) == ["a"]


async def test_a_stack_loads_the_seed_into_an_empty_directory_and_again_after_a_reset(supabase, data_dir):
    note(supabase, "seed.sql", "a")
    config = StackConfig(port=0, db_port=0, data_dir=data_dir, project_dir=supabase.parent)

    async def seen(*, add: str | None) -> list[str]:
        async with running_stack(config) as stack, httpx.AsyncClient(base_url=stack.config.api_url) as client:
            headers = {"apikey": Keys().secret_key}
            if add:
                (await client.post("/rest/v1/notes", headers=headers, json={"body": add})).raise_for_status()
            return [row["body"] for row in (await client.get("/rest/v1/notes", headers=headers)).json()]

    assert await seen(add="b") == ["a", "b"]
    assert await seen(add=None) == ["a", "b"]
    assert background.reset(config)
    assert await seen(add=None) == ["a"]


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("postgresql://postgres:postgres@127.0.0.1:54322/postgres", True),
        ("postgresql://postgres@localhost/postgres", True),
        ("postgresql://postgres@[::1]:54322/postgres", True),
        ("postgresql://postgres@db.abcdefghijklmnop.supabase.co:5432/postgres", False),
        ("postgresql://postgres@127.0.0.1,db.example.com/postgres", False),
        ("not a url", False),
    ],
)
def test_only_a_database_on_this_machine_is_seeded_unasked(url, here):
    assert on_this_machine(url) is here


def test_migrate_explains_when_it_seeds():
    assert "--seed / --no-seed" in runbase("migrate", "--help").stdout
