"""The recorded conversation of the demo, with the real tools."""

from __future__ import annotations

from shared.engines.registry import engines_from_env
from shared.llm.recording import Recording
from tests.engines.drive import Drive


async def test_the_demo_writes_a_program_runs_it_and_stores_it() -> None:
    engine = engines_from_env({})["agent"]
    drive = Drive(engine, {"prompt": Recording.load("demo").prompt})

    end = await drive.finish()

    assert end.output == {
        "summary": 'hello.py is written, stored and tested: it prints "Hello, world!".',
        "artifacts": ["hello.py"],
        "phases": 2,
    }
    assert 'print("Hello, world!")' in drive.artifacts["hello.py"].content
    ran = drive.step("call.2.0").output
    assert ran is not None
    assert (ran["is_error"], ran["result"]["stdout"]) == (False, "Hello, world!\n")
    assert drive.credits > 0


async def test_the_recording_is_used_to_its_end() -> None:
    recording = Recording.load("demo")
    drive = Drive(engines_from_env({})["agent"], {"prompt": recording.prompt})

    await drive.finish()

    assert sum(key.startswith("turn.") for key in drive.keys) == len(recording.turns)
    assert sum(key.startswith("plan.") for key in drive.keys) == len(recording.plans)
    assert not drive.lines("warning")
