"""A log line is one event with its fields, for people and for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from shared.logs import Log, configure


@pytest.fixture
def root_handlers() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


def test_text_quotes_what_would_not_read_back_as_one_value(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        Log("test").info("run.claimed", run_id="a-1", attempt=2, note='two words\nand "more"')

    assert caplog.messages == ['run.claimed run_id=a-1 attempt=2 note="two words\\nand \\"more\\""']


@pytest.mark.usefixtures("root_handlers")
def test_json_lines_carry_fields_and_traceback(capsys: pytest.CaptureFixture[str]):
    configure(form="json")

    with pytest.raises(RuntimeError) as caught:
        fail()
    Log("test").error("run.failed", exc=caught.value, run_id="a-1")

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["run_id"], line["level"]) == ("run.failed", "a-1", "error")
    assert line["traceback"].endswith("RuntimeError: boom")


def fail() -> None:
    raise RuntimeError("boom")
