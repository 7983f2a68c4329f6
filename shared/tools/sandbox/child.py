"""The process that holds the guest. Started by its path as `python -I -S child.py PACKAGES compile|run ...`.

It imports nothing of ours. It sets its own resource limits before any guest code runs, stops the guest when time or
disk is used up, and ends at once when its standard input closes, which is how it learns that its parent is gone.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import wasmtime

STDIN = 0
TICK_SECONDS = 0.05  # how often time and disk are looked at
STOP_SECONDS = 0.25  # what an interrupted guest gets to unwind; one that sleeps in a host call never does
HOST_BYTES = 128 * 1024 * 1024  # data of this process beside the guest's memory
OPEN_FILES = 32  # about 12 are ours; also bounds what unlinked but open files can hold
MAX_DEPTH = 16  # of directories


class Request(TypedDict):
    """One run, as the parent writes it: a line of JSON on standard input. `scratch` holds program, stdin and work."""

    nonce: str
    module: str
    scratch: str
    seconds: float
    memory_bytes: int
    disk_bytes: int
    entries: int


class Report:
    """The one line that tells the parent how the guest ended; the nonce shows that it is ours."""

    def __init__(self, descriptor: int, nonce: str) -> None:
        self._descriptor = descriptor
        self._nonce = nonce
        self._lock = threading.Lock()

    def send_and_exit(self, end: str, *, code: int | None = None, memory_bytes: int | None = None) -> None:
        """Write the report and end the process. The lock is kept: of two threads that get here, one reports."""
        self._lock.acquire()
        line = json.dumps({"nonce": self._nonce, "end": end, "code": code, "memory_bytes": memory_bytes})
        os.write(self._descriptor, line.encode())
        os._exit(0)  # the guest may still be running in the main thread


def main() -> None:
    """Dispatch on the command line."""
    _, packages, action, *arguments = sys.argv
    sys.path.append(packages)
    if action == "compile":
        source, target = arguments
        compile_module(source, target)
    else:
        run(int(arguments[0]))


def make_engine() -> wasmtime.Engine:
    """Build the engine; a compiled module loads only under the configuration it was compiled with (see _ENGINE)."""
    import wasmtime  # noqa: PLC0415 found only after main() has named its directory

    config = wasmtime.Config()
    config.epoch_interruption = True
    return wasmtime.Engine(config)


def compile_module(source: str, target: str) -> None:
    """Compile the WebAssembly file `source` to native code in `target`."""
    import wasmtime  # noqa: PLC0415 as above

    module = wasmtime.Module(make_engine(), Path(source).read_bytes())
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(module.serialize())


def run(report_descriptor: int) -> None:
    """Run the program of the request on standard input to its end and report it."""
    import wasmtime  # noqa: PLC0415 as above

    request: Request = json.loads(_read_line(STDIN))
    report = Report(report_descriptor, request["nonce"])
    engine = make_engine()
    module = wasmtime.Module.deserialize_file(engine, request["module"])
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=request["memory_bytes"], instances=1, memories=1)
    store.set_epoch_deadline(1)
    store.set_wasi(_guest(request["scratch"]))
    limit_resources(request)

    threading.Thread(target=watch, args=(request, report, engine), daemon=True).start()
    instance = linker.instantiate(store, module)
    exports = instance.exports(store)
    start, memory = exports["_start"], exports["memory"]
    if not isinstance(start, wasmtime.Func) or not isinstance(memory, wasmtime.Memory):
        raise TypeError("the module is not a WASI program")
    end, code = "exited", 0
    try:
        start(store)
    except wasmtime.ExitTrap as exit_trap:
        code = exit_trap.code
    except wasmtime.Trap as trap:
        end, code = (trap.trap_code.name.lower() if trap.trap_code else "trap"), None
    except wasmtime.WasmtimeError:
        # WASI refuses exit codes from 126 up, after the program has chosen to exit.
        code = 1
    report.send_and_exit(end, code=code, memory_bytes=memory.data_len(store))


def _guest(scratch: str) -> wasmtime.WasiConfig:
    """Describe the guest's world: its program, its input, its directory, nothing else."""
    import wasmtime  # noqa: PLC0415 as above

    wasi = wasmtime.WasiConfig()
    # -P: a file of the guest may be called main.py and be imported. -u: what was printed survives a stop.
    wasi.argv = ["python", "-B", "-P", "-u", "-X", "utf8", "/program/main.py"]
    wasi.env = [("PYTHONPATH", "/")]
    wasi.stdin_file = f"{scratch}/stdin"
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    wasi.preopen_dir(f"{scratch}/work", "/")
    wasi.preopen_dir(f"{scratch}/program", "/program")
    return wasi


def limit_resources(request: Request) -> None:
    """Bound this whole process, for whatever a guest might find in the runtime under it.

    There is no limit on address space: the runtime reserves 4 GB and more for each memory without using it.
    """
    seconds = int(request["seconds"]) + 2
    for which, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, request["memory_bytes"] + HOST_BYTES),
        (resource.RLIMIT_FSIZE, request["disk_bytes"]),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (bound, bound))


def watch(request: Request, report: Report, engine: wasmtime.Engine) -> None:
    """End the guest when its time or disk is used up, or when the parent has gone; runs beside it in a thread."""
    deadline = time.monotonic() + request["seconds"]
    while True:
        gone, _, _ = select.select([STDIN], [], [], TICK_SECONDS)
        if gone:
            try:
                shutil.rmtree(request["scratch"], ignore_errors=True)
            finally:
                os._exit(1)  # whatever a tree of the guest's making does to rmtree
        if time.monotonic() >= deadline:
            end = "interrupt"
            break
        if uses_too_much_disk(request["scratch"], disk_bytes=request["disk_bytes"], entries=request["entries"]):
            end = "disk"
            break
    if end == "interrupt":
        engine.increment_epoch()
        time.sleep(STOP_SECONDS)
    report.send_and_exit(end)


def uses_too_much_disk(root: str, *, disk_bytes: int, entries: int) -> bool:
    """Tell whether files under `root` exceed the limits; looks at no more than `entries` of them."""
    waiting = [(root, 0)]
    used = seen = 0
    while waiting:
        directory, depth = waiting.pop()
        try:
            with os.scandir(directory) as found:
                for entry in found:
                    seen += 1
                    used += entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
                    if seen > entries or used > disk_bytes or depth > MAX_DEPTH:
                        return True
        except FileNotFoundError:
            continue  # the guest removed it meanwhile
    return False


def _read_line(descriptor: int) -> bytes:
    """Read up to the newline and not beyond: the rest of the pipe is the sign of life."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(descriptor, 65536)
        if not chunk:
            os._exit(1)  # the parent went away before it asked for anything
        line += chunk
    return line


if __name__ == "__main__":
    main()
