"""`runbase demo`: the main job, in a real process, on a stack of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from local.config import PROJECT_DIR
from tests.cli.runbase import SECONDS, command, environment, runbase, running, servers_over
from tests.support.model_server import ModelServer, Reply

PLAN = {
    "goal": "Greet somebody",
    "phases": [
        {
            "id": "greet",
            "title": "Greet",
            "objective": "Greet the person by name.",
            "tools": ["message"],
            "success_criteria": ["Greeted"],
            "depends_on": [],
        }
    ],
}
FINISH = Reply.tool("finish_phase", {"summary": "Greeted.", "success": True})


def model(server: ModelServer) -> dict[str, str]:
    return {"RUNBASE_LLM": "vllm:scripted", "VLLM_BASE_URL": server.openai_url}


@pytest.fixture(scope="module")
def played() -> subprocess.CompletedProcess[str]:
    """The demo as somebody sees it who has set nothing."""
    return runbase("demo")


def test_it_runs_the_program_it_wrote_and_shows_file_output_plan_and_credits(played):
    assert played.returncode == 0, played.stdout + played.stderr
    assert "a recorded conversation answers (scripted:demo)" in played.stdout
    assert re.search(r"^  \[x\] Write the program and run it$", played.stdout, re.MULTILINE)
    assert re.search(r"^File hello\.py \(\d+ bytes\)$", played.stdout, re.MULTILINE)
    assert re.search(r"^Printed by the program of step \d+ \(exit 0\)\n  Hello, world!$", played.stdout, re.MULTILINE)
    assert re.search(r"^Completed in .* steps, \d+\.\d{6} credits\.$", played.stdout, re.MULTILINE)
    assert "\x1b" not in played.stdout


def test_it_shows_every_log_line_once_from_the_start_to_the_end(played):
    lines = re.findall(r"^\d\d:\d\d:\d\d\.\d{3} (\w+) +(.*)$", played.stdout, re.MULTILINE)
    moves = [message for kind, message in lines if kind == "state_transition"]
    assert moves == ["created -> queued", "queued -> planning", "planning -> executing", "executing -> completed"]
    assert len(lines) == len(set(lines))


def test_with_flowise_a_persons_key_goes_to_the_flow_and_is_nowhere_afterwards():
    ended = runbase("demo", "--flowise")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.findall(r"^ ?(\d+)\. ", ended.stdout, re.MULTILINE) == [str(step) for step in range(1, 11)]
    shown = re.search(r"of which only '([\w-]{4})' is ever shown again", ended.stdout)
    assert shown is not None
    assert f"with a key that ends in {shown[1]}." in ended.stdout
    assert "1 opening of the key is logged, and the key is in no answer and no row" in ended.stdout


def test_a_question_for_the_flow_cannot_be_chosen():
    ended = runbase("demo", "--flowise", "--prompt", "Something else")
    assert ended.returncode == 2
    assert "--flowise asks a question of its own" in ended.stderr


def test_another_prompt_without_a_model_is_refused_with_the_ways_to_get_one():
    ended = runbase("demo", "--prompt", "Prove the Riemann hypothesis")
    assert ended.returncode == 2
    assert "ANTHROPIC_API_KEY" in ended.stderr
    assert "RUNBASE_LLM=" in ended.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [("nobody:knows", "has no known provider"), ("openai:gpt-5", "OPENAI_API_KEY"), ("scripted:none", "no recording")],
)
def test_a_model_that_cannot_be_had_is_refused_before_anything_starts(setting, said):
    ended = runbase("demo", RUNBASE_LLM=setting)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_that_fails_shows_why_and_exits_with_1():
    with ModelServer() as server:
        ended = runbase("demo", "--prompt", "Greet me", **model(server))
    assert ended.returncode == 1
    assert re.search(r"^Failed in ", ended.stdout, re.MULTILINE)
    assert "upstream_refused: vLLM refused the request" in ended.stdout


def test_what_the_agent_writes_cannot_steer_the_terminal():
    with ModelServer(Reply.json(PLAN), Reply.tool("message", {"text": "\x1b]0;owned\x07 [bold]hi"}), FINISH) as server:
        ended = runbase("demo", "--prompt", "Greet me", **model(server))
    assert ended.returncode == 0, ended.stdout
    assert "\x1b" not in ended.stdout
    assert "[bold]hi" in ended.stdout


def test_a_question_is_answered_at_the_terminal():
    ask = Reply.tool("ask_user", {"question": "Whom shall I greet?", "options": []})
    with ModelServer(Reply.json(PLAN), ask, FINISH) as server:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            command("demo", "--prompt", "Greet somebody"),
            env=environment(**model(server), TERM="xterm"), cwd=PROJECT_DIR,
            stdin=follower, stdout=follower, stderr=follower,
        )  # fmt: skip
        os.close(follower)
        shown, answered, deadline = "", False, time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(leader, 65_536).decode(errors="replace")
            except OSError:  # the terminal closed: it has ended
                break
            if not answered and "\r\n> " in shown:
                os.write(leader, b"Ada Lovelace\n")
                answered = True
        assert process.wait(SECONDS) == 0, shown
        assert "Ada Lovelace" in json.dumps(server.requests[-1].body)
    os.close(leader)


def test_a_question_that_nobody_can_answer_stops_the_run():
    ask = Reply.tool("ask_user", {"question": "Whom shall I greet?", "options": []})
    with ModelServer(Reply.json(PLAN), ask) as server:
        ended = runbase("demo", "--prompt", "Greet somebody", **model(server))
    assert ended.returncode == 1
    assert "nobody is there to answer" in ended.stdout
    assert re.search(r"^Cancelled in ", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(tmp_path, number):
    with ModelServer(Reply.hang()) as server, running(tmp_path, "demo", "--prompt", "Wait", env=model(server)) as demo:
        demo.until(lambda: server.requests)
        workers = demo.family()
        assert workers
        assert demo.signal(number) == 130
        assert not any(worker.is_running() for worker in workers)
        assert "Interrupted." in demo.err
        assert "Traceback" not in demo.err
    assert not servers_over(PROJECT_DIR / ".runbase" / "demo")
