"""What a process writes to its log, and a function answers, holds no key."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from shared import logs
from shared.errors import InvalidInput
from shared.redaction import MARK, Redactor
from shared.vault.secret import Secret

KEY = "a-key-that-has-no-shape-at-all"


@pytest.fixture
def restored() -> Iterator[None]:
    """The root logger as it was, whatever a test configures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_and_a_field_show_neither_an_open_value_nor_a_known_shape(
    form: logs.Format, restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    redactor = Redactor(Secret(KEY))
    logs.configure(form=form)

    error = ValueError(f"Refused: {KEY}")
    logs.Log("test").error("call.failed", exc=error, key="sk-0123456789abcdef0123456789abcdef", tries=3)
    del redactor

    written = capsys.readouterr().err
    assert f"ValueError: Refused: {MARK}" in written
    assert KEY not in written
    assert "0123456789abcdef" not in written


def test_a_handler_that_is_not_ours_writes_no_key_either(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    redactor = Redactor(Secret(KEY))
    logging.getLogger().handlers[:] = [logging.StreamHandler()]

    logs.Log("test").error("call.failed", exc=ValueError(f"Refused: {KEY}"), said=KEY)
    del redactor

    assert capsys.readouterr().err == f"call.failed said={MARK}\nValueError: Refused: {MARK}\n"


def test_a_line_of_json_stays_one(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    secret = 'with "quotes" and \\ in it'
    redactor = Redactor(Secret(secret))
    logs.configure(form="json")

    logs.Log("test").info("call.done", said=f"It was {secret}.")
    del redactor

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["said"]) == ("call.done", f"It was {MARK}.")


def test_arguments_of_foreign_loggers_are_redacted_too(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    redactor = Redactor(Secret(KEY))
    logs.configure()

    logging.getLogger("httpx").info("HTTP Request: GET https://example.com/%s", KEY)
    del redactor

    assert capsys.readouterr().err.endswith(f"HTTP Request: GET https://example.com/{MARK}\n")


async def test_an_error_body_repeats_no_key() -> None:
    from functions.credentials.app import app

    error = InvalidInput(
        "Incorrect API key provided: sk-0123456789abcdef0123456789abcdef",
        details='{"api_key": "abc12345"}',
        hint="See Bearer abcdef-12ab56-ghijkl",
    )

    body = json.loads(bytes(app._refusal(error).body))

    assert body["message"] == f"Incorrect API key provided: {MARK}"
    assert body["details"] == f'{{"api_key": "{MARK}"}}'
    assert body["hint"] == f"See Bearer {MARK}"
    assert body["code"] == "invalid_input"
