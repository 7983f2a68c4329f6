"""Make .venv hold what pyproject.toml asks for. Run by scripts/_setup with the extras that are needed.

Does nothing when nothing has changed since it last succeeded; two at once take turns; one that was interrupted is done
again. Uses the standard library only, for it runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "runbase.json"


def main() -> int:
    extras = set(sys.argv[1].split(","))
    with _one_at_a_time():
        installed = _installed()
        if extras <= installed:
            return 0
        extras |= installed
        started = time.monotonic()
        print(f"Setting up .venv for {' and '.join(sorted(extras))} ...", file=sys.stderr, flush=True)
        try:
            _make_environment()
            _install(",".join(sorted(extras)))
        except SetupError as failure:
            print(f"The set-up failed: {failure}", file=sys.stderr)
            return 1
        STAMP.write_text(json.dumps({"of": _fingerprint(), "extras": sorted(extras)}))
        print(f"Set up in {time.monotonic() - started:.0f} s.", file=sys.stderr)
    return 0


class SetupError(Exception):
    """The message is for the person at the terminal."""


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    # Beside the environment, not in it: the environment may be made anew. The system frees it with the process.
    folder = ROOT / ".runbase"
    folder.mkdir(exist_ok=True)
    with (folder / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another set-up of .venv to end ...", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint() -> str:
    """What an environment is made of; any change makes it stale. Its path is in its scripts."""
    parts = (str(VENV), str(Path(sys.base_prefix).resolve()), sys.version, (ROOT / "pyproject.toml").read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _installed() -> set[str]:
    try:
        stamp = json.loads(STAMP.read_text())
        return set(stamp["extras"]) if stamp["of"] == _fingerprint() else set()
    except (OSError, ValueError, KeyError):
        return set()


def _make_environment() -> None:
    STAMP.unlink(missing_ok=True)
    if PYTHON.exists() and _run(
        PYTHON, "-c", f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    ):
        return
    try:
        venv.create(VENV, with_pip=True, clear=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(
            "this Python cannot make virtual environments; on Debian and Ubuntu, install python3-venv."
        ) from error


def _install(extras: str) -> None:
    target = ["--editable", f"{ROOT}[{extras}]"]
    # uv does in seconds what takes pip half a minute. It does not know pip's settings, so pip has the last word.
    if _run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"):
        environment = {"UV_NO_PROGRESS": "1", **_index(), **os.environ}
        if _run(VENV / "bin" / "uv", "pip", "install", "--quiet", "--python", PYTHON, *target, env=environment):
            return
    print("Installing with pip instead ...", file=sys.stderr, flush=True)
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *target]
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupError("pip could not install the packages, for the reason above.")


def _index() -> dict[str, str]:
    """Where pip looks for packages, if that was set, for uv to look there too."""
    shown = subprocess.run(
        [PYTHON, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    index = os.environ.get("PIP_INDEX_URL") or shown.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index else {}


def _run(*command: str | Path, env: dict[str, str] | None = None) -> bool:
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
