"""How many sockets a stack may have open: what the system allows, whatever the shell that started it said."""

from __future__ import annotations

import subprocess
import sys

import pytest

STACK = """
import logging, resource, sys
from local.server import allow_open_files
logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("hard", "said"),
    [
        (8192, ["8192 8192"]),
        (1000, ["Only 1000 files and sockets may be open at once; raise the limit (ulimit -n) for more.", "1000 1000"]),
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one_and_a_low_one_is_told(hard: int, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STACK.format(hard=hard)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == said
