"""What is taken of an answer has a bound, whatever the server says."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.engines.flowise.answer import PART_BYTES, TOO_DEEP, Answer, from_body
from shared.engines.flowise.wire import Event
from shared.runs.text import storable

LONG = "x" * 3_000_000


def deep(levels: int) -> Any:
    return orjson.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("metadata", dict.fromkeys(("chatId", "sessionId", "chatMessageId", "executionId"), LONG)),
        ("nextAgentFlow", {"nodeId": LONG, "nodeLabel": LONG, "status": LONG}),
        ("nextAgentFlow", {"nodeId": "llm_0", "nodeLabel": LONG, "status": LONG}),
        ("action", {"data": {"nodeId": LONG}}),
        ("action", {"data": {"nodeId": "human_0", "nodeLabel": LONG}, "mapping": {"approve": LONG, "reject": LONG}}),
        ("sourceDocuments", [{"pageContent": LONG}]),
        ("usedTools", [deep(500)]),
    ],
)
def test_no_part_of_an_answer_grows_beyond_its_bound(name: str, data: Any) -> None:
    answer = Answer()

    answer.add(Event(name, data))

    assert len(orjson.dumps(answer.to_output())) < PART_BYTES


@pytest.mark.parametrize("levels", [33, 64, 65, 254, 255, 500, 1000])
def test_an_answer_that_is_nested_too_deep_is_kept_down_to_what_can_be_stored(levels: int) -> None:
    body = {"text": "Hello", "json": {"a": 1, "deep": deep(levels)}, "sourceDocuments": [{"page": deep(levels)}, "two"]}
    output = from_body(body).to_output()

    assert output["text"] == "Hello"
    assert output["json"]["a"] == 1
    assert TOO_DEEP in orjson.dumps(output["json"]).decode()
    assert TOO_DEEP in orjson.dumps(output["sourceDocuments"]).decode()
    assert output["sourceDocuments"][1] == "two"
    assert output["cut"] == ["json", "sourceDocuments"]
    assert storable(output) == output


def test_an_answer_that_is_nested_as_usual_is_left_as_it_is() -> None:
    output = from_body({"json": deep(32), "usedTools": [deep(31)]}).to_output()

    assert (output["json"], output["usedTools"]) == (deep(32), [deep(31)])
    assert "cut" not in output


def test_ids_that_are_no_ids_are_not_cut_to_others() -> None:
    answer = Answer(chat_id="ours")

    answer.add(Event("metadata", {"chatId": LONG, "sessionId": "s" * 200}))

    assert (answer.chat_id, answer.session_id) == ("ours", "s" * 200)
