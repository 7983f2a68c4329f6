"""`runbase dev` and `runbase stack`: what they print, what they serve, and that they go without a trace."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from local.keys import Keys
from local.ports import free_port
from tests.cli.runbase import runbase, running, servers_over, until_empty

PORTS = ("--port", "0", "--db-port", "0")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not below pytest's folder: that is closed, time and again, to the user that PostgreSQL runs as under root.
    with tempfile.TemporaryDirectory(prefix="runbase-cli-") as folder:
        yield Path(folder) / "data"


def execute(values: dict[str, str], **body: object) -> httpx.Response:
    """Sign somebody up and call agent-execute for them, knowing no more than what was printed."""
    key = {"apikey": values["PUBLISHABLE_KEY"]}
    person = {"email": "someone@example.com", "password": "correct horse battery"}
    token = httpx.post(f"{values['API_URL']}/auth/v1/signup", headers=key, json=person).json()["access_token"]
    headers = {**key, "authorization": f"Bearer {token}"}
    return httpx.post(f"{values['FUNCTIONS_URL']}/agent-execute", headers=headers, json=body)


def test_dev_prints_what_a_frontend_needs_drives_runs_and_leaves_nothing(tmp_path, data_dir):
    with running(tmp_path, "dev", *PORTS, "--data-dir", data_dir) as dev:
        dev.until(lambda: "SERVICE_ROLE_KEY" in dev.out)
        values = dev.values()
        answer = execute(values, action="create", prompt="Hello", options={"autostart": True})
        assert answer.status_code == 201
        headers = {"apikey": values["SECRET_KEY"]}
        run = {"select": "status", "id": f"eq.{answer.json()['run_id']}"}
        runs = f"{values['REST_URL']}/agent_runs"
        dev.until(lambda: httpx.get(runs, headers=headers, params=run).json() == [{"status": "completed"}])
        workers = dev.family()
        assert dev.signal(signal.SIGTERM) == 0
        assert not any(worker.is_running() for worker in workers)
        assert "Traceback" not in dev.err
    assert not servers_over(data_dir)


def test_dev_starts_a_worker_again_that_was_killed(tmp_path, data_dir):
    def worker() -> psutil.Process | None:
        return next((process for process in dev.family() if "worker" in process.cmdline()), None)

    with running(tmp_path, "dev", *PORTS, "--data-dir", data_dir) as dev:
        dev.until(lambda: dev.err.count("worker.started") == 1)
        worker().kill()
        dev.until(lambda: dev.err.count("worker.started") == 2)
        assert dev.signal(signal.SIGINT) == 0


def test_a_worker_ends_with_the_dev_that_was_killed(tmp_path, data_dir):
    with running(tmp_path, "dev", *PORTS, "--data-dir", data_dir) as dev:
        dev.until(lambda: "worker.started" in dev.err)
        workers = dev.family()
        assert workers
        dev.process.kill()
        assert not psutil.wait_procs(workers, timeout=30)[1]
    assert runbase("stack", "stop", "--data-dir", data_dir).stdout == "Stopped.\n"
    assert not servers_over(data_dir)


def test_an_env_file_reaches_the_worker_but_cannot_move_the_stack(tmp_path, data_dir):
    env_file = tmp_path / "env"
    env_file.write_text("# a model\nRUNBASE_LLM='scripted:demo'\nSUPABASE_URL=http://elsewhere.example\n")
    with running(tmp_path, "dev", *PORTS, "--data-dir", data_dir, "--env-file", env_file) as dev:
        dev.until(lambda: "worker.started" in dev.err)
        assert "SUPABASE_URL" in dev.err
        assert "worker.no_model" not in dev.err
        assert execute(dev.values(), action="create", prompt="Hello").status_code == 201
        assert dev.signal(signal.SIGTERM) == 0


@pytest.mark.parametrize("name", ["dev", "stack"])
def test_a_taken_port_is_one_sentence(data_dir, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = runbase(name, "--port", str(port), "--db-port", "0", "--data-dir", data_dir)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Error: Port {port} for the gateway is taken by {psutil.Process().name()} (process {os.getpid()}). "
        "Stop it, or choose another with --port (0 takes a free one).\n"
    )


@pytest.mark.parametrize("arguments", [["dev", *PORTS], ["stack", *PORTS], ["stack", "start", *PORTS]])
def test_an_unusable_data_directory_is_one_sentence(tmp_path, arguments):
    (tmp_path / "file").touch()
    unusable = tmp_path / "file" / "data"
    ended = runbase(*arguments, "--data-dir", unusable)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: The data directory {unusable} cannot be used: Not a directory.\n"


def test_an_env_file_that_is_no_text_is_refused(tmp_path, data_dir):
    env_file = tmp_path / "env"
    env_file.write_bytes(b"NAME=\xff\xfe\n")
    ended = runbase("dev", *PORTS, "--data-dir", data_dir, "--env-file", env_file)
    assert ended.returncode == 2
    assert f"{env_file} is not a text file in UTF-8." in ended.stderr
    assert not data_dir.exists()


def test_reset_leaves_alone_a_database_that_no_stack_made(data_dir):
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("18\n")
    (data_dir / "storage").mkdir()
    ended = runbase("stack", "reset", "--yes", "--data-dir", data_dir)
    assert ended.returncode == 1
    assert "was not made by a Runbase stack, so it is left alone" in ended.stderr
    assert sorted(path.name for path in data_dir.iterdir()) == ["postgres", "storage"]


def test_reset_leaves_alone_what_is_no_database(data_dir):
    notes = data_dir / "postgres" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.touch()
    ended = runbase("stack", "reset", "--yes", "--data-dir", data_dir)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: {notes.parent} was not made by a Runbase stack, so it is left alone.\n"
    assert notes.exists()


def test_reset_says_when_there_is_nothing_to_delete(data_dir):
    ended = runbase("stack", "reset", "--yes", "--data-dir", data_dir)
    assert ended.returncode == 0
    assert ended.stdout == f"There is no database in {data_dir}: nothing to delete.\n"


@pytest.mark.parametrize("command", ["start", "stop", "status", "reset"])
def test_an_option_before_the_command_of_a_stack_is_refused(data_dir, command):
    ended = runbase("stack", "--data-dir", data_dir, command)
    assert ended.returncode == 2
    assert f"--data-dir before `{command}` has no effect" in ended.stderr


def test_an_ephemeral_stack_in_the_foreground_keeps_nothing(tmp_path, data_dir):
    with running(tmp_path, "stack", *PORTS, "--ephemeral", "--data-dir", data_dir) as stack:
        stack.until(lambda: "SERVICE_ROLE_KEY" in stack.out)
        assert httpx.get(f"{stack.values()['API_URL']}/health").status_code == 200
        assert stack.signal(signal.SIGINT) == 0
    assert not data_dir.exists()


def test_a_killed_ephemeral_stack_takes_its_database_server_along(tmp_path, data_dir):
    data_dir.mkdir()
    with running(tmp_path, "stack", *PORTS, "--ephemeral", env={"TMPDIR": str(data_dir)}) as stack:
        stack.until(lambda: "SERVICE_ROLE_KEY" in stack.out)
        servers = servers_over(data_dir)
        assert servers
        stack.process.kill()
        assert not psutil.wait_procs(servers, timeout=30)[1]
    until_empty(data_dir)


def test_an_ephemeral_stack_that_is_killed_while_it_starts_leaves_nothing(tmp_path, data_dir):
    data_dir.mkdir()
    with running(tmp_path, "stack", *PORTS, "--ephemeral", env={"TMPDIR": str(data_dir)}) as stack:
        stack.until(lambda: list(data_dir.glob("*/postgres*")))
        stack.process.kill()
    until_empty(data_dir)
    assert not psutil.wait_procs(servers_over(data_dir), timeout=30)[1]


def test_a_stack_in_the_background_is_started_shown_reset_and_stopped(data_dir):
    where = ("--data-dir", data_dir)
    missing = runbase("stack", "status", *where)
    assert (missing.returncode, missing.stderr) == (3, f"Error: No stack runs over {data_dir}.\n")
    started = runbase("stack", "start", *PORTS, *where)
    try:
        assert started.returncode == 0, started.stderr
        assert runbase("stack", "status", "-o", "env", *where).stdout == started.stdout
        assert runbase("stack", "reset", *where).returncode == 130  # nobody is there to confirm
        assert runbase("stack", "status", *where).returncode == 0
        assert runbase("stack", "reset", "--yes", *where).stdout == "The database is deleted.\n"
    finally:
        stopped = runbase("stack", "stop", *where)
    assert stopped.stdout == "Nothing was running.\n"
    assert not (data_dir / "postgres").exists()


def test_a_stack_serves_the_project_that_it_is_started_in_and_where_its_config_says(tmp_path):
    with tempfile.TemporaryDirectory(prefix="runbase-cli-") as folder:
        project = Path(folder)
        below = project / "web" / "src"
        for path in (below, project / "supabase" / "migrations", project / "functions" / "hello"):
            path.mkdir(parents=True)
        port, db_port = free_port(), free_port()
        (project / "supabase" / "config.toml").write_text(f"[api]\nport = {port}\n[db]\nport = 'env(DB_PORT)'\n")
        (project / ".env").write_text(f"DB_PORT={db_port}\n")
        notes = "create table notes (id int primary key); grant select on notes to service_role;"
        (project / "supabase" / "migrations" / "1_notes.sql").write_text(notes)
        (project / "functions" / "hello" / "app.py").write_text(
            "from starlette.responses import Response\n\napp = Response('hello')\n"
        )
        try:
            started = runbase("stack", "start", cwd=below)
            assert started.returncode == 0, started.stderr
            assert f'API_URL="http://127.0.0.1:{port}"' in started.stdout
            assert f"127.0.0.1:{db_port}/postgres" in started.stdout
            headers = {"apikey": Keys().secret_key}
            assert httpx.get(f"http://127.0.0.1:{port}/rest/v1/notes", headers=headers).json() == []
            assert httpx.get(f"http://127.0.0.1:{port}/functions/v1/hello").text == "hello"
            assert (project / ".runbase" / "postgres").is_dir()
            assert runbase("stack", "status", "-o", "env", "--project", project).stdout == started.stdout
            (project / "supabase" / "migrations" / "2_tags.sql").write_text("create table tags (id int);")
            assert runbase("migrate", cwd=project).stdout == "Applied 2_tags.sql\n"
        finally:
            stopped = runbase("stack", "stop", cwd=below)
        assert stopped.stdout == "Stopped.\n"


def test_a_port_in_the_projects_config_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase" / "config.toml").write_text("[db]\nport = 'high'\n")
    ended = runbase("stack", "start", "--project", tmp_path)
    assert (ended.returncode, ended.stderr) == (1, "Error: supabase/config.toml: db.port: 'high' is no port\n")
