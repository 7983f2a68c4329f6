"""The search for leaked keys finds a key in every form, or it would prove nothing."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest

from tests.support.canaries import canary, leaks_below, leaks_in

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
