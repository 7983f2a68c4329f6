"""No program outlives its call, its cancellation or the process that started it, and none leaves files behind."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from shared.tools.sandbox import Limits, run_python
from shared.tools.sandbox.scratch import remove_tree
from tests.tools.support import is_alive, left_in, sandbox_children, until

LONG = Limits(seconds=600.0)
PARENT = """
import asyncio
from shared.tools.sandbox import Limits, run_python
asyncio.run(run_python({code!r}, limits=Limits(seconds=600.0)))
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs make their directories, of this process and of those it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def has_begun(scratch: Path) -> bool:
    return any(scratch.glob("*/work/begun"))


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(3600)"], ids=["loop", "sleep"])
async def test_cancelling_kills_the_program_at_once(code: str, scratch: Path) -> None:
    running = asyncio.create_task(run_python(f"open('begun', 'w')\n{code}", limits=LONG))
    await until(lambda: has_begun(scratch))
    children = sandbox_children()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(children) == 1
    assert not is_alive(children[0])
    assert left_in(scratch) == []


async def test_cancelling_while_the_child_starts_leaves_nothing(scratch: Path) -> None:
    running = asyncio.create_task(run_python("while True: pass", limits=LONG))
    await until(lambda: any(scratch.iterdir()))

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await until(lambda: sandbox_children() == [])
    assert left_in(scratch) == []


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(3600)"], ids=["loop", "sleep"])
async def test_a_killed_parent_leaves_neither_process_nor_files(code: str, scratch: Path) -> None:
    code = f"open('begun', 'w')\n{code}"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT.format(code=code))
    await until(lambda: has_begun(scratch))
    children = sandbox_children(parent.pid)

    psutil.Process(parent.pid).kill()
    await parent.wait()

    assert len(children) == 1
    await until(lambda: not is_alive(children[0]))
    assert left_in(scratch) == []


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (outside := tmp_path / "outside").write_text("stays")
    (root / "link").symlink_to(outside)
    top = root
    for _ in range(30):  # each round wraps what there is in directories, for no path may be that long
        nested = tmp_path / "nested" / Path(*["d"] * 100)
        nested.mkdir(parents=True)
        top.rename(nested / "inner")
        (tmp_path / "nested").rename(root)

    remove_tree(root)

    assert list(tmp_path.iterdir()) == [outside]
