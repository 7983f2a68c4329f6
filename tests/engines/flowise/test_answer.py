"""What is taken of an answer has a bound, whatever the server says."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.engines.flowise.answer import PART_BYTES, Answer, from_body
from shared.engines.flowise.wire import Event

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


def test_a_structured_answer_that_is_nested_without_end_is_left_out_and_told() -> None:
    output = from_body({"text": "Hello", "json": deep(500)}).to_output()

    assert output == {"text": "Hello", "cut": ["json"]}


def test_ids_that_are_no_ids_are_not_cut_to_others() -> None:
    answer = Answer(chat_id="ours")

    answer.add(Event("metadata", {"chatId": LONG, "sessionId": "s" * 200}))

    assert (answer.chat_id, answer.session_id) == ("ours", "s" * 200)
