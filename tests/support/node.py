"""Run the scripts of tests/js with node, their packages installed on demand.

The packages are installed once a checkout, beside package.json, and again when that file changes. A machine without
node or npm, or one that cannot reach the registry, skips those tests and says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.support.certificates import environment_for_the_world
from tests.support.stack import Stack

SCRIPTS = Path(__file__).parent.parent / "js"
RUN_SECONDS = 60  # a script that hangs is stopped, so that the test fails and not the session

_INSTALL = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]


def install_packages(folder: Path = SCRIPTS) -> Path:
    """Have the packages that the folder's package.json names ready and return their folder, or skip the test."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    modules = folder / "node_modules"
    wanted = hashlib.sha256((folder / "package.json").read_bytes()).hexdigest()
    installed = modules / ".installed"
    modules.mkdir(exist_ok=True)
    with FileLock(modules / ".lock"):
        if not installed.exists() or installed.read_text() != wanted:
            # Debian's node heeds the variable that the tests set for themselves.
            world = environment_for_the_world()
            done = subprocess.run(_INSTALL, cwd=folder, env=world, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"npm cannot install the packages of {folder}: {done.stderr.strip()[-300:]}")
            installed.write_text(wanted)
    return modules


async def run_script(name: str, stack: Stack, **variables: str) -> Any:
    """Run tests/js/`name` against the stack and return the JSON it prints last.

    `variables` join the environment, beside SUPABASE_URL and the two keys.
    """
    await asyncio.to_thread(install_packages)
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.url,
        "SUPABASE_PUBLISHABLE_KEY": stack.anon_key,
        "SUPABASE_SECRET_KEY": stack.service_key,
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        "node", name, cwd=SCRIPTS, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), RUN_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{name}: {err.decode()}"
    return json.loads(out.decode().strip().splitlines()[-1])
