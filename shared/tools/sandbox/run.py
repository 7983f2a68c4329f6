"""Run one program in the sandbox: start the child, read within bounds, kill its group whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from shared.logs import logger
from shared.tools.sandbox.capture import Capture
from shared.tools.sandbox.outcome import Exit, Limits, Outcome, SandboxUnavailable
from shared.tools.sandbox.runtime import Runtime, child_command, child_environment, ready, ready_now
from shared.tools.sandbox.scratch import Kept, collect, scratch_directory

_log = logger(__name__)
_GRACE_SECONDS = 5.0  # for starting the child on a busy machine; its own watch ends the guest on time
_REPORT_BYTES = 4096
_NEARLY_ALL = 0.9  # of the guest's memory: a guest that traps there was refused more


class _Report(BaseModel):
    """What child.py says about the end of its guest."""

    nonce: str
    end: str  # "exited", "disk", "interrupt" or another trap's name
    code: int | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A child that is gone. `report` is None when it was killed before it could write one."""

    report: _Report | None
    returncode: int
    timed_out: bool
    flooded: bool
    truncated: bool
    stdout: str
    stderr: str
    seconds: float


async def run_python(
    code: str,
    *,
    stdin: str = "",
    files: Mapping[str, bytes] | None = None,
    limits: Limits | None = None,
) -> Outcome:
    """Run `code` as a Python program whose directory holds `files`, and return how it ended.

    Cancelling kills the program at once. The first use on a machine compiles the interpreter, which takes seconds and
    does not count against `limits.seconds`. Files of a program that was stopped are dropped: they may be half-written.

    Raises:
        ValueError: a name in `files` is no safe relative path.
        SandboxUnavailable: the sandbox itself could not run.
    """
    limits = limits or Limits()
    given = files or {}
    runtime = ready_now() or await asyncio.to_thread(ready)
    # The directory is small and local: a thread for its reads and writes would cost more than they do.
    with scratch_directory(code, stdin=stdin, files=given) as scratch:
        ended = await _run_child(runtime, scratch, limits)
        verdict = _verdict(ended, limits)
        kept = collect(scratch, given=given, limits=limits) if verdict in {"ok", "error"} else Kept({}, ())
    return Outcome(
        exit=verdict,
        exit_code=ended.report.code if ended.report else None,
        stdout=ended.stdout,
        stderr=ended.stderr,
        seconds=ended.seconds,
        trap=_trap(ended.report),
        memory_bytes=ended.report.memory_bytes if ended.report else None,
        truncated=ended.truncated,
        files=kept.files,
        not_kept=kept.not_kept,
    )


async def _run_child(runtime: Runtime, scratch: Path, limits: Limits) -> _Ended:
    nonce = secrets.token_hex(16)
    request = {
        "nonce": nonce,
        "module": str(runtime.module),
        "scratch": str(scratch),
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "disk_bytes": limits.disk_bytes,
        "entries": limits.entries,
    }
    started = time.monotonic()
    report_descriptor, inherited = os.pipe()
    try:
        try:
            process = await _start(runtime, scratch, inherited)
        finally:
            os.close(inherited)
        kill = partial(_kill_group, process)
        capture = Capture(limits, stop=kill)
        deadline = asyncio.timeout(limits.seconds + _GRACE_SECONDS)
        try:
            _ask(process, request)
            with suppress(TimeoutError):
                async with deadline:
                    await capture.read(process)
                    await process.wait()
        finally:
            kill()
            await _reap(process)
        report = _read_report(report_descriptor, nonce)
    finally:
        os.close(report_descriptor)
    return _Ended(
        report=report,
        returncode=await process.wait(),
        timed_out=deadline.expired(),
        flooded=capture.exceeded,
        truncated=capture.truncated,
        stdout=capture.stdout.decode(errors="replace"),
        stderr=capture.stderr.decode(errors="replace"),
        seconds=time.monotonic() - started,
    )


async def _start(runtime: Runtime, scratch: Path, report_descriptor: int) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *child_command(runtime.packages, "run", str(report_descriptor)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=child_environment(),
            cwd=scratch,
            start_new_session=True,
            pass_fds=(report_descriptor,),
        )
    except OSError as error:
        raise SandboxUnavailable("the sandbox's process could not be started") from error


def _ask(process: Process, request: Mapping[str, object]) -> None:
    """Send the request and leave the pipe open: the child lives only while this process holds it."""
    if process.stdin is None:
        raise ValueError("the process was started without pipes")
    process.stdin.write(json.dumps(request).encode() + b"\n")


def _kill_group(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _reap(process: Process) -> None:
    """Wait for a killed child. Its pipes are read empty first: a full one would keep the wait from ending."""
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            await stream.read()
    await process.wait()


def _read_report(descriptor: int, nonce: str) -> _Report | None:
    """Read the report of a child that is gone; it fits in the pipe, so nothing is waited for."""
    os.set_blocking(descriptor, False)
    try:
        report = _Report.model_validate_json(os.read(descriptor, _REPORT_BYTES))
    except (BlockingIOError, ValidationError):
        return None
    return report if secrets.compare_digest(report.nonce, nonce) else None


def _verdict(ended: _Ended, limits: Limits) -> Exit:
    report = ended.report
    if ended.flooded or (report and report.end == "disk"):
        return "output_limit"
    if ended.timed_out or (report and report.end == "interrupt") or ended.returncode == -signal.SIGXCPU:
        return "timeout"
    if report is None:
        return _verdict_unreported(ended)
    if report.end == "exited" and report.code == 0:
        return "ok"
    used = report.memory_bytes or 0
    refused_memory = report.end != "exited" and used >= limits.memory_bytes * _NEARLY_ALL
    # Only the bare name: with a text after it, it is the parser's or a library's own limit.
    raised_memory_error = ended.stderr.rstrip().rpartition("\n")[2] == "MemoryError"
    return "out_of_memory" if refused_memory or raised_memory_error else "error"


def _trap(report: _Report | None) -> str | None:
    return report.end if report is not None and report.end not in {"exited", "disk", "interrupt"} else None


def _verdict_unreported(ended: _Ended) -> Exit:
    """Judge a child that we did not kill and that said nothing: a signal is the guest's doing, an exit is ours."""
    if ended.returncode >= 0:
        _log.error("sandbox.child_failed returncode=%d stderr=%s", ended.returncode, ended.stderr)
        raise SandboxUnavailable("the sandbox's process failed before it ran the program")
    # From outside, SIGKILL comes from a kernel or a container that ran out of memory.
    return "out_of_memory" if ended.returncode == -signal.SIGKILL else "error"
