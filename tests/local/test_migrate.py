"""Migrations: order, record, repetition, rivals, and what a broken file says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from local.migrate import MigrationError, migrate
from local.statements import Statement, split_statements


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "supabase" / "migrations"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def empty_url(database_server, tmp_path):
    """A database with the platform and no migration."""
    (tmp_path / "none").mkdir()
    url = database_server.clone(database_server.template(migrations=tmp_path / "none"))
    yield url
    database_server.drop(url)


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


async def test_files_are_applied_in_order_and_recorded_statement_by_statement(empty_url, folder):
    (folder / "20260102000000_second.sql").write_text("insert into notes values (1);")
    (folder / "20260101000000_first.sql").write_text("-- a table\ncreate table notes (id int);\nselect 1;\n")
    done = await migrate(empty_url, folder)
    assert done.applied == ["20260101000000_first.sql", "20260102000000_second.sql"]
    recorded = "select version, name, statements from supabase_migrations.schema_migrations order by version"
    assert rows(empty_url, recorded) == [
        ("20260101000000", "first", ["-- a table\ncreate table notes (id int)", "select 1"]),
        ("20260102000000", "second", ["insert into notes values (1)"]),
    ]


async def test_a_second_run_applies_only_what_is_new_and_names_what_changed(empty_url, folder):
    first = folder / "1_first.sql"
    first.write_text("create table notes (id int);")
    await migrate(empty_url, folder)
    first.write_text("create table notes (id bigint);")
    (folder / "2_second.sql").write_text("create table tags (id int);")
    done = await migrate(empty_url, folder)
    assert done.applied == ["2_second.sql"]
    assert done.changed == ["1_first.sql"]


async def test_seed_runs_once_on_a_fresh_database(empty_url, folder):
    (folder / "1_first.sql").write_text("create table notes (id int);")
    (folder.parent / "seed.sql").write_text("insert into notes values (1);")
    await migrate(empty_url, folder)
    await migrate(empty_url, folder)
    assert rows(empty_url, "select count(*) from notes") == [(1,)]


async def test_a_broken_file_leaves_nothing_and_names_its_line(empty_url, folder):
    (folder / "1_first.sql").write_text("create table notes (id int);\n\ncreate table tags (\n  id nonsense\n);")
    with pytest.raises(MigrationError, match=r"^1_first\.sql:4: type \"nonsense\" does not exist \(42704\)"):
        await migrate(empty_url, folder)
    assert rows(empty_url, "select to_regclass('public.notes'), to_regnamespace('supabase_migrations')") == [
        (None, None)
    ]


async def test_a_failure_without_a_place_names_the_line_of_its_statement(empty_url, folder):
    (folder / "1_first.sql").write_text("create table notes (id int);\n-- twice\ncreate table notes (id int);")
    with pytest.raises(MigrationError, match=r"^1_first\.sql:3: relation \"notes\" already exists \(42P07\)"):
        await migrate(empty_url, folder)


async def test_a_file_older_than_the_newest_applied_is_refused(empty_url, folder):
    (folder / "2_second.sql").write_text("select 1")
    await migrate(empty_url, folder)
    (folder / "1_first.sql").write_text("select 1")
    with pytest.raises(MigrationError, match=r"1_first\.sql: older than migration 2"):
        await migrate(empty_url, folder)


async def test_a_migration_missing_from_the_folder_is_named(empty_url, folder):
    (folder / "1_first.sql").write_text("select 1")
    await migrate(empty_url, folder)
    (folder / "1_first.sql").unlink()
    with pytest.raises(MigrationError, match="not in the folder: 1"):
        await migrate(empty_url, folder)


async def test_a_file_without_a_version_is_refused(empty_url, folder):
    (folder / "first.sql").write_text("select 1")
    with pytest.raises(MigrationError, match=r"first\.sql: a migration is named"):
        await migrate(empty_url, folder)


async def test_rivals_apply_each_file_once(empty_url, folder):
    for number in range(1, 6):
        (folder / f"{number}_table.sql").write_text(f"create table notes_{number} (id int);")
    done = await asyncio.gather(*(migrate(empty_url, folder) for _ in range(4)))
    assert sorted(name for one in done for name in one.applied) == [f"{number}_table.sql" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("-- why;\nselect 1; -- and\nselect 2;\n-- end\n", ["-- why;\nselect 1", "-- and\nselect 2", "-- end"]),
        ("select ';'; select e'\\';'; select \";\"", ["select ';'", "select e'\\';'", 'select ";"']),
        ("do $$ begin; end $$; do $a$ $$;$a$;", ["do $$ begin; end $$", "do $a$ $$;$a$"]),
        ("/* ; /* ; */ ; */ select 1 -- ;\n;", ["/* ; /* ; */ ; */ select 1 -- ;"]),
        (
            "create function f() returns int begin atomic select case when true then 1 end; select 2; end; select 3",
            [
                "create function f() returns int begin atomic select case when true then 1 end; select 2; end",
                "select 3",
            ],
        ),
        ("begin; select 1; end; select 2", ["begin", "select 1", "end", "select 2"]),
        ("create rule r as on insert to t do (select 1; select 2);;", None),
        ("", []),
    ],
)
def test_a_script_is_cut_where_postgresql_ends_a_statement(script, expected):
    found = [statement.text for statement in split_statements(script)]
    assert found == ([script.rstrip(";")] if expected is None else expected)


def test_a_statement_knows_its_lines():
    assert split_statements("select 1;\n-- why\n\nselect 2;")[1] == Statement("-- why\n\nselect 2", begins=2, line=4)
