"""What holds for every command, and the small ones: migrate and schema."""

from __future__ import annotations

import pytest

from local.cli.entry import COMMANDS
from local.config import PROJECT_DIR
from local.platform import apply_platform
from tests.cli.runbase import runbase


@pytest.mark.parametrize("command", ["", *COMMANDS, "stack start", "stack stop", "stack status", "stack reset"])
def test_every_command_explains_itself(command):
    shown = runbase(*command.split(), "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"Usage: runbase {command}".strip())
    assert not shown.stderr


def test_help_lists_every_command_and_the_exit_codes():
    shown = runbase("--help").stdout
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "Exit codes:" in shown


@pytest.mark.parametrize("arguments", [["unheard-of"], ["dev", "--port", "70000"], ["dev", "--env-file", "/not/there"]])
def test_a_wrong_command_line_exits_with_2(arguments):
    ended = runbase(*arguments)
    assert ended.returncode == 2
    assert "Error:" in ended.stderr


async def test_migrate_applies_what_is_missing_and_then_nothing(database_server, tmp_path):
    url = database_server.clone("template0")
    try:
        await apply_platform(url)
        first, second = runbase("migrate", "--db-url", url), runbase("migrate", SUPABASE_DB_URL=url)
    finally:
        database_server.drop(url)
    files = sorted(path.name for path in (PROJECT_DIR / "supabase" / "migrations").glob("*.sql"))
    assert first.stdout.splitlines() == [f"Applied {name}" for name in files]
    assert second.stdout == "Nothing to apply: the database is up to date.\n"
    assert (first.returncode, second.returncode) == (0, 0)


def test_migrate_without_a_database_is_one_sentence():
    ended = runbase("migrate", "--db-url", "postgresql://postgres:postgres@127.0.0.1:1/postgres")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: The database cannot be reached")


def test_the_schema_on_file_is_the_migrated_one():
    ended = runbase("schema", "--check")
    assert ended.returncode == 0, ended.stderr
