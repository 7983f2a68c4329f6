"""What programs may and may not do: the probes that other sandboxes failed, and the ordinary things that must work."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from shared.tools.sandbox import Limits, run_python
from tests.tools.support import QUICK, left_in, sandbox_children, until


async def test_a_program_prints_and_ends_well() -> None:
    outcome = await run_python("print('hello')", limits=QUICK)

    assert (outcome.exit, outcome.exit_code, outcome.stdout, outcome.stderr) == ("ok", 0, "hello\n", "")
    assert not outcome.truncated
    assert outcome.memory_bytes


async def test_text_beyond_ascii_passes_in_and_out() -> None:
    code = "import sys; print('é', sys.stdin.read()); open('ü/ß.txt', 'w').write('日本')"

    outcome = await run_python(f"import os; os.mkdir('ü'); {code}", stdin="emoji 😀", limits=QUICK)

    assert outcome.stdout == "é emoji 😀\n"
    assert outcome.files == {"ü/ß.txt": "日本".encode()}


async def test_lone_surrogates_in_code_and_input_do_no_harm() -> None:
    outcome = await run_python("print(len('\ud800')); print(input())", stdin="a\udfffb", limits=QUICK)

    assert (outcome.exit, outcome.stdout) == ("ok", "1\na?b\n")


async def test_output_that_is_no_utf8_is_replaced() -> None:
    outcome = await run_python(r"import sys; sys.stdout.buffer.write(b'a\xff\x00b')", limits=QUICK)

    assert outcome.stdout == "a\ufffd\x00b"


@pytest.mark.parametrize(
    ("code", "exit_code"), [("import sys; sys.exit(3)", 3), ("import sys; sys.exit(200)", 1), ("1/0", 1), ("if", 1)]
)
async def test_a_failed_program_reports_its_exit_code(code: str, exit_code: int) -> None:
    outcome = await run_python(code, limits=QUICK)

    assert (outcome.exit, outcome.exit_code) == ("error", exit_code)


async def test_a_traceback_shows_the_line_that_failed() -> None:
    outcome = await run_python("x = 1\nraise ValueError('wrong ' + 'thing')", limits=QUICK)

    assert "raise ValueError('wrong ' + 'thing')" in outcome.stderr
    assert outcome.stderr.endswith("ValueError: wrong thing\n")


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(3600)",
        "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
        "9**9**9",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import select; select.select([], [], [], 3600)",
    ],
    ids=["loop", "sleep", "regex", "power", "catches-everything", "select"],
)
async def test_a_program_without_end_is_stopped(code: str) -> None:
    outcome = await run_python(f"print('begun')\n{code}", limits=Limits(seconds=1.0))

    assert (outcome.exit, outcome.exit_code) == ("timeout", None)
    assert outcome.stdout == "begun\n"
    assert outcome.files == {}


@pytest.mark.parametrize(
    "code",
    [
        "x = [0]\nwhile True: x = x + x",
        "'a' * (2**31 - 100)",
        "b = []\nwhile True: b.append(bytearray(1_000_000))",
        "f'{1:>1000000000}'",
        "'a'.ljust(10**9)",
    ],
)
async def test_a_program_that_takes_all_memory_is_refused_more(code: str) -> None:
    outcome = await run_python(code, limits=QUICK)

    assert outcome.exit == "out_of_memory"
    assert (outcome.memory_bytes or 0) <= 64 * 1024 * 1024


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_flood_of_output_stops_the_program(stream: str) -> None:
    outcome = await run_python(f"import sys\nwhile True: sys.{stream}.write('x' * 5000)", limits=Limits(seconds=20.0))

    assert outcome.exit == "output_limit"
    assert outcome.truncated
    assert len(outcome.stdout) + len(outcome.stderr) <= (64 + 16) * 1024


async def test_long_output_is_cut_at_the_end_of_stdout_and_the_start_of_stderr() -> None:
    code = "import sys\nprint('first' + 'x' * 70_000)\nsys.stderr.write('y' * 20_000 + 'last')"

    outcome = await run_python(code, limits=QUICK)

    assert (outcome.exit, outcome.truncated) == ("ok", True)
    assert (len(outcome.stdout), len(outcome.stderr)) == (64 * 1024, 16 * 1024)
    assert outcome.stdout.startswith("first")
    assert outcome.stderr.endswith("last")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("open('../../../../etc/passwd')", "PermissionError"),
        ("open('/program/../../stdin')", "Error"),
        ("open('/proc/self/environ')", "FileNotFoundError"),
        ("import os; os.symlink('/etc/passwd', 'p'); open('p')", "Error"),
        ("import os; os.symlink('../stdin', 'p'); open('p')", "Error"),
        ("import os; os.link('../stdin', 'p')", "Error"),
        ("import os; os.rename('../stdin', 'p')", "Error"),
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "Error"),
        ("import socket; socket.getaddrinfo('localhost', 80)", "Error"),
        ("import urllib.request; urllib.request.urlopen('http://127.0.0.1')", "Error"),
        ("import subprocess; subprocess.run(['id'])", "OSError"),
        ("import os; os.system('id')", "AttributeError"),
        ("import os; os.fork()", "AttributeError"),
        ("import ctypes", "ModuleNotFoundError"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError"),
        ("import multiprocessing; multiprocessing.Process(target=print).start()", "Error"),
        ("import json; json.loads('[' * 100_000)", "RecursionError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("eval('(' * 100_000)", "MemoryError: Parser stack overflowed"),
    ],
)
async def test_what_a_program_may_not_do_is_an_error_of_its_own(code: str, error: str) -> None:
    outcome = await run_python(code, limits=QUICK)

    assert outcome.exit == "error"
    assert error in outcome.stderr.rstrip().rpartition("\n")[2]


TOO_DEEP = """
import sys
sys.setrecursionlimit(10**9)
class Deep:
    def __getattr__(self, name):
        return getattr(self, name + 'a')
