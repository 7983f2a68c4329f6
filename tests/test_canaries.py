"""The search for leaked keys finds a key in every form, or it would prove nothing."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import orjson
import psycopg
import pytest

from tests.support.canaries import canary, keeping_leaks, leaks_below, leaks_in

FORMS = {
    "as it is": lambda key: key,
    "in JSON": lambda key: orjson.dumps({"error": f"wrong key {key}"}).decode(),
    "in a URL": lambda key: f"https://example.com/?key={quote(key)}",
    "backwards": lambda key: key[::-1],
    "in hex": lambda key: key.encode().hex(),
    "in base64": lambda key: base64.b64encode(key.encode()).decode(),
    "in base64 behind one byte": lambda key: base64.b64encode(b"a" + key.encode()).decode(),
    "in basic authorization": lambda key: base64.b64encode(f"me:{key}".encode()).decode(),
    "in base64 for URLs": lambda key: base64.urlsafe_b64encode(b"ab" + key.encode() + b"c").decode(),
    "cut off": lambda key: key[:24],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_leaked_key_is_found(form: str) -> None:
    assert leaks_in("before " + FORMS[form](canary()) + " after")


def test_a_leaked_key_is_found_in_any_file_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "clean").write_text("nothing here")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "leak").write_bytes(b"\0" * 20_000_000 + canary("AIza").encode())

    (leak,) = leaks_below(tmp_path)

    assert "deep/leak" in leak


def test_what_holds_no_key_is_clean() -> None:
    assert leaks_in("sk-proj-0123456789 " + base64.b64encode(b"canary bird").decode()) == []


def test_the_sessions_server_keeps_segments_of_changes_that_hold_a_key(database_url: str) -> None:
    """What the command does is tried on files: a leak into the session's own log would fail the session."""
    with psycopg.connect(database_url) as connection:
        (command,) = connection.execute("show archive_command").fetchone() or ()
    assert command == keeping_leaks()
    data = Path(os.environ["RUNBASE_TEST_SERVER"])
    assert list(data.glob("data/postgres/leaked_*")) == []


@pytest.mark.parametrize(("held", "kept"), [(b"\0clean\0", []), (b"\0" * 100 + canary().encode(), ["leaked_0001"])])
def test_the_archive_command_keeps_what_holds_a_key(tmp_path: Path, held: bytes, kept: list[str]) -> None:
    (tmp_path / "0001").write_bytes(held)

    command = keeping_leaks().replace("%p", "0001").replace("%f", "0001")
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)

    assert [path.name for path in tmp_path.glob("leaked_*")] == kept
