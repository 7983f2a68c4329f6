"""`runbase worker`: what happens when it is told to stop, and when it cannot work."""

from __future__ import annotations

import signal

import psycopg
import pytest

from tests.cli.runbase import runbase, running
from tests.support.model_server import ModelServer, Reply


async def started_run(stack) -> str:
    """A run of a new person, queued through agent-execute; its id."""
    person = await stack.sign_up()
    body = {"action": "create", "prompt": "Wait for me", "options": {"autostart": True}}
    answer = await person.client.functions.invoke("agent-execute", {"body": body, "responseType": "json"})
    return answer["run_id"]


def run_row(database_url: str, run_id: str) -> tuple[str, bool]:
    """Status, and whether somebody holds the run."""
    with psycopg.connect(database_url) as connection:
        query = "select status::text, lease_id is not null from public.agent_runs where id = %s"
        return connection.execute(query, [run_id]).fetchone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_told_to_stop_gives_back_its_runs(tmp_path, stack, number):
    run_id = await started_run(stack)
    with ModelServer(Reply.hang()) as server:
        env = {"SUPABASE_DB_URL": stack.database_url, "RUNBASE_LLM": "vllm:slow", "VLLM_BASE_URL": server.openai_url}
        with running(tmp_path, "worker", env=env) as worker:
            worker.until(lambda: server.requests)
            assert run_row(stack.database_url, run_id) == ("planning", True)
            assert worker.signal(number) == 0
            assert "worker.stopped" in worker.err
            assert "Traceback" not in worker.err
    assert run_row(stack.database_url, run_id) == ("queued", False)


async def test_a_worker_finishes_runs_with_the_recording_and_says_that_it_is_one(tmp_path, stack):
    run_id = await started_run(stack)
    with running(tmp_path, "worker", env={"SUPABASE_DB_URL": stack.database_url}) as worker:
        worker.until(lambda: run_row(stack.database_url, run_id)[0] == "completed")
        assert "worker.no_model" in worker.err
        assert worker.signal(signal.SIGTERM) == 0


def test_a_database_that_does_not_answer_is_one_sentence():
    ended = runbase("worker", "--db-url", "postgresql://postgres:postgres@127.0.0.1:1/postgres")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: The database cannot be reached")
    assert "Traceback" not in ended.stderr


def test_a_database_without_the_migrations_is_one_sentence(database_server):
    ended = runbase("worker", "--db-url", database_server.url())
    assert ended.returncode == 1
    assert "runbase migrate" in ended.stderr


def test_a_wrong_number_of_runs_is_refused():
    assert runbase("worker", "--concurrency", "0").returncode == 2