Deep().x
"""


@pytest.mark.parametrize(
    ("code", "trap"), [(TOO_DEEP, "memory_out_of_bounds"), ("import os; os.abort()", "unreachable")]
)
async def test_a_crash_of_the_interpreter_is_the_end_of_the_program_only(code: str, trap: str) -> None:
    outcome = await run_python(code, limits=QUICK)

    assert (outcome.exit, outcome.exit_code, outcome.trap) == ("error", None, trap)


async def test_the_guest_sees_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "canary")

    outcome = await run_python("import os, sys; print(dict(os.environ), sys.argv, os.getcwd())", limits=QUICK)

    assert outcome.stdout == "{'PYTHONPATH': '/'} ['/program/main.py'] /\n"


async def test_the_child_process_has_an_empty_environment_and_its_own_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "canary")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    running = asyncio.create_task(run_python("while True: pass", limits=QUICK))
    await until(lambda: sandbox_children() != [])

    child = sandbox_children()[0]
    environment, session = child.environ(), os.getsid(child.pid)

    assert environment == {}
    assert session == child.pid
    running.cancel()


async def test_the_guest_has_no_file_descriptor_but_its_streams_and_directories() -> None:
    code = (
        "import os, stat\n"
        "for fd in range(64):\n"
        "  try: print(fd, stat.filemode(os.fstat(fd).st_mode)[0])\n"
        "  except OSError: pass\n"
    )

    outcome = await run_python(code, limits=QUICK)

    # Its directory, its program, and the standard library inside the module.
    assert outcome.stdout.splitlines()[3:] == ["3 d", "4 d", "5 d"]


MANY_BYTES = "i = 0\nwhile True:\n  open(f'f{i}', 'wb').write(b'x' * 1_000_000); i += 1"
MANY_FILES = "i = 0\nwhile True:\n  open(f'f{i}', 'w').close(); i += 1"
DEEP_TREE = """
import os
fd = os.open('.', os.O_RDONLY)
while True:
    os.mkdir('d', dir_fd=fd)
    inner = os.open('d', os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = inner
"""


@pytest.mark.parametrize("code", [MANY_BYTES, MANY_FILES, DEEP_TREE], ids=["bytes", "files", "depth"])
async def test_a_program_that_fills_the_disk_is_stopped_and_cleared_away(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    outcome = await run_python(code, limits=Limits(seconds=20.0))

    assert outcome.exit == "output_limit"
    assert left_in(tmp_path) == []


async def test_one_file_cannot_pass_the_bound_on_disk() -> None:
    code = (
        "try: open('big', 'wb').write(b'x' * 3_000_000)\n"
        "except OSError as error: import os; os.remove('big'); print(error.strerror)"
    )

    outcome = await run_python(code, limits=Limits(seconds=20.0, disk_bytes=2_000_000))

    assert outcome.exit in {"ok", "output_limit"}
    assert outcome.files == {}


async def test_files_go_in_and_changed_files_come_back() -> None:
    code = (
        "import os\n"
        "print(sorted(os.listdir()), open('data/in.csv').read(), open('/data/in.csv').read())\n"
        "open('out.txt', 'w').write('new'); open('changed.txt', 'a').write(' more')\n"
        "open('same.txt', 'w').write('same')\n"
    )
    given = {"data/in.csv": b"1,2", "changed.txt": b"some", "same.txt": b"same"}

    outcome = await run_python(code, files=given, limits=QUICK)

    assert outcome.stdout == "['changed.txt', 'data', 'same.txt'] 1,2 1,2\n"
    assert outcome.files == {"out.txt": b"new", "changed.txt": b"some more"}


async def test_a_given_file_can_be_imported_whatever_its_name() -> None:
    outcome = await run_python("import main; print(main.X)", files={"main.py": b"X = 7"}, limits=QUICK)

    assert outcome.stdout == "7\n"
    assert outcome.files == {}


async def test_files_of_a_failed_program_come_back_too() -> None:
    outcome = await run_python("open('partial.txt', 'w').write('x'); 1/0", limits=QUICK)

    assert (outcome.exit, outcome.files) == ("error", {"partial.txt": b"x"})


async def test_links_large_files_and_too_many_files_are_left_behind_with_a_reason() -> None:
    code = (
        "import os\n"
        "os.symlink('a.txt', 'link'); open('a.txt', 'w').write('a'); open('b\\n', 'w').write('b')\n"
        "open('large', 'w').write('x' * 11); open('y.txt', 'w'); open('z.txt', 'w')"
    )

    outcome = await run_python(code, limits=Limits(seconds=20.0, file_kept_bytes=10, files_kept=2))

    assert outcome.files == {"a.txt": b"a", "y.txt": b""}
    assert outcome.not_kept == (
        "'b\\n': the name must not contain control or invisible characters",
        "'large': larger than 10 bytes",
        "'link': not a regular file",
        "'z.txt': more than 2 files",
    )


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\x00b", "", ".", "a//b", "C:/x", "a\\b", "x" * 201])
async def test_an_unsafe_file_name_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        await run_python("print(1)", files={name: b""}, limits=QUICK)


async def test_names_that_cannot_stand_in_one_tree_are_refused() -> None:
    with pytest.raises(ValueError, match="clashes"):
        await run_python("print(1)", files={"a": b"", "a/b": b""}, limits=QUICK)


async def test_programs_run_side_by_side_without_seeing_each_other() -> None:
    code = "import os; open('mine', 'w').write(input()); print(os.listdir(), open('mine').read())"

    outcomes = await asyncio.gather(*(run_python(code, stdin=f"{n}", limits=QUICK) for n in range(8)))

    assert [outcome.stdout for outcome in outcomes] == [f"['mine'] {n}\n" for n in range(8)]
    assert sandbox_children() == []
