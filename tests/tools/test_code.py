from __future__ import annotations

import asyncio

import pytest

from shared.runs.models import NewArtifact
from shared.tools.code import CodeTool
from shared.tools.router import CONTENT_BYTES, ToolRouter
from shared.tools.sandbox import Limits, SandboxUnavailable, run
from shared.tools.tool import ARTIFACT_BYTES, ToolFailed, ToolResult
from tests.tools.support import context, sandbox_children, until


async def call(files: dict[str, str] | None = None, /, **arguments: object) -> ToolResult:
    tool = CodeTool(limits=Limits(seconds=20.0, file_kept_bytes=ARTIFACT_BYTES))
    return await ToolRouter([tool]).call("code", arguments, context(files))


async def test_the_model_is_told_what_the_program_printed() -> None:
    result = await call(code="print('hello')")

    assert not result.is_error
    assert result.content.startswith("Program finished after ")
    assert result.content.endswith("stdout:\nhello\n")
    assert {key: result.output[key] for key in ("exit", "exit_code", "stdout", "stderr", "truncated", "files")} == {
        "exit": "ok",
        "exit_code": 0,
        "stdout": "hello\n",
        "stderr": "",
        "truncated": False,
        "files": [],
    }


async def test_text_files_that_the_program_writes_are_artifacts() -> None:
    result = await call(code="open('out.csv', 'w').write('a,b'); open('notes', 'w').write('ü')")

    assert result.artifacts == (
        NewArtifact(name="notes", content="ü", content_type="text/plain"),
        NewArtifact(name="out.csv", content="a,b", content_type="text/csv"),
    )
    assert result.content.endswith("It printed nothing.\nFiles saved: notes (2 bytes), out.csv (3 bytes)")


async def test_files_that_cannot_be_stored_are_named_with_the_reason() -> None:
    result = await call(
        code=r"open('a.bin', 'wb').write(b'\xff'); open('b', 'w').write('\0'); open('c', 'w').write('x' * 70_000)"
    )

    assert result.artifacts == ()
    assert result.output["files_not_saved"] == [
        "'c': larger than 65536 bytes",
        "'a.bin': not UTF-8 text",
        "'b': not text, it holds NUL",
    ]


async def test_a_program_saved_earlier_can_be_run() -> None:
    result = await call(
        {"hello.py": "if __name__ == '__main__': print('hello from a file')"},
        code="import runpy; runpy.run_path('hello.py', run_name='__main__')",
        files=["hello.py"],
    )

    assert result.output["stdout"] == "hello from a file\n"
    assert result.artifacts == ()


async def test_a_file_that_was_not_asked_for_is_not_there() -> None:
    result = await call({"secret.txt": "s"}, code="open('secret.txt')")

    assert result.is_error
    assert "FileNotFoundError" in result.content


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"code": "1", "files": ["b.txt"]}, "There is no file 'b.txt' in this run. The files are: a.txt."),
        ({"code": "1", "files": ["../a.txt"]}, "`files.0`: must not contain empty, '.' or '..' segments"),
        ({"code": "1", "files": ["a.txt"] * 33}, "`files`: Tuple should have at most 32 items"),
        ({"code": ""}, "`code`: String should have at least 1 character"),
        ({"code": "é" * 51_201}, "`code`: has 102402 bytes, and 102400 is the most"),
        ({"code": "1", "stdin": "x" * 102_401}, "`stdin`: has 102401 bytes"),
        ({"source": "1"}, "`source` is not a known field"),
    ],
)
async def test_wrong_arguments_are_told(arguments: dict[str, object], told: str) -> None:
    result = await call({"a.txt": ""}, **arguments)

    assert result.is_error
    assert told in result.content
    assert result.credits == 0


@pytest.mark.parametrize(
    ("code", "headline"),
    [
        ("import sys; sys.exit(7)", "Program failed with exit code 7"),
        ("'a' * 2_000_000_000", "Program stopped: out of memory"),
        ("while True: print('x' * 1000)", "Program stopped: it printed or wrote too much"),
        ("import os; os.abort()", "Program crashed the interpreter (unreachable)"),
    ],
)
async def test_the_model_is_told_how_a_program_failed(code: str, headline: str) -> None:
    result = await call(code=code)

    assert result.is_error
    assert result.content.startswith(headline)
    assert (result.message or "").startswith(headline)


async def test_long_output_leaves_room_for_the_error() -> None:
    result = await call(code="import sys\nprint('o' * 60_000)\nsys.stderr.write('e' * 10_000)\nraise ValueError('why')")

    assert len(result.content) <= CONTENT_BYTES
    assert "[truncated: 60001 bytes in all]" in result.content
    assert "ValueError: why" in result.content
    assert len(str(result.output["stdout"])) == 60_001


async def test_a_program_costs_by_the_second_within_its_bound() -> None:
    tool = CodeTool(limits=Limits(seconds=1.0), credits_per_second=7)
    router = ToolRouter([tool])

    quick = await router.call("code", {"code": "1"}, context())
    stopped = await router.call("code", {"code": "while True: pass"}, context())

    assert tool.credits_bound == 7
    assert (quick.credits, stopped.credits) == (7, 7)
    assert stopped.content.startswith("Program stopped: out of time")


async def test_programs_beyond_the_bound_wait_for_their_turn() -> None:
    router = ToolRouter([CodeTool(limits=Limits(seconds=600.0), parallel=1)])
    first = asyncio.create_task(router.call("code", {"code": "while True: pass"}, context()))
    await until(lambda: len(sandbox_children()) == 1)
    second = asyncio.create_task(router.call("code", {"code": "print(2)"}, context()))

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    assert (await second).output["stdout"] == "2\n"


async def test_a_host_without_a_sandbox_fails_the_step_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise SandboxUnavailable("cannot make the cache directory '/secret/path'")

    monkeypatch.setattr(run, "ready_now", broken)

    with pytest.raises(ToolFailed) as raised:
        await call(code="1")

    assert (raised.value.code, raised.value.retryable) == ("sandbox_unavailable", True)
    assert "secret" not in str(raised.value)
