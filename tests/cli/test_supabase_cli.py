"""The Supabase CLI 3.x, unmodified, against a database of the embedded stack; and `runbase migrate` beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from local.config import StackConfig
from local.keys import Keys
from local.migrate import migrate
from local.server import running_stack
from tests.cli.supabase_cli import Project, copy_migrations, new_project

pytestmark = pytest.mark.timeout(600)  # the first test may have to fetch the CLI, and it is large

SEED = "insert into notes values (1, 'a; b');\n"
NOTES = "create table public.notes (id int primary key, body text);\nalter table notes enable row level security;\n"


@pytest.fixture
def url(database_server, tmp_path) -> Iterator[str]:
    """A database with the platform and no migration."""
    (tmp_path / "none").mkdir()
    url = database_server.clone(database_server.template(migrations=tmp_path / "none"))
    yield url
    database_server.drop(url)


@pytest.fixture
def project(tmp_path, url) -> Project:
    return new_project(tmp_path / "project", url=url)


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_push_applies_what_is_new_and_a_dry_run_nothing(project, url):
    project.write(_1_notes=NOTES)
    dry = project.run("db", "push", "--dry-run")
    assert "1_notes.sql" in dry.stderr
    assert project.listed() == {"1": (True, False)}
    project.do("db", "push", "--yes")
    assert project.listed() == {"1": (True, True)}
    project.write(_2_tags="create table public.tags (id int);")
    assert project.run("db", "push", "--yes").stderr.count("Applying migration") == 1
    assert "up to date" in project.do("db", "push", "--yes")
    assert rows(url, "select version, name from supabase_migrations.schema_migrations order by 1") == [
        ("1", "notes"),
        ("2", "tags"),
    ]


def test_a_push_that_fails_names_the_statement_and_leaves_nothing_of_the_file(project, url):
    project.write(_1_notes=f"{NOTES}create tabel tags ();")
    refused = project.run("db", "push", "--yes")
    assert refused.returncode != 0
    assert 'syntax error at or near "tabel" (SQLSTATE 42601)' in refused.stderr
    assert rows(url, "select to_regclass('public.notes')") == [(None,)]


async def test_what_the_cli_applied_is_applied_for_runbase(project, url):
    versions = copy_migrations(project)
    project.do("db", "push", "--yes")
    done = await migrate(url, project.migrations)
    assert (done.applied, done.changed, done.seeded) == ([], [], [])
    assert project.listed() == dict.fromkeys(versions, (True, True))


async def test_what_runbase_applied_is_applied_for_the_cli(project, url):
    versions = copy_migrations(project)
    (project.folder / "supabase" / "seed.sql").write_text("select 1;")
    done = await migrate(url, project.migrations)
    assert (len(done.applied), done.seeded) == (len(versions), ["supabase/seed.sql"])
    assert project.listed() == dict.fromkeys(versions, (True, True))
    assert "up to date" in project.do("db", "push", "--yes", "--include-seed")


async def test_a_seed_that_the_cli_loaded_is_loaded_for_runbase(project, url):
    project.write(_1_notes=NOTES)
    (project.folder / "supabase" / "seed.sql").write_text(SEED)
    project.do("db", "push", "--yes", "--include-seed")
    assert (await migrate(url, project.migrations, seeding="missing")).seeded == []
    assert rows(url, "select body from notes") == [("a; b",)]


async def test_the_cli_and_runbase_find_the_same_seeds_by_the_environment(tmp_path, url, monkeypatch):
    config = "[db.seed]\nsql_paths = ['env(FIRST_SEED)', 'env(SECOND_SEED)', 'env(NO_SEED)']\n"
    project = new_project(tmp_path / "project", url=url, config=config)
    project.write(_1_notes=NOTES)
    (project.folder / ".env").write_text("SECOND_SEED=more.sql\n")
    (project.folder / "supabase" / "some.sql").write_text(SEED)
    (project.folder / "supabase" / "more.sql").write_text("insert into notes values (2, 'more');")
    project.do("db", "push", "--yes", "--include-seed", FIRST_SEED="some.sql")
    assert rows(url, "select body from notes order by id") == [("a; b",), ("more",)]
    monkeypatch.setenv("FIRST_SEED", "some.sql")
    assert (await migrate(url, project.migrations, seeding="missing")).seeded == []
    with psycopg.connect(url) as connection:
        connection.execute("delete from supabase_migrations.seed_files")
        connection.execute("delete from notes")
    done = await migrate(url, project.migrations, seeding="missing")
    assert done.seeded == ["supabase/some.sql", "supabase/more.sql"]


async def test_a_repaired_history_is_what_both_go_by(project, url):
    project.write(_1_notes=NOTES)
    await migrate(url, project.migrations)
    project.do("migration", "repair", "--status", "reverted", "1", "--yes")
    assert project.listed() == {"1": (True, False)}
    project.do("migration", "repair", "--status", "applied", "1", "--yes")
    assert project.listed() == {"1": (True, True)}
    done = await migrate(url, project.migrations)
    assert (done.applied, done.changed) == ([], [])


def test_up_and_down_move_by_versions(project):
    project.write(_1_notes=NOTES, _2_tags="create table public.tags (id int);")
    project.do("migration", "up", "--yes")
    project.do("migration", "down", "--last", "1", "--yes")
    assert project.listed() == {"1": (True, True), "2": (True, False)}


def test_reset_begins_anew_and_leaves_the_platform_alone(project, url):
    schemas = "select nspname, nspowner::regrole::text from pg_namespace where nspname !~ '^pg_' order by 1"
    platform = rows(url, schemas)
    copy_migrations(project)
    (project.folder / "supabase" / "seed.sql").write_text(
        "insert into auth.users (id, email) values ('00000000-0000-4000-8000-000000000001', 'seed@example.com');"
    )
    project.do("db", "push", "--yes", "--include-seed")
    with psycopg.connect(url) as connection:
        connection.execute("create table public.stray (id int)")
        connection.execute("insert into auth.users (id) values (gen_random_uuid())")
    project.do("db", "reset", "--yes")
    assert rows(url, "select email from auth.users") == [("seed@example.com",)]
    assert rows(url, "select to_regclass('public.stray')") == [(None,)]
    assert rows(url, schemas) == sorted([*platform, ("private", "postgres"), ("supabase_migrations", "postgres")])
    assert rows(url, "select count(*) from pg_publication where pubname like 'supabase_realtime%'") == [(2,)]
    project.do("db", "reset", "--yes", "--no-seed")
    assert rows(url, "select count(*) from auth.users") == [(0,)]


def test_a_reset_goes_to_the_version_that_is_asked_for(project):
    project.write(_1_notes=NOTES, _2_tags="create table public.tags (id int);")
    project.do("db", "push", "--yes")
    project.do("db", "reset", "--yes", "--version", "1")
    assert project.listed() == {"1": (True, True), "2": (True, False)}


def test_the_advisors_find_what_is_wrong_and_nothing_in_our_own_schema(project):
    copy_migrations(project)
    project.do("db", "push", "--yes")
    advise = ("db", "advisors", "--level", "error", "--fail-on", "error")
    project.do(*advise)
    project.write(_20991231000000_open="create table public.open (id int primary key); grant select on open to anon;")
    project.do("db", "push", "--yes")
    found = project.run(*advise, "--output-format", "json")
    assert found.returncode == 1
    assert "rls_disabled_in_public" in found.stdout


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("typescript", '"notes": {'),
        ("python", "class PublicNotes(BaseModel)"),
    ],
)
def test_types_are_generated(project, language, expected):
    project.write(_1_notes=NOTES)
    project.do("db", "push", "--yes")
    assert expected in project.do("gen", "types", "--lang", language, "--schema", "public")


def test_a_query_is_answered(project):
    assert '"two": 2' in project.do("db", "query", "select 1 + 1 as two", "--read-only", "--output-format", "json")


async def test_a_running_stack_is_the_local_database_and_outlives_its_reset(tmp_path: Path):
    """Without a flag, as people type it; and the gateway answers over what a reset has made anew."""
    folder = tmp_path / "project"
    new_project(folder)
    config = StackConfig(port=0, db_port=0, ephemeral=True, project_dir=folder)
    async with running_stack(config) as stack, httpx.AsyncClient(base_url=stack.config.api_url) as client:
        shutil.rmtree(folder)
        project = new_project(folder, db_port=stack.config.db_port)
        project.write(_1_notes=f"{NOTES}grant select on notes to service_role;")
        (folder / "supabase" / "seed.sql").write_text(SEED)
        assert project.listed() == {"1": (True, False)}
        project.do("db", "push", "--yes", "--include-seed")
        project.do("db", "advisors", "--fail-on", "error")

        async def notes() -> list[dict[str, object]]:
            answer = await client.get("/rest/v1/notes", headers={"apikey": Keys().secret_key})
            return answer.raise_for_status().json()

        for _ in range(8):  # on several connections, and often enough that statements are prepared
            assert await notes() == [{"id": 1, "body": "a; b"}]
        sign_up = {"email": "ada@example.com", "password": "correct horse"}
        (await client.post("/auth/v1/signup", json=sign_up)).raise_for_status()

        project.write(_2_more="alter table notes add column more int;")
        # For its own local database the CLI would make a new container; another port makes this one a database by URL.
        remote = Project(folder, stack.database_url)
        remote.do("db", "reset", "--yes", SUPABASE_DB_PORT="1")
        for _ in range(8):
            assert await notes() == [{"id": 1, "body": "a; b", "more": None}]
        (await client.post("/auth/v1/signup", json=sign_up)).raise_for_status()
        assert '"more": number | null' in remote.do("gen", "types", "--schema", "public")
