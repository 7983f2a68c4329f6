"""The compiled interpreter: made once, kept privately, never loaded when damaged."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from shared.tools.sandbox import SandboxUnavailable, run_python, runtime, warm
from shared.tools.sandbox.cache import cache_directory
from tests.tools.support import QUICK


@pytest.fixture(scope="session")
def compiled() -> dict[str, bytes]:
    """What compiling leaves in a cache, by file name; done once, for it takes seconds."""
    module = warm()
    return {path.name: path.read_bytes() for path in (module, module.with_suffix(".sha256"))}


@pytest.fixture
def module(compiled: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The compiled file in a warm cache of this test's own."""
    monkeypatch.setenv("RUNBASE_CACHE_DIR", str(tmp_path))
    directory = tmp_path / "sandbox"
    directory.mkdir(mode=0o700)
    for name, content in compiled.items():
        (directory / name).write_bytes(content)
    return next(directory.glob("*.cwasm"))


@pytest.fixture
def compiles(compiled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The modules compiled in this process, each as a copy of an earlier result."""
    made: list[Path] = []

    def copy(source: Path, module: Path, packages: Path) -> None:
        made.append(module)
        for name, content in compiled.items():
            (module.parent / name).write_bytes(content)

    monkeypatch.setattr(runtime, "_compile", copy)
    return made


def exit_of_a_program() -> str:
    return asyncio.run(run_python("print(1)", limits=QUICK)).exit


def test_compiling_makes_private_files_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RUNBASE_CACHE_DIR", str(tmp_path / "new"))

    with caplog.at_level(logging.INFO, logger="shared.tools.sandbox"):
        module = warm()

    assert module.parent == tmp_path / "new" / "sandbox"
    assert module.parent.stat().st_mode & 0o777 == 0o700
    assert module.stat().st_mode & 0o777 == 0o600
    assert {path.suffix for path in module.parent.iterdir()} == {".cwasm", ".sha256", ".lock"}
    assert [record.message.split()[0] for record in caplog.records] == ["sandbox.compiling", "sandbox.compiled"]


def test_a_warm_cache_is_used_as_it_is(module: Path, compiles: list[Path]) -> None:
    assert exit_of_a_program() == "ok"
    assert compiles == []


def test_a_damaged_module_is_compiled_again_and_never_loaded(module: Path, compiles: list[Path]) -> None:
    with module.open("r+b") as file:
        file.write(b"damaged")

    assert exit_of_a_program() == "ok"
    assert compiles == [module]


def test_a_module_that_changes_after_it_was_verified_is_verified_again(module: Path, compiles: list[Path]) -> None:
    warm()
    module.write_bytes(b"another")

    assert exit_of_a_program() == "ok"
    assert compiles == [module]


def test_a_cache_that_is_removed_meanwhile_is_made_again(module: Path, compiles: list[Path]) -> None:
    warm()
    module.unlink()

    assert exit_of_a_program() == "ok"
    assert len(compiles) == 1


def test_threads_that_need_it_first_compile_it_once(
    tmp_path: Path, compiles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBASE_CACHE_DIR", str(tmp_path))
    threads = [threading.Thread(target=warm) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(compiles) == 1


def test_processes_that_need_it_first_compile_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBASE_CACHE_DIR", str(tmp_path))
    program = (
        "import logging; logging.basicConfig(level=logging.INFO); from shared.tools.sandbox import warm; print(warm())"
    )

    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]

    assert outputs[0][0] == outputs[1][0] != ""
    assert sum(log.count("sandbox.compiled") for _, log in outputs) == 1


def test_a_cache_that_others_can_write_is_refused(module: Path) -> None:
    module.parent.chmod(0o777)

    with pytest.raises(SandboxUnavailable, match="others can write"):
        warm()


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNBASE_CACHE_DIR", str(tmp_path / "file"))

    with pytest.raises(SandboxUnavailable, match="RUNBASE_CACHE_DIR"):
        warm()


def test_a_child_that_cannot_load_the_module_is_our_failure(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_bytes(b"no module")
    monkeypatch.setattr(runtime, "_is_intact", lambda path: True)

    with pytest.raises(SandboxUnavailable, match="before it ran the program"):
        exit_of_a_program()


def test_a_user_without_a_home_gets_a_private_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("no directory")
    monkeypatch.delenv("RUNBASE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    directory = cache_directory()

    assert directory == tmp_path / f"runbase-cache-{os.geteuid()}"
    assert directory.stat().st_mode & 0o777 == 0o700
