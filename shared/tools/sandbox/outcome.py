"""What a sandbox run may use and how it ended. Every end of a guest is a value here, never an exception."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Exit = Literal["ok", "error", "timeout", "out_of_memory", "output_limit"]

KIB = 1024
MIB = 1024 * KIB


class SandboxUnavailable(Exception):  # noqa: N818 reads as what happened
    """The sandbox itself could not run: a package is missing or the compiled interpreter cannot be used."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run. The two `*_kept_bytes` bound what is returned; the others end the run."""

    seconds: float = 10.0  # wall time of the guest, sleep included
    memory_bytes: int = 128 * MIB  # the guest's linear memory
    stdout_kept_bytes: int = 64 * KIB  # the head: what was printed first
    stderr_kept_bytes: int = 16 * KIB  # the tail: the last line of a traceback says the most
    output_bytes: int = 1 * MIB  # stdout and stderr together, kept or not
    disk_bytes: int = 16 * MIB  # all files of the run together
    entries: int = 256  # files and directories of the run
    file_kept_bytes: int = 1 * MIB
    files_kept: int = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. `files` holds what the guest created or changed, by its path relative to its directory.

    `exit_code` is the program's own code, or None when the program was stopped. `trap` is what the machine stopped it
    for, such as "stack_overflow" or, after an abort, "unreachable". `memory_bytes` is the guest's peak, or
    None when it had to be killed. `not_kept` names files that were left behind, each with the reason.
    """

    exit: Exit
    exit_code: int | None
    trap: str | None
    stdout: str
    stderr: str
    seconds: float
    memory_bytes: int | None
    truncated: bool
    files: Mapping[str, bytes]
    not_kept: tuple[str, ...] = ()
